//! Sparse MLP on SmolLM2-135M's shape, 30 layers in turn so that weights come from memory. Ids:
//! sparse_mlp/weights/smollm2-135m/selection/mM. One iteration is one layer.
//!
//! Before them two tables of one token over 4-bit weights, one of that shape and one of LLaMA-7B's: every selection in turn,
//! layer after layer, so that whatever else the machine does falls on all of them; the lower quartile counts. The rows "lines
//! of …" only load a byte of every cache line that the weights of a selection lie in, by the same threads in the same order:
//! what the memory allows to such rows, whatever is computed with them.

mod common;

use common::{LINE_BYTES, copies, load_lines, numbers, read_bandwidth, scattered, weight_memory};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use moray::Cpu;
use moray::sparse_mlp::{
    Activation, Gathered, IndexList, Matrix, Score, ScoreOn, Selection, Shape, Weights, Workspace, activate_product,
    bytes_read, forward,
};
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};
use std::hint::black_box;
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { d_model: 576, d_ff: 1536, activation: Activation::Silu };
const LLAMA_1B: Shape = Shape { d_model: 2048, d_ff: 8192, activation: Activation::Silu };
const LLAMA_7B: Shape = Shape { d_model: 4096, d_ff: 11008, activation: Activation::Silu };

fn weights(shape: Shape, four_bit: bool) -> Weights {
    let Shape { d_model, d_ff, .. } = shape;
    let [gate, up, down] = [1, 2, 3].map(|seed| numbers(d_ff * d_model, seed));
    if four_bit {
        let format = Format::per_group(32, Offset::F16);
        let quantized = |w: &[f32], n, k| quantize(w, n, k, format).expect("a valid shape");
        let (gate, up) = (quantized(&gate, d_ff, d_model), quantized(&up, d_ff, d_model));
        Weights::from_quantized(shape, &gate, &up, &quantized(&down, d_model, d_ff)).expect("matching sizes")
    } else {
        let half = |w: &[f32]| w.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
        Weights::new(shape, &half(&gate), &half(&up), &half(&down)).expect("matching sizes")
    }
}

fn sparse_mlp(c: &mut Criterion) {
    let cpu = Cpu::detect();
    let lists = [0.5, 0.25, 0.1].map(|kept| scattered(SHAPE.d_ff, kept));
    let list = |i: usize| Selection::List(IndexList::new(&lists[i], SHAPE.d_ff).expect("a sorted list"));
    let gate = Score::plain(ScoreOn::Gate);
    let half = SHAPE.d_ff / 2;
    let selections = [
        ("dense", Selection::All),
        ("list-0.5", list(0)),
        ("list-0.25", list(1)),
        ("list-0.1", list(2)),
        ("topk-gate-0.5", Selection::TopK { score: gate, k: half }),
        ("topk-hidden-0.5", Selection::TopK { score: Score::plain(ScoreOn::Hidden), k: half }),
    ];
    for (name, four_bit) in [("q4-g32-offset", true), ("f16", false)] {
        let layer = weights(SHAPE, four_bit);
        let layers = vec![layer; copies(weights(SHAPE, four_bit).bytes()).min(240)];
        let mut group = c.benchmark_group(format!("sparse_mlp/{name}/smollm2-135m"));
        group.sample_size(30).warm_up_time(std::time::Duration::from_millis(150));
        group.measurement_time(std::time::Duration::from_millis(600));
        for (form, selection) in &selections {
            for m in [1, 4, 512] {
                if m > 1 && *form != "dense" && *form != "list-0.5" {
                    continue;
                }
                let x = numbers(m * SHAPE.d_model, 5);
                let mut y = vec![0.0; x.len()];
                let mut workspace = Workspace::new(&layers[0], m).expect("at least one token");
                forward(&cpu, &layers[0], &x, selection, None, &mut y, &mut workspace).expect("matching sizes");
                assert!(y.iter().all(|y| y.is_finite()) && y.iter().any(|&y| y != 0.0));
                let bytes = bytes_read(&layers[0], selection, workspace.kept());
                group.throughput(Throughput::Bytes(bytes as u64));
                let mut turn = layers.iter().cycle();
                group.bench_function(BenchmarkId::new(*form, format!("m{m}")), |b| {
                    b.iter(|| {
                        let layer = turn.next().expect("a cycle has no end");
                        forward(&cpu, layer, &x, selection, None, &mut y, &mut workspace).expect("matching sizes");
                    });
                });
            }
        }
        group.finish();
    }
}

