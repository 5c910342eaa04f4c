//! `moray demo`: one model in several ways, side by side.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use super::generate::Report;
use super::{Device, KvSwitch, Run, Switches, eval, generate, progress_bar, switches, written};
use crate::activations::ActivationScheme;
use crate::error::Result;
use crate::eval::{Runner, Scored, Text, evaluate};
use crate::machine::{processor, read_bandwidth};
use crate::weights::WeightScheme;
use moray::attention::KvPolicy;
use moray::w4a8::{Format, Offset};

/// Arguments of `moray demo`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// Text that perplexity is measured on.
    #[arg(long, allow_hyphen_values = true)]
    pub text: PathBuf,
    /// Tokens of it that are read.
    #[arg(long, default_value_t = 1024)]
    pub tokens: usize,
    /// Tokens of a window; the second half of each is scored.
    #[arg(long, default_value_t = 512)]
    pub context: usize,
    /// Tokens to generate for a row.
    #[arg(short, default_value_t = 48)]
    pub n: usize,
    /// The text to continue.
    #[arg(long, short, default_value = "The history of the lighthouse begins with", allow_hyphen_values = true)]
    pub prompt: String,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// How the model ran.
    pub name: String,
    /// The switches of `moray generate` and `moray eval` that make it so.
    pub switches: String,
    /// Perplexity over the second halves of the windows.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_se: f64,
    /// Fraction of the neurons computed in the scored part.
    pub kept_neurons: Option<f64>,
    /// Decode speed over that of the first row.
    pub speed_up: f64,
    /// Speed and text.
    pub generated: Report,
}

/// The table, and where it was made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Demo {
    /// The processor's name.
    pub processor: Option<String>,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Gigabytes (10⁹) a second that memory reads.
    pub read_bandwidth_gb_per_second: f64,
    /// Tokens of text, and of a window.
    pub tokens: usize,
    /// Positions of a window.
    pub context: usize,
    /// One for each way to run.
    pub rows: Vec<Row>,
}

/// Name, weights, neurons, heads, what is stored for heads that do not run.
type Way = (&'static str, WeightScheme, &'static str, &'static str, KvPolicy);

const G64: WeightScheme = WeightScheme::Quantized(Format::per_group(64, Offset::None));

const WAYS: [Way; 9] = [
    ("dense, 16 bits", WeightScheme::Dense, "dense", "all", KvPolicy::WriteAll),
    ("W4A8, the file's own weights", WeightScheme::AsFile, "dense", "all", KvPolicy::WriteAll),
    ("W4A8 per channel", WeightScheme::Quantized(Format::per_channel()), "dense", "all", KvPolicy::WriteAll),
    ("W4A8 groups of 64", G64, "dense", "all", KvPolicy::WriteAll),
    ("sparse, top-k 0.7", WeightScheme::Dense, "topk:0.7", "all", KvPolicy::WriteAll),
    ("sparse, CATS 0.7", WeightScheme::Dense, "cats:0.7", "all", KvPolicy::WriteAll),
    ("sparse, TDA 0.7", WeightScheme::Dense, "tda:0.7", "all", KvPolicy::WriteAll),
    ("W4A8 + top-k 0.7", WeightScheme::AsFile, "topk:0.7", "all", KvPolicy::WriteAll),
    ("W4A8 + top-k 0.7 + heads 0.7", WeightScheme::AsFile, "topk:0.7", "norm:0.7", KvPolicy::Hole),
];

/// Runs the command.
///
/// # Errors
/// What is wrong with the model or the text.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let demo = measure(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &demo).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_table(&demo, out))
}

