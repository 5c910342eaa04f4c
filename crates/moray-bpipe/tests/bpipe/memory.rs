//! Activation memory, parameters, FLOPs and caps against closed forms and published counts.

use moray_bpipe::activation::{Attention, Layer, Mlp, Recompute, Training};
use moray_bpipe::memory::{StageMemory, smallest_cap, stage_peaks};
use moray_bpipe::pipeline::{Pipeline, StageCost};
use moray_bpipe::presets::{PRESETS, preset};
use moray_bpipe::{Schedule, simulate};

const PLAIN: Training = Training {
    seq_len: 2048,
    tensor_parallel: 1,
    sequence_parallel: false,
    attention: Attention::Naive,
    recompute: Recompute::None,
};

#[test]
fn gpt_activations_match_published_closed_forms() {
    let model = preset("gpt3-96b").expect("known");
    let (s, h, a, b, t) = (2048_u64, 9984_u64, 104_u64, 3_u64, 4_u64);
    let bytes = |training: Training| model.layer.activation_bytes(&training, b as u32);
    let sbh = s * b * h;
    let core = 5 * a * s * s * b;
    assert_eq!(bytes(PLAIN), 34 * sbh + core);
    let split = Training { tensor_parallel: t, ..PLAIN };
    assert_eq!(bytes(split), 10 * sbh + (24 * sbh + core) / t);
    let sequence = Training { sequence_parallel: true, ..split };
    assert_eq!(bytes(sequence), (34 * sbh + core) / t);
    assert_eq!(bytes(Training { recompute: Recompute::Selective, ..sequence }), 34 * sbh / t);
    assert_eq!(bytes(Training { recompute: Recompute::Full, ..sequence }), 2 * sbh / t);
    assert_eq!(bytes(Training { recompute: Recompute::Full, ..split }), 2 * sbh);
    // Flash attention keeps a float per head and token instead.
    assert_eq!(bytes(Training { attention: Attention::Flash, ..sequence }), (34 * sbh + 4 * a * s * b) / t);
}

#[test]
fn smallest_cap_matches_half_the_pipeline_or_all_micro_batches() {
    for (stages, micro_batches) in (2u32..40).flat_map(|p| (1u32..60).map(move |m| (p, m))) {
        let expected = (stages + 2).div_ceil(2).min(micro_batches);
        assert_eq!(smallest_cap(stages, micro_batches), expected, "{stages} stages, {micro_batches} micro-batches");
    }
}

#[test]
fn llama_activations_match_sum_of_kept_tensors() {
    // 4 grouped key-value heads of 16, so that their share shows.
    let layer = Layer { hidden: 256, n_q_heads: 16, n_kv_heads: 4, ffn: 704, mlp: Mlp::SwiGlu, dropout: false };
    let (s, b) = (128_u64, 2_u64);
    let training = Training { seq_len: s, ..PLAIN };
    let tokens = s * b;
    // 16-bit: two norm inputs, QKV input, q, k, v, attention output, MLP input, gate, up, product; probabilities.
    let elements = tokens * (256 * (2 + 1 + 1 + 1 + 1) + 64 * 2 + 704 * 3) + b * 16 * s * s;
    assert_eq!(layer.activation_bytes(&training, b as u32), 2 * elements);
}

#[test]
fn parameters_match_published_counts() {
    let count = |name| preset(name).expect("known").parameters();
    assert_eq!(count("llama-7b"), 6_738_415_616);
    assert_eq!(count("llama-13b"), 13_015_864_320);
    assert_eq!(count("llama-33b"), 32_528_943_616);
    assert_eq!(count("llama-65b"), 65_285_660_672);
    assert_eq!(count("gpt3-96b") / 1_000_000_000, 96);
}

#[test]
fn flops_match_published_formula_for_gpt() {
    let model = preset("gpt3-96b").expect("known");
    let (s, h, l, v) = (2048.0, 9984.0, 80.0, 51_200.0);
    let expected = 72.0 * s * l * h * h * (1.0 + s / (6.0 * h) + v / (12.0 * l * h));
    // About ten roundings on each side.
    assert!((model.flops_per_sample(2048) / expected - 1.0).abs() <= 16.0 * f64::EPSILON);
}

#[test]
fn stages_sum_to_the_model() {
    for model in &PRESETS {
        for p in [2, 3, 7, 8, 16] {
            let layers = model.layers_per_stage(p).expect("enough layers");
            assert_eq!(layers.iter().sum::<u64>(), model.layers);
            let (least, most) = (layers.iter().min().expect("stages"), layers.iter().max().expect("stages"));
            assert!(most - least <= 1 && layers[p as usize - 1] == *least, "{layers:?}");
            let training = Training { tensor_parallel: 2, seq_len: 64, ..PLAIN };
            let memory = model.stage_memory(&training, p, 2, 2.0).expect("valid");
            let held: u64 = memory.iter().map(|stage| stage.static_bytes).sum();
            // At 2 bytes over 2 devices a byte per parameter; a GPT's last stage holds a copy of the tied embedding.
            let tied = if model.positions_and_biases { model.vocab * model.layer.hidden } else { 0 };
            assert_eq!(held, model.parameters() + tied);
            let logits = 6 * 64 * 2 * model.vocab / 2;
            let per_layer = model.layer.activation_bytes(&training, 2);
            let activations: u64 = memory.iter().map(|stage| stage.activation_bytes).sum();
            assert_eq!(activations, per_layer * model.layers + logits);
        }
    }
}

#[test]
fn smallest_cap_matches_closed_form_and_exhaustive_planning() {
    for p in 2..=24_u32 {
        assert_eq!(smallest_cap(p, 4 * p), (p + 2).div_ceil(2), "p {p}");
        for m in 1..=2 * p {
            let cap = smallest_cap(p, m);
            assert!(cap <= (p + 2).div_ceil(2).min(m), "p {p} m {m}: {cap}");
            let pipeline =
                Pipeline::uniform(p, m, StageCost { forward_ns: 1, input_grad_ns: 1, ..StageCost::default() });
            let schedule = |cap| Schedule::BPipe { cap: Some(cap), lookahead: Some(1) };
            let program = schedule(cap).program(&pipeline).expect("the smallest cap holds");
            simulate(&pipeline, &program).expect("no deadlock");
            assert!(schedule(cap - 1).program(&pipeline).is_err(), "p {p} m {m}: a smaller cap");
        }
    }
}

#[test]
fn stage_peaks_match_hand_count_for_eight_stages() {
    let memory = [StageMemory { static_bytes: 1000, activation_bytes: 10 }; 8];
    let peaks = stage_peaks(&memory, 64).expect("valid");
    let plain: Vec<u64> = peaks.iter().map(|peak| peak.plain_bytes).collect();
    assert_eq!(plain, [1080, 1070, 1060, 1050, 1040, 1030, 1020, 1010]);
    let bpipe: Vec<u64> = peaks.iter().map(|peak| peak.bpipe_bytes).collect();
    assert_eq!(bpipe, [1050, 1050, 1050, 1050, 1040, 1050, 1050, 1050]);
}