/// The dense MLP as two packed matrices, which is what runs where nothing is selected.
#[derive(Clone)]
struct Packed {
    shape: Shape,
    gate_up: PackedWeight,
    down: PackedWeight,
}

impl Packed {
    fn new(shape: Shape) -> Packed {
        let Shape { d_model, d_ff, .. } = shape;
        let packed = |n, k, seed| {
            let format = Format::per_group(32, Offset::F16);
            PackedWeight::pack(&quantize(&numbers(n * k, seed), n, k, format).expect("a valid shape"))
        };
        Packed { shape, gate_up: packed(2 * d_ff, d_model, 1), down: packed(d_model, d_ff, 3) }
    }

    fn forward(&self, cpu: &Cpu, x: &[f32], y: &mut [f32], rows: &mut [f32], int8: &mut Activations) {
        let Shape { d_model, d_ff, activation, .. } = self.shape;
        int8.quantize(cpu, x, 1, d_model).expect("finite inputs");
        linear(cpu, &self.gate_up, int8, Epilogue::default(), rows).expect("matching sizes");
        let (gate, hidden) = rows.split_at_mut(d_ff);
        activate_product(cpu, activation, gate, hidden).expect("finite activations");
        int8.quantize(cpu, hidden, 1, d_ff).expect("finite activations");
        linear(cpu, &self.down, int8, Epilogue::default(), y).expect("matching sizes");
    }
}

/// Loads what the neurons of `list` take of a layer of groups of 32 with offsets: gate and up records, blocks of neurons
/// shared among threads, then the codes of down, of which each thread has its columns.
fn touch(cpu: &Cpu, shape: Shape, layer: &[u8], list: &[u32]) {
    let Shape { d_model, d_ff, .. } = shape;
    let (record, row) = (d_model / 2 + 4 * (d_model / 32), d_model / 2);
    cpu.team().for_ranges(list.len(), list.len().div_ceil(4 * cpu.threads()), |range| {
        for matrix in 0..2 {
            let lines = |&j: &u32| load_lines(layer, (matrix * d_ff + j as usize) * record, record);
            black_box(list[range.clone()].iter().map(lines).sum::<u64>());
        }
    });
    let share = row / cpu.threads();
    cpu.team().run(|member| {
        let lines = |&j: &u32| load_lines(layer, 2 * d_ff * record + j as usize * row + member * share, share);
        black_box(list.iter().map(lines).sum::<u64>());
    });
}

/// Copies of a list's neurons, which give what the list gives.
fn gathered(cpu: &Cpu, layer: &Weights, list: &[u32]) -> Gathered {
    let list = IndexList::new(list, layer.shape().d_ff).expect("a sorted list");
    let mut gathered = Gathered::with_capacity(layer, list.indices().len()).expect("all neurons");
    gathered.gather(cpu, layer, list).expect("the same weights");
    let (x, mut workspace) = (numbers(layer.shape().d_model, 5), Workspace::new(layer, 1).expect("at least one token"));
    let mut run = |weights: &Weights, selection| {
        let mut y = vec![0.0; x.len()];
        forward(cpu, weights, &x, &selection, None, &mut y, &mut workspace).expect("matching sizes");
        y
    };
    assert_eq!(run(gathered.weights(), Selection::All), run(layer, Selection::List(list)));
    gathered
}

