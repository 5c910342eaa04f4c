//! `moray demo`: one model in several ways, side by side.

use std::cmp::Ordering;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use super::generate::Report;
use super::ways::{Loaded, Measured, Plan, measure};
use super::{Figure, Run, Switches, Way, check_writable, eval, generate, progress_bar, written};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Runner, Scored, Text, evaluate};
use crate::machine::processor;
use crate::plot::{self, Labels, Series};

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
    /// Rounds; in each, every row has its turn to decode as many.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// The text to continue.
    #[arg(long, short, default_value = "The history of the lighthouse begins with", allow_hyphen_values = true)]
    pub prompt: String,
    /// What sets the policies: a .safetensors file of `moray calibrate`, or a text; a short text of our own by default.
    #[arg(long, allow_hyphen_values = true)]
    pub calibration: Option<PathBuf>,
    /// Write the table with plots to this file, a page that loads nothing; none by default.
    #[arg(long, allow_hyphen_values = true)]
    pub html: Option<PathBuf>,
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
    /// Decode speed, tokens a second.
    pub speed: Figure,
    /// Bytes of weights that a token reads, with what the scored part kept.
    pub bytes_per_token: usize,
    /// These bytes a second, in percent of what memory reads.
    pub bandwidth_percent: f64,
    /// Against what it is compared; none for the first row.
    pub over: Option<Over>,
    /// Text, and a run of its own.
    pub generated: Report,
}

/// A row beside its baseline: the first of the same weights of which all is computed, or the first of all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Over {
    /// The baseline's name.
    pub name: String,
    /// Speed over its speed, round by round.
    pub speed_up: Figure,
    /// Perplexity over its perplexity, less 1, in percent.
    pub perplexity_percent: f64,
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
    /// Rounds of decoding, and tokens of each.
    pub rounds: usize,
    /// Tokens decoded in a round.
    pub decoded_tokens: usize,
    /// One for each way to run.
    pub rows: Vec<Row>,
}

/// Name, and switches.
const WAYS: [(&str, &str); 13] = [
    ("dense, 16 bits", "--weights dense"),
    ("W4A8, the file's own weights", "--weights as-file"),
    ("W4A8 per channel", "--weights per-channel"),
    ("W4A8 groups of 64", "--weights g64"),
    ("inputs, TEAL 0.7", "--weights dense --inputs teal:0.7"),
    ("inputs, TEAL 0.5", "--weights dense --inputs teal:0.5"),
    ("sparse, auto", "--weights dense --sparse auto"),
    ("sparse, top-k 0.7", "--weights dense --mlp topk:0.7"),
    ("sparse, CATS 0.7", "--weights dense --mlp cats:0.7"),
    ("sparse, TDA 0.7", "--weights dense --mlp tda:0.7"),
    ("W4A8 + auto", "--weights as-file --sparse auto"),
    ("W4A8 + top-k 0.7", "--weights as-file --mlp topk:0.7"),
    ("W4A8 + top-k 0.7 + heads 0.7", "--weights as-file --mlp topk:0.7 --heads norm:0.7 --kv hole"),
];

/// Runs the command.
///
/// # Errors
/// What is wrong with the model or the text.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    arguments.html.as_deref().map_or(Ok(()), check_writable)?;
    let demo = demo(arguments)?;
    if let Some(path) = &arguments.html {
        std::fs::write(path, demo.page()?).map_err(|source| Error::io("write", path, source))?;
    }
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &demo).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_report(&demo, out))
}

