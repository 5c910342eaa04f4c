//! The time that each resource of a machine needs for a launch, and what is made of them.

use super::code::Code;
use super::counts::Launch;
use super::machine::{ISSUE, Machine};
use super::sass::{Anchor, MainLoop};

/// What a launch may be bound by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Bytes between memory and the second-level cache.
    Memory,
    /// Bytes between the second-level cache and multiprocessors.
    L2,
    /// Passes over the banks of shared memory.
    Shared,
    /// Products of matrix units.
    Tensor,
    /// Instructions.
    Issue,
    /// One warp after the other: its main loop alone, with the waits of a machine that does nothing else.
    Latency,
    /// Bytes on their way: its main loop's waits for a memory that is as busy as the launch makes it.
    Flight,
    /// Between kernels, and the first load and last store; where blocks wait for each other.
    Launch,
}

impl Resource {
    /// All but [`Resource::Launch`], which is added to the longest of them, with their names.
    pub const OVERLAPPED: [(Self, &'static str); 7] = [
        (Self::Memory, "memory"),
        (Self::L2, "L2"),
        (Self::Shared, "shared memory"),
        (Self::Tensor, "matrix units"),
        (Self::Issue, "issue slots"),
        (Self::Latency, "latency"),
        (Self::Flight, "bytes in flight"),
    ];

    pub fn name(self) -> &'static str {
        Self::OVERLAPPED.iter().find(|(of, _)| *of == self).map_or("launches", |(_, name)| name)
    }
}

/// Seconds of a launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// In the order of [`Resource::OVERLAPPED`].
    pub of: [f64; 7],
    pub launch: f64,
}

impl Times {
    /// Predicts: resources work side by side, so the longest counts, and a launch costs what it costs.
    pub fn seconds(&self) -> f64 {
        self.of.iter().copied().fold(0.0, f64::max) + self.launch
    }

    /// The resource that takes longest.
    pub fn bound(&self) -> Resource {
        let longest = Resource::OVERLAPPED.iter().zip(self.of).max_by(|a, b| a.1.total_cmp(&b.1));
        longest.filter(|(_, seconds)| *seconds >= self.launch).map_or(Resource::Launch, |((resource, _), _)| *resource)
    }
}

/// What one launch costs beside its work.
pub fn launch_seconds(machine: &Machine) -> f64 {
    machine.launch_seconds + 2.0 * machine.memory_cycles / machine.clock_hz
}

/// What the waits of all blocks for each other cost: each as much as a launch, less the time in which memory brings what has been asked for
/// before, of which the second-level cache keeps at most half of what it holds.
fn wait_seconds(machine: &Machine, launch: &Launch) -> f64 {
    let ahead = launch.ahead_bytes.min(machine.l2_bytes / 2.0) / machine.copy;
    launch.waits * (launch_seconds(machine) - ahead).max(0.0)
}

/// The times of a launch. What a multiprocessor does takes as long as the one with most blocks needs: waves and tails are in it.
pub fn times(machine: &Machine, launch: &Launch, code: &Code) -> Times {
    let blocks = launch.blocks();
    let multiprocessors = f64::from(machine.multiprocessors);
    let resident = f64::from(machine.resident(launch.threads, code.registers, launch.shared_bytes));
    let busiest = (blocks / multiprocessors).ceil() / blocks;
    let on_one = |work_per_cycle: f64| work_per_cycle * busiest / machine.clock_hz;
    let tensor = launch.int8 / machine.int8 + (launch.float16 + 2.0 * launch.tf32) / machine.float16;
    let memory = memory_bytes(machine, launch, resident * multiprocessors) / machine.copy;
    let (mut slots, mut latency, mut flight) = (launch.instructions, 0.0, 0.0);
    if let Some(of) = code.main_loop {
        let turns = turns(launch, &of);
        let share = share(launch, turns * of.slots);
        slots = slots.max(turns * of.slots * share);
        let of_warp = turns / (blocks * f64::from(launch.threads.div_ceil(32)));
        // turns of the longest row of warps that follow each other
        let in_turn = share * of_warp * (blocks / (multiprocessors * resident)).ceil();
        let alone = of.cycles + of.memory_trips * machine.memory_cycles + of.cache_trips * machine.l2_cycles;
        latency = in_turn * alone / machine.clock_hz;
        let idle = machine.memory_cycles / machine.clock_hz;
        let busy = (memory / latency.max(memory)).max(0.0);
        flight = in_turn * of.memory_trips * (idle + busy * (machine.busy_seconds - idle));
    }
    let of = [
        memory,
        32.0 * launch.sectors / machine.l2,
        on_one(launch.passes),
        on_one(tensor),
        on_one(slots / ISSUE),
        latency,
        flight,
    ];
    Times { of, launch: launch_seconds(machine) + wait_seconds(machine, launch) }
}

