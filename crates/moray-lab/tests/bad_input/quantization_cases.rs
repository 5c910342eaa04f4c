//! Quantization configurations: as exporters write them, and with one key that changes the numbers.

use serde_json::{Value, json};

use super::Case;

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn with(mut value: Value, key: &str, stated: Value) -> Vec<u8> {
    value[key] = stated;
    bytes(&value)
}

/// As GPTQModel writes it.
fn gptqmodel() -> Value {
    json!({"bits": 4, "dynamic": {"+:.*down_proj": {"bits": 8, "group_size": 32}, "-:lm_head": {}}, "group_size": 128,
        "desc_act": false, "lm_head": false, "quant_method": "gptq", "method": "gptq", "format": "gptq",
        "checkpoint_format": "gptq", "pack_dtype": "int32", "sym": true,
        "meta": {"quantizer": ["gptqmodel:7.7.0"], "damp_percent": 0.05, "act_group_aware": true}})
}

/// As transformers and optimum write it.
fn optimum() -> Value {
    json!({"batch_size": 1, "bits": 4, "block_name_to_quantize": null, "cache_block_outputs": true, "damp_percent": 0.1,
        "dataset": "c4", "desc_act": false, "exllama_config": {"version": 1}, "group_size": 128, "max_input_length": null,
        "model_seqlen": null, "modules_in_block_to_quantize": null, "pad_token_id": null, "quant_method": "gptq",
        "sym": true, "tokenizer": null, "true_sequential": true, "use_cuda_fp16": false, "use_exllama": true})
}

fn awq() -> Value {
    json!({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": true, "version": "GEMM", "backend": "autoawq",
        "do_fuse": false, "fuse_max_seq_len": null, "modules_to_fuse": null, "modules_to_not_convert": ["lm_head"]})
}

fn auto_round() -> Value {
    json!({"autoround_version": "0.5.1", "bits": 4, "block_name_to_quantize": "model.layers", "data_type": "int",
        "extra_config": {"model.layers.0.mlp.down_proj": {"bits": 16, "data_type": "float"}}, "group_size": 128, "iters": 1000,
        "packing_format": "auto_round:auto_gptq", "quant_method": "auto-round", "sym": true, "nsamples": 512})
}

fn compressed(weights: &Value, inputs: &Value) -> Value {
    json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"], "version": "0.13.0",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs,
            "output_activations": null}},
        "global_compression_ratio": null, "kv_cache_scheme": null, "quantization_status": "compressed",
        "sparsity_config": {}, "transform_config": {}})
}

fn weights() -> Value {
    json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 128, "dynamic": false,
        "actorder": "static", "block_structure": null, "observer": "minmax", "observer_kwargs": {}})
}

