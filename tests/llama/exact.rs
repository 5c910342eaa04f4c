//! The bit-for-bit promises: cached = uncached, batch = one by one, any split = one piece, every instruction set.

use moray::attention::KvDtype;
use moray::llama::{LogitRows, Model, Sequence, Settings};
use moray::policy::TopK;
use moray::w4a8::{Format, Offset};
use moray::{Cpu, Isa};

use crate::common::{bits, cpus};
use crate::plain::{D_FF, Kind, Plain, VOCAB, feed, roomy, tokens, whole, with_thresholds};

/// Longer than a block of the KV cache.
const LEN: usize = 70;

/// Models of every kind of weights, with settings for each kind of policy that selects token by token.
fn cases() -> Vec<(&'static str, Model<Cpu>, Settings)> {
    let biased = Plain::new(&Kind { biased: true, tied: false, ..Kind::default() }, 1);
    let wide = Plain::new(&Kind { heads: (8, 2, 32), ..Kind::default() }, 2);
    let group = Format::per_group(32, Offset::F16);
    let top_k = roomy(LEN).with(TopK::by_gate(0.4, D_FF).unwrap());
    let mut half = roomy(LEN);
    half.kv_dtype = KvDtype::F16;
    vec![
        ("f32", biased.dense(), roomy(LEN)),
        ("f32, f16 cache", wide.dense(), half.clone()),
        ("w4a8", wide.w4a8(group), half.clone()),
        ("w4a8 per channel", biased.w4a8(Format::per_channel()), roomy(LEN)),
        ("f32 by input", biased.by_input(), with_thresholds(roomy(LEN), 2)),
        ("w4a8 by input", wide.w4a8_by_input(group), with_thresholds(roomy(LEN), 2)),
        ("f32 top-k", biased.by_neuron(), top_k.clone()),
        ("w4a8 top-k", wide.w4a8_by_neuron(group), top_k),
    ]
}

#[test]
fn cached_logits_match_uncached_ones_at_every_position() {
    let cpu = Cpu::detect();
    let tokens = tokens(1, LEN);
    for (name, model, settings) in cases() {
        let mut session = model.session(&cpu, settings.clone()).unwrap();
        for position in 0..LEN {
            let cached = feed(&cpu, &model, &mut session, &tokens[position..=position]);
            if position % 7 == 0 || position >= 62 {
                let uncached = whole(&cpu, &model, &settings, &tokens[..=position]);
                assert_eq!(bits(&cached), bits(&uncached[position * VOCAB..]), "{name} at {position}");
            }
        }
    }
}

#[test]
fn any_split_of_a_prompt_matches_one_piece() {
    let cpu = Cpu::detect();
    let tokens = tokens(2, LEN);
    for (name, model, settings) in cases() {
        let one = bits(&whole(&cpu, &model, &settings, &tokens));
        for split in [vec![1, 69], vec![69, 1], vec![33, 37], vec![64, 6], vec![5, 1, 58, 1, 5], vec![63, 2, 5]] {
            let mut session = model.session(&cpu, settings.clone()).unwrap();
            let (mut rest, mut rows) = (&tokens[..], Vec::new());
            for len in &split {
                let (piece, later) = rest.split_at(*len);
                rows.extend(bits(&feed(&cpu, &model, &mut session, piece)));
                rest = later;
            }
            assert!(rest.is_empty() && rows == one, "{name}, {split:?}");
        }
    }
}

#[test]
fn prefill_in_small_calls_matches_the_last_row_of_one_piece() {
    let cpu = Cpu::detect();
    for len in [1, 7, 8, 9, LEN] {
        let tokens = tokens(3, len);
        for (name, model, mut settings) in cases() {
            let one = whole(&cpu, &model, &settings, &tokens);
            settings.max_tokens = 8;
            let mut session = model.session(&cpu, settings).unwrap();
            let last = model.prefill(&cpu, &mut session, 1, &tokens).unwrap();
            assert_eq!(bits(last), bits(&one[(len - 1) * VOCAB..]), "{name}, {len}");
            assert_eq!((session.len(0), session.len(1)), (0, len));
        }
    }
}

