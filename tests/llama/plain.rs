//! Tiny random models as plain numbers, and as what the library runs.
#![allow(dead_code)] // each test program uses its part

use moray::attention::{AttentionShape, KvDtype, RopeScaling};
use moray::llama::{
    Config, DenseType, DenseWeight, Layer, Linear, LogitRows, Mlp, Model, QkNorm, Sequence, Session, Settings,
};
use moray::policy::{Projection, Teal};
use moray::sparse_mlp::{Activation, Shape, Weights};
use moray::w4a8::{ActScales, Format, PackedWeight, QuantizedWeight, quantize};
use moray::{Cpu, input_sparse};

use crate::common::Random;

/// A matrix [n, k] row-major, with an optional bias [n].
#[derive(Debug, Clone)]
pub struct Matrix {
    pub n: usize,
    pub k: usize,
    pub w: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

impl Matrix {
    fn new(random: &mut Random, n: usize, k: usize, biased: bool) -> Self {
        let w = random.weights(n * k, 0.7 / (k as f32).sqrt());
        Matrix { n, k, w, bias: biased.then(|| random.weights(n, 0.2)) }
    }

    fn with_bias(&self, linear: Linear) -> Linear {
        match &self.bias {
            Some(bias) => linear.with_bias(bias.clone()).unwrap(),
            None => linear,
        }
    }

    fn dense(&self) -> Linear {
        self.with_bias(DenseWeight::from_f32(&self.w, self.n, self.k, DenseType::F32).unwrap().into())
    }

    fn by_input(&self) -> Linear {
        self.with_bias(input_sparse::Weight::from_f32(&self.w, self.n, self.k, DenseType::F32).unwrap().into())
    }

    fn w4a8_by_input(&self, format: Format) -> Linear {
        self.with_bias(input_sparse::Weight::from_quantized(&self.quantized(format)).unwrap().into())
    }

    fn quantized(&self, format: Format) -> QuantizedWeight {
        quantize(&self.w, self.n, self.k, format).unwrap()
    }

    fn w4a8(&self, format: Format) -> Linear {
        self.with_bias(PackedWeight::pack(&self.quantized(format)).into())
    }

    /// The numbers that the codes of `format` stand for.
    fn round_to(&mut self, format: Format) {
        self.w = self.quantized(format).dequantize();
    }

    /// This one over another.
    fn over(&self, below: &Matrix) -> Matrix {
        let joined = |a: &[f32], b: &[f32]| a.iter().chain(b).copied().collect::<Vec<f32>>();
        let bias = self.bias.as_ref().zip(below.bias.as_ref()).map(|(a, b)| joined(a, b));
        Matrix { n: self.n + below.n, k: self.k, w: joined(&self.w, &below.w), bias }
    }
}

#[derive(Debug, Clone)]
pub struct PlainLayer {
    pub attn_norm: Vec<f32>,
    pub qkv: Matrix,
    /// Of query heads and of key heads, [head_dim] each.
    pub qk_norm: Option<[Vec<f32>; 2]>,
    pub o: Matrix,
    pub mlp_norm: Vec<f32>,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

#[derive(Debug, Clone)]
pub struct Plain {
    pub config: Config,
    pub embedding: Matrix,
    pub layers: Vec<PlainLayer>,
    pub final_norm: Vec<f32>,
    pub lm_head: Option<Matrix>,
}

/// What makes one tiny model differ from another.
#[derive(Debug, Clone)]
pub struct Kind {
    pub d_model: usize,
    pub heads: (usize, usize, usize),
    pub n_layers: usize,
    pub activation: Activation,
    pub biased: bool,
    pub tied: bool,
    pub qk_norm: bool,
    pub rope_scaling: RopeScaling,
}

impl Default for Kind {
    /// Two layers, 4 query heads on 2 KV heads of 16, SiLU, tied, no biases.
    fn default() -> Self {
        Kind {
            d_model: 64,
            heads: (4, 2, 16),
            n_layers: 2,
            activation: Activation::Silu,
            biased: false,
            tied: true,
            qk_norm: false,
            rope_scaling: RopeScaling::Default,
        }
    }
}

impl Kind {
    /// Every shape and property that a configuration may have, once at least.
    pub fn all() -> Vec<Kind> {
        let llama3 =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 32 };
        vec![
            Kind::default(),
            Kind { heads: (4, 4, 24), biased: true, ..Kind::default() },
            Kind { heads: (6, 1, 16), tied: false, n_layers: 1, ..Kind::default() },
            Kind { heads: (4, 2, 32), qk_norm: true, tied: false, ..Kind::default() },
            Kind { d_model: 96, heads: (4, 2, 8), qk_norm: true, activation: Activation::Relu, ..Kind::default() },
            Kind { heads: (8, 2, 32), rope_scaling: RopeScaling::Linear { factor: 4.0 }, ..Kind::default() },
            Kind { biased: true, tied: false, rope_scaling: llama3, n_layers: 3, ..Kind::default() },
        ]
    }
}

pub const VOCAB: usize = 83;
pub const D_FF: usize = 160;

impl Plain {
    pub fn new(kind: &Kind, seed: u64) -> Plain {
        let random = &mut Random::new(seed);
        let (d, (n_q_heads, n_kv_heads, head_dim)) = (kind.d_model, kind.heads);
        let attention = AttentionShape::new(n_q_heads, n_kv_heads, head_dim).unwrap();
        let config = Config {
            vocab: VOCAB,
            d_model: d,
            d_ff: D_FF,
            n_layers: kind.n_layers,
            attention,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: kind.rope_scaling.clone(),
            activation: kind.activation,
        };
        let norm = |random: &mut Random| (0..d).map(|_| 0.5 + random.unit()).collect::<Vec<f32>>();
        // a tied embedding doubles as the output layer, so its rows are of the size of one
        let mut embedding = Matrix::new(random, VOCAB, d, false);
        embedding.w.iter_mut().for_each(|w| *w *= 4.0);
        let layers = (0..kind.n_layers).map(|_| PlainLayer {
            attn_norm: norm(random),
            qkv: Matrix::new(random, config.qkv_features(), d, kind.biased),
            qk_norm: kind.qk_norm.then(|| [(); 2].map(|()| (0..head_dim).map(|_| 0.5 + random.unit()).collect())),
            o: Matrix::new(random, d, attention.q_elems(), kind.biased),
            mlp_norm: norm(random),
            gate: Matrix::new(random, D_FF, d, kind.biased),
            up: Matrix::new(random, D_FF, d, kind.biased),
            down: Matrix::new(random, d, D_FF, kind.biased),
        });
        let layers = layers.collect();
        let lm_head = (!kind.tied).then(|| Matrix::new(random, VOCAB, d, false));
        Plain { config, embedding, layers, final_norm: norm(random), lm_head }
    }

