//! The roles of a model's tensors, and what each format calls them.

use crate::config::ModelConfig;
use crate::gguf::Header;

/// The tensors of one transformer layer. Matrices are `[N, K]`, the others `[1, K]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum LayerTensor {
    AttnNorm,
    Q,
    K,
    V,
    O,
    FfnNorm,
    Gate,
    Up,
    Down,
    QBias,
    KBias,
    VBias,
    OBias,
    GateBias,
    UpBias,
    DownBias,
    QNorm,
    KNorm,
}

impl LayerTensor {
    /// Every tensor of a layer, those that a layer may lack last.
    pub const ALL: [Self; 18] = [
        Self::AttnNorm,
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::FfnNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
        Self::QBias,
        Self::KBias,
        Self::VBias,
        Self::OBias,
        Self::GateBias,
        Self::UpBias,
        Self::DownBias,
        Self::QNorm,
        Self::KNorm,
    ];

    /// Whether a layer may lack it: a bias, or a norm of heads.
    pub fn is_optional(self) -> bool {
        self as usize >= Self::QBias as usize
    }

    /// Whether it is the norm of query or key heads.
    pub fn is_head_norm(self) -> bool {
        matches!(self, Self::QNorm | Self::KNorm)
    }

    /// Whether a model of this configuration has it, where that follows from the architecture.
    pub fn is_expected(self, config: &ModelConfig) -> Option<bool> {
        match self {
            Self::QNorm | Self::KNorm => Some(config.qk_norm()),
            _ => (!self.is_optional()).then_some(true),
        }
    }

    /// Whether it is a norm's weight or a bias, which are never stored in blocks.
    pub fn is_vector(self) -> bool {
        self.is_optional() || matches!(self, Self::AttnNorm | Self::FfnNorm)
    }

    /// `[N, K]` in a model of this configuration.
    pub fn shape(self, config: &ModelConfig) -> [usize; 2] {
        let (d, d_ff, q, kv) = (config.hidden, config.d_ff, config.q_features(), config.kv_features());
        match self {
            Self::AttnNorm | Self::FfnNorm | Self::OBias | Self::DownBias => [1, d],
            Self::Q => [q, d],
            Self::K | Self::V => [kv, d],
            Self::O => [d, q],
            Self::Gate | Self::Up => [d_ff, d],
            Self::Down => [d, d_ff],
            Self::QBias => [1, q],
            Self::KBias | Self::VBias => [1, kv],
            Self::GateBias | Self::UpBias => [1, d_ff],
            Self::QNorm | Self::KNorm => [1, config.head_dim],
        }
    }
}

/// A tensor's role in the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Embedding,
    FinalNorm,
    LmHead,
    Layer(usize, LayerTensor),
}

/// Whether a tensor belongs to the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Forbidden,
}

/// The format decides names and row order.
#[derive(Debug)]
pub(crate) enum Format {
    Gguf { header: Header, interleaved: bool },
    HuggingFace,
}

impl Format {
    pub(crate) fn name(&self, role: Role) -> String {
        match (self, role) {
            (Self::Gguf { .. }, Role::Embedding) => "token_embd.weight".into(),
            (Self::Gguf { .. }, Role::FinalNorm) => "output_norm.weight".into(),
            (Self::Gguf { .. }, Role::LmHead) => "output.weight".into(),
            (Self::Gguf { .. }, Role::Layer(index, tensor)) => format!("blk.{index}.{}", gguf_name(tensor)),
            (Self::HuggingFace, Role::Embedding) => "model.embed_tokens.weight".into(),
            (Self::HuggingFace, Role::FinalNorm) => "model.norm.weight".into(),
            (Self::HuggingFace, Role::LmHead) => "lm_head.weight".into(),
            (Self::HuggingFace, Role::Layer(index, tensor)) => format!("model.layers.{index}.{}", hf_name(tensor)),
        }
    }

    /// Whether a tensor holds what the configuration says already, whatever its type and shape.
    pub(crate) fn derives(&self, name: &str) -> bool {
        let suffixes: &[&str] = match self {
            Self::Gguf { .. } => &["rope_freqs.weight", ".attn_rot_embd"],
            Self::HuggingFace => &[".rotary_emb.inv_freq", ".rotary_emb.cos_cached", ".rotary_emb.sin_cached"],
        };
        suffixes.iter().any(|suffix| name.ends_with(suffix))
    }
}

fn gguf_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::AttnNorm => "attn_norm.weight",
        LayerTensor::Q => "attn_q.weight",
        LayerTensor::K => "attn_k.weight",
        LayerTensor::V => "attn_v.weight",
        LayerTensor::O => "attn_output.weight",
        LayerTensor::FfnNorm => "ffn_norm.weight",
        LayerTensor::Gate => "ffn_gate.weight",
        LayerTensor::Up => "ffn_up.weight",
        LayerTensor::Down => "ffn_down.weight",
        LayerTensor::QBias => "attn_q.bias",
        LayerTensor::KBias => "attn_k.bias",
        LayerTensor::VBias => "attn_v.bias",
        LayerTensor::OBias => "attn_output.bias",
        LayerTensor::GateBias => "ffn_gate.bias",
        LayerTensor::UpBias => "ffn_up.bias",
        LayerTensor::DownBias => "ffn_down.bias",
        LayerTensor::QNorm => "attn_q_norm.weight",
        LayerTensor::KNorm => "attn_k_norm.weight",
    }
}

fn hf_name(tensor: LayerTensor) -> &'static str {
    match tensor {
        LayerTensor::AttnNorm => "input_layernorm.weight",
        LayerTensor::Q => "self_attn.q_proj.weight",
        LayerTensor::K => "self_attn.k_proj.weight",
        LayerTensor::V => "self_attn.v_proj.weight",
        LayerTensor::O => "self_attn.o_proj.weight",
        LayerTensor::FfnNorm => "post_attention_layernorm.weight",
        LayerTensor::Gate => "mlp.gate_proj.weight",
        LayerTensor::Up => "mlp.up_proj.weight",
        LayerTensor::Down => "mlp.down_proj.weight",
        LayerTensor::QBias => "self_attn.q_proj.bias",
        LayerTensor::KBias => "self_attn.k_proj.bias",
        LayerTensor::VBias => "self_attn.v_proj.bias",
        LayerTensor::OBias => "self_attn.o_proj.bias",
        LayerTensor::GateBias => "mlp.gate_proj.bias",
        LayerTensor::UpBias => "mlp.up_proj.bias",
        LayerTensor::DownBias => "mlp.down_proj.bias",
        LayerTensor::QNorm => "self_attn.q_norm.weight",
        LayerTensor::KNorm => "self_attn.k_norm.weight",
    }
}