pub fn cases() -> Vec<Case> {
    let qqq = json!({"quant_method": "qqq", "wbits": 4, "group_size": 128, "sym": true, "desc_act": false});
    let int8 = json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true});
    let fp8 = json!({"num_bits": 8, "type": "float", "symmetric": true, "strategy": "token", "dynamic": true});
    let channel = json!({"num_bits": 8, "symmetric": false, "strategy": "channel"});
    let tensor = json!({"num_bits": 4, "strategy": "tensor"});
    let ungrouped = json!({"num_bits": 4, "strategy": "group"});
    let with_group =
        |group: Value| with(compressed(&weights(), &Value::Null), "config_groups", json!({"group_0": group}));
    let moray = json!({"quant_method": "moray", "version": 1, "options": {"mode": "g64"}});
    let lm_head = json!({"lm_head": {"bits": 4, "rotation": "hadamard"}});
    vec![
        Case::valid("gptqmodel", bytes(&gptqmodel())),
        Case::valid("optimum", bytes(&optimum())),
        Case::valid("auto_gptq_file", br#"{"bits": 4, "group_size": -1, "desc_act": true, "sym": false}"#.to_vec()),
        Case::valid("awq", bytes(&awq())),
        Case::valid("auto_round", bytes(&auto_round())),
        Case::valid("auto_round_awq", with(auto_round(), "packing_format", json!("auto_round:auto_awq"))),
        Case::valid("compressed", bytes(&compressed(&weights(), &Value::Null))),
        Case::valid("compressed_int8_inputs", bytes(&compressed(&weights(), &int8))),
        Case::valid("compressed_channel", bytes(&compressed(&channel, &Value::Null))),
        Case::valid(
            "compressed_preset",
            with(compressed(&weights(), &Value::Null), "config_groups", json!({"W4A16": ["Linear"]})),
        ),
        Case::valid("qqq", bytes(&qqq)),
        Case::valid("own", bytes(&moray)),
        Case::valid("point_in_numbers", with(gptqmodel(), "group_size", json!(64.0))),
        Case::valid("unknown_and_empty", with(gptqmodel(), "new_rotation", json!({"block": []}))),
        Case::broken("list", b"[]".to_vec(), "Malformed", "an object"),
        Case::broken("method_unknown", with(gptqmodel(), "quant_method", json!("hqq")), "Malformed", "got gptq"),
        Case::broken("method_hqq", b"{\"quant_method\": \"hqq\"}".to_vec(), "Unsupported", "got hqq"),
        Case::broken("bits_missing", b"{\"quant_method\": \"gptq\"}".to_vec(), "MissingKey", "bits"),
        Case::broken("bits_3", with(gptqmodel(), "bits", json!(3)), "Unsupported", "bits: expected 4 or 8, got 3"),
        Case::broken(
            "bits_differ",
            with(gptqmodel(), "w_bit", json!(8)),
            "Malformed",
            "expected 4 as bits says, got 8",
        ),
        Case::broken("group_16", with(gptqmodel(), "group_size", json!(16)), "Unsupported", "got 16"),
        Case::broken(
            "rotation",
            with(gptqmodel(), "rotation", json!("hadamard")),
            "Unsupported",
            "rotation: expected nothing, got hadamard",
        ),
        Case::broken(
            "format_differs",
            with(gptqmodel(), "format", json!("gptq_v2")),
            "Malformed",
            "gptq_v2 as format says",
        ),
        Case::broken("format_marlin", with(optimum(), "format", json!("marlin")), "Unsupported", "got marlin"),
        Case::broken(
            "adapter",
            with(gptqmodel(), "adapter", json!({"name": "lora", "rank": 8})),
            "Unsupported",
            "adapter",
        ),
        Case::broken("quantized_head", with(gptqmodel(), "lm_head", json!(true)), "Unsupported", "lm_head"),
        Case::broken("pack_dtype", with(gptqmodel(), "pack_dtype", json!("int16")), "Unsupported", "got int16"),
        Case::broken(
            "unknown_key",
            with(gptqmodel(), "weight_transform", json!("fwht")),
            "Unsupported",
            "weight_transform: expected a key whose meaning is known, got fwht",
        ),
        Case::broken("unknown_flag", with(awq(), "signed_codes", json!(false)), "Unsupported", "signed_codes"),
        Case::broken(
            "override_rotated",
            with(gptqmodel(), "dynamic", lm_head),
            "Unsupported",
            "dynamic.lm_head.rotation",
        ),
        Case::broken("override_text", with(gptqmodel(), "dynamic", json!("all")), "Malformed", "dynamic"),
        Case::broken("awq_gemv", with(awq(), "version", json!("gemv")), "Unsupported", "got gemv"),
        Case::broken("awq_llm", with(awq(), "backend", json!("llm-awq")), "Unsupported", "got llm-awq"),
        Case::broken("awq_8_bits", with(awq(), "bits", json!(8)), "Unsupported", "bits"),
        Case::broken(
            "awq_sym_differs",
            with(awq(), "sym", json!(true)),
            "Malformed",
            "expected false, as zero_point says, got true",
        ),
        Case::broken("auto_round_fp8", with(auto_round(), "data_type", json!("fp8")), "Unsupported", "data_type"),
        Case::broken("auto_round_inputs", with(auto_round(), "act_bits", json!(8)), "Unsupported", "act_bits"),
        Case::broken(
            "auto_round_rotated",
            with(auto_round(), "rotation_config", json!({"kind": "quarot"})),
            "Unsupported",
            "rotation_config",
        ),
        Case::broken(
            "auto_round_layout",
            with(auto_round(), "packing_format", json!("auto_round:fp8_static")),
            "Unsupported",
            "packing_format",
        ),
        Case::broken(
            "compressed_int",
            with(compressed(&weights(), &Value::Null), "format", json!("int-quantized")),
            "Unsupported",
            "got int-quantized",
        ),
        Case::broken(
            "compressed_transform",
            with(
                compressed(&weights(), &Value::Null),
                "transform_config",
                json!({"config_groups": {"u": {"type": "hadamard"}}}),
            ),
            "Unsupported",
            "transform_config",
        ),
        Case::broken(
            "compressed_kv",
            with(compressed(&weights(), &Value::Null), "kv_cache_scheme", fp8.clone()),
            "Unsupported",
            "kv_cache_scheme",
        ),
        Case::broken(
            "compressed_sparse",
            with(compressed(&weights(), &Value::Null), "sparsity_config", json!({"format": "sparse-bitmask"})),
            "Unsupported",
            "sparsity_config.format",
        ),
        Case::broken(
            "compressed_fp8_inputs",
            bytes(&compressed(&weights(), &fp8)),
            "Unsupported",
            "config_groups.group_0.input_activations.type: expected int, got float",
        ),
        Case::broken("compressed_tensor", bytes(&compressed(&tensor, &Value::Null)), "Unsupported", "weights.strategy"),
        Case::broken(
            "compressed_ungrouped",
            bytes(&compressed(&ungrouped, &Value::Null)),
            "MissingKey",
            "weights.group_size",
        ),
        Case::broken(
            "compressed_none",
            with_group(json!({"targets": ["Linear"]})),
            "Unsupported",
            "a group with weights",
        ),
        Case::broken(
            "compressed_unknown",
            with_group(json!({"weights": weights(), "weight_codebook": "nf4"})),
            "Unsupported",
            "weight_codebook",
        ),
        Case::broken("qqq_rotation", with(qqq.clone(), "rotation", json!("hadamard")), "Unsupported", "rotation"),
        Case::broken("qqq_groups", with(qqq, "group_size", json!(64)), "Unsupported", "got 64"),
        Case::broken("own_version", with(moray, "version", json!(2)), "Unsupported", "got 2"),
    ]
}