    /// The layers' weights replaced by what their codes stand for.
    pub fn rounded_to(&self, format: Format) -> Plain {
        let mut plain = self.clone();
        for layer in &mut plain.layers {
            let PlainLayer { qkv, o, gate, up, down, .. } = layer;
            [qkv, o, gate, up, down].into_iter().for_each(|matrix| matrix.round_to(format));
        }
        plain
    }

    fn shape(&self) -> Shape {
        Shape { d_model: self.config.d_model, d_ff: D_FF, activation: self.config.activation }
    }

    fn layers(&self, linear: impl Fn(&Matrix) -> Linear, mlp: impl Fn(&PlainLayer) -> Mlp) -> Vec<Layer<Cpu>> {
        let layers = self.layers.iter().map(|layer| Layer {
            attn_norm: layer.attn_norm.clone(),
            qkv: self.with_qk_norm(linear(&layer.qkv), layer),
            o: linear(&layer.o),
            mlp_norm: layer.mlp_norm.clone(),
            mlp: mlp(layer),
        });
        layers.collect()
    }

    fn with_qk_norm(&self, qkv: Linear, layer: &PlainLayer) -> Linear {
        let Some([q, k]) = layer.qk_norm.clone() else { return qkv };
        qkv.with_qk_norm(QkNorm { shape: self.config.attention, q, k, eps: self.config.rms_eps }).unwrap()
    }

    fn assemble(&self, layers: Vec<Layer<Cpu>>) -> Model<Cpu> {
        let lm_head = self.lm_head.as_ref().map(Matrix::dense);
        let norm = self.final_norm.clone();
        Model::new(self.config.clone(), self.embedding.dense(), layers, norm, lm_head).unwrap()
    }

    /// What [`Plain::dense`] is put together from, without an output layer of its own.
    pub fn dense_parts(&self) -> (Config, Linear, Vec<Layer<Cpu>>, Vec<f32>) {
        let layers = self.layers(Matrix::dense, |layer| Mlp::Whole {
            gate_up: layer.gate.over(&layer.up).dense(),
            down: layer.down.dense(),
        });
        (self.config.clone(), self.embedding.dense(), layers, self.final_norm.clone())
    }

    fn with_mlp_biases(layer: &PlainLayer, weights: Weights) -> Mlp {
        let bias = |matrix: &Matrix| matrix.bias.clone().unwrap_or_default();
        Mlp::ByNeuron(weights.with_biases(&bias(&layer.gate), &bias(&layer.up), &bias(&layer.down)).unwrap())
    }

    /// f32, MLPs whole.
    pub fn dense(&self) -> Model<Cpu> {
        self.assemble(self.dense_parts().2)
    }

    /// f32, by input.
    pub fn by_input(&self) -> Model<Cpu> {
        self.assemble(self.layers(Matrix::by_input, |layer| Mlp::Whole {
            gate_up: layer.gate.over(&layer.up).by_input(),
            down: layer.down.by_input(),
        }))
    }

