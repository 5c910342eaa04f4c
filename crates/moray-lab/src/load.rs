//! From a checkpoint to a model in memory.

use moray::attention::{AttentionShape, RopeScaling};
use moray::llama::{Config, Layer, Linear, Mlp, Model, QkNorm};
use moray::sparse_mlp::{Activation, Matrix, Shape, Weights};
use moray::{Cpu, Isa, w4a8};

use crate::activations::{ActivationScheme, Site};
use crate::checkpoint::{Checkpoint, LayerTensor};
use crate::config::{self, ModelConfig};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::packed::PackedMatrix;
use crate::tensor::Tensor;
use crate::weights::{WeightScheme, linear, quantized, quantized_linear, requantized, vocabulary_linear};

/// What a model is loaded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// How the layers' weights are held.
    pub weights: WeightScheme,
    /// How the inputs of integer weights are held.
    pub activations: ActivationScheme,
    /// In which form the matrices of the layers are held.
    pub form: Form,
}

/// How the numbers of a layer's matrices lie in memory. Each is held in one form, the one that its selections read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// By output, for products over all inputs.
    Whole,
    /// MLPs neuron by neuron, for selections of neurons; the others by output.
    ByNeuron,
    /// As by neuron, but 4-bit rows of gate in tiles: for selections by all gates.
    ByGate,
    /// As by neuron, but 4-bit rows of gate and up in tiles: for selections by all products of them.
    ByProduct,
    /// All by input, for selections of inputs.
    ByInput,
    /// By input where one input's weights take [`SHORT_ROW`] bytes or more, the others by output.
    ByLongInput,
}

/// Bytes of an input's weights from which on it pays to leave an input out: shorter rows lie so near that memory gives the skipped ones
/// besides, and `results/by-input-*.md` have the products of 4 bits on both sides of it.
pub const SHORT_ROW: usize = 1024;

impl Form {
    /// The form of an MLP for a policy that reads all rows of these matrices for each token.
    pub fn of_neurons(reads_all: &[Matrix]) -> Self {
        match (reads_all.contains(&Matrix::Gate), reads_all.contains(&Matrix::Up)) {
            (true, true) => Form::ByProduct,
            (true, false) => Form::ByGate,
            (false, _) => Form::ByNeuron,
        }
    }

    /// The matrices of an MLP by neuron whose rows are in tiles; None for an MLP that is not by neuron.
    fn tiles(self) -> Option<&'static [Matrix]> {
        match self {
            Form::ByNeuron => Some(&[]),
            Form::ByGate => Some(&[Matrix::Gate]),
            Form::ByProduct => Some(&[Matrix::Gate, Matrix::Up]),
            Form::Whole | Form::ByInput | Form::ByLongInput => None,
        }
    }

    /// Its name in a file: `whole`, `by-neuron`, `by-input`.
    pub fn name(self) -> &'static str {
        match self {
            Form::Whole => "whole",
            // the numbers are the same
            Form::ByNeuron | Form::ByGate | Form::ByProduct => "by-neuron",
            Form::ByInput | Form::ByLongInput => "by-input",
        }
    }

    /// Whether a matrix of `n` outputs whose weights have `bits` bits each lies by input.
    pub(crate) fn is_by_input(self, n: usize, bits: usize) -> bool {
        match self {
            Form::ByInput => true,
            Form::ByLongInput => n * bits >= 8 * SHORT_ROW,
            Form::Whole | Form::ByNeuron | Form::ByGate | Form::ByProduct => false,
        }
    }
}

