//! Checkpoints: the two formats against each other, and row order.

use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::checkpoint::{DType, LayerTensor, Tensor};
use moray_lab::config::{Activation, RopeScaling};
use moray_lab::fixture::{Fixture, MIN_VOCAB, Pair};
use moray_lab::gguf::half_split_row;
use moray_lab::mapped_file::MappedFile;

fn open_gguf(fixture: &Fixture) -> Checkpoint {
    fixture.open().unwrap()
}

/// Every tensor of a model with its role, in one order.
fn tensors(checkpoint: &Checkpoint) -> Vec<(String, Tensor<'_>)> {
    let mut all = vec![
        ("embedding".into(), checkpoint.embedding().unwrap()),
        ("final norm".into(), checkpoint.final_norm().unwrap()),
    ];
    all.extend(checkpoint.lm_head().unwrap().map(|tensor| ("lm_head".into(), tensor)));
    for index in 0..checkpoint.config().n_layers {
        for role in LayerTensor::ALL {
            let tensor = checkpoint.layer_optional(index, role).unwrap();
            all.extend(tensor.map(|tensor| (format!("layer {index} {role:?}"), tensor)));
        }
    }
    all
}

fn shapes() -> Vec<Fixture> {
    let biased = Fixture { attention_bias: true, mlp_bias: true, tied: false, ..Fixture::default() };
    let wide_heads = Fixture { head_dim: 32, n_kv_heads: 1, n_layers: 1, vocab: MIN_VOCAB + 5, ..Fixture::default() };
    let normed_heads = Fixture { qk_norm: true, head_dim: 32, ..Fixture::default() };
    vec![Fixture::default(), biased, wide_heads, normed_heads]
}

#[test]
fn gguf_tensors_match_hugging_face_directory_for_every_role() {
    for fixture in shapes() {
        for (dtype, shards) in [(DType::F32, 1), (DType::F32, 3), (DType::F16, 1), (DType::Bf16, 2)] {
            let fixture = Fixture { dtype, ..fixture.clone() };
            let directory = tempfile::tempdir().unwrap();
            fixture.write_hf(directory.path(), shards).unwrap();
            let (gguf, hf) = (open_gguf(&fixture), Checkpoint::open(directory.path()).unwrap());
            let (gguf, hf) = (tensors(&gguf), tensors(&hf));
            assert_eq!(gguf.len(), hf.len());
            for ((role, left), (_, right)) in gguf.iter().zip(&hf) {
                assert_eq!(left.shape, right.shape, "{role}");
                // Vectors are F32 in a GGUF file, so they are compared as the directory's type holds them.
                let mut left = left.to_f32().unwrap();
                match dtype {
                    DType::F16 => left.iter_mut().for_each(|v| *v = half::f16::from_f32(*v).to_f32()),
                    DType::Bf16 => left.iter_mut().for_each(|v| *v = half::bf16::from_f32(*v).to_f32()),
                    _ => {}
                }
                assert_eq!(left, right.to_f32().unwrap(), "{role} of {fixture:?}");
            }
        }
    }
}

#[test]
fn gguf_config_matches_hugging_face_config_for_the_same_model() {
    let linear = Fixture { rope_scaling: RopeScaling::Linear { factor: 4.0 }, add_bos: true, ..Fixture::default() };
    for fixture in shapes().into_iter().chain([linear]) {
        let directory = tempfile::tempdir().unwrap();
        fixture.write_hf(directory.path(), 1).unwrap();
        let (gguf, hf) = (open_gguf(&fixture), Checkpoint::open(directory.path()).unwrap());
        let mut expected = gguf.config().clone();
        expected.name = fixture.model_type().into();
        assert_eq!(expected.qk_norm(), fixture.qk_norm);
        // generation_config.json names 0 too, and each of both formats says why in its own words
        expected.eos = vec![0, 2];
        expected.bounds = hf.config().bounds.clone();
        expected.chat_template = Some("{{ messages }}".into());
        assert_eq!(&expected, hf.config());
        assert_eq!((expected.hidden, expected.head_dim), (fixture.hidden, fixture.head_dim));
        assert_eq!(expected.rope_scaling, fixture.rope_scaling);
        assert_eq!((expected.bos, expected.add_bos), (Some(1), fixture.add_bos));
        assert_eq!(expected.attention_bias, fixture.attention_bias);
    }
}