    /// The layers in 4 bits, by input.
    pub fn w4a8_by_input(&self, format: Format) -> Model<Cpu> {
        self.assemble(self.layers(
            |matrix| matrix.w4a8_by_input(format),
            |layer| Mlp::Whole {
                gate_up: layer.gate.over(&layer.up).w4a8_by_input(format),
                down: layer.down.w4a8_by_input(format),
            },
        ))
    }

    /// The layers in 4 bits, by input where `by_input` says it of a layer's matrix, the others by output.
    pub fn w4a8_partly_by_input(&self, format: Format, by_input: impl Fn(usize, Projection) -> bool) -> Model<Cpu> {
        let by_output = |matrix: &Matrix| matrix.w4a8(format);
        let mut layers = self.layers(by_output, |layer| Mlp::Whole {
            gate_up: by_output(&layer.gate.over(&layer.up)),
            down: by_output(&layer.down),
        });
        let others = self.layers(
            |matrix| matrix.w4a8_by_input(format),
            |layer| Mlp::Whole {
                gate_up: layer.gate.over(&layer.up).w4a8_by_input(format),
                down: layer.down.w4a8_by_input(format),
            },
        );
        for (index, (layer, other)) in layers.iter_mut().zip(others).enumerate() {
            let replace = |matrix: &mut Linear, other: Linear, projection| {
                if by_input(index, projection) {
                    *matrix = other;
                }
            };
            replace(&mut layer.qkv, other.qkv, Projection::Qkv);
            replace(&mut layer.o, other.o, Projection::Output);
            if let (Mlp::Whole { gate_up, down }, Mlp::Whole { gate_up: others, down: other }) =
                (&mut layer.mlp, other.mlp)
            {
                replace(gate_up, others, Projection::GateUp);
                replace(down, other, Projection::Down);
            }
        }
        self.assemble(layers)
    }

    /// f32, MLPs by neuron.
    pub fn by_neuron(&self) -> Model<Cpu> {
        self.assemble(self.layers(Matrix::dense, |layer| {
            let weights = Weights::new(self.shape(), &layer.gate.w, &layer.up.w, &layer.down.w).unwrap();
            Self::with_mlp_biases(layer, weights)
        }))
    }

    /// The layers in integers, MLPs whole.
    pub fn w4a8(&self, format: Format) -> Model<Cpu> {
        self.w4a8_scaled(format, ActScales::Token)
    }

    /// The layers in integers, MLPs whole, inputs scaled as finely as that.
    pub fn w4a8_scaled(&self, format: Format, scales: ActScales) -> Model<Cpu> {
        let linear = |matrix: &Matrix| matrix.w4a8(format).with_act_scales(scales);
        self.assemble(self.layers(linear, |layer| Mlp::Whole {
            gate_up: linear(&layer.gate.over(&layer.up)),
            down: linear(&layer.down),
        }))
    }

    /// The layers in 4 bits, MLPs by neuron.
    pub fn w4a8_by_neuron(&self, format: Format) -> Model<Cpu> {
        self.assemble(self.layers(
            |matrix| matrix.w4a8(format),
            |layer| {
                let [gate, up, down] = [&layer.gate, &layer.up, &layer.down].map(|matrix| matrix.quantized(format));
                Self::with_mlp_biases(layer, Weights::from_quantized(self.shape(), &gate, &up, &down).unwrap())
            },
        ))
    }
}

/// Room for `context` positions in each of three slots, and logits for all of them; the KV cache in f32.
pub fn roomy(context: usize) -> Settings {
    let mut settings = Settings::dense(context);
    settings.slots = 3;
    settings.max_tokens = 3 * context;
    settings.max_logits = 3 * context;
    settings.kv_dtype = KvDtype::F32;
    settings
}

/// Sizes that the inputs of qkv, output, gate and up, and down of random models exceed about as often as not.
pub const THRESHOLDS: [f32; 4] = [0.5, 0.2, 0.6, 0.1];

/// A threshold on the inputs of each matrix.
pub fn with_thresholds(settings: Settings, n_layers: usize) -> Settings {
    let projections = [Projection::Qkv, Projection::Output, Projection::GateUp, Projection::Down];
    let above = |(projection, threshold)| Teal::new(projection, vec![threshold; n_layers]).unwrap();
    projections.into_iter().zip(THRESHOLDS).map(above).fold(settings, Settings::with)
}

pub fn tokens(seed: u64, len: usize) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.below(VOCAB) as u32).collect()
}

/// Logits [len, vocab] of the next tokens of slot 0.
pub fn feed(cpu: &Cpu, model: &Model<Cpu>, session: &mut Session<Cpu>, tokens: &[u32]) -> Vec<f32> {
    model.forward(cpu, session, &[Sequence { slot: 0, tokens }], LogitRows::All).unwrap().to_vec()
}

/// Logits [len, vocab] of a new session, in one piece.
pub fn whole(cpu: &Cpu, model: &Model<Cpu>, settings: &Settings, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session(cpu, settings.clone()).unwrap();
    feed(cpu, model, &mut session, tokens)
}
