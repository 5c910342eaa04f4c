//! The sums of a call, cut into units that threads share.

use super::float::{Many, Rows, TILE_COLUMNS, TILE_TOKENS};
use super::four_bit::{CHUNKS, FourBitSums, Run, TOKENS};
use super::{CHUNK, Codes, ColumnMatrix, InputsOfToken, Kept, OwnSlots, SEGMENT, SlotLayout, SplitSums, hull};
use crate::Cpu;
use crate::simd::{Kernel, Simd, SimdElement, load_first};
use crate::threads::{Fresh, Parts, Pieces, SharedSlice, Tiles};
use crate::w4a8::Tokens;
use std::ops::Range;

/// Tokens for which panels are made once.
const PANEL_TILE: usize = 256;

/// Sums rows of floats for several tokens, in tiles of columns whose weights are unpacked once for a block of tokens, and hands each token's
/// sums of a tile in y \[M, N\] to `finish` with the token and the first column: the numbers of [`SplitSums::run`]. Columns other than those in
/// `asked` (increasing ranges) are perhaps written too, between the first and the last of them.
pub(crate) fn sum_tiles<T: SimdElement>(
    cpu: &Cpu,
    (rows, kept): (&Rows<'_, T>, Kept<'_>),
    (y, n): (SharedSlice<'_, f32>, usize),
    asked: &[Range<usize>],
    finish: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let Kept { splits, list, x, stride } = kept;
    let tiles = Tiles::new(y, n, hull(asked), TILE_TOKENS, TILE_COLUMNS);
    let grid = tiles.grid();
    let scratch = Fresh(|| [[[[0.0f32; 16]; TILE_COLUMNS / 16]; TILE_TOKENS]; 2]);
    cpu.team().for_parts_with(tiles, 1, scratch, |[sums, part], unit, mut y| {
        let (token, column, skip) = grid.at(unit);
        let width = TILE_COLUMNS.min(n - column);
        if !asked.iter().any(|asked| asked.start < column + width && column < asked.end) {
            return;
        }
        let (sums, part) = (&mut sums[..y.rows()], &mut part[..y.rows()]);
        let x = &x[token * stride..];
        cpu.simd().run(Many { rows, kept: list, splits, x, stride, column, width, sums, part });
        for (row, sums) in sums.iter().enumerate() {
            let y = y.row(row);
            y.copy_from_slice(&sums.as_flattened()[skip..][..y.len()]);
            finish(token + row, column + skip, y);
        }
    });
}

/// What is added to the sums.
pub(crate) struct Added<'a> {
    /// Columns of y.
    pub d: usize,
    pub bias: Option<&'a [f32]>,
    pub residual: Option<&'a [f32]>,
}

/// The rows of 4-bit codes that a call sums, and what each is multiplied with.
pub(crate) struct Slots<'a> {
    pub layout: SlotLayout,
    pub slots: &'a [u32],
    pub runs: &'a [Run],
    /// By slot; sums by run.
    pub h: Codes<'a>,
}

impl Added<'_> {
    /// Writes one token's sums of the columns from `start` on.
    fn write(&self, token: usize, start: usize, sums: &[f32], y: &mut [f32]) {
        y.copy_from_slice(&sums[..y.len()]);
        self.add(token, start, y);
    }

    /// Adds to one token's sums of the columns from `start` on.
    pub(crate) fn add(&self, token: usize, start: usize, y: &mut [f32]) {
        let at = token * self.d + start;
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[start..]).for_each(|(y, b)| *y += b);
        }
        if let Some(residual) = self.residual {
            y.iter_mut().zip(&residual[at..]).for_each(|(y, r)| *y += r);
        }
    }
}

