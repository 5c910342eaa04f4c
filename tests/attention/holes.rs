//! The cache, its holes, and the policies that make and fill them.

use moray::Cpu;
use moray::attention::*;
use proptest::prelude::*;

use crate::case::{CAPACITY, DTYPES, any_case, bits, noise};

#[derive(Debug, Clone)]
enum Step {
    Write { slot: usize, start: usize, len: usize, groups: u32 },
    Truncate { slot: usize, len: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2usize, 0..200usize, 0..80usize, 0..4u32)
            .prop_map(|(slot, start, len, groups)| Step::Write { slot, start, len, groups }),
        1 => (0..2usize, 0..300usize).prop_map(|(slot, len)| Step::Truncate { slot, len }),
    ]
}

proptest! {
    #[test]
    fn presence_matches_a_plain_model_after_any_writes_and_truncations(steps in prop::collection::vec(any_step(), 1..12)) {
        let cpu = Cpu::new(1, moray::Isa::detect()).unwrap();
        let shape = AttentionShape::new(2, 2, 8).unwrap();
        let kv = KvShape { n_layers: 1, n_slots: 2, n_kv_heads: 2, head_dim: 8, capacity: 300 };
        let mut cache = KvCache::new(kv, KvDtype::F32).unwrap();
        let mut model = vec![[[None; 2]; 300]; 2];
        let mut lens = [0; 2];
        for (value, step) in steps.iter().enumerate() {
            match *step {
                Step::Write { slot, start, len, groups } => {
                    let spans = [Span { slot, start, len }];
                    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::Mask { words: &[groups] } };
                    let x = vec![value as f32; len * 16];
                    write_kv(&cpu, &call, KvPolicy::Hole, None, &x, &x, &mut cache).unwrap();
                    for row in &mut model[slot][start..start + len] {
                        *row = [0, 1].map(|head| (groups >> head & 1 == 1).then_some(value as f32));
                    }
                    lens[slot] = lens[slot].max(start + len);
                }
                Step::Truncate { slot, len } => {
                    cache.truncate(slot, len).unwrap();
                    model[slot][len..].fill([None; 2]);
                    lens[slot] = lens[slot].min(len);
                }
            }
        }
        for slot in 0..2 {
            prop_assert_eq!(cache.len(slot), lens[slot]);
            for (position, heads) in model[slot].iter().enumerate() {
                for (kv_head, expected) in heads.iter().enumerate() {
                    let (mut k, mut v) = ([f32::NAN; 8], [f32::NAN; 8]);
                    let held = cache.read_row(0, KvRow { slot, kv_head, position }, &mut k, &mut v).unwrap();
                    prop_assert_eq!(held, expected.is_some());
                    prop_assert_eq!((k, v), ([expected.unwrap_or(0.0); 8], [expected.unwrap_or(0.0); 8]));
                }
            }
        }
    }

    #[test]
    fn the_cache_holds_what_each_policy_says_rounded_to_its_type(case in any_case(100)) {
        let cpu = Cpu::detect();
        let (cache, model) = case.fill(&cpu);
        let d = case.shape.head_dim;
        let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
        for slot in 0..3 {
            for position in 0..CAPACITY {
                for kv_head in 0..case.shape.n_kv_heads {
                    let row = KvRow { slot, kv_head, position };
                    let held = cache.read_row(1, row, &mut k, &mut v).unwrap();
                    let expected = &model.rows[slot][position][kv_head];
                    prop_assert_eq!(held, expected.is_some(), "{:?}", row);
                    if let Some((expected_k, expected_v)) = expected {
                        prop_assert_eq!((bits(&k), bits(&v)), (bits(expected_k), bits(expected_v)), "{:?}", row);
                    }
                    prop_assert!(!cache.is_present(0, row).unwrap(), "another layer was written");
                }
            }
        }
    }
}

#[test]
fn memory_bytes_match_the_layout() {
    // 70 positions are two blocks; V rows of 24 are padded to 32.
    let shape = KvShape { n_layers: 3, n_slots: 2, n_kv_heads: 5, head_dim: 24, capacity: 70 };
    for dtype in DTYPES {
        let cache = KvCache::new(shape, dtype).unwrap();
        let (blocks, line) = (3 * 2 * 5 * 2, 64);
        let scales = if dtype == KvDtype::Int8 { blocks * 64 * 2 * 4 } else { 0 };
        let expected = blocks * 64 * (24 + 32) * dtype.bytes() + scales + line + blocks * 8 + 2 * 8;
        assert_eq!(cache.memory_bytes(), expected);
        assert_eq!(KvCache::memory_bytes_for(&shape, dtype), Some(expected));
    }
}

