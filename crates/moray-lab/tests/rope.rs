//! Rotary frequencies of configurations against those of transformers (scripts/golden_rope.py).

use std::path::Path;

use moray::attention::Rope;
use moray_lab::Checkpoint;
use moray_lab::fixture::{Fixture, Pair};
use moray_lab::hf::parse_config;
use moray_lab::load::forward_config;
use moray_lab::mapped_file::MappedFile;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Golden {
    config: serde_json::Map<String, Value>,
    frequencies: Vec<f64>,
    attention_factor: f64,
}

#[test]
fn frequencies_match_transformers_for_every_scaling() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rope.json");
    let cases: Vec<Golden> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 10);
    let fixture = Fixture { n_q_heads: 2, n_kv_heads: 2, head_dim: 32, context_length: 2048, ..Fixture::default() };
    for case in cases {
        let mut config = fixture.config_json();
        config.as_object_mut().unwrap().remove("rope_theta");
        config.as_object_mut().unwrap().extend(case.config.clone());
        let parsed = parse_config(Path::new("config.json"), config.to_string().as_bytes()).unwrap();
        let config = forward_config(&parsed).unwrap();
        let rope = Rope::new(32, config.rope_theta, &config.rope_scaling, 2).unwrap();
        let (cos, sin) = rope.table()[32..].split_at(16);
        // A power and at most five more operations, each rounded to f32 there, and one rounding to f32 here.
        let bound = 8.0 * f64::from(f32::EPSILON);
        for (i, want) in case.frequencies.iter().enumerate() {
            let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
            // at position 1 the angle is the frequency
            let (got, factor) = (sin.atan2(cos), sin.hypot(cos));
            assert!((got / want - 1.0).abs() < bound, "{:?} pair {i}: {got} against {want}", case.config);
            assert!((factor / case.attention_factor - 1.0).abs() < bound, "{:?}: {factor}", case.config);
        }
    }
}

#[test]
fn gguf_yarn_matches_the_same_in_a_hugging_face_configuration() {
    let fixture = Fixture::default();
    for (stated, growth) in [(1.0, None), (0.5, Some(0.5 * (0.1 * 4f32.ln() + 1.0)))] {
        let mut writer = fixture.gguf_writer();
        writer.set("llama.rope.scaling.type", Pair::String("yarn".into()));
        writer.set("llama.rope.scaling.factor", Pair::F32(4.0));
        writer.set("llama.rope.scaling.original_context_length", Pair::U32(32));
        writer.set("llama.rope.scaling.yarn_beta_fast", Pair::F32(16.0));
        writer.set("llama.rope.scaling.attn_factor", Pair::F32(stated));
        let file = MappedFile::from_bytes(Path::new("yarn.gguf"), writer.to_bytes());
        let gguf = Checkpoint::open_gguf(file).unwrap().config().rope_scaling.clone();
        let mut config = fixture.config_json();
        config["rope_scaling"] = serde_json::json!({"type": "yarn", "factor": 4.0, "beta_fast": 16,
            "original_max_position_embeddings": 32, "attention_factor": growth});
        let parsed = parse_config(Path::new("config.json"), config.to_string().as_bytes()).unwrap();
        assert_eq!(gguf, parsed.rope_scaling);
    }
}
