//! Attention against moray's own calls on the device.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use moray_candle::moray::attention::cuda::{
    Call, Heads as HeadsThere, KvCache, KvFormat, KvLayout, OwnedHeads, Projections, Rope as RopeThere, Spans,
    Workspace, attend, write_kv,
};
use moray_candle::moray::attention::{
    AttentionShape, Heads, KvDtype, KvPolicy, KvShape, Limits, Rope, RopeScaling, Span,
};
use moray_candle::moray::device::DeviceElement;
use moray_candle::{Attention, moray};

use super::{FLOATS, assert_refused, bits, device, f32s, layouts, moray_on, numbers, runtime};

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

fn rope() -> Rope {
    Rope::new(16, 1e4, &RopeScaling::Default, 40).unwrap()
}

/// moray's calls, with a cache of their own.
struct Plain {
    device: moray::Device,
    cache: KvCache,
    rope: RopeThere,
    policy: KvPolicy,
    workspace: Workspace,
}

impl Plain {
    fn new(device: moray::Device, format: KvFormat, policy: KvPolicy) -> Self {
        let holes = policy == KvPolicy::Hole;
        let limits = Limits { max_rows: 8, max_spans: KV.n_slots, capacity: KV.capacity };
        Plain {
            cache: KvCache::new(&device, KV, format, KvLayout::Contiguous, holes).unwrap(),
            rope: RopeThere::upload(&device, &rope()).unwrap(),
            policy,
            workspace: Workspace::new(&device, SHAPE, limits).unwrap(),
            device,
        }
    }

    fn step<E: DeviceElement>(&mut self, spans: &[Span], heads: &Heads<'_>, inputs: &[Tensor; 3]) -> Vec<f32> {
        let device = &self.device;
        let typed = |x: &Tensor| f32s(x).iter().map(|x| E::from_f32(*x)).collect::<Vec<E>>();
        let [q, k, v] = inputs.each_ref().map(|x| device.upload(&typed(x)).unwrap());
        let mut records = Spans::new(device, KV.n_slots).unwrap();
        records.set(device, spans).unwrap();
        let listed = OwnedHeads::upload(device, heads, &SHAPE, spans.len()).unwrap();
        let heads = if matches!(heads, Heads::All) { HeadsThere::All } else { listed.view() };
        let call = Call { shape: SHAPE, layer: 1, spans: &records, heads };
        let projections = Projections::separate(&q, &k, &v, &SHAPE);
        let (mut turned, mut out) = (device.zeros(q.len()).unwrap(), device.zeros::<E>(q.len()).unwrap());
        let (rope, policy) = (Some(&self.rope), self.policy);
        write_kv(device, &call, policy, rope, &projections, Some(&mut turned), &mut self.cache).unwrap();
        attend(device, &call, &turned, &self.cache, &mut out, &mut self.workspace).unwrap();
        device.download(&out).unwrap().iter().map(|y| y.to_f32()).collect()
    }

    fn step_in(&mut self, dtype: DType, spans: &[Span], heads: &Heads<'_>, inputs: &[Tensor; 3]) -> Vec<f32> {
        match dtype {
            DType::F16 => self.step::<f16>(spans, heads, inputs),
            DType::BF16 => self.step::<bf16>(spans, heads, inputs),
            _ => self.step::<f32>(spans, heads, inputs),
        }
    }
}

#[test]
fn steps_match_moray_in_every_type_and_layout() {
    let device = device();
    let (list, counts) = ([0, 1, 5, 2, 3, 4], [3, 2]);
    let caches = [(KvDtype::F16, KvFormat::F16), (KvDtype::Int8, KvFormat::Int8), (KvDtype::F32, KvFormat::F32)];
    for (dtype, (kept, format)) in FLOATS.into_iter().zip(caches) {
        for (policy, listed) in [(KvPolicy::WriteAll, false), (KvPolicy::WriteAll, true), (KvPolicy::Hole, true)] {
            let attention = Attention::new(&runtime(), 6, KV, kept).unwrap().to_device(&device).unwrap();
            let attention = attention.with_rope(rope()).with_policy(policy);
            let mut plain = Plain::new(moray_on(&device), format, policy);
            for (step, spans) in STEPS.into_iter().enumerate() {
                let some = Heads::List { list: &list[..3 * spans.len()], counts: &counts[..spans.len()] };
                let heads = if listed { some } else { Heads::All };
                let inputs = inputs(spans.iter().map(|span| span.len).sum(), step, dtype);
                let expected = plain.step_in(dtype, spans, &heads, &inputs);
                let [q, k, v] = inputs.map(|x| layouts(&x.to_device(&device).unwrap()));
                // writing the same positions again changes nothing
                for (q, (k, v)) in q.iter().zip(k.iter().zip(&v)) {
                    let got = attention.forward(1, spans, heads, q, k, v).unwrap();
                    assert_eq!((got.dtype(), got.dims()), (dtype, q.dims()));
                    let got = f32s(&got.to_device(&Device::Cpu).unwrap());
                    assert_eq!(got, expected, "{dtype:?} {policy:?} step {step}");
                }
            }
            assert_eq!((attention.len(0), attention.len(1), attention.len(2)), (4, 0, 7));
            attention.truncate(2, 3).unwrap();
            assert_eq!(attention.len(2), 3);
        }
    }
}

