//! Results that have to agree bit for bit.

use moray::attention::*;
use moray::{Cpu, Isa};
use proptest::prelude::*;

use crate::case::{CAPACITY, Case, DTYPES, OwnedHeads, any_case, bits, isas, noise};

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn every_isa_matches_portable_bit_for_bit(case in any_case(280)) {
        let portable = Cpu::new(1, Isa::Portable).unwrap();
        let (cache, _) = case.fill(&portable);
        let expected = bits(&case.attend(&portable, &cache));
        for isa in isas() {
            let cpu = Cpu::new(case.threads, isa).unwrap();
            let (cache, _) = case.fill(&cpu);
            prop_assert_eq!(bits(&case.attend(&cpu, &cache)), expected.clone(), "{}", isa.name());
        }
    }

    #[test]
    fn a_batch_matches_its_spans_one_by_one(case in any_case(560)) {
        let cpu = Cpu::new(case.threads, Isa::detect()).unwrap();
        let (cache, _) = case.fill(&cpu);
        let batch = case.attend(&cpu, &cache);
        let (q, mut workspace, mut row) = (case.q(), case.workspace(&cpu), 0);
        for (index, span) in case.spans.iter().enumerate() {
            let running = (0..case.shape.n_q_heads).filter(|&h| case.heads.as_heads().contains(&case.shape, index, h));
            let list: Vec<u32> = running.map(|head| head as u32).collect();
            let heads = Heads::List { list: &list, counts: &[list.len() as u32] };
            let elems = row..row + span.len * case.shape.q_elems();
            let mut out = vec![f32::NAN; elems.len()];
            let call = case.call(std::slice::from_ref(span), heads);
            attend(&cpu, &call, &q[elems.clone()], &cache, &mut out, &mut workspace).unwrap();
            prop_assert_eq!(bits(&out), bits(&batch[elems.clone()]));
            row = elems.end;
        }
    }
}

/// Writes and attends `pieces` tokens at a time, cycling through them.
fn prefill(cpu: &Cpu, shape: AttentionShape, dtype: KvDtype, tokens: usize, pieces: &[usize]) -> Vec<f32> {
    let AttentionShape { n_kv_heads, head_dim, .. } = shape;
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads, head_dim, capacity: tokens };
    let mut cache = KvCache::new(kv, dtype).unwrap();
    let limits = Limits { max_rows: tokens, max_spans: 1, capacity: tokens };
    let mut workspace = Workspace::new(cpu, shape, limits).unwrap();
    let rope = Rope::new(head_dim, 10_000.0, &RopeScaling::Default, tokens).unwrap();
    let (k, v) = (noise(tokens * shape.kv_elems(), 1), noise(tokens * shape.kv_elems(), 2));
    let (mut q, mut out) = (noise(tokens * shape.q_elems(), 3), vec![f32::NAN; tokens * shape.q_elems()]);
    let (mut start, mut pieces) = (0, pieces.iter().cycle());
    while start < tokens {
        let len = (*pieces.next().unwrap()).min(tokens - start);
        let spans = [Span { slot: 0, start, len }];
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        let kv = start * shape.kv_elems()..(start + len) * shape.kv_elems();
        write_kv(cpu, &call, KvPolicy::WriteAll, Some(&rope), &k[kv.clone()], &v[kv], &mut cache).unwrap();
        let rows = start * shape.q_elems()..(start + len) * shape.q_elems();
        rope.apply(cpu, &spans, shape.n_q_heads, &mut q[rows.clone()]).unwrap();
        attend(cpu, &call, &q[rows.clone()], &cache, &mut out[rows], &mut workspace).unwrap();
        start += len;
    }
    out
}

