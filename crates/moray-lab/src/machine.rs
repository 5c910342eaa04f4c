//! What this machine can do: its memory's read bandwidth, and this process's peak memory.

use std::hint::black_box;
use std::time::Instant;

use moray::Cpu;

/// Elements of the buffer that is read: 256 MiB, well above any last-level cache's share of one process.
const ELEMENTS: usize = 32 << 20;

/// Bytes a second that all threads of `cpu` together read from memory: the best of several passes over 256 MiB.
pub fn read_bandwidth(cpu: &Cpu) -> f64 {
    let data = vec![1u64; ELEMENTS];
    let pass = || {
        let start = Instant::now();
        cpu.team().for_ranges(data.len(), 1 << 16, |range| {
            let sums = data[range].chunks_exact(32).fold([0u64; 32], |mut sums, chunk| {
                sums.iter_mut().zip(chunk).for_each(|(sum, v)| *sum = sum.wrapping_add(*v));
                sums
            });
            black_box(sums);
        });
        size_of_val(&data[..]) as f64 / start.elapsed().as_secs_f64()
    };
    (0..5).map(|_| pass()).fold(0.0, f64::max)
}

/// The largest resident set of this process so far, in bytes; None where the system does not say.
pub fn peak_memory_bytes() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}

/// The processor's name; None where the system does not say.
pub fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Bytes of memory that the machine has; None where the system does not say.
pub fn total_memory_bytes() -> Option<usize> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("MemTotal:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}
