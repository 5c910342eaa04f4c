//! BPipe: an estimator of what memory-balanced pipeline parallelism gains, and a simulator of the schedule it judges.
//!
//! BPipe lets the early stages of a 1F1B pipeline park activations at the late ones, so that a larger micro-batch fits.
//! Whether that pays depends on one stage's efficiency at the larger size, which [`estimate`] weighs against the larger
//! bubble; [`simulate()`] adds unequal stages, transfers and memory over time; [`explain`] names the terms.
//!
//! # Source
//! BPipe (ICML 2023) and its re-evaluation (arXiv 2401.02088). Figures recalled from them are in [`claims`], marked
//! so, and nothing is computed from them but the claim table.

pub mod activation;
pub mod claims;
pub mod cli;
pub mod cluster;
pub mod equations;
pub mod error;
pub mod estimate;
pub mod explain;
pub mod graph;
pub mod memory;
pub mod op;
pub mod pipeline;
pub mod plot;
pub mod presets;
pub mod profile;
pub mod program;
pub mod schedule;
pub mod simulate;
pub mod simulation;
pub mod text;

pub use error::Error;
pub use op::{Op, OpKind};
pub use program::Program;
pub use schedule::Schedule;
pub use simulate::simulate;
pub use simulation::Simulation;
