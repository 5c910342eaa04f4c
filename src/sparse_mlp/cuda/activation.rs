//! How activations reach the kernels: as they are, quantized to int8 by row, or as the operand of the matrix units.

use super::call::Call;
use super::params::{Codes, Operand, OperandParams};
use super::selection::launch;
use super::variant::{operand_of, operand_symbol};
use super::weights::RowFormat;
use super::workspace::Quantized;
use crate::device::Device;
use crate::device::cudarc::driver::CudaSlice;
use crate::error::Result;
use std::ffi::c_void;

/// Tokens of a tile of the operand.
const TILE_TOKENS: usize = 8;

/// Bytes of a tile: 8 tokens by one span of k.
const TILE_BYTES: usize = 512;

/// Room for activations as the matrix units take them: kernels/sparse_mlp/operand.cuh.
#[derive(Debug)]
pub(super) struct OperandBuffer {
    tiles: CudaSlice<u8>,
    /// Running sums of codes, \[width / 32 + 1, tokens\]; one element where they are not needed.
    sums: CudaSlice<i32>,
    scale: CudaSlice<f32>,
    width: usize,
    /// Values of k in a tile.
    span: usize,
}

impl OperandBuffer {
    /// Room for `tokens` rows of up to `width` values; none where no call is that large.
    pub(super) fn new(
        device: &Device,
        format: RowFormat,
        tokens: usize,
        width: usize,
        with_sums: bool,
    ) -> Result<OperandBuffer> {
        let (parts, span) = operand_of(format);
        let token_tiles = tokens.div_ceil(TILE_TOKENS);
        let sums = if with_sums { (width / 32 + 1) * token_tiles * TILE_TOKENS } else { 0 };
        Ok(OperandBuffer {
            tiles: device.zeros((parts * token_tiles * width.div_ceil(span) * TILE_BYTES).max(1))?,
            sums: device.zeros(sums.max(1))?,
            scale: device.zeros(tokens.max(1))?,
            width,
            span,
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.tiles.len() + 4 * (self.sums.len() + self.scale.len())
    }
}

impl Call<'_> {
    /// What the kernels of tiles are told about a buffer.
    pub(super) fn operand(&self, buffer: &OperandBuffer) -> Operand {
        Operand {
            tiles: self.address(&buffer.tiles),
            sums: self.address(&buffer.sums),
            scale: self.address(&buffer.scale),
            token_tiles: self.tokens.div_ceil(TILE_TOKENS) as u32,
            spans: buffer.width.div_ceil(buffer.span) as u32,
        }
    }

    /// Fills a buffer from the first n values of each token, or with a count on the device as many.
    ///
    /// # Safety
    /// `x` is the address of f32 \[tokens, stride\] with stride ≥ n, aligned to 16 bytes, `count` 0 or that of one u32.
    pub(super) unsafe fn fill_operand(
        &self,
        x: u64,
        count: u64,
        to: &OperandBuffer,
        n: usize,
        stride: usize,
    ) -> Result<()> {
        let Operand { tiles, sums, scale, token_tiles, spans } = self.operand(to);
        // running sums are of use only where positions are columns
        let sums = if to.sums.len() > 1 { sums } else { 0 };
        let mut params =
            OperandParams { x, count, tiles, sums, scale, n: n as u32, stride: stride as u32, token_tiles, spans };
        let mut args = [(&raw mut params).cast::<c_void>()];
        let grid = [self.tokens as u32, 1, 1];
        let symbol = operand_symbol(self.weights.format);
        // SAFETY: the caller's; the buffer was made for these tokens and this width, the one parameter is an `OperandParams`.
        unsafe { self.device.launch("sparse_mlp/operand", symbol, grid, [1024, 1, 1], 0, &mut args) }
    }

    /// Quantizes the first n (or, with a count on the device, as many) values of each token to int8, row by row.
    ///
    /// # Safety
    /// As [`Call::fill_operand`].
    pub(super) unsafe fn quantize(&self, x: u64, count: u64, to: &Quantized, n: usize, stride: usize) -> Result<()> {
        let Codes { mut codes, sums, mut scale } = self.codes(to);
        let (mut x, mut count, mut n, mut stride) = (x, count, n as u32, stride as u32);
        // sums of 32 codes are of use only where positions are columns
        let mut sums = if count == 0 { sums } else { 0 };
        let mut args = [
            (&raw mut x).cast::<c_void>(),
            (&raw mut count).cast(),
            (&raw mut codes).cast(),
            (&raw mut sums).cast(),
            (&raw mut scale).cast(),
            (&raw mut n).cast(),
            (&raw mut stride).cast(),
        ];
        // SAFETY: the caller's.
        unsafe { launch(self.device, "sparse_mlp_quantize", [self.tokens as u32, 1], 1024, &mut args) }
    }
}
