//! What the benches share: seeded data and the machine's read bandwidth.
#![allow(dead_code)] // each bench uses its part

use moray::llama::DenseWeight;
use moray::{Cpu, DenseType};
use std::hint::black_box;
use std::time::Instant;

/// Seeded numbers in −1..1.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A scattered list of the given share of the neurons.
pub fn scattered(d_ff: usize, kept: f32) -> Vec<u32> {
    let scores = numbers(d_ff, 9);
    let mut order: Vec<u32> = (0..d_ff as u32).collect();
    order.sort_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    order.truncate((d_ff as f32 * kept) as usize);
    order.sort_unstable();
    order
}

/// Copies of a working set that together are well above the last-level cache, of which some processors have 260 MB.
pub fn copies(bytes: usize) -> usize {
    (512usize << 20).div_ceil(bytes).max(1)
}

/// Bytes of a cache line.
pub const LINE_BYTES: usize = 64;

/// Memory of the size and the kind that weights of so many bytes are in.
pub fn weight_memory(bytes: usize) -> DenseWeight {
    let lines = bytes.div_ceil(LINE_BYTES);
    DenseWeight::from_f32(&vec![1.0; 16 * lines], 16, lines, DenseType::F32).expect("a size of memory")
}

/// Loads a byte of each cache line of `len` bytes from `start` on.
pub fn load_lines(bytes: &[u8], start: usize, len: usize) -> u64 {
    let first = start / LINE_BYTES * LINE_BYTES;
    (first..start + len).step_by(LINE_BYTES).map(|at| u64::from(bytes[at])).sum()
}

/// Bytes a second that all threads together read from memory, the best of several passes over 512 MiB, in huge pages where the system has them, as
/// weights are.
pub fn read_bandwidth(cpu: &Cpu) -> f64 {
    #[cfg(target_os = "linux")]
    let map = {
        let mut map = memmap2::MmapMut::map_anon(512 << 20).expect("512 MiB");
        // a system without huge pages says so, and goes on
        let _ = map.advise(memmap2::Advice::HugePage);
        map.fill(1);
        map
    };
    #[cfg(not(target_os = "linux"))]
    let map = vec![1u64; 64 << 20];
    let data: &[u64] = bytemuck::cast_slice(&map);
    (0..7)
        .map(|_| {
            let start = Instant::now();
            cpu.team().for_ranges(data.len(), 1 << 17, |range| {
                // one word of each cache line brings all of it
                black_box(data[range].chunks_exact(8).fold(0u64, |sum, line| sum.wrapping_add(line[0])));
            });
            size_of_val(data) as f64 / start.elapsed().as_secs_f64()
        })
        .fold(0.0, f64::max)
}
