//! `--device cuda`: the model copied to the first CUDA device.

use std::time::Instant;

use moray::Device;
use moray::llama::cuda::{Decoder, upload};
use moray::llama::{Model, Sampler, Session};

use crate::cli::eval::{self, score_on};
use crate::cli::generate::{self, Next, by_calls, generate_on};
use crate::cli::turns::Turn;
use crate::cli::ways::{Loaded, Measured, Plan, measure_on};
use crate::cli::{Run, Switches};
use crate::error::Result;

/// Says whether there is a device.
///
/// # Errors
/// [`crate::error::Error::Kernel`] if not, with the reason.
pub(in crate::cli) fn check() -> Result<()> {
    Device::new(0)?;
    Ok(())
}

/// Generates on the first CUDA device.
///
/// # Errors
/// [`crate::error::Error::Kernel`] if there is no device or it cannot hold the model, and what generating can fail with.
pub(in crate::cli) fn generate(
    run: &Run,
    arguments: &generate::Arguments,
    stream: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<generate::Report> {
    let device = Device::new(0)?;
    let model = upload(&device, &run.model)?;
    generate_on(&device, &model, run, arguments, stream, &|| copy_bandwidth(&device), &decode)
}

/// Scores tokens on the first CUDA device.
///
/// # Errors
/// [`crate::error::Error::Kernel`] if there is no device or it cannot hold the models, and what scoring can fail with.
pub(in crate::cli) fn score(
    arguments: &eval::Arguments,
    tokens: &[u32],
    run: &Run,
    dense: Option<(&Switches, &Run)>,
) -> Result<eval::Report> {
    let device = Device::new(0)?;
    let model = upload(&device, &run.model)?;
    let dense = match dense {
        Some((switches, dense)) => Some((switches, dense, upload(&device, &dense.model)?)),
        None => None,
    };
    let dense = dense.as_ref().map(|(switches, dense, model)| (*switches, *dense, model));
    score_on(&device, &model, dense, arguments, tokens, run)
}

/// Measures ways on the first CUDA device.
///
/// # Errors
/// [`crate::error::Error::Kernel`] if there is no device or it cannot hold the models, and what running can fail with.
pub(in crate::cli) fn measure(
    loaded: &Loaded,
    plan: &Plan,
    others: Vec<Turn<'_>>,
    tick: &mut dyn FnMut(),
) -> Result<Measured> {
    let device = Device::new(0)?;
    let models = loaded.runs().map(|run| Ok(upload(&device, &run.model)?)).collect::<Result<Vec<_>>>()?;
    let (devices, models) = (vec![&device; loaded.ways.len()], models.iter().collect::<Vec<_>>());
    let bandwidth = copy_bandwidth(&device)?;
    let rounds = measure_on(&devices, &models, loaded, plan, others, tick, &decode)?;
    Ok(Measured { rounds, device: Some(device.name().to_owned()), bandwidth: bandwidth.max(copy_bandwidth(&device)?) })
}

/// Decodes by replays of one graph, drawing on the device; under policies that choose anew while they decode, by single calls.
fn decode<'s>(
    device: &'s Device,
    model: &'s Model<Device>,
    session: &'s mut Session<Device>,
    sampler: Sampler,
    first: u32,
) -> Result<Next<'s>> {
    if !session.is_settled(0) {
        return by_calls(device, model, session, sampler, first);
    }
    let mut decoder = Decoder::capture_sampling(device, model, session, &[0], &[first], &[sampler])?;
    Ok(Box::new(move |_| Ok(decoder.step()?[0])))
}

/// Bytes of a measured copy: several times the largest second-level caches.
const COPY_BYTES: usize = 1 << 28;

/// Copies that are timed, of which the fastest counts.
const COPIES: usize = 5;

/// Bytes a second that device memory reads and writes in a copy, both counted.
fn copy_bandwidth(device: &Device) -> Result<f64> {
    let source = device.zeros::<u8>(COPY_BYTES)?;
    let mut target = device.zeros::<u8>(COPY_BYTES)?;
    let mut best = f64::INFINITY;
    for _ in 0..COPIES {
        device.synchronize()?;
        let start = Instant::now();
        device.copy(&source, &mut target)?;
        device.synchronize()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * COPY_BYTES as f64 / best)
}
