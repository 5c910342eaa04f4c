//! Contexts: what is current on a thread, and the fault that ends one.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use super::abi::{In, Out, api};
use super::codes::{Code, Result};
use super::registry::{fresh_id, lock};
use super::state::{self, Driver};
use super::stream;

thread_local! {
    static STACK: RefCell<Vec<Arc<Context>>> = const { RefCell::new(Vec::new()) };
}

/// Stack, printf and heap bytes, launch depth and count, L2 fetch granularity and persistence: `CUlimit` in order.
const DEFAULT_LIMITS: [usize; 7] = [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0];

/// One context of the device.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) handle: usize,
    pub(super) flags: AtomicU32,
    limits: Mutex<[usize; 7]>,
    cache_config: AtomicI32,
    fault: AtomicI32,
    destroyed: AtomicBool,
}

impl Context {
    /// Makes a context with its default stream.
    fn create(driver: &Driver, flags: u32) -> Arc<Self> {
        let context = Arc::new(Self {
            handle: fresh_id(),
            flags: AtomicU32::new(flags),
            limits: Mutex::new(DEFAULT_LIMITS),
            cache_config: AtomicI32::new(0),
            fault: AtomicI32::new(0),
            destroyed: AtomicBool::new(false),
        });
        driver.contexts.insert(context.handle, context.clone());
        stream::add_default(driver, &context);
        context
    }

    /// Ends the context's useful life: from now on its calls return `code`. The first fault stays.
    pub(super) fn poison(&self, code: Code) {
        let _ = self.fault.compare_exchange(0, code.0, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Tells whether a kernel of this context has faulted.
    pub(super) fn is_poisoned(&self) -> bool {
        self.fault.load(Ordering::Acquire) != 0
    }

    /// Returns the fault of an earlier kernel, or that the context is gone.
    pub(super) fn check(&self) -> Result<()> {
        if self.destroyed.load(Ordering::Acquire) {
            return Err(Code::CONTEXT_IS_DESTROYED.into());
        }
        match self.fault.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Code(code).into()),
        }
    }

    /// Runs the context's work to its end and drops what lives in it.
    fn destroy(&self, driver: &Driver) {
        driver.drain();
        self.destroyed.store(true, Ordering::Release);
        driver.streams.retain(|stream| stream.context.handle != self.handle);
        lock(&driver.thread_streams).retain(|key, _| key.0 != self.handle);
        driver.events.retain(|event| event.context.handle != self.handle);
        driver.modules.retain(|module| module.context.handle != self.handle);
        driver.kernels.retain(|kernel| kernel.module.context.handle != self.handle);
        let _ = driver.contexts.remove(self.handle);
    }
}

/// Finds the driver and the thread's current context; `CUDA_ERROR_INVALID_CONTEXT` without one, or its fault.
pub(super) fn current() -> Result<(&'static Driver, Arc<Context>)> {
    let driver = state::driver()?;
    let context = STACK.with_borrow(|stack| stack.last().cloned()).ok_or(Code::INVALID_CONTEXT)?;
    context.check()?;
    Ok((driver, context))
}

fn find(driver: &Driver, handle: usize) -> Result<Arc<Context>> {
    driver.contexts.get(handle).map_err(|_| Code::INVALID_CONTEXT.into())
}

fn create_current(out: &Out<usize>, flags: u32, device: i32) -> Result<()> {
    let context = Context::create(state::device(device)?, flags);
    out.set(context.handle)?;
    STACK.with_borrow_mut(|stack| stack.push(context));
    Ok(())
}

/// Drops the primary context whatever its count.
fn end_primary(driver: &Driver) {
    let ended = {
        let mut primary = lock(&driver.primary);
        primary.retains = 0;
        primary.context.take()
    };
    if let Some(context) = ended {
        context.destroy(driver);
    }
}

