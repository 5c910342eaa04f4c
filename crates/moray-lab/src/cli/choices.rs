//! `moray choices`: how many multiple-choice questions a model answers.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{Device, Switches, progress_bar, written};
use crate::choices::{Scores, read, score};
use crate::error::{Error, Result};
use crate::eval::Runner;

/// Arguments of `moray choices`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How the model runs, on the CPU.
    #[command(flatten)]
    pub switches: Switches,
    /// A file of JSON lines: {"question": "The sky is", "choices": ["blue", "square"], "answer": 0}.
    #[arg(long, allow_hyphen_values = true)]
    pub items: PathBuf,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a run reports.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub model: PathBuf,
    /// The questions.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub file: PathBuf,
    /// What was found.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the switches, the model or the questions.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let report = report(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    let Scores {
        items,
        accuracy_percent,
        accuracy_percent_se,
        normalised_percent,
        normalised_percent_se,
        by_chance_percent,
    } = report.scores;
    written(writeln!(
        out,
        "{items} questions: {accuracy_percent:.1}% ± {accuracy_percent_se:.1}% right, {normalised_percent:.1}% ± \
         {normalised_percent_se:.1}% by likelihood for each byte, {by_chance_percent:.1}% by chance"
    ))
}

/// Asks all questions.
///
/// # Errors
/// As [`run`].
pub fn report(arguments: &Arguments) -> Result<Report> {
    let Arguments { switches, items: path, .. } = arguments;
    if switches.device != Device::Cpu {
        let (what, expected, got) = ("device", "cpu for questions", "cuda".into());
        return Err(Error::Kernel(moray::Error::Unsupported { what, expected, got }));
    }
    let items = read(path)?;
    let run = switches.load()?;
    run.warn();
    let config = run.checkpoint.config();
    let runner =
        Runner { device: &run.cpu, model: &run.model, settings: switches.settings(&run, 1, config.context_length)? };
    let bar = progress_bar(items.len(), "asking");
    let window = (config.window_start(), config.context_length);
    let scores = score(&runner, &run.tokenizer, window, &items, &mut |done| bar.set_position(done as u64))?;
    bar.finish_and_clear();
    Ok(Report { model: switches.model.clone(), file: path.clone(), scores })
}
