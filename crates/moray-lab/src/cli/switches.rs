//! The switches that say how a model runs.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use moray::attention::{KvDtype, KvPolicy};
use moray::llama::{Linear, Mlp, Model, Settings};
use moray::policy::{
    Chosen, Context, Effect, Found, InLayers, ModelSizes, Named, PolicyConfig, Projection, Site, Usage,
};
use moray::sparse_mlp::Weights;
use moray::{Cpu, Isa};
use serde::Serialize;

use super::device::cuda;
use super::effects::Effects;
use super::eval::read_text;
use super::{LeftOut, LogitsSwitch, Looked, ShortRows, progress_bar};
use crate::activations::ActivationScheme;
use crate::calibration::{Calibration, PREVIEW, is_calibration};
use crate::checkpoint::Checkpoint;
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::load::{Form, LoadOptions, load_cpu};
use crate::tokenizer::Tokenizer;
use crate::weights::WeightScheme;

/// Tokens of calibration text after which the inputs of the output layer are looked at.
pub(super) const OUTPUT_TOKENS: usize = 128;

/// Tokens of calibration text over which effects of thresholds on single layers are measured.
const EFFECT_TOKENS: usize = 128;

/// What a file of calibrations calls the sizes of the output layer's inputs.
const PREVIEW_SIZES: &str = "sizes";

/// What thresholds are set on where no text is given: plain prose on several subjects, so that it favours none.
pub(super) const CALIBRATION_TEXT: &str = include_str!("calibration.txt");

fn neurons_help() -> String {
    let known = moray::policy::help(Site::Neurons);
    format!("Neurons that are computed, K the kept fraction: {known}")
}

fn heads_help() -> String {
    let known = moray::policy::help(Site::Heads);
    format!("Heads that run, K the kept fraction: {known}")
}

pub(super) fn inputs_help() -> String {
    let known = moray::policy::help(Site::INPUTS[0]);
    format!(
        "Inputs of the layers' matrices that are read, K the kept fraction: {known}; matrices are then held by input"
    )
}

/// How a model is loaded and run.
#[derive(Debug, Clone, Args)]
pub struct Switches {
    /// A .gguf file or a Hugging Face directory.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: PathBuf,
    /// How weights are held: auto (a quantized checkpoint as it is, any other dense), dense (16 bits), f32, as-file (the file's own
    /// blocks with int8 activations), or rounded to nearest while loading, with int8 activations: 4 bits as per-channel, g32, g64,
    /// g128 (groups; a trailing o adds offsets), two-level (groups of 64), two-level-g32, two-level-g128, qqq, or 8 bits as w8.
    #[arg(long, default_value = "auto")]
    pub weights: WeightScheme,
    /// Scales of int8 inputs: token (one each), fine (one for each token and 128 of K); with :gate_up or :mlp only these matrices run
    /// in int8, the others in 16 bits.
    #[arg(long, default_value = "token")]
    pub activations: ActivationScheme,
    /// The MLPs' activation, silu or relu, in place of the one that the model was trained for: what would be; by default the model's own.
    #[arg(long, value_enum)]
    pub activation: Option<Activation>,
    /// Neurons that are computed.
    #[arg(long, default_value = "dense", value_parser = neurons, help = neurons_help())]
    pub mlp: Named,
    /// Read the neurons of a list where they lie among the others. Otherwise those that a prompt or a calibration fixes are read one after
    /// another from a copy, which takes K of the MLPs' memory for each sequence on the CPU.
    #[arg(long)]
    pub lists_in_place: bool,
    /// What of the matrices is not read for a token.
    #[command(flatten)]
    pub left_out: LeftOut,
    /// A .safetensors file of `moray calibrate`, or a text whose first 512 tokens set the policies that are calibrated (1024 those that predict)
    /// and whose first 128 tell a preview which inputs are large; a short text of our own by default.
    #[arg(long, allow_hyphen_values = true)]
    pub calibration: Option<PathBuf>,
    /// Heads that run.
    #[arg(long, default_value = "all", value_parser = heads, help = heads_help())]
    pub heads: Named,
    /// What is stored for heads that do not run: write-all, hole, zero, recompute:LAG.
    #[arg(long, default_value = "write-all")]
    pub kv: KvSwitch,
    /// Element type of the KV cache; int8 has a scale for each position and KV head of K and of V.
    #[arg(long, alias = "kv-dtype", value_enum, default_value_t = KvType::F16)]
    pub kv_type: KvType,
    /// Where it runs.
    #[arg(long, value_enum, default_value_t = Device::Cpu)]
    pub device: Device,
    /// Threads; all cores by default.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Instruction set: portable, avx2, avx-vnni, avx512-vnni; the best by default.
    #[arg(long, allow_hyphen_values = true)]
    pub isa: Option<String>,
}

/// Devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Device {
    /// This machine's processor.
    Cpu,
    /// A CUDA device.
    Cuda,
}

/// Element types of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum KvType {
    F32,
    F16,
    Bf16,
    Int8,
}

impl From<KvType> for KvDtype {
    fn from(value: KvType) -> Self {
        match value {
            KvType::F32 => KvDtype::F32,
            KvType::F16 => KvDtype::F16,
            KvType::Bf16 => KvDtype::Bf16,
            KvType::Int8 => KvDtype::Int8,
        }
    }
}

/// `--kv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvSwitch(pub KvPolicy);

/// Finds a policy for `--mlp`.
///
/// # Errors
/// As [`Named::parse`].
pub fn neurons(text: &str) -> moray::Result<Named> {
    Named::parse(Site::Neurons, text)
}

/// Finds a policy for `--heads`.
///
/// # Errors
/// As [`Named::parse`].
pub fn heads(text: &str) -> moray::Result<Named> {
    Named::parse(Site::Heads, text)
}

impl FromStr for KvSwitch {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let lag = |text: &str| text.parse().ok().filter(|lag| *lag > 0);
        match text {
            "write-all" => Ok(KvSwitch(KvPolicy::WriteAll)),
            "hole" => Ok(KvSwitch(KvPolicy::Hole)),
            "zero" => Ok(KvSwitch(KvPolicy::Zero)),
            _ => match text.strip_prefix("recompute:").and_then(lag) {
                Some(lag) => Ok(KvSwitch(KvPolicy::Recompute { lag })),
                None => Err(format!("expected write-all, hole, zero or recompute:LAG, got {text}")),
            },
        }
    }
}

impl fmt::Display for KvSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            KvPolicy::WriteAll => f.write_str("write-all"),
            KvPolicy::Hole => f.write_str("hole"),
            KvPolicy::Zero => f.write_str("zero"),
            KvPolicy::Recompute { lag } => write!(f, "recompute:{lag}"),
            _ => f.write_str("another policy"),
        }
    }
}

/// Finds a policy for `--inputs`.
///
/// # Errors
/// As [`Named::parse`].
pub fn inputs(text: &str) -> moray::Result<Named> {
    Named::parse(Site::INPUTS[0], text)
}

/// A model ready to run.
#[derive(Debug)]
pub struct Run {
    /// The device.
    pub cpu: Cpu,
    /// The files.
    pub checkpoint: Checkpoint,
    /// Its tokenizer, built before the weights are loaded: what building it takes can then be used again.
    pub tokenizer: Tokenizer,
    /// The weights.
    pub model: Model<Cpu>,
    /// Seconds that loading took.
    pub load_seconds: f64,
    /// What policies were set by so far, by the calibration and what it is found as.
    found: RefCell<BTreeMap<(Option<PathBuf>, String), Found>>,
}

impl Run {
    /// Bytes of weights that a token reads when nothing is skipped.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.model.bytes_read(&Usage::default())
    }
}

impl Run {
    /// Says on standard error what who runs the model should know of its files.
    pub fn warn(&self) {
        self.checkpoint.notes().unusual_ones().for_each(|note| eprintln!("note: {note}"));
    }
}

impl Switches {
    /// Says whether the device is there.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a CUDA device that is not there, or a build without CUDA, with the reason.
    pub fn check_device(&self) -> Result<()> {
        match self.device {
            Device::Cpu => Ok(()),
            Device::Cuda if self.left_out.logits.0.is_some() => {
                let (expected, got) = ("--logits all on a CUDA device", self.left_out.logits.to_string());
                Err(Error::Kernel(moray::Error::Unsupported { what: "logits", expected, got }))
            }
            Device::Cuda => cuda::check(),
        }
    }

