//! Every CPU operation on threads of an engine's own: rayon's, which steal, and come late or not at all.

mod common;

use common::{Random, bits};
use moray::attention::{
    AttentionShape, Call, Heads, KvCache, KvDtype, KvPolicy, KvShape, Limits, Span, Workspace, attend, write_kv,
};
use moray::sparse_mlp::{self, Activation, ScoreOn, Selection, Shape, Weights, forward};
use moray::threads::Pool;
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};
use moray::{Cpu, Isa};

/// A pool of rayon's.
struct Rayon(rayon::ThreadPool);

impl Pool for Rayon {
    fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    fn run(&self, job: &(dyn Fn() + Sync)) {
        self.0.broadcast(|_| job());
    }
}

fn on_rayon(threads: usize) -> Cpu {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    Cpu::on(Rayon(pool), Isa::detect()).unwrap()
}

/// The bits of an operation's result on one thread of moray's, and on pools of rayon's, from several callers at once.
fn compare(operation: impl Fn(&Cpu) -> Vec<f32> + Sync) {
    let expected = bits(&operation(&Cpu::new(1, Isa::detect()).unwrap()));
    for threads in [1, 2, 5] {
        let cpu = on_rayon(threads);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..5).for_each(|_| assert_eq!(bits(&operation(&cpu)), expected, "{threads} threads")));
            }
        });
    }
}

#[test]
fn linear_on_an_engines_threads_matches_one_thread() {
    let (m, n, k) = (5, 200, 256);
    let mut random = Random::new(11);
    let (w, x) = (random.weights(n * k, 1.0), random.weights(m * k, 1.0));
    let weight = PackedWeight::pack(&quantize(&w, n, k, Format::per_group(64, Offset::F16)).unwrap());
    compare(|cpu| {
        let (mut activations, mut y) = (Activations::default(), vec![0.0; m * n]);
        activations.quantize(cpu, &x, m, k).unwrap();
        linear(cpu, &weight, &activations, Epilogue::default(), &mut y).unwrap();
        y
    });
}

#[test]
fn sparse_mlp_on_an_engines_threads_matches_one_thread() {
    let shape = Shape { d_model: 128, d_ff: 480, activation: Activation::Silu };
    let (elems, tokens) = (shape.d_model * shape.d_ff, 4);
    let mut random = Random::new(12);
    let [gate, up, down] = [(); 3].map(|()| random.weights(elems, 0.1));
    let x = random.weights(tokens * shape.d_model, 1.0);
    let four_bit = |w: &[f32], n, k| quantize(w, n, k, Format::per_group(32, Offset::None)).unwrap();
    let (d, f) = (shape.d_model, shape.d_ff);
    let quantized = [four_bit(&gate, f, d), four_bit(&up, f, d), four_bit(&down, d, f)];
    let score = sparse_mlp::Score::plain(ScoreOn::Hidden);
    for weights in [
        Weights::new(shape, &gate, &up, &down).unwrap(),
        Weights::from_quantized(shape, &quantized[0], &quantized[1], &quantized[2]).unwrap(),
    ] {
        for selection in [Selection::All, Selection::TopK { score, k: 100 }] {
            compare(|cpu| {
                let mut workspace = sparse_mlp::Workspace::new(&weights, tokens).unwrap();
                let mut y = vec![0.0; x.len()];
                forward(cpu, &weights, &x, &selection, None, &mut y, &mut workspace).unwrap();
                y
            });
        }
    }
}

#[test]
fn attention_on_an_engines_threads_matches_one_thread() {
    let shape = AttentionShape::new(4, 2, 32).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 32, capacity: 700 };
    let mut random = Random::new(13);
    let (before, last) = (Span { slot: 0, start: 0, len: 600 }, Span { slot: 0, start: 600, len: 1 });
    let [k, v] = [(); 2].map(|()| random.weights(601 * 64, 1.0));
    let q = random.weights(601 * 128, 1.0);
    let limits = Limits { max_rows: 601, max_spans: 1, capacity: 700 };
    compare(|cpu| {
        let mut cache = KvCache::new(kv, KvDtype::F16).unwrap();
        let mut workspace = Workspace::new(cpu, shape, limits).unwrap();
        let mut out = vec![0.0; q.len()];
        let mut row = 0;
        // a prompt, in tiles, then a token, whose context is divided
        for span in [before, last] {
            let call = Call { shape, layer: 0, spans: &[span], heads: Heads::All };
            let (kv, rows) = (row * 64..(row + span.len) * 64, row * 128..(row + span.len) * 128);
            write_kv(cpu, &call, KvPolicy::WriteAll, None, &k[kv.clone()], &v[kv], &mut cache).unwrap();
            attend(cpu, &call, &q[rows.clone()], &cache, &mut out[rows], &mut workspace).unwrap();
            row += span.len;
        }
        out
    });
}
