//! The arguments of C as raw calls of the library.

#[cfg(feature = "cuda-attention")]
mod attention;
#[cfg(feature = "cuda-input-sparse")]
pub(super) mod by_input;
#[cfg(feature = "cuda-sparse-mlp")]
pub(super) mod mlp;
#[cfg(feature = "cuda")]
mod norm;
#[cfg(feature = "cuda-sparse-mlp")]
mod select;
#[cfg(feature = "cuda-w4a8")]
mod w4a8;

use crate::dtype::{MORAY_BF16, MORAY_F16, MORAY_F32, MorayDtype};
#[cfg(any(feature = "cuda-input-sparse", feature = "cuda-sparse-mlp"))]
use crate::format::{MorayOffset, offset};
use crate::status::{Fault, Outcome};
use moray::device::ElementKind;
#[cfg(any(feature = "cuda-input-sparse", feature = "cuda-sparse-mlp"))]
use moray::w4a8::{Group, GroupScale};

/// The element type that a constant names.
fn element(dtype: MorayDtype) -> Outcome<ElementKind> {
    match dtype {
        MORAY_F32 => Ok(ElementKind::F32),
        MORAY_F16 => Ok(ElementKind::F16),
        MORAY_BF16 => Ok(ElementKind::Bf16),
        other => Err(Fault::unsupported("dtype", "MORAY_F32, MORAY_F16 or MORAY_BF16", other)),
    }
}

/// The f16 scales of groups of K, or none for a size of 0, by which channels have the scales.
#[cfg(any(feature = "cuda-input-sparse", feature = "cuda-sparse-mlp"))]
fn group(size: u32, offsets: MorayOffset) -> Outcome<Option<Group>> {
    let (size, offset) = (size as usize, offset("offset", offsets)?);
    Ok((size > 0).then_some(Group { size, scale: GroupScale::F16, offset }))
}
