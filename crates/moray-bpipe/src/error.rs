//! What can be wrong with an estimate, a simulation or a profile.

use std::path::PathBuf;

/// An input that BPipe's estimator or simulator cannot work with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A pipeline of one stage has no bubble and nothing to balance.
    #[error("pipeline depth: expected at least 2 stages, got {got}")]
    TooFewStages {
        /// Stages asked for.
        got: u32,
    },
    /// The global batch is not a whole number of micro-batches.
    #[error("global batch: expected a positive multiple of micro-batch {micro_batch}, got {global_batch}")]
    Indivisible {
        /// Samples per micro-batch, b.
        micro_batch: u32,
        /// Samples per iteration and data-parallel replica, B.
        global_batch: u32,
    },
    /// Interleaved 1F1B walks the micro-batches in groups of p.
    #[error("interleaved 1F1B: expected micro-batches in a multiple of {stages} stages, got {micro_batches}")]
    InterleavedIndivisible {
        /// Pipeline depth p.
        stages: u32,
        /// Micro-batches per iteration, m.
        micro_batches: u32,
    },
    /// A number is outside what it can mean: a negative time, a share above one, not a number.
    #[error("{what}: expected {expected}, got {got}")]
    OutOfRange {
        /// The quantity.
        what: String,
        /// The values it can take.
        expected: &'static str,
        /// The value given.
        got: f64,
    },
    /// A needed input was not given.
    #[error("{what}: expected {expected}, got none")]
    Missing {
        /// The quantity.
        what: String,
        /// How to give it.
        expected: String,
    },
    /// A list has the wrong length.
    #[error("{what}: expected {expected} values, got {got}")]
    Count {
        /// The list.
        what: String,
        /// Its expected length.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// No preset has this name.
    #[error("preset: expected one of {expected}, got {got}")]
    UnknownPreset {
        /// The known names.
        expected: String,
        /// The name given.
        got: String,
    },
    /// No balance of the pairs fits this cap.
    #[error(
        "activation cap: expected at least {needed} micro-batches per stage \
         (stages {stages}, micro-batches {micro_batches}, one buffer in flight), got {got}"
    )]
    CapTooSmall {
        /// Smallest cap that holds.
        needed: u32,
        /// Cap asked for.
        got: u32,
        /// Pipeline depth p.
        stages: u32,
        /// Micro-batches per iteration, m.
        micro_batches: u32,
    },
    /// The schedule waits for itself.
    #[error("deadlock: expected {expected} operations to run, got {got}; stage {stage} waits at {waiting}")]
    Deadlock {
        /// Operations in the schedule.
        expected: usize,
        /// Operations that ran.
        got: usize,
        /// A stage that waits.
        stage: usize,
        /// The operation it waits at.
        waiting: String,
    },
    /// A program does something to a micro-batch out of turn.
    #[error("program of stage {stage}: expected {expected}, got {got}")]
    Program {
        /// The stage.
        stage: usize,
        /// What a program holds.
        expected: &'static str,
        /// The operation in its place.
        got: String,
    },
    /// The schedule is larger than the simulator takes.
    #[error("schedule size: expected at most {expected} operations, got {got}")]
    TooLarge {
        /// The limit.
        expected: u64,
        /// Operations asked for.
        got: u64,
    },
    /// A profile holds something it should not.
    #[error("profile {path}: {reason}")]
    Profile {
        /// The file.
        path: PathBuf,
        /// What was expected and what was there.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The report could not be written.
    #[error("output: {0}")]
    Output(#[from] std::io::Error),
    /// The report could not be turned into JSON.
    #[error("output: {0}")]
    Json(#[from] serde_json::Error),
}

/// Most stages of a pipeline.
pub const MAX_STAGES: u32 = 1 << 16;

/// Checks a pipeline depth, 2 ≤ p ≤ [`MAX_STAGES`].
pub(crate) fn depth(stages: u32) -> Result<u32, Error> {
    match stages {
        0 | 1 => Err(Error::TooFewStages { got: stages }),
        2..=MAX_STAGES => Ok(stages),
        _ => {
            let what = "pipeline depth".into();
            Err(Error::OutOfRange { what, expected: "at most 65536 stages", got: f64::from(stages) })
        }
    }
}

/// Checks that `got` is a finite number above zero.
pub(crate) fn positive(what: &str, got: f64) -> Result<f64, Error> {
    if got.is_finite() && got > 0.0 {
        Ok(got)
    } else {
        Err(Error::OutOfRange { what: what.into(), expected: "a positive number", got })
    }
}

/// Checks that `got` is a finite number and not below zero.
pub(crate) fn not_negative(what: &str, got: f64) -> Result<f64, Error> {
    if got.is_finite() && got >= 0.0 {
        Ok(got)
    } else {
        Err(Error::OutOfRange { what: what.into(), expected: "zero or a positive number", got })
    }
}

/// Checks that `got` is a share of a whole, 0 < got ≤ 1.
pub(crate) fn fraction(what: &str, got: f64) -> Result<f64, Error> {
    if got > 0.0 && got <= 1.0 {
        Ok(got)
    } else {
        Err(Error::OutOfRange { what: what.into(), expected: "more than 0 and at most 1", got })
    }
}
