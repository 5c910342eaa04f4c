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
    let longrope = json!({"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
        "long_factor": [1, 2, 3, 4, 5, 6, 7, 8], "original_max_position_embeddings": 64});
    let longrope_short = json!({"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]});
    let base_dropped = |config: &mut Value| {
        drop(config.as_object_mut().and_then(|object| object.remove("rope_theta")));
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e6});
        config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
    };
    let yarn_base_1 = |config: &mut Value| {
        config["rope_theta"] = json!(1.0);
        config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
    };
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
        Case::valid("valid_yarn", with("rope_scaling", json!({"type": "yarn", "factor": 4.0, "finetuned": true}))),
        Case::valid("valid_dynamic", with("rope_scaling", json!({"type": "dynamic", "factor": 2.0}))),
        Case::valid("valid_longrope", with("rope_scaling", longrope.clone())),
        Case::valid("valid_point", with("max_position_embeddings", json!(128.0))),
        Case::valid("valid_twice", [b"{\"hidden_size\": -1, ", &config(|_| {})[1..]].concat()),
        Case::valid("valid_infinity", [b"{\"time_step_limit\": [0.0, Infinity], ", &config(|_| {})[1..]].concat()),
        Case::valid("valid_leftovers", with("unsloth_fixed", json!(true))),
        Case::valid("valid_neutral", with("logit_scale", json!(1.0))),
        Case::valid("valid_layer_types", with("layer_types", json!(["full_attention", "full_attention"]))),
        Case::broken("empty", Vec::new(), "Malformed", "expected JSON"),
        Case::broken("list", b"[]".to_vec(), "Malformed", "an object"),
        Case::broken("nested", b"{\"bos_token_id\":".repeat(500), "Malformed", "recursion limit"),
        Case::broken("model_type_missing", without("model_type"), "MissingKey", "model_type"),
        Case::broken("model_type_gemma", with("model_type", json!("gemma3")), "Unsupported", "got gemma3"),
        Case::broken("hidden_size_missing", without("hidden_size"), "MissingKey", "hidden_size"),
        Case::broken(
            "hidden_size_negative",
            with("hidden_size", json!(-64)),
            "Malformed",
            "hidden_size: expected a whole number of at least 0, got -64",
        ),
        Case::broken(
            "hidden_size_text",
            with("hidden_size", json!("64")),
            "Malformed",
            "hidden_size: expected a whole number, got 64",
        ),
        Case::broken("hidden_size_half", with("hidden_size", json!(64.5)), "Malformed", "a whole number, got 64.5"),
        Case::broken(
            "theta_infinity",
            config(|config| config["rope_theta"] = json!("Infinity")).to_vec(),
            "Malformed",
            "rope_theta: expected a number, got Infinity",
        ),
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
        Case::broken("rope_unknown", with("rope_scaling", json!({"rope_type": "wave"})), "Unsupported", "got wave"),
        Case::broken(
            "rope_new_key",
            with("rope_scaling", json!({"rope_type": "linear", "factor": 2.0, "phase": 1})),
            "Unsupported",
            "rope_scaling.phase",
        ),
        Case::broken(
            "rope_by_layer",
            with("rope_parameters", json!({"full_attention": {"rope_type": "default"}})),
            "Unsupported",
            "rope_parameters.full_attention",
        ),
        Case::broken("rope_base_dropped", config(base_dropped), "Malformed", "expected 1000000 as in rope_parameters"),
        Case::broken("longrope_short", with("rope_scaling", longrope_short), "Malformed", "expected 8 values, got 1"),
        Case::broken("yarn_base_1", config(yarn_base_1), "Malformed", "more than 1 with YaRN"),
        Case::broken("logit_scale", with("logit_scale", json!(0.0625)), "Unsupported", "logit_scale"),
        Case::broken("softcap", with("final_logit_softcapping", json!(30.0)), "Unsupported", "final_logit_softcapping"),
        Case::broken("multiplier", with("embedding_multiplier", json!(12)), "Unsupported", "embedding_multiplier"),
        Case::broken("other_bias", with("qkv_bias", json!(true)), "Unsupported", "qkv_bias"),
        Case::broken("transformed", with("transform_config", json!({"u": 1})), "Unsupported", "transform_config"),
        Case::broken("mlx", with("quantization", json!({"group_size": 64, "bits": 4})), "Unsupported", "quantization"),
        Case::broken(
            "layer_types",
            with("layer_types", json!(["full_attention", "linear_attention"])),
            "Unsupported",
            "got linear_attention",
        ),
        Case::broken(
            "window_missing",
            with("layer_types", json!(["sliding_attention"])),
            "MissingKey",
            "sliding_window",
        ),
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

