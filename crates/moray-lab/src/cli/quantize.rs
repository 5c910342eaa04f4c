//! `moray quantize`: a model into 4-bit codes, calibrated on a text.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use moray::{Cpu, Isa};

use super::eval::read_text;
use super::switches::CALIBRATION_TEXT;
use super::{progress_bar, written};
use crate::checkpoint::Checkpoint;
use crate::choices;
use crate::error::{Error, Result};
use crate::quantize::{FormatName, Job, Layout, Method, Options, Questions, Report, Stage};

/// Tokens that the result is scored on at most by default.
const SCORED_TOKENS: usize = 16_384;

/// Arguments of `moray quantize`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// A UTF-8 text: its first tokens calibrate. Only rtn needs none, and measures the errors that it reports on a short text
    /// of our own.
    #[arg(long, allow_hyphen_values = true)]
    pub calibration: Option<PathBuf>,
    /// The directory to write; must be empty or absent. An interrupted run of the same arguments goes on.
    #[arg(long, short, allow_hyphen_values = true)]
    pub out: PathBuf,
    /// rtn (nearest level), gptq, qqq (rotation, clip search, gptq), full (int8-aware, corrected, refined).
    #[arg(long, default_value = "full")]
    pub method: Method,
    /// 4-bit codes with scales: per-channel, g32, g64, g128 (groups; a trailing o adds offsets), two-level (groups of 64),
    /// two-level-g32, two-level-g128, qqq.
    #[arg(long, default_value = "g64o")]
    pub weights: FormatName,
    /// How matrices are written.
    #[arg(long, value_enum, default_value_t = Layout::Moray)]
    pub layout: Layout,
    /// Smoothing of outlier channels; on and search are the same. As the method has it by default.
    #[arg(long, value_enum)]
    pub smooth: Option<Smooth>,
    /// Rotation of the hidden state; as the method has it by default.
    #[arg(long, value_enum)]
    pub rotate: Option<Switch>,
    /// Columns of large inputs first; as the method has it by default.
    #[arg(long, value_enum)]
    pub act_order: Option<Switch>,
    /// Scales that clip where that pays; as the method has it by default.
    #[arg(long, value_enum)]
    pub clip_search: Option<Switch>,
    /// int8 inputs while calibrating; as the method has it by default.
    #[arg(long, value_enum)]
    pub int8_aware: Option<Switch>,
    /// Targets a quarter of the way to the unquantized model's outputs; as the method has it by default.
    #[arg(long, value_enum)]
    pub correct: Option<Switch>,
    /// Rounds of refinement after error feedback; as the method has it by default.
    #[arg(long)]
    pub refinements: Option<usize>,
    /// Calibration tokens at most.
    #[arg(long, default_value_t = 128 * 512)]
    pub tokens: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512)]
    pub context: usize,
    /// Seed of the rotation.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// A text to score the result on; what the calibration left of its text by default, if that is 1024 tokens.
    #[arg(long, allow_hyphen_values = true)]
    pub text: Option<PathBuf>,
    /// Tokens to score at most; 0 for none.
    #[arg(long, default_value_t = SCORED_TOKENS)]
    pub scored_tokens: usize,
    /// Multiple-choice questions that the result and the model in 16 bits answer, as in `moray choices`; none by default.
    #[arg(long, allow_hyphen_values = true)]
    pub items: Option<PathBuf>,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
}

/// `--smooth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Smooth {
    On,
    Off,
    Search,
}

impl Arguments {
    /// What the arguments ask for.
    pub fn options(&self) -> Options {
        let defaults = Options::new(self.method, self.weights.0);
        let switch = |given: Option<Switch>, default| given.map_or(default, |switch| switch == Switch::On);
        Options {
            smooth: self.smooth.map_or(defaults.smooth, |smooth| smooth != Smooth::Off),
            rotate: switch(self.rotate, defaults.rotate),
            act_order: switch(self.act_order, defaults.act_order),
            clip_search: switch(self.clip_search, defaults.clip_search),
            int8_aware: switch(self.int8_aware, defaults.int8_aware),
            correct: switch(self.correct, defaults.correct),
            refinements: self.refinements.unwrap_or(defaults.refinements),
            tokens: self.tokens,
            context: self.context,
            seed: self.seed,
            ..defaults
        }
    }

