//! W4A8 GEMM over real layer shapes, weights from memory. Ids: w4a8/format/model.layer/mM.

mod common;

use common::{copies, numbers, read_bandwidth};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use moray::Cpu;
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, linear_reference, quantize};

/// (model.layer, K, N)
const SHAPES: [(&str, usize, usize); 5] = [
    ("smollm2-135m.qkv", 576, 960),
    ("smollm2-135m.gate_up", 576, 3072),
    ("smollm2-135m.down", 1536, 576),
    ("smollm2-135m.lm_head", 576, 49152),
    ("llama-2-7b.o", 4096, 4096),
];

const FORMATS: [(&str, Format); 6] = [
    ("per-channel", Format::per_channel()),
    ("g32-offset", Format::per_group(32, Offset::F16)),
    ("g64", Format::per_group(64, Offset::None)),
    ("two-level-g64", Format::two_level(64)),
    ("qqq", Format::qqq()),
    ("w8", Format::w8()),
];

fn gemm(c: &mut Criterion) {
    let cpu = Cpu::detect();
    println!("{} threads, {}, reads {:.1} GB/s", cpu.threads(), cpu.isa().name(), read_bandwidth(&cpu) / 1e9);
    for (name, format) in FORMATS {
        for (shape, k, n) in SHAPES {
            if format == Format::qqq() && k % 128 != 0 {
                continue;
            }
            let quantized = quantize(&numbers(n * k, 1), n, k, format).expect("a valid shape");
            let weight = PackedWeight::pack(&quantized);
            let weights = vec![weight; copies(n * k / 2)];
            let mut group = c.benchmark_group(format!("w4a8/{name}/{shape}"));
            group.sample_size(10).warm_up_time(std::time::Duration::from_millis(200));
            group.measurement_time(std::time::Duration::from_millis(500));
            for m in [1, 4, 16, 512] {
                let mut x = Activations::default();
                x.quantize(&cpu, &numbers(m * k, 2), m, k).expect("finite numbers");
                let mut y = vec![0.0f32; m * n];
                verify(&cpu, &quantized, &weights[0], &x, &mut y);
                group.throughput(if m <= 4 {
                    Throughput::Bytes(weights[0].bytes() as u64)
                } else {
                    Throughput::Elements((m * n * k) as u64) // multiply-adds
                });
                let mut turn = weights.iter().cycle();
                group.bench_function(BenchmarkId::from_parameter(format!("m{m}")), |b| {
                    b.iter(|| {
                        let weight = turn.next().expect("a cycle has no end");
                        linear(&cpu, weight, &x, Epilogue::default(), &mut y).expect("matching shapes");
                    });
                });
            }
            group.finish();
        }
    }
}

/// Checks the first token's first rows before anything is timed.
fn verify(cpu: &Cpu, quantized: &moray::w4a8::QuantizedWeight, weight: &PackedWeight, x: &Activations, y: &mut [f32]) {
    linear(cpu, weight, x, Epilogue::default(), y).expect("matching shapes");
    if x.m() == 1 && quantized.n() < 5000 {
        let mut expected = vec![0.0f32; y.len()];
        linear_reference(quantized, x, Epilogue::default(), &mut expected).expect("matching shapes");
        assert_eq!(y, &expected[..]);
    }
}

criterion_group!(benches, gemm);
criterion_main!(benches);
