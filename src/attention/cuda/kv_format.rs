//! How a KV cache on the device stores elements.

/// What a cache stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KvFormat {
    /// 4 bytes, 24 significant bits.
    F32,
    /// 2 bytes, 11 significant bits.
    F16,
    /// 2 bytes, 8 significant bits.
    Bf16,
    /// 1 byte, and an f32 scale max|x| / 127 for each row of K and of V.
    Int8,
}

impl KvFormat {
    /// Bytes per element, without scales.
    pub fn bytes(self) -> usize {
        match self {
            KvFormat::F32 => 4,
            KvFormat::F16 | KvFormat::Bf16 => 2,
            KvFormat::Int8 => 1,
        }
    }
}