/// Loads every layer; `progress` is told after each how many of how many are done.
///
/// Tensors are converted one after another and their pages given back, so that no more than one is held twice.
///
/// # Errors
/// [`Error::NotFinite`] for NaN or infinite weights, [`Error::Kernel`] for sizes that the scheme does not take (a K that is
/// no multiple of the group size, say) and for weights that cannot be held neuron by neuron.
pub fn load_cpu(
    checkpoint: &Checkpoint,
    options: LoadOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Model<Cpu>> {
    let config = forward_config(checkpoint.config())?;
    let embedding = release(checkpoint, checkpoint.embedding()?, |t| vocabulary_linear(t, options.weights))?;
    let mut layers = Vec::with_capacity(config.n_layers);
    for index in 0..config.n_layers {
        layers.push(Loader { checkpoint, options, index }.layer(&config)?);
        progress(index + 1, config.n_layers);
    }
    let final_norm = checkpoint.final_norm()?.to_f32()?;
    let lm_head = match checkpoint.lm_head()? {
        Some(head) => Some(release(checkpoint, head, |t| vocabulary_linear(t, options.weights))?),
        None => None,
    };
    Ok(Model::new(config, embedding, layers, final_norm, lm_head)?)
}

/// The library's form of a checkpoint's configuration.
///
/// # Errors
/// [`Error::Kernel`] for sizes that no operation takes.
pub fn forward_config(config: &ModelConfig) -> Result<Config> {
    let rope_scaling = match &config.rope_scaling {
        config::RopeScaling::None => RopeScaling::Default,
        config::RopeScaling::Linear { factor } => RopeScaling::Linear { factor: f64::from(*factor) },
        config::RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            RopeScaling::Llama3 {
                factor: f64::from(*factor),
                low_freq_factor: f64::from(*low_freq_factor),
                high_freq_factor: f64::from(*high_freq_factor),
                original_context: *original_context,
            }
        }
        config::RopeScaling::Factors(factors) => RopeScaling::Factors(factors.clone()),
        &config::RopeScaling::Yarn { factor, beta_fast, beta_slow, original_context, attention_factor, truncate } => {
            RopeScaling::Yarn {
                factor: f64::from(factor),
                beta_fast: f64::from(beta_fast),
                beta_slow: f64::from(beta_slow),
                original_context,
                attention_factor: f64::from(attention_factor),
                truncate,
            }
        }
        config::RopeScaling::LongRope { factors, attention_factor } => {
            RopeScaling::LongRope { factors: factors.clone(), attention_factor: f64::from(*attention_factor) }
        }
    };
    let config = Config {
        vocab: config.vocab,
        d_model: config.hidden,
        d_ff: config.d_ff,
        n_layers: config.n_layers,
        attention: AttentionShape::new(config.n_q_heads, config.n_kv_heads, config.head_dim)?,
        rms_eps: config.rms_eps,
        rope_theta: f64::from(config.rope_theta),
        rope_scaling,
        activation: match config.activation {
            config::Activation::Silu => Activation::Silu,
            config::Activation::Relu => Activation::Relu,
        },
    };
    config.check()?;
    Ok(config)
}

/// Converts a tensor, then gives its pages back.
fn release<'a, T>(
    checkpoint: &'a Checkpoint,
    tensor: Tensor<'a>,
    convert: impl FnOnce(Tensor<'a>) -> Result<T>,
) -> Result<T> {
    let converted = convert(tensor.clone());
    checkpoint.release(&tensor);
    converted
}

struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    options: LoadOptions,
    index: usize,
}