#[test]
fn a_batch_matches_its_sequences_one_by_one() {
    let cpu = Cpu::detect();
    let texts = [tokens(4, 40), tokens(5, 66), tokens(6, 9)];
    // (slot, tokens) of each call; slots are not in order, and one rests in the second call
    let calls: [&[(usize, usize)]; 4] =
        [&[(2, 5), (0, 17), (1, 1)], &[(1, 64), (0, 1)], &[(0, 1), (1, 1), (2, 1)], &[(2, 3), (0, 21)]];
    for (name, model, settings) in cases() {
        let alone = texts.each_ref().map(|text| whole(&cpu, &model, &settings, text));
        let mut session = model.session(&cpu, settings).unwrap();
        for call in calls {
            let sequence = |&(slot, len): &(usize, usize)| {
                let start = session.len(slot);
                Sequence { slot, tokens: &texts[slot][start..start + len] }
            };
            let sequences: Vec<Sequence<'_>> = call.iter().map(sequence).collect();
            let starts: Vec<usize> = call.iter().map(|&(slot, _)| session.len(slot)).collect();
            let rows = model.forward(&cpu, &mut session, &sequences, LogitRows::All).unwrap();
            let mut rows = rows.chunks_exact(VOCAB);
            for (&(slot, len), start) in call.iter().zip(starts) {
                for position in start..start + len {
                    let expected = &alone[slot][position * VOCAB..(position + 1) * VOCAB];
                    assert_eq!(bits(rows.next().unwrap()), bits(expected), "{name}, slot {slot} at {position}");
                }
            }
            assert!(rows.next().is_none());
        }
    }
}

#[test]
fn the_last_rows_match_those_of_all_rows() {
    let cpu = Cpu::detect();
    let (a, b) = (tokens(7, 12), tokens(8, 5));
    for (name, model, settings) in cases() {
        let sequences = [Sequence { slot: 1, tokens: &a }, Sequence { slot: 0, tokens: &b }];
        let logits = |rows| {
            let mut session = model.session(&cpu, settings.clone()).unwrap();
            bits(model.forward(&cpu, &mut session, &sequences, rows).unwrap())
        };
        let (all, last) = (logits(LogitRows::All), logits(LogitRows::Last));
        assert_eq!(last[..VOCAB], all[11 * VOCAB..12 * VOCAB], "{name}");
        assert_eq!(last[VOCAB..], all[16 * VOCAB..], "{name}");
        assert!(logits(LogitRows::None).is_empty());
    }
}

#[test]
fn every_instruction_set_and_number_of_threads_matches_portable_on_one() {
    let tokens = tokens(9, LEN);
    let portable = Cpu::new(1, Isa::Portable).unwrap();
    for (name, model, settings) in cases() {
        let expected = bits(&whole(&portable, &model, &settings, &tokens));
        for cpu in cpus().iter().chain([&Cpu::new(3, Isa::detect()).unwrap()]) {
            let got = bits(&whole(cpu, &model, &settings, &tokens));
            assert_eq!(got, expected, "{name}, {} on {} threads", cpu.isa().name(), cpu.threads());
        }
    }
}

#[test]
fn a_truncated_slot_matches_a_new_one() {
    let cpu = Cpu::detect();
    let (old, new) = (tokens(10, LEN), tokens(11, LEN));
    for (name, model, settings) in cases() {
        for kept in [0, 1, 63, 64, 65] {
            let mut session = model.session(&cpu, settings.clone()).unwrap();
            feed(&cpu, &model, &mut session, &old);
            model.truncate(&cpu, &mut session, 0, kept).unwrap();
            assert_eq!(session.len(0), kept);
            let got = feed(&cpu, &model, &mut session, &new[kept..]);
            let text: Vec<u32> = old[..kept].iter().chain(&new[kept..]).copied().collect();
            let expected = whole(&cpu, &model, &settings, &text);
            assert_eq!(bits(&got), bits(&expected[kept * VOCAB..]), "{name}, {kept}");
        }
    }
}
