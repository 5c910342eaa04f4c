//! `moray bench`: prefill and decode speed of several ways to run a model, beside llama.cpp in the same run.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use moray::llama::{LogitRows, Sequence};
use moray::policy::Named;
use serde::{Deserialize, Serialize};

use super::{Device, KvSwitch, Run, Switches, eval, progress_bar, switches, written};
use crate::activations::ActivationScheme;
use crate::error::{Error, Result};
use crate::machine::{processor, read_bandwidth};
use crate::weights::WeightScheme;

/// Tokens of the prompt that decoding starts after.
const DECODE_PROMPT: usize = 8;

/// Arguments of `moray bench`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// Text whose first tokens are run.
    #[arg(long, allow_hyphen_values = true)]
    pub text: PathBuf,
    /// Tokens of the prefill.
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Tokens that are decoded, after 8.
    #[arg(short, default_value_t = 96)]
    pub n: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// A Python that has llama-cpp-python, to measure llama.cpp on the same file before and after.
    #[arg(long, allow_hyphen_values = true)]
    pub peer: Option<PathBuf>,
    /// The script that measures it.
    #[arg(long, default_value = "scripts/llama_cpp_speed.py", allow_hyphen_values = true)]
    pub peer_script: PathBuf,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Tokens a second.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Speed {
    /// Over the prompt.
    pub prefill: f64,
    /// One token at a time, one sequence.
    pub decode: f64,
}

/// One way to run the model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The switches of `moray generate` that make it so.
    pub switches: String,
    /// Medians.
    pub speed: Speed,
    /// Bytes of weights that a dense token reads.
    pub weight_bytes_per_token: usize,
    /// Decoding's weight bytes a second, as if every weight were read, in percent of what memory reads.
    pub bandwidth_percent: f64,
    /// Speed over the peer's.
    pub over_peer: Option<Speed>,
}

/// What a run found, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bench {
    /// The processor's name.
    pub processor: Option<String>,
    /// Threads, of the peer too.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Gigabytes (10⁹) a second that memory reads, the better of before and after.
    pub read_bandwidth_gb_per_second: f64,
    /// llama.cpp, the better of before and after.
    pub peer: Option<Speed>,
    /// One for each way.
    pub rows: Vec<Row>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the model, the text or the peer.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let bench = measure(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &bench).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_table(&bench, out))
}

/// Measures every way, and the peer before and after.
///
/// # Errors
/// As [`run`].
pub fn measure(arguments: &Arguments) -> Result<Bench> {
    let ways = [
        (WeightScheme::Dense, "dense"),
        (WeightScheme::AsFile, "dense"),
        (WeightScheme::AsFile, "griffin:0.5"),
        (WeightScheme::AsFile, "topk:0.5"),
    ];
    let first = switches_of(arguments, ways[0])?.cpu()?;
    let bar = progress_bar(ways.len() + 2, "measuring");
    let before = peer(arguments, first.threads())?;
    let mut bandwidth = read_bandwidth(&first);
    bar.inc(1);
    let mut rows = Vec::with_capacity(ways.len());
    for way in ways {
        let switches = switches_of(arguments, way)?;
        switches.check_cpu()?;
        let run = switches.load()?;
        let speed = speed(arguments, &switches, &run)?;
        let bytes = run.weight_bytes_per_token();
        let name = format!("--weights {} --mlp {}", switches.weights, switches.mlp);
        let row = Row { switches: name, speed, weight_bytes_per_token: bytes, bandwidth_percent: 0.0, over_peer: None };
        rows.push(row);
        bar.inc(1);
    }
    bandwidth = bandwidth.max(read_bandwidth(&first));
    let after = peer(arguments, first.threads())?;
    bar.finish_and_clear();
    let best = |a: Speed, b: Speed| Speed { prefill: a.prefill.max(b.prefill), decode: a.decode.max(b.decode) };
    let peer = before.zip(after).map(|(a, b)| best(a, b));
    for row in &mut rows {
        row.bandwidth_percent = 100.0 * row.speed.decode * row.weight_bytes_per_token as f64 / bandwidth;
        row.over_peer = peer
            .map(|peer| Speed { prefill: row.speed.prefill / peer.prefill, decode: row.speed.decode / peer.decode });
    }
    Ok(Bench {
        processor: processor(),
        threads: first.threads(),
        isa: first.isa().name().to_owned(),
        read_bandwidth_gb_per_second: bandwidth / 1e9,
        peer,
        rows,
    })
}

fn switches_of(arguments: &Arguments, (weights, mlp): (WeightScheme, &str)) -> Result<Switches> {
    Ok(Switches {
        model: arguments.model.clone(),
        weights,
        activations: ActivationScheme::default(),
        mlp: switches::neurons(mlp)?,
        calibration: None,
        heads: Named::EVERY_HEAD,
        kv: KvSwitch(moray::attention::KvPolicy::WriteAll),
        kv_type: switches::KvType::F16,
        device: Device::Cpu,
        threads: arguments.threads,
        isa: None,
    })
}

