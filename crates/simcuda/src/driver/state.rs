//! The driver's state: the one device, its memory, and the live objects of every kind.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

use super::capture::Capture;
use super::codes::{Code, Result};
use super::context::Context;
use super::event::Event;
use super::graph::{Graph, GraphExec};
use super::host::HostMemory;
use super::module::{Kernel, LoadedModule};
use super::pool::{Pool, PoolBlock};
use super::registry::{Registry, lock};
use super::schedule::Scheduler;
use super::settings::Settings;
use super::stream::Stream;
use crate::machine::{Memory, Options};

/// Everything behind the exported functions.
pub(super) struct Driver {
    pub(super) memory: Memory,
    pub(super) options: Options,
    pub(super) meter: Option<Mutex<File>>,
    pub(super) scheduler: Scheduler,
    pub(super) contexts: Registry<Context>,
    pub(super) streams: Registry<Stream>,
    pub(super) thread_streams: Mutex<HashMap<(usize, ThreadId), Arc<Stream>>>,
    pub(super) events: Registry<Event>,
    pub(super) modules: Registry<LoadedModule>,
    pub(super) kernels: Registry<Kernel>,
    pub(super) graphs: Registry<Graph>,
    pub(super) graph_execs: Registry<GraphExec>,
    pub(super) pools: Registry<Pool>,
    pub(super) default_pool: Arc<Pool>,
    /// The pool that cuMemAllocAsync draws from.
    pub(super) current_pool: Mutex<Arc<Pool>>,
    /// Stream-ordered allocations by address.
    pub(super) pool_blocks: Mutex<HashMap<u64, PoolBlock>>,
    /// Addresses whose stream-ordered free is submitted and has not run.
    pub(super) freeing: Mutex<HashSet<u64>>,
    /// Addresses allocated by captured graphs and freed with them.
    pub(super) graph_owned: Mutex<HashSet<u64>>,
    pub(super) host: HostMemory,
    /// Captures that have begun and not ended.
    pub(super) captures: Mutex<Vec<Arc<Capture>>>,
    pub(super) primary: Mutex<Primary>,
}

/// The primary context and how often it is retained.
#[derive(Default)]
pub(super) struct Primary {
    pub(super) context: Option<Arc<Context>>,
    pub(super) retains: u32,
    pub(super) flags: u32,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Starts the driver once; later calls find it running.
pub(super) fn start() -> Result<()> {
    let _starting = lock(&STARTING);
    if DRIVER.get().is_some() {
        return Ok(());
    }
    let settings = Settings::from_environment()?;
    let memory = Memory::new(settings.memory_bytes).map_err(|e| {
        Code::NO_DEVICE
            .because(format!("expected to reserve {} bytes of address space, got: {e}", settings.memory_bytes))
    })?;
    let default_pool = Arc::new(Pool::new());
    let driver = Driver {
        memory,
        options: settings.options,
        meter: settings.meter.map(Mutex::new),
        scheduler: Scheduler::new(settings.order),
        contexts: Registry::new(),
        streams: Registry::new(),
        thread_streams: Mutex::new(HashMap::new()),
        events: Registry::new(),
        modules: Registry::new(),
        kernels: Registry::new(),
        graphs: Registry::new(),
        graph_execs: Registry::new(),
        pools: Registry::new(),
        default_pool: default_pool.clone(),
        current_pool: Mutex::new(default_pool.clone()),
        pool_blocks: Mutex::new(HashMap::new()),
        freeing: Mutex::new(HashSet::new()),
        graph_owned: Mutex::new(HashSet::new()),
        host: HostMemory::default(),
        captures: Mutex::new(Vec::new()),
        primary: Mutex::new(Primary::default()),
    };
    driver.pools.insert(default_pool.handle, default_pool);
    // `STARTING` is held, so the cell is still empty.
    DRIVER.get_or_init(|| driver);
    Ok(())
}

/// Finds the running driver; `CUDA_ERROR_NOT_INITIALIZED` before cuInit.
pub(super) fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or_else(|| Code::NOT_INITIALIZED.into())
}

/// Finds the running driver and checks a device ordinal, of which there is one.
pub(super) fn device(ordinal: i32) -> Result<&'static Driver> {
    let driver = driver()?;
    if ordinal == 0 { Ok(driver) } else { Err(Code::INVALID_DEVICE.into()) }
}

impl Driver {
    /// The compute capability as 75, 80 or 90.
    pub(super) fn capability(&self) -> u32 {
        let (major, minor) = self.options.arch.compute_capability();
        10 * major + minor
    }

    /// Runs everything that has been submitted.
    pub(super) fn drain(&self) {
        self.scheduler.run_all(self);
    }
}
