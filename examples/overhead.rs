//! Prints what a call of the smallest shape costs from Rust, in ns: next to nothing of it is the work.
//!
//! `cargo run --release --example overhead`

use std::hint::black_box;
use std::time::Instant;

use moray::attention::{self, AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Span};
use moray::sparse_mlp::{self, Activation, Selection, Shape};
use moray::w4a8::{self, Activations, Epilogue, Format, Offset, PackedWeight};
use moray::{Cpu, DenseType, Isa, input_sparse};

const CALLS: u32 = 20_000;
const ROUNDS: usize = 7;

/// Prints the fastest of some rounds.
fn measure(operation: &str, name: &str, mut call: impl FnMut() -> moray::Result<()>) -> moray::Result<()> {
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        fastest = fastest.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    println!("{operation} | {name} | {fastest:.0} ns");
    Ok(())
}

fn main() -> moray::Result<()> {
    let (n, k, cpu) = (16, 32, Cpu::new(1, Isa::detect())?);
    let (x, mut y) = ([1.0f32; 32], [0.0f32; 16]);
    let weight = PackedWeight::pack(&w4a8::quantize(&[1.0; 512], n, k, Format::per_group(32, Offset::None))?);
    let mut int8 = Activations::with_capacity(1, k);
    measure("quantize", "`Activations::quantize`", || int8.quantize(&cpu, black_box(&x), 1, k))?;
    measure("linear", "`w4a8::linear`", || w4a8::linear(&cpu, &weight, &int8, Epilogue::default(), black_box(&mut y)))?;

    let mut by_input = input_sparse::Weight::zeros(n, k, DenseType::F32)?;
    by_input.set_rows(0, &[1.0; 512])?;
    let mut workspace = input_sparse::Workspace::with_capacity(1, k);
    measure("by_input", "`input_sparse::linear`", || {
        input_sparse::linear(&cpu, &by_input, black_box(&x), 0.5, Epilogue::default(), &mut y, &mut workspace)
    })?;

    let shape = Shape { d_model: 32, d_ff: 16, activation: Activation::Silu };
    let weights = sparse_mlp::Weights::new(shape, &[1.0f32; 512], &[1.0; 512], &[1.0; 512])?;
    let (mut y, mut workspace) = ([0.0f32; 32], sparse_mlp::Workspace::new(&weights, 1)?);
    measure("sparse_mlp", "`sparse_mlp::forward`", || {
        sparse_mlp::forward(&cpu, &weights, black_box(&x), &Selection::All, None, &mut y, &mut workspace)
    })?;

    let shape = AttentionShape::new(1, 1, 8)?;
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 1, head_dim: 8, capacity: 64 };
    let mut cache = KvCache::new(kv, KvDtype::F16)?;
    let limits = Limits { max_rows: 1, max_spans: 1, capacity: 64 };
    let mut workspace = attention::Workspace::new(&cpu, shape, limits)?;
    let (spans, mut out) = ([Span { slot: 0, start: 0, len: 1 }], [0.0f32; 8]);
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
    measure("write_kv", "`attention::write_kv`", || {
        attention::write_kv(&cpu, &call, KvPolicy::WriteAll, None, &x[..8], &x[..8], black_box(&mut cache))
    })?;
    measure("attend", "`attention::attend`", || {
        attention::attend(&cpu, &call, black_box(&x[..8]), &cache, &mut out, &mut workspace)
    })
}
