//! The one device: what it is, its memory, and who owns which part of it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Mutex;

use super::host_memory::HostMemory;
use super::interleaving::Interleaving;
use super::pool::PoolBlock;
use crate::driver::codes::{Code, Error, Result};
use crate::driver::registry::lock;
use crate::driver::settings::Settings;
use crate::machine::{Memory, MemoryError, Options};

/// The error of a host call that was given a bad range.
pub(crate) fn bad_range(error: MemoryError) -> Error {
    Code::INVALID_VALUE.because(error)
}

/// What work runs on.
pub(crate) struct Device {
    pub(crate) memory: Memory,
    pub(crate) options: Options,
    pub(crate) meter: Option<Mutex<File>>,
    pub(crate) interleaving: Interleaving,
    pub(crate) host: HostMemory,
    /// Stream-ordered allocations by address.
    pub(crate) pool_blocks: Mutex<HashMap<u64, PoolBlock>>,
    /// Addresses whose stream-ordered free is submitted and has not run.
    pub(crate) freeing: Mutex<HashSet<u64>>,
    /// Addresses allocated by captured graphs and freed with them.
    pub(crate) graph_owned: Mutex<HashSet<u64>>,
}

impl Device {
    /// Makes the device that the settings describe.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let memory = Memory::new(settings.memory_bytes).map_err(|e| {
            Code::NO_DEVICE
                .because(format!("expected to reserve {} bytes of address space, got: {e}", settings.memory_bytes))
        })?;
        Ok(Self {
            memory,
            options: settings.options,
            meter: settings.meter.map(Mutex::new),
            interleaving: Interleaving::new(settings.order),
            host: HostMemory::default(),
            pool_blocks: Mutex::default(),
            freeing: Mutex::default(),
            graph_owned: Mutex::default(),
        })
    }

    /// The compute capability as 75, 80 or 90.
    pub(crate) fn capability(&self) -> u32 {
        let (major, minor) = self.options.arch.compute_capability();
        10 * major + minor
    }

    /// Ends an allocation of any origin.
    pub(crate) fn free(&self, ptr: u64) -> Result<()> {
        lock(&self.freeing).remove(&ptr);
        lock(&self.graph_owned).remove(&ptr);
        self.host.forget(ptr);
        if let Some(block) = lock(&self.pool_blocks).remove(&ptr) {
            block.release();
        }
        self.memory.free(ptr).map_err(bad_range)
    }

    /// Ends an allocation that a captured graph owned, if nobody has freed it.
    pub(crate) fn free_graph_owned(&self, ptr: u64) {
        if lock(&self.graph_owned).remove(&ptr) {
            // It is in the set, so it was allocated and nobody freed it.
            let _ = self.memory.free(ptr);
        }
    }

    /// Checks that a free of `ptr` may be submitted.
    pub(crate) fn check_free(&self, ptr: u64) -> Result<()> {
        match self.memory.allocation_of(ptr) {
            Some((base, _)) if base == ptr && !lock(&self.freeing).contains(&ptr) && !self.host.is_pinned(ptr) => {
                Ok(())
            }
            Some((base, bytes)) if base != ptr => {
                let message = format!("expected the start {base:#x} of its allocation of {bytes} bytes, got {ptr:#x}");
                Err(Code::INVALID_VALUE.because(message))
            }
            _ => Err(Code::INVALID_VALUE.because(format!("expected live device memory, got {ptr:#x}"))),
        }
    }
}
