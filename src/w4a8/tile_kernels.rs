//! What the GEMM needs of an instruction set besides [`Simd`].

use super::pack::TILE_N;
use super::tile::{Tile, Tokens};
use crate::simd::Simd;

/// Tokens up to which the weights are multiplied as they are unpacked.
pub(crate) const GEMV_TOKENS: usize = 4;

/// The code of one instruction set, whose token `self` is.
pub(crate) trait TileKernels: Simd {
    /// Unpacks the tiles of 16 rows into a panel of unsigned codes \[K/4\]\[16\]\[4\].
    fn unpack(self, tile: &Tile<'_>, panel: &mut [u8]);

    /// Multiplies at most [`GEMV_TOKENS`] tokens straight from the tiles, if there is code for it.
    fn gemv(self, tile: &Tile<'_>, tokens: Tokens<'_>, out: &mut [[f32; TILE_N]]) -> bool {
        let _ = (tile, tokens, out);
        false
    }
}
