//! The sparse MLP on a CUDA device by selection and tokens, beside the dense MLP's two products in cuBLASLt of the same run.
//!
//! `cargo bench --features cublaslt --bench cuda_sparse_mlp`. Ids: sparse_mlp/weights/model/selection/mM. Every case is checked against
//! the CPU before it is timed; calls go round over more weights than the second-level cache holds three times. Bytes are
//! those of the selected rows.

mod common;
#[path = "common/cublaslt.rs"]
mod cublaslt;
#[path = "common/cuda.rs"]
mod cuda;

use common::{numbers, scattered};
use cublaslt::CublasLt;
use cuda::{Bench, Row, repeated};
use half::f16;
use moray::sparse_mlp::cuda::{NeuronList, Score, Selection, Weights, Workspace, forward};
use moray::sparse_mlp::{self as host, Activation, IndexList, ScoreOn, Shape, Weights as HostWeights, bytes_read};
use moray::w4a8::{Format, Offset, QuantizedWeight, Scales};
use moray::{Cpu, Result};

/// Model, d_model, d_ff.
const SHAPES: [(&str, usize, usize); 5] = [
    ("smollm2-135m", 576, 1536),
    ("llama-2-7b", 4096, 11008),
    ("llama-2-13b", 5120, 13824),
    ("llama-3-8b", 4096, 14336),
    ("llama-2-70b", 8192, 28672),
];

const TOKENS: [usize; 6] = [1, 4, 8, 16, 32, 64];

/// Kept shares of the listed neurons.
const KEPT: [f32; 3] = [0.5, 0.25, 0.1];

/// Values that a matrix repeats; a prime, so that rows differ.
const BLOCK: usize = 1_000_003;

fn main() -> Result<()> {
    let bench = Bench::open()?;
    let library = CublasLt::open(&bench);
    bench.head();
    let shapes: &[_] = if bench.quick { &[("tiny", 128, 256)] } else { &SHAPES };
    let tokens: &[usize] = if bench.quick { &[1, 8, 17] } else { &TOKENS };
    for &(model, d_model, d_ff) in shapes {
        let mut baselines = Vec::new();
        for &m in tokens {
            baselines.push(baseline(&bench, library.as_ref(), model, m, d_model, d_ff)?);
        }
        let shape = Shape { d_model, d_ff, activation: Activation::Silu };
        for (name, group_size) in [("f16", None), ("q4-g64", Some(64)), ("q4-g32-offset", Some(32))] {
            let host = match group_size {
                None => dense(shape)?,
                Some(group_size) => four_bit(shape, group_size)?,
            };
            let copies = bench.copies(host.bytes());
            let weights = (0..copies).map(|_| Weights::upload(&bench.device, &host)).collect::<Result<Vec<_>>>()?;
            for (&m, &baseline) in tokens.iter().zip(&baselines) {
                let mlp = Mlp { id: format!("sparse_mlp/{name}/{model}"), bench: &bench, host: &host, m, baseline };
                mlp.run(&weights)?;
            }
        }
    }
    Ok(())
}

/// Seconds of gate and up as one product and of down, dense in f16.
fn baseline(
    bench: &Bench,
    library: Option<&CublasLt>,
    model: &str,
    m: usize,
    d_model: usize,
    d_ff: usize,
) -> Result<Option<f64>> {
    let Some(library) = library else { return Ok(None) };
    let gate_up = library.f16_seconds(bench, m, 2 * d_ff, d_model)?;
    let down = library.f16_seconds(bench, m, d_model, d_ff)?;
    let both = gate_up.zip(down).map(|(a, b)| a + b);
    if let Some(seconds) = both {
        let weights = 3 * d_model * d_ff;
        bench.print(&Row {
            id: format!("cublaslt/f16/{model}.mlp/m{m}"),
            seconds,
            bytes: 2.0 * weights as f64,
            operations: 2.0 * (m * weights) as f64,
            baseline: both,
        });
    }
    Ok(both)
}

fn dense(shape: Shape) -> Result<HostWeights> {
    let elems = shape.d_model * shape.d_ff;
    let matrix = |seed| {
        let scale = 1.0 / (shape.d_model as f32).sqrt();
        let block: Vec<f16> = numbers(BLOCK.min(elems), seed).iter().map(|w| f16::from_f32(w * scale)).collect();
        repeated(&block, elems)
    };
    HostWeights::new(shape, &matrix(1), &matrix(2), &matrix(3))
}