impl Loader<'_> {
    fn layer(&self, config: &Config) -> Result<Layer<Cpu>> {
        use LayerTensor::{AttnNorm, FfnNorm, K, KBias, O, OBias, Q, QBias, V, VBias};
        Ok(Layer {
            attn_norm: self.vector(AttnNorm)?,
            qkv: self.with_qk_norm(self.linear(Site::Qkv, &[(Q, QBias), (K, KBias), (V, VBias)])?, config)?,
            o: self.linear(Site::O, &[(O, OBias)])?,
            mlp_norm: self.vector(FfnNorm)?,
            mlp: self.mlp(config)?,
        })
    }

    fn with_qk_norm(&self, qkv: Linear, config: &Config) -> Result<Linear> {
        let norms = (self.optional_vector(LayerTensor::QNorm)?, self.optional_vector(LayerTensor::KNorm)?);
        let (Some(q), Some(k)) = norms else { return Ok(qkv) };
        Ok(qkv.with_qk_norm(QkNorm { shape: config.attention, q, k, eps: config.rms_eps })?)
    }

    fn mlp(&self, config: &Config) -> Result<Mlp> {
        use LayerTensor::{Down, DownBias, Gate, GateBias, Up, UpBias};
        let Some(tiles) = self.options.form.tiles() else {
            let gate_up = self.linear(Site::GateUp, &[(Gate, GateBias), (Up, UpBias)])?;
            return Ok(Mlp::Whole { gate_up, down: self.linear(Site::Down, &[(Down, DownBias)])? });
        };
        let shape = Shape { d_model: config.d_model, d_ff: config.d_ff, activation: config.activation };
        let weights = self.neurons(shape)?.with_packed_rows(&Cpu::new(1, Isa::detect())?, tiles)?;
        let bias = |tensor| self.optional_vector(tensor).map(Option::unwrap_or_default);
        Ok(Mlp::ByNeuron(weights.with_biases(&bias(GateBias)?, &bias(UpBias)?, &bias(DownBias)?)?))
    }

    /// The three matrices neuron by neuron, in 4 bits if the scheme has such codes for all three.
    fn neurons(&self, shape: Shape) -> Result<Weights> {
        let tensors = [LayerTensor::Gate, LayerTensor::Up, LayerTensor::Down];
        let pairs = tensors.map(|tensor| (tensor, tensor));
        if let Some(parts) = self.quantized_parts(&pairs)? {
            return self.packed_neurons(shape, &parts);
        }
        let [gate, up, down] = tensors.map(|tensor| self.checkpoint.layer(self.index, tensor));
        let parts = [gate?, up?, down?];
        let mut codes = Vec::new();
        for part in &parts {
            codes.extend(quantized(part, self.options.weights)?.filter(|q| q.format().bits == w4a8::Bits::Four));
        }
        let weights = match <[_; 3]>::try_from(codes) {
            Ok([gate, up, down]) => Weights::from_quantized(shape, &gate, &up, &down)?,
            Err(_) if matches!(self.options.weights, WeightScheme::Quantized(_)) => {
                let expected = "4-bit weights for a selection of neurons";
                let got = self.options.weights.to_string();
                return Err(Error::Kernel(moray::Error::Unsupported { what: "weights", expected, got }));
            }
            Err(_) => {
                let [gate, up, down] = &parts;
                let (gate, up, down) = (gate.to_f32()?, up.to_f32()?, down.to_f32()?);
                if self.options.weights == WeightScheme::F32 {
                    Weights::new::<f32>(shape, &gate, &up, &down)?
                } else if parts.iter().any(|part| part.dtype == DType::Bf16) {
                    float_weights::<half::bf16>(shape, &gate, &up, &down)?
                } else {
                    float_weights::<half::f16>(shape, &gate, &up, &down)?
                }
            }
        };
        parts.iter().for_each(|part| self.checkpoint.release(part));
        Ok(weights)
    }

    /// The three matrices of a quantized checkpoint: its own codes, or what they stand for where floats are asked for or its inputs
    /// are in orders of their own, which neurons cannot follow.
    fn packed_neurons(&self, shape: Shape, parts: &[PackedMatrix]) -> Result<Weights> {
        let [gate, up, down] = parts else {
            let (expected, got) = ("three matrices of an MLP", format!("{} of them", parts.len()));
            return Err(Error::Kernel(moray::Error::Unsupported { what: "layer", expected, got }));
        };
        let float = || (gate.dequantize(), up.dequantize(), down.dequantize());
        let as_file = matches!(self.options.weights, WeightScheme::AsFile | WeightScheme::Auto);
        match self.options.weights {
            WeightScheme::Quantized(_) => Err(requantized(self.options.weights)),
            WeightScheme::F32 => {
                let (gate, up, down) = float();
                Ok(Weights::new::<f32>(shape, &gate, &up, &down)?)
            }
            _ if as_file && parts.iter().all(|part| part.order.is_none()) => {
                Ok(Weights::from_quantized(shape, &gate.weight, &up.weight, &down.weight)?)
            }
            _ => {
                let (gate, up, down) = float();
                float_weights::<half::f16>(shape, &gate, &up, &down)
            }
        }
    }

    fn linear(&self, site: Site, tensors: &[(LayerTensor, LayerTensor)]) -> Result<Linear> {
        let activations = self.options.activations;
        let weights = if activations.is_int8(site) { self.options.weights } else { WeightScheme::Dense };
        let form = self.options.form;
        let weight = match self.quantized_parts(tensors)? {
            Some(parts) => quantized_linear(parts, weights, form)?,
            None => {
                let load = |(tensor, _): &(LayerTensor, LayerTensor)| self.checkpoint.layer(self.index, *tensor);
                let parts = tensors.iter().map(load).collect::<Result<Vec<_>>>()?;
                let weight = linear(&parts, weights, form)?;
                parts.iter().for_each(|part| self.checkpoint.release(part));
                weight
            }
        };
        let weight = weight.with_act_scales(activations.scales);
        let mut bias = Vec::new();
        let mut any = false;
        for (tensor, bias_tensor) in tensors {
            let values = self.optional_vector(*bias_tensor)?;
            any |= values.is_some();
            bias.extend(values.unwrap_or_else(|| vec![0.0; tensor.shape(self.checkpoint.config())[0]]));
        }
        if any { Ok(weight.with_bias(bias)?) } else { Ok(weight) }
    }

    /// The matrices as integer codes, if the checkpoint has all of them so.
    fn quantized_parts(&self, tensors: &[(LayerTensor, LayerTensor)]) -> Result<Option<Vec<PackedMatrix>>> {
        let mut parts = Vec::new();
        for (tensor, _) in tensors {
            parts.extend(self.checkpoint.layer_quantized(self.index, *tensor)?);
        }
        match parts.len() {
            0 => Ok(None),
            len if len == tensors.len() => Ok(Some(parts)),
            len => {
                let (expected, got) = ("all matrices that share an input quantized, or none", format!("{len} of them"));
                Err(Error::Kernel(moray::Error::Unsupported { what: "layer", expected, got }))
            }
        }
    }

    fn vector(&self, tensor: LayerTensor) -> Result<Vec<f32>> {
        self.checkpoint.layer(self.index, tensor)?.to_f32()
    }

    fn optional_vector(&self, tensor: LayerTensor) -> Result<Option<Vec<f32>>> {
        self.checkpoint.layer_optional(self.index, tensor)?.map(|tensor| tensor.to_f32()).transpose()
    }
}

fn float_weights<T: moray::sparse_mlp::WeightElement>(
    shape: Shape,
    gate: &[f32],
    up: &[f32],
    down: &[f32],
) -> Result<Weights> {
    let narrow = |values: &[f32]| values.iter().map(|&v| T::from_f32(v)).collect::<Vec<T>>();
    Ok(Weights::new(shape, &narrow(gate), &narrow(up), &narrow(down))?)
}
