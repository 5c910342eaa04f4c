//! Element types of stored tensors.

use std::fmt;

/// How one tensor's elements are stored. Block types pack `block_elems` consecutive elements of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper half of a 32-bit IEEE float.
    Bf16,
    /// 32 elements: f16 scale d, 16 bytes of nibbles; w = d·(q − 8).
    Q4_0,
    /// 32 elements: f16 scale d, f16 minimum m, 16 bytes of nibbles; w = d·q + m.
    Q4_1,
    /// 32 elements: f16 scale d, 32 fifth bits, 16 bytes of nibbles; w = d·(q − 16).
    Q5_0,
    /// 32 elements: f16 d, f16 m, 32 fifth bits, 16 bytes of nibbles; w = d·q + m.
    Q5_1,
    /// 32 elements: f16 scale d, 32 signed bytes; w = d·q.
    Q8_0,
    /// 256 elements: f16 d, f16 dmin, eight 6-bit (scale, min) pairs, 128 bytes of nibbles; w = d·scale·q − dmin·min.
    Q4K,
    /// As Q4_K with 32 bytes of fifth bits before the nibbles.
    Q5K,
    /// 256 elements: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 signed scales, f16 d; w = d·scale·(q − 32).
    Q6K,
}

impl DType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements in one block; 1 for plain floats.
    pub const fn block_elems(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Bytes of a row of `k` elements, or None if `k` is not a whole number of blocks or the size overflows.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_elems()) {
            return None;
        }
        (k / self.block_elems()).checked_mul(self.block_bytes())
    }

    /// Whether each element is a float of its own.
    pub const fn is_float(self) -> bool {
        self.block_elems() == 1
    }

    /// The type's id in a GGUF tensor table.
    pub const fn ggml_id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// The type with this id in a GGUF tensor table.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.ggml_id() == id)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        })
    }
}
