//! The device memory that a caller lends to one call.

use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::status::{Fault, Outcome};
use moray::Error;
use moray::device::{Access, Address, Buffer, Device, RawCall};

/// Pieces that a call may have: more than any does.
const MOST: usize = 32;

/// What a piece of memory is to a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Extent {
    /// One buffer, of exactly this size.
    Whole,
    /// Buffers of the call's own arrangement, of so many bytes at least.
    AtLeast(usize),
    /// A buffer of rows between which those of others of its kind may lie.
    Interleaved,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    what: &'static str,
    memory: MorayBytes,
    access: Access,
    extent: Extent,
}

/// The memory that a call's arguments name, to be compared with what the call's kernels touch.
#[derive(Debug, Default)]
pub(crate) struct Lent {
    pieces: [Option<Piece>; MOST],
    count: usize,
}

impl Lent {
    /// Memory that is read.
    pub(super) fn read<T>(&mut self, what: &'static str, memory: MorayBytes) -> Address<T> {
        self.enter(Piece { what, memory, access: Access::Read, extent: Extent::Whole })
    }

    /// Memory that is read, or left out.
    pub(super) fn optional<T>(&mut self, what: &'static str, memory: MorayBytes) -> Option<Address<T>> {
        (!memory.is_none()).then(|| self.read(what, memory))
    }

    /// Memory that is written.
    pub(super) fn write<T>(&mut self, what: &'static str, memory: MorayBytesMut) -> Address<T> {
        self.enter(Piece { what, memory: memory.as_read(), access: Access::Write, extent: Extent::Whole })
    }

    /// Memory that is written, or left out.
    pub(super) fn optional_write<T>(&mut self, what: &'static str, memory: MorayBytesMut) -> Option<Address<T>> {
        (!memory.as_read().is_none()).then(|| self.write(what, memory))
    }

    /// Memory of at least so many bytes, in which the call arranges what it reads.
    pub(super) fn read_within(&mut self, what: &'static str, memory: MorayBytes, bytes: usize) -> Address {
        self.enter(Piece { what, memory, access: Access::Read, extent: Extent::AtLeast(bytes) })
    }

    /// Memory of at least so many bytes, in which the call arranges what it writes.
    pub(super) fn write_within(&mut self, what: &'static str, memory: MorayBytesMut, bytes: usize) -> Address {
        let extent = Extent::AtLeast(bytes);
        self.enter(Piece { what, memory: memory.as_read(), access: Access::Write, extent })
    }

    /// Rows that are read and need not be all of the memory.
    pub(super) fn read_rows<T>(&mut self, what: &'static str, memory: MorayBytes) -> Address<T> {
        self.enter(Piece { what, memory, access: Access::Read, extent: Extent::Interleaved })
    }

    /// Rows that are written and need not be all of the memory.
    pub(super) fn write_rows<T>(&mut self, what: &'static str, memory: MorayBytesMut) -> Address<T> {
        self.enter(Piece { what, memory: memory.as_read(), access: Access::Write, extent: Extent::Interleaved })
    }

    fn enter<T>(&mut self, piece: Piece) -> Address<T> {
        self.pieces[self.count] = Some(piece);
        self.count += 1;
        Address::new(piece.memory.data.addr() as u64)
    }

    fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.pieces.iter().flatten()
    }

    /// Checks that every buffer of a call lies in memory that was lent for it, and that what is written is apart from the rest.
    pub(super) fn check(&self, device: &Device, call: &impl RawCall) -> Outcome {
        self.pieces().try_for_each(Piece::check_address)?;
        call.check(device).map_err(|error| null(self.named(error)))?;
        self.pieces().try_for_each(Piece::check_extent)?;
        // where two have the same address, a buffer there would be taken for either
        self.check_apart()?;
        let mut result = Ok(());
        call.visit_buffers(device, &mut |buffer| {
            if result.is_ok() {
                result = self.covers(&buffer);
            }
        });
        result
    }

    /// Checks that kernels of the device's context reach all of it, as far as the driver says.
    pub(super) fn check_reach(&self, device: &Device) -> Outcome {
        self.pieces().try_for_each(|piece| {
            device.check_memory(piece.what, piece.memory.data.addr() as u64, piece.memory.bytes)?;
            Ok(())
        })
    }

    /// An error of an address with C's name for the memory that it is in.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Misaligned { what, expected, got } => {
                let piece = self.pieces().find(|piece| piece.has(got));
                Error::Misaligned { what: piece.map_or(what, |piece| piece.what), expected, got }
            }
            error => error,
        }
    }

    fn covers(&self, buffer: &Buffer) -> Outcome {
        let is_it = |piece: &&Piece| piece.has(buffer.address) && (buffer.access == Access::Read || piece.is_written());
        let (what, bytes) = match self.pieces().find(is_it) {
            Some(_) if self.pieces().filter(is_it).any(|piece| piece.holds(buffer)) => return Ok(()),
            None if buffer.elems == 0 => return Ok(()),
            Some(piece) => (piece.what, piece.left(buffer.address)),
            None => (buffer.what, 0),
        };
        Err(Error::Length { what, expected: buffer.elems, got: bytes / buffer.element_bytes }.into())
    }

    fn check_apart(&self) -> Outcome {
        for (i, written) in self.pieces().enumerate().filter(|(_, piece)| piece.is_written()) {
            let other = self.pieces().enumerate().find(|&(j, piece)| i != j && written.disturbs(piece));
            if let Some((_, other)) = other {
                return Err(Fault::Overlap { what: written.what, other: other.what });
            }
        }
        Ok(())
    }
}

/// What is left out and needed is null to C.
fn null(error: Error) -> Fault {
    match error {
        Error::Misaligned { what, got: 0, .. } => Fault::Null { what },
        error => error.into(),
    }
}

impl Piece {
    fn is_written(&self) -> bool {
        self.access == Access::Write
    }

    fn has(&self, address: u64) -> bool {
        let range = self.memory.range();
        let address = address as usize;
        address == range.start && !self.memory.is_none() || range.contains(&address)
    }

    /// Whether what is written here may be what another piece has.
    fn disturbs(&self, other: &Piece) -> bool {
        let (a, b) = (self.memory.range(), other.memory.range());
        let interleaved = self.extent == Extent::Interleaved && other.extent == Extent::Interleaved;
        a.start < b.end && b.start < a.end && !(interleaved && other.is_written())
    }

    /// Whether a buffer that begins here is as large as the piece says.
    fn holds(&self, buffer: &Buffer) -> bool {
        let left = self.left(buffer.address);
        if self.extent == Extent::Whole { left == buffer.bytes() } else { left >= buffer.bytes() }
    }

    /// Bytes from an address on.
    fn left(&self, address: u64) -> usize {
        self.memory.range().end - address as usize
    }

    fn check_address(&self) -> Outcome {
        match self.memory.data.is_null() && self.memory.bytes > 0 {
            true => Err(Fault::Null { what: self.what }),
            false => Ok(()),
        }
    }

    fn check_extent(&self) -> Outcome {
        match self.extent {
            Extent::AtLeast(expected) if self.memory.bytes < expected => {
                Err(Error::Length { what: self.what, expected, got: self.memory.bytes }.into())
            }
            _ => Ok(()),
        }
    }
}