    /// What the model is loaded as.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            weights: self.weights,
            activations: self.activations,
            form: match (self.mlp.chosen(), self.left_out.inputs.chosen()) {
                (Chosen::Never, Chosen::Never) => Form::Whole,
                // what a device holds has no tiles
                (_, Chosen::Never) if self.device == Device::Cuda => Form::ByNeuron,
                (_, Chosen::Never) => Form::of_neurons(self.mlp.reads_all()),
                _ => match self.left_out.short_rows {
                    ShortRows::Sparse => Form::ByInput,
                    ShortRows::Whole => Form::ByLongInput,
                },
            },
        }
    }

    /// Says whether all of the model is computed, as it was trained.
    pub fn compute_all(&self) -> bool {
        self.activation.is_none()
            && self.left_out.logits.0.is_none()
            && [self.mlp, self.left_out.inputs, self.heads].iter().all(|policy| policy.chosen() == Chosen::Never)
    }

    /// Opens and loads the model, on the CPU wherever it will run.
    ///
    /// # Errors
    /// What is wrong with the switches or the model.
    pub fn load(&self) -> Result<Run> {
        self.check_form()?;
        let cpu = self.cpu()?;
        let start = std::time::Instant::now();
        let checkpoint = Checkpoint::open(&self.model)?;
        let checkpoint = match self.activation {
            Some(activation) => checkpoint.with_activation(activation),
            None => checkpoint,
        };
        let tokenizer = checkpoint.tokenizer()?;
        let bar = progress_bar(checkpoint.config().n_layers, "loading");
        let model = load_cpu(&checkpoint, self.load_options(), |done, _| bar.set_position(done as u64))?;
        bar.finish_and_clear();
        let mut run = Run { cpu, checkpoint, tokenizer, model, load_seconds: 0.0, found: RefCell::default() };
        if let Some(Looked { exact, read }) = self.left_out.logits.0 {
            let sizes = match self.calibration_file(&run.checkpoint)? {
                Some(file) => file.found(&self.held(&run.checkpoint), PREVIEW)?,
                None => self.find_preview(&run)?,
            };
            let sizes = sizes.f32(PREVIEW_SIZES, &[run.checkpoint.config().hidden])?.to_vec();
            run.model = run.model.with_preview(&sizes, exact, read)?;
        }
        run.load_seconds = start.elapsed().as_secs_f64();
        Ok(run)
    }

    /// Refuses selections that no one form of the matrices serves.
    fn check_form(&self) -> Result<()> {
        if self.mlp.chosen() == Chosen::Never || self.left_out.inputs.chosen() == Chosen::Never {
            return Ok(());
        }
        let expected = "--mlp dense with --inputs: a matrix is held by neuron or by input";
        let got = format!("--mlp {} --inputs {}", self.mlp, self.left_out.inputs);
        Err(Error::Kernel(moray::Error::Unsupported { what: "selections", expected, got }))
    }

    /// The CPU that the switches name.
    ///
    /// # Errors
    /// [`Error::Kernel`] for an instruction set that is unknown or not there, or no threads.
    pub fn cpu(&self) -> Result<Cpu> {
        let isa = match &self.isa {
            None => Isa::detect(),
            Some(name) => Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| {
                let expected = "portable, avx2, avx-vnni or avx512-vnni";
                moray::Error::Unsupported { what: "isa", expected, got: name.clone() }
            })?,
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(Cpu::new(self.threads.unwrap_or(threads), isa)?)
    }

    /// The calibration text, with its path; none where it is our own.
    pub(super) fn calibration_text(&self) -> Result<(Option<&Path>, String)> {
        match self.calibration.as_deref().filter(|path| !is_calibration(path)) {
            Some(path) => Ok((Some(path), read_text(path)?)),
            None => Ok((None, CALIBRATION_TEXT.to_owned())),
        }
    }

    /// The tokens of the calibration text, from its beginning.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a text of fewer than half of them.
    pub(super) fn calibration_tokens(&self, run: &Run, count: usize) -> Result<Vec<u32>> {
        let (path, text) = self.calibration_text()?;
        let mut tokens = run.tokenizer.encode(&text, run.checkpoint.config().add_bos)?;
        let count = count.min(run.checkpoint.config().context_length);
        tokens.truncate(count);
        match path {
            Some(path) if tokens.len() < count.div_ceil(2) => {
                let expected = format!("at least {} tokens, half of what is looked at", count.div_ceil(2));
                Err(Error::malformed(path, "calibration text", expected, tokens.len()))
            }
            _ => Ok(tokens),
        }
    }

    /// The file of calibrations, if there is one, and it is of this model.
    fn calibration_file(&self, checkpoint: &Checkpoint) -> Result<Option<Calibration>> {
        let path = self.calibration.as_deref().filter(|path| is_calibration(path));
        path.map(|path| Calibration::of(path, checkpoint)).transpose()
    }

    /// The way that the model is held, as a file of calibrations names it.
    pub(super) fn held(&self, checkpoint: &Checkpoint) -> String {
        let LoadOptions { weights, activations, form } = self.load_options();
        format!("{}/{activations}/{}", weights.resolved(checkpoint), form.name())
    }

    /// Finds in the calibration text what a policy is made of.
    pub(super) fn find(&self, run: &Run, policy: &Named) -> Result<Found> {
        let tokens = match policy.calibration_tokens() {
            0 => Vec::new(),
            count => self.calibration_tokens(run, count)?,
        };
        let exact = OnceCell::new();
        let mut text = CalibrationText { switches: self, run, tokens, exact: &exact, effects: None };
        Ok(policy.find(&mut text)?)
    }

    /// Finds in the calibration text what a preview of the logits is set by.
    pub(super) fn find_preview(&self, run: &Run) -> Result<Found> {
        let tokens = self.calibration_tokens(run, OUTPUT_TOKENS)?;
        let sizes = run.model.output_input_sizes(&run.cpu, &tokens)?;
        let mut found = Found::default();
        found.put_f32(PREVIEW_SIZES, &[sizes.len()], sizes)?;
        Ok(found)
    }

    /// What a policy is made of: what the file has of it, or else what is found now. One that keeps everything needs no text, and so no file.
    fn found(&self, run: &Run, policy: &Named, file: Option<&Calibration>) -> Result<Found> {
        if let (Some(file), Some(name)) = (file, policy.found_as()) {
            let held = self.held(&run.checkpoint);
            let has_to = policy.calibration_tokens() > 0 && !policy.keeps_all();
            if has_to || file.holds(&held, &name) {
                return file.found(&held, &name);
            }
        }
        let Some(name) = policy.found_as() else { return self.find(run, policy) };
        let key = (self.calibration.clone(), name);
        if let Some(found) = run.found.borrow().get(&key) {
            return Ok(found.clone());
        }
        let found = self.find(run, policy)?;
        if found.arrays().next().is_some() {
            run.found.borrow_mut().insert(key, found.clone());
        }
        Ok(found)
    }

    /// Settings of a session of `slots` sequences and `context` positions.
    ///
    /// # Errors
    /// [`Error::Kernel`] for a policy that cannot be, and what is wrong with the text or the file of a calibration.
    pub fn settings(&self, run: &Run, slots: usize, context: usize) -> Result<Settings> {
        let mut settings = Settings::dense(context);
        settings.slots = slots;
        settings.kv_dtype = self.kv_type.into();
        settings.kv = self.kv.0;
        settings.gather_lists = !self.lists_in_place;
        let file = self.calibration_file(&run.checkpoint)?;
        let sizes = run.model.config().sizes();
        let made = |policy: &Named| -> Result<Vec<Arc<dyn PolicyConfig>>> {
            Ok(policy.make_of(&sizes, &self.found(run, policy, file.as_ref())?)?)
        };
        settings.policies = [made(&self.heads)?, made(&self.mlp)?].concat();
        let inputs = made(&self.left_out.inputs)?;
        let Form::ByLongInput = self.load_options().form else {
            settings.policies.extend(inputs);
            return Ok(settings);
        };
        // one for each matrix
        settings.policies.extend(inputs.into_iter().zip(Projection::ALL).map(|(policy, projection)| {
            let layers = run.model.layers().iter();
            let by_input = layers.map(|layer| layer.matrix(projection).is_some_and(Linear::is_by_input)).collect();
            Arc::new(InLayers::new(policy, by_input)) as Arc<dyn PolicyConfig>
        }));
        Ok(settings)
    }
}

