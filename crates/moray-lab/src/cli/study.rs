//! `moray study`: a grid of methods on one model and text.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use moray::policy::Named;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::ways::{Loaded, Plan, measure};
use super::{Device, KvSwitch, LogitsSwitch, Way, eval, switches, written};
use crate::checkpoint::{Checkpoint, hex};
use crate::error::{Error, Result};
use crate::machine::processor;
use crate::study::{Cell, Decoding, Grid, Log, Method, Record, SiteKept, Study};
use crate::weights::WeightScheme;

/// Arguments of `moray study`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// A UTF-8 text that no policy was calibrated on.
    #[arg(long, allow_hyphen_values = true)]
    pub text: PathBuf,
    /// Where finished cells (study.jsonl), the table (study.md, study.csv, study.json) and the page (study.html) go. Cells that
    /// are there already, of the same model, text, settings and machine, are not run again.
    #[arg(long, default_value = "study", allow_hyphen_values = true)]
    pub out: PathBuf,
    /// Policies of neurons and of inputs, and auto, the scheme of --sparse: a name alone runs at each kept share, one with its argument as it
    /// is.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "topk,cats,griffin,tda,coreinfer,dejavu,moefication,static,random,teal,auto"
    )]
    pub methods: Vec<Method>,
    /// Kept shares.
    #[arg(long, value_delimiter = ',', default_values_t = [0.9, 0.8, 0.7, 0.6, 0.5])]
    pub kept: Vec<f32>,
    /// Policies of heads.
    #[arg(long, value_delimiter = ',', default_value = "all", value_parser = switches::heads)]
    pub heads: Vec<Named>,
    /// What is stored for heads that do not run.
    #[arg(long, value_delimiter = ',', default_value = "write-all")]
    pub kv: Vec<KvSwitch>,
    /// Logits that are computed exactly, as in `moray eval`; with the method dense, of a model of which all else is computed.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub logits: Vec<LogitsSwitch>,
    /// How weights are held, as in `moray eval`.
    #[arg(long, value_delimiter = ',', default_value = "dense")]
    pub weights: Vec<WeightScheme>,
    /// Another way to run it, as switches of `moray generate`; once for each, none by default.
    #[arg(long = "row", allow_hyphen_values = true)]
    pub rows: Vec<Way>,
    /// A .safetensors file of `moray calibrate`, or a text whose first 512 tokens set the policies that are calibrated (1024 those that predict);
    /// a short text of our own by default.
    #[arg(long, allow_hyphen_values = true)]
    pub calibration: Option<PathBuf>,
    /// Tokens of the text.
    #[arg(long, default_value_t = 4096)]
    pub tokens: usize,
    /// Tokens of a window; the second half of each is scored.
    #[arg(long, default_value_t = 512)]
    pub context: usize,
    /// Tokens that are decoded in a round, after half a window.
    #[arg(short, default_value_t = 16)]
    pub n: usize,
    /// Rounds in which a cell, its weights whole and its method that keeps everything have their turn to decode; 0 to measure no
    /// speed.
    #[arg(long, default_value_t = 3)]
    pub repeats: usize,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the model, the text, the grid or the folder of results.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    let study = study(arguments)?;
    let mut table = Vec::new();
    written(study.write(&mut table))?;
    let mut json = serde_json::to_vec_pretty(&study)
        .map_err(|source| Error::io("write", &arguments.out.join("study.json"), source.into()))?;
    json.push(b'\n');
    let (csv, page) = (study.csv(), study.page()?);
    for (name, bytes) in [
        ("study.md", &table[..]),
        ("study.csv", csv.as_bytes()),
        ("study.json", &json),
        ("study.html", page.as_bytes()),
    ] {
        let path = arguments.out.join(name);
        std::fs::write(&path, bytes).map_err(|source| Error::io("write", &path, source))?;
    }
    written(out.write_all(&table))
}

