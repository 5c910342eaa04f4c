//! A quantization from model and text to a directory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use moray::Cpu;
use moray::llama::{Model, Settings};

use super::directory::{ALGORITHM, Directory, Identity, LayerRecord, Layout, SiteRecord, fingerprint, to_json};
use super::forward::Pass;
use super::grid::group_size;
use super::layer::{FloatLayer, Site};
use super::options::{Method, Options};
use super::outliers::{Peaks, layer_peaks};
use super::pipeline::{Streams, pass_layer, quantize_layer};
use super::report::{Questions, Report, Size, html};
use super::smooth::smooth_layer;
use super::source::Source;
use crate::activations::ActivationScheme;
use crate::checkpoint::Checkpoint;
use crate::choices::{Item, score};
use crate::error::{Error, Result};
use crate::eval::{Evaluation, Runner, Scored, Text, evaluate};
use crate::load::{Form, LoadOptions, forward_config, load_cpu};
use crate::weights::WeightScheme;

/// Tokens on which outliers are counted and smoothing is searched.
const SAMPLE_TOKENS: usize = 1024;

/// What a run works on.
#[derive(Debug)]
pub struct Job<'a> {
    /// The device.
    pub cpu: &'a Cpu,
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// What to do.
    pub options: Options,
    /// How to write it.
    pub layout: Layout,
    /// Calibration tokens, without BOS.
    pub calibration: &'a [u32],
    /// Tokens that the result is scored on; none for no score.
    pub evaluation: Option<&'a [u32]>,
    /// Multiple-choice questions that the result and the model answer; none where nothing is asked.
    pub questions: Option<&'a [Item]>,
    /// Where the result goes.
    pub out: &'a Path,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Layers done.
    Layers,
    /// Tokens scored.
    Scoring,
    /// Questions asked.
    Asking,
}

