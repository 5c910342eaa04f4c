//! Calls on contexts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::driver::abi::{In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::{current, pop, push, top};
use crate::driver::object::context::Context;
use crate::driver::object::stream::{GREATEST_PRIORITY, default_handle};
use crate::driver::registry::lock;
use crate::driver::state::{Driver, driver, of_device};

fn create(driver: &Driver, flags: u32) -> Arc<Context> {
    let context = Context::new(flags);
    driver.contexts.insert(context.handle, context.clone());
    driver.open_stream(default_handle(&context), &context, 0, 0);
    context
}

/// Runs a context's work to its end and drops what lives in it.
fn destroy(driver: &Driver, context: &Context) {
    driver.drain();
    context.set_destroyed();
    let is_other = |owner: &Context| owner.handle != context.handle;
    driver.streams.retain(|stream| is_other(&stream.context));
    lock(&driver.thread_streams).retain(|key, _| key.0 != context.handle);
    driver.events.retain(|event| is_other(&event.context));
    driver.modules.retain(|module| is_other(&module.context));
    driver.kernels.retain(|kernel| is_other(&kernel.module.context));
    let _ = driver.contexts.remove(context.handle);
}

fn find(driver: &Driver, handle: usize) -> Result<Arc<Context>> {
    driver.contexts.get(handle).map_err(|_| Code::INVALID_CONTEXT.into())
}

/// The context of a handle, or the current one for null.
fn given_or_current(handle: usize) -> Result<(&'static Driver, Arc<Context>)> {
    if handle == 0 {
        return current();
    }
    let driver = driver()?;
    let context = find(driver, handle)?;
    context.check()?;
    Ok((driver, context))
}

fn synchronize((driver, context): (&Driver, Arc<Context>)) -> Result<()> {
    driver.refuse_unsafe_call()?;
    driver.drain();
    context.check()
}

fn create_current(out: &Out<usize>, flags: u32, device: i32) -> Result<()> {
    let context = create(of_device(device)?, flags);
    out.set(context.handle)?;
    push(context);
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
        destroy(driver, &context);
    }
}

api! {
    fn cuDevicePrimaryCtxRetain(out: Out<usize>, device: i32) {
        let driver = of_device(device)?;
        let mut primary = lock(&driver.primary);
        let flags = primary.flags;
        let context = primary.context.get_or_insert_with(|| create(driver, flags)).clone();
        primary.retains += 1;
        out.set(context.handle)
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        let driver = of_device(device)?;
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
        end_primary(of_device(device)?);
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let driver = of_device(device)?;
        let mut primary = lock(&driver.primary);
        primary.flags = flags;
        if let Some(context) = &primary.context {
            context.flags.store(flags, Ordering::Relaxed);
        }
        Ok(())
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let driver = of_device(device)?;
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
        let driver = driver()?;
        let context = find(driver, handle)?;
        if top().is_some_and(|top| top.handle == handle) {
            pop();
        }
        destroy(driver, &context);
        Ok(())
    }

    fn cuCtxGetCurrent(out: Out<usize>) {
        driver()?;
        out.set(top().map_or(0, |context| context.handle))
    }

    fn cuCtxSetCurrent(handle: usize) {
        let driver = driver()?;
        let context = if handle == 0 { None } else { Some(find(driver, handle)?) };
        pop();
        context.into_iter().for_each(push);
        Ok(())
    }

    fn cuCtxPushCurrent_v2(handle: usize) {
        let context = find(driver()?, handle)?;
        push(context);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(out: Out<usize>) {
        driver()?;
        let popped = pop().ok_or(Code::INVALID_CONTEXT)?;
        out.set_if_wanted(popped.handle);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        current()?;
        device.set(0)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, handle: usize) {
        given_or_current(handle)?;
        device.set(0)
    }

    fn cuCtxGetApiVersion(handle: usize, version: Out<u32>) {
        given_or_current(handle)?;
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
        id.set(given_or_current(handle)?.1.handle as u64)
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
        greatest.set_if_wanted(GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxSynchronize() {
        synchronize(current()?)
    }

    fn cuCtxSynchronize_v2(handle: usize) {
        synchronize(given_or_current(handle)?)
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(drop)
    }
}
