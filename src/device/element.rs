//! The element types that kernels take.

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