/// Runs every way and measures it.
///
/// # Errors
/// As [`run`].
pub fn measure(arguments: &Arguments) -> Result<Demo> {
    let text = eval::read_text(&arguments.text)?;
    let bar = progress_bar(WAYS.len(), "running");
    let mut rows: Vec<Row> = Vec::with_capacity(WAYS.len());
    let (mut tokens, mut machine) = (Vec::new(), None);
    for way in WAYS {
        bar.set_message(way.0);
        let switches = switches_of(arguments, way)?;
        switches.check_cpu()?;
        let run = switches.load()?;
        if tokens.is_empty() {
            tokens = eval::tokens_of(&run, &arguments.text, &text, Some(arguments.tokens))?;
            machine = Some((run.cpu.threads(), run.cpu.isa().name(), read_bandwidth(&run.cpu) / 1e9));
        }
        let first = rows.first().map(|row| row.generated.decode_tokens_per_second);
        rows.push(row(arguments, way.0, &switches, &run, &tokens, first)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    let (threads, isa, bandwidth) = machine.unwrap_or_default();
    let isa = isa.to_owned();
    Ok(Demo {
        processor: processor(),
        threads,
        isa,
        read_bandwidth_gb_per_second: bandwidth,
        tokens: tokens.len(),
        context: arguments.context,
        rows,
    })
}

fn switches_of(arguments: &Arguments, (_, weights, mlp, heads, kv): Way) -> Result<Switches> {
    Ok(Switches {
        model: arguments.model.clone(),
        weights,
        activations: ActivationScheme::default(),
        mlp: switches::neurons(mlp)?,
        calibration: None,
        heads: switches::heads(heads)?,
        kv: KvSwitch(kv),
        kv_type: switches::KvType::F16,
        device: Device::Cpu,
        threads: None,
        isa: None,
    })
}

fn row(
    arguments: &Arguments,
    name: &'static str,
    switches: &Switches,
    run: &Run,
    tokens: &[u32],
    first: Option<f64>,
) -> Result<Row> {
    let generated = generate::generate(run, &generate::Arguments::greedy(switches, arguments), &mut |_| Ok(()))?;
    let config = run.checkpoint.config();
    let bos = config.window_start();
    let text = Text { tokens, bos, context: arguments.context, scored: Scored::SecondHalf };
    text.check(config.context_length)?;
    let settings = switches.settings(run, 1, arguments.context)?;
    let runner = Runner { device: &run.cpu, model: &run.model, settings };
    let evaluation = evaluate(&run.cpu, &text, config.context_length, &runner, None, &mut |_| ())?;
    let Switches { weights, mlp, heads, kv, .. } = switches;
    Ok(Row {
        name: name.to_owned(),
        switches: format!("--weights {weights} --mlp {mlp} --heads {heads} --kv {kv}"),
        perplexity: evaluation.perplexity,
        perplexity_se: evaluation.perplexity_se,
        kept_neurons: evaluation.kept_neurons,
        speed_up: generated.decode_tokens_per_second / first.unwrap_or(generated.decode_tokens_per_second),
        generated,
    })
}

impl generate::Arguments {
    /// The demo's prompt, greedy, all tokens.
    fn greedy(switches: &Switches, demo: &Arguments) -> Self {
        generate::Arguments {
            switches: switches.clone(),
            prompt: demo.prompt.clone(),
            n: demo.n,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            seed: 0,
            ignore_eos: true,
            json: true,
        }
    }
}

/// Characters of a row's text that are shown.
const TEXT_CHARACTERS: usize = 44;

/// The words of a text that fit, and an ellipsis for those that do not; a first word that does not fit is cut.
fn shortened(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(TEXT_CHARACTERS) else { return text.to_owned() };
    let whole = if text[end..].starts_with(' ') { end } else { text[..end].rfind(' ').unwrap_or(end) };
    format!("{} …", &text[..whole])
}

/// Writes the table as Markdown, and under it what its columns mean.
///
/// # Errors
/// What `out` refuses.
pub fn write_table(demo: &Demo, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "tok/s", "speed-up", "% of bandwidth", "MB a token", "perplexity", "neurons", "text"]);
    for row in &demo.rows {
        let text: String = row.generated.text.split_whitespace().collect::<Vec<_>>().join(" ");
        table.add_row([
            row.name.clone(),
            format!("{:.1}", row.generated.decode_tokens_per_second),
            format!("{:.2}×", row.speed_up),
            format!("{:.0}", row.generated.bandwidth_percent),
            format!("{:.0}", row.generated.weight_bytes_per_token as f64 / 1e6),
            format!("{:.1} ± {:.1}", row.perplexity, row.perplexity_se),
            row.kept_neurons.map_or("all".into(), |kept| format!("{:.0}%", 100.0 * kept)),
            shortened(&text),
        ]);
    }
    for column in 1..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}\n")?;
    let processor = demo.processor.as_deref().unwrap_or("unknown processor");
    writeln!(
        out,
        "{processor}, {} threads, {}; memory reads {:.1} GB/s. Speed: greedy decoding, one sequence; bandwidth as if every \
         weight were read.",
        demo.threads, demo.isa, demo.read_bandwidth_gb_per_second
    )?;
    writeln!(
        out,
        "Perplexity: {} tokens in windows of {}, the first half of each as prompt, the second scored. Top-k and CATS select \
         for every token, the prompt's too; TDA and heads by the prompt, for the scored half. MB a token: layers and output \
         layer; rows in 4 bits have the output layer as the file has it.",
        demo.tokens, demo.context
    )?;
    writeln!(out, "{}", selections(demo))
}

/// What each selection does to speed and perplexity beside the same weights without one.
fn selections(demo: &Demo) -> String {
    let weights = |row: &Row| row.switches.split(" --mlp ").next().unwrap_or_default().to_owned();
    let dense = |row: &&Row| row.switches.contains("--mlp dense --heads all");
    let found = demo.rows.iter().filter(|row| !dense(row)).filter_map(|row| {
        let base = demo.rows.iter().filter(dense).find(|base| weights(base) == weights(row))?;
        let speed = row.generated.decode_tokens_per_second / base.generated.decode_tokens_per_second;
        Some(format!("{} {speed:.2}×, {:+.0}%", row.name, 100.0 * (row.perplexity / base.perplexity - 1.0)))
    });
    format!("Speed and perplexity beside the same weights dense: {}.", found.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::{TEXT_CHARACTERS, shortened};

    #[test]
    fn texts_end_with_a_word() {
        let words = "ä".repeat(TEXT_CHARACTERS - 4);
        assert_eq!(shortened(&words), words);
        assert_eq!(shortened(&format!("{words} one")), format!("{words} one"));
        assert_eq!(shortened(&format!("{words} one more")), format!("{words} one …"));
        assert_eq!(shortened(&format!("{words} eleven")), format!("{words} …"));
        assert_eq!(shortened(&"x".repeat(50)), format!("{} …", "x".repeat(TEXT_CHARACTERS)));
    }
}