#[test]
fn files_that_stand_for_others_are_refused_as_what_they_are() {
    let tiny = Fixture::default();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    for name in ["model.safetensors", "config.json", "tokenizer.json"] {
        refused(&tiny, 1, "Malformed", "a Git LFS pointer", |d| fs::write(d.join(name), pointer).unwrap());
        refused(&tiny, 1, "Malformed", "a directory", |d| {
            fs::remove_file(d.join(name)).unwrap();
            fs::create_dir(d.join(name)).unwrap();
        });
    }
    refused(&tiny, 1, "Malformed", "got pytorch_model.bin, which is not read", |d| {
        fs::rename(d.join("model.safetensors"), d.join("pytorch_model.bin")).unwrap();
    });
}

#[cfg(unix)]
#[test]
fn links_to_nothing_and_pipes_are_refused_at_once() {
    let tiny = Fixture::default();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "generation_config.json"] {
        refused(&tiny, 1, "Malformed", "got gone, which is not there", |d| {
            fs::remove_file(d.join(name)).unwrap();
            std::os::unix::fs::symlink("gone", d.join(name)).unwrap();
        });
        // a reader that opens it waits for a writer
        refused(&tiny, 1, "Malformed", "expected a regular file", |d| {
            fs::remove_file(d.join(name)).unwrap();
            let made = std::process::Command::new("mkfifo").arg(d.join(name)).status().unwrap();
            assert!(made.success());
        });
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    check_error("a pipe", &Checkpoint::open(&path).unwrap_err(), "Malformed", "expected a regular file");
}

#[test]
fn an_index_may_list_what_the_model_does_not_need_and_nothing_else() {
    let tiny = Fixture::default();
    let directory = tempfile::tempdir().unwrap();
    tiny.write_hf(directory.path(), 2).unwrap();
    edit_json(&directory.path().join(INDEX), |index| index["weight_map"]["lm_head.weight"] = json!(SHARD));
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert!(checkpoint.lm_head().unwrap().is_none());
    assert!(checkpoint.notes().iter().any(|note| note.to_string().contains("lm_head.weight")));
    let untied = Fixture { tied: false, ..Fixture::default() };
    refused(&untied, 2, "MissingTensor", "lm_head.weight", |d| {
        let shard = d.join("model-00001-of-00002.safetensors");
        let bytes = fs::read(&shard).unwrap();
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = stored.tensors().into_iter().filter(|(name, _)| name != "lm_head.weight");
        fs::write(&shard, safetensors::serialize(kept, None).unwrap()).unwrap();
    });
}

#[test]
fn tensors_that_the_configuration_derives_may_have_any_type_and_shape() {
    let directory = tempfile::tempdir().unwrap();
    Fixture::default().write_hf(directory.path(), 1).unwrap();
    let path = directory.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    for (dtype, shape, data) in [
        (safetensors::Dtype::F64, vec![2], vec![0u8; 16]),
        (safetensors::Dtype::F32, vec![0], Vec::new()),
        (safetensors::Dtype::F32, vec![1, 1, 1], vec![0; 4]),
    ] {
        let stored = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = safetensors::tensor::TensorView::new(dtype, shape, &data).unwrap();
        let all = stored.tensors().into_iter().chain([(name.to_owned(), view)]);
        fs::write(&path, safetensors::serialize(all, None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        assert!(checkpoint.notes().iter().any(|note| note.to_string().contains(name)));
    }
}

#[test]
fn tokens_beyond_the_embedding_are_refused_where_a_text_has_them() {
    let directory = tempfile::tempdir().unwrap();
    Fixture::default().write_hf(directory.path(), 1).unwrap();
    edit_json(&directory.path().join("tokenizer.json"), |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        let mut pad = added[0].clone();
        (pad["id"], pad["content"]) = (json!(272), json!("[PAD]"));
        added.push(pad);
    });
    let tokenizer = Checkpoint::open(directory.path()).unwrap().tokenizer().unwrap();
    assert!(!tokenizer.encode("hello", false).unwrap().is_empty());
    let error = tokenizer.encode("hello [PAD]", false).unwrap_err();
    check_error("a padding token", &error, "Index", "below 272, got 272");
}

#[test]
fn an_output_layer_that_is_no_copy_of_the_embedding_is_used() {
    let directory = tempfile::tempdir().unwrap();
    Fixture { tied: false, ..Fixture::default() }.write_hf(directory.path(), 1).unwrap();
    edit_json(&directory.path().join("config.json"), |config| config["tie_word_embeddings"] = json!(true));
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    assert!(checkpoint.lm_head().unwrap().is_some());
    assert!(checkpoint.notes().unusual_ones().any(|note| note.to_string().contains("lm_head.weight is stored")));
}
