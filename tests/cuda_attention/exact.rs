//! What must be equal bit for bit.

use moray::attention::cuda::{Call, Heads as DeviceHeads, KvFormat, KvLayout, Projections, Spans, attend, write_kv};
use moray::attention::{AttentionShape, Heads, KvDtype, KvPolicy, Span};
use moray::device::cudarc::driver::sys::CUgraphInstantiate_flags_enum as InstantiateFlags;
use moray::device::cudarc::driver::sys::CUstreamCaptureMode_enum as CaptureMode;

use crate::case::{CAPACITY, Case, OwnedHeads, bits, noise};
use crate::device::device;
use crate::run::{DeviceCase, upload_spans};

/// All heads, everything written, f16, contiguous; spans by (start, len), slot i for span i.
pub fn plain_case(n_q_heads: usize, n_kv_heads: usize, head_dim: usize, spans: &[(usize, usize)]) -> DeviceCase {
    let spans = spans.iter().enumerate().map(|(slot, &(start, len))| Span { slot, start, len }).collect();
    let case = Case {
        shape: AttentionShape::new(n_q_heads, n_kv_heads, head_dim).unwrap(),
        dtype: KvDtype::F16,
        spans,
        heads: OwnedHeads::All,
        policy: KvPolicy::WriteAll,
        history: OwnedHeads::All,
        threads: 1,
        seed: 7,
    };
    DeviceCase { case, format: KvFormat::F16, layout: KvLayout::Contiguous }
}

#[test]
fn prefill_matches_itself_for_any_split_of_the_prompt() {
    let Some(device) = device() else { return };
    let case = plain_case(4, 2, 64, &[(30, 120)]);
    let (cache, q, width) = (case.fill(&device), case.case.q(), case.case.shape.q_elems());
    let whole = case.attend::<f32>(&device, &cache);
    for cut in [33, 64, 87] {
        // both parts are long enough for the prefill kernel
        for part in [0..cut, cut..120] {
            let spans = [Span { slot: 0, start: 30 + part.start, len: part.len() }];
            let rows = part.start * width..part.end * width;
            let out = case.attend_spans::<f32>(&device, &cache, &spans, Heads::All, &q[rows.clone()]);
            assert_eq!(bits(&out), bits(&whole[rows]), "cut at {cut}, tokens {part:?}");
        }
    }
}

#[test]
fn batch_matches_its_sequences_one_by_one() {
    let Some(device) = device() else { return };
    for spans in [[(290, 1), (0, 1), (63, 1)], [(100, 40), (0, 70), (64, 33)]] {
        let case = plain_case(6, 2, 64, &spans);
        let (cache, q, width) = (case.fill(&device), case.case.q(), case.case.shape.q_elems());
        let batch = case.attend::<f32>(&device, &cache);
        let mut row = 0;
        for span in &case.case.spans {
            let rows = row * width..(row + span.len) * width;
            let alone = case.attend_spans::<f32>(&device, &cache, &[*span], Heads::All, &q[rows.clone()]);
            assert_eq!(bits(&alone), bits(&batch[rows]), "{span:?}");
            row += span.len;
        }
    }
}

#[test]
fn selected_heads_match_the_full_batch_in_every_form() {
    let Some(device) = device() else { return };
    for spans in [[(290, 1), (70, 1)], [(10, 30), (64, 40)]] {
        let mut case = plain_case(8, 2, 64, &spans);
        let full = { case.attend::<f32>(&device, &case.fill(&device)) };
        let cache = case.fill(&device);
        let (d, width) = (case.case.shape.head_dim, case.case.shape.q_elems());
        for kind in 1..4 {
            let selected = if kind == 2 { [0b01u32, 0b10] } else { [0b1010_0110, 0b1000_0000] };
            case.case.heads = OwnedHeads::new(kind, &case.case.shape, &selected);
            let out = case.attend::<f32>(&device, &cache);
            let mut row = 0;
            for (index, span) in case.case.spans.iter().enumerate() {
                for at in row * 8..(row + span.len) * 8 {
                    let runs = case.case.heads.as_heads().contains(&case.case.shape, index, at % 8);
                    let expected = if runs { full[at * d..][..d].to_vec() } else { vec![0.0; d] };
                    assert_eq!(bits(&out[at * d..][..d]), bits(&expected), "form {kind}, row {}", at / 8);
                }
                row += span.len;
            }
            assert_eq!(out.len(), row * width);
        }
    }
}

