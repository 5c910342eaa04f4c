//! Columns for many tokens: 16 outputs are turned into a panel once, which every token is multiplied with as those of packed weights are.

use super::{ColumnMatrix, SEGMENT};
use crate::memory::Line;
use crate::simd::{Available, Gather, Kernel, Simd};
use crate::w4a8::{Format, Offset, PackedView, Sections, TILE_N, Tile, Tokens, multiply_panel, with_panel};
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// The scales of 16 outputs.
    static SCALES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Lends a tile of the scales of 16 outputs over K inputs, which `fill` writes as a packed tile has them; it has no codes.
pub(crate) fn with_tile<R>(
    format: Format,
    k: usize,
    fill: impl FnOnce(Sections<&mut [u8]>),
    f: impl FnOnce(&Tile<'_>) -> R,
) -> R {
    let (entries, bytes) = (format.row_entries(k), format.entry_bytes());
    let need: [usize; 3] = std::array::from_fn(|i| TILE_N * entries[i] * bytes[i]);
    SCALES.with_borrow_mut(|lines| {
        let total = need.iter().sum::<usize>().div_ceil(size_of::<Line>());
        if lines.len() < total {
            lines.resize(total, Line([0; size_of::<Line>()]));
        }
        let (channel, rest) = bytemuck::cast_slice_mut(lines).split_at_mut(need[0]);
        let (group, rest) = rest.split_at_mut(need[1]);
        let offset = &mut rest[..need[2]];
        fill(Sections { codes: &mut [], channel: &mut *channel, group: &mut *group, offset: &mut *offset });
        f(&PackedView::of(TILE_N, k, format, Sections { codes: &[], channel, group, offset }).tile(0))
    })
}

/// The vectors of a panel \[K/4\]\[16\]\[4\] of bytes.
pub(crate) fn vectors(panel: &mut [u8]) -> &mut [[f32; TILE_N]] {
    bytemuck::cast_slice_mut(panel)
}

/// Vectors of 16 columns that one nibble of a chunk's codes holds, see [`super::matrix::Columns`].
const VECTORS: usize = 4;

impl ColumnMatrix {
    /// Multiplies the columns of a chunk with tokens that have an activation for each of the K `slots`: `each` gets a column of the
    /// chunk, and the sums of it and the 15 others of its vector for some tokens. Lane 4q + p is 32q + p columns further.
    pub(crate) fn multiply_panels(
        &self,
        simd: Available,
        (slots, chunk): (&[u32], usize),
        tokens: Tokens<'_>,
        mut each: impl FnMut(usize, Range<usize>, &[[f32; TILE_N]]),
    ) {
        let bytes = self.k() * TILE_N;
        with_panel(2 * self.k(), |panels| {
            for vector in 0..VECTORS {
                let (low, high) = panels[..2 * bytes].split_at_mut(bytes);
                simd.run(UnpackColumns { matrix: self, slots, chunk, vector, low: &mut *low, high: &mut *high });
                for (nibble, panel) in [low, high].into_iter().enumerate() {
                    let fill = |to: Sections<&mut [u8]>| self.pack_scales(chunk, VECTORS * nibble + vector, to);
                    let each =
                        |tokens: Range<usize>, sums: &[[f32; TILE_N]]| each(16 * nibble + 4 * vector, tokens, sums);
                    with_tile(self.format(), self.k(), fill, |tile| multiply_panel(simd, panel, tile, tokens, each));
                }
            }
        });
    }

    /// Writes the scales of a vector of a chunk, and what is beside them, as a tile has them; lanes past the chunk's columns have 0.
    fn pack_scales(&self, chunk: usize, vector: usize, to: Sections<&mut [u8]>) {
        let (d, parts, lanes) = (self.columns.d, self.parts(), 4 * self.columns.segments_of(chunk));
        let start = self.columns.start(chunk) + vector * lanes;
        if self.offset.is_none() {
            let channel: &mut [f32] = bytemuck::cast_slice_mut(to.channel);
            channel[..lanes].copy_from_slice(&self.channel_scale[start..][..lanes]);
            return channel[lanes..].fill(0.0);
        }
        let groups: &mut [[u16; TILE_N]] = bytemuck::cast_slice_mut(to.group);
        for (group, scales) in groups.iter_mut().enumerate() {
            scales[..lanes].copy_from_slice(&self.group_params[group * parts * d + start..][..lanes]);
            scales[lanes..].fill(0);
        }
        for group in 0..if parts == 2 { groups.len() } else { 0 } {
            let seconds = &self.group_params[(group * parts + 1) * d + start..][..lanes];
            if self.offset == Some(Offset::ZeroPoint) {
                let to = &mut to.offset[group * TILE_N..][..TILE_N];
                to.fill(0);
                to.iter_mut().zip(seconds).for_each(|(to, &zero)| *to = zero as u8);
            } else {
                let to = &mut bytemuck::cast_slice_mut::<_, u16>(&mut *to.offset)[group * TILE_N..][..TILE_N];
                to[..lanes].copy_from_slice(seconds);
                to[lanes..].fill(0);
            }
        }
    }
}

/// Turns the codes of one vector of a chunk's columns into two panels, those of the low and those of the high nibbles, for as many slots as
/// they have inputs.
struct UnpackColumns<'a> {
    matrix: &'a ColumnMatrix,
    slots: &'a [u32],
    chunk: usize,
    vector: usize,
    low: &'a mut [u8],
    high: &'a mut [u8],
}

impl Kernel for UnpackColumns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.vector {
            0 => self.vector_of::<S, 0>(simd),
            1 => self.vector_of::<S, 1>(simd),
            2 => self.vector_of::<S, 2>(simd),
            _ => self.vector_of::<S, 3>(simd),
        }
    }
}

impl UnpackColumns<'_> {
    #[inline(always)]
    fn vector_of<S: Simd, const V: usize>(self, simd: S) {
        let (columns, segments) = (&self.matrix.columns, self.matrix.columns.segments_of(self.chunk));
        let codes = &self.matrix.codes().as_chunks().0[columns.start(self.chunk) / SEGMENT..];
        let rows = Gather::new(codes, columns.d / SEGMENT, self.slots, segments);
        for (quad, (low, high)) in vectors(self.low).iter_mut().zip(vectors(self.high)).enumerate() {
            let mut four = [simd.splat_i32(0); 4];
            for i in 0..4 {
                four[i] = simd.load_segments(rows.row(4 * quad + i));
            }
            let bytes = simd.interleave(four)[V];
            simd.store(low, simd.as_f32(simd.low_nibbles(bytes)));
            simd.store(high, simd.as_f32(simd.high_nibbles(bytes)));
        }
    }
}