/// Runs every way and measures it.
///
/// # Errors
/// As [`run`].
pub fn demo(arguments: &Arguments) -> Result<Demo> {
    if let Some(what) = [("n", arguments.n), ("repeats", arguments.repeats)].iter().find(|(_, value)| *value == 0) {
        return Err(Error::Kernel(moray::Error::Shape { what: what.0, expected: "at least 1", got: 0 }));
    }
    let text = eval::read_text(&arguments.text)?;
    let bar = progress_bar((3 + arguments.repeats) * WAYS.len(), "running");
    let (names, loaded) = load(arguments, || bar.inc(1))?;
    let run = loaded.run(&loaded.ways[0]);
    let tokens = eval::tokens_of(&run.tokenizer, &arguments.text, &text, Some(arguments.tokens))?;
    let mut found = Vec::with_capacity(names.len());
    for way in &loaded.ways {
        let run = loaded.run(way);
        let generated =
            generate::generate(run, &generate::Arguments::greedy(&way.switches, arguments), &mut |_| Ok(()))?;
        found.push((generated, evaluation(arguments, &way.switches, run, &tokens)?));
        bar.inc(1);
    }
    let prompt = run.tokenizer.encode(&arguments.prompt, run.checkpoint.config().add_bos)?;
    let positions = vec![prompt.len()];
    let plan = Plan { tokens: prompt, prompt: 0, positions, n: arguments.n, rounds: arguments.repeats };
    let measured = measure(&loaded, &plan, Vec::new(), &mut || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(Demo {
        processor: processor(),
        threads: run.cpu.threads(),
        isa: run.cpu.isa().name().to_owned(),
        read_bandwidth_gb_per_second: measured.bandwidth / 1e9,
        tokens: tokens.len(),
        context: arguments.context,
        rounds: plan.rounds,
        decoded_tokens: plan.n,
        rows: rows(&names, &loaded, found, &measured),
    })
}

/// Every way that the model has, and its name: all, but those with a preview where it would spare nothing of the output layer.
fn load(arguments: &Arguments, mut tick: impl FnMut()) -> Result<(Vec<&'static str>, Loaded)> {
    let model = &arguments.model;
    let mut ways = Vec::with_capacity(WAYS.len());
    for (name, line) in WAYS {
        let way: Way = line.parse().map_err(|error: String| Error::malformed(model, line, "switches", error))?;
        let mut way = way.on(model);
        way.switches.calibration.clone_from(&arguments.calibration);
        ways.push((name, way));
    }
    let (names, all) = ways.iter().cloned().unzip();
    match Loaded::new(all, &mut tick) {
        Err(Error::Kernel(moray::Error::Unsupported { what: "logits", .. })) => {
            ways.retain(|(_, way)| way.switches.left_out.logits.0.is_none());
            let (names, rest) = ways.into_iter().unzip();
            Ok((names, Loaded::new(rest, tick)?))
        }
        loaded => Ok((names, loaded?)),
    }
}

fn evaluation(arguments: &Arguments, switches: &Switches, run: &Run, tokens: &[u32]) -> Result<Evaluation> {
    let config = run.checkpoint.config();
    let bos = config.window_start();
    let text = Text { tokens, bos, context: arguments.context, scored: Scored::SecondHalf };
    text.check(config.context_length)?;
    let settings = switches.settings(run, 1, arguments.context)?;
    let runner = Runner { device: &run.cpu, model: &run.model, settings };
    evaluate(&run.cpu, &text, config.context_length, &runner, None, &mut |_| ())
}

fn rows(names: &[&str], loaded: &Loaded, found: Vec<(Report, Evaluation)>, measured: &Measured) -> Vec<Row> {
    let perplexities: Vec<f64> = found.iter().map(|(_, evaluation)| evaluation.perplexity).collect();
    let row = |(index, (generated, evaluation)): (usize, (Report, Evaluation))| {
        let base = Way::baseline(&loaded.ways, index);
        let speed_up = measured.rounds.ratio(index, base, 0).filter(|_| base != index);
        let speed = measured.rounds.figure(index, 0)?;
        let bytes = loaded.run(&loaded.ways[index]).model.bytes_read(&evaluation.usage);
        Some(Row {
            name: names[index].to_owned(),
            switches: loaded.ways[index].line.clone(),
            perplexity: evaluation.perplexity,
            perplexity_se: evaluation.perplexity_se,
            kept_neurons: evaluation.kept_neurons,
            speed,
            bytes_per_token: bytes,
            bandwidth_percent: 100.0 * speed.median * bytes as f64 / measured.bandwidth,
            over: speed_up.map(|speed_up| Over {
                name: names[base].to_owned(),
                speed_up,
                perplexity_percent: 100.0 * (perplexities[index] / perplexities[base] - 1.0),
            }),
            generated,
        })
    };
    found.into_iter().enumerate().filter_map(row).collect()
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

/// Writes the table as Markdown, under it what gains and what does not, and what its columns mean.
///
/// # Errors
/// What `out` refuses.
pub fn write_report(demo: &Demo, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADINGS);
    table.add_rows(demo.rows.iter().map(Row::cells));
    for column in 1..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "{table}\n\n{}\n\n{}\n", demo.place(), verdicts(&demo.rows))?;
    for term in demo.terms() {
        writeln!(out, "- {term}")?;
    }
    writeln!(out, "\n{NEXT}")
}

