//! What `write_kv` leaves in the cache and in q, against the CPU.

use half::{bf16, f16};
use moray::Device;
use moray::attention::cuda::{self, Call, KvCache, KvFormat, KvLayout, OwnedHeads, Projections, write_kv};
use moray::attention::{self, AttentionShape, Heads, KvDtype, KvPolicy, KvRow, KvShape, Rope, RopeScaling, Span};
use moray::device::DeviceElement;
use moray::element::Element;

use crate::case::{bits, noise};
use crate::device::device;
use crate::run::{cpu, upload_spans};

const SPANS: [Span; 3] =
    [Span { slot: 2, start: 30, len: 5 }, Span { slot: 0, start: 0, len: 1 }, Span { slot: 1, start: 62, len: 4 }];
const MASK: [u32; 3] = [0b000_111, 0b110_000, 0b000_000];

fn inputs<E: Element>(shape: &AttentionShape, rows: usize) -> (Vec<E>, Vec<f32>, Vec<f32>, Vec<f32>) {
    let (q, kv) = (shape.q_elems(), shape.kv_elems());
    let qkv: Vec<E> = noise(rows * (q + 2 * kv), 11).iter().map(|&x| E::from_f32(3.0 * x)).collect();
    let part = |start: usize, width: usize| -> Vec<f32> {
        qkv.chunks_exact(q + 2 * kv).flat_map(|row| row[start..start + width].iter().map(|x| x.to_f32())).collect()
    };
    let (q_host, k_host, v_host) = (part(0, q), part(q, kv), part(q + kv, kv));
    (qkv, q_host, k_host, v_host)
}

/// Writes with RoPE under a policy on both sides and compares every row of every slot, and q.
fn compare<E: DeviceElement>(device: &Device, head_dim: usize, format: KvFormat, policy: KvPolicy) {
    let shape = AttentionShape::new(6, 2, head_dim).unwrap();
    let kv = KvShape { n_layers: 2, n_slots: 3, n_kv_heads: 2, head_dim, capacity: 96 };
    let rows = SPANS.iter().map(|span| span.len).sum();
    let (qkv, mut q_host, k_host, v_host) = inputs::<E>(&shape, rows);
    let rope = Rope::new(head_dim, 10_000.0, &RopeScaling::Default, 96).unwrap();
    let heads = Heads::Mask { words: &MASK };

    let dtype = match format {
        KvFormat::F16 => KvDtype::F16,
        KvFormat::Bf16 => KvDtype::Bf16,
        KvFormat::Int8 => KvDtype::Int8,
        _ => KvDtype::F32,
    };
    let mut expected = attention::KvCache::new(kv, dtype).unwrap();
    let call = attention::Call { shape, layer: 1, spans: &SPANS, heads };
    attention::write_kv(&cpu(), &call, policy, Some(&rope), &k_host, &v_host, &mut expected).unwrap();
    rope.apply(&cpu(), &SPANS, 6, &mut q_host).unwrap();

    let mut cache = KvCache::new(device, kv, format, KvLayout::Contiguous, true).unwrap();
    let qkv = device.upload(&qkv).unwrap();
    let mut q = device.upload(&vec![f32::NAN; rows * shape.q_elems()]).unwrap();
    let spans = upload_spans(device, &SPANS);
    let owned = OwnedHeads::upload(device, &heads, &shape, 3).unwrap();
    let call = Call { shape, layer: 1, spans: &spans, heads: owned.view() };
    let device_rope = cuda::Rope::upload(device, &rope).unwrap();
    let projections = Projections::fused(&qkv, &shape);
    write_kv(device, &call, policy, Some(&device_rope), &projections, Some(&mut q), &mut cache).unwrap();

    compare_rows(device, &expected, &cache, policy);
    let q = device.download(&q).unwrap();
    let span_of = SPANS.iter().enumerate().flat_map(|(index, span)| std::iter::repeat_n(index, span.len));
    for (row, index) in span_of.enumerate() {
        for head in (0..6).filter(|&head| heads.contains(&shape, index, head)) {
            let at = (row * 6 + head) * head_dim;
            assert_eq!(bits(&q[at..at + head_dim]), bits(&q_host[at..at + head_dim]), "row {row}, head {head}");
        }
    }
}

fn compare_rows(device: &Device, expected: &attention::KvCache, cache: &KvCache, policy: KvPolicy) {
    let kv = *expected.shape();
    let d = kv.head_dim;
    for layer in 0..2 {
        for (slot, kv_head) in (0..3).flat_map(|slot| [(slot, 0), (slot, 1)]) {
            for position in 0..kv.capacity {
                let row = KvRow { slot, kv_head, position };
                let mut host = (vec![0.0; d], vec![0.0; d]);
                let mut got = host.clone();
                let present = expected.read_row(layer, row, &mut host.0, &mut host.1).unwrap();
                assert_eq!(cache.read_row(device, layer, row, &mut got.0, &mut got.1).unwrap(), present, "{row:?}");
                assert_eq!(bits(&got.0), bits(&host.0), "k of {row:?}, {policy:?}");
                assert_eq!(bits(&got.1), bits(&host.1), "v of {row:?}, {policy:?}");
            }
        }
    }
}

#[test]
fn written_rows_and_q_match_the_cpu_bit_for_bit_for_every_policy() {
    let Some(device) = device() else { return };
    for policy in [KvPolicy::WriteAll, KvPolicy::Hole, KvPolicy::Zero, KvPolicy::Recompute { lag: 3 }] {
        compare::<f32>(&device, 64, KvFormat::F16, policy);
    }
}

#[test]
fn written_rows_and_q_match_the_cpu_bit_for_bit_for_every_type_and_head_size() {
    let Some(device) = device() else { return };
    for head_dim in [8, 24, 128, 256] {
        compare::<f16>(&device, head_dim, KvFormat::F16, KvPolicy::Hole);
        compare::<bf16>(&device, head_dim, KvFormat::Bf16, KvPolicy::Zero);
        compare::<f32>(&device, head_dim, KvFormat::F32, KvPolicy::Hole);
    }
}

#[test]
fn int8_rows_match_the_cpu_bit_for_bit() {
    let Some(device) = device() else { return };
    for head_dim in [16, 80, 256] {
        compare::<f32>(&device, head_dim, KvFormat::Int8, KvPolicy::Zero);
        compare::<bf16>(&device, head_dim, KvFormat::Int8, KvPolicy::Hole);
    }
}