#[test]
fn any_split_of_a_prefill_matches_one_piece_for_any_number_of_threads() {
    let splits: [&[usize]; 5] = [&[1], &[1, 2, 63, 64, 65], &[16, 17], &[256], &[300, 1, 299]];
    for (shape, tokens) in [((9, 3, 64), 600), ((4, 4, 24), 530), ((5, 1, 80), 270)] {
        let shape = AttentionShape::new(shape.0, shape.1, shape.2).unwrap();
        for dtype in DTYPES {
            let expected = bits(&prefill(&Cpu::new(1, Isa::detect()).unwrap(), shape, dtype, tokens, &[tokens]));
            for (pieces, threads) in splits.into_iter().zip([2, 1, 3, 2, 4]) {
                let cpu = Cpu::new(threads, Isa::detect()).unwrap();
                let got = bits(&prefill(&cpu, shape, dtype, tokens, pieces));
                assert!(got == expected, "{shape:?} {dtype:?}, pieces of {pieces:?}, {threads} threads");
            }
        }
    }
}

#[test]
fn running_heads_match_a_dense_call_whatever_else_is_skipped() {
    let cpu = Cpu::detect();
    for (kind, selection) in [(1, 0b1_0110_0001u32), (2, 0b101), (3, 0b0_0001_1000)] {
        let shape = AttentionShape::new(9, 3, 64).unwrap();
        let spans = vec![Span { slot: 1, start: 500, len: 20 }];
        let all = OwnedHeads::All;
        let (policy, history, dtype) = (KvPolicy::WriteAll, all.clone(), KvDtype::F16);
        let dense = Case { shape, dtype, spans, heads: all, policy, history, threads: 2, seed: 9 };
        let sparse = Case { heads: OwnedHeads::new(kind, &shape, &[selection]), ..dense.clone() };
        let (cache, _) = dense.fill(&cpu);
        let (dense, out) = (dense.attend(&cpu, &cache), sparse.attend(&cpu, &cache));
        let mut running = 0;
        for columns in sparse.heads.as_heads().columns(&shape, 0) {
            for row in 0..20 {
                let at = row * 576 + columns.start..row * 576 + columns.end;
                assert_eq!(bits(&out[at.clone()]), bits(&dense[at]));
            }
            running += columns.len() / 64;
        }
        assert_eq!(running, sparse.heads.as_heads().count(&shape, 0));
        assert_eq!(out.iter().filter(|x| x.to_bits() != 0).count(), running * 64 * 20, "skipped heads are zero");
    }
}

#[test]
fn skipped_groups_holes_and_later_positions_have_no_influence_even_as_nan() {
    let cpu = Cpu::new(2, Isa::detect()).unwrap();
    let shape = AttentionShape::new(4, 2, 64).unwrap();
    let kv = KvShape { n_layers: 2, n_slots: 2, n_kv_heads: 2, head_dim: 64, capacity: CAPACITY };
    let mut workspace = Workspace::new(&cpu, shape, Limits { max_rows: 64, max_spans: 1, capacity: CAPACITY }).unwrap();
    let (k, v, q) = (noise(CAPACITY * 128, 1), noise(CAPACITY * 128, 2), noise(40 * 256, 3));
    let mut results = Vec::new();
    for poison in [0.5, f32::NAN, f32::INFINITY] {
        let mut cache = KvCache::new(kv, KvDtype::F32).unwrap();
        for (layer, slot) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let spans = [Span { slot, start: 0, len: CAPACITY }];
            let call = Call { shape, layer, spans: &spans, heads: Heads::All };
            let fill = vec![poison; k.len()];
            let (k, v) = if (layer, slot) == (1, 0) { (&k, &v) } else { (&fill, &fill) };
            write_kv(&cpu, &call, KvPolicy::WriteAll, None, k, v, &mut cache).unwrap();
        }
        // Group 1 is skipped, positions 70..90 are holes of group 0, positions from 540 on come later.
        for position in (0..CAPACITY).filter(|p| (70..90).contains(p) || *p >= 540) {
            let row = KvRow { slot: 0, kv_head: 0, position };
            write_row(&cpu, 1, row, None, &[poison; 64], &[poison; 64], &mut cache).unwrap();
        }
        for position in 0..CAPACITY {
            let row = KvRow { slot: 0, kv_head: 1, position };
            write_row(&cpu, 1, row, None, &[poison; 64], &[poison; 64], &mut cache).unwrap();
        }
        let holes = [Span { slot: 0, start: 70, len: 20 }];
        let call = Call { shape, layer: 1, spans: &holes, heads: Heads::Groups { list: &[1], counts: &[1] } };
        let fill = vec![poison; 20 * 128];
        write_kv(&cpu, &call, KvPolicy::Hole, None, &fill, &fill, &mut cache).unwrap();
        for (start, len) in [(500, 40), (539, 1)] {
            let spans = [Span { slot: 0, start, len }];
            let call = Call { shape, layer: 1, spans: &spans, heads: Heads::Groups { list: &[0], counts: &[1] } };
            let mut out = vec![f32::NAN; len * 256];
            attend(&cpu, &call, &q[..len * 256], &cache, &mut out, &mut workspace).unwrap();
            assert!(out.iter().all(|x| x.is_finite()));
            results.push(bits(&out));
        }
    }
    assert!(results[..2] == results[2..4] && results[..2] == results[4..]);
}