impl Job<'_> {
    /// Runs it; `progress` is told the stage, how much is done and of how much.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a calibration text shorter than the widest matrix or a directory that is in use,
    /// [`Error::Kernel`] for modes that the model's sizes do not take, NaN activations and singular Hessians,
    /// [`Error::Io`] for what cannot be written.
    pub fn run(&self, progress: &mut dyn FnMut(Stage, usize, usize)) -> Result<(PathBuf, Report)> {
        let config = self.checkpoint.config();
        self.check()?;
        let start = Instant::now();
        let directory = Directory::open(self.out, self.identity())?;
        let source = Source::new(self.checkpoint, &self.options);
        let pass = Pass::new(self.cpu, forward_config(config)?, self.options.context);
        let width = self.options.context - usize::from(self.bos().is_some());
        let (mut tokens, mut windows) = (Vec::new(), Vec::new());
        for chunk in self.calibration.chunks(width) {
            tokens.extend(self.bos().into_iter().chain(chunk.iter().copied()));
            windows.push(chunk.len() + usize::from(self.bos().is_some()));
        }
        let mut run = LayerRun {
            job: self,
            pass,
            streams: Streams::new(source.embedded(&tokens)?, &windows, config.hidden),
            plain: Vec::new(),
            windows: Vec::new(),
            source,
        };
        run.take_sample()?;
        let (mut records, mut has_bias) = (Vec::new(), [false; 2]);
        for index in 0..config.n_layers {
            records.push(run.layer(index, &directory, &mut has_bias)?);
            progress(Stage::Layers, index + 1, config.n_layers);
        }
        directory.write_rest(&run.source, has_bias)?;
        drop(run.streams);
        let seconds = start.elapsed().as_secs_f64();
        let result = Checkpoint::open(directory.path())?;
        let start = Instant::now();
        let both = match (self.evaluation, self.questions) {
            (None, None) => None,
            _ => Some(self.loaded(&result)?),
        };
        let quality = both.as_ref().zip(self.evaluation);
        let quality = quality.map(|(models, tokens)| self.evaluate(models, tokens, progress)).transpose()?;
        let questions = both.as_ref().zip(self.questions);
        let questions = questions.map(|(models, items)| self.ask(models, items, progress)).transpose()?;
        drop(both);
        let report = Report {
            model: self.checkpoint.path().into(),
            options: self.options,
            layout: self.layout,
            calibration_tokens: self.calibration.len(),
            layers: records,
            size: Size::of(self.checkpoint, &result)?,
            quality,
            questions,
            quantize_seconds: seconds,
            evaluate_seconds: start.elapsed().as_secs_f64(),
            peak_memory_bytes: crate::machine::peak_memory_bytes(),
            threads: self.cpu.threads(),
            processor: crate::machine::processor(),
        };
        drop(result);
        directory.write("report.json", &to_json(self.out, &report)?)?;
        directory.write("report.html", html(&report).as_bytes())?;
        Ok((directory.finish()?, report))
    }

    /// What is worth knowing before the work begins: sentences about what others will not make of the result.
    pub fn warnings(&self) -> Vec<String> {
        self.layout.warnings(self.checkpoint.config(), self.options.format)
    }

    fn bos(&self) -> Option<u32> {
        self.checkpoint.config().window_start()
    }

    fn check(&self) -> Result<()> {
        let config = self.checkpoint.config();
        if self.checkpoint.quantization().is_some() {
            let (expected, got) = ("a model in floating point or GGUF blocks", "quantized matrices");
            return Err(Error::unsupported(self.checkpoint.path(), "model", expected, got));
        }
        if self.options.context < 2 || self.options.context > config.context_length {
            let expected = "at least 2 and no more than the model has positions";
            let got = self.options.context.to_string();
            return Err(Error::Kernel(moray::Error::Unsupported { what: "context", expected, got }));
        }
        let widest = config.hidden.max(config.d_ff).max(config.q_features());
        for k in [config.hidden, config.q_features(), config.d_ff] {
            group_size(self.options.format, k)?;
        }
        self.layout.check(config, self.options.format)?;
        // rounding to nearest looks at no inputs but to report its errors
        if self.options.method != Method::Rtn && self.calibration.len() < widest {
            return Err(Error::Kernel(moray::Error::Unsupported {
                what: "calibration",
                expected: "at least as many tokens as the widest matrix has columns",
                got: format!("{} tokens for {widest} columns", self.calibration.len()),
            }));
        }
        Ok(())
    }

    fn identity(&self) -> Identity {
        Identity {
            algorithm: ALGORITHM,
            model: self.checkpoint.content_hash(),
            options: self.options,
            layout: self.layout,
            calibration: fingerprint(self.calibration),
        }
    }

    /// The result and the model in 16 bits.
    fn loaded(&self, result: &Checkpoint) -> Result<[Model<Cpu>; 2]> {
        let load = |checkpoint, weights| {
            load_cpu(
                checkpoint,
                LoadOptions { weights, activations: ActivationScheme::default(), form: Form::Whole },
                |_, _| (),
            )
        };
        Ok([load(result, WeightScheme::AsFile)?, load(self.checkpoint, WeightScheme::Dense)?])
    }

    /// Asks both models the same questions.
    fn ask(
        &self,
        models: &[Model<Cpu>; 2],
        items: &[Item],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Questions> {
        let tokenizer = self.checkpoint.tokenizer()?;
        let limit = self.checkpoint.config().context_length;
        let mut ask = |index: usize| {
            let runner = Runner { device: self.cpu, model: &models[index], settings: Settings::dense(limit) };
            let mut progress =
                |done: usize| progress(Stage::Asking, index * items.len() + done, models.len() * items.len());
            score(&runner, &tokenizer, (self.bos(), limit), items, &mut progress)
        };
        Ok(Questions { quantized: ask(0)?, dense: ask(1)? })
    }

    fn evaluate(
        &self,
        models: &[Model<Cpu>; 2],
        tokens: &[u32],
        progress: &mut dyn FnMut(Stage, usize, usize),
    ) -> Result<Evaluation> {
        let context = self.options.context;
        let text = Text { tokens, bos: self.bos(), context, scored: Scored::EveryToken };
        let settings = Settings::dense(context);
        let [run, dense] =
            models.each_ref().map(|model| Runner { device: self.cpu, model, settings: settings.clone() });
        let total = text.scored_tokens();
        let limit = self.checkpoint.config().context_length;
        evaluate(self.cpu, &text, limit, &run, Some(&dense), &mut |done| progress(Stage::Scoring, done, total))
    }
}

