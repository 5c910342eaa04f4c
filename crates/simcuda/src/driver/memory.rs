//! Allocation of device memory, and what a pointer is.

use super::abi::{In, Out, api};
use super::capture;
use super::codes::{Code, Error, Result};
use super::context;
use super::registry::lock;
use super::state::Driver;
use super::stream;
use super::work::Work;
use crate::machine::MemoryError;

/// The error of a host call that was given a bad range.
pub(super) fn bad_range(error: MemoryError) -> Error {
    Code::INVALID_VALUE.because(error)
}

impl Driver {
    /// Allocates; when memory is short, first lets submitted frees run.
    pub(super) fn alloc(&self, bytes: usize) -> Result<u64> {
        if bytes == 0 {
            return Err(Code::INVALID_VALUE.because("expected a size from 1 byte up, got 0"));
        }
        if let Some(ptr) = self.memory.alloc(bytes) {
            return Ok(ptr);
        }
        self.drain();
        self.memory.alloc(bytes).ok_or_else(|| {
            let (free, total) = self.memory.info();
            Code::OUT_OF_MEMORY.because(format!("expected at most {free} free of {total} bytes, got {bytes}"))
        })
    }

    /// Ends an allocation of any origin.
    pub(super) fn free_now(&self, ptr: u64) -> Result<()> {
        lock(&self.freeing).remove(&ptr);
        lock(&self.graph_owned).remove(&ptr);
        self.host.forget(ptr);
        if let Some(block) = lock(&self.pool_blocks).remove(&ptr) {
            block.release();
        }
        self.memory.free(ptr).map_err(bad_range)
    }

    /// Checks that a free of `ptr` may be submitted.
    pub(super) fn check_free(&self, ptr: u64) -> Result<()> {
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

const ROW_ALIGN_BYTES: usize = 512;

/// `CUpointer_attribute` values that have an answer here.
fn pointer_attribute(driver: &Driver, context: usize, attribute: i32, ptr: u64) -> Result<PointerAttribute> {
    let (base, bytes) = driver.memory.allocation_of(ptr).ok_or(Code::INVALID_VALUE)?;
    let pinned = driver.host.is_pinned(base);
    Ok(match attribute {
        1 => PointerAttribute::Word(context as u64),
        2 => PointerAttribute::Int(if pinned { 1 } else { 2 }),
        3 => PointerAttribute::Word(ptr),
        4 if pinned => PointerAttribute::Word(ptr),
        7 => PointerAttribute::Word(base),
        8 => PointerAttribute::Int(i32::from(driver.host.is_managed(base))),
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
        let (driver, _) = context::current()?;
        capture::refuse_unsafe_call(driver)?;
        out.set(driver.alloc(bytes)?)
    }

    fn cuMemAllocPitch_v2(out: Out<u64>, pitch: Out<usize>, width: usize, height: usize, _element_bytes: u32) {
        let (driver, _) = context::current()?;
        capture::refuse_unsafe_call(driver)?;
        let row = width.checked_next_multiple_of(ROW_ALIGN_BYTES).ok_or(Code::INVALID_VALUE)?;
        out.set(driver.alloc(row.checked_mul(height).ok_or(Code::INVALID_VALUE)?)?)?;
        pitch.set(row)
    }

    fn cuMemFree_v2(ptr: u64) {
        let (driver, context) = context::current()?;
        if ptr == 0 {
            return Ok(());
        }
        capture::refuse_unsafe_call(driver)?;
        // As the real call does, this waits for everything that may still use the memory.
        driver.drain();
        context.check()?;
        driver.check_free(ptr)?;
        driver.free_now(ptr)
    }

    fn cuMemFreeAsync(ptr: u64, stream: usize) {
        let (driver, stream) = stream::find(stream)?;
        if ptr == 0 {
            return Ok(());
        }
        driver.check_free(ptr)?;
        if let Some(capture) = stream.active_capture() {
            if !capture.owns(ptr) {
                return Err(Code::INVALID_VALUE.because("expected memory allocated in the same capture"));
            }
            // The graph keeps its memory for the next launch; the node only marks the end of its use.
            return capture.add(stream.handle, Work::Nothing).map(drop);
        }
        lock(&driver.freeing).insert(ptr);
        stream.enqueue(driver, Work::Free(ptr))
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (driver, _) = context::current()?;
        let info = driver.memory.info();
        free.set(info.0)?;
        total.set(info.1)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, bytes: Out<usize>, ptr: u64) {
        let (driver, _) = context::current()?;
        let range = driver.memory.allocation_of(ptr).ok_or(Code::NOT_FOUND)?;
        base.set_if_wanted(range.0);
        bytes.set_if_wanted(range.1);
        Ok(())
    }

    fn cuPointerGetAttribute(out: Out<u64>, attribute: i32, ptr: u64) {
        let (driver, context) = context::current()?;
        match pointer_attribute(driver, context.handle, attribute, ptr)? {
            PointerAttribute::Int(value) => out.cast::<i32>().set(value),
            PointerAttribute::Word(value) => out.set(value),
        }
    }

    fn cuPointerGetAttributes(count: u32, attributes: In<i32>, out: In<Out<u64>>, ptr: u64) {
        let (driver, context) = context::current()?;
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
