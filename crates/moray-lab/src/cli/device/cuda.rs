//! `--device cuda`: the model copied to the first CUDA device.

use std::time::Instant;

use moray::Device;
use moray::llama::cuda::{Decoder, State, upload};
use moray::llama::{Model, Sampler, Session};

use crate::cli::Run;
use crate::cli::generate::{Arguments, Measured, Next, Report, by_calls, generate_on};
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
    arguments: &Arguments,
    stream: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Report> {
    let device = Device::new(0)?;
    let model = upload(&device, &run.model)?;
    let measured = Measured { kv_bytes: State::kv_bytes, bandwidth: &|| copy_bandwidth(&device) };
    generate_on(&device, &model, run, arguments, stream, measured, &decode)
}

/// Decodes by replays of one graph, drawing on the device; under policies that choose anew while they decode, by single calls.
fn decode<'s>(
    device: &'s Device,
    model: &'s Model<Device>,
    session: &'s mut Session<Device>,
    sampler: Sampler,
    first: u32,
) -> Result<Next<'s>> {
    if !session.state().is_settled(0) {
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
