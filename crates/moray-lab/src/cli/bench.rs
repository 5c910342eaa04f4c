//! `moray bench`: prefill and decode speed of several ways to run a model, or random weights in a model's shape, beside other
//! programs in the same run.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use moray::policy::Chosen;
use serde::{Deserialize, Serialize};

use super::turns::Turn;
use super::ways::{Loaded, Measured, Plan, measure};
use super::{Device, Figure, Peer, Way, eval, progress_bar, written};
use crate::error::{Error, Result};
use crate::fixture::{ModelShape, SplitMix};
use crate::machine::{processor, total_memory_bytes};
use crate::weights::WeightScheme;

/// Arguments of `moray bench`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true, required_unless_present = "shape", conflicts_with = "shape")]
    pub model: Option<PathBuf>,
    /// Random weights in the shape of a model, in Q4_0 with its vocabulary in Q8_0, instead of a model: speeds are those of real
    /// weights, texts are nonsense. None by default.
    #[arg(long, value_enum)]
    pub shape: Option<ModelShape>,
    /// Layers of the shape, for a shorter run; all by default.
    #[arg(long, requires = "shape")]
    pub layers: Option<usize>,
    /// Keep the shape's model in this GGUF file, which other programs run too.
    #[arg(long, requires = "shape", allow_hyphen_values = true)]
    pub write: Option<PathBuf>,
    /// Text whose first tokens are run; random tokens for a shape.
    #[arg(long, allow_hyphen_values = true, required_unless_present = "shape")]
    pub text: Option<PathBuf>,
    /// A way to run it, as switches of `moray generate`, such as "--weights as-file --mlp topk:0.5"; once for each row. By default
    /// dense and 4-bit weights, lists, tokens and heads.
    #[arg(long = "row", allow_hyphen_values = true)]
    pub rows: Vec<Way>,
    /// Tokens of the prefill; 0 for none.
    #[arg(long, default_value_t = 512)]
    pub prompt_tokens: usize,
    /// Positions that decoding starts at, separated by commas.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 500, 2000])]
    pub positions: Vec<usize>,
    /// Tokens that are decoded from each.
    #[arg(short, default_value_t = 32)]
    pub n: usize,
    /// Rounds; in each, every row has its turn.
    #[arg(long, default_value_t = 5)]
    pub repeats: usize,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// A Python that has llama-cpp-python, to measure llama.cpp on the same file.
    #[arg(long, allow_hyphen_values = true)]
    pub peer: Option<PathBuf>,
    /// The script that measures it.
    #[arg(long, default_value = "scripts/llama_cpp_speed.py", allow_hyphen_values = true)]
    pub peer_script: PathBuf,
    /// Another program that prints tokens a second, run in turn with the rows: "NAME: PROGRAM ARGUMENTS", such as
    /// "ik: ik_llama.cpp/build/bin/llama-bench -m {model} -p {prompt} -n {n} -t {threads} -d {positions} -r 1". What stands in braces
    /// is filled in. Read are llama-bench's Markdown, CSV and JSON, and {"tokens_per_second": X} by lines, with n_prompt, n_gen and
    /// n_depth if it is not decoding from the beginning. None by default.
    #[arg(long, allow_hyphen_values = true)]
    pub peer_command: Vec<Peer>,
    /// What sets the policies of rows that do not say it: a .safetensors file of `moray calibrate`, or a text; a short text of our own by default.
    #[arg(long, allow_hyphen_values = true)]
    pub calibration: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What a column holds, tokens a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Column {
    /// Over a prompt of so many tokens.
    Prefill(usize),
    /// One token at a time, one sequence, from this position on.
    Decode(usize),
}

/// One row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// The switches of `moray generate` that make it so, or the other program's name.
    pub name: String,
    /// Bytes of weights that a token reads which is decoded from the first position; none for another program.
    pub weight_bytes_per_token: Option<usize>,
    /// Those bytes a second of decoding from the first position, in percent of what memory reads.
    pub bandwidth_percent: Option<f64>,
    /// By column.
    pub speeds: Vec<Option<Figure>>,
    /// Against its baseline, the first row of the same weights of which all is computed; if it computes all itself, also against the
    /// other programs.
    pub over: Vec<Over>,
}