/// The layers' part of a run.
struct LayerRun<'a> {
    job: &'a Job<'a>,
    pass: Pass<'a>,
    source: Source<'a>,
    streams: Streams,
    /// Hidden states of the sample in the model as it was, unrotated.
    plain: Vec<f32>,
    /// The sample's windows.
    windows: Vec<usize>,
}

impl LayerRun<'_> {
    fn take_sample(&mut self) -> Result<()> {
        let unrotated = Options { rotate: false, ..self.job.options };
        let windows = self.streams.sample(SAMPLE_TOKENS).0;
        let bos = self.job.bos();
        let width = self.job.options.context - usize::from(bos.is_some());
        let tokens: Vec<u32> = self
            .job
            .calibration
            .chunks(width)
            .take(windows.len())
            .flat_map(|chunk| bos.into_iter().chain(chunk.iter().copied()))
            .collect();
        self.plain = Source::new(self.job.checkpoint, &unrotated).embedded(&tokens)?;
        self.windows = windows;
        Ok(())
    }

    fn layer(&mut self, index: usize, directory: &Directory, has_bias: &mut [bool; 2]) -> Result<LayerRecord> {
        let options = &self.job.options;
        let config = self.job.checkpoint.config();
        let start = Instant::now();
        let mut layer = self.source.layer(index)?;
        for (bias, site) in [(0, Site::Qkv), (0, Site::O), (1, Site::GateUp), (1, Site::Down)] {
            has_bias[bias] |= layer.site(site).bias.is_some();
        }
        if let Some(record) = directory.finished(index) {
            let done = directory.read_layer(index, config)?;
            pass_layer(&self.pass, options, &layer, &done, &mut self.streams)?;
            // the sample is only counted on, and goes on where it is needed
            let original = FloatLayer::read(self.job.checkpoint, index)?;
            layer_peaks(&self.pass, &original, &mut self.plain, &self.windows)?;
            return Ok(record);
        }
        let original = FloatLayer::read(self.job.checkpoint, index)?;
        let before = layer_peaks(&self.pass, &original, &mut self.plain, &self.windows)?;
        drop(original);
        let mut thresholds = [None; 4];
        let mut sample = self.streams.sample(SAMPLE_TOKENS).1.to_vec();
        if options.smooth {
            thresholds = smooth_layer(&self.pass, options.format, &mut layer, &sample, &self.windows)?;
        }
        let after = layer_peaks(&self.pass, &layer, &mut sample, &self.windows)?;
        let done = quantize_layer(&self.pass, options, &layer, index, &mut self.streams)?;
        let record = |site: Site| SiteRecord {
            site,
            error: done.errors[site as usize],
            before: before[site as usize],
            after: after[site as usize],
            threshold: thresholds[site as usize],
        };
        let sites: Vec<SiteRecord> = Site::ALL.into_iter().map(record).collect();
        let record = LayerRecord { index, sites, seconds: start.elapsed().as_secs_f64() };
        directory.write_layer(&done, config, &record)?;
        Ok(record)
    }
}

/// Peaks before and after, for a report without layers.
pub(super) fn mean_peaks(records: &[LayerRecord], site: Site) -> (Peaks, Peaks) {
    let mut sums = (Peaks::default(), Peaks::default());
    let sites: Vec<&SiteRecord> = records.iter().flat_map(|r| &r.sites).filter(|record| record.site == site).collect();
    let n = sites.len().max(1) as f64;
    for record in sites {
        sums.0.weight += record.before.weight / n;
        sums.0.input += record.before.input / n;
        sums.1.weight += record.after.weight / n;
        sums.1.input += record.after.input / n;
    }
    sums
}