#[test]
fn hugging_face_tokenizer_matches_gguf_tokenizer_for_the_same_vocabulary() {
    let fixture = Fixture::default();
    let directory = tempfile::tempdir().unwrap();
    fixture.write_hf(directory.path(), 1).unwrap();
    let (gguf, hf) = (open_gguf(&fixture), Checkpoint::open(directory.path()).unwrap());
    let (gguf, hf) = (gguf.tokenizer().unwrap(), hf.tokenizer().unwrap());
    assert_eq!(gguf.vocab_size(), hf.vocab_size());
    for text in ["", "hello and the 2024 ants", "<|im_start|>user\nnaïve 🎉<|im_end|>", "\u{0}\u{a0} \r\n\t"] {
        let ids = gguf.encode(text, true).unwrap();
        assert_eq!(ids, hf.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(ids[0], 1);
        assert_eq!(gguf.decode(&ids[1..]), text);
        assert_eq!(hf.decode(&ids[1..]), text);
    }
}

#[test]
fn gguf_rows_match_half_split_order_for_every_element_type() {
    for dtype in DType::ALL {
        let fixture = Fixture {
            dtype,
            hidden: 256,
            d_ff: 256,
            n_layers: 1,
            head_dim: 64,
            n_q_heads: 4,
            attention_bias: true,
            ..Fixture::default()
        };
        // The same file under an architecture that stores rows as they are.
        let mut writer = fixture.gguf_writer();
        writer.set("general.architecture", Pair::String("qwen2".into()));
        for (key, _) in &mut writer.pairs {
            *key = key.replace("llama.", "qwen2.");
        }
        let raw = Checkpoint::open_gguf(MappedFile::from_bytes(Path::new("raw.gguf"), writer.to_bytes())).unwrap();
        let ordered = open_gguf(&fixture);
        let exact = open_gguf(&Fixture { dtype: DType::F32, ..fixture.clone() });
        for role in LayerTensor::ALL.into_iter().filter(|role| fixture.attention_bias || !role.is_optional()) {
            let Some(ordered) = ordered.layer_optional(0, role).unwrap() else { continue };
            let (raw, exact) = (raw.layer(0, role).unwrap(), exact.layer(0, role).unwrap());
            let (raw, got, exact) = (raw.to_f32().unwrap(), ordered.to_f32().unwrap(), exact.to_f32().unwrap());
            let row = if ordered.shape[0] == 1 { 1 } else { ordered.shape[1] };
            let moves = matches!(role, LayerTensor::Q | LayerTensor::K | LayerTensor::QBias | LayerTensor::KBias);
            for (index, got) in got.chunks(row).enumerate() {
                let source = if moves { half_split_row(index, 64) } else { index };
                assert_eq!(got, &raw[source * row..][..row], "{dtype} {role:?} row {index}");
                // Weights are uniform in ±a, a² = 3/K: an unrelated row differs by 2a²·K = 6 in squared distance, while
                // rounding to 4 bits or more (steps of at most a/7) leaves at most K·(a/14)² = 3/196 per row, and
                // clamping and scale rounding stay below another such step.
                let far = |i: usize| (got[i] - exact[index * row + i]).powi(2);
                let distance: f32 = (0..row).map(far).sum();
                assert!(
                    row == 1 && distance == 0.0 || distance < 6.0 / 20.0,
                    "{dtype} {role:?} row {index}: {distance}"
                );
            }
        }
    }
}

#[test]
fn gguf_llama3_scaling_matches_its_factors_at_both_ends() {
    let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
    let llama3 = RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_context: 128 };
    let fixture = Fixture { rope_scaling: llama3.clone(), ..Fixture::default() };
    let RopeScaling::Factors(factors) = open_gguf(&fixture).config().rope_scaling.clone() else {
        panic!("a GGUF file stores llama3 scaling as factors")
    };
    assert_eq!(factors.len(), fixture.head_dim / 2);
    assert_eq!((factors[0], factors[7]), (1.0, 8.0)); // wavelength 2π and 2π·10000^(7/8)
    let directory = tempfile::tempdir().unwrap();
    fixture.write_hf(directory.path(), 1).unwrap();
    assert_eq!(Checkpoint::open(directory.path()).unwrap().config().rope_scaling, llama3);
}

#[test]
fn relu_and_newer_spellings_are_read_from_hugging_face_configs() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture { activation: Activation::Relu, ..Fixture::default() };
    fixture.write_hf(directory.path(), 1).unwrap();
    let mut config = fixture.config_json();
    config["rope_parameters"] = serde_json::json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5});
    config.as_object_mut().unwrap().remove("rope_theta");
    config["eos_token_id"] = serde_json::json!([5, 2, 5]);
    config["bos_token_id"] = serde_json::Value::Null;
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let opened = Checkpoint::open(directory.path()).unwrap();
    let config = opened.config();
    assert_eq!(config.activation, Activation::Relu);
    assert_eq!(config.rope_scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(config.rope_theta, 5e5);
    assert_eq!((config.bos, config.add_bos, &config.eos[..]), (None, false, &[0, 2][..]), "generation_config.json");
    std::fs::remove_file(directory.path().join("generation_config.json")).unwrap();
    let opened = Checkpoint::open(directory.path()).unwrap();
    assert_eq!(opened.config().eos, [2, 5]);
}

