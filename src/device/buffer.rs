//! What a raw call says of the memory that it touches.

use super::Address;
use crate::error::{Error, Result};

/// Whether a call only reads a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read alone: other work may read it at the same time.
    Read,
    /// Written, or written and read.
    Write,
}

/// A buffer of a raw call: where it begins, how much of it the call can touch, and how it must be aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// The name of the call's field.
    pub what: &'static str,
    /// Where it begins.
    pub address: u64,
    /// Elements from there on that the call can touch; `usize::MAX` if they are more than a number can say.
    pub elems: usize,
    /// Bytes of an element.
    pub element_bytes: usize,
    /// What the address is a multiple of.
    pub alignment: u64,
    /// What is done with it.
    pub access: Access,
}

impl Buffer {
    /// `elems` elements that are read, aligned to an element.
    pub(crate) fn read<T>(what: &'static str, address: Address<T>, elems: usize) -> Buffer {
        let (element_bytes, alignment) = (size_of::<T>(), align_of::<T>() as u64);
        Buffer { what, address: address.get(), elems, element_bytes, alignment, access: Access::Read }
    }

    /// `elems` elements that are written.
    pub(crate) fn write<T>(what: &'static str, address: Address<T>, elems: usize) -> Buffer {
        Buffer { access: Access::Write, ..Buffer::read(what, address, elems) }
    }

    /// The same for elements of `bytes` bytes each, aligned to one.
    pub(crate) fn of_bytes(self, bytes: usize) -> Buffer {
        Buffer { element_bytes: bytes, alignment: bytes as u64, ..self }
    }

    /// The same at a multiple of `alignment`.
    pub(crate) fn aligned(self, alignment: u64) -> Buffer {
        Buffer { alignment, ..self }
    }

    /// Bytes that the call can touch.
    pub fn bytes(&self) -> usize {
        self.elems.saturating_mul(self.element_bytes)
    }

    /// Checks everything but that there is memory.
    ///
    /// # Errors
    /// [`Error::Misaligned`] for a null or misaligned address, [`Error::Shape`] for a buffer that ends past the last address.
    pub(crate) fn check(&self) -> Result<()> {
        if self.elems == 0 {
            return Ok(());
        }
        if self.address == 0 || self.address % self.alignment != 0 {
            return Err(Error::Misaligned { what: self.what, expected: self.alignment, got: self.address });
        }
        match self.address.checked_add(self.bytes() as u64) {
            Some(end) if end < 1 << 63 => Ok(()),
            _ => Err(Error::Shape { what: self.what, expected: "fewer than 2^63 bytes", got: self.elems }),
        }
    }
}

/// The product of sizes, or `usize::MAX` if it is larger.
pub(crate) fn product<const N: usize>(sizes: [usize; N]) -> usize {
    sizes.into_iter().fold(1, usize::saturating_mul)
}

/// Elements of `rows` rows of `width` that begin `stride` apart.
pub(crate) fn strided(rows: usize, stride: usize, width: usize) -> usize {
    rows.checked_sub(1).map_or(0, |before| before.saturating_mul(stride).saturating_add(width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_that_no_kernel_can_read_is_refused() {
        let buffer = |address, elems| Buffer::read("x", Address::<f32>::new(address), elems).aligned(16);
        assert_eq!(buffer(32, 8).check(), Ok(()));
        assert_eq!(buffer(0, 0).check(), Ok(()));
        for got in [0, 8, 36] {
            assert_eq!(buffer(got, 1).check(), Err(Error::Misaligned { what: "x", expected: 16, got }));
        }
        for elems in [usize::MAX, usize::MAX / 4, 1 << 61] {
            assert!(matches!(buffer(32, elems).check(), Err(Error::Shape { what: "x", .. })), "{elems}");
        }
    }

    #[test]
    fn sizes_saturate() {
        assert_eq!(product([3, 4, 5]), 60);
        assert_eq!(product([1 << 40, 1 << 40, 1]), usize::MAX);
        assert_eq!(strided(0, 8, 4), 0);
        assert_eq!(strided(3, 8, 4), 20);
        assert_eq!(strided(usize::MAX, 8, 4), usize::MAX);
    }
}
