//! Operations that streams and graphs hold, and how each one runs.

use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::abi::{HostCall, read_host, write_host};
use super::codes::{Code, Error, Result};
use super::event::Event;
use super::graph::GraphExec;
use super::module::Kernel;
use super::registry::lock;
use super::state::Driver;
use crate::machine::{self, Fault, FaultKind, LaunchConfig, MemoryError};

/// One end of a copy.
#[derive(Clone)]
pub(super) enum Place {
    /// Device memory, pinned host memory included.
    Device(u64),
    /// The caller's memory, accessed when the copy runs.
    Host(usize),
    /// Bytes of the caller taken at submission, as the driver stages pageable memory.
    Staged(Arc<[u8]>),
}

/// A copy of `rows` rows of `width` bytes.
#[derive(Clone)]
pub(super) struct Transfer {
    pub(super) dst: Place,
    pub(super) src: Place,
    pub(super) dst_pitch: usize,
    pub(super) src_pitch: usize,
    pub(super) width: usize,
    pub(super) rows: usize,
}

/// `rows` rows of `width` elements set to one pattern.
#[derive(Clone)]
pub(super) struct Fill {
    pub(super) dst: u64,
    pub(super) pitch: usize,
    pub(super) pattern: [u8; 4],
    pub(super) element_bytes: usize,
    pub(super) width: usize,
    pub(super) rows: usize,
}

/// A kernel with its shape and arguments.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) kernel: Arc<Kernel>,
    pub(super) config: LaunchConfig,
    pub(super) params: Vec<u8>,
}

/// One operation.
#[derive(Clone)]
pub(super) enum Work {
    Launch(Arc<Launch>),
    Transfer(Transfer),
    Fill(Fill),
    /// Ends a stream-ordered allocation.
    Free(u64),
    /// Completes an event's n-th record.
    Record(Arc<Event>, u64),
    Host(HostCall),
    Graph(Arc<GraphExec>),
    /// Only a point that others can wait for.
    Nothing,
}

impl Work {
    /// Runs the operation.
    pub(super) fn run(&self, driver: &Driver) -> Result<()> {
        match self {
            Self::Launch(launch) => launch.run(driver),
            Self::Transfer(transfer) => transfer.run(driver),
            Self::Fill(fill) => fill.run(driver),
            Self::Free(ptr) => driver.free_now(*ptr),
            Self::Record(event, generation) => {
                event.complete(*generation);
                Ok(())
            }
            Self::Host(call) => {
                call.call();
                Ok(())
            }
            Self::Graph(exec) => exec.run(driver),
            Self::Nothing => Ok(()),
        }
    }

    /// Does what must happen even after the context has ended: memory is given back.
    pub(super) fn abandon(&self, driver: &Driver) {
        if let Self::Free(ptr) = self {
            // The context's fault is what its owner will see; a failed free adds nothing to it.
            let _ = driver.free_now(*ptr);
        }
    }

    /// Tells the `CUgraphNodeType` of the operation.
    pub(super) fn node_type(&self) -> i32 {
        match self {
            Self::Launch(_) => 0,
            Self::Transfer(_) => 1,
            Self::Fill(_) => 2,
            Self::Host(_) => 3,
            Self::Graph(_) => 4,
            Self::Record(..) => 7,
            Self::Free(_) => 11,
            Self::Nothing => 5,
        }
    }
}

/// A range that was valid at submission and is not any more was freed by work that ran in between.
fn lost(what: &str, error: &MemoryError) -> Error {
    Code::ILLEGAL_ADDRESS.because(format_args!("{what} after its memory was freed: {error}"))
}

impl Transfer {
    fn run(&self, driver: &Driver) -> Result<()> {
        for row in 0..self.rows {
            self.run_row(driver, row * self.dst_pitch, row * self.src_pitch)?;
        }
        Ok(())
    }

    fn run_row(&self, driver: &Driver, to: usize, from: usize) -> Result<()> {
        let (memory, width) = (&driver.memory, self.width);
        let result = match (&self.dst, &self.src) {
            (Place::Device(dst), Place::Device(src)) => memory.copy(dst + to as u64, src + from as u64, width),
            (Place::Device(dst), Place::Host(src)) => memory.write(dst + to as u64, &read_host(src + from, width)),
            (Place::Device(dst), Place::Staged(bytes)) => memory.write(dst + to as u64, &bytes[from..from + width]),
            (Place::Host(dst), Place::Device(src)) => {
                let mut bytes = vec![0; width];
                memory.read(&mut bytes, src + from as u64).map(|()| write_host(dst + to, &bytes))
            }
            (Place::Host(dst), Place::Host(src)) => {
                write_host(dst + to, &read_host(src + from, width));
                Ok(())
            }
            (Place::Host(dst), Place::Staged(bytes)) => {
                write_host(dst + to, &bytes[from..from + width]);
                Ok(())
            }
            (Place::Staged(_), _) => return Err(Code::INVALID_VALUE.because("a copy into staged bytes")),
        };
        result.map_err(|e| lost("a copy ran", &e))
    }
}

impl Fill {
    fn run(&self, driver: &Driver) -> Result<()> {
        let pattern = &self.pattern[..self.element_bytes];
        for row in 0..self.rows {
            let dst = self.dst + (row * self.pitch) as u64;
            driver.memory.fill(dst, pattern, self.width).map_err(|e| lost("a fill ran", &e))?;
        }
        Ok(())
    }
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
    fn run(&self, driver: &Driver) -> Result<()> {
        let function = &self.kernel.function;
        let run = || {
            machine::launch(&driver.memory, function, &self.config, &self.params, &driver.options)
                .map_err(|fault| fault_code(&fault).because(fault))
        };
        let report = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(result) => result?,
            Err(_) => {
                let message = format!("internal error while kernel {} ran", function.name);
                return Err(Code::LAUNCH_FAILED.because(message));
            }
        };
        if let Some(meter) = &driver.meter {
            // The meter observes; a full disk must not change what the program computes.
            if let Err(e) = writeln!(lock(meter), "{}", report.to_json()) {
                eprintln!("simcuda: SIMCUDA_METER: {e}");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node of type {}", self.node_type())
    }
}
