//! The re-evaluation's claims, with the figures recalled from it, and what can be said about each here.
//!
//! The recalled figures are unverified. They appear in the claim table, marked so, and nowhere else.

use crate::activation::{Attention, Recompute, Training};
use crate::equations::{Efficiency, Replica};
use crate::error::Error;
use crate::memory::stage_peaks;
use crate::presets::{Model, preset};
use crate::profile::{Point, Profile};
use serde::Serialize;

/// A claim as recalled from the paper.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Claim {
    /// The model's preset.
    pub model: &'static str,
    /// The attention kernel it is about.
    pub attention: Attention,
    /// What the paper is recalled to say.
    pub recalled: &'static str,
    /// Stage MFU recalled at the smaller and at the larger micro-batch.
    pub recalled_stage_mfu: Option<[f64; 2]>,
    /// Iteration MFU recalled at the smaller and at the larger micro-batch.
    pub recalled_mfu: Option<[f64; 2]>,
}

/// The claims: B = 128, p = 8, t = 4 on 32 devices of 80 GB.
pub const CLAIMS: [Claim; 3] = [
    Claim {
        model: "gpt3-96b",
        attention: Attention::Naive,
        recalled: "gains 1.35x",
        recalled_stage_mfu: Some([0.378, 0.552]),
        recalled_mfu: Some([0.340, 0.458]),
    },
    Claim {
        model: "gpt3-96b",
        attention: Attention::Flash,
        recalled: "gain negligible",
        recalled_stage_mfu: None,
        recalled_mfu: None,
    },
    Claim {
        model: "llama-65b",
        attention: Attention::Naive,
        recalled: "gains nothing",
        recalled_stage_mfu: None,
        recalled_mfu: None,
    },
];

/// The setting in which the claims are judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Setting {
    /// B and p.
    #[serde(flatten)]
    pub replica: Replica,
    /// Devices a layer is split over, t; sequence parallelism is on and the attention core recomputed.
    pub tensor_parallel: u64,
    /// What a device can hold, in bytes.
    pub capacity_bytes: u64,
    /// Weights, gradients and optimizer state per parameter in bytes.
    pub bytes_per_parameter: f64,
}

/// What can be said about a claim.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The claim.
    #[serde(flatten)]
    pub claim: Claim,
    /// The largest micro-batch that fits without BPipe by the memory model.
    pub largest_plain: Option<u32>,
    /// The largest that fits with it.
    pub largest_bpipe: Option<u32>,
    /// Gain in stage MFU at which that step breaks even.
    pub break_even_gain: Option<f64>,
    /// Equation 4 over the recalled stage MFUs; only as true as they are.
    pub from_recalled: Option<f64>,
    /// The recalled iteration MFUs' ratio.
    pub recalled_speed_up: Option<f64>,
    /// Gain in stage MFU in the profile given for this claim.
    pub measured_gain: Option<f64>,
    /// Equation 4 over the profile.
    pub measured_speed_up: Option<f64>,
}

/// Judges every claim in one setting, with whatever profiles there are.
///
/// # Errors
/// Those of the presets and the equations.
pub fn judge(setting: &Setting, profiles: &[Profile]) -> Result<Vec<Verdict>, Error> {
    CLAIMS.iter().map(|claim| judge_one(setting, claim, profiles)).collect()
}

fn judge_one(setting: &Setting, claim: &Claim, profiles: &[Profile]) -> Result<Verdict, Error> {
    let replica = setting.replica;
    let (largest_plain, largest_bpipe) = largest_fits(setting, preset(claim.model)?, claim.attention)?;
    let step = largest_plain.zip(largest_bpipe).filter(|(plain, bpipe)| bpipe > plain);
    let speed_up = |values: [f64; 2], (from, to): (u32, u32)| {
        let efficiency = |micro_batch, value| Efficiency { micro_batch, value };
        replica.speed_up(efficiency(from, values[0]), efficiency(to, values[1]))
    };
    let profile = profiles
        .iter()
        .find(|profile| profile.model.as_deref() == Some(claim.model) && profile.attention == Some(claim.attention));
    let measured = step.zip(profile).and_then(|((from, to), profile)| {
        Some([efficiency_of(profile, from, replica)?, efficiency_of(profile, to, replica)?])
    });
    // The recalled stage MFUs are those of micro-batches 1 and 2.
    let from_recalled = claim.recalled_stage_mfu.map(|values| speed_up(values, (1, 2))).transpose()?;
    Ok(Verdict {
        claim: *claim,
        largest_plain,
        largest_bpipe,
        break_even_gain: step.map(|(from, to)| replica.break_even_gain(from, to)).transpose()?,
        from_recalled,
        recalled_speed_up: claim.recalled_mfu.map(|[from, to]| to / from),
        measured_gain: measured.map(|[from, to]| to / from - 1.0),
        measured_speed_up: measured.zip(step).map(|(values, step)| speed_up(values, step)).transpose()?,
    })
}

/// A profile's b/T(b), or stage MFU, at one size; the slowest stage's when each was measured.
fn efficiency_of(profile: &Profile, micro_batch: u32, replica: Replica) -> Option<f64> {
    // One kind for all sizes: an MFU and a b/T cannot be compared.
    let by_mfu = profile.points.iter().all(|point| point.stage_mfu.is_some());
    let of_point = |point: &Point| {
        if by_mfu { point.stage_mfu } else { point.stage_time_us().map(|time| f64::from(micro_batch) / time) }
    };
    let points = profile.stage_points(micro_batch, replica.stages).ok()?;
    points.iter().map(of_point).collect::<Option<Vec<f64>>>()?.into_iter().reduce(f64::min)
}

/// The largest power of two that divides B and fits, without and with BPipe.
fn largest_fits(setting: &Setting, model: &Model, attention: Attention) -> Result<(Option<u32>, Option<u32>), Error> {
    let training = Training {
        seq_len: model.seq_len,
        tensor_parallel: setting.tensor_parallel,
        sequence_parallel: true,
        attention,
        recompute: Recompute::Selective,
    };
    let replica = setting.replica;
    let (mut plain, mut bpipe) = (None, None);
    for b in (0..32).map(|bit| 1_u32 << bit).take_while(|&b| replica.global_batch.is_multiple_of(b)) {
        let memory = model.stage_memory(&training, replica.stages, b, setting.bytes_per_parameter)?;
        let peaks = stage_peaks(&memory, replica.micro_batches(b)?)?;
        let fits_plain = peaks.iter().all(|peak| peak.plain_bytes <= setting.capacity_bytes);
        if fits_plain {
            plain = Some(b);
        }
        if fits_plain || peaks.iter().all(|peak| peak.bpipe_bytes <= setting.capacity_bytes) {
            bpipe = Some(b);
        }
    }
    Ok((plain, bpipe))
}
