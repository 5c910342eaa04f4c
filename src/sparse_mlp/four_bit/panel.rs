//! Rows of codes for many tokens: 16 outputs are turned into a panel once, which every token is multiplied with as those of packed
//! weights are.

use super::RowMatrix;
use crate::column_sums::{SEGMENT, vectors, with_tile};
use crate::simd::{Available, ByteRows, Kernel, Simd};
use crate::w4a8::{Activations, Sections, TILE_N, Tokens, multiply_panel, with_panel};
use std::ops::Range;

impl RowMatrix {
    /// As [`super::RowForm::multiply`].
    pub(super) fn multiply_panel(
        &self,
        simd: Available,
        neurons: &[u32],
        x: &Activations,
        each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
    ) {
        let fill = |to: Sections<&mut [u8]>| self.pack_scales(neurons, to.channel, to.group, to.offset);
        with_panel(self.d, |panel| {
            simd.run(UnpackRows { matrix: self, neurons, panel });
            with_tile(self.format(), self.d, fill, |tile| {
                multiply_panel(simd, panel, tile, Tokens::new(x, tile.integer_group()), each);
            });
        });
    }
}

/// Turns the codes of 1 to 16 rows into a panel; rows past them hold copies of the last.
struct UnpackRows<'a> {
    matrix: &'a RowMatrix,
    neurons: &'a [u32],
    panel: &'a mut [u8],
}

impl Kernel for UnpackRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut rows = [self.neurons[self.neurons.len() - 1]; TILE_N];
        rows[..self.neurons.len()].copy_from_slice(self.neurons);
        let rows = ByteRows::new(self.matrix.records(), self.matrix.stride, rows, self.matrix.d / 2);
        let segments: &mut [[[f32; TILE_N]; 8]] = vectors(self.panel).as_chunks_mut().0;
        let (segments, padding) = segments.split_at_mut(self.matrix.d / SEGMENT);
        for (segment, out) in segments.iter_mut().enumerate() {
            let codes = simd.load_rows(&rows, 16 * segment);
            let (low, high) = out.split_at_mut(4);
            for i in 0..4 {
                simd.store(&mut low[i], simd.as_f32(simd.low_nibbles(codes[i])));
                simd.store(&mut high[i], simd.as_f32(simd.high_nibbles(codes[i])));
            }
        }
        padding.as_flattened_mut().fill([0.0; TILE_N]);
    }
}
