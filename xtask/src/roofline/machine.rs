//! The machines of the table: their peaks, and where the numbers are from.

/// A machine, as the model sees it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    pub name: &'static str,
    /// Which machine code runs on it.
    pub code: &'static str,
    pub multiprocessors: u32,
    pub clock_hz: f64,
    /// Bytes a second that a copy reads and writes.
    pub copy: f64,
    /// Bytes a second that all multiprocessors read from the second-level cache.
    pub l2: f64,
    pub l2_bytes: f64,
    /// What a multiprocessor has: threads, blocks, bytes of shared memory.
    pub threads: u32,
    pub blocks: u32,
    pub shared_bytes: u32,
    /// Multiplications (with additions) of a multiprocessor in a cycle by `mma.sync`: int8; 16-bit floats with f32 sums.
    pub int8: f64,
    pub float16: f64,
    /// The same of 16-bit floats at the peak of the data sheet, and what cuBLAS makes of it, operations a second.
    pub float16_peak: f64,
    pub library: f64,
    /// Cycles until a lone load is there, from memory and from the second-level cache.
    pub memory_cycles: f64,
    pub l2_cycles: f64,
    /// Seconds until a load from memory is there where memory is busy.
    pub busy_seconds: f64,
    /// Seconds between the end of a kernel and the first instruction of the next in a graph.
    pub launch_seconds: f64,
    /// Where they are from.
    pub sources: &'static str,
}

/// 32-bit registers of a multiprocessor, and the unit in which a warp gets them.
const REGISTERS: u32 = 65_536;
const REGISTER_UNIT: u32 = 256;
/// Shared memory that the system takes of each block.
const RESERVED_SHARED_BYTES: u32 = 1024;
/// Instructions that a multiprocessor issues in a cycle; passes over the banks of shared memory are one a cycle.
pub const ISSUE: f64 = 4.0;

impl Machine {
    /// Blocks of a kernel that a multiprocessor holds.
    pub fn resident(&self, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
        let warps = threads.div_ceil(32);
        let by_registers = REGISTERS / ((registers * 32).next_multiple_of(REGISTER_UNIT) * warps).max(1);
        let by_shared = self.shared_bytes / (shared_bytes + RESERVED_SHARED_BYTES);
        (self.threads / (32 * warps)).min(by_registers).min(by_shared).min(self.blocks).max(1)
    }

    /// Operations a second on int8 at the data sheet's peak: twice those of 16 bits, and four times where f32 sums halve these.
    pub fn int8_peak(&self) -> f64 {
        let of_sync = 2.0 * self.int8 * f64::from(self.multiprocessors) * self.clock_hz;
        of_sync.max(2.0 * self.float16_peak)
    }
}

const GEFORCE: &str = "copy: 0.9 of the data sheet as on A100, H100 and H200, not measured; second-level cache: 16 bytes a cycle and \
                       multiprocessor, half of the A100's, not measured; tensor rates: data sheet";

/// What all machines have from one place.
pub const COMMON_SOURCES: &str = "latencies of lone loads: Luo et al., Benchmarking and Dissecting the Nvidia Hopper GPU Architecture \
                                  (arXiv 2402.13499), for A100, H100 and RTX 4090, whose numbers the other two GeForce get; 1 µs \
                                  for a load from busy memory and 1.2 µs between kernels of a graph: published measurements on H100";

/// The machines, in the order of the table.
pub const MACHINES: [Machine; 6] = [
    Machine {
        name: "A100",
        code: "sm_80",
        multiprocessors: 108,
        clock_hz: 1.41e9,
        copy: 1.75e12,
        l2: 4.5e12,
        l2_bytes: 40e6,
        threads: 2048,
        blocks: 32,
        shared_bytes: 164 * 1024,
        int8: 2048.0,
        float16: 1024.0,
        float16_peak: 312e12,
        library: 250e12,
        memory_cycles: 466.0,
        l2_cycles: 262.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: "published copy, second-level cache and cuBLAS rates; tensor rates: data sheet of A100 80 GB",
    },
    Machine {
        name: "RTX 3090",
        code: "sm_80",
        multiprocessors: 82,
        clock_hz: 1.695e9,
        copy: 0.84e12,
        l2: 2.2e12,
        l2_bytes: 6e6,
        threads: 1536,
        blocks: 16,
        shared_bytes: 100 * 1024,
        int8: 1024.0,
        float16: 256.0,
        float16_peak: 71e12,
        library: 70e12,
        memory_cycles: 541.0,
        l2_cycles: 273.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: GEFORCE,
    },
    Machine {
        name: "RTX 4090",
        code: "sm_80",
        multiprocessors: 128,
        clock_hz: 2.52e9,
        copy: 0.91e12,
        l2: 5.2e12,
        l2_bytes: 72e6,
        threads: 1536,
        blocks: 24,
        shared_bytes: 100 * 1024,
        int8: 1024.0,
        float16: 256.0,
        float16_peak: 165e12,
        library: 163e12,
        memory_cycles: 541.0,
        l2_cycles: 273.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: GEFORCE,
    },
    Machine {
        name: "RTX 5090",
        code: "sm_120",
        multiprocessors: 170,
        clock_hz: 2.407e9,
        copy: 1.61e12,
        l2: 6.5e12,
        l2_bytes: 96e6,
        threads: 1536,
        blocks: 24,
        shared_bytes: 100 * 1024,
        int8: 1024.0,
        float16: 256.0,
        float16_peak: 209e12,
        library: 207e12,
        memory_cycles: 541.0,
        l2_cycles: 273.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: GEFORCE,
    },
    Machine {
        name: "H100",
        code: "sm_90a",
        multiprocessors: 132,
        clock_hz: 1.755e9,
        copy: 3.0e12,
        l2: 6.0e12,
        l2_bytes: 50e6,
        threads: 2048,
        blocks: 32,
        shared_bytes: 228 * 1024,
        int8: 2583.0,
        float16: 1290.0,
        float16_peak: 989e12,
        library: 700e12,
        memory_cycles: 479.0,
        l2_cycles: 263.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: "published copy, second-level cache and cuBLAS rates of the SXM form; mma.sync: 0.63 of wgmma's rate, published",
    },
    Machine {
        name: "H200",
        code: "sm_90a",
        multiprocessors: 132,
        clock_hz: 1.755e9,
        copy: 4.3e12,
        l2: 6.0e12,
        l2_bytes: 50e6,
        threads: 2048,
        blocks: 32,
        shared_bytes: 228 * 1024,
        int8: 2583.0,
        float16: 1290.0,
        float16_peak: 989e12,
        library: 720e12,
        memory_cycles: 479.0,
        l2_cycles: 263.0,
        busy_seconds: 1.0e-6,
        launch_seconds: 1.2e-6,
        sources: "as H100, with the published copy of an H200",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_blocks_match_the_scarcest_resource_by_hand() {
        let [a100, rtx3090, ..] = MACHINES;
        assert_eq!(a100.resident(256, 64, 0), 4);
        assert_eq!(a100.resident(128, 32, 48 * 1024), 3);
        assert_eq!(a100.resident(32, 16, 0), 32);
        assert_eq!(rtx3090.resident(256, 32, 0), 6);
        assert_eq!(rtx3090.resident(128, 32, 49_152), 2);
        // a kernel that was launched fits once
        assert_eq!(a100.resident(1024, 255, 0), 1);
    }
}