/// A row's speeds over another's, round by round.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Over {
    /// The other row.
    pub name: String,
    /// By column.
    pub ratios: Vec<Option<Figure>>,
}

/// What a run found, and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bench {
    /// The model, and that its weights are random if they are.
    pub model: String,
    /// The processor's name.
    pub processor: Option<String>,
    /// The device that it ran on, unless that is the processor.
    pub device: Option<String>,
    /// Threads, of other programs too.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Gigabytes (10⁹) a second that memory reads, the better of before and after.
    pub read_bandwidth_gb_per_second: f64,
    /// Rounds.
    pub rounds: usize,
    /// Tokens of a round that are decoded from each position.
    pub decoded_tokens: usize,
    /// What is measured.
    pub columns: Vec<Column>,
    /// One for each way, then one for each other program.
    pub rows: Vec<Row>,
    /// Rows that were left out, and why.
    pub left_out: Option<String>,
}

/// The rows where none are named.
const ROWS: [&str; 10] = [
    "--weights dense",
    "--weights dense --inputs teal:0.7",
    "--weights dense --mlp griffin:0.5",
    "--weights dense --mlp topk:0.5",
    "--weights as-file",
    "--weights as-file --kv-type int8",
    "--weights as-file --mlp griffin:0.5",
    "--weights as-file --mlp topk:0.5",
    "--weights as-file --heads norm:0.5 --kv hole",
    "--weights as-file --mlp topk:0.5 --heads norm:0.5 --kv hole",
];

/// Runs the command.
///
/// # Errors
/// What is wrong with the model, the text, a row or another program.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let bench = bench(arguments)?;
    if arguments.json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &bench).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_report(&bench, out))
}

/// Measures every way and every other program, in turn.
///
/// # Errors
/// As [`run`].
pub fn bench(arguments: &Arguments) -> Result<Bench> {
    check(arguments)?;
    let file = ModelFile::new(arguments)?;
    let (ways, left_out) = ways(arguments, &file)?;
    let mut peers = arguments.peer_command.clone();
    peers.extend(arguments.peer.as_deref().map(|python| Peer::python(python, &arguments.peer_script)));
    let turns = (ways.len() + peers.len()) * arguments.repeats;
    let bar = progress_bar(2 * ways.len() + turns, "measuring");
    let loaded = Loaded::new(ways, || bar.inc(1))?;
    let cpu = &loaded.run(&loaded.ways[0]).cpu;
    let plan = plan(arguments, &loaded)?;
    let turn = |peer: &Peer| -> Turn<'_> {
        let (peer, file, plan, threads) = (peer.clone(), &file, &plan, cpu.threads());
        Box::new(move || peer.measure(&file.path, threads, plan))
    };
    let measured = measure(&loaded, &plan, peers.iter().map(turn).collect(), &mut || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(Bench {
        model: file.name.clone(),
        processor: processor(),
        rows: rows(&loaded, &peers, &plan, &measured),
        device: measured.device,
        threads: cpu.threads(),
        isa: cpu.isa().name().to_owned(),
        read_bandwidth_gb_per_second: measured.bandwidth / 1e9,
        rounds: plan.rounds,
        decoded_tokens: plan.n,
        columns: columns(&plan),
        left_out,
    })
}

fn check(arguments: &Arguments) -> Result<()> {
    let shape = |what, expected, got| Err(Error::Kernel(moray::Error::Shape { what, expected, got }));
    if arguments.positions.is_empty() || arguments.positions.contains(&0) {
        return shape("positions", "at least 1, each after at least 1 token", 0);
    }
    match [("n", arguments.n), ("repeats", arguments.repeats), ("layers", arguments.layers.unwrap_or(1))]
        .into_iter()
        .find(|(_, value)| *value == 0)
    {
        Some((what, got)) => shape(what, "at least 1", got),
        None => Ok(()),
    }
}

