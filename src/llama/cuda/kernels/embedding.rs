//! Rows of a floating-point embedding table.

use super::DenseWeight;
use crate::device::{Arguments, Device};
use crate::error::{Result, check_len};
use crate::llama::cuda::raw;
use cudarc::driver::{CudaView, CudaViewMut};

/// x\[m\] = row tokens\[m\] of a dense table. Tokens are rows of it.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer of another size, [`crate::Error::Shape`] for too many tokens.
pub(in crate::llama::cuda) fn embed_dense(
    device: &Device,
    table: &DenseWeight,
    tokens: &CudaView<'_, u32>,
    x: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let DenseWeight { n, k, element, ref data } = *table;
    let m = tokens.len();
    check_len("x", m.saturating_mul(k), x.len())?;
    let mut arguments = Arguments::new(device);
    let embed = raw::Embed {
        tokens: arguments.read("tokens", tokens)?,
        table: arguments.read("table", data)?,
        element,
        x: arguments.write("x", x)?,
        m,
        n,
        k,
    };
    arguments.launch(&embed)
}
