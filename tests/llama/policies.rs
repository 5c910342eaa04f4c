//! Policies inside the forward pass: what keeps everything is dense, and the four KV policies.

use std::sync::Arc;

use moray::attention::KvPolicy;
use moray::attention::Span;
use moray::llama::{LogitRows, Model, Sequence, Settings};
use moray::policy::{
    Griffin, HeadNorm, InLayers, Kept, Lists, LowRank, Observed, Policy, PolicyConfig, Predicted, PredictedLayer,
    Projection, Random, RefreshOptions, Refreshed, Site, Sizes, TdaQuantile, Teal, TopK, Values, Wanted, Wina,
};
use moray::sparse_mlp::{NeuronList, Selection};
use moray::w4a8::{Format, Offset};
use moray::{Cpu, Error};

use crate::above_inputs::AboveInputs;
use crate::common::bits;
use crate::plain::{D_FF, Kind, Plain, THRESHOLDS, VOCAB, feed, roomy, tokens, whole, with_thresholds};

const PROMPT: usize = 20;
const LEN: usize = 40;
/// Every third generated token runs all heads.
const REFRESH: usize = 3;

/// Logits [LEN, vocab] of a prompt and a generation of given tokens.
fn generation(cpu: &Cpu, model: &Model<Cpu>, settings: &Settings, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut session = model.session(cpu, settings.clone()).unwrap();
    let mut rows: Vec<Vec<u32>> = feed(cpu, model, &mut session, &tokens[..PROMPT]).chunks(VOCAB).map(bits).collect();
    session.start_generation(0).unwrap();
    rows.extend(tokens[PROMPT..].chunks(1).map(|token| bits(&feed(cpu, model, &mut session, token))));
    rows
}

fn heads(kept: f32, refresh: usize, kv: KvPolicy) -> Settings {
    Settings { kv, ..roomy(LEN) }.with(HeadNorm::new(kept, refresh).unwrap())
}

/// A skipped head is a skipped KV head.
fn multi_head(n_layers: usize) -> Plain {
    Plain::new(&Kind { heads: (4, 4, 16), n_layers, ..Kind::default() }, 5)
}

fn dense(cpu: &Cpu, model: &Model<Cpu>, tokens: &[u32]) -> Vec<Vec<u32>> {
    whole(cpu, model, &roomy(LEN), tokens).chunks(VOCAB).map(bits).collect()
}

/// Names the first position that differs, rather than print every number.
fn assert_same(got: &[Vec<u32>], expected: &[Vec<u32>], what: impl std::fmt::Debug) {
    let differs = got.iter().zip(expected).position(|(got, expected)| got != expected);
    assert!(got.len() == expected.len() && differs.is_none(), "{what:?}: differs at position {differs:?}");
}

#[test]
fn keeping_every_head_matches_dense_for_every_kv_policy() {
    let (cpu, tokens) = (Cpu::detect(), tokens(1, LEN));
    for model in [multi_head(2).dense(), multi_head(2).w4a8(Format::per_channel())] {
        let dense = dense(&cpu, &model, &tokens);
        for kv in [KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 4 }] {
            assert_same(&generation(&cpu, &model, &heads(1.0, 0, kv), &tokens), &dense, kv);
        }
    }
}

#[test]
fn keeping_every_neuron_matches_dense_for_every_policy() {
    let (cpu, tokens) = (Cpu::detect(), tokens(2, LEN));
    let plain = Plain::new(&Kind::default(), 6);
    for model in [plain.by_neuron(), plain.w4a8_by_neuron(Format::per_group(32, Offset::F16))] {
        let dense = dense(&cpu, &model, &tokens);
        let policies: [Arc<dyn PolicyConfig>; 4] = [
            Arc::new(TopK::by_gate(1.0, D_FF).unwrap()),
            Arc::new(Griffin::new(1.0).unwrap()),
            Arc::new(TdaQuantile::new(1.0).unwrap()),
            Arc::new(Random::new(Site::Neurons, 1.0).unwrap()),
        ];
        for policy in policies {
            let settings = Settings { policies: vec![policy], ..roomy(LEN) };
            assert_same(&generation(&cpu, &model, &settings, &tokens), &dense, &settings.policies);
        }
    }
}

