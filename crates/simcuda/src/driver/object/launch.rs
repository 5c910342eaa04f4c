//! Launches of kernels.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::device::Device;
use super::kernel::Kernel;
use crate::driver::codes::{Code, Result};
use crate::driver::registry::lock;
use crate::machine::{self, Fault, FaultKind, LaunchConfig};

/// A kernel with its shape and arguments.
#[derive(Clone)]
pub(crate) struct Launch {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) config: LaunchConfig,
    pub(crate) params: Vec<u8>,
}

/// The code that the real driver gives for a fault of this kind, or the nearest where a real device would not notice.
fn fault_code(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::InvalidLaunch => Code::INVALID_VALUE,
        FaultKind::OutOfResources => Code::LAUNCH_OUT_OF_RESOURCES,
        FaultKind::Unsupported => Code::NOT_SUPPORTED,
        FaultKind::OutOfBounds | FaultKind::UseAfterFree => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED_ADDRESS,
        FaultKind::Deadlock | FaultKind::Budget => Code::LAUNCH_TIMEOUT,
        FaultKind::Assert => Code::ASSERT,
        _ => Code::LAUNCH_FAILED,
    }
}

impl Launch {
    pub(crate) fn run(&self, device: &Device) -> Result<()> {
        let function = &self.kernel.function;
        let run = || {
            machine::launch(&device.memory, function, &self.config, &self.params, &device.options)
                .map_err(|fault| fault_code(&fault).because(fault))
        };
        let report = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result?,
            Err(_) => {
                let message = format!("internal error while kernel {} ran", function.name);
                return Err(Code::LAUNCH_FAILED.because(message));
            }
        };
        for warning in &report.warnings {
            eprintln!("simcuda: warning: {} × {}", warning.count, warning.fault);
        }
        if let Some(meter) = &device.meter {
            // The meter observes; a full disk must not change what the program computes.
            if let Err(e) = writeln!(lock(meter), "{}", report.to_json()) {
                eprintln!("simcuda: SIMCUDA_METER: {e}");
            }
        }
        Ok(())
    }
}
