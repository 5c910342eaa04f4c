//! The keys that exporters write into a quantization configuration, and what each is to the numbers.
//!
//! What a table does not name is refused by name: a configuration says how codes become numbers, and a key that nobody here
//! knows may change that.
//!
//! # Source
//! The configurations of AutoGPTQ, GPTQModel, AutoAWQ, AutoRound, transformers, compressed-tensors and QQQ, as they write and
//! read them.

use crate::fields::Rule::{self, Harmless, Only, Read};
use crate::fields::Rules;

const NOTHING: Rule = Only(&[]);
const OFF: Rule = Only(&["false"]);

/// Of every method: how codes were searched, and with what program.
pub(super) const PROVENANCE: &Rules = &[
    ("quant_method", Read),
    ("method", Read),
    ("meta", Read),
    ("model_name_or_path", Harmless),
    ("model_file_base_name", Harmless),
    ("quantizer_version", Harmless),
    ("provider", Harmless),
    ("autoround_version", Read),
    ("uri", Harmless),
    // the search
    ("dataset", Harmless),
    ("tokenizer", Harmless),
    ("batch_size", Harmless),
    ("model_seqlen", Harmless),
    ("seqlen", Harmless),
    ("nsamples", Harmless),
    ("pad_token_id", Harmless),
    ("iters", Harmless),
    ("lr", Harmless),
    ("minmax_lr", Harmless),
    ("seed", Harmless),
    ("amp", Harmless),
    ("gradient_accumulate_steps", Harmless),
    ("enable_minmax_tuning", Harmless),
    ("enable_quanted_input", Harmless),
    ("enable_alg_ext", Harmless),
    ("enable_torch_compile", Harmless),
    ("disable_opt_rtn", Harmless),
    ("not_use_best_mse", Harmless),
    ("dynamic_max_gap", Harmless),
    ("lr_scheduler", Harmless),
    ("sampler", Harmless),
    ("momentum", Harmless),
    ("low_gpu_mem_usage", Harmless),
    ("low_cpu_mem_usage", Harmless),
    ("damp_percent", Harmless),
    ("damp_auto_increment", Harmless),
    ("true_sequential", Harmless),
    ("act_group_aware", Harmless),
    ("hyb_act", Harmless),
    ("mse", Harmless),
    ("gptaq", Harmless),
    ("gptaq_alpha", Harmless),
    ("gptaq_memory_device", Harmless),
    ("foem", Harmless),
    ("v2", Harmless),
    ("v2_alpha", Harmless),
    ("v2_memory_device", Harmless),
    ("failsafe", Harmless),
    ("fail_safe", Harmless),
    ("failsafe_with_rtn", Harmless),
    ("fallback", Harmless),
    ("hessian", Harmless),
    ("hessian_chunk_size", Harmless),
    ("hessian_chunk_bytes", Harmless),
    ("hessian_use_bfloat16_staging", Harmless),
    ("mock_quantization", Harmless),
    ("scale_search_chunked_activations", Harmless),
    ("scheme", Harmless),
    // which matrices: the arrays tell
    ("block_name_to_quantize", Harmless),
    ("to_quant_block_names", Harmless),
    ("quant_block_list", Harmless),
    ("module_name_preceding_first_block", Harmless),
    ("modules_in_block_to_quantize", Harmless),
    ("inside_layer_modules", Harmless),
    ("modules_to_not_convert", Harmless),
    ("supported_types", Harmless),
    ("ignore", Harmless),
    // the machine
    ("device", Harmless),
    ("use_cuda_fp16", Harmless),
    ("use_exllama", Harmless),
    ("disable_exllama", Harmless),
    ("exllama_config", Harmless),
    ("max_input_length", Harmless),
    ("cache_block_outputs", Harmless),
    ("fuse_max_seq_len", Harmless),
    ("modules_to_fuse", Harmless),
    ("do_fuse", Harmless),
    ("parallel_packing", Harmless),
    ("pack_impl", Harmless),
    ("offload_to_disk", Harmless),
    ("offload_to_disk_path", Harmless),
    ("auto_forward_data_parallel", Harmless),
    ("gc_mode", Harmless),
    ("wait_for_submodule_finalizers", Harmless),
    ("vram_strategy", Harmless),
    ("dense_vram_strategy", Harmless),
    ("dense_vram_strategy_devices", Harmless),
    ("moe_vram_strategy", Harmless),
    ("moe_vram_strategy_devices", Harmless),
    ("calibration_data_device", Harmless),
    ("compute_device_filter", Harmless),
    ("run_compressed", Harmless),
];

/// Of GPTQ and its kin: what codes, zero points and inputs are.
pub(super) const GPTQ: &Rules = &[
    ("bits", Read),
    ("wbits", Read),
    ("w_bit", Read),
    ("group_size", Read),
    ("q_group_size", Read),
    ("sym", Read),
    ("desc_act", Read),
    ("static_groups", Read),
    ("format", Read),
    ("checkpoint_format", Read),
    ("dynamic", Read),
    ("backend", Harmless),
    ("lm_head", OFF),
    ("is_marlin_format", OFF),
    ("awq_gemm_checkpoint", OFF),
    ("pack_dtype", Only(&["int32", "torch.int32"])),
    ("rotation", NOTHING),
    ("adapter", NOTHING),
];

