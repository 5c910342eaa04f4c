//! Published measurements beside what the model says, so that its error is known.

use super::machine::{MACHINES, Machine};
use super::predict::{launch_seconds, library_seconds};

/// What was measured.
enum Work {
    /// cuBLAS in 16 bits.
    Library,
    /// A kernel whose counts are not at hand, so that its bytes and products alone are modelled: bytes of a weight, and whether
    /// activations are int8.
    Kernel { weight_bytes: f64, int8: bool },
}

/// One measurement.
pub struct Measurement {
    pub what: &'static str,
    pub machine: &'static str,
    /// M, N, K.
    pub shape: (f64, f64, f64),
    pub microseconds: f64,
    pub source: &'static str,
    work: Work,
}

const PER_CHANNEL: f64 = 0.5;
/// With f16 scales of 128.
const GROUPS: f64 = 0.5 + 2.0 / 128.0;

pub const MEASUREMENTS: [Measurement; 7] = [
    Measurement {
        what: "fp16",
        machine: "RTX 4090",
        shape: (2048.0, 6144.0, 4096.0),
        microseconds: 612.0,
        source: "QServe's issue threads",
        work: Work::Library,
    },
    Measurement {
        what: "fp16",
        machine: "H100",
        shape: (1.0, 73728.0, 12288.0),
        microseconds: 591.8,
        source: "Machete's pull request",
        work: Work::Library,
    },
    Measurement {
        what: "QServe W4A8 per channel",
        machine: "RTX 4090",
        shape: (2048.0, 6144.0, 4096.0),
        microseconds: 213.0,
        source: "QServe's issue threads",
        work: Work::Kernel { weight_bytes: PER_CHANNEL, int8: true },
    },
    Measurement {
        what: "QServe W4A8 groups of 128",
        machine: "RTX 4090",
        shape: (2048.0, 6144.0, 4096.0),
        microseconds: 268.0,
        source: "QServe's issue threads",
        work: Work::Kernel { weight_bytes: GROUPS, int8: true },
    },
    Measurement {
        what: "Machete W4A16",
        machine: "H100",
        shape: (1.0, 73728.0, 12288.0),
        microseconds: 172.4,
        source: "Machete's pull request",
        work: Work::Kernel { weight_bytes: GROUPS, int8: false },
    },
    // 1.24 TB/s of 33.5 MB
    Measurement {
        what: "humming W4A16",
        machine: "H100",
        shape: (1.0, 8192.0, 8192.0),
        microseconds: 27.1,
        source: "humming's benchmarks",
        work: Work::Kernel { weight_bytes: PER_CHANNEL, int8: false },
    },
    // 3.67 times as fast as fp16, whose time is the model's: 206 µs
    Measurement {
        what: "QQQ W4A8 per channel",
        machine: "A100",
        shape: (16.0, 8192.0, 21760.0),
        microseconds: 56.3,
        source: "QQQ (arXiv 2406.09904): 3.67 × fp16, whose time is taken from the model",
        work: Work::Kernel { weight_bytes: PER_CHANNEL, int8: true },
    },
];

impl Measurement {
    /// What the model says.
    pub fn predicted_seconds(&self) -> f64 {
        // the table above names machines of the other
        let machine = MACHINES.iter().find(|machine| machine.name == self.machine).unwrap_or(&MACHINES[0]);
        match self.work {
            Work::Library => library_seconds(machine, self.shape),
            Work::Kernel { weight_bytes, int8 } => self.kernel_seconds(machine, weight_bytes, int8),
        }
    }

    fn kernel_seconds(&self, machine: &Machine, weight_bytes: f64, int8: bool) -> f64 {
        let (m, n, k) = self.shape;
        let (rate, activation_bytes) = if int8 { (machine.int8, 1.0) } else { (machine.float16, 2.0) };
        let memory = (weight_bytes * n * k + activation_bytes * m * k + 2.0 * m * n) / machine.copy;
        let padded = (m / 8.0).ceil() * 8.0;
        let tensor = padded * n * k / (rate * f64::from(machine.multiprocessors) * machine.clock_hz);
        memory.max(tensor) + launch_seconds(machine)
    }

    /// Predicted over measured, less one.
    pub fn error(&self) -> f64 {
        self.predicted_seconds() * 1e6 / self.microseconds - 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measurements_are_of_machines_of_the_table_and_the_library_is_met_within_a_tenth() {
        for measurement in MEASUREMENTS {
            assert!(MACHINES.iter().any(|machine| machine.name == measurement.machine), "{}", measurement.machine);
            if matches!(measurement.work, Work::Library) {
                assert!(measurement.error().abs() <= 0.1, "{} on {}", measurement.error(), measurement.machine);
            }
        }
    }
}