/// The table's header.
const HEADINGS: [&str; 8] = ["", "tok/s", "speed-up", "% of bandwidth", "MB a token", "perplexity", "neurons", "text"];

/// What to do after the demo.
const NEXT: &str = "Try next: `moray generate --model M --prompt TEXT --weights as-file` continues a text of yours, `moray bench` \
                    measures prompts and longer texts, `moray study` other methods and shares.";

impl Row {
    /// Its line of the table.
    fn cells(&self) -> [String; 8] {
        let text: String = self.generated.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let Figure { median, low, high } = self.speed;
        [
            self.name.clone(),
            format!("{median:.1} ({low:.1}–{high:.1})"),
            self.over.as_ref().map_or("1.00×".into(), |over| format!("{:.2}×", over.speed_up.median)),
            format!("{:.0}", self.bandwidth_percent),
            format!("{:.0}", self.bytes_per_token as f64 / 1e6),
            format!("{:.1} ± {:.1}", self.perplexity, self.perplexity_se),
            self.kept_neurons.map_or("all".into(), |kept| format!("{:.0}%", 100.0 * kept)),
            shortened(&text),
        ]
    }
}

impl Demo {
    /// The page: what gains, a plot of speed and perplexity, and the table with its terms.
    ///
    /// # Errors
    /// [`Error::Io`] if the plotting library fails.
    pub fn page(&self) -> Result<String> {
        let first = self.rows.first();
        let point = |row: &Row| {
            let first = first?;
            let increase = 100.0 * (row.perplexity / first.perplexity - 1.0);
            Some(Series { name: row.name.clone(), points: vec![(row.speed.median / first.speed.median, increase)] })
        };
        let series: Vec<Series> = self.rows.iter().filter_map(point).collect();
        let labels = Labels {
            title: "Speed and quality",
            x: "times the first row's tokens a second",
            y: "perplexity over the first row's, %",
        };
        let paragraphs =
            |text: String| text.lines().map(|line| format!("<p>{}</p>\n", plot::escape(line))).collect::<String>();
        let terms: String = self.terms().iter().map(|term| format!("<li>{}</li>\n", plot::escape(term))).collect();
        let body = [
            paragraphs(self.place()),
            paragraphs(verdicts(&self.rows)),
            plot::lines(labels, &series, SHOWN_PERCENT)?,
            plot::table(&HEADINGS, self.rows.iter().map(Row::cells)),
            format!("<ul>\n{terms}</ul>\n"),
        ];
        Ok(plot::page("One model, in several ways", &body.concat()))
    }

    /// Where it was measured.
    fn place(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or("unknown processor");
        let Demo { threads, isa, read_bandwidth_gb_per_second, .. } = self;
        format!("{processor}, {threads} threads, {isa}; memory reads {read_bandwidth_gb_per_second:.1} GB/s.")
    }
}

/// Perplexity over the first row's that the plot shows, in percent; what is worse lies at its upper edge.
const SHOWN_PERCENT: f64 = 100.0;

/// What decodes faster than its baseline here, what does not, and at what change of perplexity.
fn verdicts(rows: &[Row]) -> String {
    let compared = || rows.iter().filter_map(|row| row.over.as_ref().map(|over| (row, over)));
    let said = |(row, over): (&Row, &Over)| {
        let (times, percent) = (over.speed_up.median, over.perplexity_percent);
        format!("{} {times:.2}× {} at {percent:+.0}% perplexity", row.name, over.name)
    };
    let of = |side: Ordering| {
        let found = compared().filter(|(_, over)| over.speed_up.beside(1.0) == side).map(said).collect::<Vec<_>>();
        if found.is_empty() { "nothing".to_owned() } else { found.join("; ") }
    };
    format!(
        "Faster on this machine: {}.\nSlower: {}.\nNeither, as rounds differ: {}.",
        of(Ordering::Greater),
        of(Ordering::Less),
        of(Ordering::Equal)
    )
}

