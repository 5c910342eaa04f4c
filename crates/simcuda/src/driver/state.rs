//! The driver: the one device and the live objects of every kind.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

use super::codes::{Code, Result};
use super::object::capture::Capture;
use super::object::context::Context;
use super::object::device::Device;
use super::object::event::Event;
use super::object::graph::{Graph, GraphExec};
use super::object::kernel::{Kernel, LoadedModule};
use super::object::library::{Library, LibraryKernel};
use super::object::pool::Pool;
use super::object::schedule::Scheduler;
use super::object::stream::Stream;
use super::registry::{Registry, lock};
use super::settings::Settings;

/// Everything behind the exported functions.
pub(crate) struct Driver {
    pub(crate) device: Arc<Device>,
    pub(crate) scheduler: Scheduler,
    pub(crate) contexts: Registry<Context>,
    pub(crate) streams: Registry<Stream>,
    pub(crate) thread_streams: Mutex<HashMap<(usize, ThreadId), Arc<Stream>>>,
    pub(crate) events: Registry<Event>,
    pub(crate) modules: Registry<LoadedModule>,
    pub(crate) kernels: Registry<Kernel>,
    pub(crate) libraries: Registry<Library>,
    pub(crate) library_kernels: Registry<LibraryKernel>,
    pub(crate) graphs: Registry<Graph>,
    pub(crate) graph_execs: Registry<GraphExec>,
    pub(crate) pools: Registry<Pool>,
    pub(crate) default_pool: Arc<Pool>,
    /// The pool that cuMemAllocAsync draws from.
    pub(crate) current_pool: Mutex<Arc<Pool>>,
    /// Captures that have begun and not ended.
    pub(crate) captures: Mutex<Vec<Arc<Capture>>>,
    pub(crate) primary: Mutex<Primary>,
}

/// The primary context and how often it is retained.
#[derive(Default)]
pub(crate) struct Primary {
    pub(crate) context: Option<Arc<Context>>,
    pub(crate) retains: u32,
    pub(crate) flags: u32,
}

static DRIVER: OnceLock<Driver> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Starts the driver once; later calls find it running.
pub(crate) fn start() -> Result<()> {
    let _starting = lock(&STARTING);
    if DRIVER.get().is_none() {
        let driver = Driver::new(Settings::from_environment()?)?;
        // `STARTING` is held, so the cell is still empty.
        DRIVER.get_or_init(|| driver);
    }
    Ok(())
}

/// Finds the running driver; `CUDA_ERROR_NOT_INITIALIZED` before cuInit.
pub(crate) fn driver() -> Result<&'static Driver> {
    DRIVER.get().ok_or_else(|| Code::NOT_INITIALIZED.into())
}

/// Finds the running driver and checks a device ordinal, of which there is one.
pub(crate) fn of_device(ordinal: i32) -> Result<&'static Driver> {
    let driver = driver()?;
    if ordinal == 0 { Ok(driver) } else { Err(Code::INVALID_DEVICE.into()) }
}

impl Driver {
    fn new(settings: Settings) -> Result<Self> {
        let device = Arc::new(Device::new(settings)?);
        let default_pool = Arc::new(Pool::new());
        let pools = Registry::new();
        pools.insert(default_pool.handle, default_pool.clone());
        Ok(Self {
            scheduler: Scheduler::new(device.clone()),
            device,
            contexts: Registry::new(),
            streams: Registry::new(),
            thread_streams: Mutex::default(),
            events: Registry::new(),
            modules: Registry::new(),
            kernels: Registry::new(),
            libraries: Registry::new(),
            library_kernels: Registry::new(),
            graphs: Registry::new(),
            graph_execs: Registry::new(),
            pools,
            current_pool: Mutex::new(default_pool.clone()),
            default_pool,
            captures: Mutex::default(),
            primary: Mutex::default(),
        })
    }

    /// Runs everything that has been submitted.
    pub(crate) fn drain(&self) {
        self.scheduler.run_all();
    }

    /// Allocates; when memory is short, first lets submitted frees run.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("expected a size from 1 byte up, got 0"));
        }
        let memory = &self.device.memory;
        if let Some(ptr) = memory.alloc(bytes) {
            return Ok(ptr);
        }
        self.drain();
        memory.alloc(bytes).ok_or_else(|| {
            let (free, total) = memory.info();
            Code::OUT_OF_MEMORY.because(format!("expected at most {free} free of {total} bytes, got {bytes}"))
        })
    }
}