#[test]
fn int8_rows_match_their_definition_at_the_edges() {
    let cpu = Cpu::detect();
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 1, head_dim: 8, capacity: 70 };
    let mut cache = KvCache::new(kv, KvDtype::Int8).unwrap();
    let mut row = |position: usize, k: [f32; 8], v: [f32; 8]| {
        let at = KvRow { slot: 0, kv_head: 0, position };
        write_row(&cpu, 0, at, None, &k, &v, &mut cache).unwrap();
        let (mut k, mut v) = ([f32::NAN; 8], [f32::NAN; 8]);
        assert!(cache.read_row(0, at, &mut k, &mut v).unwrap());
        (k, v)
    };
    // scales of 1 and of 2: ties go to even, the largest magnitude is kept, with either sign
    let k = [127.0, 0.5, 1.5, -0.5, -1.5, 2.5, 0.0, -127.0];
    let v = [-254.0, 1.0, 3.0, 5.0, 0.0, 2.0, -3.0, 7.0];
    let expected = ([127.0, 0.0, 2.0, 0.0, -2.0, 2.0, 0.0, -127.0], [-254.0, 0.0, 4.0, 4.0, 0.0, 2.0, -4.0, 8.0]);
    assert_eq!(row(3, k, v), expected);
    // rows have scales of their own, in the second block too; zeros are zeros
    assert_eq!(row(66, [0.0; 8], [1e-3; 8]), ([0.0; 8], [1e-3 / 127.0 * 127.0; 8]));
    assert_eq!(row(3, [0.0; 8], v).0, [0.0; 8]);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (k, v) = row(4, [1.0, 2.0, wrong, 0.0, 0.0, 0.0, 0.0, 0.0], [1.0; 8]);
        assert!(k.iter().all(|x| x.is_nan()) && v == [1.0; 8], "{wrong}: {k:?}");
    }
}

#[test]
fn projected_groups_match_their_policy() {
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let spans = [Span { slot: 0, start: 0, len: 1 }, Span { slot: 1, start: 0, len: 1 }];
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::Mask { words: &[0b0010, 0b0000] } };
    let projected = |policy: KvPolicy| {
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(span, kv_head)| policy.projects(&call, span, kv_head))
    };
    assert_eq!(projected(KvPolicy::WriteAll), [true; 4]);
    for policy in [KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 3 }] {
        assert_eq!(projected(policy), [true, false, false, false]);
        assert_eq!([0, 1].map(|kv_head| policy.projects_any(&call, kv_head)), [true, false]);
    }
    assert_eq!([KvPolicy::Hole.lag(), KvPolicy::Recompute { lag: 3 }.lag()], [0, 3]);
}

/// A k row and a v row of a KV head that are functions of a token's input, as a projection's are.
fn project(x: &[f32], kv_head: usize) -> (Vec<f32>, Vec<f32>) {
    let k = (0..8).map(|i| x[i] + x[(i + kv_head) % 8]).collect();
    (k, (0..8).map(|i| x[(i + 3) % 8] - kv_head as f32).collect())
}

