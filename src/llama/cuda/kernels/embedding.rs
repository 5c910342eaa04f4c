//! Rows of the embedding table.

use super::{DenseWeight, EMBEDDING, check_rows, launch};
use crate::device::{Device, ElementKind, input, output};
use crate::error::Result;
use crate::w4a8::Bits;
use crate::w4a8::cuda::{Format, Offset, Weight};
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

#[repr(C)]
struct EmbedPackedParams {
    tokens: u64,
    codes: u64,
    scale: u64,
    group_scale: u64,
    offset: u64,
    x: u64,
    k: u32,
    bits: u32,
    mode: u32,
    group_size: u32,
    offset_kind: Offset,
    reserved: u32,
}

const _: () = assert!(size_of::<EmbedPackedParams>() == 72);

/// x\[m\] = row tokens\[m\] of a packed table. Tokens are rows of it.
///
/// # Errors
/// As [`embed_dense`].
pub(in crate::llama::cuda) fn embed_packed(
    device: &Device,
    table: &Weight,
    tokens: &CudaView<'_, u32>,
    x: &mut CudaViewMut<'_, f32>,
) -> Result<()> {
    let (m, k) = (tokens.len(), table.k());
    check_rows("tokens", m)?;
    let (tokens, _tokens) = input(device, "tokens", m, tokens)?;
    let (x, _x) = output(device, "x", m * k, x)?;
    let [codes, scale, group_scale, offset] = table.pointers(device);
    let (mode, bits, offset_kind) = match table.format() {
        Format::PerChannel => (0, 4, Offset::None),
        Format::W8 => (0, 8, Offset::None),
        Format::PerGroup { bits, offset, .. } => (1, if bits == Bits::Four { 4 } else { 8 }, offset),
        Format::TwoLevel { .. } => (2, 4, Offset::None),
        Format::Qqq => (3, 4, Offset::None),
    };
    let group_size = table.format().group_size().unwrap_or(k) as u32;
    let k32 = k as u32;
    let mut params = EmbedPackedParams {
        tokens,
        codes,
        scale,
        group_scale,
        offset,
        x,
        k: k32,
        bits,
        mode,
        group_size,
        offset_kind,
        reserved: 0,
    };
    let grid = [k.div_ceil(256) as u32, m as u32, 1];
    // SAFETY: as in `embed_dense`; the table's buffers go with its format.
    unsafe { launch(device, (EMBEDDING, "llama_embed_packed"), grid, 256, &mut params) }
}
