//! W4A8 on a CUDA device: microseconds, bytes and operations a second, beside a copy measured in the same run.
//!
//! `cargo bench --features cuda --bench cuda_w4a8`. Every row is checked against the CPU before it is timed. Calls are captured
//! in a graph that goes round over more weights than the second-level cache holds three times, and the graph is timed by
//! device events. `-- --test` takes small shapes and times nothing worth reading: it shows that the program works.

use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaSlice};
use moray::device::cudarc;
use moray::w4a8::cuda::{Activations, Epilogue, Weight, Workspace, linear};
use moray::w4a8::{self, Mode, PackedWeight, quantize};
use moray::{Cpu, Device, Result};

/// Model, layer, (K, N).
const SHAPES: [(&str, &str, usize, usize); 8] = [
    ("llama-2-7b", "qkv", 4096, 12288),
    ("llama-2-7b", "gate_up", 4096, 22016),
    ("llama-2-7b", "down", 11008, 4096),
    ("llama-3-8b", "qkv", 4096, 6144),
    ("llama-3-8b", "o", 4096, 4096),
    ("llama-3-8b", "gate_up", 4096, 28672),
    ("llama-3-8b", "down", 14336, 4096),
    ("llama-2-70b", "o", 8192, 8192),
];

const TOKENS: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 512];

const MODES: [(&str, Mode); 5] = [
    ("per-channel", Mode::PerChannel),
    ("g128", Mode::PerGroup { group_size: 128, offset: false }),
    ("g128-offset", Mode::PerGroup { group_size: 128, offset: true }),
    ("two-level-128", Mode::TwoLevel { group_size: 128 }),
    ("w8", Mode::W8),
];

/// Rows of a weight that differ.
const DISTINCT_ROWS: usize = 128;

/// Replays of which the median counts.
const REPLAYS: usize = 15;

/// Calls in a graph, at least.
const CALLS: usize = 20;

fn main() -> Result<()> {
    let test = std::env::args().any(|argument| argument == "--test");
    let device = Device::new(0)?;
    println!("device: {}, compute capability {:?}", device.name(), device.capability());
    let copy = copy_bytes_per_second(&device, if test { 1 << 20 } else { 1 << 30 })?;
    println!("copy: {:.0} GB/s, read and written", copy / 1e9);
    println!("| id | µs | GB/s | % of copy | TOPS |\n|---|---|---|---|---|");
    let shapes: &[_] = if test { &[("tiny", "o", 256, 128)] } else { &SHAPES };
    for &(model, layer, k, n) in shapes {
        for (name, mode) in MODES {
            // rows repeat: how long a product takes does not depend on it, and how long the preparation takes does
            let rows = quantize(&random(DISTINCT_ROWS * k, 1), DISTINCT_ROWS, k, mode)?;
            let order: Vec<usize> = (0..n).map(|row| row % DISTINCT_ROWS).collect();
            let packed = PackedWeight::pack(&rows.permute_rows(&order)?);
            let weights = rotated(&device, &packed, test)?;
            let tokens: &[usize] = if test { &[1, 17] } else { &TOKENS };
            for &m in tokens {
                let row = Row { id: format!("w4a8/{name}/{model}.{layer}/m{m}"), m, n, k };
                row.run(&device, &packed, &weights, copy, test)?;
            }
        }
    }
    Ok(())
}

/// Copies of a weight: together three times the second-level cache, so that none is still there when its turn comes.
fn rotated(device: &Device, packed: &PackedWeight, test: bool) -> Result<Vec<Weight>> {
    let cache = device.context().attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).unwrap_or(0);
    let copies = if test { 2 } else { (3 * cache as usize).div_ceil(packed.bytes()).max(2) };
    (0..copies).map(|_| Weight::upload(device, packed)).collect()
}

struct Row {
    id: String,
    m: usize,
    n: usize,
    k: usize,
}

impl Row {
    fn run(&self, device: &Device, packed: &PackedWeight, weights: &[Weight], copy: f64, test: bool) -> Result<()> {
        let (m, n, k, copies) = (self.m, self.n, self.k, weights.len());
        let host = random(m * k, 2);
        let x = device.upload(&host)?;
        let mut activations = Activations::with_capacity(device, m, k)?;
        activations.quantize(device, &x.as_view(), m, k)?;
        let mut workspace = Workspace::new(device)?;
        let mut y = device.zeros::<f32>(m * n)?;

        let mut call = |weight: &Weight, y: &mut CudaSlice<f32>| {
            linear(device, weight, &activations, Epilogue::default(), &mut y.as_view_mut(), &mut workspace)
        };
        call(&weights[0], &mut y)?;
        self.verify(packed, &host, &device.download(&y)?)?;
        let calls = if test { 2 } else { CALLS.next_multiple_of(copies) };
        let graph = capture(device, || (0..calls).try_for_each(|i| call(&weights[i % copies], &mut y)))?;
        let seconds = median_seconds(device, &graph, if test { 1 } else { REPLAYS })? / calls as f64;
        // weights, codes with their scales, results
        let bytes = (packed.bytes() + m * (k + 4) + 4 * m * n) as f64;
        let operations = 2.0 * (m * n * k) as f64;
        println!(
            "| {} | {:.2} | {:.0} | {:.0}% | {:.1} |",
            self.id,
            seconds * 1e6,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / copy,
            operations / seconds / 1e12
        );
        Ok(())
    }

    /// Compares with the CPU, bit for bit, the first few tokens.
    fn verify(&self, packed: &PackedWeight, x: &[f32], y: &[f32]) -> Result<()> {
        let (m, n, k) = (self.m.min(4), self.n, self.k);
        let (cpu, mut activations) = (Cpu::detect(), w4a8::Activations::default());
        activations.quantize(&cpu, &x[..m * k], m, k)?;
        let mut expected = vec![0.0f32; m * n];
        w4a8::linear(&cpu, packed, &activations, w4a8::Epilogue::default(), &mut expected)?;
        let same = expected.iter().zip(y).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{}: expected the CPU's bits", self.id);
        Ok(())
    }
}

/// Numbers in [−1, 1): zeros would run faster than a model's.
fn random(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn capture(device: &Device, mut calls: impl FnMut() -> Result<()>) -> Result<CudaGraph> {
    let stream = device.stream();
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture begins");
    let captured = calls();
    let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).expect("a capture ends");
    captured.map(|()| graph.expect("a graph"))
}

fn median_seconds(device: &Device, graph: &CudaGraph, replays: usize) -> Result<f64> {
    let stream = device.stream();
    let event = || stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("an event");
    graph.launch().expect("the graph runs");
    let mut times = Vec::new();
    for _ in 0..replays {
        let start = event();
        graph.launch().expect("the graph runs");
        let end = event();
        device.synchronize()?;
        times.push(f64::from(start.elapsed_ms(&end).expect("both have passed")) / 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// What a copy moves, bytes read and bytes written.
fn copy_bytes_per_second(device: &Device, bytes: usize) -> Result<f64> {
    let source = device.zeros::<u8>(bytes)?;
    let mut target = device.zeros::<u8>(bytes)?;
    let graph = capture(device, || device.copy(&source, &mut target))?;
    Ok(2.0 * bytes as f64 / median_seconds(device, &graph, 5)?)
}
