//! Sparse MLP on SmolLM2-135M's shape, 30 layers in turn so that weights come from memory. Ids:
//! sparse_mlp/weights/smollm2-135m/selection/mM. One iteration is one layer.

mod common;

use common::{copies, numbers, read_bandwidth};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use moray::Cpu;
use moray::sparse_mlp::{
    Activation, IndexList, Score, ScoreOn, Selection, Shape, Weights, Workspace, bytes_read, forward,
};
use moray::w4a8::{Mode, quantize};

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

criterion_group!(benches, sparse_mlp);
criterion_main!(benches);
