//! `moray analyze`: what lies beneath dynamic activation, on one model.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use moray::Cpu;
use moray::llama::Model;
use moray::policy::{Named, Projection, Site, Values};

use super::{LeftOut, Run, Switches, eval, written};
use crate::analyze::{
    Activations, Analysis, Histories, Inertia, Seen, cett, critical, decay, heads, histogram, inertia, kv, kv_text,
    uncertainty, union,
};
use crate::error::{Error, Result};
use crate::fixture::SplitMix;

/// Sequences of the union, at most.
const SEQUENCES: usize = 16;

/// Tokens whose contributions are looked at one by one.
const CETT_TOKENS: usize = 32;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Whether activations follow the tokens before rather than the token.
    Inertia,
    /// How long a prompt's mask stays like a token's own.
    Decay,
    /// What share of the neurons a batch needs together.
    Union,
    /// How much of each layer can be dropped at a given error.
    Cett,
    /// How much of each place of the MLPs the model bears to lose.
    Critical,
    /// How many values of each place are small.
    Histogram,
    /// Whether neurons that are predicted after one history are predicted after another.
    Uncertainty,
    /// What is lost of the KV cache where groups of heads are skipped, by what is stored for them.
    Kv,
    /// How few heads carry what attention puts out, and whether they stay the same.
    Heads,
}

/// Arguments of `moray analyze`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// What is looked at; everything by default.
    #[arg(value_enum)]
    pub kinds: Vec<Kind>,
    /// How the model runs; every neuron of it.
    #[command(flatten)]
    pub switches: Switches,
    /// A UTF-8 text.
    #[arg(long, allow_hyphen_values = true)]
    pub text: PathBuf,
    /// Tokens of the text.
    #[arg(long, default_value_t = 512)]
    pub tokens: usize,
    /// Share of the neurons of a layer that count as the largest of a token.
    #[arg(long, default_value_t = 0.3)]
    pub kept: f64,
    /// A folder for the numbers (NAME.json) and a page of each analysis (NAME.html); by default they are only printed.
    #[arg(long, allow_hyphen_values = true)]
    pub out: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the model, the text or the folder.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder).map_err(|source| Error::io("create", folder, source))?;
    }
    let found = analyses(arguments)?;
    if let Some(folder) = &arguments.out {
        for analysis in &found {
            let json =
                serde_json::to_string_pretty(analysis).map_err(|source| Error::io("write", folder, source.into()))?;
            for (kind, text) in [("json", json + "\n"), ("html", analysis.page()?)] {
                let path = folder.join(format!("{}.{kind}", analysis.name));
                std::fs::write(&path, text).map_err(|source| Error::io("write", &path, source))?;
            }
        }
    }
    for (index, analysis) in found.iter().enumerate() {
        let space = if index > 0 { writeln!(out) } else { Ok(()) };
        written(space.and_then(|()| analysis.write(out)))?;
    }
    Ok(())
}

/// Makes what is asked for.
///
/// # Errors
/// As [`run`].
pub fn analyses(arguments: &Arguments) -> Result<Vec<Analysis>> {
    let expected = |what: &'static str, expected: &'static str, got: f32| {
        Err(Error::Kernel(moray::Error::Value { what, expected, got }))
    };
    if !(arguments.kept > 0.0 && arguments.kept < 1.0) {
        return expected("kept", "a number between 0 and 1", arguments.kept as f32);
    }
    if arguments.tokens < 64 {
        return expected("tokens", "at least 64", arguments.tokens as f32);
    }
    let text = eval::read_text(&arguments.text)?;
    let kinds = if arguments.kinds.is_empty() { Kind::value_variants() } else { &arguments.kinds[..] };
    // kinds that look at one form of the weights share a model
    let mut runs: Vec<(Named, Run)> = Vec::new();
    let mut found = Vec::with_capacity(kinds.len());
    for &kind in kinds {
        let mlp = kind.form()?;
        let run = match runs.iter().position(|(form, _)| *form == mlp) {
            Some(index) => &runs[index].1,
            None => {
                runs.push((mlp, load(arguments, mlp)?));
                &runs[runs.len() - 1].1
            }
        };
        found.push(analysis(kind, arguments.kept, run, &tokens(arguments, &text, run)?)?);
    }
    Ok(found)
}

impl Kind {
    /// The policy of neurons with which the weights are held in the form that it looks at; none is left out.
    fn form(self) -> moray::Result<Named> {
        match self {
            Kind::Critical | Kind::Kv => Ok(Named::EVERY_NEURON),
            _ => Named::parse(Site::Neurons, "topk:1"),
        }
    }
}

fn load(arguments: &Arguments, mlp: Named) -> Result<Run> {
    Switches { mlp, left_out: LeftOut::NOTHING, heads: Named::EVERY_HEAD, ..arguments.switches.clone() }.load()
}

