//! Zeroed memory of one of the cache's element types, aligned to a cache line.

use half::{bf16, f16};

use crate::error::{Error, Result};

/// Alignment, bytes.
const LINE_BYTES: usize = 64;

/// The element type of a cache; arithmetic is in f32, storing rounds to nearest even (f16 overflows to infinity above
/// 65504).
///
/// With [`KvDtype::Int8`] a row of K and one of V, of one position and one KV head, are codes and a scale each:
/// scale = max|x| / 127, code = x / scale rounded to nearest even, x ≈ scale · code. A row of zeros has the scale 0. Attention multiplies
/// each score with the scale of its key and each weight with that of its value, so that queries stay in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvDtype {
    /// 4 bytes.
    F32,
    /// 2 bytes, 11 significant bits.
    F16,
    /// 2 bytes, 8 significant bits.
    Bf16,
    /// 1 byte, and an f32 scale for each row of K and of V.
    Int8,
}

impl KvDtype {
    /// Bytes per element.
    pub fn bytes(self) -> usize {
        match self {
            KvDtype::F32 => size_of::<f32>(),
            KvDtype::F16 => size_of::<f16>(),
            KvDtype::Bf16 => size_of::<bf16>(),
            KvDtype::Int8 => size_of::<i8>(),
        }
    }

    /// Bytes of a row of K or V with its scale, if it has one.
    pub fn row_bytes(self, head_dim: usize) -> usize {
        let scale = if self == KvDtype::Int8 { size_of::<f32>() } else { 0 };
        head_dim * self.bytes() + scale
    }
}

/// Runs an expression with `$E` as the Rust type of a [`KvDtype`].
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            $crate::attention::KvDtype::F32 => {
                type $E = f32;
                $body
            }
            $crate::attention::KvDtype::F16 => {
                type $E = half::f16;
                $body
            }
            $crate::attention::KvDtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
            $crate::attention::KvDtype::Int8 => {
                type $E = i8;
                $body
            }
        }
    };
}
pub(super) use with_element;

pub(super) struct Storage {
    dtype: KvDtype,
    /// One cache line longer than asked for, so that an aligned start exists; never grows, so it never moves.
    words: Vec<u32>,
    first_word: usize,
    len: usize,
}

impl Storage {
    /// Bytes that `new` allocates, if they can be counted.
    pub(super) fn bytes_for(dtype: KvDtype, elems: usize) -> Option<usize> {
        elems.checked_mul(dtype.bytes())?.checked_next_multiple_of(LINE_BYTES)?.checked_add(LINE_BYTES)
    }

    pub(super) fn new(what: &'static str, dtype: KvDtype, elems: usize) -> Result<Storage> {
        let refused = Error::Shape { what, expected: "an amount of memory that can be allocated", got: elems };
        let Some(bytes) = Self::bytes_for(dtype, elems) else { return Err(refused) };
        let Ok(words) = bytemuck::allocation::try_zeroed_vec::<u32>(bytes / 4) else { return Err(refused) };
        let misaligned = words.as_ptr().addr() % LINE_BYTES;
        Ok(Storage { dtype, first_word: (LINE_BYTES - misaligned) % LINE_BYTES / 4, words, len: elems })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.words.len() * 4
    }

    /// All elements; `E` is the type of the storage's dtype.
    pub(super) fn as_slice<E: bytemuck::Pod>(&self) -> &[E] {
        debug_assert_eq!(size_of::<E>(), self.dtype.bytes());
        &bytemuck::cast_slice(&self.words[self.first_word..])[..self.len]
    }

    pub(super) fn as_mut_slice<E: bytemuck::Pod>(&mut self) -> &mut [E] {
        debug_assert_eq!(size_of::<E>(), self.dtype.bytes());
        &mut bytemuck::cast_slice_mut(&mut self.words[self.first_word..])[..self.len]
    }
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Storage").field("dtype", &self.dtype).field("len", &self.len).finish()
    }
}
