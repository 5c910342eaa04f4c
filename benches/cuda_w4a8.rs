//! W4A8 on a CUDA device, beside cuBLASLt in f16 and int8 of the same run.
//!
//! `cargo bench --features cublaslt --bench cuda_w4a8`. Every row is checked against the CPU before it is timed; calls go round over
//! more weights than the second-level cache holds three times.

mod common;
#[path = "common/cublaslt.rs"]
mod cublaslt;
#[path = "common/cuda.rs"]
mod cuda;

use common::numbers;
use cublaslt::CublasLt;
use cuda::{Bench, Row};
use moray::device::cudarc::driver::CudaSlice;
use moray::w4a8::cuda::{Activations, Epilogue, Weight, Workspace, linear};
use moray::w4a8::{self, Format, Offset, PackedWeight, quantize};
use moray::{Cpu, Result};

/// Model, layer, (K, N).
const SHAPES: [(&str, &str, usize, usize); 21] = [
    ("llama-2-7b", "qkv", 4096, 12288),
    ("llama-2-7b", "o", 4096, 4096),
    ("llama-2-7b", "gate_up", 4096, 22016),
    ("llama-2-7b", "down", 11008, 4096),
    ("llama-2-13b", "qkv", 5120, 15360),
    ("llama-2-13b", "o", 5120, 5120),
    ("llama-2-13b", "gate_up", 5120, 27648),
    ("llama-2-13b", "down", 13824, 5120),
    ("llama-2-70b", "qkv", 8192, 10240),
    ("llama-2-70b", "o", 8192, 8192),
    ("llama-2-70b", "gate_up", 8192, 57344),
    ("llama-2-70b", "down", 28672, 8192),
    ("llama-3-8b", "qkv", 4096, 6144),
    ("llama-3-8b", "gate_up", 4096, 28672),
    ("llama-3-8b", "down", 14336, 4096),
    ("qqq", "figure", 21760, 8192),
    ("smollm2-135m", "qkv", 576, 960),
    ("smollm2-135m", "o", 576, 576),
    ("smollm2-135m", "gate_up", 576, 3072),
    ("smollm2-135m", "down", 1536, 576),
    ("smollm2-135m", "head", 576, 49152),
];

const TOKENS: [usize; 14] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Most outputs of a row: beyond it preparing them takes longer than the bench.
const MAX_OUTPUTS: usize = 1 << 28;

/// Groups of 128 where K is a multiple of it, 64 elsewhere.
fn modes(k: usize) -> [(String, Format); 5] {
    let group_size = if k.is_multiple_of(128) { 128 } else { 64 };
    [
        ("per-channel".into(), Format::per_channel()),
        (format!("g{group_size}"), Format::per_group(group_size, Offset::None)),
        (format!("g{group_size}-offset"), Format::per_group(group_size, Offset::F16)),
        (format!("two-level-{group_size}"), Format::two_level(group_size)),
        ("w8".into(), Format::w8()),
    ]
}

/// Rows of a weight that differ.
const DISTINCT_ROWS: usize = 128;

fn main() -> Result<()> {
    let bench = Bench::open()?;
    let library = CublasLt::open(&bench);
    bench.head();
    let shapes: &[_] = if bench.quick { &[("tiny", "o", 256, 128)] } else { &SHAPES };
    for &(model, layer, k, n) in shapes {
        let all: &[usize] = if bench.quick { &[1, 17] } else { &TOKENS };
        let tokens: Vec<usize> = all.iter().copied().filter(|m| m * n <= MAX_OUTPUTS).collect();
        let mut baselines = Vec::new();
        for &m in &tokens {
            baselines.push(baseline(&bench, library.as_ref(), &format!("{model}.{layer}/m{m}"), m, n, k)?);
        }
        for (name, format) in modes(k) {
            // rows repeat: how long a product takes does not depend on it, and how long the preparation takes does
            let rows = quantize(&numbers(DISTINCT_ROWS * k, 1), DISTINCT_ROWS, k, format)?;
            let order: Vec<usize> = (0..n).map(|row| row % DISTINCT_ROWS).collect();
            let packed = PackedWeight::pack(&rows.permute_rows(&order)?);
            let copies = bench.copies(packed.bytes());
            let weights = (0..copies).map(|_| Weight::upload(&bench.device, &packed)).collect::<Result<Vec<_>>>()?;
            for (&m, &baseline) in tokens.iter().zip(&baselines) {
                let product = Product { id: format!("w4a8/{name}/{model}.{layer}/m{m}"), m, n, k };
                product.run(&bench, &packed, &weights, baseline)?;
            }
        }
    }
    Ok(())
}