#[test]
fn the_prompt_matches_dense_and_the_generation_does_not() {
    let (cpu, tokens) = (Cpu::detect(), tokens(3, LEN));
    let plain = multi_head(2);
    let cases = [
        (plain.dense(), heads(0.5, 0, KvPolicy::WriteAll)),
        (plain.by_neuron(), roomy(LEN).with(Griffin::new(0.3).unwrap())),
    ];
    for (model, settings) in cases {
        let (sparse, dense) = (generation(&cpu, &model, &settings, &tokens), dense(&cpu, &model, &tokens));
        assert_same(&sparse[..PROMPT], &dense[..PROMPT], "prompt");
        assert!((PROMPT..LEN).all(|position| sparse[position] != dense[position]));
    }
}

/// In one layer the inputs of K and V are embeddings, which no skipped head has changed: once all heads run again over
/// what write-all stored, the result is the dense one.
#[test]
fn write_all_matches_dense_when_all_heads_run_again() {
    let (cpu, tokens) = (Cpu::detect(), tokens(4, LEN));
    for model in [multi_head(1).dense(), multi_head(1).w4a8(Format::per_channel())] {
        let dense = dense(&cpu, &model, &tokens);
        let got = generation(&cpu, &model, &heads(0.5, REFRESH, KvPolicy::WriteAll), &tokens);
        for position in PROMPT..LEN {
            let all_run = (position - PROMPT + 1) % REFRESH == 0;
            assert_eq!(got[position] == dense[position], all_run, "{position}");
        }
    }
}

#[test]
fn recompute_matches_write_all_when_the_lag_covers_what_was_skipped() {
    let (cpu, tokens) = (Cpu::detect(), tokens(5, LEN));
    for model in [multi_head(3).dense(), multi_head(3).w4a8(Format::per_channel())] {
        let run = |kv| generation(&cpu, &model, &heads(0.5, REFRESH, kv), &tokens);
        let write_all = run(KvPolicy::WriteAll);
        assert_same(&run(KvPolicy::Recompute { lag: REFRESH - 1 }), &write_all, "the lag that suffices");
        assert_same(&run(KvPolicy::Recompute { lag: 64 }), &write_all, "a long lag");
        assert!(run(KvPolicy::Recompute { lag: 1 }) != write_all);
    }
}

#[test]
fn the_kv_policies_match_until_a_skipped_head_runs_again_and_then_differ() {
    let (cpu, tokens) = (Cpu::detect(), tokens(6, LEN));
    let model = multi_head(2).dense();
    let policies = [KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero];
    let [write_all, hole, zero] = policies.map(|kv| generation(&cpu, &model, &heads(0.5, REFRESH, kv), &tokens));
    let again = PROMPT + REFRESH - 1;
    assert_same(&hole[..again], &write_all[..again], "hole");
    assert_same(&zero[..again], &write_all[..again], "zero");
    assert!(write_all[again] != hole[again] && write_all[again] != zero[again] && hole[again] != zero[again]);
    // a list that is never renewed never reads what it did not write
    let [write_all, hole, zero] = policies.map(|kv| generation(&cpu, &model, &heads(0.5, 0, kv), &tokens));
    assert!(write_all == hole && write_all == zero);
}

