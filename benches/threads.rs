//! The cost of one empty parallel phase: moray's team against a work-stealing pool.

use criterion::{Criterion, criterion_group, criterion_main};
use moray::Cpu;
use std::hint::black_box;

fn phases(c: &mut Criterion) {
    let cpu = Cpu::detect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cpu.threads()).build().expect("a thread pool");
    let mut group = c.benchmark_group("threads/phase");
    group.bench_function("team", |b| b.iter(|| cpu.team().run(|member| _ = black_box(member))));
    group.bench_function("rayon", |b| {
        pool.install(|| b.iter(|| rayon::join(|| _ = black_box(0), || _ = black_box(1))));
    });
    // a phase of about 10 µs on each thread, then as long a pause on the caller alone, as between two matrices
    let work = |n: usize| {
        (0..n).fold(black_box(1u64), |x, i| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i as u64))
    };
    group.bench_function("team/10us", |b| {
        b.iter(|| {
            cpu.team().run(|_| _ = black_box(work(7_000)));
            black_box(work(7_000))
        });
    });
    group.bench_function("rayon/10us", |b| {
        pool.install(|| {
            b.iter(|| {
                rayon::join(|| _ = black_box(work(7_000)), || _ = black_box(work(7_000)));
                black_box(work(7_000))
            });
        });
    });
    group.finish();
}

criterion_group!(benches, phases);
criterion_main!(benches);