/// Turns of the main loop, of all warps.
fn turns(launch: &Launch, of: &MainLoop) -> f64 {
    let anchors = match of.anchor {
        Anchor::Tensor => launch.tensor_instructions,
        Anchor::Streamed => launch.once_bytes.unwrap_or(launch.loaded_bytes),
        Anchor::Loaded => launch.loaded_bytes,
    };
    anchors / of.anchors
}

/// What runs of a turn. The meter counts instructions of PTX, of which there are about as many as of machine code; where the main
/// loop would be more than one and a half times what ran in the whole kernel, it has branches that this launch does not take.
fn share(launch: &Launch, slots: f64) -> f64 {
    const ALIKE: f64 = 1.5;
    if slots > ALIKE * launch.instructions { launch.instructions / slots } else { 1.0 }
}

/// Bytes from and to memory: each once, and where the second-level cache does not hold what rows of tiles share, this again
/// for every wave of rows.
fn memory_bytes(machine: &Machine, launch: &Launch, resident: f64) -> f64 {
    let once = launch.once_bytes.unwrap_or(f64::INFINITY).min(32.0 * launch.sectors);
    if launch.again_bytes <= machine.l2_bytes / 2.0 {
        return once;
    }
    let [columns, rows] = launch.tiles;
    let rows_of_a_wave = (resident.min(launch.blocks()) / columns).max(1.0);
    once + launch.again_bytes * ((rows / rows_of_a_wave).max(1.0) - 1.0)
}

/// Seconds of y\[M, N\] = x\[M, K\] · wᵀ in 16 bits by cuBLAS, by the same rules: tiles of 128 × 256, its published rate of matrix units,
/// tokens rounded up to 64. It gets no tail and no cost of issue.
pub fn library_seconds(machine: &Machine, (m, n, k): (f64, f64, f64)) -> f64 {
    let memory = 2.0 * (n * k + m * k + m * n) / machine.copy;
    let tiles = (m / 256.0).ceil() * n * k + (n / 128.0).ceil() * m * k;
    let tensor = 2.0 * (m / 64.0).ceil() * 64.0 * n * k / machine.library;
    memory.max(2.0 * tiles / machine.l2).max(tensor) + launch_seconds(machine)
}

