//! `moray bpipe`: estimate, simulate, explain.

mod case;
mod estimate;
mod explain;
mod inputs;
mod simulate;

use crate::error::Error;
use clap::Subcommand;
use std::io::Write;
use std::path::Path;

pub use estimate::EstimateArgs;
pub use explain::ExplainArgs;
pub use inputs::{ClusterArgs, Inputs};
pub use simulate::SimulateArgs;

/// What `moray bpipe` can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Estimate MFU and speed-up of each micro-batch size, with and without BPipe, from one stage's measurements
    Estimate(EstimateArgs),
    /// Simulate pipeline schedules: makespan, bubble, stalls, memory per stage over time
    Simulate(SimulateArgs),
    /// Explain why a model gains or not: stage efficiency, bubble, imbalance, communication, transfers
    Explain(ExplainArgs),
}

/// Runs a command and writes its report to `out`.
///
/// # Errors
/// Whatever is wrong with its inputs, and [`Error::Output`].
pub fn run(command: &Command, out: &mut dyn Write) -> Result<(), Error> {
    match command {
        Command::Estimate(args) => args.run(out),
        Command::Simulate(args) => args.run(out),
        Command::Explain(args) => args.run(out),
    }
}

fn print_json(out: &mut dyn Write, report: &impl serde::Serialize) -> Result<(), Error> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)?;
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|source| Error::File { path: path.to_path_buf(), source })
}