/// Of AWQ.
pub(super) const AWQ: &Rules = &[
    ("bits", Read),
    ("w_bit", Read),
    ("group_size", Read),
    ("q_group_size", Read),
    ("zero_point", Read),
    ("sym", Read),
    // exllama and ipex are kernels for the layout that gemm names
    ("version", Only(&["gemm", "exllama", "ipex"])),
    ("format", Only(&["gemm", "exllama", "ipex"])),
    ("checkpoint_format", Only(&["gemm", "exllama", "ipex"])),
    // llm-awq, which is missing here, is another layout
    (
        "backend",
        Only(&[
            "auto",
            "auto_trainable",
            "autoawq",
            "machete",
            "marlin",
            "exllama_v1",
            "exllama_v2",
            "gemm",
            "gemm_triton",
            "gemv",
            "gemv_fast",
            "torch_awq",
            "torch_fused_awq",
        ]),
    ),
    ("lm_head", OFF),
    ("desc_act", OFF),
    ("pack_dtype", Only(&["int32", "torch.int32"])),
    ("rotation", NOTHING),
    ("adapter", NOTHING),
];

/// How AutoRound names the layout; older versions name a kernel with it.
pub(super) const PACKING: &Rules = &[("packing_format", Read), ("backend", Read)];

/// What AutoRound adds to the method whose layout it writes.
pub(super) const AUTO_ROUND: &Rules = &[
    ("extra_config", Read),
    ("regex_config", Read),
    ("data_type", Only(&["int"])),
    ("act_bits", Only(&["16", "32"])),
    // without int8 inputs nothing reads them
    ("act_data_type", Harmless),
    ("act_dynamic", Harmless),
    ("act_group_size", Harmless),
    ("act_sym", Harmless),
    ("scale_dtype", Harmless),
    ("static_kv_granularity", Harmless),
    ("static_attention_granularity", Harmless),
    ("static_kv_dtype", NOTHING),
    ("static_attention_dtype", NOTHING),
    ("super_bits", NOTHING),
    ("super_group_size", NOTHING),
    ("enable_norm_bias_tuning", OFF),
    ("rotation_config", NOTHING),
    ("rotation_configs", NOTHING),
    ("hadamard_config", NOTHING),
    ("spinquant_config", NOTHING),
    ("transform_config", NOTHING),
];

/// Of one entry of GPTQModel's `dynamic` and AutoRound's `extra_config`.
pub(super) const OVERRIDE: &Rules = &[
    ("bits", Read),
    ("group_size", Read),
    ("sym", Read),
    ("desc_act", Read),
    ("static_groups", Read),
    ("data_type", Only(&["int", "float", "fp"])),
    ("act_bits", Only(&["16", "32"])),
];

/// Of QQQ.
pub(super) const QQQ: &Rules = &[
    ("bits", Read),
    ("wbits", Read),
    ("group_size", Read),
    ("sym", Only(&["true"])),
    // inputs in another order would have their codes in another order too
    ("desc_act", Harmless),
    ("static_groups", Harmless),
    ("format", Only(&["qqq"])),
    ("checkpoint_format", Only(&["qqq"])),
    ("torch_dtype", Harmless),
    ("backend", Harmless),
    ("lm_head", OFF),
    ("pack_dtype", Only(&["int32", "torch.int32"])),
    ("rotation", NOTHING),
    ("adapter", NOTHING),
    ("dynamic", NOTHING),
];

/// Of compressed-tensors, outermost.
pub(super) const COMPRESSED: &Rules = &[
    ("format", Only(&["pack-quantized"])),
    ("config_groups", Read),
    // files of 2024 say frozen and are compressed all the same
    ("quantization_status", Only(&["compressed", "frozen"])),
    ("global_compression_ratio", Harmless),
    ("version", Harmless),
    ("kv_cache_scheme", NOTHING),
    ("sparsity_config", Read),
    ("transform_config", NOTHING),
];

/// Of compressed-tensors' `sparsity_config`.
pub(super) const SPARSITY: &Rules = &[
    ("format", Only(&["dense"])),
    ("global_sparsity", Harmless),
    ("sparsity_structure", Harmless),
    ("registry_requires_subclass", Harmless),
    ("targets", Harmless),
    ("ignore", Harmless),
];

/// Of one of compressed-tensors' `config_groups`.
pub(super) const COMPRESSED_GROUP: &Rules = &[
    ("targets", Read),
    ("weights", Read),
    ("input_activations", Read),
    ("output_activations", NOTHING),
    ("format", Only(&["pack-quantized"])),
];

/// Of its `weights`.
pub(super) const COMPRESSED_WEIGHTS: &Rules = &[
    ("num_bits", Read),
    ("type", Only(&["int"])),
    ("symmetric", Read),
    ("strategy", Only(&["group", "channel"])),
    ("group_size", Read),
    ("dynamic", OFF),
    // the arrays have the order
    ("actorder", Harmless),
    ("observer", Harmless),
    ("observer_kwargs", Harmless),
    ("scale_dtype", Harmless),
    ("zp_dtype", Harmless),
    ("block_structure", NOTHING),
];

/// Of its `input_activations`: the int8 inputs that integer weights have here.
pub(super) const COMPRESSED_INPUTS: &Rules = &[
    ("num_bits", Only(&["8"])),
    ("type", Only(&["int"])),
    ("symmetric", Only(&["true"])),
    ("strategy", Only(&["token"])),
    ("dynamic", Only(&["true"])),
    ("observer", Harmless),
    ("observer_kwargs", Harmless),
    ("scale_dtype", Harmless),
    ("zp_dtype", Harmless),
];

/// Of moray's own layout.
pub(super) const OWN: &Rules = &[("version", Read), ("options", Harmless)];
