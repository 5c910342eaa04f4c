//! Hugging Face configurations and directories, wrong in one way each.

use std::fs;
use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::checkpoint::DType;
use moray_lab::fixture::{Fixture, safetensors_bytes};
use serde_json::{Value, json};

use super::{Case, check_error};

fn config(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut config = Fixture::default().config_json();
    change(&mut config);
    config.to_string().into_bytes()
}

fn with(key: &str, value: Value) -> Vec<u8> {
    config(|config| config[key] = value)
}

fn without(key: &str) -> Vec<u8> {
    config(|config| drop(config.as_object_mut().and_then(|object| object.remove(key))))
}

pub fn config_cases() -> Vec<Case> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let incomplete = json!({"rope_type": "llama3", "factor": 8.0});
    let reversed = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    let partial = json!({"rope_type": "default", "partial_rotary_factor": 0.5});
    vec![
        Case::valid("valid", config(|_| {})),
        Case::valid("valid_llama3", with("rope_scaling", llama3)),
        Case::valid(
            "valid_rope_parameters",
            with("rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5})),
        ),
        Case::valid("valid_old_linear", with("rope_scaling", json!({"type": "linear", "factor": 2.0}))),
        Case::valid("valid_qwen2", with("model_type", json!("qwen2"))),
        Case::valid("valid_without_head_dim", without("head_dim")),
        Case::broken("empty", Vec::new(), "Malformed", "a model's JSON"),
        Case::broken("list", b"[]".to_vec(), "Malformed", "a model's JSON"),
        Case::broken("nested", b"{\"bos_token_id\":".repeat(500), "Malformed", "recursion limit"),
        Case::broken("model_type_missing", without("model_type"), "MissingKey", "model_type"),
        Case::broken("model_type_gemma", with("model_type", json!("gemma3")), "Unsupported", "got gemma3"),
        Case::broken("hidden_size_missing", without("hidden_size"), "MissingKey", "hidden_size"),
        Case::broken("hidden_size_negative", with("hidden_size", json!(-64)), "Malformed", "a model's JSON"),
        Case::broken("hidden_size_text", with("hidden_size", json!("64")), "Malformed", "a model's JSON"),
        Case::broken("hidden_size_absurd", with("hidden_size", json!(1u64 << 62)), "Malformed", "1 to 2^28"),
        Case::broken("layers_0", with("num_hidden_layers", json!(0)), "Malformed", "layer count"),
        Case::broken("heads_0", with("num_attention_heads", json!(0)), "Malformed", "query head count"),
        Case::broken(
            "kv_heads_3",
            with("num_key_value_heads", json!(3)),
            "Malformed",
            "a divisor of the 4 query heads",
        ),
        Case::broken("head_dim_odd", with("head_dim", json!(15)), "Malformed", "an even number, got 15"),
        Case::broken("epsilon_missing", without("rms_norm_eps"), "MissingKey", "rms_norm_eps"),
        Case::broken("epsilon_negative", with("rms_norm_eps", json!(-1.0)), "Malformed", "epsilon"),
        Case::broken("activation_gelu", with("hidden_act", json!("gelu")), "Unsupported", "silu or relu, got gelu"),
        Case::broken("rope_yarn", with("rope_scaling", json!({"rope_type": "yarn"})), "Unsupported", "got yarn"),
        Case::broken("rope_llama3_incomplete", with("rope_scaling", incomplete), "MissingKey", "low_freq_factor"),
        Case::broken(
            "rope_llama3_reversed",
            with("rope_scaling", reversed),
            "Malformed",
            "more than low_freq_factor 4",
        ),
        Case::broken(
            "rope_factor_0",
            with("rope_scaling", json!({"type": "linear", "factor": 0.0})),
            "Malformed",
            "above 0",
        ),
        Case::broken("rope_base_overflows", with("rope_theta", json!(1e300)), "Malformed", "rotary base"),
        Case::broken("partial_rotary", with("rope_parameters", partial), "Unsupported", "partial_rotary_factor"),
        Case::broken(
            "quantized",
            with("quantization_config", json!({"quant_method": "gptq"})),
            "MissingKey",
            "quantization_config.bits",
        ),
        Case::broken("eos_text", with("eos_token_id", json!("</s>")), "Malformed", "eos_token_id"),
        Case::broken("eos_beyond_vocabulary", with("eos_token_id", json!([2, 9999])), "Malformed", "got 9999"),
    ]
}

