//! The memory of a safe call, held until its kernels are on the stream.

use super::held::Held;
use super::raw_call::Queue;
use super::{Access, Address, Buffer, Device, RawCall};
use crate::error::{Error, Result};
use cudarc::driver::{DevicePtr, DevicePtrMut, DeviceSlice};

/// Pieces of memory that a call may hold: more than any does, so that none is allocated for.
const MOST: usize = 32;

/// The buffers of one safe call, from which its raw call is filled in: borrowed, of the device's context, and ordered with what
/// other streams do with them until [`Arguments::launch`] has started the kernels.
pub(crate) struct Arguments<'a> {
    device: &'a Device,
    /// The first `count`.
    memory: [Memory; MOST],
    count: usize,
    held: Held<'a>,
}

/// A borrowed piece of memory.
#[derive(Debug, Clone, Copy)]
struct Memory {
    first: u64,
    bytes: u64,
    access: Access,
}

impl Memory {
    const NONE: Memory = Memory { first: 0, bytes: 0, access: Access::Read };
}

impl<'a> Arguments<'a> {
    /// Nothing yet.
    pub(crate) fn new(device: &'a Device) -> Self {
        Arguments { device, memory: [Memory::NONE; MOST], count: 0, held: Held::new(device) }
    }

    /// Holds memory that the call reads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for memory of another context, and in a capture for that of another stream.
    pub(crate) fn read<T, S: DevicePtr<T>>(&mut self, what: &'static str, slice: &'a S) -> Result<Address<T>> {
        let address = self.held.read(what, slice)?;
        Ok(self.keep(address, slice.len(), Access::Read))
    }

    /// Holds memory that the call writes.
    ///
    /// # Errors
    /// As [`Arguments::read`].
    pub(crate) fn write<T, S: DevicePtrMut<T>>(&mut self, what: &'static str, slice: &'a mut S) -> Result<Address<T>> {
        let len = DeviceSlice::len(slice);
        let address = self.held.write(what, slice)?;
        Ok(self.keep(address, len, Access::Write))
    }

    fn keep<T>(&mut self, first: u64, len: usize, access: Access) -> Address<T> {
        self.memory[self.count] = Memory { first, bytes: (len * size_of::<T>()) as u64, access };
        self.count += 1;
        Address::new(first)
    }

    /// Puts a call on the device's stream, if every buffer that it names lies in memory that is held.
    ///
    /// Numbers that kernels find in the memory (slots, rows, pages) are the care of the types that own it: they let nothing in
    /// that is not checked.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer that is too short, and those of [`RawCall::launch`]; nothing is launched then.
    pub(crate) fn launch(self, call: &impl RawCall) -> Result<()> {
        call.check_sizes(self.device)?;
        let mut result = Ok(());
        call.name_buffers(self.device, &mut |buffer| {
            if result.is_ok() {
                result = self.check(&buffer);
            }
        });
        result?;
        // SAFETY: every buffer of the call lies in memory of this context that is held until the kernels have been put on the
        // stream, which orders uses on other streams with this one; writes are to memory that is borrowed mutably.
        self.held.launch(|_| call.enqueue(&unsafe { Queue::on_stream_of(self.device) }))
    }

    fn check(&self, buffer: &Buffer) -> Result<()> {
        if buffer.elems == 0 {
            return Ok(());
        }
        let has = |memory: &&Memory| {
            (memory.first..memory.first + memory.bytes).contains(&buffer.address)
                && (buffer.access == Access::Read || memory.access == Access::Write)
        };
        let left = |memory: &Memory| memory.first + memory.bytes - buffer.address;
        let got = self.memory[..self.count].iter().filter(has).map(left).max().unwrap_or(0) as usize;
        if buffer.bytes() > got {
            let got = got / buffer.element_bytes;
            return Err(Error::Length { what: buffer.what, expected: buffer.elems, got });
        }
        buffer.check()
    }
}
