//! Attention.

use candle_core::{DType, Tensor};
use moray_candle::Attention;
use moray_candle::moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Rope, RopeScaling, Span, Workspace,
    attend, write_kv,
};

use super::{FLOATS, assert_refused, bits, f32s, layouts, numbers, runtime, shared_views};

const SHAPE: AttentionShape = AttentionShape { n_q_heads: 6, n_kv_heads: 2, head_dim: 16 };
const KV: KvShape = KvShape { n_layers: 2, n_slots: 3, n_kv_heads: 2, head_dim: 16, capacity: 40 };

/// Steps of two sequences: a prompt each, then a token of both.
const STEPS: [&[Span]; 3] = [
    &[Span { slot: 2, start: 0, len: 5 }],
    &[Span { slot: 0, start: 0, len: 3 }, Span { slot: 2, start: 5, len: 1 }],
    &[Span { slot: 0, start: 3, len: 1 }, Span { slot: 2, start: 6, len: 1 }],
];

fn inputs(tokens: usize, step: usize, dtype: DType) -> [Tensor; 3] {
    [
        numbers(&[tokens, 6, 16], 53 + step, dtype),
        numbers(&[tokens, 2, 16], 71 + step, dtype),
        numbers(&[tokens, 2, 16], 97 + step, dtype),
    ]
}

#[test]
fn steps_match_moray_in_every_type_and_layout() {
    let (list, counts) = ([0, 1, 5, 2, 3, 4], [3, 2]);
    for dtype in FLOATS {
        for policy in [KvPolicy::WriteAll, KvPolicy::Hole] {
            let rope = || Rope::new(16, 1e4, &RopeScaling::Default, 40).unwrap();
            let attention = Attention::new(&runtime(), 6, KV, KvDtype::F16).unwrap();
            let attention = attention.with_rope(rope()).with_policy(policy);
            let (cpu, rope) = (runtime(), rope());
            let mut cache = KvCache::new(KV, KvDtype::F16).unwrap();
            let limits = Limits { max_rows: 8, max_spans: 2, capacity: 40 };
            let mut workspace = Workspace::new(cpu.cpu(), SHAPE, limits).unwrap();
            for (step, spans) in STEPS.into_iter().enumerate() {
                let call = Call {
                    shape: SHAPE,
                    layer: 1,
                    spans,
                    heads: Heads::List { list: &list[..3 * spans.len()], counts: &counts[..spans.len()] },
                };
                let [q, k, v] = inputs(call.rows(), step, dtype);
                let (mut turned, mut out) = (f32s(&q), vec![0.0; call.rows() * 96]);
                rope.apply(cpu.cpu(), spans, 6, &mut turned).unwrap();
                write_kv(cpu.cpu(), &call, policy, Some(&rope), &f32s(&k), &f32s(&v), &mut cache).unwrap();
                attend(cpu.cpu(), &call, &turned, &cache, &mut out, &mut workspace).unwrap();
                let out = Tensor::from_vec(out, q.dims(), &candle_core::Device::Cpu).unwrap();
                let expected = f32s(&out.to_dtype(dtype).unwrap());
                // writing the same positions again changes nothing
                for (q, (k, v)) in layouts(&q).iter().zip(layouts(&k).iter().zip(&layouts(&v))) {
                    let got = attention.forward(1, spans, call.heads, q, k, v).unwrap();
                    assert_eq!((got.dtype(), got.dims()), (dtype, q.dims()));
                    assert_eq!(f32s(&got), expected, "{dtype:?} {policy:?} step {step}");
                }
            }
            assert_eq!((attention.len(0), attention.len(1), attention.len(2)), (4, 0, 7));
            attention.truncate(2, 3).unwrap();
            assert_eq!(attention.len(2), 3);
        }
    }
}