/// Opens a directory that was changed after writing, and its tokenizer; expects this error.
fn refused(fixture: &Fixture, shards: usize, variant: &str, message: &str, change: impl FnOnce(&Path)) {
    let directory = tempfile::tempdir().unwrap();
    fixture.write_hf(directory.path(), shards).unwrap();
    change(directory.path());
    let opened = Checkpoint::open(directory.path()).and_then(|checkpoint| checkpoint.tokenizer().map(drop));
    check_error(message, &opened.expect_err(message), variant, message);
}

fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

const INDEX: &str = "model.safetensors.index.json";
const SHARD: &str = "model-00002-of-00002.safetensors";

#[test]
fn incomplete_directories_are_refused_by_file() {
    let tiny = Fixture::default();
    let remove = |name: &'static str| move |d: &Path| fs::remove_file(d.join(name)).unwrap();
    let write = |name: &'static str, text: &'static str| move |d: &Path| fs::write(d.join(name), text).unwrap();
    refused(&tiny, 1, "Io", "config.json", remove("config.json"));
    refused(
        &tiny,
        1,
        "Malformed",
        "model.safetensors or model.safetensors.index.json, got neither",
        remove("model.safetensors"),
    );
    refused(&tiny, 1, "Io", "tokenizer.json", remove("tokenizer.json"));
    refused(&tiny, 2, "Io", SHARD, remove(SHARD));
    refused(&tiny, 1, "Malformed", "generation_config.json", write("generation_config.json", "{"));
    refused(&tiny, 1, "Malformed", "tokenizer_config.json", write("tokenizer_config.json", "[]"));
    refused(&tiny, 1, "Tokenizer", "tokenizer.json", write("tokenizer.json", "{}}"));
    refused(&tiny, 1, "Truncated", "model.safetensors", |d| {
        fs::write(d.join("model.safetensors"), [0xff, 0, 0, 0, 0, 0, 0, 0, b'{']).unwrap();
    });
    refused(&tiny, 2, "Malformed", "an object with weight_map", write(INDEX, "{}"));
    let error = Checkpoint::open(Path::new("/nonexistent/model.gguf")).unwrap_err();
    check_error("absent path", &error, "Io", "cannot open /nonexistent/model.gguf");
    let error = Checkpoint::open(Path::new("/dev/null")).unwrap_err();
    check_error("a device", &error, "Malformed", "a regular file");
}

#[test]
fn shards_that_contradict_the_index_are_refused() {
    let tiny = Fixture::default();
    let map =
        |change: fn(&mut Value)| move |d: &Path| edit_json(&d.join(INDEX), |index| change(&mut index["weight_map"]));
    let norm = "model.norm.weight";
    refused(
        &tiny,
        2,
        "Malformed",
        "a file name in the same directory",
        map(|m| m["x"] = json!("../other.safetensors")),
    );
    refused(&tiny, 2, "Malformed", "a file name in the same directory", map(|m| m["x"] = json!("..")));
    refused(&tiny, 2, "MissingTensor", "the tensor x", map(|m| m["x"] = json!(SHARD)));
    refused(&tiny, 2, "Malformed", "it in model-00002", map(|m| m["model.norm.weight"] = json!(SHARD)));
    refused(&tiny, 2, "UnexpectedTensor", norm, map(|m| drop(m.as_object_mut().unwrap().remove("model.norm.weight"))));
    refused(&tiny, 2, "Malformed", "one file with it, got a second", |d| {
        fs::copy(d.join("model-00001-of-00002.safetensors"), d.join(SHARD)).unwrap();
    });
}

