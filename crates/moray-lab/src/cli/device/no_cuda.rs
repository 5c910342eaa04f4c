//! What `--device cuda` says in a build without CUDA.

use crate::cli::Run;
use crate::cli::generate::{Arguments, Report};
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
    _arguments: &Arguments,
    _stream: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<Report> {
    Err(refusal())
}

fn refusal() -> Error {
    let (expected, got) = ("cpu: this build has no CUDA kernels (feature cuda)", "cuda".into());
    Error::Kernel(moray::Error::Unsupported { what: "device", expected, got })
}
