//! What a policy decides about, and how much of it there is.

use crate::attention::AttentionShape;

/// What a policy decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Site {
    /// The neurons of the MLP: which of d_ff are computed, for each token.
    Neurons,
    /// The query heads: which of n_q_heads run, for each sequence.
    Heads,
    /// The inputs of a matrix: which of K are read, for each token.
    Inputs(Projection),
}

/// A matrix of a layer, by its place in the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Projection {
    /// Query, key and value; K = d_model.
    Qkv,
    /// The output of attention; K = n_q_heads · head_dim.
    Output,
    /// Gate and up; K = d_model.
    GateUp,
    /// Down; K = d_ff.
    Down,
}

impl Projection {
    /// All of them, in the order of the forward pass.
    pub const ALL: [Projection; 4] = [Projection::Qkv, Projection::Output, Projection::GateUp, Projection::Down];

    /// Its name in a file: `qkv`, `output`, `gate_up`, `down`.
    pub fn name(self) -> &'static str {
        match self {
            Projection::Qkv => "qkv",
            Projection::Output => "output",
            Projection::GateUp => "gate_up",
            Projection::Down => "down",
        }
    }
}

impl Site {
    /// The inputs of each matrix of a layer, in the order of the forward pass.
    pub const INPUTS: [Site; 4] = [
        Site::Inputs(Projection::Qkv),
        Site::Inputs(Projection::Output),
        Site::Inputs(Projection::GateUp),
        Site::Inputs(Projection::Down),
    ];

    /// Its name in a message.
    pub fn name(self) -> &'static str {
        match self {
            Site::Neurons => "neurons",
            Site::Heads => "heads",
            Site::Inputs(Projection::Qkv) => "inputs of qkv",
            Site::Inputs(Projection::Output) => "inputs of the output projection",
            Site::Inputs(Projection::GateUp) => "inputs of gate and up",
            Site::Inputs(Projection::Down) => "inputs of down",
        }
    }
}

/// The sizes of a model that its policies depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelSizes {
    /// Layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Neurons of a layer's MLP.
    pub d_ff: usize,
    /// Heads.
    pub attention: AttentionShape,
}

impl ModelSizes {
    /// What there is to select from at a site of one layer.
    pub fn count(&self, site: Site) -> usize {
        match site {
            Site::Neurons | Site::Inputs(Projection::Down) => self.d_ff,
            Site::Heads => self.attention.n_q_heads,
            Site::Inputs(Projection::Qkv | Projection::GateUp) => self.d_model,
            Site::Inputs(Projection::Output) => self.attention.q_elems(),
        }
    }
}

impl ModelSizes {
    /// The weights of a layer's matrix, or of all that share the input.
    pub fn weights(&self, projection: Projection) -> usize {
        let outputs = match projection {
            Projection::Qkv => self.attention.q_elems() + 2 * self.attention.kv_elems(),
            Projection::GateUp => 2 * self.d_ff,
            Projection::Output | Projection::Down => self.d_model,
        };
        outputs * self.count(Site::Inputs(projection))
    }
}

/// The sizes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Its model's.
    pub model: ModelSizes,
    /// Sequences that are held at a time.
    pub slots: usize,
    /// Tokens of a call, at most.
    pub max_tokens: usize,
}
