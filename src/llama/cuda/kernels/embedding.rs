//! Rows of a floating-point embedding table.

use super::{DenseWeight, EMBEDDING, check_rows, launch};
use crate::device::{Device, ElementKind, input, output};
use crate::error::Result;
use cudarc::driver::{CudaView, CudaViewMut};

#[repr(C)]
struct EmbedParams {
    tokens: u64,
    table: u64,
    x: u64,
    k: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<EmbedParams>() == 32);

/// x\[m\] = row tokens\[m\] of a dense table. Tokens are rows of it.
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Shape`] for too many tokens.
pub(in crate::llama::cuda) fn embed_dense(
    device: &Device,
    table: &DenseWeight,
    tokens: &CudaView<'_, u32>,
    x: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let (m, k) = (tokens.len(), table.k);
    check_rows("tokens", m)?;
    let (tokens, _tokens) = input(device, "tokens", m, tokens)?;
    let (x, _x) = output(device, "x", m * k, x)?;
    let (data, _data) = input(device, "table", table.data.len(), &table.data)?;
    let mut params = EmbedParams { tokens, table: data, x, k: k as u32, reserved: 0 };
    let symbol = match table.element {
        ElementKind::F32 => "llama_embed_f32",
        ElementKind::F16 => "llama_embed_f16",
        ElementKind::Bf16 => "llama_embed_bf16",
    };
    let grid = [k.div_ceil(256) as u32, m as u32, 1];
    // SAFETY: the buffers were checked above; that tokens are below N is the caller's of this private function.
    unsafe { launch(device, (EMBEDDING, symbol), grid, 256, &mut params) }
}
