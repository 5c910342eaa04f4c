//! Memory for weights and caches: zeroed, from the start of a cache line on, in huge pages where the system has them.
//!
//! A decoded token reads every weight once. In pages of 4 KiB each page costs a walk through the page tables, and hardware
//! prefetchers stop at its end; in pages of 2 MiB neither is felt. Linux gives such pages to who asks for them (`madvise`), for
//! whole aligned pieces of 2 MiB; the other systems' memory is as they give it.

#[cfg(not(target_os = "linux"))]
mod heap;
#[cfg(target_os = "linux")]
mod huge;

#[cfg(not(target_os = "linux"))]
use heap::Piece;
#[cfg(target_os = "linux")]
use huge::Piece;

use bytemuck::Pod;
use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// 64 bytes from the start of a cache line on.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LINE_BYTES]);

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// A slice of its own, as `Box<[T]>`, that begins on a cache line.
pub(crate) struct Memory<T> {
    piece: Piece,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Pod> Memory<T> {
    /// Zeros, unless there is no memory for them.
    pub(crate) fn try_zeroed(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?.checked_next_multiple_of(LINE_BYTES)?;
        Some(Memory { piece: Piece::zeroed(bytes)?, len, elements: PhantomData })
    }

    /// Zeros. Ends the process where there is no memory for them, as `Vec` does.
    pub(crate) fn zeroed(len: usize) -> Self {
        let layout = Layout::array::<T>(len).expect("an array of less than half of the address space");
        Self::try_zeroed(len).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// Zeros whose pages are there before their first use. A system that has to find pages while something is copied there takes longer than
    /// the copy does, a virtual machine's up to milliseconds for each MB.
    pub(crate) fn resident(len: usize) -> Self {
        let mut memory = Self::zeroed(len);
        memory.fill(T::zeroed());
        memory
    }
}

impl<T: Pod> From<&[T]> for Memory<T> {
    fn from(values: &[T]) -> Self {
        let mut memory = Self::zeroed(values.len());
        memory.copy_from_slice(values);
        memory
    }
}

impl<T: Pod> Clone for Memory<T> {
    fn clone(&self) -> Self {
        Self::from(&**self)
    }
}

impl<T: Pod> Deref for Memory<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.piece.bytes()[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Memory<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.piece.bytes_mut()[..self.len * size_of::<T>()])
    }
}

impl<T> std::fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} × {})", self.len, std::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes from nothing to a region of its own.
    const SIZES: [usize; 9] = [0, 1, 63, 64, 4095, 100_000, 3 << 20, 9 << 20, 5];

    #[test]
    fn pieces_begin_on_lines_as_zeros_and_do_not_touch() {
        let fill = |seed: u8| {
            let mut pieces: Vec<Memory<u8>> = SIZES.iter().map(|&len| Memory::zeroed(len)).collect();
            for (i, piece) in pieces.iter_mut().enumerate() {
                assert_eq!((piece.len(), piece.as_ptr().addr() % LINE_BYTES), (SIZES[i], 0));
                assert!(piece.iter().all(|&byte| byte == 0));
                piece.fill(seed + i as u8);
            }
            let copies = pieces.clone();
            // the memory of what was dropped must not be seen again
            drop(pieces.split_off(4));
            let again = Memory::<u8>::zeroed(200_000);
            assert!(again.iter().all(|&byte| byte == 0));
            for (i, piece) in pieces.iter().chain(&copies[4..]).enumerate() {
                assert!(piece.iter().all(|&byte| byte == seed + i as u8), "piece {i}");
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|thread| drop(scope.spawn(move || fill(20 * thread + 1))));
        });
    }

    #[test]
    fn more_than_there_is_cannot_be_had() {
        assert!(Memory::<u64>::try_zeroed(usize::MAX).is_none());
        assert!(Memory::<u64>::try_zeroed(usize::MAX / 16).is_none());
        assert!(Memory::<u8>::try_zeroed(1 << 60).is_none());
    }

    #[test]
    fn elements_are_those_of_the_slice_it_was_made_from() {
        let values: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        assert_eq!(Memory::from(&values[..]).clone()[..], values[..]);
        assert_eq!(format!("{:?}", Memory::from(&values[..3])), "Memory(3 × f32)");
    }
}
