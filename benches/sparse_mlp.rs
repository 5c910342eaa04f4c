//! Sparse MLP on SmolLM2-135M's shape, 30 layers in turn so that weights come from memory. Ids:
//! sparse_mlp/weights/smollm2-135m/selection/mM. One iteration is one layer.
//!
//! Before them a table of one token over 4-bit weights: every selection in turn, layer after layer, so that whatever else
//! the machine does falls on all of them; the lower quartile counts.

mod common;

use common::{copies, numbers, read_bandwidth};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use moray::Cpu;
use moray::sparse_mlp::{
    Activation, IndexList, Score, ScoreOn, Selection, Shape, Weights, Workspace, activate_product, bytes_read, forward,
};
use moray::w4a8::{Activations, Epilogue, Mode, PackedWeight, linear, quantize};
use std::time::{Duration, Instant};

const SHAPE: Shape = Shape { d_model: 576, d_ff: 1536, activation: Activation::Silu };

fn weights(four_bit: bool) -> Weights {
    let Shape { d_model, d_ff, .. } = SHAPE;
    let [gate, up, down] = [1, 2, 3].map(|seed| numbers(d_ff * d_model, seed));
    if four_bit {
        let mode = Mode::PerGroup { group_size: 32, offset: true };
        let quantized = |w: &[f32], n, k| quantize(w, n, k, mode).expect("a valid shape");
        let (gate, up) = (quantized(&gate, d_ff, d_model), quantized(&up, d_ff, d_model));
        Weights::from_quantized(SHAPE, &gate, &up, &quantized(&down, d_model, d_ff)).expect("matching sizes")
    } else {
        let half = |w: &[f32]| w.iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
        Weights::new(SHAPE, &half(&gate), &half(&up), &half(&down)).expect("matching sizes")
    }
}

/// A scattered list of the given share of the neurons.
fn scattered(kept: f32) -> Vec<u32> {
    let scores = numbers(SHAPE.d_ff, 9);
    let mut order: Vec<u32> = (0..SHAPE.d_ff as u32).collect();
    order.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    order.truncate((SHAPE.d_ff as f32 * kept) as usize);
    order.sort_unstable();
    order
}

fn sparse_mlp(c: &mut Criterion) {
    let cpu = Cpu::detect();
    println!("{} threads, {}, reads {:.1} GB/s", cpu.threads(), cpu.isa().name(), read_bandwidth(&cpu) / 1e9);
    let lists = [0.5, 0.25, 0.1].map(scattered);
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
        let layer = weights(four_bit);
        let layers = vec![layer; copies(weights(four_bit).bytes()).min(240)];
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

/// Rounds over all selections for the table of ratios.
const ROUNDS: usize = 600;

/// The dense MLP as two packed matrices, which is what runs where nothing is selected.
#[derive(Clone)]
struct Packed {
    gate_up: PackedWeight,
    down: PackedWeight,
}

impl Packed {
    fn new() -> Packed {
        let Shape { d_model, d_ff, .. } = SHAPE;
        let packed = |n, k, seed| {
            let mode = Mode::PerGroup { group_size: 32, offset: true };
            PackedWeight::pack(&quantize(&numbers(n * k, seed), n, k, mode).expect("a valid shape"))
        };
        Packed { gate_up: packed(2 * d_ff, d_model, 1), down: packed(d_model, d_ff, 3) }
    }

    fn forward(&self, cpu: &Cpu, x: &[f32], y: &mut [f32], rows: &mut [f32], int8: &mut Activations) {
        let Shape { d_model, d_ff, activation } = SHAPE;
        int8.quantize(cpu, x, 1, d_model).expect("finite inputs");
        linear(cpu, &self.gate_up, int8, Epilogue::default(), rows).expect("matching sizes");
        let (gate, hidden) = rows.split_at_mut(d_ff);
        activate_product(cpu, activation, gate, hidden).expect("finite activations");
        int8.quantize(cpu, hidden, 1, d_ff).expect("finite activations");
        linear(cpu, &self.down, int8, Epilogue::default(), y).expect("matching sizes");
    }
}

fn ratios(_: &mut Criterion) {
    let cpu = Cpu::detect();
    let layer = weights(true);
    let layers = vec![layer; copies(weights(true).bytes())];
    let packed = vec![Packed::new(); layers.len()];
    let lists = [0.5, 0.25, 0.1].map(scattered);
    let list = |i: usize| Selection::List(IndexList::new(&lists[i], SHAPE.d_ff).expect("a sorted list"));
    let half = SHAPE.d_ff / 2;
    let top = |on| Selection::TopK { score: Score::plain(on), k: half };
    let forms = [
        ("all, by neuron", Selection::All),
        ("list 0.5", list(0)),
        ("list 0.25", list(1)),
        ("list 0.1", list(2)),
        ("top-k by gate 0.5", top(ScoreOn::Gate)),
        ("top-k by product 0.5", top(ScoreOn::Hidden)),
    ];
    let (x, mut y) = (numbers(SHAPE.d_model, 5), vec![0.0; SHAPE.d_model]);
    let mut workspace = Workspace::new(&layers[0], 1).expect("at least one token");
    let (mut rows, mut int8) = (vec![0.0; 2 * SHAPE.d_ff], Activations::with_capacity(1, SHAPE.d_ff));
    let mut times = vec![Vec::with_capacity(ROUNDS); forms.len() + 1];
    let mut bytes = [0; 6];
    for round in 0..ROUNDS {
        for (i, (_, selection)) in forms.iter().enumerate() {
            let layer = &layers[(round * (forms.len() + 1) + i) % layers.len()];
            let start = Instant::now();
            forward(&cpu, layer, &x, selection, None, &mut y, &mut workspace).expect("matching sizes");
            times[i].push(start.elapsed());
            bytes[i] = bytes_read(layer, selection, workspace.kept());
        }
        let start = Instant::now();
        packed[round % packed.len()].forward(&cpu, &x, &mut y, &mut rows, &mut int8);
        times[forms.len()].push(start.elapsed());
    }
    let quartile = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 4].as_secs_f64() * 1e6
    };
    let times: Vec<f64> = times.iter_mut().map(quartile).collect();
    println!("one token, 4-bit groups of 32 with offsets, lower quartile of {ROUNDS}, all in turn:");
    println!("{:<22} {:>8} {:>11} {:>15}", "", "µs", "× all", "× all's bytes");
    for ((name, _), (time, bytes_of)) in forms.iter().zip(times.iter().zip(bytes)) {
        println!("{name:<22} {time:8.1} {:11.2} {:15.2}", time / times[0], bytes_of as f64 / bytes[0] as f64);
    }
    println!("{:<22} {:8.1} {:11.2}", "all, packed matrices", times[6], times[6] / times[0]);
}

criterion_group!(benches, ratios, sparse_mlp);
criterion_main!(benches);
