//! Pieces from the heap.

use super::{LINE_BYTES, Line};

/// Zeroed bytes.
pub(super) struct Piece(Vec<Line>);

impl Piece {
    /// `len` is whole lines.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        bytemuck::allocation::try_zeroed_vec(len / LINE_BYTES).ok().map(Piece)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}