#[test]
fn recomputed_rows_match_rows_written_at_once() {
    const LAG: usize = 5;
    let cpu = Cpu::detect();
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    let kv = KvShape { n_layers: 2, n_slots: 2, n_kv_heads: 2, head_dim: 8, capacity: 32 };
    let rope = Rope::new(8, 10_000.0, &RopeScaling::Default, 32).unwrap();
    let mut caches = [KvCache::new(kv, KvDtype::F16).unwrap(), KvCache::new(kv, KvDtype::F16).unwrap()];
    let mut ring = InputRing::new(2, 2, LAG, 2).unwrap();
    let mut inputs = InputRows::new(ring.places(), 8, KvDtype::F32).unwrap();
    let mut missing = Vec::with_capacity(ring.max_missing(1));
    let mut x = [0.0; 8];
    // A prompt of 3 with both groups, then tokens 3..12 with group 0 only, then token 12 with both.
    let steps = std::iter::once((0, 3, 0b1111)).chain((3..12).map(|t| (t, 1, 0b0001))).chain([(12, 1, 0b0100)]);
    for (start, len, mask) in steps {
        let (spans, words) = ([Span { slot: 1, start, len }], [mask]);
        let call = Call { shape, layer: 1, spans: &spans, heads: Heads::Mask { words: &words } };
        let tokens = noise(len * 8, 100 + start as u64);
        missing.clear();
        ring.missing(&call, &mut missing).unwrap();
        let expected: Vec<usize> = if start == 12 { (7..12).collect() } else { Vec::new() };
        assert_eq!(missing, expected.iter().map(|&p| KvRow { slot: 1, kv_head: 1, position: p }).collect::<Vec<_>>());
        for &row in &missing {
            inputs.read(ring.place(1, 1, row.position), &mut x).unwrap();
            let (k, v) = project(&x, row.kv_head);
            write_row(&cpu, 1, row, Some(&rope), &k, &v, &mut caches[0]).unwrap();
            ring.mark(1, row);
        }
        let mut still = Vec::new();
        ring.missing(&call, &mut still).unwrap();
        assert_eq!(still, []);
        let (mut from, mut to) = (Vec::new(), Vec::new());
        ring.keep(&call, &mut from, &mut to).unwrap();
        inputs.keep(&tokens, &from, &to).unwrap();
        let rows = |f: fn(&[f32], usize) -> Vec<f32>| {
            tokens.chunks(8).flat_map(|x| [f(x, 0), f(x, 1)].concat()).collect::<Vec<_>>()
        };
        let (k, v) = (rows(|x, head| project(x, head).0), rows(|x, head| project(x, head).1));
        write_kv(&cpu, &call, KvPolicy::Recompute { lag: LAG }, Some(&rope), &k, &v, &mut caches[0]).unwrap();
        write_kv(&cpu, &call, KvPolicy::WriteAll, Some(&rope), &k, &v, &mut caches[1]).unwrap();
    }
    for position in 0..13 {
        let row = KvRow { slot: 1, kv_head: 1, position };
        // 3..7 fell out of the ring; the rest was written or recomputed.
        assert_eq!(caches[0].is_present(1, row).unwrap(), !(3..7).contains(&position), "{position}");
        if !(3..7).contains(&position) {
            let read = |cache: &KvCache| {
                let (mut k, mut v) = ([0.0; 8], [0.0; 8]);
                cache.read_row(1, row, &mut k, &mut v).unwrap();
                (bits(&k), bits(&v))
            };
            assert_eq!(read(&caches[0]), read(&caches[1]), "{position}");
        }
    }
}

#[test]
fn kept_inputs_match_what_was_stored_within_the_lag() {
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    for dtype in DTYPES {
        let mut ring = InputRing::new(2, 2, 4, 2).unwrap();
        let mut inputs = InputRows::new(ring.places(), 3, dtype).unwrap();
        assert!(inputs.memory_bytes() >= 2 * 2 * 4 * 3 * dtype.bytes());
        let x: Vec<f32> = (0..30).map(|i| i as f32).collect(); // small integers are exact in every type
        let (mut from, mut to) = (Vec::new(), Vec::new());
        // no head runs, so that every position whose input is held is missed
        let spans = [Span { slot: 1, start: 7, len: 10 }];
        let call = Call { shape, layer: 1, spans: &spans, heads: Heads::Mask { words: &[0] } };
        ring.keep(&call, &mut from, &mut to).unwrap();
        assert_eq!(from, [6, 7, 8, 9]);
        inputs.keep(&x, &from, &to).unwrap();
        let held = |ring: &InputRing, layer: usize, slot: usize| {
            let mut rows = Vec::new();
            let spans = [Span { slot, start: 17, len: 1 }];
            ring.missing(&Call { shape, layer, spans: &spans, heads: Heads::All }, &mut rows).unwrap();
            rows.iter().filter(|row| row.kv_head == 0).map(|row| row.position).collect::<Vec<_>>()
        };
        assert_eq!(held(&ring, 1, 1), [13, 14, 15, 16]);
        assert!(held(&ring, 0, 1).is_empty() && held(&ring, 1, 0).is_empty());
        let mut read = [f32::NAN; 3];
        for position in 13..17 {
            inputs.read(ring.place(1, 1, position), &mut read).unwrap();
            assert_eq!(read, [0, 1, 2].map(|i| ((position - 7) * 3 + i) as f32));
        }
        ring.truncate(1, 15).unwrap();
        assert_eq!(held(&ring, 1, 1), [13, 14]);
    }
}