impl Demo {
    /// What the table's words mean, a line each.
    fn terms(&self) -> [String; 10] {
        let Demo { tokens, context, rounds, decoded_tokens, .. } = self;
        [
            "W4A8: weights in 4 bits, multiplied with activations in 8.".into(),
            "top-k K, CATS K, TDA K: the fraction K of each MLP's neurons is computed: the most active ones of each token, those whose \
             gate exceeds a calibrated threshold, those that were most active over the prompt. TEAL K: the fraction K of the inputs of \
             every matrix is read, those above calibrated thresholds. heads K: the fraction K of the attention heads runs."
                .into(),
            if self.rows.iter().any(|row| row.name.ends_with("auto")) {
                "auto: TEAL 0.75 in matrices of which an input has 1024 bytes of weights or more, and an output layer whose 64 largest logits are exact, the others those of a copy in 4 bits, of which 0.7 is read."
            } else {
                "auto is not here: of so small an output layer a copy in 4 bits spares nothing."
            }
            .into(),
            format!(
                "tok/s: greedy decoding of {decoded_tokens} tokens, one sequence; median (quartiles) of {rounds} rounds in which every \
                 row has its turn."
            ),
            "speed-up: over the same weights with all computed, and of those over dense in 16 bits, round by round; faster or slower: \
             three quarters of the rounds are."
                .into(),
            "% of bandwidth: bytes of weights that are read, of what memory reads.".into(),
            "MB a token: weights of the layers and the output layer, less what was left out in the scored half; the output layer of rows \
             in 4 bits is as the file has it."
                .into(),
            format!(
                "perplexity: over {tokens} tokens in windows of {context}, the first half of each as prompt, the second scored, ± a \
                 standard error."
            ),
            "neurons: the fraction computed in the scored half. Top-k and CATS select for every token, the prompt's too, and so does TEAL \
             among the inputs of every matrix; TDA and heads by the prompt."
                .into(),
            "text: the first words that follow the prompt.".into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, over: Option<(f64, f64)>) -> Row {
        let figure = |low: f64| Figure { median: low + 0.25, low, high: low + 0.5 };
        Row {
            name: name.into(),
            switches: String::new(),
            perplexity: 20.0,
            perplexity_se: 1.0,
            kept_neurons: None,
            speed: figure(50.0),
            bytes_per_token: 1,
            bandwidth_percent: 50.0,
            over: over.map(|(low, perplexity_percent)| Over {
                name: "dense".into(),
                speed_up: figure(low),
                perplexity_percent,
            }),
            generated: Report {
                text: String::new(),
                prompt_tokens: 1,
                generated_tokens: 1,
                load_seconds: 0.0,
                prefill_tokens_per_second: 1.0,
                decode_tokens_per_second: 1.0,
                weight_bytes_per_token: 1,
                decode_gb_per_second: 1.0,
                read_bandwidth_gb_per_second: 1.0,
                bandwidth_percent: 1.0,
                kv_bytes: 1,
                peak_memory_bytes: None,
            },
        }
    }

    #[test]
    fn verdicts_say_what_the_ratios_say() {
        let over = [("a", 1.5, 4.0), ("b", 0.25, -1.0), ("c", 1.0, 0.0)];
        let mut rows = vec![row("dense", None)];
        assert_eq!(
            verdicts(&rows),
            "Faster on this machine: nothing.\nSlower: nothing.\nNeither, as rounds differ: nothing."
        );
        rows.extend(over.map(|(name, low, percent)| row(name, Some((low, percent)))));
        assert_eq!(
            verdicts(&rows),
            "Faster on this machine: a 1.75× dense at +4% perplexity.\nSlower: b 0.50× dense at -1% perplexity.\n\
             Neither, as rounds differ: c 1.25× dense at +0% perplexity."
        );
    }

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
