//! Allocation of device memory, and what a pointer is.

use crate::driver::abi::{In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::object::work::Work;
use crate::driver::registry::lock;
use crate::driver::state::Driver;
use crate::driver::streams;

const ROW_ALIGN_BYTES: usize = 512;

/// `CUpointer_attribute` values that have an answer here.
fn pointer_attribute(driver: &Driver, context: usize, attribute: i32, ptr: u64) -> Result<PointerAttribute> {
    let (base, bytes) = driver.device.memory.allocation_of(ptr).ok_or(Code::INVALID_VALUE)?;
    let pinned = driver.device.host.is_pinned(base);
    Ok(match attribute {
        1 => PointerAttribute::Word(context as u64),
        2 => PointerAttribute::Int(if pinned { 1 } else { 2 }),
        3 => PointerAttribute::Word(ptr),
        4 if pinned => PointerAttribute::Word(ptr),
        7 => PointerAttribute::Word(base),
        8 => PointerAttribute::Int(i32::from(driver.device.host.is_managed(base))),
        9 => PointerAttribute::Int(0),
        11 => PointerAttribute::Word(base),
        12 => PointerAttribute::Word(bytes as u64),
        13 => PointerAttribute::Int(1),
        _ => return Err(Code::INVALID_VALUE.into()),
    })
}

enum PointerAttribute {
    Int(i32),
    Word(u64),
}

api! {
    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) {
        let (driver, _) = current()?;
        driver.refuse_unsafe_call()?;
        out.set(driver.alloc(bytes)?)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element_bytes: u32) {
        let (driver, _) = current()?;
        driver.refuse_unsafe_call()?;
        let row = width.checked_next_multiple_of(ROW_ALIGN_BYTES).ok_or(Code::INVALID_VALUE)?;
        out.set(driver.alloc(row.checked_mul(height).ok_or(Code::INVALID_VALUE)?)?)?;
        pitch.set(row)
    }

    fn cuMemFree_v2(ptr: u64) {
        let (driver, context) = current()?;
        if ptr == 0 {
            return Ok(());
        }
        driver.refuse_unsafe_call()?;
        // As the real call does, this waits for everything that may still use the memory.
        driver.drain();
        context.check()?;
        driver.device.check_free(ptr)?;
        driver.device.free(ptr)
    }

    fn cuMemFreeAsync(ptr: u64, stream: usize) {
        let (driver, stream) = streams::find(stream)?;
        if ptr == 0 {
            return Ok(());
        }
        driver.device.check_free(ptr)?;
        if let Some(capture) = stream.active_capture() {
            if !capture.owns(ptr) {
                return Err(Code::INVALID_VALUE.because("expected memory allocated in the same capture"));
            }
            // The graph keeps its memory for the next launch; the node only marks the end of its use.
            return capture.add(stream.handle, Work::Nothing).map(drop);
        }
        lock(&driver.device.freeing).insert(ptr);
        driver.enqueue(&stream, Work::Free(ptr))
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (driver, _) = current()?;
        let info = driver.device.memory.info();
        free.set(info.0)?;
        total.set(info.1)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, ptr: u64) {
        let (driver, _) = current()?;
        let range = driver.device.memory.allocation_of(ptr).ok_or(Code::NOT_FOUND)?;
        base.set_if_wanted(range.0);
        bytes.set_if_wanted(range.1);
        Ok(())
    }

    fn cuPointerGetAttribute(out: Out<u64>, attribute: i32, ptr: u64) {
        let (driver, context) = current()?;
        match pointer_attribute(driver, context.handle, attribute, ptr)? {
            PointerAttribute::Int(value) => out.cast::<i32>().set(value),
            PointerAttribute::Word(value) => out.set(value),
        }
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<i32>, out: In<Out<u64>>, ptr: u64) {
        let (driver, context) = current()?;
        for i in 0..count as usize {
            // Of a pointer that CUDA does not know every attribute is zero.
            match pointer_attribute(driver, context.handle, attributes.at(i)?, ptr) {
                Ok(PointerAttribute::Word(value)) => out.at(i)?.set(value)?,
                Ok(PointerAttribute::Int(value)) => out.at(i)?.cast::<i32>().set(value)?,
                Err(_) => out.at(i)?.cast::<i32>().set(0)?,
            }
        }
        Ok(())
    }
}
