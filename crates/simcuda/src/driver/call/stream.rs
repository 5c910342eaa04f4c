//! Calls on streams.

use std::ffi::c_void;

use crate::driver::abi::{HostCall, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::stream::NON_BLOCKING;
use crate::driver::object::work::Work;
use crate::driver::registry::{fresh_id, lock};
use crate::driver::state::driver;
use crate::driver::streams::{PER_THREAD, find};

fn create_with(out: &Out<usize>, flags: u32, priority: i32) -> Result<()> {
    let (driver, context) = current()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE.into());
    }
    out.set(driver.open_stream(fresh_id(), &context, flags, priority).handle)
}

api! {
    fn cuStreamCreate(out: Out<usize>, flags: u32) {
        create_with(&out, flags, 0)
    }

    fn cuStreamCreateWithPriority(out: Out<usize>, flags: u32, priority: i32) {
        create_with(&out, flags, priority)
    }

    fn cuStreamDestroy_v2(handle: usize) {
        let driver = driver()?;
        if handle <= PER_THREAD || driver.streams.get(handle)?.is_default() {
            return Err(Code::INVALID_HANDLE.into());
        }
        let stream = driver.streams.remove(handle)?;
        if let Some(capture) = lock(&stream.capture).take() {
            capture.invalidate();
        }
        driver.scheduler.run_to(driver.scheduler.last(handle));
        driver.scheduler.close(handle);
        stream.context.check()
    }

    fn cuStreamSynchronize(handle: usize) {
        let (driver, stream) = find(handle)?;
        driver.scheduler.run_to(driver.end_mark(&stream)?);
        stream.context.check()
    }

    fn cuStreamQuery(handle: usize) {
        let (driver, stream) = find(handle)?;
        driver.scheduler.query(driver.end_mark(&stream)?)?;
        stream.context.check()
    }

    fn cuStreamGetFlags(handle: usize, flags: Out<u32>) {
        flags.set(find(handle)?.1.flags)
    }

    fn cuStreamGetPriority(handle: usize, priority: Out<i32>) {
        priority.set(find(handle)?.1.priority)
    }

    fn cuStreamGetCtx(handle: usize, context: Out<usize>) {
        context.set(find(handle)?.1.context.handle)
    }

    fn cuStreamGetDevice(handle: usize, device: Out<i32>) {
        find(handle)?;
        device.set(0)
    }

    fn cuStreamGetId(handle: usize, id: Out<u64>) {
        id.set(find(handle)?.1.handle as u64)
    }

    fn cuStreamAttachMemAsync(handle: usize, ptr: u64, _bytes: usize, _flags: u32) {
        // Managed memory is visible everywhere here; only the arguments are checked.
        let (driver, _) = find(handle)?;
        driver.device.memory.allocation_of(ptr).map(drop).ok_or_else(|| Code::INVALID_VALUE.into())
    }

    fn cuLaunchHostFunc(handle: usize, function: Option<unsafe extern "C" fn(*mut c_void)>, argument: usize) {
        let (driver, stream) = find(handle)?;
        if function.is_none() {
            return Err(Code::INVALID_VALUE.into());
        }
        driver.enqueue(&stream, Work::Host(HostCall { function, argument }))
    }
}