fn speed(arguments: &Arguments, switches: &Switches, run: &Run) -> Result<Speed> {
    let text = eval::read_text(&arguments.text)?;
    let needed = arguments.prompt_tokens.saturating_add(arguments.n);
    let tokens = eval::tokens_of(run, &arguments.text, &text, Some(needed))?;
    if tokens.len() < needed || arguments.prompt_tokens < DECODE_PROMPT || arguments.n == 0 || arguments.repeats == 0 {
        let expected = "as many as prompt and decoding take, at least 8 and 1";
        return Err(Error::Kernel(moray::Error::Shape { what: "tokens of text", expected, got: tokens.len() }));
    }
    let (prompt, rest) = tokens.split_at(arguments.prompt_tokens);
    let mut session = run.model.session(&run.cpu, switches.settings(run, 1, needed)?)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // the first round warms up
    for round in 0..=arguments.repeats {
        run.model.truncate(&run.cpu, &mut session, 0, 0)?;
        let start = Instant::now();
        run.model.prefill(&run.cpu, &mut session, 0, prompt)?;
        let prefilled = prompt.len() as f64 / start.elapsed().as_secs_f64();
        run.model.truncate(&run.cpu, &mut session, 0, 0)?;
        run.model.prefill(&run.cpu, &mut session, 0, &prompt[..DECODE_PROMPT])?;
        session.start_generation(0)?;
        let start = Instant::now();
        for &token in rest {
            let sequence = Sequence { slot: 0, tokens: &[token] };
            run.model.forward(&run.cpu, &mut session, &[sequence], LogitRows::Last)?;
        }
        if round > 0 {
            prefill.push(prefilled);
            decode.push(rest.len() as f64 / start.elapsed().as_secs_f64());
        }
    }
    Ok(Speed { prefill: median(&mut prefill), decode: median(&mut decode) })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
    (values[low] + values[high]) / 2.0
}

fn peer(arguments: &Arguments, threads: usize) -> Result<Option<Speed>> {
    let Some(python) = &arguments.peer else { return Ok(None) };
    let mut command = Command::new(python);
    command.arg(&arguments.peer_script).arg(&arguments.model).arg(&arguments.text);
    command.args([arguments.prompt_tokens, arguments.n, arguments.repeats, threads].map(|n| n.to_string()));
    let output = command.output().map_err(|source| Error::io("run", python, source))?;
    let malformed = |got: String| Error::malformed(&arguments.peer_script, "peer", "its speeds as JSON", got);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(malformed(stderr.lines().last().unwrap_or("no output").to_owned()));
    }
    serde_json::from_slice(&output.stdout).map(Some).map_err(|error| malformed(error.to_string()))
}

/// Writes the table as Markdown, and under it what its columns mean.
///
/// # Errors
/// What `out` refuses.
pub fn write_table(bench: &Bench, out: &mut dyn Write) -> std::io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "prefill tok/s", "× llama.cpp", "decode tok/s", "× llama.cpp", "% of bandwidth"]);
    if let Some(peer) = bench.peer {
        let (prefill, decode) = (format!("{:.0}", peer.prefill), format!("{:.1}", peer.decode));
        table.add_row(["llama.cpp", &prefill, "1.00", &decode, "1.00", ""]);
    }
    for row in &bench.rows {
        let over = |pick: fn(Speed) -> f64| row.over_peer.map_or(String::new(), |over| format!("{:.2}", pick(over)));
        table.add_row([
            format!("`{}`", row.switches),
            format!("{:.0}", row.speed.prefill),
            over(|speed| speed.prefill),
            format!("{:.1}", row.speed.decode),
            over(|speed| speed.decode),
            format!("{:.0}", row.bandwidth_percent),
        ]);
    }
    writeln!(out, "{table}\n")?;
    let processor = bench.processor.as_deref().unwrap_or("unknown processor");
    writeln!(
        out,
        "{processor}, {} threads, {}; memory reads {:.1} GB/s. Medians; bandwidth as if every weight were read; llama.cpp on \
         the same file, measured before and after, the better of both.",
        bench.threads, bench.isa, bench.read_bandwidth_gb_per_second
    )?;
    writeln!(out, "{}", selections(bench))
}

/// What each selection does to decoding beside the same weights without one.
fn selections(bench: &Bench) -> String {
    let parts =
        |row: &Row| row.switches.split_once(" --mlp ").map(|(weights, mlp)| (weights.to_owned(), mlp.to_owned()));
    let found = bench.rows.iter().filter_map(|row| {
        let (weights, mlp) = parts(row).filter(|(_, mlp)| mlp != "dense")?;
        let base = bench.rows.iter().find(|base| parts(base) == Some((weights.clone(), "dense".into())))?;
        Some(format!("{mlp} {:.2}×", row.speed.decode / base.speed.decode))
    });
    format!("Decoding beside the same weights dense: {}.", found.collect::<Vec<_>>().join(", "))
}
