//! `moray eval`: perplexity on a text, and the distance from the dense model.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use moray::llama::{Backend, Model};
use moray::policy::{Chosen, Named};
use serde::Serialize;

use super::device::cuda;
use super::{Device, LeftOut, Run, Switches, against, progress_bar, written};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Runner, Scored, Text, evaluate};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightScheme;

/// Arguments of `moray eval`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How the model runs.
    #[command(flatten)]
    pub switches: Switches,
    /// A UTF-8 text.
    #[arg(long, allow_hyphen_values = true)]
    pub text: PathBuf,
    /// Tokens of a window; windows do not overlap.
    #[arg(long, default_value_t = 512)]
    pub context: usize,
    /// Take only the first tokens of the text; all by default.
    #[arg(long)]
    pub tokens: Option<usize>,
    /// Score only the second half of each window, as it is done where the prompt decides what is computed.
    #[arg(long)]
    pub second_half: bool,
    /// The 16-bit model to compare a quantized checkpoint with; by default what its own codes stand for.
    #[arg(long, allow_hyphen_values = true)]
    pub against: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a run of `moray eval` reports.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub model: PathBuf,
    /// Where it ran.
    pub device: Device,
    /// How its weights are held.
    pub weights: String,
    /// How the inputs of integer weights are held.
    pub activations: String,
    /// The activation in place of the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<&'static str>,
    /// Which neurons are computed.
    pub mlp: String,
    /// Which inputs of the layers' matrices are read.
    pub inputs: String,
    /// Which logits are computed exactly.
    pub logits: String,
    /// Which heads run.
    pub heads: String,
    /// What is stored for the others.
    pub kv: String,
    /// The text.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub text: PathBuf,
    /// Tokens of it that were read.
    pub tokens: usize,
    /// Tokens of a window.
    pub context: usize,
    /// Which tokens were sparse.
    pub sparse: String,
    /// What was found.
    #[serde(flatten)]
    pub evaluation: Evaluation,
    /// How standard errors are made.
    pub standard_error: &'static str,
    /// Seconds that scoring took, the dense model's part included.
    pub seconds: f64,
}

/// How standard errors are made.
const STANDARD_ERROR: &str = "se(perplexity) = perplexity * se(nll), nll the mean over scored tokens";

/// Runs the command.
///
/// # Errors
/// What is wrong with the switches, the model or the text.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let report = report(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_report(&report, out))
}

/// Loads the models, scores the text and says what was found.
///
/// # Errors
/// As [`run`].
pub fn report(arguments: &Arguments) -> Result<Report> {
    let text = read_text(&arguments.text)?;
    arguments.switches.check_device()?;
    let run = arguments.switches.load()?;
    run.warn();
    let tokens = tokens_of(&run.tokenizer, &arguments.text, &text, arguments.tokens)?;
    let mut arguments = arguments.clone();
    arguments.switches.weights = arguments.switches.weights.resolved(&run.checkpoint);
    let dense = match &arguments.against {
        Some(model) => Some(Switches { model: model.clone(), ..all_of(&arguments.switches) }),
        None => dense_switches(&arguments.switches),
    };
    let dense = dense.map(|switches| switches.load().map(|run| (switches, run))).transpose()?;
    if let (Some(_), Some((_, reference))) = (&arguments.against, &dense) {
        against::check(&run, reference, (&arguments.text, &text), arguments.context)?;
    }
    score(&arguments, &tokens, &run, dense.as_ref().map(|(switches, run)| (switches, run)))
}

/// Scores tokens with loaded models; `dense` is what the run is compared with.
///
/// # Errors
/// As [`evaluate`], and for a policy or a device that cannot be.
pub fn score(arguments: &Arguments, tokens: &[u32], run: &Run, dense: Option<(&Switches, &Run)>) -> Result<Report> {
    match arguments.switches.device {
        Device::Cpu => {
            let dense = dense.map(|(switches, dense)| (switches, dense, &dense.model));
            score_on(&run.cpu, &run.model, dense, arguments, tokens, run)
        }
        Device::Cuda => cuda::score(arguments, tokens, run, dense),
    }
}

