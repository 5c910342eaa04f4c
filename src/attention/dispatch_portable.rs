//! Runs an [`Op`] where only the portable code exists.

use super::simd::Op;
use super::simd_portable::Portable;
use crate::Isa;

/// Runs `op` on the portable lanes.
pub(super) fn run<O: Op>(_isa: Isa, op: O) -> O::Output {
    // SAFETY: the portable lanes need no instruction set.
    unsafe { op.run::<Portable, 1>() }
}
