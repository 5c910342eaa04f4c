//! What this machine can do: its memory's read bandwidth, and this process's peak memory.

use std::hint::black_box;
use std::time::Instant;

#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;
use moray::Cpu;

/// Bytes of the buffer that is read, above a last-level cache's share of one process.
const BYTES: usize = 256 << 20;

/// Words of a piece that a thread reads before it takes another, 1 MB: each begins a stream anew.
const PIECE: usize = 1 << 17;

/// Words of a cache line.
const LINE: usize = 8;

/// Bytes a second that all threads of `cpu` together read from memory: the best of several passes over 256 MiB, in huge pages where the system
/// has them, as weights are. 0 where there is no memory for them.
pub fn read_bandwidth(cpu: &Cpu) -> f64 {
    let Ok(mut map) = MmapMut::map_anon(BYTES) else { return 0.0 };
    // a system without huge pages says so, and goes on
    #[cfg(target_os = "linux")]
    let _ = map.advise(Advice::HugePage);
    map.fill(1);
    let words: &[u64] = bytemuck::cast_slice(&map);
    let pass = || {
        let start = Instant::now();
        cpu.team().for_ranges(words.len(), PIECE, |range| {
            // one word of each cache line brings all of it
            let sum = words[range].chunks_exact(LINE).fold(0u64, |sum, line| sum.wrapping_add(line[0]));
            black_box(sum);
        });
        BYTES as f64 / start.elapsed().as_secs_f64()
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