#[test]
fn rows_match_the_whole_tensor_for_any_range() {
    let checkpoint = open_gguf(&Fixture { dtype: DType::Q4_1, ..Fixture::default() });
    let tensor = checkpoint.layer(1, LayerTensor::Down).unwrap();
    let whole = tensor.to_f32().unwrap();
    let [n, k] = tensor.shape;
    for rows in [0..n, 0..1, n - 1..n, 3..7, 5..5, n..n] {
        let mut out = vec![f32::NAN; rows.len() * k];
        tensor.rows_to_f32(rows.clone(), &mut out).unwrap();
        assert_eq!(out, whole[rows.start * k..rows.end * k]);
    }
    let mut out = vec![0.0; k];
    let error = tensor.rows_to_f32(n..n + 1, &mut out).unwrap_err().to_string();
    assert!(error.contains(&format!("below {}, got {}", n + 1, n + 1)), "{error}");
    let error = tensor.rows_to_f32(0..2, &mut out).unwrap_err().to_string();
    assert!(error.contains(&format!("expected {} elements, got {k}", 2 * k)), "{error}");
    assert!(checkpoint.layer(2, LayerTensor::Q).unwrap_err().to_string().contains("below 2, got 2"));
    assert!(checkpoint.layer(0, LayerTensor::QBias).unwrap_err().to_string().contains("blk.0.attn_q.bias"));
}

#[test]
fn released_tensors_read_the_same_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let fixture = Fixture { hidden: 256, d_ff: 1024, n_layers: 3, ..Fixture::default() };
    fixture.write_gguf(&path).unwrap();
    let (mapped, owned) = (Checkpoint::open(&path).unwrap(), open_gguf(&fixture));
    for ((role, mapped_tensor), (_, owned_tensor)) in tensors(&mapped).iter().zip(&tensors(&owned)) {
        assert_eq!(mapped_tensor.to_f32().unwrap(), owned_tensor.to_f32().unwrap(), "{role}");
        mapped.release(mapped_tensor);
        assert_eq!(mapped_tensor.bytes, owned_tensor.bytes, "{role} after release");
    }
    assert_eq!(mapped.stored_bytes(), tensors(&owned).iter().map(|(_, tensor)| tensor.bytes.len()).sum::<usize>());
}

/// Resident kilobytes of the mapping of a file; None where the system does not say.
fn resident_kib(path: &Path) -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/smaps").ok()?;
    let mapping = maps.split_once(path.to_str()?)?.1;
    let resident = mapping.lines().find_map(|line| line.strip_prefix("Rss:"))?;
    resident.trim().trim_end_matches(" kB").parse().ok()
}

#[test]
fn released_tensors_leave_the_resident_set() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap().join("model.gguf");
    Fixture { hidden: 512, d_ff: 2048, ..Fixture::default() }.write_gguf(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    if resident_kib(&path).is_none() {
        eprintln!("skipped: no /proc/self/smaps");
        return;
    }
    let all = tensors(&checkpoint);
    all.iter().for_each(|(_, tensor)| tensor.check_finite().unwrap());
    let touched = resident_kib(&path).unwrap();
    assert!(touched * 1024 >= checkpoint.stored_bytes() * 9 / 10, "{touched} kB");
    all.iter().for_each(|(_, tensor)| checkpoint.release(tensor));
    // What lies before the first tensor is the header.
    let left = resident_kib(&path).unwrap();
    assert!(left <= 256, "{left} kB of {touched} kB are left");
}

#[test]
fn smollm2_opens_and_converts_every_tensor() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.exists() {
        eprintln!("skipped: no {}, which `cargo xtask fetch` obtains", model.display());
        return;
    }
    let checkpoint = Checkpoint::open(&model).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.hidden, config.d_ff, config.n_layers, config.vocab), (576, 1536, 30, 49152));
    assert_eq!((config.n_q_heads, config.n_kv_heads, config.head_dim), (9, 3, 64));
    assert_eq!((config.rope_theta, config.eos.as_slice(), config.tied_embeddings), (1e5, &[0, 2, 4][..], true));
    // the file names 2 only; <|endoftext|> and <reponame> end texts by what they are
    let origins: Vec<&str> = config.bounds.ends.iter().map(|end| end.origin.as_str()).collect();
    assert!(origins[0].contains("<|endoftext|>") && origins[2].contains("<reponame>"), "{origins:?}");
    assert_eq!(origins[1], "tokenizer.ggml.eos_token_id");
    let mut elems = 0;
    for (_, tensor) in tensors(&checkpoint) {
        tensor.check_finite().unwrap();
        elems += tensor.to_f32().unwrap().len();
        checkpoint.release(&tensor);
    }
    assert_eq!(elems, 134_515_008);
}
