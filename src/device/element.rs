//! The element types that kernels take.

use crate::element::Element;
use cudarc::driver::{DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};

/// The number by which a kernel knows an element type, as `Element` in kernels/common/memory.cuh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ElementKind {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// The upper half of single precision.
    Bf16 = 2,
}

impl ElementKind {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        if self == ElementKind::F32 { 4 } else { 2 }
    }
}

/// A floating-point element that kernels take: `f32`, `f16` or `bf16`.
pub trait DeviceElement: Element + DeviceRepr + ValidAsZeroBits + Unpin + Default {
    /// The type's number.
    const KIND: ElementKind;
}

impl DeviceElement for f32 {
    const KIND: ElementKind = ElementKind::F32;
}

impl DeviceElement for f16 {
    const KIND: ElementKind = ElementKind::F16;
}

impl DeviceElement for bf16 {
    const KIND: ElementKind = ElementKind::Bf16;
}
