//! One token in one layer of LLaMA-2-7B, in W4A8 per channel: the calls that the forward pass makes, at their shapes.

use moray::attention::cuda::{
    Call, Heads, KvCache, KvFormat, KvLayout, NewTokens, Projections, Rope, Spans, Workspace, write_attend,
};
use moray::attention::{AttentionShape, KvPolicy, KvShape, Limits, RopeScaling, Span};
use moray::device::cudarc::driver::CudaSlice;
use moray::sparse_mlp::Activation;
use moray::w4a8::cuda::{Epilogue, FewTokens, Weight, gated_few, is_few, linear_few};
use moray::w4a8::{ActScales, Format};

use crate::attention::attention_bytes;
use crate::counter::{Counter, Launch, with_bytes};
use crate::products::weight;

const D_MODEL: usize = 4096;
const D_FF: usize = 11008;
/// Query and KV heads; head_dim is 128.
const HEADS: usize = 32;
const POSITION: usize = 1150;
const CAPACITY: usize = 4096;

/// A product: its inputs as they are, or normalised, and then perhaps gates of its outputs.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Normed,
    Gated,
}

pub fn count(counter: &mut Counter) {
    let shape = AttentionShape::new(HEADS, HEADS, D_MODEL / HEADS).unwrap();
    let (qkv, qkv_bytes) = product(counter, Kind::Normed, 3 * D_MODEL, D_MODEL);
    let (o, o_bytes) = product(counter, Kind::Plain, D_MODEL, D_MODEL);
    let (gate_up, gate_up_bytes) = product(counter, Kind::Gated, 2 * D_FF, D_MODEL);
    let (down, down_bytes) = product(counter, Kind::Plain, D_MODEL, D_FF);
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: HEADS, head_dim: shape.head_dim, capacity: CAPACITY };
    let mut cache = KvCache::new(&counter.device, kv, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let (attend, kv_bytes) = attention(counter, shape, &mut cache);
    let multiprocessors = counter.device.multiprocessors();
    let bytes = qkv_bytes + kv_bytes + o_bytes + gate_up_bytes + down_bytes;
    let launches = [qkv, attend, o, gate_up, down].concat();
    counter.row(&format!("decode/per-channel/llama-2-7b/layer-{POSITION}"), Some(multiprocessors), bytes, launches);
}

/// A product with the quantization of its inputs, and the bytes that it has to move.
fn product(counter: &mut Counter, kind: Kind, n: usize, k: usize) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let weight: Weight = weight(device, Format::per_channel(), n, k);
    assert!(is_few(device, &weight, ActScales::Token, 1), "as the forward pass chooses");
    let x: CudaSlice<f32> = device.zeros(k).unwrap();
    let norm: CudaSlice<f32> = device.zeros(k).unwrap();
    let outputs = if kind == Kind::Gated { n / 2 } else { n };
    let mut y: CudaSlice<f32> = device.zeros(outputs).unwrap();
    let launches = counter.launches(|device| {
        let (x, mut y) = (x.as_view(), y.as_view_mut());
        let norm = (kind != Kind::Plain).then_some((&norm, 1e-5));
        let tokens = FewTokens { x: &x, m: 1, norm, scales: ActScales::Token };
        match kind {
            Kind::Gated => gated_few(device, &weight, tokens, None, Activation::Silu, &mut y).unwrap(),
            _ => linear_few(device, &weight, tokens, Epilogue::default(), &mut y).unwrap(),
        }
    });
    let bytes = weight.bytes() + k + 4 * outputs;
    (with_bytes(launches, &[("w4a8_gemv", bytes, 0)]), bytes)
}

/// The token's attention: RoPE, the write of its keys and values, and the reading of those before it.
fn attention(counter: &mut Counter, shape: AttentionShape, cache: &mut KvCache) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let rope = moray::attention::Rope::new(shape.head_dim, 1e4, &RopeScaling::Default, CAPACITY).unwrap();
    let rope = Rope::upload(device, &rope).unwrap();
    let qkv: CudaSlice<f32> = device.zeros(3 * D_MODEL).unwrap();
    let mut q: CudaSlice<f32> = device.zeros(D_MODEL).unwrap();
    let mut out: CudaSlice<f32> = device.zeros(D_MODEL).unwrap();
    let limits = Limits { max_rows: 1, max_spans: 1, capacity: CAPACITY };
    let mut workspace = Workspace::new(device, shape, limits).unwrap();
    let mut spans = Spans::new(device, 1).unwrap();
    spans.set(device, &[Span { slot: 0, start: POSITION, len: 1 }]).unwrap();
    let launches = counter.launches(|device| {
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        let projections = &Projections::fused(&qkv, &shape);
        let tokens = NewTokens { policy: KvPolicy::WriteAll, rope: Some(&rope), projections };
        write_attend(device, &call, tokens, &mut q, cache, &mut out, &mut workspace).unwrap();
    });
    let bytes = attention_bytes(POSITION + 1, HEADS, shape.head_dim, shape.q_elems());
    (with_bytes(launches, &[("attention_decode", bytes, 0)]), bytes)
}
