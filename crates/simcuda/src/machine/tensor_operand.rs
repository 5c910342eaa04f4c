//! What matrix units multiply.

/// Kind of the numbers that a matrix multiplication takes, which decides how many a device multiplies in a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TensorOperand {
    /// `s4` and `u4`.
    Int4,
    /// `s8` and `u8`.
    Int8,
    /// `e4m3` and `e5m2`.
    Float8,
    /// `f16` and `bf16`.
    Float16,
    /// `tf32`.
    Float32,
}

impl TensorOperand {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Int4, Self::Int8, Self::Float8, Self::Float16, Self::Float32];

    /// Name in the JSON report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Float8 => "float8",
            Self::Float16 => "float16",
            Self::Float32 => "float32",
        }
    }

    /// Bits of one number.
    pub(crate) const fn bits(self) -> usize {
        match self {
            Self::Int4 => 4,
            Self::Int8 | Self::Float8 => 8,
            Self::Float16 => 16,
            Self::Float32 => 32,
        }
    }
}
