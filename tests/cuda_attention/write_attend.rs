//! The write and the attention after it in one launch, against the two calls: the output, the cache and what it holds, bit for bit.

use half::{bf16, f16};
use moray::Device;
use moray::attention::cuda::{
    Call, Heads as DeviceHeads, KvFormat, KvLayout, NewTokens, Projections, Rope, Spans, attend, write_attend, write_kv,
};
use moray::attention::{self, AttentionShape, KvPolicy, KvRow, RopeScaling, Span};
use moray::device::DeviceElement;
use moray::device::cudarc::driver::sys::CUgraphInstantiate_flags_enum as InstantiateFlags;
use moray::device::cudarc::driver::sys::CUstreamCaptureMode_enum as CaptureMode;

use crate::case::{CAPACITY, OwnedHeads, bits, noise};
use crate::device::{device, metered};
use crate::exact::plain_case;
use crate::run::{DeviceCase, upload_spans};

/// The way of a step.
#[derive(Clone, Copy)]
enum Way {
    Together,
    OneByOne,
}

/// The output of a step, and every row of layer 1 with whether it is held.
type Result = (Vec<u32>, Vec<(bool, Vec<u32>, Vec<u32>)>);

/// Writes the histories of a case's spans, then runs a step of it, with projections of type E and RoPE.
fn step<E: DeviceElement>(device: &Device, of: &DeviceCase, way: Way) -> Result {
    let (case, shape) = (&of.case, of.case.shape);
    let mut cache = of.cache(device);
    let before: Vec<Span> = case.spans.iter().map(|span| Span { start: 0, len: span.start, ..*span }).collect();
    of.write(device, &mut cache, &before, case.history.as_heads(), case.seed ^ 1);
    let rows: usize = case.spans.iter().map(|span| span.len).sum();
    let width = shape.q_elems() + 2 * shape.kv_elems();
    let qkv: Vec<E> = noise((rows * width).max(1), case.seed ^ 2).iter().map(|&x| E::from_f32(3.0 * x)).collect();
    let qkv = device.upload(&qkv).unwrap();
    let rope = attention::Rope::new(shape.head_dim, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let rope = Rope::upload(device, &rope).unwrap();
    let (spans, heads) =
        (upload_spans(device, &case.spans), of.upload_heads(device, &case.heads.as_heads(), case.spans.len()));
    let call = Call { shape, layer: 1, spans: &spans, heads: heads.view() };
    let projections = &Projections::fused(&qkv, &shape);
    let (rope, policy) = (Some(&rope), case.policy);
    let mut q = device.upload(&vec![f32::NAN; (rows * shape.q_elems()).max(1)]).unwrap();
    let mut out = device.upload(&vec![f32::NAN; (rows * shape.q_elems()).max(1)]).unwrap();
    let mut workspace = of.workspace(device);
    match way {
        Way::OneByOne => {
            write_kv(device, &call, policy, rope, projections, Some(&mut q), &mut cache).unwrap();
            attend(device, &call, &q, &cache, &mut out, &mut workspace).unwrap();
        }
        Way::Together => {
            let tokens = NewTokens { policy, rope, projections };
            write_attend(device, &call, tokens, &mut q, &mut cache, &mut out, &mut workspace).unwrap();
        }
    }
    of.assert_counters_are_zeros(device, &workspace);
    let mut held = Vec::new();
    for span in &case.spans {
        for (kv_head, position) in (0..shape.n_kv_heads).flat_map(|h| (0..CAPACITY).map(move |p| (h, p))) {
            let (mut k, mut v) = (vec![0.0; shape.head_dim], vec![0.0; shape.head_dim]);
            let row = KvRow { slot: span.slot, kv_head, position };
            let present = cache.read_row(device, 1, row, &mut k, &mut v).unwrap();
            // what is not there yet may be anything
            if position < span.start + span.len {
                held.push((present, bits(&k), bits(&v)));
            }
        }
    }
    (bits(&device.download(&out).unwrap()[..rows * shape.q_elems()]), held)
}

fn compare<E: DeviceElement>(device: &Device, case: &DeviceCase) {
    let (together, one_by_one) = (step::<E>(device, case, Way::Together), step::<E>(device, case, Way::OneByOne));
    assert_eq!(together.0, one_by_one.0, "out of {case:?}");
    assert!(together.0.iter().all(|&x| f32::from_bits(x).is_finite()), "{case:?}");
    for (at, (got, expected)) in together.1.iter().zip(&one_by_one.1).enumerate() {
        assert_eq!(got, expected, "row {at} of {case:?}");
    }
}

/// Positions at the edges of tiles and of splits (of 256), one token and some, a span of none.
const SPANS: [[(usize, usize); 3]; 3] =
    [[(0, 1), (255, 1), (256, 1)], [(254, 4), (63, 2), (639, 1)], [(511, 3), (5, 0), (600, 4)]];

#[test]
fn together_matches_one_by_one_at_the_edges_of_splits() {
    let Some(device) = device() else { return };
    for spans in &SPANS {
        compare::<f32>(&device, &plain_case(4, 2, 64, spans));
        // more rows than a tile has: two launches
        compare::<f32>(&device, &plain_case(8, 1, 64, spans));
    }
}

#[test]
fn together_matches_one_by_one_for_every_format_type_and_head_size() {
    let Some(device) = device() else { return };
    let of = |head_dim, format| DeviceCase { format, ..plain_case(4, 4, head_dim, &SPANS[1]) };
    for head_dim in [8, 72, 128, 256] {
        compare::<f16>(&device, &of(head_dim, KvFormat::F16));
        compare::<bf16>(&device, &of(head_dim, KvFormat::Bf16));
    }
    for head_dim in [24, 128] {
        compare::<f32>(&device, &of(head_dim, KvFormat::F32));
    }
    for head_dim in [16, 80, 256] {
        compare::<bf16>(&device, &of(head_dim, KvFormat::Int8));
    }
}

#[test]
fn together_matches_one_by_one_for_every_policy_selection_and_layout() {
    let Some(device) = device() else { return };
    for policy in [KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 3 }] {
        for kind in 0..4 {
            let mut case = plain_case(6, 3, 64, &SPANS[1]);
            case.case.policy = policy;
            let selected = if kind == 2 { [0b101u32, 0, 0b010] } else { [0b00_10_11, 0b01_00_00, 0] };
            case.case.heads = OwnedHeads::new(kind, &case.case.shape, &selected);
            // also where the history has holes
            case.case.history = OwnedHeads::new(2, &case.case.shape, &[0b011, 0b111, 0b010]);
            case.layout = match kind % 2 {
                0 => KvLayout::Contiguous,
                _ => KvLayout::Paged { page_size: 16, n_pages: 3 * CAPACITY / 16 + 5 },
            };
            compare::<f32>(&device, &case);
        }
    }
}