/// Times the library's products, prints them and returns the seconds of f16.
fn baseline(bench: &Bench, library: Option<&CublasLt>, id: &str, m: usize, n: usize, k: usize) -> Result<Option<f64>> {
    let Some(library) = library else { return Ok(None) };
    let operations = 2.0 * (m * n * k) as f64;
    let f16 = library.f16_seconds(bench, m, n, k)?;
    if let Some(seconds) = f16 {
        let bytes = 2.0 * (n * k + m * k + m * n) as f64;
        bench.print(&Row { id: format!("cublaslt/f16/{id}"), seconds, bytes, operations, baseline: f16 });
    }
    if let Some(seconds) = library.int8_seconds(bench, m, n, k)? {
        let bytes = (n * k + m * k + 4 * m * n) as f64;
        bench.print(&Row { id: format!("cublaslt/int8/{id}"), seconds, bytes, operations, baseline: f16 });
    }
    Ok(f16)
}

struct Product {
    id: String,
    m: usize,
    n: usize,
    k: usize,
}

impl Product {
    fn run(&self, bench: &Bench, packed: &PackedWeight, weights: &[Weight], baseline: Option<f64>) -> Result<()> {
        let (device, m, n, k) = (&bench.device, self.m, self.n, self.k);
        let host = numbers(m * k, 2);
        let x = device.upload(&host)?;
        let mut activations = Activations::with_capacity(device, m, k)?;
        activations.quantize(device, &x.as_view(), m, k)?;
        let mut workspace = Workspace::new(device)?;
        let mut y = device.zeros::<f32>(m * n)?;
        let mut call = |weight: &Weight, y: &mut CudaSlice<f32>| {
            linear(device, weight, &activations, Epilogue::default(), &mut y.as_view_mut(), &mut workspace)
        };
        call(&weights[0], &mut y)?;
        let first = device.download(&y.slice(..m.min(4) * n))?;
        self.verify(packed, &host, &first)?;
        let seconds = bench.seconds(weights.len(), |i| call(&weights[i], &mut y))?;
        // weights, codes with their scales, results
        let bytes = (packed.bytes() + m * (k + 4) + 4 * m * n) as f64;
        bench.print(&Row { id: self.id.clone(), seconds, bytes, operations: 2.0 * (m * n * k) as f64, baseline });
        Ok(())
    }

    /// Compares with the CPU the first few tokens: bit for bit in the modes that stay in integers, and where K is not split; by the
    /// order of the parts' sums elsewhere.
    fn verify(&self, packed: &PackedWeight, x: &[f32], y: &[f32]) -> Result<()> {
        let (m, n, k) = (self.m.min(4), self.n, self.k);
        let (cpu, mut activations) = (Cpu::detect(), w4a8::Activations::default());
        activations.quantize(&cpu, &x[..m * k], m, k)?;
        let mut expected = vec![0.0f32; m * n];
        w4a8::linear(&cpu, packed, &activations, w4a8::Epilogue::default(), &mut expected)?;
        // groups are summed in f32: k / 32 of them at most, each sum off by a rounding of the largest
        let largest = expected.iter().fold(0f32, |max, y| max.max(y.abs()));
        let bound = (k / 32) as f32 * f32::EPSILON * largest;
        let same = expected.iter().zip(y).all(|(a, b)| a.to_bits() == b.to_bits() || (a - b).abs() <= bound);
        assert!(same, "{}: expected the CPU's values", self.id);
        Ok(())
    }
}