#[test]
fn views_that_share_memory_give_the_bits_of_their_copies() {
    let span = [Span { slot: 1, start: 0, len: 4 }];
    for dtype in FLOATS {
        // a cache of its own for each, so that what is written is seen too
        let step = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap();
            bits(&attention.forward(0, &span, Heads::All, q, k, v).unwrap())
        };
        let [q, k, v] = inputs(4, 0, dtype);
        for (name, view, copy) in shared_views(&[4, 6, 16], 53, dtype) {
            assert_eq!(step(&view, &k, &v), step(&copy, &k, &v), "{dtype:?} q: {name}");
        }
        for (name, view, copy) in shared_views(&[4, 2, 16], 71, dtype) {
            assert_eq!(step(&q, &view, &v), step(&q, &copy, &v), "{dtype:?} k: {name}");
            assert_eq!(step(&q, &k, &view), step(&q, &k, &copy), "{dtype:?} v: {name}");
        }
        // the three in one storage, as a projection of all has them; and one tensor as k and as v
        let all = Tensor::cat(&[&q, &k, &v], 1).unwrap();
        let [q_part, k_part, v_part] = [(0, 6), (6, 2), (8, 2)].map(|(first, n)| all.narrow(1, first, n).unwrap());
        assert_eq!(step(&q_part, &k_part, &v_part), step(&q, &k, &v), "{dtype:?} in one storage");
        assert_eq!(step(&q, &k, &k), step(&q, &k, &k.copy().unwrap()), "{dtype:?} k as v");
        let within = all.narrow(1, 5, 2).unwrap();
        assert_eq!(step(&q_part, &within, &k_part), step(&q, &within.contiguous().unwrap(), &k), "{dtype:?} overlap");
    }
}

#[test]
fn no_token_gives_no_token() {
    let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap();
    for dtype in FLOATS {
        let [q, k, v] = inputs(0, 0, dtype);
        let empty = [Span { slot: 1, start: 0, len: 0 }];
        for spans in [&[][..], &empty] {
            match attention.forward(0, spans, Heads::All, &q, &k, &v) {
                Ok(out) => assert_eq!((out.dtype(), out.dims()), (dtype, &[0, 6, 16][..])),
                Err(error) => panic!("{spans:?}: {error}"),
            }
        }
    }
    assert!(attention.is_empty(0) && attention.is_empty(1));
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_the_cache_alone() {
    let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap();
    let [q, k, v] = inputs(2, 0, DType::F32);
    let span = |start, len| [Span { slot: 0, start, len }];
    let call = |spans: &[Span], heads: Heads<'_>, q: &Tensor, k: &Tensor| attention.forward(0, spans, heads, q, k, &v);
    assert_refused(call(&span(0, 3), Heads::All, &q, &k), &["q: ", "3 tokens", "[2, 6, 16]"]);
    assert_refused(call(&span(39, 2), Heads::All, &q, &k), &["span position", "40"]);
    assert_refused(call(&span(0, 2), Heads::All, &k, &k), &["q: ", "6 heads", "[2, 2, 16]"]);
    assert_refused(call(&span(0, 2), Heads::All, &q, &q), &["k: ", "2 heads"]);
    let half = k.to_dtype(DType::F16).unwrap();
    assert_refused(call(&span(0, 2), Heads::All, &q, &half), &["k: expected f32, got f16"]);
    let heads = Heads::List { list: &[6], counts: &[1] };
    assert_refused(call(&span(0, 2), heads, &q, &k), &["head list", "6"]);
    assert_refused(attention.forward(2, &span(0, 2), Heads::All, &q, &k, &v), &["layer"]);
    let of = |q: &Tensor, k: &Tensor, v: &Tensor| attention.forward(0, &span(0, 2), Heads::All, q, k, v);
    let wide = q.to_dtype(DType::F64).unwrap();
    assert_refused(of(&wide, &k, &v), &["q: expected f32, f16 or bf16, got f64"]);
    let whole = v.to_dtype(DType::U32).unwrap();
    assert_refused(of(&q, &k, &whole), &["v: expected f32, got u32"]);
    assert_refused(of(&q, &k, &v.narrow(0, 0, 1).unwrap()), &["v: ", "2 tokens", "[1, 2, 16]"]);
    assert_refused(of(&q, &k, &v.narrow(2, 0, 8).unwrap()), &["v: ", "2 heads and 16", "[2, 2, 8]"]);
    assert_refused(of(&q.flatten_all().unwrap(), &k, &v), &["q: ", "[192]"]);
    // in other dimensions the order of tokens and heads is another
    assert_refused(of(&q.transpose(0, 1).unwrap(), &k, &v), &["q: ", "6 heads", "[6, 2, 16]"]);
    let none = k.narrow(0, 0, 0).unwrap();
    assert_refused(of(&q, &none, &v), &["k: ", "2 tokens", "[0, 2, 16]"]);
    let twice = [Span { slot: 0, start: 0, len: 1 }, Span { slot: 0, start: 1, len: 1 }];
    assert_refused(call(&twice, Heads::All, &q, &k), &["slot"]);
    assert_refused(call(&[Span { slot: 3, start: 0, len: 2 }], Heads::All, &q, &k), &["slot", "3"]);
    assert!(attention.is_empty(0));
    assert_refused(attention.truncate(3, 0), &["slot"]);
    assert_refused(Attention::new(&runtime(), 5, KV, KvDtype::F32), &["n_q_heads"]);
}