/// A model and a text to set policies by.
struct CalibrationText<'a> {
    switches: &'a Switches,
    run: &'a Run,
    tokens: Vec<u32>,
    /// The same model in 16 bits, loaded where effects are asked for and its weights are integers.
    exact: &'a OnceCell<Run>,
    /// Made when it is first asked for.
    effects: Option<Effects<'a>>,
}

impl<'a> CalibrationText<'a> {
    /// The model that effects are measured on, all of it by input. With int8 inputs any change of one layer moves the rounding of all that
    /// follow, by more than a threshold does.
    fn unrounded(&self) -> moray::Result<&'a Run> {
        let scheme = self.switches.weights.resolved(&self.run.checkpoint);
        if matches!(scheme, WeightScheme::Dense | WeightScheme::F32)
            && self.switches.left_out.short_rows == ShortRows::Sparse
        {
            return Ok(self.run);
        }
        if let Some(run) = self.exact.get() {
            return Ok(run);
        }
        let weights = if scheme == WeightScheme::F32 { scheme } else { WeightScheme::Dense };
        let mut switches = Switches { weights, ..self.switches.clone() };
        switches.activations = ActivationScheme::default();
        switches.left_out.short_rows = ShortRows::Sparse;
        switches.left_out.logits = LogitsSwitch::default();
        let run = switches.load().map_err(|error| {
            let expected = "a model that can be held in 16 bits, to measure what thresholds do to it";
            moray::Error::Unsupported { what: "weights", expected, got: error.to_string() }
        })?;
        Ok(self.exact.get_or_init(|| run))
    }
}