#[test]
fn what_is_truncated_is_written_anew() {
    let device = device();
    let attention = Attention::new(&runtime(), 6, KV, KvDtype::F16).unwrap().to_device(&device).unwrap();
    let run = |start: usize, step: usize| {
        let [q, k, v] = inputs(3, step, DType::F32).map(|x| x.to_device(&device).unwrap());
        bits(&attention.forward(0, &[Span { slot: 1, start, len: 3 }], Heads::All, &q, &k, &v).unwrap())
    };
    let first = run(0, 0);
    let second = run(3, 1);
    run(6, 2);
    attention.truncate(1, 3).unwrap();
    assert_eq!(run(3, 1), second);
    attention.truncate(1, 0).unwrap();
    assert_eq!(run(0, 0), first);
}

#[test]
fn bad_input_is_refused_by_name_and_leaves_the_cache_alone() {
    let device = device();
    let attention = Attention::new(&runtime(), 6, KV, KvDtype::F32).unwrap().to_device(&device).unwrap();
    let here = inputs(2, 0, DType::F32);
    let [q, k, v] = here.each_ref().map(|x| x.to_device(&device).unwrap());
    let span = |start, len| [Span { slot: 0, start, len }];
    let call = |spans: &[Span], heads: Heads<'_>, q: &Tensor, k: &Tensor| attention.forward(0, spans, heads, q, k, &v);
    assert_refused(call(&span(0, 2), Heads::All, &here[0], &k), &["q: expected a tensor on cuda:0", "the CPU"]);
    assert_refused(call(&span(0, 2), Heads::All, &q, &here[1]), &["k: expected a tensor on cuda:0", "the CPU"]);
    assert_refused(call(&span(0, 3), Heads::All, &q, &k), &["q: ", "3 tokens", "[2, 6, 16]"]);
    assert_refused(call(&span(0, 2), Heads::All, &q, &k.narrow(0, 0, 1).unwrap()), &["k: ", "2 tokens", "[1, 2, 16]"]);
    assert_refused(call(&span(39, 2), Heads::All, &q, &k), &["39"]);
    assert_refused(call(&span(1, 2), Heads::All, &q, &k), &["spans: expected slot 0 to go on at position 0", "got 1"]);
    assert_refused(call(&span(0, 2), Heads::All, &k, &k), &["q: ", "6 heads", "[2, 2, 16]"]);
    assert_refused(call(&span(0, 2), Heads::All, &q, &q), &["k: ", "2 heads"]);
    let half = k.to_dtype(DType::F16).unwrap();
    assert_refused(call(&span(0, 2), Heads::All, &q, &half), &["k: expected f32, got f16"]);
    assert_refused(call(&span(0, 2), Heads::List { list: &[6], counts: &[1] }, &q, &k), &["head list", "6"]);
    assert_refused(attention.forward(2, &span(0, 2), Heads::All, &q, &k, &v), &["layer"]);
    let four = [Span { slot: 3, start: 0, len: 2 }];
    assert_refused(call(&four, Heads::All, &q, &k), &["slot", "3"]);
    assert!(attention.is_empty(0));
    assert_refused(attention.truncate(3, 0), &["slot"]);
    call(&span(0, 2), Heads::All, &q, &k).unwrap();
    assert_refused(attention.to_device(&Device::Cpu), &["device: expected cuda:0, where slot 0 is, got the CPU"]);
    let wide = KvShape { head_dim: 512, ..KV };
    let wide = Attention::new(&runtime(), 6, wide, KvDtype::F32).unwrap().to_device(&device).unwrap();
    let [q, kv] = [6, 2].map(|heads| numbers(&[2, heads, 512], 3, DType::F32).to_device(&device).unwrap());
    assert_refused(wide.forward(0, &span(0, 2), Heads::All, &q, &kv, &kv), &["head_dim", "256", "512"]);
}