#[test]
fn a_decode_step_is_one_launch() {
    const NAME: &str = "write_attend::a_decode_step_is_one_launch";
    let Some(all) = metered(NAME, |device| {
        step::<f32>(device, &plain_case(4, 2, 64, &[(300, 1), (40, 1)]), Way::Together);
    }) else {
        return;
    };
    let kernels: Vec<&str> = all.iter().map(|launch| launch.kernel()).collect();
    // the history, and the step
    assert_eq!(kernels, ["attention_write_f16", "attention_decode_f16_64"]);
}

/// Of tokens on both sides of a split's end each block writes those of its own part alone.
#[test]
fn every_new_row_is_written_once() {
    const NAME: &str = "write_attend::every_new_row_is_written_once";
    let Some(all) = metered(NAME, |device| {
        step::<f32>(device, &plain_case(4, 2, 64, &[(254, 4)]), Way::Together);
    }) else {
        return;
    };
    let step = all.iter().find(|launch| launch.kernel().starts_with("attention_decode")).expect("the step");
    // 4 tokens of 2 heads, K and V in 16 bits; sums and states of two splits of 4 tokens and 4 heads; the output; two counters made zeros
    let (rows, partial, out, counters) = (4 * 2 * 2 * 64 * 2, 2 * 4 * 4 * (64 * 4 + 8), 4 * 4 * 64 * 4, 2 * 4);
    assert_eq!(step.count("global_store_bytes"), rows + partial + out + counters);
}

/// Steps of a captured graph against single ones; positions move on by themselves and cross the end of a split.
#[test]
fn replayed_steps_match_single_ones() {
    let Some(device) = device() else { return };
    let case = plain_case(4, 2, 64, &[(254, 1), (3, 1)]);
    let shape: AttentionShape = case.case.shape;
    let masks: [[u32; 2]; 4] = [[0b1111, 0b0001], [0b0100, 0b1010], [0b0011, 0b1111], [0b1000, 0]];
    let width = shape.q_elems() + 2 * shape.kv_elems();
    let run = |graph: bool, way: Way| -> Vec<Vec<u32>> {
        let mut cache = case.fill(&device);
        let mut workspace = case.workspace(&device);
        let mut spans = Spans::new(&device, 2).unwrap();
        spans.set(&device, &case.case.spans).unwrap();
        let mut words = device.upload(&masks[0]).unwrap();
        let mut qkv = device.upload(&noise(2 * width, 70)).unwrap();
        let mut q = device.zeros::<f32>(2 * shape.q_elems()).unwrap();
        let mut out = device.zeros::<f32>(2 * shape.q_elems()).unwrap();
        let (mut captured, mut results) = (None, Vec::new());
        for (step, mask) in masks.iter().enumerate() {
            device.stream().memcpy_htod(&mask[..], &mut words).unwrap();
            device.stream().memcpy_htod(&noise(2 * width, 70 + step as u64)[..], &mut qkv).unwrap();
            device.synchronize().unwrap();
            if captured.is_none() {
                if graph {
                    device.stream().begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
                }
                let call = Call { shape, layer: 1, spans: &spans, heads: DeviceHeads::Mask { words: &words } };
                let projections = &Projections::fused(&qkv, &shape);
                let policy = KvPolicy::Hole;
                if let Way::Together = way {
                    let tokens = NewTokens { policy, rope: None, projections };
                    write_attend(&device, &call, tokens, &mut q, &mut cache, &mut out, &mut workspace).unwrap();
                } else {
                    write_kv(&device, &call, policy, None, projections, Some(&mut q), &mut cache).unwrap();
                    attend(&device, &call, &q, &cache, &mut out, &mut workspace).unwrap();
                }
                if graph {
                    spans.record_advance(&device).unwrap();
                    let flags = InstantiateFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
                    captured = device.stream().end_capture(flags).unwrap();
                }
            }
            if let Some(graph) = &captured {
                graph.launch().unwrap();
                spans.advanced(CAPACITY).unwrap();
            } else {
                spans.advance(&device, CAPACITY).unwrap();
            }
            results.push(bits(&device.download(&out).unwrap()));
            case.assert_counters_are_zeros(&device, &workspace);
        }
        results
    };
    let expected = run(false, Way::OneByOne);
    assert_eq!(run(true, Way::Together), expected);
    assert_eq!(run(false, Way::Together), expected);
    assert!(expected[0] != expected[1]);
}
