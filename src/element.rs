//! The floating-point types that activations and unquantized weights come in.

use crate::error::{Error, Result};
use half::{bf16, f16};

/// A floating-point element: `f32`, `f16` or `bf16`. Arithmetic is done in `f32`.
pub trait Element: bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// The field's name of the type.
    const NAME: &'static str;
    /// Widens to `f32`, exactly.
    fn to_f32(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    fn to_f32(self) -> f32 {
        self
    }
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    fn to_f32(self) -> f32 {
        self.to_f32()
    }
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// The element type of weights in floating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

impl DenseType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::Bf16 => 2,
        }
    }

    /// Checks that weights are finite once rounded to this type.
    pub(crate) fn check_finite(self, weights: &[f32]) -> Result<()> {
        let limit = if self == DenseType::F16 { 65_520.0 } else { f32::MAX };
        match weights.iter().find(|v| !(v.abs() <= limit) || (limit < 1e5 && v.abs() >= limit)) {
            Some(&got) => Err(Error::Value { what: "rows", expected: "weights finite in their type", got }),
            None => Ok(()),
        }
    }
}
