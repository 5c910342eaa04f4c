//! The keys of `config.json` that are read, or are there for something else than the forward pass.

use crate::fields::Rule::{Harmless, Only, Read};
use crate::fields::Rules;

/// Of a model whose forward pass is a llama's.
pub(super) const MODEL: &Rules = &[
    ("model_type", Read),
    ("_name_or_path", Read),
    ("hidden_size", Read),
    ("intermediate_size", Read),
    ("num_hidden_layers", Read),
    ("num_attention_heads", Read),
    ("num_key_value_heads", Read),
    ("head_dim", Read),
    ("vocab_size", Read),
    ("max_position_embeddings", Read),
    ("original_max_position_embeddings", Read),
    ("rms_norm_eps", Read),
    ("rope_theta", Read),
    ("rope_scaling", Read),
    ("rope_parameters", Read),
    ("hidden_act", Read),
    ("attention_bias", Read),
    ("mlp_bias", Read),
    ("tie_word_embeddings", Read),
    ("bos_token_id", Read),
    ("eos_token_id", Read),
    ("sliding_window", Read),
    ("use_sliding_window", Read),
    ("max_window_layers", Read),
    ("layer_types", Read),
    ("quantization_config", Read),
    ("compression_config", Read),
    ("partial_rotary_factor", Only(&["1"])),
    ("position_embedding_type", Only(&["rope", "rotary", "absolute"])),
    // of other families, left in by conversions: what they name is not in a llama
    ("layer_norm_eps", Harmless),
    ("layer_norm_epsilon", Harmless),
    ("norm_eps", Harmless),
    ("n_positions", Harmless),
    ("embd_pdrop", Harmless),
    ("resid_pdrop", Harmless),
    // how exactly sums are formed, not what they are
    ("pretraining_tp", Harmless),
    ("attention_softmax_in_fp32", Harmless),
    ("use_parallel_embedding", Harmless),
    ("transformers.js_config", Harmless),
    ("transformers_weights", Harmless),
];

/// Of `rope_scaling` and `rope_parameters`.
pub(super) const ROPE: &Rules = &[
    ("rope_type", Read),
    ("type", Read),
    ("rope_theta", Read),
    ("factor", Read),
    ("low_freq_factor", Read),
    ("high_freq_factor", Read),
    ("original_max_position_embeddings", Read),
    ("partial_rotary_factor", Only(&["1"])),
    ("factors", Read),
    ("beta_fast", Read),
    ("beta_slow", Read),
    ("attention_factor", Read),
    ("mscale", Read),
    ("mscale_all_dim", Read),
    ("truncate", Read),
    ("short_factor", Read),
    ("long_factor", Read),
    ("finetuned", Harmless),
];
