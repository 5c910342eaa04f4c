//! W4A8 GEMM: 4-bit (or 8-bit) integer weights times 8-bit integer activations.
//!
//! y\[M, N\] = x\[M, K\] · w\[N, K\]ᵀ, with w\[n, k\] = scale · (code − zero_point) (+ offset) and
//! x\[m, k\] ≈ act_scale\[m\] · a\[m, k\], or with fine scales act_scale\[m, k/128\] · a\[m, k\], a in int8. Products and sums are
//! exact in int32 inside a group; groups (and blocks with an act_scale of their own) are combined in f32 by runs of K. There are
//! R = ⌈K/1024⌉, at most 8, of which run r begins at column 256 · ⌊r · ⌈K/256⌉ / R⌋. A run is a chain of fused multiply-adds from 0 over
//! its groups in increasing order, and the chains are added to 0 in order. So the result is the same bit for bit for every number of
//! tokens in a call, every instruction set, every number of threads, and wherever a device cuts K between runs.
//!
//! The way of a weight: a checkpoint's numbers or blocks → [`QuantizedWeight`] (plain codes and [`Scales`] in a
//! [`Format`], the definition) →
//! [`PackedWeight`] (the layout every device reads) → [`linear`].
//!
//! # Example
//! ```
//! use moray::{Cpu, w4a8};
//!
//! let cpu = Cpu::detect();
//! let (m, n, k) = (2, 48, 64);
//! let w: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect();
//! let x: Vec<f32> = (0..m * k).map(|i| ((i * 53 % 97) as f32 - 48.0) / 48.0).collect();
//!
//! let quantized = w4a8::quantize(&w, n, k, w4a8::Format::per_group(64, w4a8::Offset::F16))?;
//! let weight = w4a8::PackedWeight::pack(&quantized);
//! let mut activations = w4a8::Activations::with_capacity(m, k);
//! activations.quantize(&cpu, &x, m, k)?;
//! let mut y = vec![0.0f32; m * n];
//! w4a8::linear(&cpu, &weight, &activations, w4a8::Epilogue::default(), &mut y)?;
//!
//! // A weight is off by half of a step of 1/15 at most, an activation by half of one of 1/127.
//! let exact: f32 = (0..k).map(|i| x[i] * w[i]).sum();
//! let bound: f32 = (0..k).map(|i| x[i].abs() / 30.0 + (w[i].abs() + 1.0 / 30.0) / 254.0).sum();
//! assert!((y[0] - exact).abs() < bound);
//! # Ok::<(), moray::Error>(())
//! ```

mod activation;
mod cpu;
#[cfg(feature = "cuda-w4a8")]
pub mod cuda;
mod dot;
mod exported;
mod format;
#[cfg(target_arch = "x86_64")]
mod import;
mod pack;
mod packed_view;
mod portable;
mod qqq;
mod quant;
mod runs;
mod scales;
mod sections;
#[cfg(target_arch = "x86_64")]
mod simd_avx2;
#[cfg(target_arch = "x86_64")]
mod simd_avx512;
mod tile;
mod tile_kernels;
mod weight;

pub use activation::{ACT_BLOCK, ActScales, Activations};
pub use cpu::{Epilogue, linear, linear_reference, linear_rows};
pub use exported::{ExportedArrays, ExportedLayout, ExportedMatrix, StoredZeros};
pub use format::{Bits, Format, Group, GroupScale, Offset};
pub use import::Block;
pub use pack::{LAYOUT_VERSION, PackedWeight, TILE_BYTES, TILE_N, from_tile, pack_into, tile_k, to_tile};
pub use packed_view::PackedView;
pub use qqq::QqqArrays;
pub use quant::quantize;
pub use scales::{Scales, Values};
pub use sections::Sections;
pub use weight::QuantizedWeight;

pub(crate) use cpu::{TOKEN_BLOCK, multiply_panel, multiply_rows, multiply_tile_of, with_panel};
pub(crate) use pack::pack_two_rows;
pub(crate) use runs::{MOST_RUNS, run_end, runs};
pub(crate) use tile::{Tile, Tokens};
#[cfg(feature = "cuda-input-sparse")]
pub(crate) use weight::check_shape;