/// y ← rows of codes times what is in their slots (+ bias) (+ residual), for some columns of y.
pub(crate) fn sum_codes(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
    split: &mut SplitSums,
) {
    if y.len() == added.d {
        let chunks = matrix.columns.start(1);
        let chunks = columns.start / chunks..columns.end.div_ceil(chunks);
        let shared = |(): &mut (), use_it: &mut dyn FnMut(&Slots<'_>)| use_it(input);
        match matrix.splits(input.runs) {
            (_, 2..) if matrix.splits_pay(chunks.len(), cpu.threads()) => {
                let rows = (Fresh(|| ()), shared, input.h.scale[0]);
                one_token_by_runs(cpu, matrix, rows, added, (y, columns, chunks), split);
            }
            _ => one_token(cpu, matrix, (Fresh(|| ()), shared), added, (y, columns, chunks)),
        }
    } else if input.layout.is_whole() {
        many_tokens(cpu, matrix, input, added, (y, columns));
    } else {
        some_tokens(cpu, matrix, input, added, (y, columns));
    }
}

/// Sums the rows of one token's inputs that are kept, which every member of the team lists for itself: what one wrote would have to come from its
/// core to the others' line by line, and that takes longer than to list it.
pub(crate) fn sum_inputs(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    inputs: &InputsOfToken<'_>,
    members: &mut [OwnSlots],
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
    split: &mut SplitSums,
) {
    let width = matrix.columns.start(1);
    let chunks = columns.start / width..columns.end.div_ceil(width);
    let rooms = Pieces::new(members, 1);
    let scale = inputs.scale[0];
    let listed = |own: &mut &mut [OwnSlots], use_it: &mut dyn FnMut(&Slots<'_>)| {
        use_it(&own[0].list(cpu, inputs));
    };
    if matrix.splits_pay(chunks.len(), cpu.threads()) && matrix.offset.is_some() {
        one_token_by_runs(cpu, matrix, (rooms, listed, scale), added, (y, columns, chunks), split);
    } else {
        one_token(cpu, matrix, (rooms, listed), added, (y, columns, chunks));
    }
}

/// One token: neighbouring chunks together, so that each thread reads as long a piece of a row as there is. `with` calls what it is given with
/// the rows as a member of the team has them in its room.
fn one_token<R: Parts>(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    (rooms, with): (R, impl Fn(&mut R::Part, &mut dyn FnMut(&Slots<'_>)) + Sync),
    added: &Added<'_>,
    (y, asked, chunks): (SharedSlice<'_, f32>, Range<usize>, Range<usize>),
) {
    let columns = &matrix.columns;
    let (width, first, count) = (columns.start(1), chunks.start, chunks.len());
    let units = count.div_ceil(CHUNKS).next_multiple_of(cpu.threads()).min(count);
    let parts = Pieces::shares(y, asked.clone(), width, units);
    cpu.team().for_parts_with(parts, 1, rooms, |room, unit, mut y| {
        let chunks = first + unit * count / units..first + (unit + 1) * count / units;
        let mut sums = [[0.0f32; CHUNK]; CHUNKS];
        let sums = &mut sums[..chunks.len()];
        with(room, &mut |&Slots { slots, runs, h, .. }| {
            cpu.simd().run(FourBitSums { matrix, slots, runs, h, tokens: 1, chunks: chunks.clone(), out: sums });
        });
        for (chunk, sums) in chunks.zip(sums) {
            let start = columns.start(chunk);
            let skip = asked.start.saturating_sub(start);
            let (part, rest) = y.split_at_mut(y.len().min(width - skip));
            added.write(0, start + skip, &sums[skip..], part);
            y = rest;
        }
    });
}

/// One token, short rows: each thread reads whole rows of some runs of K, whose sums are then added in order, and scaled.
fn one_token_by_runs<R: Parts>(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    (rooms, with, scale): (R, impl Fn(&mut R::Part, &mut dyn FnMut(&Slots<'_>)) + Sync, f32),
    added: &Added<'_>,
    (y, asked, chunks): (SharedSlice<'_, f32>, Range<usize>, Range<usize>),
    split: &mut SplitSums,
) {
    let columns = &matrix.columns;
    let strips = chunks.len().div_ceil(CHUNKS);
    let width = chunks.len().div_ceil(strips);
    let sums = split.room(matrix.runs() * strips * width * CHUNK).as_chunks_mut::<CHUNK>().0;
    cpu.team().for_parts_with(Pieces::new(sums, width), 1, rooms, |room, unit, sums| {
        let first = chunks.start + unit % strips * width;
        let chunks = first..chunks.end.min(first + width);
        let out = &mut sums[..chunks.len()];
        with(room, &mut |&Slots { slots, runs, h, .. }| {
            // a run of K that nothing is kept of has sums of 0
            let of_unit = matrix.splits(runs).0[unit / strips].clone();
            // not scaled before all are added
            let h = Codes { sums: &h.sums[of_unit.start..], scale: &[1.0], ..h };
            let (runs, chunks, out) = (&runs[of_unit], chunks.clone(), &mut *out);
            cpu.simd().run(FourBitSums { matrix, slots, runs, h, tokens: 1, chunks, out });
        });
    });
    let sums = &*sums;
    cpu.team().for_parts(Pieces::shares(y, asked.clone(), asked.end.max(1), 1), 1, |_, mut y| {
        for (at, chunk) in chunks.clone().enumerate() {
            let start = columns.start(chunk);
            let skip = asked.start.saturating_sub(start);
            let (part, rest) = y.split_at_mut(y.len().min(columns.start(1) - skip));
            let mut total = [0.0f32; CHUNK];
            cpu.simd().run(AddRuns { sums: &sums[at..], stride: strips * width, scale, total: &mut total });
            added.write(0, start + skip, &total[skip..], part);
            y = rest;
        }
    });
}

/// A chunk's sums of all runs, in their order, times a token's scale.
struct AddRuns<'a> {
    /// Every `stride`-th, from the first on.
    sums: &'a [[f32; CHUNK]],
    stride: usize,
    scale: f32,
    total: &'a mut [f32; CHUNK],
}

impl Kernel for AddRuns<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let scale = simd.splat(self.scale);
        for (at, total) in self.total.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut sum = simd.splat(0.0);
            for sums in self.sums.iter().step_by(self.stride) {
                sum = simd.add(sum, load_first(simd, &sums[16 * at..][..16]));
            }
            simd.store(total, simd.mul(sum, scale));
        }
    }
}

/// Chunks of columns by tiles of tokens.
fn some_tokens(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
) {
    let width = matrix.columns.start(1);
    let tiles = Tiles::new(y, added.d, columns, TOKENS, width);
    let grid = tiles.grid();
    cpu.team().for_parts_with(tiles, 1, Fresh(|| [[0.0f32; CHUNK]; TOKENS]), |sums, unit, mut y| {
        let (first, column, skip) = grid.at(unit);
        let (chunk, h) = (column / width, input.h.at_token(first));
        let (tokens, slots, runs, sums) = (y.rows(), input.slots, input.runs, &mut sums[..y.rows()]);
        cpu.simd().run(FourBitSums { matrix, slots, runs, h, tokens, chunks: chunk..chunk + 1, out: sums });
        sums.iter().enumerate().for_each(|(t, sums)| added.write(first + t, column + skip, &sums[skip..], y.row(t)));
    });
}

/// Chunks of columns by tiles of many tokens, for which each chunk is turned into panels.
fn many_tokens(
    cpu: &Cpu,
    matrix: &ColumnMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
) {
    let width = matrix.columns.start(1);
    let tiles = Tiles::new(y, added.d, columns, PANEL_TILE, width);
    let grid = tiles.grid();
    cpu.team().for_parts(tiles, 1, |unit, mut y| {
        let (first, start, skip) = grid.at(unit);
        let Codes { codes, stride, sums, sum_stride, scale } = input.h.at_token(first);
        let scale = &scale[..y.rows()];
        let tokens = Tokens::of_codes((codes, stride), (sums, sum_stride), scale);
        matrix.multiply_panels(cpu.simd(), (input.slots, start / width), tokens, |column, tokens, sums| {
            for (t, sums) in tokens.zip(sums) {
                let (y, sums) = (y.row(t), sums.map(|sum| (0.0 + sum) * scale[t]));
                for (q, sums) in sums.as_chunks::<4>().0.iter().enumerate() {
                    // of the chunk's columns those that are asked for
                    let at = column + SEGMENT * q;
                    let (from, to) = (at.max(skip), (at + 4).min(skip + y.len()));
                    if from < to {
                        added.write(first + t, start + from, &sums[from - at..], &mut y[from - skip..to - skip]);
                    }
                }
            }
        });
    });
}