    fn calibration_text(&self) -> Result<String> {
        match &self.calibration {
            Some(path) => read_text(path),
            None if self.method == Method::Rtn => Ok(CALIBRATION_TEXT.to_owned()),
            None => {
                let (what, expected) = ("--calibration", "a text, without which only --method rtn can choose codes");
                Err(Error::Kernel(moray::Error::Unsupported { what, expected, got: "none".into() }))
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the arguments, the model or the text.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let (path, report) = quantize(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_report(&path, &report, out))
}

/// Quantizes, and says where the result is and what it is worth.
///
/// # Errors
/// As [`run`].
pub fn quantize(arguments: &Arguments) -> Result<(PathBuf, Report)> {
    let threads = match arguments.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, |n| n.get()),
    };
    let cpu = Cpu::new(threads, Isa::detect())?;
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let tokenizer = checkpoint.tokenizer()?;
    let tokens = tokenizer.encode(&arguments.calibration_text()?, false)?;
    let (calibration, rest) = tokens.split_at(arguments.tokens.min(tokens.len()));
    let mut scored = match &arguments.text {
        Some(path) => tokenizer.encode(&read_text(path)?, false)?,
        None if rest.len() >= 1024 => rest.to_vec(),
        None => Vec::new(),
    };
    scored.truncate(arguments.scored_tokens);
    let items = arguments.items.as_deref().map(choices::read).transpose()?;
    let job = Job {
        cpu: &cpu,
        checkpoint: &checkpoint,
        options: arguments.options(),
        layout: arguments.layout,
        calibration,
        evaluation: (scored.len() >= 2).then_some(&scored),
        questions: items.as_deref(),
        out: &arguments.out,
    };
    for warning in job.warnings() {
        eprintln!("warning: {warning}");
    }
    let bar = progress_bar(checkpoint.config().n_layers, "quantizing");
    let mut stage = Stage::Layers;
    let mut progress = |now: Stage, done: usize, total: usize| {
        if now != stage {
            stage = now;
            bar.reset();
            bar.set_message(if now == Stage::Asking { "asking" } else { "scoring" });
        }
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    };
    // products run on rayon's threads, the library's operations on the device's own
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|error| {
        let (expected, got) = ("threads that can be started", error.to_string());
        Error::Kernel(moray::Error::Unsupported { what: "threads", expected, got })
    })?;
    let result = run_in(&pool, &job, &mut progress)?;
    bar.finish_and_clear();
    Ok(result)
}

/// The pool wants what it runs to be `Send`, which a progress bar's closure is.
fn run_in(
    pool: &rayon::ThreadPool,
    job: &Job<'_>,
    progress: &mut (dyn FnMut(Stage, usize, usize) + Send),
) -> Result<(PathBuf, Report)> {
    pool.install(|| job.run(progress))
}

fn write_report(path: &std::path::Path, report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let text = match report.options.method {
        Method::Rtn => "without calibration, errors measured on",
        _ => "calibrated on",
    };
    writeln!(
        out,
        "wrote {}: {:.2} bits a weight, {:.1} MB of layers, {:.1} MB in all; {:.0} s, {text} {} tokens",
        path.display(),
        report.size.bits_per_weight,
        report.size.layer_bytes as f64 / 1e6,
        report.size.total_bytes as f64 / 1e6,
        report.quantize_seconds,
        report.calibration_tokens
    )?;
    if let Some(Questions { quantized, dense }) = &report.questions {
        writeln!(
            out,
            "{} questions: {:.1}% ± {:.1}% right, in 16 bits {:.1}%, {:.1}% by chance",
            quantized.items,
            quantized.accuracy_percent,
            quantized.accuracy_percent_se,
            dense.accuracy_percent,
            quantized.by_chance_percent
        )?;
    }
    let Some(quality) = &report.quality else { return Ok(()) };
    write!(out, "perplexity {:.3} ± {:.3}", quality.perplexity, quality.perplexity_se)?;
    if let Some(dense) = &quality.dense {
        write!(
            out,
            ", 16 bits {:.3} ({:+.2}%); KL {:.4} ± {:.4} nats; same top token {:.1}%",
            dense.perplexity,
            100.0 * (quality.perplexity / dense.perplexity - 1.0),
            dense.kl,
            dense.kl_se,
            dense.agreement_percent
        )?;
    }
    writeln!(out, " on {} tokens", quality.scored_tokens)
}