impl Context for CalibrationText<'_> {
    fn model(&self) -> ModelSizes {
        self.run.model.config().sizes()
    }

    fn mlp(&self, layer: usize) -> moray::Result<&Weights> {
        let layers = self.run.model.layers();
        match layers.get(layer).map(|layer| &layer.mlp) {
            Some(Mlp::ByNeuron(weights)) => Ok(weights),
            Some(_) => {
                let expected = "weights by neuron";
                Err(moray::Error::Unsupported { what: "mlp", expected, got: "a whole MLP".into() })
            }
            None => Err(moray::Error::Index { what: "layer", limit: layers.len(), got: layer }),
        }
    }

    fn column_norms(&self, projection: Projection, layer: usize) -> moray::Result<Vec<f32>> {
        let layers = self.run.model.layers();
        let Some(layer) = layers.get(layer) else {
            return Err(moray::Error::Index { what: "layer", limit: layers.len(), got: layer });
        };
        let Some(matrix) = layer.matrix(projection) else {
            let expected = "matrices of an MLP by input";
            return Err(moray::Error::Unsupported { what: "mlp", expected, got: "an MLP by neuron".into() });
        };
        let (mut squares, mut row) = (vec![0.0f64; matrix.k()], vec![0.0; matrix.k()]);
        for n in 0..matrix.n() {
            matrix.row(n, &mut row)?;
            squares.iter_mut().zip(&row).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
        }
        Ok(squares.into_iter().map(|sum| sum.sqrt() as f32).collect())
    }

    fn run(&mut self, policies: Vec<Arc<dyn PolicyConfig>>) -> moray::Result<()> {
        let mut settings = Settings::dense(self.tokens.len().max(1));
        settings.policies = policies;
        let Run { cpu, model, .. } = self.run;
        let mut session = model.session(cpu, settings)?;
        model.prefill(cpu, &mut session, 0, &self.tokens).map(drop)
    }

    fn effect(&mut self, layer: usize, thresholds: [f32; 4], on: Effect) -> moray::Result<f64> {
        let effects = match self.effects.take() {
            Some(effects) => effects,
            None => {
                let tokens = &self.tokens[..self.tokens.len().min(EFFECT_TOKENS)];
                let Run { cpu, model, .. } = self.unrounded()?;
                Effects::new(cpu, model, tokens)?
            }
        };
        self.effects.insert(effects).of(layer, thresholds, on)
    }
}