/// Sums of weights times a power of two are rounded as the sum of weights is, so if that is of the rounded weights, as it must
/// be, the mean of equal values has no error at all.
#[test]
fn equal_values_come_out_exactly() {
    let Some(device) = device() else { return };
    let shape = AttentionShape::new(2, 1, 64).unwrap();
    for (start, len) in [(199, 1), (0, 100)] {
        let case = plain_case(2, 1, 64, &[(start, len)]);
        let mut cache = case.cache(&device);
        let total = start + len;
        let k = device.upload(&noise(total * 64, 5)).unwrap();
        let v = device.upload(&vec![0.5f32; total * 64]).unwrap();
        let projections = Projections { q: None, k: k.as_view(), v: v.as_view(), q_stride: 64, kv_stride: 64 };
        let spans = upload_spans(&device, &[Span { slot: 0, start: 0, len: total }]);
        let call = Call { shape, layer: 1, spans: &spans, heads: DeviceHeads::All };
        write_kv(&device, &call, KvPolicy::WriteAll, None, &projections, None, &mut cache).unwrap();
        assert!(case.attend::<f32>(&device, &cache).iter().all(|&x| x == 0.5));
    }
}

/// A decode step is captured once; its replays read positions, heads and inputs from the device, and move the positions on,
/// which the single launches are given.
#[test]
fn replayed_graph_matches_single_launches_with_new_positions_and_heads() {
    let Some(device) = device() else { return };
    let case = plain_case(4, 2, 64, &[(250, 1), (3, 1)]);
    let shape = case.case.shape;
    let masks: [[u32; 2]; 3] = [[0b1111, 0b0001], [0b0100, 0b1010], [0b0011, 0b1111]];
    let steps: Vec<Vec<f32>> =
        (0..3).map(|step| noise(2 * (shape.q_elems() + 2 * shape.kv_elems()), 70 + step)).collect();

    let single = |graph: bool| -> Vec<Vec<u32>> {
        let mut cache = case.fill(&device);
        let mut workspace = case.workspace(&device);
        let mut spans = Spans::new(&device, 2).unwrap();
        spans.set(&device, &case.case.spans).unwrap();
        let mut words = device.upload(&masks[0]).unwrap();
        let mut qkv = device.upload(&steps[0]).unwrap();
        let mut q = device.zeros::<f32>(2 * shape.q_elems()).unwrap();
        let mut out = device.zeros::<f32>(2 * shape.q_elems()).unwrap();
        let mut captured = None;
        let mut results = Vec::new();
        for step in 0..3 {
            device.stream().memcpy_htod(&masks[step][..], &mut words).unwrap();
            device.stream().memcpy_htod(&steps[step][..], &mut qkv).unwrap();
            device.synchronize().unwrap();
            if captured.is_none() {
                if graph {
                    device.stream().begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
                }
                let call = Call { shape, layer: 1, spans: &spans, heads: DeviceHeads::Mask { words: &words } };
                let projections = Projections::fused(&qkv, &shape);
                write_kv(&device, &call, KvPolicy::Hole, None, &projections, Some(&mut q), &mut cache).unwrap();
                attend(&device, &call, &q, &cache, &mut out, &mut workspace).unwrap();
                if graph {
                    spans.record_advance(&device).unwrap();
                }
                if graph {
                    let flags = InstantiateFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
                    captured = device.stream().end_capture(flags).unwrap();
                }
            }
            if let Some(graph) = &captured {
                graph.launch().unwrap();
            }
            if graph {
                spans.advanced(CAPACITY).unwrap();
            } else {
                let next: Vec<Span> =
                    spans.host().iter().map(|span| Span { start: span.start + span.len, ..*span }).collect();
                spans.set(&device, &next).unwrap();
            }
            results.push(bits(&device.download(&out).unwrap()));
        }
        results
    };
    let (launched, replayed) = (single(false), single(true));
    assert_eq!(launched, replayed);
    assert!(launched[0] != launched[1] && launched[1] != launched[2]);
}

/// One query head of one token is no number: nothing else is another for it, in a decode step, split or not, and in a tile.
#[test]
fn a_query_that_is_no_number_gives_nan_and_no_other() {
    let Some(device) = device() else { return };
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Bf16, KvFormat::Int8] {
        for (start, len) in [(0, 1), (40, 1), (600, 1), (100, 5), (10, 70)] {
            let mut case = plain_case(4, 2, 64, &[(start, len)]);
            case.format = format;
            let (cache, mut q) = (case.fill(&device), case.case.q());
            let whole = case.attend::<f32>(&device, &cache);
            let wrong = (len - 1) * 256 + 2 * 64;
            q[wrong + 7] = f32::NAN;
            let out = case.attend_spans::<f32>(&device, &cache, &case.case.spans, Heads::All, &q);
            assert!(out[wrong..][..64].iter().all(|x| x.is_nan()), "{format:?}, {len} from {start}");
            assert_eq!(bits(&out[..wrong]), bits(&whole[..wrong]), "{format:?}, {len} from {start}");
            assert_eq!(bits(&out[wrong + 64..]), bits(&whole[wrong + 64..]), "{format:?}, {len} from {start}");
        }
    }
}