#[test]
fn tensors_that_contradict_the_config_are_refused() {
    let tiny = Fixture::default();
    let biased = Fixture { attention_bias: true, mlp_bias: true, ..Fixture::default() };
    let set = |key: &'static str, value: Value| {
        move |d: &Path| edit_json(&d.join("config.json"), |config| config[key] = value)
    };
    refused(&tiny, 1, "MissingTensor", "lm_head.weight", set("tie_word_embeddings", json!(false)));
    refused(&tiny, 1, "MissingTensor", "model.layers.2.input_layernorm", set("num_hidden_layers", json!(3)));
    refused(&tiny, 1, "UnexpectedTensor", "model.layers.1.", set("num_hidden_layers", json!(1)));
    refused(&tiny, 1, "TensorShape", "got [272, 64]", set("vocab_size", json!(300)));
    refused(&tiny, 1, "TensorShape", "self_attn.q_proj", set("head_dim", json!(32)));
    refused(&tiny, 1, "MissingTensor", "q_proj.bias", set("attention_bias", json!(true)));
    refused(&tiny, 1, "MissingTensor", "gate_proj.bias", set("mlp_bias", json!(true)));
    refused(&biased, 1, "UnexpectedTensor", "q_proj.bias", set("attention_bias", json!(false)));
    refused(&biased, 1, "UnexpectedTensor", "gate_proj.bias", set("mlp_bias", json!(false)));
    refused(&tiny, 1, "MissingTensor", "model.embed_tokens.weight", |d| {
        let other = [("other".to_owned(), vec![2], vec![0.0; 2])];
        fs::write(d.join("model.safetensors"), safetensors_bytes(&other, DType::F32)).unwrap();
    });
}

#[test]
fn tokenizers_that_contradict_the_model_are_refused() {
    let tiny = Fixture::default();
    let edit = |change: fn(&mut Value)| move |d: &Path| edit_json(&d.join("tokenizer.json"), change);
    // What the library would end early without a word.
    let replace = |t: &mut Value| {
        let pattern = json!({"Regex": "(?=a)b"});
        t["normalizer"] =
            json!({"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": pattern, "content": ""}]});
    };
    refused(&tiny, 1, "Unsupported", "an expression without look-around, got (?=a)b", edit(replace));
    let config = |value: Value| move |d: &Path| fs::write(d.join("tokenizer_config.json"), value.to_string()).unwrap();
    let wrong_id = json!({"added_tokens_decoder": {"280": {"content": "<|user|>"}}});
    refused(&tiny, 1, "Malformed", "id of the added token \"<|user|>\": expected 272, as the", config(wrong_id));
    let other_id = json!({"added_tokens_decoder": {"5": {"content": "<|im_end|>", "special": true}}});
    refused(&tiny, 1, "Malformed", "expected 2, as the vocabulary has or continues, got 5", config(other_id));
    let list = json!({"added_tokens_decoder": ["<|user|>"]});
    refused(&tiny, 1, "Malformed", "added_tokens_decoder: expected tokens by their ids", config(list));
    // Longer than every token: the library would index out of its buffer.
    let long = |t: &mut Value| {
        let eot = "<|endoftext|>";
        t["model"]["merges"] = json!([[eot, eot]]);
    };
    refused(&tiny, 1, "Tokenizer", "expected merges of at most 13 bytes", edit(long));
    refused(&tiny, 1, "Tokenizer", "out of vocabulary", edit(|t| t["model"]["merges"] = json!(["x zz"])));
    refused(
        &tiny,
        1,
        "Tokenizer",
        "got a shorter one",
        edit(|t| {
            t["model"]["continuing_subword_prefix"] = json!("##");
            t["model"]["merges"] = json!(["a b"]);
        }),
    );
    refused(&tiny, 1, "MissingKey", "the key model", edit(|t| drop(t.as_object_mut().unwrap().remove("model"))));
}

#[test]
fn bos_that_does_not_exist_is_refused_by_encode() {
    let directory = tempfile::tempdir().unwrap();
    Fixture::default().write_hf(directory.path(), 1).unwrap();
    edit_json(&directory.path().join("config.json"), |config| config["bos_token_id"] = Value::Null);
    let tokenizer = Checkpoint::open(directory.path()).unwrap().tokenizer().unwrap();
    let error = tokenizer.encode("hello", true).unwrap_err();
    check_error("no BOS", &error, "Tokenizer", "expected a BOS token");
    assert!(!tokenizer.encode("hello", false).unwrap().is_empty());
}
