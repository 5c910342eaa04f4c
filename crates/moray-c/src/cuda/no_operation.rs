//! What stands for the calls of an operation that the library was built without.

use super::{CUstream_st, MorayCuda};
use crate::status::Outcome;

const NOT_BUILT: moray::Error = moray::Error::KernelsNotBuilt {
    hint: "expected a library with the operation's feature of moray-c (cuda has all), got one without",
};

/// As of an operation that there is.
///
/// # Safety
/// None is needed.
pub(crate) unsafe fn launch<C>(_: &MorayCuda, _: *mut CUstream_st, _: &C) -> Outcome {
    Err(NOT_BUILT.into())
}

/// As of an operation that there is.
pub(crate) fn prepare<C>(_: &MorayCuda, _: &C) -> Outcome<usize> {
    Err(NOT_BUILT.into())
}

/// As of an operation that there is.
pub(crate) fn sizes<W, M>(_: &W) -> Outcome<M> {
    Err(NOT_BUILT.into())
}

/// As of an operation that there is.
///
/// # Safety
/// None is needed.
pub(crate) unsafe fn pack<W, M>(_: &W, _: &M) -> Outcome {
    Err(NOT_BUILT.into())
}
