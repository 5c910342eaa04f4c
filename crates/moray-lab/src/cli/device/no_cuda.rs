//! What `--device cuda` says in a build without CUDA.

use crate::cli::turns::Turn;
use crate::cli::ways::{Loaded, Measured, Plan};
use crate::cli::{Run, Switches, eval, generate};
use crate::error::{Error, Result};

/// Refuses.
///
/// # Errors
/// [`Error::Kernel`], always.
pub(in crate::cli) fn check() -> Result<()> {
    Err(refusal())
}

/// Refuses.
///
/// # Errors
/// [`Error::Kernel`], always.
pub(in crate::cli) fn generate(
    _run: &Run,
    _arguments: &generate::Arguments,
    _stream: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<generate::Report> {
    Err(refusal())
}

/// Refuses.
///
/// # Errors
/// [`Error::Kernel`], always.
pub(in crate::cli) fn score(
    _arguments: &eval::Arguments,
    _tokens: &[u32],
    _run: &Run,
    _dense: Option<(&Switches, &Run)>,
) -> Result<eval::Report> {
    Err(refusal())
}

/// Refuses.
///
/// # Errors
/// [`Error::Kernel`], always.
pub(in crate::cli) fn measure(
    _loaded: &Loaded,
    _plan: &Plan,
    _others: Vec<Turn<'_>>,
    _tick: &mut dyn FnMut(),
) -> Result<Measured> {
    Err(refusal())
}

fn refusal() -> Error {
    let (expected, got) = ("cpu: this build has no CUDA kernels (feature cuda)", "cuda".into());
    Error::Kernel(moray::Error::Unsupported { what: "device", expected, got })
}