/// The model that is measured.
struct ModelFile {
    path: PathBuf,
    name: String,
    /// Of a shape, bytes of its weights in 16 bits.
    dense_bytes: Option<usize>,
    /// Its file where nobody keeps it.
    _unkept: Option<Unkept>,
}

/// A file that goes when the run ends. Where the system lets a file be read by its number it has no name from before its first byte
/// on, so that it goes however the run ends.
struct Unkept {
    path: PathBuf,
    _file: File,
}

impl Unkept {
    fn create(name: &str) -> std::io::Result<Self> {
        let named = std::env::temp_dir().join(format!("moray-{name}-{}.gguf", std::process::id()));
        let file = File::create(&named)?;
        let path = by_number(&file).filter(|path| path.exists() && std::fs::remove_file(&named).is_ok());
        Ok(Self { path: path.unwrap_or(named), _file: file })
    }
}

impl Drop for Unkept {
    fn drop(&mut self) {
        // nothing can be done about a file that is in the way of nobody, and one without a name is none
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The path by which this process and those that it starts read an open file.
#[cfg(target_os = "linux")]
fn by_number(file: &File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    Some(PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())))
}

#[cfg(not(target_os = "linux"))]
fn by_number(_file: &File) -> Option<PathBuf> {
    None
}

impl ModelFile {
    /// The model named, or a shape's, written.
    fn new(arguments: &Arguments) -> Result<Self> {
        let Some(shape) = arguments.shape else {
            let path = arguments.model.clone().unwrap_or_default();
            let name = path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
            return Ok(Self { path, name, dense_bytes: None, _unkept: None });
        };
        let mut fixture = shape.fixture();
        let all = fixture.n_layers;
        if let Some(got) = arguments.layers.filter(|layers| *layers > all) {
            let (what, expected) = ("layers", "no more than the shape has");
            return Err(Error::Kernel(moray::Error::Shape { what, expected, got }));
        }
        fixture.n_layers = arguments.layers.unwrap_or(all);
        let layers =
            if fixture.n_layers == all { String::new() } else { format!(", {} of {all} layers", fixture.n_layers) };
        let unkept = if arguments.write.is_none() { Some(Unkept::create(shape.name())) } else { None };
        let unkept = unkept.transpose().map_err(|source| Error::io("create", &std::env::temp_dir(), source))?;
        let file = Self {
            path: unkept.as_ref().map(|file| file.path.clone()).or_else(|| arguments.write.clone()).unwrap_or_default(),
            name: format!("{}{layers}, random weights in Q4_0, vocabulary in Q8_0", shape.name()),
            dense_bytes: Some(2 * fixture.elems()),
            _unkept: unkept,
        };
        let write = || fixture.gguf_writer().write(&mut BufWriter::new(File::create(&file.path)?));
        write().map_err(|source| Error::io("write", &file.path, source))?;
        Ok(file)
    }
}

/// The ways to run it, and what was left out of those by default.
fn ways(arguments: &Arguments, file: &ModelFile) -> Result<(Vec<Way>, Option<String>)> {
    let mut ways = arguments.rows.clone();
    let mut left_out = None;
    if ways.is_empty() {
        for row in ROWS {
            let way = row.parse().map_err(|error: String| Error::malformed(&file.path, row, "switches", error))?;
            ways.push(way);
        }
        if arguments.device == Device::Cuda {
            // inputs are selected on the CPU only
            ways.retain(|way: &Way| way.switches.left_out.inputs.chosen() == Chosen::Never);
        }
        // whole, by neuron and by input, beside the file and its own form twice
        let needed = file.dense_bytes.map(|bytes| 4 * bytes);
        if let (Some(needed), Some(memory)) = (needed, total_memory_bytes())
            && needed > memory
        {
            ways.retain(|way: &Way| way.switches.weights != WeightScheme::Dense);
            let [needed, memory] = [needed, memory].map(|bytes| bytes as f64 / 1e9);
            left_out = Some(format!(
                "Rows of 16 bits are left out: with them {needed:.0} GB would be held, and the machine has {memory:.0} GB."
            ));
        }
    }
    for way in &mut ways {
        *way = way.clone().on(&file.path);
        way.switches.device = arguments.device;
        way.switches.threads = way.switches.threads.or(arguments.threads);
        way.switches.calibration = way.switches.calibration.take().or_else(|| arguments.calibration.clone());
    }
    Ok((ways, left_out))
}

