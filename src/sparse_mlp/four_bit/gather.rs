//! Neurons of gate and up copied out of their records, into tiles. Codes and scales move, no number changes.

use super::{RowForm, RowMatrix};
use crate::Cpu;
use crate::column_sums::{SEGMENT, format_of};
use crate::error::Result;
use crate::threads::Pieces;
use crate::w4a8::{Format, Offset, PackedWeight, Sections, TILE_BYTES, TILE_N, pack_two_rows};

/// Tiles that a member copies at a time.
const TILES: usize = 4;

impl RowMatrix {
    /// How the codes of its records become numbers.
    pub(crate) fn format(&self) -> Format {
        format_of(self.offset, self.group_size)
    }

    /// Room for `n` of its neurons, packed.
    pub(crate) fn packed_room(&self, n: usize) -> Result<RowForm> {
        Ok(RowForm::Packed(PackedWeight::zeroed(n, self.d, self.format())?))
    }

    /// Packs the neurons of a list into `to`, which has room for them.
    pub(crate) fn pack(&self, cpu: &Cpu, list: &[u32], to: &mut PackedWeight) {
        let tiles = list.len().div_ceil(TILE_N);
        let columns = self.d.div_ceil(2 * SEGMENT);
        let [_, group, offset] = self.format().row_entries(self.d);
        let [channel_bytes, group_bytes, offset_bytes] = self.format().entry_bytes();
        let Sections { codes, channel, group: scales, offset: seconds } = to.rows_mut(list.len());
        let parts = (
            pieces(codes, columns * TILE_BYTES, tiles),
            pieces(channel, TILE_N * channel_bytes, tiles),
            pieces(scales, TILE_N * group * group_bytes, tiles),
            pieces(seconds, TILE_N * offset * offset_bytes, tiles),
        );
        cpu.team().for_parts(parts, TILES, |tile, (codes, channel, scales, seconds)| {
            let neurons = &list[tile * TILE_N..list.len().min((tile + 1) * TILE_N)];
            let tiles: &mut [[u8; TILE_BYTES]] = codes.as_chunks_mut().0;
            for row in 0..TILE_N / 2 {
                let [low, high] = [row, row + TILE_N / 2].map(|row| self.codes(neurons.get(row)));
                for (segments, tile) in (0..).step_by(2).zip(&mut *tiles) {
                    let halves = |codes: &[[u8; SEGMENT / 2]]| {
                        [0, 1].map(|half| codes.get(segments + half).copied().unwrap_or_default())
                    };
                    pack_two_rows(tile, row, halves(low), halves(high));
                }
            }
            self.pack_scales(neurons, channel, scales, seconds);
        });
    }

    /// The codes of a neuron in segments; none where there is no neuron.
    fn codes(&self, neuron: Option<&u32>) -> &[[u8; SEGMENT / 2]] {
        neuron.map_or(&[], |&j| self.record(j as usize).0.as_chunks().0)
    }

    /// Puts the numbers beside up to 16 neurons' codes where a tile has them; rows past the neurons have 0.
    pub(super) fn pack_scales(&self, neurons: &[u32], channel: &mut [u8], scales: &mut [u8], seconds: &mut [u8]) {
        if neurons.len() < TILE_N {
            for section in [&mut *channel, &mut *scales, &mut *seconds] {
                section.fill(0);
            }
        }
        for (row, &j) in neurons.iter().enumerate() {
            self.pack_row_scales(row, self.record(j as usize).1, channel, scales, seconds);
        }
    }

    /// Puts the numbers beside a neuron's codes where row `row` of a tile has them.
    fn pack_row_scales(&self, row: usize, numbers: &[u8], channel: &mut [u8], scales: &mut [u8], seconds: &mut [u8]) {
        let Some(offset) = self.offset else {
            return channel[4 * row..][..4].copy_from_slice(&numbers[..4]);
        };
        let step = if offset == Offset::None { 2 } else { 4 };
        for (group, numbers) in numbers.chunks_exact(step).take(self.d / self.group_size).enumerate() {
            let at = group * TILE_N + row;
            scales[2 * at..][..2].copy_from_slice(&numbers[..2]);
            match offset {
                Offset::None => {}
                Offset::F16 => seconds[2 * at..][..2].copy_from_slice(&numbers[2..]),
                Offset::ZeroPoint => seconds[at] = numbers[2],
            }
        }
    }
}

/// The first `count` pieces of so many bytes, perhaps of none.
fn pieces(bytes: &mut [u8], each: usize, count: usize) -> Pieces<'_, u8> {
    Pieces::shares(&mut bytes[..count * each], 0..count * each, each, count)
}
