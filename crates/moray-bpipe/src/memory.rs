//! Peak memory of each stage under 1F1B and under BPipe, counted without running a schedule.
//!
//! Under 1F1B stage x keeps min(p − x, m) micro-batches. BPipe pairs stage x < p/2, the evictor, with stage
//! p − x − 1, the acceptor. Together they need p + 1 buffers, and one more while a transfer is in flight, since it
//! occupies both ends. So the smallest cap that holds is min(⌈(p + 2)/2⌉, m).

use crate::error::{Error, depth};
use serde::Serialize;

/// What one stage keeps on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StageMemory {
    /// Weights, gradients and optimizer state in bytes.
    pub static_bytes: u64,
    /// Activations of one micro-batch in bytes.
    pub activation_bytes: u64,
}

/// Counts the micro-batches stage `stage` keeps at its peak under 1F1B, min(p − x, m).
pub fn peak_1f1b(stages: u32, micro_batches: u32, stage: u32) -> u32 {
    (stages - stage).min(micro_batches)
}

/// Finds the other stage of a pair, p − x − 1; the middle stage of an odd pipeline has none.
pub fn partner(stages: u32, stage: u32) -> Option<u32> {
    let other = stages - 1 - stage;
    (other != stage).then_some(other)
}

/// Computes the smallest cap BPipe can hold, in micro-batches per stage: min(⌈(p + 2)/2⌉, m).
pub fn smallest_cap(stages: u32, micro_batches: u32) -> u32 {
    let of_stage = |x: u32| {
        let own = peak_1f1b(stages, micro_batches, x);
        match partner(stages, x).filter(|&other| x < other) {
            // Evicting holds when the pair's buffers and one in flight fit under twice the cap.
            Some(other) => own.min((own + peak_1f1b(stages, micro_batches, other) + 1).div_ceil(2)),
            None if x * 2 + 1 == stages => own,
            None => 0,
        }
    };
    (0..stages).map(of_stage).max().unwrap_or(0)
}

/// Checks a cap, or picks the smallest.
///
/// # Errors
/// [`Error::CapTooSmall`].
pub fn checked_cap(stages: u32, micro_batches: u32, cap: Option<u32>) -> Result<u32, Error> {
    let needed = smallest_cap(stages, micro_batches);
    match cap {
        Some(got) if got < needed => Err(Error::CapTooSmall { needed, got, stages, micro_batches }),
        Some(got) => Ok(got),
        None => Ok(needed),
    }
}

/// Peak memory of one stage in bytes, weights included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StagePeak {
    /// Under 1F1B.
    pub plain_bytes: u64,
    /// Under BPipe at the smallest cap, with all an acceptor sets aside for its evictor: what is parked there and what
    /// is in flight.
    pub bpipe_bytes: u64,
}

/// Counts every stage's peak.
///
/// # Errors
/// [`Error::TooFewStages`].
pub fn stage_peaks(memory: &[StageMemory], micro_batches: u32) -> Result<Vec<StagePeak>, Error> {
    let stages = depth(u32::try_from(memory.len()).unwrap_or(u32::MAX))?;
    let cap = smallest_cap(stages, micro_batches);
    let peak = |x: u32| {
        let own = u64::from(peak_1f1b(stages, micro_batches, x));
        let StageMemory { static_bytes, activation_bytes } = memory[x as usize];
        let kept = static_bytes + own.min(u64::from(cap)) * activation_bytes;
        let foreign = match partner(stages, x).filter(|&other| other < x) {
            Some(other) if peak_1f1b(stages, micro_batches, other) > cap => {
                (u64::from(cap) - own) * memory[other as usize].activation_bytes
            }
            _ => 0,
        };
        StagePeak { plain_bytes: static_bytes + own * activation_bytes, bpipe_bytes: kept + foreign }
    };
    Ok((0..stages).map(peak).collect())
}