/// Prints how long each selection takes beside the whole layer, and how many bytes it reads.
fn ratios(name: &str, shape: Shape, rounds: usize) {
    let cpu = Cpu::detect();
    let layer = weights(shape, true);
    let bytes_of_layer = layer.bytes();
    let count = copies(bytes_of_layer);
    let tiles =
        |matrices: &[Matrix]| vec![layer.clone().with_packed_rows(&cpu, matrices).expect("rows of neurons"); count];
    // by neuron, and with rows in tiles of those matrices that a selection by a score reads whole
    let [layers, gates, both] = [tiles(&[]), tiles(&[Matrix::Gate]), tiles(&[Matrix::Gate, Matrix::Up])];
    let packed = vec![Packed::new(shape); layers.len()];
    let raw = vec![weight_memory(bytes_of_layer + LINE_BYTES); layers.len()];
    let every: Vec<u32> = (0..shape.d_ff as u32).collect();
    let lists = [0.5, 0.25, 0.1].map(|kept| scattered(shape.d_ff, kept));
    let list = |i: usize| Selection::List(IndexList::new(&lists[i], shape.d_ff).expect("a sorted list"));
    let top = |on| Selection::TopK { score: Score::plain(on), k: shape.d_ff / 2 };
    let forms = [
        ("all, by neuron", &layers, Selection::All),
        ("list 0.5", &layers, list(0)),
        ("list 0.25", &layers, list(1)),
        ("list 0.1", &layers, list(2)),
        ("top-k by gate 0.5", &layers, top(ScoreOn::Gate)),
        ("… gate in tiles", &gates, top(ScoreOn::Gate)),
        ("top-k by product 0.5", &layers, top(ScoreOn::Hidden)),
        ("… gate and up in tiles", &both, top(ScoreOn::Hidden)),
        ("all, gate and up in tiles", &both, Selection::All),
    ];
    let others = ["list 0.5, gathered", "all, packed matrices", "lines of all", "lines of list 0.5"];
    let gathered: Vec<Gathered> = layers.iter().map(|layer| gathered(&cpu, layer, &lists[0])).collect();
    let (x, mut y) = (numbers(shape.d_model, 5), vec![0.0; shape.d_model]);
    let mut workspace = Workspace::new(&layers[0], 1).expect("at least one token");
    let (mut rows, mut int8) = (vec![0.0; 2 * shape.d_ff], Activations::with_capacity(1, shape.d_ff));
    let mut times = vec![Vec::with_capacity(rounds); forms.len() + others.len()];
    let mut bytes = vec![0; forms.len()];
    for round in 0..rounds {
        let first = round * (forms.len() + 1);
        for (i, (_, layers, selection)) in forms.iter().enumerate() {
            let layer = &layers[(first + i) % layers.len()];
            let start = Instant::now();
            forward(&cpu, layer, &x, selection, None, &mut y, &mut workspace).expect("matching sizes");
            times[i].push(start.elapsed());
            bytes[i] = bytes_read(layer, selection, workspace.kept());
        }
        let at = round % packed.len();
        let start = Instant::now();
        forward(&cpu, gathered[at].weights(), &x, &Selection::All, None, &mut y, &mut workspace)
            .expect("the same sizes");
        times[forms.len()].push(start.elapsed());
        let start = Instant::now();
        packed[at].forward(&cpu, &x, &mut y, &mut rows, &mut int8);
        times[forms.len() + 1].push(start.elapsed());
        for (i, list) in [&every, &lists[0]].into_iter().enumerate() {
            let start = Instant::now();
            touch(&cpu, shape, raw[(2 * round + i) % raw.len()].data(), list);
            times[forms.len() + 2 + i].push(start.elapsed());
        }
    }
    let quartile = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 4].as_secs_f64() * 1e6
    };
    let times: Vec<f64> = times.iter_mut().map(quartile).collect();
    let packed = times[forms.len() + 1];
    println!("\n{name}, one token, 4-bit groups of 32 with offsets, lower quartile of {rounds}, all in turn:\n");
    println!("| neurons | µs | × packed | MB |\n|---|---:|---:|---:|");
    for ((name, ..), (time, bytes)) in forms.iter().zip(times.iter().zip(&bytes)) {
        println!("| {name} | {time:.1} | {:.2} | {:.2} |", time / packed, *bytes as f64 / 1e6);
    }
    for (name, time) in others.iter().zip(&times[forms.len()..]) {
        println!("| {name} | {time:.1} | {:.2} | |", time / packed);
    }
}

fn tables(_: &mut Criterion) {
    let cpu = Cpu::detect();
    println!("{} threads, {}, reads {:.1} GB/s", cpu.threads(), cpu.isa().name(), read_bandwidth(&cpu) / 1e9);
    ratios("SmolLM2-135M", SHAPE, 600);
    ratios("Llama-3.2-1B", LLAMA_1B, 100);
    ratios("LLaMA-7B", LLAMA_7B, 30);
}

criterion_group!(benches, tables, sparse_mlp);
criterion_main!(benches);
