//! The `moray` command: one module for each subcommand, and the switches that they share.

mod against;
pub mod analyze;
pub mod bench;
pub mod calibrate;
pub mod choices;
pub mod demo;
mod device;
pub mod doctor;
mod effects;
pub mod eval;
pub mod generate;
pub mod help;
mod left_out;
mod logits;
mod peer;
pub mod quantize;
pub mod study;
mod switches;
mod turns;
mod ways;

pub use left_out::{LeftOut, Scheme, ShortRows};
pub use logits::{LogitsSwitch, Looked};
pub use peer::Peer;
pub use switches::{Device, KvSwitch, Run, Switches};
pub use turns::Figure;
pub use ways::Way;

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::{Parser, Subcommand};

use crate::error::{Error, Result};

/// Run, evaluate and study LLaMA models with W4A8 weights, sparse MLPs and skipped heads.
#[derive(Debug, Parser)]
#[command(name = "moray", version, about, max_term_width = 120)]
pub struct Cli {
    /// What to do; nothing prints the first steps.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Continue a prompt, and say how fast that was.
    Generate(generate::Arguments),
    /// Measure perplexity on a text, and the distance from the dense model.
    Eval(eval::Arguments),
    /// Quantize a model to 4 bits, calibrated on a text, into a directory that the other commands run.
    Quantize(quantize::Arguments),
    /// Measure prefill and decode speed of a model or of a model's shape, beside other programs in the same run.
    Bench(bench::Arguments),
    /// Find what methods are set by, thresholds, predictors, lists and norms, and write it to a file that the other commands read.
    Calibrate(calibrate::Arguments),
    /// Run a grid of methods on one model and text: quality, bytes and speed of each in one table and page.
    Study(study::Arguments),
    /// Look at what lies beneath dynamic activation: whether published claims hold for a model.
    Analyze(analyze::Arguments),
    /// Ask multiple-choice questions, answered by the likeliest choice.
    Choices(choices::Arguments),
    /// Run one model dense, quantized and sparse, and print one table of text, speed and quality.
    Demo(demo::Arguments),
    /// Say what this machine has, and what to do about what is missing.
    Doctor(doctor::Arguments),
    /// Estimate, simulate and explain memory-balanced pipeline parallelism.
    #[command(subcommand)]
    Bpipe(moray_bpipe::cli::Command),
    /// Print completions for a shell.
    Completions(help::Completions),
    /// Write manual pages.
    Man(help::Man),
}

/// Runs a command; what it reports goes to `out`.
///
/// # Errors
/// What went wrong, in one line.
pub fn run(cli: Cli, out: &mut dyn Write) -> Result<()> {
    let Some(command) = cli.command else { return help::first_steps(out) };
    match command {
        Command::Generate(arguments) => generate::run(&arguments, out),
        Command::Eval(arguments) => eval::run(&arguments, out),
        Command::Quantize(arguments) => quantize::run(&arguments, out),
        Command::Bench(arguments) => bench::run(&arguments, out),
        Command::Calibrate(arguments) => calibrate::run(&arguments, out),
        Command::Study(arguments) => study::run(&arguments, out),
        Command::Analyze(arguments) => analyze::run(&arguments, out),
        Command::Choices(arguments) => choices::run(&arguments, out),
        Command::Demo(arguments) => demo::run(&arguments, out),
        Command::Doctor(arguments) => doctor::run(&arguments, out),
        Command::Bpipe(command) => Ok(moray_bpipe::cli::run(&command, out)?),
        Command::Completions(arguments) => help::completions(&arguments, out),
        Command::Man(arguments) => help::man(&arguments, out),
    }
}

/// A progress bar on standard error, invisible where that is no terminal.
pub(crate) fn progress_bar(len: usize, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(len as u64);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let template = "{msg} {wide_bar} {pos}/{len} {eta}";
    if let Ok(style) = indicatif::ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(what.to_owned())
}

/// Writes to standard output and names it where that fails.
pub(crate) fn written(result: std::io::Result<()>) -> Result<()> {
    result.map_err(|source| Error::io("write", "standard output".as_ref(), source))
}

/// Says before the work that fills it whether a file can be written. What is there stays as it is.
pub(crate) fn check_writable(path: &Path) -> Result<()> {
    let found = fs::metadata(path);
    if found.as_ref().is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        // a pipe or a terminal, which opening would change
        return Ok(());
    }
    let checked = || {
        OpenOptions::new().append(true).create(true).open(path)?;
        if found.is_err() { fs::remove_file(path) } else { Ok(()) }
    };
    checked().map_err(|source| Error::io("write", path, source))
}