#[test]
fn sequences_with_lists_of_their_own_match_one_by_one() {
    let cpu = Cpu::detect();
    let texts = [tokens(7, LEN), tokens(8, LEN), tokens(9, LEN)];
    let plain = multi_head(2);
    let settings = heads(0.5, REFRESH, KvPolicy::Recompute { lag: 2 }).with(Griffin::new(0.4).unwrap());
    for model in [plain.by_neuron(), plain.w4a8_by_neuron(Format::per_channel())] {
        let alone = texts.each_ref().map(|text| generation(&cpu, &model, &settings, text));
        assert!(alone[0] != alone[1]);
        let mut session = model.session(&cpu, settings.clone()).unwrap();
        // slot 2 is still reading its prompt, one token at a time, while the others generate
        for slot in [0, 1] {
            model.prefill(&cpu, &mut session, slot, &texts[slot][..PROMPT]).unwrap();
        }
        for step in 0..PROMPT {
            let at = [PROMPT + step, PROMPT + step, step];
            let sequences = [2, 0, 1].map(|slot| Sequence { slot, tokens: &texts[slot][at[slot]..=at[slot]] });
            let rows = model.forward(&cpu, &mut session, &sequences, LogitRows::All).unwrap();
            for (slot, row) in [2, 0, 1].into_iter().zip(rows.chunks(VOCAB)) {
                assert_eq!(bits(row), alone[slot][at[slot]], "slot {slot} at {}", at[slot]);
            }
        }
    }
}

#[test]
fn gathered_lists_match_lists_in_place_as_they_are_renewed_and_slots_are_used_again() {
    let cpu = Cpu::detect();
    let renewed = RefreshOptions { every: 4, window: 2, recent_weight: 0.9, drift: None };
    let policies: [Arc<dyn PolicyConfig>; 4] = [
        Arc::new(Griffin::new(0.3).unwrap()),
        Arc::new(Refreshed::new(Griffin::new(0.4).unwrap(), renewed).unwrap()),
        Arc::new(Refreshed::new(TdaQuantile::new(0.2).unwrap(), renewed).unwrap()),
        Arc::new(Random::new(Site::Neurons, 0.5).unwrap()),
    ];
    let plain = multi_head(2);
    for model in [plain.by_neuron(), plain.w4a8_by_neuron(Format::per_group(32, Offset::F16))] {
        for policy in &policies {
            let run = |gather_lists, slots| {
                let settings = Settings { slots, gather_lists, policies: vec![policy.clone()], ..roomy(LEN) };
                let mut session = model.session(&cpu, settings).unwrap();
                let mut rows = Vec::new();
                // the first slot's third text comes where its first was
                for (slot, seed) in [(0, 14), (slots - 1, 15), (0, 16)] {
                    model.truncate(&cpu, &mut session, slot, 0).unwrap();
                    let text = tokens(seed, LEN);
                    model.prefill(&cpu, &mut session, slot, &text[..PROMPT]).unwrap();
                    for token in text[PROMPT..].chunks(1) {
                        let sequence = Sequence { slot, tokens: token };
                        rows.push(bits(model.forward(&cpu, &mut session, &[sequence], LogitRows::Last).unwrap()));
                    }
                }
                rows
            };
            let in_place = run(false, 1);
            for slots in [1, 2] {
                assert_same(&run(true, slots), &in_place, policy);
            }
        }
    }
}

#[test]
fn kept_fractions_match_what_was_asked_for() {
    let (cpu, tokens) = (Cpu::detect(), tokens(10, LEN));
    let model = multi_head(2).by_neuron();
    let settings = heads(0.5, 0, KvPolicy::WriteAll).with(TopK::by_gate(0.25, D_FF).unwrap());
    let mut session = model.session(&cpu, settings).unwrap();
    feed(&cpu, &model, &mut session, &tokens[..PROMPT]);
    assert_eq!(session.policies().usage().fraction(&[Site::Heads]), None);
    session.start_generation(0).unwrap();
    tokens[PROMPT..].chunks(1).for_each(|token| drop(feed(&cpu, &model, &mut session, token)));
    assert_eq!(session.policies().usage().fraction(&[Site::Heads]), Some(0.5));
    assert_eq!(session.policies().usage().fraction(&[Site::Neurons]), Some(0.25));
}

