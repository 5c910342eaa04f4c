//! What the rows of neurons are stored as.

/// What rows are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowFormat {
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Codes of 4 bits with scales.
    FourBit,
}

impl RowFormat {
    /// The name in messages.
    pub fn name(self) -> &'static str {
        match self {
            RowFormat::F16 => "f16",
            RowFormat::Bf16 => "bf16",
            RowFormat::FourBit => "4-bit",
        }
    }

    /// Bytes of `elems` elements, an even number.
    pub(super) fn bytes(self, elems: usize) -> usize {
        match self {
            RowFormat::FourBit => elems / 2,
            _ => elems.saturating_mul(2),
        }
    }
}