api! {
    fn cuDevicePrimaryCtxRetain(out: Out<usize>, device: i32) {
        let driver = state::device(device)?;
        let mut primary = lock(&driver.primary);
        let flags = primary.flags;
        let context = primary.context.get_or_insert_with(|| Context::create(driver, flags)).clone();
        primary.retains += 1;
        out.set(context.handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let driver = state::device(device)?;
        let last = {
            let mut primary = lock(&driver.primary);
            if primary.retains == 0 {
                return Err(Code::INVALID_CONTEXT.into());
            }
            primary.retains -= 1;
            primary.retains == 0
        };
        if last {
            end_primary(driver);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        end_primary(state::device(device)?);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let driver = state::device(device)?;
        let mut primary = lock(&driver.primary);
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let driver = state::device(device)?;
        let primary = lock(&driver.primary);
        flags.set(primary.flags)?;
        active.set(i32::from(primary.context.is_some()))
    }

    fn cuCtxCreate_v2(out: Out<usize>, flags: u32, device: i32) {
        create_current(&out, flags, device)
    }

    fn cuCtxCreate_v3(out: Out<usize>, affinity: In<u8>, count: i32, flags: u32, device: i32) {
        if !affinity.is_null() || count != 0 {
            return Err(Code::NOT_SUPPORTED.because("execution affinity"));
        }
        create_current(&out, flags, device)
    }

    fn cuCtxCreate_v4(out: Out<usize>, params: In<u8>, flags: u32, device: i32) {
        if !params.is_null() {
            return Err(Code::NOT_SUPPORTED.because("context creation parameters"));
        }
        create_current(&out, flags, device)
    }

    fn cuCtxDestroy_v2(handle: usize) {
        let driver = state::driver()?;
        let context = find(driver, handle)?;
        STACK.with_borrow_mut(|stack| {
            if stack.last().is_some_and(|top| top.handle == handle) {
                stack.pop();
            }
        });
        context.destroy(driver);
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<usize>) {
        state::driver()?;
        out.set(STACK.with_borrow(|stack| stack.last().map_or(0, |context| context.handle)))
    }

    fn cuCtxSetCurrent(handle: usize) {
        let driver = state::driver()?;
        let context = if handle == 0 { None } else { Some(find(driver, handle)?) };
        STACK.with_borrow_mut(|stack| {
            stack.pop();
            stack.extend(context);
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(handle: usize) {
        let context = find(state::driver()?, handle)?;
        STACK.with_borrow_mut(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<usize>) {
        state::driver()?;
        let popped = STACK.with_borrow_mut(Vec::pop).ok_or(Code::INVALID_CONTEXT)?;
        out.set_if_wanted(popped.handle);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        current()?;
        device.set(0)
    }

    fn cuCtxGetApiVersion(handle: usize, version: Out<u32>) {
        let driver = state::driver()?;
        if handle == 0 {
            current()?;
        } else {
            find(driver, handle)?;
        }
        version.set(3020)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        flags.set(current()?.1.flags.load(Ordering::Relaxed))
    }

    fn cuCtxSetFlags(flags: u32) {
        current()?.1.flags.store(flags, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetId(handle: usize, id: Out<u64>) {
        let driver = state::driver()?;
        let context = if handle == 0 { current()?.1 } else { find(driver, handle)? };
        id.set(context.handle as u64)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let (_, context) = current()?;
        let limits = lock(&context.limits);
        value.set(*limits.get(limit as usize).ok_or(Code::UNSUPPORTED_LIMIT)?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (_, context) = current()?;
        *lock(&context.limits).get_mut(limit as usize).ok_or(Code::UNSUPPORTED_LIMIT)? = value;
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<i32>) {
        config.set(current()?.1.cache_config.load(Ordering::Relaxed))
    }

    fn cuCtxSetCacheConfig(config: i32) {
        if !(0..=3).contains(&config) {
            return Err(Code::INVALID_VALUE.into());
        }
        current()?.1.cache_config.store(config, Ordering::Relaxed);
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(stream::GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxSynchronize() {
        let (driver, context) = current()?;
        super::capture::refuse_unsafe_call(driver)?;
        driver.drain();
        context.check()
    }
}