/// Runs what is not finished, and puts all cells together.
///
/// # Errors
/// As [`run`].
pub fn study(arguments: &Arguments) -> Result<Study> {
    let cells = cells(arguments)?;
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let text = eval::read_text(&arguments.text)?;
    let tokenizer = checkpoint.tokenizer()?;
    let tokens = eval::tokens_of(&tokenizer, &arguments.text, &text, Some(arguments.tokens))?;
    let window = arguments.context - usize::from(checkpoint.config().window_start().is_some());
    if tokens.len() < window {
        let expected = format!("at least the {window} tokens of a window");
        return Err(Error::malformed(&arguments.text, "text", expected, tokens.len()));
    }
    // the isa and the threads are the same for all
    let cpu = cells[0].1.switches.cpu()?;
    let keys = Keys::new(arguments, &checkpoint, &tokens, (cpu.threads(), cpu.isa().name()))?;
    std::fs::create_dir_all(&arguments.out).map_err(|source| Error::io("create", &arguments.out, source))?;
    let mut log = Log::open(&arguments.out.join("study.jsonl"))?;
    let pending: Vec<&(Cell, Way)> = cells.iter().filter(|(cell, _)| log.find(&keys.of(cell)).is_none()).collect();
    if !pending.is_empty() {
        let bench = Bench::new(arguments, &tokens, &pending).map_err(|error| with_the_way_out(error, arguments))?;
        for (index, (cell, way)) in pending.iter().enumerate() {
            eprintln!("cell {} of {}: {}", cells.len() - pending.len() + index + 1, cells.len(), cell.line);
            log.add(bench.record(cell, way, keys.of(cell))?)?;
        }
    }
    let name = |path: &Path| path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    Ok(Study {
        model: name(&arguments.model),
        text: name(&arguments.text),
        tokens: tokens.len(),
        context: arguments.context,
        processor: processor(),
        threads: cpu.threads(),
        isa: cpu.isa().name().to_owned(),
        decoded: (arguments.repeats > 0).then_some([arguments.n, arguments.context / 2]),
        rounds: arguments.repeats,
        records: cells.iter().filter_map(|(cell, _)| log.find(&keys.of(cell)).cloned()).collect(),
    })
}

/// The grid's cells and the rows besides, each with the switches that it says.
fn cells(arguments: &Arguments) -> Result<Vec<(Cell, Way)>> {
    let shape = |what, expected, got| Err(Error::Kernel(moray::Error::Shape { what, expected, got }));
    if arguments.context < 4 {
        return shape("context", "at least 4", arguments.context);
    }
    if arguments.repeats > 0 && arguments.n == 0 {
        return shape("n", "at least 1 where speed is measured", 0);
    }
    if let Some(&got) = arguments.kept.iter().find(|kept| !(**kept > 0.0 && **kept <= 1.0)) {
        return Err(Error::Kernel(moray::Error::Value { what: "kept", expected: "a number in (0, 1]", got }));
    }
    let mut cells = grid(arguments).cells();
    for row in &arguments.rows {
        let whole = format!("--weights {}", row.switches.weights);
        let cell = Cell { line: row.line.clone(), series: row.line.clone(), whole, idle: None };
        if cells.iter().all(|other| other.line != cell.line) {
            cells.push(cell);
        }
    }
    cells.into_iter().map(|cell| way(arguments, &cell.line).map(|way| (cell, way))).collect()
}

fn grid(arguments: &Arguments) -> Grid {
    Grid {
        weights: arguments.weights.iter().map(ToString::to_string).collect(),
        methods: arguments.methods.clone(),
        kept: arguments.kept.clone(),
        heads: arguments.heads.clone(),
        kv: arguments.kv.iter().map(ToString::to_string).collect(),
        logits: arguments.logits.clone(),
    }
}

/// Names the switches without which a model has no preview of its logits to refuse: a method of the default is one that has.
fn with_the_way_out(error: Error, arguments: &Arguments) -> Error {
    match (error, grid(arguments).without_previews()) {
        (Error::Kernel(moray::Error::Unsupported { what: "logits", expected, got }), Some(switches)) => {
            let got = format!("{got}; {switches} leaves out what has one");
            Error::Kernel(moray::Error::Unsupported { what: "logits", expected, got })
        }
        (error, _) => error,
    }
}

/// A line's switches, with those of the command.
fn way(arguments: &Arguments, line: &str) -> Result<Way> {
    let way: Way = line.parse().map_err(|error| Error::malformed(&arguments.model, line, "switches", error))?;
    let mut way = way.on(&arguments.model);
    way.switches.device = arguments.device;
    way.switches.threads = way.switches.threads.or(arguments.threads);
    way.switches.calibration = way.switches.calibration.or_else(|| arguments.calibration.clone());
    Ok(way)
}

/// What the cells of a study have in common, hashed.
struct Keys(String);

impl Keys {
    fn new(
        arguments: &Arguments,
        checkpoint: &Checkpoint,
        tokens: &[u32],
        machine: (usize, &'static str),
    ) -> Result<Self> {
        #[derive(Serialize)]
        struct Common<'a> {
            program: &'static str,
            model: String,
            tokens: &'a [u32],
            context: usize,
            calibration: Option<Vec<u8>>,
            decoding: [usize; 2],
            device: Device,
            processor: Option<String>,
            machine: (usize, &'static str),
        }
        let read = |path: &PathBuf| std::fs::read(path).map_err(|source| Error::io("read", path, source));
        let common = Common {
            program: env!("CARGO_PKG_VERSION"),
            model: checkpoint.content_hash(),
            tokens,
            context: arguments.context,
            calibration: arguments.calibration.as_ref().map(read).transpose()?,
            decoding: [arguments.n, arguments.repeats],
            device: arguments.device,
            processor: processor(),
            machine,
        };
        let text = serde_json::to_vec(&common).map_err(|source| Error::io("hash", &arguments.out, source.into()))?;
        Ok(Keys(hex(&Sha256::digest(text))))
    }

    /// The key of a cell.
    fn of(&self, cell: &Cell) -> String {
        hex(&Sha256::digest(format!("{} {} {:?}", self.0, cell.line, cell.idle)))
    }
}

/// What cells are run with.
struct Bench<'a> {
    arguments: &'a Arguments,
    tokens: &'a [u32],
    loaded: Loaded,
}