/// The first tokens of the text.
fn tokens(arguments: &Arguments, text: &str, run: &Run) -> Result<Vec<u32>> {
    let limit = run.checkpoint.config().context_length;
    if arguments.tokens > limit {
        let (what, got) = ("the last token of the sequence".into(), arguments.tokens - 1);
        return Err(Error::Index { what, limit, got });
    }
    let tokens = eval::tokens_of(&run.tokenizer, &arguments.text, text, Some(arguments.tokens))?;
    if tokens.len() < arguments.tokens {
        let wanted = format!("at least {} tokens", arguments.tokens);
        return Err(Error::malformed(&arguments.text, "text", wanted, tokens.len()));
    }
    Ok(tokens)
}

fn analysis(kind: Kind, kept: f64, run: &Run, tokens: &[u32]) -> Result<Analysis> {
    let (cpu, model) = (&run.cpu, &run.model);
    let in_sequence = |tokens: &[u32]| Activations::in_sequence(cpu, model, tokens);
    match kind {
        Kind::Inertia => {
            let mut random = SplitMix(1);
            let random: Vec<u32> = tokens.iter().map(|_| random.below(model.config().vocab) as u32).collect();
            let alone = |tokens: &[u32]| Activations::alone(cpu, model, tokens);
            let found = Inertia {
                text_in_sequence: in_sequence(tokens)?,
                text_alone: alone(tokens)?,
                random_in_sequence: in_sequence(&random)?,
                random_alone: alone(&random)?,
            };
            inertia(&found, kept)
        }
        Kind::Decay => decay(&in_sequence(tokens)?, kept),
        Kind::Union => {
            let sequences = tokens.chunks_exact(tokens.len() / SEQUENCES).take(SEQUENCES);
            Ok(union(&sequences.map(in_sequence).collect::<Result<Vec<_>>>()?, kept))
        }
        Kind::Critical => critical(cpu, model, tokens),
        Kind::Histogram => {
            let of = |values| Activations::of(cpu, model, values, tokens);
            let inputs = |projection| of(Values::Inputs(projection));
            let (qkv, output, gate_up) =
                (inputs(Projection::Qkv)?, inputs(Projection::Output)?, inputs(Projection::GateUp)?);
            let (gates, products) = (of(Values::Gate)?, of(Values::Hidden)?);
            Ok(histogram(&[
                ("inputs of attention", &qkv),
                ("outputs of heads", &output),
                ("inputs of the MLP", &gate_up),
                ("gates", &gates),
                ("products", &products),
            ]))
        }
        Kind::Uncertainty => {
            let norms = model.layers().iter().filter_map(|layer| Some(layer.mlp.neurons()?.down_norms()));
            let shape = model.config().attention;
            uncertainty(&histories(cpu, model, tokens)?, &norms.collect::<Vec<_>>(), &shape, kept)
        }
        Kind::Kv => kv(cpu, model, &kv_text(tokens, run.checkpoint.config().window_start())),
        Kind::Heads => {
            let outputs = Activations::of(cpu, model, Values::HeadOutputs, tokens)?;
            Ok(heads(&outputs, model.config().attention.n_q_heads, kept))
        }
        Kind::Cett => cett(model, &in_sequence(&tokens[..CETT_TOKENS])?),
    }
}

/// The second half of the tokens after the first, after the first shuffled, and after random ones.
fn histories(cpu: &Cpu, model: &Model<Cpu>, tokens: &[u32]) -> Result<Histories> {
    let half = tokens.len() / 2;
    let seen = |tokens: &[u32]| -> Result<Seen> {
        let inputs = Activations::of(cpu, model, Values::Inputs(Projection::GateUp), tokens)?;
        let outputs = Activations::of(cpu, model, Values::HeadOutputs, tokens)?;
        Ok(Seen { inputs, hidden: Activations::in_sequence(cpu, model, tokens)?, outputs })
    };
    let after = |history: Vec<u32>| -> Result<Seen> {
        let Seen { inputs, hidden, outputs } = seen(&[&history, &tokens[half..]].concat())?;
        Ok(Seen { inputs: inputs.after(half), hidden: hidden.after(half), outputs: outputs.after(half) })
    };
    let random = &mut SplitMix(2);
    let mut shuffled = tokens[..half].to_vec();
    (1..half).rev().for_each(|place| shuffled.swap(place, random.below(place + 1)));
    let other = (0..half).map(|_| random.below(model.config().vocab) as u32).collect();
    Ok(Histories {
        fitted: seen(&tokens[..half])?,
        same: after(tokens[..half].to_vec())?,
        shuffled: after(shuffled)?,
        other: after(other)?,
    })
}