#[test]
fn a_policy_for_the_inputs_of_gate_and_up_matches_dense_where_it_keeps_all() {
    let (cpu, tokens) = (Cpu::detect(), tokens(11, LEN));
    let plain = Plain::new(&Kind::default(), 8);
    for model in [plain.by_neuron(), plain.w4a8_by_neuron(Format::per_channel())] {
        let dense = dense(&cpu, &model, &tokens);
        // no input of a random model is 0
        assert_same(&generation(&cpu, &model, &roomy(LEN).with(AboveInputs(0.0)), &tokens), &dense, "all");
        let settings = roomy(LEN).with(AboveInputs(0.5));
        assert!(generation(&cpu, &model, &settings, &tokens) != dense);
        let mut session = model.session(&cpu, settings).unwrap();
        feed(&cpu, &model, &mut session, &tokens);
        let kept = session.policies().usage().fraction(&[Site::Inputs(Projection::GateUp)]).unwrap();
        // of normed inputs about as many as of a normal distribution
        assert!((0.5..0.7).contains(&kept), "{kept}");
    }
}

#[test]
fn thresholds_on_the_inputs_of_every_matrix_are_counted_and_hold_for_recomputed_heads() {
    let (cpu, tokens) = (Cpu::detect(), tokens(12, LEN));
    let model = multi_head(3).by_input();
    let run = |kv| generation(&cpu, &model, &with_thresholds(heads(0.5, REFRESH, kv), 3), &tokens);
    assert_same(&run(KvPolicy::Recompute { lag: 64 }), &run(KvPolicy::WriteAll), "recomputed under the same threshold");
    assert!(generation(&cpu, &model, &with_thresholds(roomy(LEN), 3), &tokens) != dense(&cpu, &model, &tokens));
    for kv in [KvPolicy::WriteAll, KvPolicy::Recompute { lag: 2 }] {
        let mut session = model.session(&cpu, with_thresholds(heads(1.0, 0, kv), 3)).unwrap();
        feed(&cpu, &model, &mut session, &tokens);
        let kept = Site::INPUTS.map(|site| session.policies().usage().fraction(&[site]).unwrap());
        assert!(kept.iter().all(|kept| (0.2..0.8).contains(kept)), "{kept:?}");
        // as many inputs of each but down
        let (d, d_ff) = (64.0, D_FF as f64);
        let all = (d * (kept[0] + kept[1] + kept[2]) + d_ff * kept[3]) / (3.0 * d + d_ff);
        // quotients of the same counts: a few roundings of f64 apart
        assert!((session.policies().usage().fraction(&Site::INPUTS).unwrap() - all).abs() < 8.0 * f64::EPSILON);
    }
}

#[test]
fn a_policy_in_some_layers_matches_thresholds_of_0_in_the_others() {
    let (cpu, tokens) = (Cpu::detect(), tokens(18, LEN));
    let (plain, group) = (multi_head(3), Format::per_group(32, Offset::F16));
    let all = plain.w4a8_by_input(group);
    let some = |layer: usize, projection: Projection| (layer + projection as usize) % 3 > 0;
    let only_gate_up = |_: usize, projection: Projection| projection == Projection::GateUp;
    for by_input in [&some as &dyn Fn(usize, Projection) -> bool, &only_gate_up, &|_, _| false, &|_, _| true] {
        let model = plain.w4a8_partly_by_input(group, by_input);
        let (mut settings, mut expected) = (roomy(LEN), roomy(LEN));
        for (projection, threshold) in Projection::ALL.into_iter().zip(THRESHOLDS) {
            let layers = model.layers().iter().map(|layer| layer.matrix(projection).unwrap().is_by_input());
            let layers: Vec<bool> = layers.collect();
            assert!(layers.iter().enumerate().all(|(layer, &is)| is == by_input(layer, projection)));
            let thresholds = layers.iter().map(|&by_input| if by_input { threshold } else { 0.0 }).collect();
            expected = expected.with(Teal::new(projection, thresholds).unwrap());
            let teal = Arc::new(Teal::new(projection, vec![threshold; 3]).unwrap());
            settings = settings.with(InLayers::new(teal, layers));
        }
        let run = |settings| generation(&cpu, &model, settings, &tokens);
        assert_same(&run(&settings), &generation(&cpu, &all, &expected, &tokens), "thresholds of 0");
        let mut session = model.session(&cpu, settings).unwrap();
        feed(&cpu, &model, &mut session, &tokens);
        let usage = session.policies().usage();
        for (layer, projection) in (0..3).flat_map(|layer| Projection::ALL.map(|projection| (layer, projection))) {
            let kept = usage.kept(Site::Inputs(projection), layer);
            assert_eq!(kept < 1.0, by_input(layer, projection), "{kept} of layer {layer}, {projection:?}");
        }
    }
    let teal = Arc::new(Teal::new(Projection::Qkv, vec![0.5; 3]).unwrap());
    let error = all.session(&cpu, roomy(LEN).with(InLayers::new(teal, vec![true; 2]))).map(drop).unwrap_err();
    assert!(error.to_string().contains("layers"), "{error}");
}

