//! One token over matrices that are held by input, with thresholds that keep shares of its inputs, beside the same numbers as they
//! are held where nothing is selected: packed in 4 bits, rows of outputs in 16, and beside a loop that only touches what is read. Weights come
//! from memory.
//!
//! Every form has its turn in each round, so that whatever else the machine does falls on all of them; the lower quartile counts.

mod common;

use common::{LINE_BYTES, copies, load_lines, numbers, read_bandwidth, scattered, weight_memory};
use criterion::{Criterion, criterion_group, criterion_main};
use moray::input_sparse::{Weight, Workspace};
use moray::llama::DenseWeight;
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, quantize};
use moray::{Cpu, DenseType, input_sparse, w4a8};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// (layer, K, N)
const SHAPES: [(&str, usize, usize); 8] = [
    ("SmolLM2-135M qkv", 576, 960),
    ("SmolLM2-135M o", 576, 576),
    ("SmolLM2-135M gate_up", 576, 3072),
    ("SmolLM2-135M down", 1536, 576),
    ("Llama-3.2-1B qkv", 2048, 3072),
    ("Llama-3.2-1B o", 2048, 2048),
    ("Llama-3.2-1B gate_up", 2048, 16_384),
    ("Llama-3.2-1B down", 8192, 2048),
];

/// Shares of the inputs that are kept.
const KEPT: [f32; 3] = [1.0, 0.7, 0.5];

/// What a form does once, with the copy of its weights of this number, and the bytes that it reads.
struct Form<'a> {
    name: String,
    run: Box<dyn FnMut(usize, &mut [f32]) + 'a>,
    bytes: usize,
}

/// Products by input with thresholds that keep each of [`KEPT`].
fn by_input<'a>(cpu: &'a Cpu, bits: &str, weights: &'a [Weight], x: &'a [f32]) -> Vec<Form<'a>> {
    let form = |(index, kept): (usize, f32)| {
        // x is even over −1..1
        let (threshold, mut workspace) = (1.0 - kept, Workspace::default());
        let run = move |turn: usize, y: &mut [f32]| {
            // no two forms of a round read the same copy, which the cache would still hold
            let weight = &weights[(KEPT.len() * turn + index) % weights.len()];
            input_sparse::linear(cpu, weight, x, threshold, Epilogue::default(), y, &mut workspace)
                .expect("sizes match");
        };
        let bytes = weights[0].bytes_read(f64::from(kept));
        Form { name: format!("{bits}, by input, {kept} kept"), run: Box::new(run), bytes }
    };
    KEPT.into_iter().enumerate().map(form).collect()
}

/// What products by input read if 0.7 of the inputs are kept, and nothing else: a byte of each line of the kept rows, which threads share, and of
/// each line of the scales. No product that reads them takes less.
fn lines<'a>(cpu: &'a Cpu, bits: &str, weight: &Weight, raw: &'a [DenseWeight], row: usize) -> Form<'a> {
    let (k, list) = (weight.k(), scattered(weight.k(), 0.7));
    let scales = weight.bytes_read(0.0);
    let bytes = weight.bytes_read(list.len() as f64 / k as f64);
    let run = move |turn: usize, y: &mut [f32]| {
        let data = raw[turn % raw.len()].data();
        cpu.team().for_ranges(list.len(), list.len().div_ceil(4 * cpu.threads()), |range| {
            black_box(list[range].iter().map(|&j| load_lines(data, j as usize * row, row)).sum::<u64>());
        });
        cpu.team().for_ranges(scales, scales.div_ceil(4 * cpu.threads()).max(LINE_BYTES), |range| {
            black_box(load_lines(data, k * row + range.start, range.len()));
        });
        y.fill(1.0);
    };
    Form { name: format!("{bits}, lines of 0.7"), run: Box::new(run), bytes }
}

/// Prints how long each form takes of one layer's matrix, in turn.
fn table(cpu: &Cpu, (layer, k, n): (&str, usize, usize), rounds: usize) {
    let (w, x) = (numbers(n * k, 1), numbers(k, 2));
    let quantized = quantize(&w, n, k, Format::per_group(32, Offset::F16)).expect("a valid shape");
    let copies = copies(n * k / 2);
    let packed = vec![PackedWeight::pack(&quantized); copies];
    let four = vec![Weight::from_quantized(&quantized).expect("groups of 32"); copies];
    let dense = vec![DenseWeight::from_f32(&w, n, k, DenseType::F16).expect("a valid shape"); copies.div_ceil(2)];
    let sixteen = vec![Weight::from_f32(&w, n, k, DenseType::F16).expect("a valid shape"); copies.div_ceil(2)];
    let raw = |weights: &[Weight]| vec![weight_memory(weights[0].bytes_read(1.0) + LINE_BYTES); weights.len()];
    let (four_lines, sixteen_lines) = (raw(&four), raw(&sixteen));
    let mut int8 = Activations::with_capacity(1, k);
    let four_bits = |turn: usize, y: &mut [f32]| {
        int8.quantize(cpu, &x, 1, k).expect("finite numbers");
        w4a8::linear(cpu, &packed[turn % copies], &int8, Epilogue::default(), y).expect("sizes match");
    };
    let whole = |turn: usize, y: &mut [f32]| {
        dense[turn % dense.len()].linear(cpu, &x, Epilogue::default(), y).expect("sizes match");
    };
    let mut forms = vec![Form { name: "4 bits, packed".into(), run: Box::new(four_bits), bytes: packed[0].bytes() }];
    forms.extend(by_input(cpu, "4 bits", &four, &x));
    forms.push(lines(cpu, "4 bits", &four[0], &four_lines, n / 2));
    forms.push(Form { name: "16 bits, whole".into(), run: Box::new(whole), bytes: dense[0].bytes() });
    forms.extend(by_input(cpu, "16 bits", &sixteen, &x));
    forms.push(lines(cpu, "16 bits", &sixteen[0], &sixteen_lines, 2 * n));
    let mut y = vec![0.0; n];
    let mut times = vec![Vec::with_capacity(rounds); forms.len()];
    for round in 0..rounds {
        for (form, times) in forms.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (form.run)(round, &mut y);
            times.push(start.elapsed());
            assert!(y.iter().all(|y| y.is_finite()) && y.iter().any(|&y| y != 0.0), "{}", form.name);
        }
    }
    let quartile = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 4].as_secs_f64() * 1e6
    };
    let times: Vec<f64> = times.iter_mut().map(quartile).collect();
    println!("\n{layer}, K {k}, N {n}, one token, lower quartile of {rounds}, all in turn:\n");
    println!("| form | µs | GB/s | × its whole |\n|---|---:|---:|---:|");
    for (i, (form, time)) in forms.iter().zip(&times).enumerate() {
        let whole = times[i / (2 + KEPT.len()) * (2 + KEPT.len())];
        println!("| {} | {time:.1} | {:.1} | {:.2} |", form.name, form.bytes as f64 / time / 1e3, time / whole);
    }
}

fn tables(_: &mut Criterion) {
    let cpu = Cpu::detect();
    println!("{} threads, {}, reads {:.1} GB/s", cpu.threads(), cpu.isa().name(), read_bandwidth(&cpu) / 1e9);
    for shape in SHAPES {
        table(&cpu, shape, 200);
    }
}

criterion_group!(benches, tables);
criterion_main!(benches);