#[test]
fn a_query_or_a_key_that_is_no_number_makes_what_sees_it_nan_and_no_other() {
    let (shape, capacity) = (AttentionShape::new(4, 2, 40).unwrap(), 600);
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 40, capacity };
    // positions: in one block, across blocks, across segments of 256
    for (tokens, queries) in [(1, 1), (5, 5), (70, 7), (300, 3), (300, 70), (600, 1)] {
        let (k, v, q) = (noise(tokens * 80, 1), noise(tokens * 80, 2), noise(queries * 160, 3));
        let start = tokens - queries;
        let attended = |cpu: &Cpu, k: &[f32], q: &[f32], dtype: KvDtype| {
            let mut cache = KvCache::new(kv, dtype).unwrap();
            let limits = Limits { max_rows: tokens, max_spans: 1, capacity };
            let mut workspace = Workspace::new(cpu, shape, limits).unwrap();
            let spans = [Span { slot: 0, start: 0, len: tokens }];
            let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
            write_kv(cpu, &call, KvPolicy::WriteAll, None, k, &v, &mut cache).unwrap();
            let spans = [Span { slot: 0, start, len: queries }];
            let mut out = vec![0.5; q.len()];
            attend(cpu, &Call { spans: &spans, ..call }, q, &cache, &mut out, &mut workspace).unwrap();
            out
        };
        for isa in isas() {
            let cpu = Cpu::new(2, isa).unwrap();
            for dtype in DTYPES {
                let whole = attended(&cpu, &k, &q, dtype);
                let check = |out: &[f32], spoilt: &dyn Fn(usize, usize) -> bool, what: &str| {
                    for (at, (out, whole)) in out.iter().zip(&whole).enumerate() {
                        let (token, head) = (at / 160, at % 160 / 40);
                        let right = if spoilt(token, head) { out.is_nan() } else { out.to_bits() == whole.to_bits() };
                        assert!(right, "{what}, {dtype:?}, {}, {tokens}: [{token}, {head}] is {out}", isa.name());
                    }
                };
                // one element of the last query of head 2
                let mut wrong = q.clone();
                wrong[(queries - 1) * 160 + 2 * 40 + 7] = f32::NAN;
                check(&attended(&cpu, &k, &wrong, dtype), &|token, head| token == queries - 1 && head == 2, "q");
                // the keys of KV head 1 at one position, at the first 256 and at all
                for (keys, what) in [
                    (0..1, "first"),
                    (start..start + 1, "own"),
                    (0..tokens.min(256), "segment"),
                    (256.min(tokens)..512.min(tokens), "later segment"),
                    (0..tokens, "all"),
                ] {
                    let (mut wrong, from) = (k.clone(), keys.start);
                    for position in keys {
                        wrong[position * 80 + 40..][..40].fill(f32::NAN);
                    }
                    let spoilt = |token: usize, head: usize| head >= 2 && start + token >= from;
                    check(&attended(&cpu, &wrong, &q, dtype), &spoilt, what);
                }
            }
        }
    }
}
