//! A simulated iteration: what every device did, when, and what it held.

use crate::op::Op;
use serde::Serialize;

/// One operation as it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The device whose program it is in.
    pub device: u32,
    /// What it did.
    #[serde(flatten)]
    pub op: Op,
    /// Start in ns.
    pub start_ns: u64,
    /// End in ns.
    pub end_ns: u64,
}

/// A device's activation memory from a moment on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MemorySample {
    /// The moment in ns.
    pub time_ns: u64,
    /// Chunk activations held.
    pub units: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// What one device did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageReport {
    /// Compute time in ns.
    pub busy_ns: u64,
    /// Time in ns its compute waited for nothing but a transfer or the buffer it frees.
    pub stall_ns: u64,
    /// Evictions it sent.
    pub evictions: u32,
    /// Time its evictions and loads took in ns.
    pub transfer_ns: u64,
    /// Most activations held at once, in micro-batches of a whole stage.
    pub peak_micro_batches: f64,
    /// Most bytes of activations held at once.
    pub peak_activation_bytes: u64,
    /// Weights, gradients and optimizer state in bytes.
    pub static_bytes: u64,
}

impl StageReport {
    /// Peak memory in bytes, weights included.
    pub fn peak_bytes(&self) -> u64 {
        self.peak_activation_bytes + self.static_bytes
    }
}

/// A simulated iteration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Simulation {
    /// From the first start to the last end in ns.
    pub makespan_ns: u64,
    /// Per device.
    pub stages: Vec<StageReport>,
    /// Every operation, device by device in program order.
    #[serde(skip)]
    pub spans: Vec<Span>,
    /// Per device, in time order.
    #[serde(skip)]
    pub memory: Vec<Vec<MemorySample>>,
}

impl Simulation {
    /// Computes the share of all devices' time in which they do not compute.
    pub fn bubble(&self) -> f64 {
        let busy: u128 = self.stages.iter().map(|stage| u128::from(stage.busy_ns)).sum();
        1.0 - busy as f64 / (self.stages.len() as f64 * self.makespan_ns as f64)
    }

    /// Sums the stalls of all devices in ns.
    pub fn stall_ns(&self) -> u64 {
        self.stages.iter().map(|stage| stage.stall_ns).sum()
    }

    /// Computes the model FLOPs done per peak FLOP, `flops` being those of the iteration and `peak_flops` a stage's
    /// FLOP/s.
    pub fn mfu(&self, flops: f64, peak_flops: f64) -> f64 {
        flops / (self.stages.len() as f64 * peak_flops * self.makespan_ns as f64 * 1e-9)
    }

    /// Finds the fullest device's peak in bytes, weights included.
    pub fn peak_bytes(&self) -> u64 {
        self.stages.iter().map(StageReport::peak_bytes).max().unwrap_or(0)
    }

    /// Finds the most micro-batches any device holds.
    pub fn peak_micro_batches(&self) -> f64 {
        self.stages.iter().map(|stage| stage.peak_micro_batches).fold(0.0, f64::max)
    }
}