/// What is run: the text's tokens, or random ones for a shape.
fn plan(arguments: &Arguments, loaded: &Loaded) -> Result<Plan> {
    let run = loaded.run(&loaded.ways[0]);
    let needed = Plan::longest(arguments.prompt_tokens, &arguments.positions);
    let tokens = match &arguments.text {
        Some(path) => eval::tokens_of(&run.tokenizer, path, &eval::read_text(path)?, Some(needed))?,
        None => {
            let mut random = SplitMix(1);
            (0..needed).map(|_| random.below(run.checkpoint.config().vocab) as u32).collect()
        }
    };
    if tokens.len() < needed {
        let expected = "as many as the prefill and the last position take";
        return Err(Error::Kernel(moray::Error::Shape { what: "tokens of text", expected, got: tokens.len() }));
    }
    Ok(Plan {
        tokens,
        prompt: arguments.prompt_tokens,
        positions: arguments.positions.clone(),
        n: arguments.n,
        rounds: arguments.repeats,
    })
}

fn columns(plan: &Plan) -> Vec<Column> {
    let prefill = (plan.prompt > 0).then_some(Column::Prefill(plan.prompt));
    prefill.into_iter().chain(plan.positions.iter().map(|&position| Column::Decode(position))).collect()
}

fn rows(loaded: &Loaded, peers: &[Peer], plan: &Plan, measured: &Measured) -> Vec<Row> {
    let columns = columns(plan);
    let count = loaded.ways.len();
    let names: Vec<String> = loaded
        .ways
        .iter()
        .map(|way| format!("`{}`", way.line))
        .chain(peers.iter().map(|peer| peer.name.clone()))
        .collect();
    let first = usize::from(plan.prompt > 0);
    let row = |index: usize| {
        let speeds: Vec<_> = (0..columns.len()).map(|column| measured.rounds.figure(index, column)).collect();
        // after the speeds
        let bytes = measured.rounds.figure(index, columns.len()).map(|bytes| bytes.median.round() as usize);
        let used = bytes.zip(speeds[first]).map(|(bytes, speed)| bytes as f64 * speed.median);
        let base = (index < count).then(|| Way::baseline(&loaded.ways, index)).filter(|&base| base != index);
        let whole = loaded.ways.get(index).is_some_and(|way| way.switches.compute_all());
        let others = (count..names.len()).filter(|_| whole);
        let over = base.into_iter().chain(others).map(|other| Over {
            name: names[other].clone(),
            ratios: (0..columns.len()).map(|column| measured.rounds.ratio(index, other, column)).collect(),
        });
        Row {
            name: names[index].clone(),
            weight_bytes_per_token: bytes,
            bandwidth_percent: used.map(|used| 100.0 * used / measured.bandwidth),
            over: over.collect(),
            speeds,
        }
    };
    (0..names.len()).map(row).collect()
}