#[test]
fn scores_of_inputs_by_norms_of_columns_match_plain_thresholds_where_norms_are_1() {
    let (cpu, tokens) = (Cpu::detect(), tokens(16, LEN));
    let plain = multi_head(2);
    let group = Format::per_group(32, Offset::F16);
    let every = |settings: Settings, make: &dyn Fn(Projection, f32, usize) -> Wina| {
        let projections = [Projection::Qkv, Projection::Output, Projection::GateUp, Projection::Down];
        let with = |settings: Settings, (projection, threshold)| {
            let k = if projection == Projection::Down { D_FF } else { 64 };
            settings.with(make(projection, threshold, k))
        };
        projections.into_iter().zip(THRESHOLDS).fold(settings, with)
    };
    for model in [plain.by_input(), plain.w4a8_by_input(group)] {
        let ones =
            |projection, threshold, k| Wina::above(projection, vec![threshold; 2], vec![vec![1.0; k]; 2]).unwrap();
        let expected = generation(&cpu, &model, &with_thresholds(roomy(LEN), 2), &tokens);
        assert_same(&generation(&cpu, &model, &every(roomy(LEN), &ones), &tokens), &expected, "norms of 1");
        let twice = |projection, threshold, k| {
            Wina::above(projection, vec![2.0 * threshold; 2], vec![vec![2.0; k]; 2]).unwrap()
        };
        assert_same(&generation(&cpu, &model, &every(roomy(LEN), &twice), &tokens), &expected, "norms of 2");
        let all = |projection, _, k| Wina::exact(projection, 1.0, vec![vec![3.0; k]; 2]).unwrap();
        let dense = dense(&cpu, &model, &tokens);
        assert_same(&generation(&cpu, &model, &every(roomy(LEN), &all), &tokens), &dense, "all of them");
        let half = |projection, _, k| Wina::exact(projection, 0.5, vec![vec![1.0; k]; 2]).unwrap();
        let settings = every(roomy(LEN), &half);
        assert!(generation(&cpu, &model, &settings, &tokens) != dense);
        let mut session = model.session(&cpu, settings).unwrap();
        feed(&cpu, &model, &mut session, &tokens);
        assert_eq!(session.policies().usage().fraction(&Site::INPUTS), Some(0.5));
    }
    let refused = |model: Model<Cpu>| {
        let settings = roomy(LEN).with(Wina::exact(Projection::Qkv, 0.5, vec![vec![1.0; 64]; 2]).unwrap());
        let mut session = model.session(&cpu, settings).unwrap();
        let sequence = Sequence { slot: 0, tokens: &tokens };
        model.forward(&cpu, &mut session, &[sequence], LogitRows::All).map(drop).unwrap_err().to_string()
    };
    assert!(refused(plain.dense()).contains("by input"), "{}", refused(plain.dense()));
}