impl<'a> Bench<'a> {
    /// Loads the models of the cells and of what they are compared with.
    fn new(arguments: &'a Arguments, tokens: &'a [u32], cells: &[&(Cell, Way)]) -> Result<Self> {
        let mut ways = vec![way(arguments, "--weights dense")?];
        for (cell, own) in cells {
            ways.extend([own.clone(), way(arguments, &cell.whole)?]);
            if let Some(idle) = cell.idle.as_ref().filter(|_| arguments.repeats > 0) {
                ways.push(way(arguments, idle)?);
            }
        }
        Ok(Bench { arguments, tokens, loaded: Loaded::new(ways, || ())? })
    }

    /// Runs a cell.
    fn record(&self, cell: &Cell, way: &Way, key: String) -> Result<Record> {
        let whole = (cell.line != cell.whole).then_some(&*cell.whole);
        let against = whole.or((way.switches.weights != WeightScheme::Dense).then_some("--weights dense"));
        let reference = against.map(|line| self::way(self.arguments, line)).transpose()?;
        let report = self.score(way, reference.as_ref())?;
        let (model, found) = (&self.loaded.run(way).model, &report.evaluation);
        let (dense, bytes_per_token) = (found.dense.as_ref(), model.bytes_read(&found.usage));
        Ok(Record {
            key,
            switches: cell.line.clone(),
            series: cell.series.clone(),
            against: against.map(str::to_owned),
            sparse: report.sparse,
            perplexity: found.perplexity,
            perplexity_se: found.perplexity_se,
            perplexity_ratio: dense.map_or(1.0, |dense| dense.perplexity_ratio),
            perplexity_ratio_se: dense.map_or(0.0, |dense| dense.perplexity_ratio_se),
            kl: dense.map_or(0.0, |dense| dense.kl),
            kl_se: dense.map_or(0.0, |dense| dense.kl_se),
            agreement_percent: dense.map_or(100.0, |dense| dense.agreement_percent),
            scored_tokens: found.scored_tokens,
            kept: [found.kept_neurons, found.kept_inputs, found.kept_heads],
            kept_by_layer: SiteKept::of(&found.usage),
            bytes_per_token,
            whole_bytes_per_token: self.loaded.run(&self::way(self.arguments, &cell.whole)?).weight_bytes_per_token(),
            decoding: self.decoding(cell, way, bytes_per_token)?,
        })
    }

    fn score(&self, way: &Way, reference: Option<&Way>) -> Result<eval::Report> {
        let arguments = eval::Arguments {
            switches: way.switches.clone(),
            text: self.arguments.text.clone(),
            context: self.arguments.context,
            tokens: None,
            second_half: true,
            against: None,
            json: false,
        };
        let reference = reference.map(|way| (&way.switches, self.loaded.run(way)));
        eval::score(&arguments, self.tokens, self.loaded.run(way), reference)
    }

    /// Decodes in turn with the same weights whole and the same method that keeps everything.
    fn decoding(&self, cell: &Cell, way: &Way, bytes_per_token: usize) -> Result<Option<Decoding>> {
        let Arguments { context, n, repeats, .. } = *self.arguments;
        if repeats == 0 {
            return Ok(None);
        }
        let mut ways = vec![way.clone()];
        if cell.line != cell.whole {
            ways.push(self::way(self.arguments, &cell.whole)?);
            ways.extend(cell.idle.as_ref().map(|line| self::way(self.arguments, line)).transpose()?);
        }
        let position = context / 2;
        let tokens = self.tokens[..position].to_vec();
        let plan = Plan { tokens, prompt: 0, positions: vec![position], n, rounds: repeats };
        let loaded = self.loaded.with_ways(ways);
        let measured = measure(&loaded, &plan, Vec::new(), &mut || ())?;
        let over_whole = |row: usize| (row < loaded.ways.len()).then(|| measured.rounds.ratio(row, 1, 0)).flatten();
        let decoding = measured.rounds.figure(0, 0).map(|speed| Decoding {
            speed,
            predicted: Some(measured.bandwidth / bytes_per_token as f64),
            over_whole: (loaded.ways.len() > 1).then(|| over_whole(0)).flatten(),
            idle_over_whole: over_whole(2),
        });
        Ok(decoding)
    }
}