/// Seconds that no kernel can be faster than: all bytes once at the speed of a copy, all products at the data sheet's peak.
pub fn limit_seconds(machine: &Machine, bytes: f64, operations: f64) -> f64 {
    (bytes / machine.copy).max(operations / machine.int8_peak())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roofline::machine::MACHINES;

    fn launch() -> Launch {
        Launch { kernel: "k".into(), grid: [108.0, 1.0, 1.0], threads: 128, ..Launch::default() }
    }

    fn code() -> Code {
        let main_loop = MainLoop {
            slots: 100.0,
            anchor: Anchor::Tensor,
            anchors: 10.0,
            cycles: 50.0,
            memory_trips: 1.0,
            cache_trips: 0.0,
        };
        Code { registers: 64, main_loop: Some(main_loop) }
    }

    #[test]
    fn each_resource_matches_a_sum_by_hand() {
        let a100 = MACHINES[0];
        // 4 warps of 108 blocks, 5 turns each
        let launch = Launch {
            sectors: 1e6,
            passes: 108.0 * 1410.0,
            int8: 108.0 * 2048.0 * 2820.0,
            tensor_instructions: 108.0 * 4.0 * 50.0,
            once_bytes: Some(17.5e6),
            instructions: 108.0 * 4.0 * 300.0,
            ..launch()
        };
        let of = times(&a100, &launch, &code()).of.map(|seconds| (seconds * 1e9).round());
        let latency: f64 = 5.0 * (50.0 + 466.0) / 1.41;
        // 4 warps · 5 turns · 100 slots / 4 a cycle; memory is the longest, so it is busy
        let expected = [10_000.0, 7111.0, 1000.0, 2000.0, (500.0f64 / 1.41).round(), latency.round(), 5000.0];
        // the main loop is 500 slots a warp, of 300 instructions that ran: what is not taken does not count
        assert_eq!(of.map(|time| time as i64), [10_000, 7111, 1000, 2000, 213, (0.6 * latency).round() as i64, 3000]);
        let whole = Launch { instructions: 108.0 * 4.0 * 400.0, ..launch.clone() };
        assert_eq!(times(&a100, &whole, &code()).of.map(|seconds| (seconds * 1e9).round()), expected);
        let times = times(&a100, &launch, &code());
        assert_eq!(times.bound(), Resource::Memory);
        assert!((times.seconds() - 10e-6 - launch_seconds(&a100)).abs() < 1e-12);
    }

    #[test]
    fn one_block_more_than_multiprocessors_doubles_what_they_do() {
        let a100 = MACHINES[0];
        let one = Launch { passes: 108_000.0, ..launch() };
        let more = Launch { passes: 109_000.0, grid: [109.0, 1.0, 1.0], ..launch() };
        let shared = |launch: &Launch| times(&a100, launch, &code()).of[2];
        assert!((shared(&more) / shared(&one) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn wait_of_all_blocks_costs_a_launch_less_what_comes_meanwhile() {
        let (a100, rtx3090) = (MACHINES[0], MACHINES[1]);
        let own = |machine, ahead_bytes| {
            let waits = Launch { waits: 2.0, ahead_bytes, ..launch() };
            times(machine, &waits, &code()).launch / launch_seconds(machine)
        };
        assert!((own(&a100, 0.0) - 3.0).abs() < 1e-9);
        // half of what a launch takes
        assert!((own(&a100, launch_seconds(&a100) / 2.0 * a100.copy) - 2.0).abs() < 1e-9);
        assert!((own(&a100, 20e6) - 1.0).abs() < 1e-9);
        // 6 MB of cache keep 3 of what was asked for, which is more than a launch takes; of a tenth there would be something left
        assert!((own(&rtx3090, 1e9) - 1.0).abs() < 1e-9);
        let small = Machine { l2_bytes: 0.6e6, ..rtx3090 };
        let left = 2.0 * (launch_seconds(&small) - 0.3e6 / small.copy) / launch_seconds(&small);
        let waits = Launch { waits: 2.0, ahead_bytes: 1e9, ..launch() };
        assert!((times(&small, &waits, &code()).launch / launch_seconds(&small) - 1.0 - left).abs() < 1e-9);
    }

    #[test]
    fn weights_that_the_cache_does_not_hold_are_read_again_for_each_wave_of_rows() {
        let a100 = MACHINES[0];
        let launch = Launch {
            grid: [100.0, 8.0, 1.0],
            sectors: 1e12,
            once_bytes: Some(90e6),
            again_bytes: 89e6,
            tiles: [100.0, 8.0],
            ..launch()
        };
        assert_eq!(memory_bytes(&a100, &launch, 200.0), 90e6 + 3.0 * 89e6);
        // blocks of a grid that is smaller than its tiles are a wave
        let by_turns = Launch { grid: [400.0, 1.0, 1.0], ..launch.clone() };
        assert_eq!(memory_bytes(&a100, &by_turns, 900.0), 90e6 + 89e6);
        assert_eq!(memory_bytes(&a100, &Launch { again_bytes: 19e6, ..launch }, 200.0), 90e6);
    }
}