/// Random codes; groups of 32 come with offsets.
fn four_bit(shape: Shape, group_size: usize) -> Result<HostWeights> {
    let matrix = |n: usize, k: usize, seed| {
        let elems = n * k;
        let block: Vec<i8> = numbers(BLOCK.min(elems), seed).iter().map(|v| (v * 8.0 + 8.0) as i8).collect();
        let scale = |seed| {
            let step = 0.1 / (k as f32).sqrt();
            let block: Vec<f16> = numbers(1021, seed).iter().map(|v| f16::from_f32(v * step)).collect();
            repeated(&block, elems / group_size)
        };
        let offset = if group_size == 32 { Offset::F16 } else { Offset::None };
        let offsets = (group_size == 32).then(|| scale(seed + 7).into());
        let scales = Scales::per_group(scale(seed + 5), offsets);
        QuantizedWeight::new(n, k, Format::per_group(group_size, offset), repeated(&block, elems), scales)
    };
    let Shape { d_model, d_ff, .. } = shape;
    HostWeights::from_quantized(
        shape,
        &matrix(d_ff, d_model, 1)?,
        &matrix(d_ff, d_model, 2)?,
        &matrix(d_model, d_ff, 3)?,
    )
}

/// One MLP with so many tokens.
struct Mlp<'a> {
    id: String,
    bench: &'a Bench,
    host: &'a HostWeights,
    m: usize,
    baseline: Option<f64>,
}

impl Mlp<'_> {
    fn run(&self, weights: &[Weights]) -> Result<()> {
        let d_ff = self.host.shape().d_ff;
        let all: Vec<u32> = (0..d_ff as u32).collect();
        self.time("dense", weights, &Selection::All, &host::Selection::All, &all)?;
        for kept in KEPT {
            let list = scattered(d_ff, kept);
            let on_host = IndexList::new(&list, d_ff)?;
            let mut on_device = NeuronList::new(&self.bench.device, d_ff)?;
            on_device.set(&self.bench.device, on_host)?;
            let id = format!("list-{kept}");
            self.time(&id, weights, &Selection::List(&on_device), &host::Selection::List(on_host), &list)?;
        }
        let k = d_ff / 2;
        let selection = Selection::TopK { score: Score { on: ScoreOn::Gate, channel_scale: None }, k };
        let on_host = host::Selection::TopK { score: host::Score::plain(ScoreOn::Gate), k };
        self.time("topk-gate-0.5", weights, &selection, &on_host, &[])
    }

    /// `kept` are the neurons of a list; empty for scores, whose union the device tells.
    fn time(
        &self,
        name: &str,
        weights: &[Weights],
        selection: &Selection<'_>,
        on_host: &host::Selection<'_>,
        kept: &[u32],
    ) -> Result<()> {
        let (device, m, d_model) = (&self.bench.device, self.m, self.host.shape().d_model);
        let inputs = numbers(m * d_model, 4);
        let x = device.upload(&inputs)?;
        let mut y = device.zeros::<f32>(m * d_model)?;
        let mut workspace = Workspace::new(device, &weights[0], m)?;
        forward(device, &weights[0], &x, m, selection, None, &mut y, &mut workspace)?;
        self.verify(name, &inputs, on_host, &device.download(&y.slice(..d_model))?)?;
        let union = if kept.is_empty() { workspace.kept().download(device)? } else { kept.to_vec() };
        let seconds = self
            .bench
            .seconds(weights.len(), |i| forward(device, &weights[i], &x, m, selection, None, &mut y, &mut workspace))?;
        self.bench.print(&Row {
            id: format!("{}/{name}/m{m}", self.id),
            seconds,
            bytes: bytes_read(self.host, on_host, &union) as f64,
            operations: 0.0,
            baseline: self.baseline,
        });
        Ok(())
    }

    /// Compares the first token with the CPU's. Sums in another order may move an int8 code, or a neuron at the edge of a top-k, by
    /// one step; a wrong kernel is off by the size of y itself.
    fn verify(&self, name: &str, x: &[f32], selection: &host::Selection<'_>, y: &[f32]) -> Result<()> {
        let d_model = self.host.shape().d_model;
        let mut workspace = host::Workspace::new(self.host, 1)?;
        let mut expected = vec![0.0f32; d_model];
        host::forward(&Cpu::detect(), self.host, &x[..d_model], selection, None, &mut expected, &mut workspace)?;
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let error = square(&mut expected.iter().zip(y).map(|(a, b)| a - b)).sqrt();
        let size = square(&mut expected.iter().copied()).sqrt();
        assert!(error * 127.0 <= size, "{}/{name}: off by {error} of {size}", self.id);
        Ok(())
    }
}
