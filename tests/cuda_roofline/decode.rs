//! One token in one layer of LLaMA-2-7B, in W4A8 per channel: the calls that the forward pass makes, at their shapes.

use moray::attention::cuda::{
    Call, Heads, KvCache, KvFormat, KvLayout, NewTokens, Projections, Rope, Spans, Workspace, write_attend,
};
use moray::attention::{AttentionShape, KvPolicy, KvShape, Limits, RopeScaling, Span};
use moray::device::cudarc::driver::CudaSlice;
use moray::sparse_mlp::Activation;
use moray::w4a8::cuda::{Epilogue, FewTokens, Weight, Workspace as Sums, is_few, is_pair, linear_few, mlp_few};
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
const EPS: f32 = 1e-5;

/// Rows of a tile, and the teams of a block that multiplies two matrices: kernels/w4a8/gemv_pair.cu.
const TILE_N: usize = 16;
const TEAMS: usize = 2;
/// What a team asks for of its first row of tiles before all blocks wait: two units of 256 of K for each of 8 warps, in 4 bits.
const AHEAD_BYTES: usize = 2 * 8 * 256 * TILE_N / 2;

pub fn count(counter: &mut Counter) {
    let shape = AttentionShape::new(HEADS, HEADS, D_MODEL / HEADS).unwrap();
    let (qkv, qkv_bytes) = product(counter, true, 3 * D_MODEL, D_MODEL);
    let (o, o_bytes) = product(counter, false, D_MODEL, D_MODEL);
    let (mlp, mlp_bytes) = mlp(counter);
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: HEADS, head_dim: shape.head_dim, capacity: CAPACITY };
    let mut cache = KvCache::new(&counter.device, kv, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let (attend, kv_bytes) = attention(counter, shape, &mut cache);
    let multiprocessors = counter.device.multiprocessors();
    let bytes = qkv_bytes + kv_bytes + o_bytes + mlp_bytes;
    let launches = [qkv, attend, o, mlp].concat();
    counter.row(&format!("decode/per-channel/llama-2-7b/layer-{POSITION}"), Some(multiprocessors), bytes, launches);
}

/// A product with the quantization of its inputs, perhaps normalised, and the bytes that it has to move.
fn product(counter: &mut Counter, normed: bool, n: usize, k: usize) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let weight: Weight = weight(device, Format::per_channel(), n, k);
    assert!(is_few(device, &weight, ActScales::Token, 1), "as the forward pass chooses");
    let x: CudaSlice<f32> = device.zeros(k).unwrap();
    let norm: CudaSlice<f32> = device.zeros(k).unwrap();
    let mut y: CudaSlice<f32> = device.zeros(n).unwrap();
    let launches = counter.launches(|device| {
        let (x, mut y) = (x.as_view(), y.as_view_mut());
        let tokens = FewTokens { x: &x, m: 1, norm: normed.then_some((&norm, EPS)), scales: ActScales::Token };
        linear_few(device, &weight, tokens, Epilogue::default(), &mut y).unwrap();
    });
    let bytes = weight.bytes() + k + 4 * n;
    (with_bytes(launches, &[("w4a8_gemv", bytes, 0)]), bytes)
}

/// The whole MLP with the quantizations of its inputs, and the bytes that it has to move.
fn mlp(counter: &mut Counter) -> (Vec<Launch>, usize) {
    let device = &counter.device;
    let (gate_up, down) = (
        weight(device, Format::per_channel(), 2 * D_FF, D_MODEL),
        weight(device, Format::per_channel(), D_MODEL, D_FF),
    );
    let is_one = |weight| is_few(device, weight, ActScales::Token, 1);
    assert!(is_one(&gate_up) && is_one(&down) && is_pair(device, &gate_up, &down), "as the forward pass chooses");
    let x: CudaSlice<f32> = device.zeros(D_MODEL).unwrap();
    let norm: CudaSlice<f32> = device.zeros(D_MODEL).unwrap();
    let mut hidden: CudaSlice<f32> = device.zeros(D_FF).unwrap();
    let mut y: CudaSlice<f32> = device.zeros(D_MODEL).unwrap();
    let mut sums = Sums::new(device).unwrap();
    let multiprocessors = device.multiprocessors() as usize;
    let launches = counter.launches(|device| {
        let (x, mut hidden, mut y) = (x.as_view(), hidden.as_view_mut(), y.as_view_mut());
        let tokens = FewTokens { x: &x, m: 1, norm: Some((&norm, EPS)), scales: ActScales::Token };
        let (first, second) = ((&gate_up, tokens, None), (&down, ActScales::Token, Epilogue::default()));
        mlp_few::<f32>(device, first, Activation::Silu, &mut hidden, second, &mut y, &mut sums).unwrap();
    });
    let inputs = D_MODEL + D_FF;
    let bytes = gate_up.bytes() + down.bytes() + inputs + 4 * inputs;
    let ahead = (D_MODEL / TILE_N).min(TEAMS * multiprocessors) * AHEAD_BYTES;
    (launches.into_iter().map(|launch| launch.moves(bytes, 0).waits(1, ahead)).collect(), bytes)
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
