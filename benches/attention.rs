//! Attention of the SmolLM2-135M shape (9 query heads, 3 KV heads, head_dim 64): decode by context, prefill, head skipping.
//!
//! Every case is checked against f64 before it is timed. The caches of 30 layers take turns, so that a decode step finds
//! its K and V where a forward pass would.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moray::Cpu;
use moray::attention::*;

const N_LAYERS: usize = 30;
const CAPACITY: usize = 2048;

struct Bench {
    cpu: Cpu,
    shape: AttentionShape,
    cache: KvCache,
    workspace: Workspace,
    q: Vec<f32>,
    out: Vec<f32>,
}

fn noise(elems: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    })
    .take(elems)
    .collect()
}

impl Bench {
    fn new(dtype: KvDtype) -> Bench {
        let cpu = Cpu::detect();
        let shape = AttentionShape::new(9, 3, 64).expect("a valid shape");
        let kv = KvShape { n_layers: N_LAYERS, n_slots: 1, n_kv_heads: 3, head_dim: 64, capacity: CAPACITY };
        let mut cache = KvCache::new(kv, dtype).expect("memory for the cache");
        let limits = Limits { max_rows: 512, max_spans: 1, capacity: CAPACITY };
        let workspace = Workspace::new(&cpu, shape, limits).expect("a valid workspace");
        let spans = [Span { slot: 0, start: 0, len: CAPACITY }];
        for layer in 0..N_LAYERS {
            let call = Call { shape, layer, spans: &spans, heads: Heads::All };
            let (k, v) = (noise(CAPACITY * 192, layer as u32), noise(CAPACITY * 192, 1000 + layer as u32));
            write_kv(&cpu, &call, KvPolicy::WriteAll, None, &k, &v, &mut cache).expect("a valid write");
        }
        Bench { cpu, shape, cache, workspace, q: noise(512 * 576, 7), out: vec![0.0; 512 * 576] }
    }

    /// Runs one layer on `len` tokens from `start` on.
    fn attend(&mut self, layer: usize, start: usize, len: usize, heads: Heads<'_>) {
        let spans = [Span { slot: 0, start, len }];
        let call = Call { shape: self.shape, layer, spans: &spans, heads };
        let elems = len * self.shape.q_elems();
        attend(&self.cpu, &call, &self.q[..elems], &self.cache, &mut self.out[..elems], &mut self.workspace)
            .expect("a valid call");
    }

    /// Checks the last token of the last run against f64.
    fn verify(&self, layer: usize, start: usize, len: usize, heads: Heads<'_>) {
        let (position, d) = (start + len - 1, self.shape.head_dim);
        let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
        for head in 0..self.shape.n_q_heads {
            let column = (len - 1) * self.shape.q_elems() + head * d;
            let mut expected = vec![0f64; d];
            let mut sum = 0.0;
            for j in (0..=position).filter(|_| heads.contains(&self.shape, 0, head)) {
                let row = KvRow { slot: 0, kv_head: head / self.shape.group_size(), position: j };
                self.cache.read_row(layer, row, &mut k, &mut v).expect("a valid row");
                let dot: f64 =
                    self.q[column..column + d].iter().zip(&k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                let weight = (dot / (d as f64).sqrt()).exp();
                sum += weight;
                expected.iter_mut().zip(&v).for_each(|(x, &v)| *x += weight * f64::from(v));
            }
            for (&x, expected) in self.out[column..column + d].iter().zip(expected) {
                let expected = if sum > 0.0 { expected / sum } else { 0.0 };
                // |v| ≤ 1 and |score| ≤ 64: a score is off by at most 64 roundings of 2⁻²⁴ · 64 / 8, a weight by as much.
                assert!(
                    (f64::from(x) - expected).abs() < 2.0 * 64.0 * 8.0 * 2f64.powi(-24),
                    "{x} instead of {expected}"
                );
            }
        }
    }
}

fn attention(criterion: &mut Criterion) {
    for (name, dtype) in
        [("f16", KvDtype::F16), ("int8", KvDtype::Int8), ("f32", KvDtype::F32), ("bf16", KvDtype::Bf16)]
    {
        let mut bench = Bench::new(dtype);
        let mut group = criterion.benchmark_group(format!("attention/{name}/smollm2-135m"));
        let mask = |bits: u32| [bits];
        let (one_group, five_heads) = (mask(0b000_000_111), mask(0b001_011_011));
        let cases = [
            ("decode", 128, 1, Heads::All),
            ("decode", 512, 1, Heads::All),
            ("decode", 2048, 1, Heads::All),
            ("decode-one-group-of-3", 512, 1, Heads::Mask { words: &one_group }),
            ("decode-5-of-9-heads", 512, 1, Heads::Mask { words: &five_heads }),
            ("prefill", 512, 512, Heads::All),
            ("prefill-one-group-of-3", 512, 512, Heads::Mask { words: &one_group }),
        ];
        for (mode, context, len, heads) in cases {
            let start = context - len;
            bench.attend(0, start, len, heads);
            bench.verify(0, start, len, heads);
            let spans = [Span { slot: 0, start, len }];
            let call = Call { shape: bench.shape, layer: 0, spans: &spans, heads };
            let bytes = bytes_read(&call, &bench.cache).expect("a valid call");
            group.throughput(Throughput::Bytes(bytes as u64));
            let mut layer = 0;
            group.bench_function(BenchmarkId::new(mode, format!("context{context}/m{len}")), |bencher| {
                bencher.iter(|| {
                    layer = (layer + 1) % N_LAYERS;
                    bench.attend(black_box(layer), start, len, heads);
                });
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).warm_up_time(std::time::Duration::from_millis(300)).measurement_time(std::time::Duration::from_millis(700));
    targets = attention
}
criterion_main!(benches);