#[test]
fn thresholds_are_refused_where_the_form_of_the_weights_does_not_serve_them() {
    let (cpu, tokens) = (Cpu::detect(), tokens(13, 1));
    let plain = multi_head(1);
    for (model, projection) in [
        (plain.dense(), Projection::Qkv),
        (plain.w4a8(Format::per_channel()), Projection::Output),
        (plain.dense(), Projection::GateUp),
        (plain.by_neuron(), Projection::Down),
    ] {
        let settings = roomy(LEN).with(Teal::new(projection, vec![0.5]).unwrap());
        let mut session = model.session(&cpu, settings).unwrap();
        let refused = model.forward(&cpu, &mut session, &[Sequence { slot: 0, tokens: &tokens }], LogitRows::All);
        let error = refused.map(drop).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains("by input"), "{error}");
    }
}

#[test]
fn neurons_that_are_predicted_match_the_same_neurons_by_a_list() {
    let (cpu, tokens) = (Cpu::detect(), tokens(17, LEN));
    let plain = multi_head(2);
    // scores that no input changes
    let scores: Vec<f32> = (0..D_FF).map(|j| (j * 29 % 83) as f32).collect();
    let predictor = LowRank::new(64, 1, vec![0.0; 64], vec![0.0; D_FF], scores.clone()).unwrap();
    let layers = vec![PredictedLayer { predictor, units: Vec::new() }; 2];
    let scores: Vec<f64> = scores.into_iter().map(f64::from).collect();
    for k in [1, 63, D_FF] {
        let lists = Lists::new(Site::Neurons, vec![NeuronList::of_largest(&scores, k); 2]);
        for model in [plain.by_neuron(), plain.w4a8_by_neuron(Format::per_group(32, Offset::F16))] {
            let expected = generation(&cpu, &model, &roomy(LEN).with(lists.clone()), &tokens);
            for ahead in [false, true] {
                let settings = roomy(LEN).with(Predicted::new(layers.clone(), k, ahead).unwrap());
                assert_same(&generation(&cpu, &model, &settings, &tokens), &expected, (k, ahead));
            }
        }
    }
}

/// Compares what it is shown before an MLP with what the MLP took in.
#[derive(Debug, Clone, Default)]
struct SeesInputs(Vec<f32>);

impl PolicyConfig for SeesInputs {
    fn policy(&self, _: &Sizes) -> moray::Result<Box<dyn Policy>> {
        Ok(Box::new(self.clone()))
    }
}

impl Policy for SeesInputs {
    fn site(&self) -> Site {
        Site::Neurons
    }
    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Copied(Values::Inputs(Projection::GateUp))
    }
    fn predicts(&self) -> bool {
        true
    }
    fn predict(&mut self, _: usize, spans: &[Span], inputs: &Observed<'_>) -> moray::Result<()> {
        self.0 = (0..spans[0].len).flat_map(|token| inputs.token(token).to_vec()).collect();
        Ok(())
    }
    fn select(&mut self, _: usize, _: &[Span]) -> moray::Result<Selection<'_>> {
        Ok(Selection::All)
    }
    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> moray::Result<Kept> {
        let taken: Vec<f32> = (0..spans[0].len).flat_map(|token| observed.token(token).to_vec()).collect();
        assert!(taken.len() == 64 * spans[0].len && bits(&taken) == bits(&self.0), "layer {layer}");
        Ok(Kept::each(spans[0].len, 1, 1))
    }
    fn is_settled(&self, _: &[Span]) -> bool {
        false
    }
}

#[test]
fn predictors_see_what_the_mlp_takes_in() {
    let (cpu, tokens) = (Cpu::detect(), tokens(18, LEN));
    let model = multi_head(2).by_neuron();
    let mut session = model.session(&cpu, roomy(LEN).with(SeesInputs::default())).unwrap();
    feed(&cpu, &model, &mut session, &tokens);
    let usage = session.policies().usage();
    assert_eq!(usage.site(Site::Neurons).unwrap().layers(), [Kept::each(LEN, 1, 1); 2]);
}
