//! The cost of one empty parallel phase: moray's team against a work-stealing pool; and what a team makes of phases as a decoded
//! token has them, alone and beside a thread that is busy with something else.

use criterion::{Criterion, criterion_group, criterion_main};
use moray::{Cpu, Isa};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Some work that memory has no part in.
fn work(n: usize) -> u64 {
    (0..n).fold(black_box(1u64), |x, i| x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i as u64))
}

/// The best and the median time of a token of 240 phases of 16 pieces.
fn token(cpu: &Cpu) -> [Duration; 2] {
    let mut times: Vec<Duration> = (0..100)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..240 {
                cpu.team().for_ranges(16, 1, |_| _ = black_box(work(2000)));
            }
            start.elapsed()
        })
        .collect();
    times.sort();
    [times[0], times[times.len() / 2]]
}

/// Prints how many times faster than one thread several are, on free cores and with one thread that keeps a core busy.
fn scaling() {
    let all = Cpu::detect().threads();
    let cpu = |threads| Cpu::new(threads, Isa::Portable).expect("portable code runs everywhere");
    let busy = AtomicBool::new(true);
    std::thread::scope(|scope| {
        for neighbour in ["nothing else", "one busy thread"] {
            if neighbour != "nothing else" {
                scope.spawn(|| {
                    while busy.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let [best, median] = token(&cpu(1));
            for threads in [2, 4, 8].into_iter().filter(|&threads| threads <= 2 * all) {
                let [several, several_median] = token(&cpu(threads));
                println!(
                    "{threads} threads on {all} cores beside {neighbour}: {:.2} x one thread (medians), {:.2} x (best)",
                    median.as_secs_f64() / several_median.as_secs_f64(),
                    best.as_secs_f64() / several.as_secs_f64(),
                );
            }
        }
        busy.store(false, Ordering::Relaxed);
    });
}

fn phases(c: &mut Criterion) {
    scaling();
    let cpu = Cpu::detect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(cpu.threads()).build().expect("a thread pool");
    let mut group = c.benchmark_group("threads/phase");
    group.bench_function("team", |b| b.iter(|| cpu.team().run(|member| _ = black_box(member))));
    group.bench_function("rayon", |b| {
        pool.install(|| b.iter(|| rayon::join(|| _ = black_box(0), || _ = black_box(1))));
    });
    // a phase of about 10 µs on each thread, then as long a pause on the caller alone, as between two matrices
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