/// Scores tokens with models on a device.
///
/// # Errors
/// As [`score`].
pub(super) fn score_on<B: Backend>(
    device: &B,
    model: &Model<B>,
    dense: Option<(&Switches, &Run, &Model<B>)>,
    arguments: &Arguments,
    tokens: &[u32],
    run: &Run,
) -> Result<Report> {
    let Arguments { switches, context, .. } = arguments;
    let config = run.checkpoint.config();
    let bos = config.window_start();
    let scored = if arguments.second_half { Scored::SecondHalf } else { scored_by(switches) };
    let text = Text { tokens, bos, context: *context, scored };
    // before any session is made for it
    text.check(config.context_length)?;
    let runner = Runner { device, model, settings: switches.settings(run, 1, *context)? };
    let dense = dense
        .map(|(switches, dense, model)| {
            switches.settings(dense, 1, *context).map(|settings| Runner { device, model, settings })
        })
        .transpose()?;
    let bar = progress_bar(text.scored_tokens(), "scoring");
    let start = Instant::now();
    let mut progress = |done| bar.set_position(done as u64);
    let evaluation = evaluate(&run.cpu, &text, config.context_length, &runner, dense.as_ref(), &mut progress)?;
    bar.finish_and_clear();
    Ok(Report {
        model: switches.model.clone(),
        device: switches.device,
        weights: switches.weights.to_string(),
        activations: switches.activations.to_string(),
        activation: switches.activation.map(Activation::name),
        mlp: switches.mlp.to_string(),
        inputs: switches.left_out.inputs.to_string(),
        logits: switches.left_out.logits.to_string(),
        heads: switches.heads.to_string(),
        kv: switches.kv.to_string(),
        text: arguments.text.clone(),
        tokens: tokens.len(),
        context: *context,
        sparse: sparse_tokens(switches),
        evaluation,
        standard_error: STANDARD_ERROR,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// The text's first `limit` tokens, without BOS.
///
/// # Errors
/// [`Error::Malformed`] for a text of fewer than 2 tokens.
pub fn tokens_of(tokenizer: &Tokenizer, path: &Path, text: &str, limit: Option<usize>) -> Result<Vec<u32>> {
    let mut tokens = tokenizer.encode(text, false)?;
    if tokens.len() < 2 {
        return Err(Error::malformed(path, "text", "at least 2 tokens", tokens.len()));
    }
    tokens.truncate(limit.unwrap_or(usize::MAX));
    if tokens.len() < 2 {
        return Err(moray::Error::Shape { what: "tokens", expected: "at least 2", got: tokens.len() }.into());
    }
    Ok(tokens)
}

/// Reads a UTF-8 text that is not empty.
///
/// # Errors
/// [`Error::Io`] if it cannot be read, [`Error::Malformed`] if it is empty or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
    if bytes.is_empty() {
        return Err(Error::malformed(path, "text", "at least 2 tokens", "an empty file"));
    }
    let invalid = |error: std::string::FromUtf8Error| {
        let at = error.utf8_error().valid_up_to();
        Error::malformed(path, "text", "UTF-8", format!("an invalid byte at offset {at}"))
    };
    String::from_utf8(bytes).map_err(invalid)
}

/// The switches of the same model, dense.
fn all_of(switches: &Switches) -> Switches {
    let (mlp, left_out, heads) = (Named::EVERY_NEURON, LeftOut::NOTHING, Named::EVERY_HEAD);
    Switches { weights: WeightScheme::Dense, activation: None, mlp, left_out, heads, ..switches.clone() }
}

/// The switches of the dense model; none if these are.
pub fn dense_switches(switches: &Switches) -> Option<Switches> {
    let dense = all_of(switches);
    let of =
        |switches: &Switches| (switches.weights, switches.activation, switches.mlp, switches.left_out, switches.heads);
    let same = of(switches) == of(&dense);
    (!same).then_some(dense)
}

/// Selections that the prompt fixes are scored in generation.
pub fn scored_by(switches: &Switches) -> Scored {
    let fixed = [switches.mlp, switches.heads].iter().any(|policy| policy.chosen() == Chosen::ByPrompt);
    if fixed { Scored::SecondHalf } else { Scored::EveryToken }
}

/// Says which tokens are sparse.
fn sparse_tokens(switches: &Switches) -> String {
    let half = "the second half of each window, the half that is scored";
    let policies = [("neurons", switches.mlp), ("inputs", switches.left_out.inputs), ("heads", switches.heads)];
    let said = policies.into_iter().filter_map(|(site, policy)| match policy.chosen() {
        Chosen::Never => None,
        Chosen::ByPrompt => Some((site, half)),
        Chosen::Beforehand | Chosen::PerToken => Some((site, "every token")),
    });
    let said: Vec<_> = said.chain(switches.left_out.logits.0.map(|_| ("logits", "every token"))).collect();
    match said.first() {
        None => "no token".to_owned(),
        Some((_, first)) if said.iter().all(|(_, tokens)| tokens == first) => (*first).to_owned(),
        _ => said.iter().map(|(site, tokens)| format!("{site}: {tokens}")).collect::<Vec<_>>().join("; "),
    }
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let Evaluation { perplexity, perplexity_se, nll, nll_se, scored_tokens, windows, .. } = report.evaluation;
    writeln!(
        out,
        "perplexity {perplexity:.3} ± {perplexity_se:.3} (nll {nll:.4} ± {nll_se:.4} nats; {})",
        report.standard_error
    )?;
    writeln!(
        out,
        "scored {scored_tokens} tokens in {windows} windows of {} in {:.1} s",
        report.context, report.seconds
    )?;
    write!(out, "sparse: {}", report.sparse)?;
    if let Some(kept) = report.evaluation.kept_neurons {
        write!(out, "; neurons kept {:.1}%", 100.0 * kept)?;
    }
    if let Some(kept) = report.evaluation.kept_inputs {
        write!(out, "; inputs kept {:.1}%", 100.0 * kept)?;
    }
    if let Some(kept) = report.evaluation.kept_heads {
        write!(out, "; heads run {:.1}%", 100.0 * kept)?;
    }
    writeln!(out)?;
    let Some(dense) = &report.evaluation.dense else { return writeln!(out, "this is the dense model") };
    writeln!(
        out,
        "dense at the same positions: perplexity {:.3} ± {:.3}; KL(dense || run) {:.4} ± {:.4} nats; same top token \
         {:.1}% ± {:.1}%",
        dense.perplexity,
        dense.perplexity_se,
        dense.kl,
        dense.kl_se,
        dense.agreement_percent,
        dense.agreement_percent_se
    )
}
