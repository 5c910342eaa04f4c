//! Speeds beside candle's own, in turn in one run.

use std::hint::black_box;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Result, Tensor};
use candle_nn::Module;
use moray_candle::moray::w4a8::{Format, Offset};
use moray_candle::{QuantizedLinear, Runtime};

/// Tokens, and the position of the first → logits.
pub type Forward<'a> = Box<dyn FnMut(&[u32], usize) -> Result<Tensor> + 'a>;

/// Tokens of a prompt that is measured.
const PROMPT: usize = 512;
/// Tokens that follow it.
const DECODED: usize = 32;
/// Bytes of weights that no cache holds.
const BEYOND_CACHE: usize = 64 << 20;

/// N and K of SmolLM2's matrices and of a larger model's.
const SHAPES: [(usize, usize); 5] = [(576, 576), (1536, 576), (576, 1536), (49152, 576), (4096, 4096)];

/// Prints how much faster each product is than candle's on the same blocks: the median of rounds and the quartiles. Blocks of Q4_K,
/// which moray does not run as they are, are its numbers in groups of 32 with offsets.
pub fn matmuls(runtime: &Runtime, rounds: usize) -> Result<()> {
    println!("\n| N × K | weights | M = 1 | M = {PROMPT} |\n|---|---|---|---|");
    for (n, k) in SHAPES {
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q4K] {
            if k % dtype.block_size() != 0 {
                continue;
            }
            let w = Tensor::randn(0f32, 0.02, (n, k), &Device::Cpu)?;
            let blocks = QTensor::quantize(&w, dtype)?;
            let copies = (BEYOND_CACHE / blocks.storage_size_in_bytes()).clamp(1, 256);
            let candle =
                (0..copies).map(|_| copy(&blocks).and_then(QMatMul::from_qtensor)).collect::<Result<Vec<_>>>()?;
            let moray = (0..copies).map(|_| layer(runtime, &blocks)).collect::<Result<Vec<_>>>()?;
            let one = ratio(&candle, &moray, 1, k, copies, rounds)?;
            let many = ratio(&candle[..1], &moray[..1], PROMPT, k, 1, rounds)?;
            println!("| {n} × {k} | {dtype:?} | {one} | {many} |");
        }
    }
    Ok(())
}

/// The same blocks at another address.
fn copy(blocks: &QTensor) -> Result<QTensor> {
    let storage = candle_core::quantized::QStorage::from_data(blocks.data()?, &Device::Cpu, blocks.dtype())?;
    QTensor::new(storage, blocks.shape().clone())
}

fn layer(runtime: &Runtime, blocks: &QTensor) -> Result<QuantizedLinear> {
    if blocks.dtype() != GgmlDType::Q4K {
        return QuantizedLinear::from_qtensor(runtime, blocks);
    }
    QuantizedLinear::quantize(runtime, &blocks.dequantize(&Device::Cpu)?, Format::per_group(32, Offset::F16))
}

/// candle's time over moray's for `calls` products of M tokens each, in turn.
fn ratio(
    candle: &[QMatMul],
    moray: &[QuantizedLinear],
    m: usize,
    k: usize,
    calls: usize,
    rounds: usize,
) -> Result<String> {
    let x = Tensor::randn(0f32, 1.0, (m, k), &Device::Cpu)?;
    let mut ratios = Vec::new();
    for round in 0..=rounds {
        let theirs = seconds(candle, &x, calls)?;
        let ours = seconds(moray, &x, calls)?;
        // the first is a rehearsal
        if round > 0 {
            ratios.push(theirs / ours);
        }
    }
    Ok(quartiles(ratios, "×"))
}

fn seconds(layers: &[impl Module], x: &Tensor, calls: usize) -> Result<f64> {
    let start = Instant::now();
    for call in 0..calls {
        black_box(layers[call % layers.len()].forward(x)?);
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Prints tokens a second of whole models, and the second's over the first's, round by round.
pub fn models(models: &mut [(&str, Forward<'_>); 2], rounds: usize) -> Result<()> {
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| 1000 + i * 37 % 40_000).collect();
    let mut speeds = [[vec![], vec![]], [vec![], vec![]]];
    for round in 0..=rounds {
        for ((_, forward), [prefill, decode]) in models.iter_mut().zip(&mut speeds) {
            let start = Instant::now();
            black_box(forward(&prompt, 0)?);
            let between = Instant::now();
            for position in PROMPT..PROMPT + DECODED {
                black_box(forward(&[1000], position)?);
            }
            let (first, second) = (between.duration_since(start).as_secs_f64(), between.elapsed().as_secs_f64());
            if round > 0 {
                prefill.push(PROMPT as f64 / first);
                decode.push(DECODED as f64 / second);
            }
        }
    }
    println!("\n| tokens a second | prefill {PROMPT} | decode at {PROMPT} |\n|---|---|---|");
    for ((name, _), [prefill, decode]) in models.iter().zip(&speeds) {
        println!("| {name} | {} | {} |", quartiles(prefill.clone(), ""), quartiles(decode.clone(), ""));
    }
    let over = |at: usize| {
        let ratios = speeds[1][at].iter().zip(&speeds[0][at]).map(|(ours, theirs)| ours / theirs).collect();
        quartiles(ratios, "×")
    };
    println!("| the second over the first | {} | {} |", over(0), over(1));
    Ok(())
}

/// Median (quartiles).
fn quartiles(mut values: Vec<f64>, unit: &str) -> String {
    values.sort_by(f64::total_cmp);
    let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!("{:.2}{unit} ({:.2}–{:.2})", at(2), at(1), at(3))
}