/// Writes what was found: speeds, ratios, and what stands in them.
///
/// # Errors
/// What `out` refuses.
pub fn write_report(bench: &Bench, out: &mut dyn Write) -> std::io::Result<()> {
    let device = bench.device.iter().chain(&bench.processor).cloned().collect::<Vec<_>>().join(" beside ");
    writeln!(
        out,
        "{} on {device}, {} threads, {}; memory reads {:.1} GB/s. Medians (quartiles) of {} rounds in which every row has its turn.",
        bench.model, bench.threads, bench.isa, bench.read_bandwidth_gb_per_second, bench.rounds
    )?;
    bench.left_out.iter().try_for_each(|left_out| writeln!(out, "{left_out}"))?;
    let heads: Vec<String> = bench.columns.iter().map(heading).collect();
    let mut header = vec!["tokens a second".to_owned()];
    header.extend(heads.clone());
    header.extend(["% of bandwidth".into(), "MB a token".into()]);
    let mut table = table(header);
    for row in &bench.rows {
        let mut cells = vec![row.name.clone()];
        cells.extend(row.speeds.iter().map(|speed| cell(*speed, 1)));
        cells.push(row.bandwidth_percent.map_or(String::new(), |percent| format!("{percent:.0}")));
        cells.push(row.weight_bytes_per_token.map_or(String::new(), |bytes| format!("{:.0}", bytes as f64 / 1e6)));
        table.add_row(cells);
    }
    writeln!(out, "\n{}\n", aligned(table))?;
    write_ratios(bench, &heads, out)?;
    writeln!(
        out,
        "- prefill P: over a prompt of P tokens; decode at P: {} tokens, one at a time, one sequence, after P tokens.\n\
         - MB a token: weights of the layers and the output layer, less what was left out in decoding at the first position.\n\
         - % of bandwidth: those a second, of what memory reads.\n\
         - faster: three quarters of the rounds are above 1.",
        bench.decoded_tokens
    )
}

fn write_ratios(bench: &Bench, heads: &[String], out: &mut dyn Write) -> std::io::Result<()> {
    let mut header = vec!["speed over another row".to_owned(), "over".into()];
    header.extend_from_slice(heads);
    header.push("decoding".into());
    let mut table = table(header);
    for row in &bench.rows {
        for over in &row.over {
            let mut cells = vec![row.name.clone(), over.name.clone()];
            cells.extend(over.ratios.iter().map(|ratio| cell(*ratio, 2)));
            cells.push(verdict(&bench.columns, &over.ratios));
            table.add_row(cells);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    writeln!(out, "{}\n", aligned(table))
}

/// Says at which positions decoding gains.
fn verdict(columns: &[Column], ratios: &[Option<Figure>]) -> String {
    let decoding = |(column, ratio): (&Column, &Option<Figure>)| match (column, ratio) {
        (Column::Decode(position), Some(ratio)) => Some((*position, ratio.beside(1.0) == Ordering::Greater)),
        _ => None,
    };
    let found: Vec<(usize, bool)> = columns.iter().zip(ratios).filter_map(decoding).collect();
    let gains: Vec<String> =
        found.iter().filter(|(_, gains)| *gains).map(|(position, _)| position.to_string()).collect();
    match gains.len() {
        _ if found.is_empty() => "not measured".into(),
        0 => "gains nothing".into(),
        count if count == found.len() => "faster".into(),
        _ => format!("faster at {}", gains.join(", ")),
    }
}

fn heading(column: &Column) -> String {
    match column {
        Column::Prefill(tokens) => format!("prefill {tokens}"),
        Column::Decode(position) => format!("decode at {position}"),
    }
}

fn cell(figure: Option<Figure>, digits: usize) -> String {
    figure.map_or(String::new(), |Figure { median, low, high }| {
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    })
}

fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// Numbers to the right.
fn aligned(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_ratios() {
        let columns = [Column::Prefill(512), Column::Decode(8), Column::Decode(500)];
        let ratio = |low: f64| Some(Figure { median: 1.1, low, high: 1.2 });
        let of = |ratios: [Option<Figure>; 3]| verdict(&columns, &ratios);
        assert_eq!(of([ratio(0.5), ratio(1.01), ratio(1.01)]), "faster");
        assert_eq!(of([ratio(2.0), ratio(1.0), ratio(0.9)]), "gains nothing");
        assert_eq!(of([None, ratio(0.9), ratio(1.05)]), "faster at 500");
        assert_eq!(of([None, None, ratio(1.05)]), "faster");
        assert_eq!(of([ratio(2.0), None, None]), "not measured");
    }
}
