//! The three projections of a call, cut into units that threads share.

use super::down_4bit::{DOWN_CHUNKS, DOWN_TOKENS, FourBitDown, Run};
use super::elementwise::{Activate, Quantize};
use super::forward::for_tokens;
use super::four_bit::{DownMatrix, FourBit, RowForm, SEGMENT};
use super::rows::{BLOCK, CHUNK, DENSE_CHUNK, Down, Rows};
use super::rows_4bit::{Codes, FourBitRows, ROW_TOKENS};
use super::slots::{SlotLayout, SlotList};
use super::weights::{Dense, Matrix, Store, Weights};
use super::workspace::{Quantized, Workspace};
use crate::Cpu;
use crate::input_sparse::{self, Kept, SplitSums, splits_of};
use crate::simd::{Available, SimdElement};
use crate::threads::{Fresh, Parts, Pieces, SharedSlice, Tiles, Window};
use crate::w4a8::{Activations, TILE_N, TOKEN_BLOCK, Tokens, multiply_rows};
use std::ops::Range;

/// Ranges that each thread gets on average, so that unequal ones balance.
const RANGES_PER_THREAD: usize = 4;

/// Tokens whose sums of whole rows of down are kept beside each other.
pub(crate) const FEW_TOKENS: usize = 8;

/// Tokens for which 16 rows of 4 bits are turned into a panel once, before they are multiplied.
pub(super) const PANEL_TOKENS: usize = 16;

/// Tokens for which panels of down are made once.
const TILE_TOKENS: usize = 256;

/// A block of 16 kept neurons for a tile of tokens.
pub(super) struct Tile<'a> {
    pub simd: Available,
    weights: &'a Weights,
    x: &'a [f32],
    x_int8: &'a Activations,
    pub first_token: usize,
    /// Where the first neuron is among the kept ones.
    pub first: usize,
    pub rows: &'a [u32],
    /// The neurons of the block after this one.
    next: &'a [u32],
}

impl Tile<'_> {
    /// out\[t\]\[i\] ← row i of a matrix times token t (+ bias).
    pub(super) fn multiply(&self, matrix: Matrix, out: &mut [[f32; BLOCK]]) {
        match &self.weights.store {
            Store::F32(w) => self.multiply_dense(w, matrix, out),
            Store::F16(w) => self.multiply_dense(w, matrix, out),
            Store::Bf16(w) => self.multiply_dense(w, matrix, out),
            Store::FourBit(w) => self.multiply_4bit(if matrix == Matrix::Gate { &w.gate } else { &w.up }, out),
        }
        let bias = self.weights.bias(matrix);
        if !bias.is_empty() {
            for out in out {
                self.rows.iter().zip(out).for_each(|(&j, out)| *out += bias[j as usize]);
            }
        }
    }

    fn multiply_dense<T: SimdElement>(&self, w: &Dense<T>, matrix: Matrix, out: &mut [[f32; BLOCK]]) {
        let d = self.weights.shape().d_model;
        let matrix = if matrix == Matrix::Gate { &w.gate } else { &w.up };
        let (rows, next) = (self.rows, self.next);
        self.simd.run(Rows { matrix, d, rows, next, x: &self.x[self.first_token * d..], out });
    }

    fn multiply_4bit(&self, form: &RowForm, out: &mut [[f32; BLOCK]]) {
        const { assert!(BLOCK == TILE_N) };
        let (rows, next) = (self.rows, self.next);
        match form {
            RowForm::ByNeuron(matrix) => {
                let x = Codes::of(self.x_int8).at_token(self.first_token);
                self.simd.run(FourBitRows { matrix, rows, next, x, out });
            }
            // whoever has packed rows computes all of them, block after block
            RowForm::Packed(weight) => {
                let tile = rows[0] as usize / TILE_N;
                multiply_rows(self.simd, &weight.view(), tile, self.x_int8, self.first_token, out);
            }
        }
    }
}

/// Writes a block's lanes of each token, as many as there is room for.
pub(super) fn store(out: &[[f32; BLOCK]], mut window: Window<'_, f32>) {
    for (t, out) in out.iter().enumerate() {
        let row = window.row(t);
        row.copy_from_slice(&out[..row.len()]);
    }
}

/// What the projections of gate and up read.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub weights: &'a Weights,
    pub x: &'a [f32],
    pub x_int8: &'a Activations,
    pub kept: &'a [u32],
    pub tokens: usize,
}

impl<'a> Inputs<'a> {
    /// Data \[tokens, stride\] in blocks of kept neurons by tiles of tokens.
    fn cut<'d>(&self, data: &'d mut [f32], stride: usize) -> Tiles<'d, f32> {
        let columns = 0..self.kept.len().next_multiple_of(BLOCK);
        let height = if self.by_panels().is_some() { self.tokens } else { ROW_TOKENS };
        Tiles::new(&mut data[..self.tokens * stride], stride, columns, height, BLOCK)
    }

    /// The rows of 4 bits, if tokens are as many as make panels of them pay.
    fn by_panels(&self) -> Option<&'a FourBit> {
        match &self.weights.store {
            Store::FourBit(w) if self.tokens >= PANEL_TOKENS => Some(w),
            _ => None,
        }
    }

    /// Calls `f` on every block of `kept` and all tokens.
    fn for_blocks<P: Parts>(self, cpu: &Cpu, parts: P, f: impl Fn(&Block<'_>, P::Part) + Sync) {
        cpu.team().for_parts(parts, 1, |block, part| {
            let rows = &self.kept[block * BLOCK..self.kept.len().min((block + 1) * BLOCK)];
            f(&Block { simd: cpu.simd(), inputs: self, rows }, part);
        });
    }

    /// Calls `f` on every block of `kept` and tile of tokens, with room for two results.
    pub(super) fn for_tiles<P: Parts>(
        self,
        cpu: &Cpu,
        parts: P,
        f: impl Fn(&Tile<'_>, &mut [[f32; BLOCK]], &mut [[f32; BLOCK]], P::Part) + Sync,
    ) {
        if self.tokens == 1 {
            self.for_tiles_of::<P, 1>(cpu, parts, f);
        } else {
            self.for_tiles_of::<P, ROW_TOKENS>(cpu, parts, f);
        }
    }

    /// As `for_tiles`, tiles having up to `N` tokens.
    fn for_tiles_of<P: Parts, const N: usize>(
        self,
        cpu: &Cpu,
        parts: P,
        f: impl Fn(&Tile<'_>, &mut [[f32; BLOCK]], &mut [[f32; BLOCK]], P::Part) + Sync,
    ) {
        let Inputs { weights, x, x_int8, kept, tokens } = self;
        let blocks = kept.len().div_ceil(BLOCK);
        let block_of = |block: usize| &kept[kept.len().min(block * BLOCK)..kept.len().min((block + 1) * BLOCK)];
        let grain = parts.count().div_ceil(cpu.threads() * RANGES_PER_THREAD);
        let results = Fresh(|| [[[0.0f32; BLOCK]; N]; 2]);
        cpu.team().for_parts_with(parts, grain, results, |[a, b], unit, part| {
            let (tile, block) = (unit / blocks, unit % blocks);
            let first_token = tile * ROW_TOKENS;
            let n = (tokens - first_token).min(N);
            let (rows, next) = (block_of(block), block_of(block + 1));
            let first = block * BLOCK;
            let tile = Tile { simd: cpu.simd(), weights, x, x_int8, first_token, first, rows, next };
            f(&tile, &mut a[..n], &mut b[..n], part);
        });
    }
}

/// A block of 16 kept neurons for all tokens.
struct Block<'a> {
    simd: Available,
    inputs: Inputs<'a>,
    rows: &'a [u32],
}

impl Block<'_> {
    /// Hands `each` the rows of a matrix times some tokens (+ bias), and those after them.
    fn multiply(&self, (w, matrix): (&FourBit, Matrix), mut each: impl FnMut(Range<usize>, &mut [[f32; BLOCK]])) {
        let form = if matrix == Matrix::Gate { &w.gate } else { &w.up };
        let x = self.inputs.x_int8;
        let bias = self.inputs.weights.bias(matrix);
        let mut out = [[0.0f32; BLOCK]; TOKEN_BLOCK];
        form.multiply(self.simd, self.rows, x, |tokens, sums| {
            let out = &mut out[..sums.len()];
            for ((out, sums), scale) in out.iter_mut().zip(sums).zip(&x.scale()[tokens.clone()]) {
                // 0 and not −0, as a sum over groups that begins at 0 is
                *out = sums.map(|sum| (0.0 + sum) * scale);
            }
            if !bias.is_empty() {
                for out in &mut *out {
                    self.rows.iter().zip(out).for_each(|(&j, out)| *out += bias[j as usize]);
                }
            }
            each(tokens, out);
        });
    }
}

/// gate ← act(gate·x) for the neurons in `kept`, and hidden ← gate ⊙ (up·x) if asked for.
pub(crate) fn project_gate(cpu: &Cpu, weights: &Weights, x: &[f32], ws: &mut Workspace, with_up: bool) {
    let (stride, activation) = (ws.stride, ws.shape.activation);
    let inputs = Inputs { weights, x, x_int8: &ws.x_int8, kept: &ws.kept, tokens: ws.tokens };
    let parts = (inputs.cut(&mut ws.gate, stride), inputs.cut(&mut ws.hidden, stride));
    if let Some(w) = inputs.by_panels() {
        return inputs.for_blocks(cpu, parts, |block, (mut gate, mut hidden)| {
            block.multiply((w, Matrix::Gate), |tokens, a| {
                block.simd.run(Activate { activation, gate: a, up: &mut [] });
                tokens.zip(a).for_each(|(t, a)| gate.row(t).copy_from_slice(a));
            });
            if with_up {
                block.multiply((w, Matrix::Up), |tokens, b| {
                    for (t, b) in tokens.zip(b) {
                        let rows = gate.row(t).iter().zip(b).zip(hidden.row(t));
                        rows.for_each(|((a, b), hidden)| *hidden = a * *b);
                    }
                });
            }
        });
    }
    inputs.for_tiles(cpu, parts, |tile, a, b, (gate, hidden)| {
        tile.multiply(Matrix::Gate, a);
        if with_up {
            tile.multiply(Matrix::Up, b);
            tile.simd.run(Activate { activation, gate: a, up: b });
            store(b, hidden);
        } else {
            tile.simd.run(Activate { activation, gate: a, up: &mut [] });
        }
        store(a, gate);
    });
}

/// hidden ← gate\[kept\] ⊙ (up·x), hidden by position and gate by neuron.
pub(crate) fn project_up(cpu: &Cpu, weights: &Weights, x: &[f32], ws: &mut Workspace) {
    let (stride, gate) = (ws.stride, &ws.gate);
    let inputs = Inputs { weights, x, x_int8: &ws.x_int8, kept: &ws.kept, tokens: ws.tokens };
    let hidden = inputs.cut(&mut ws.hidden, stride);
    if let Some(w) = inputs.by_panels() {
        return inputs.for_blocks(cpu, hidden, |block, mut hidden| {
            block.multiply((w, Matrix::Up), |tokens, b| {
                for (t, b) in tokens.zip(b) {
                    multiply_gates(&gate[t * stride..][..stride], block.rows, b);
                    hidden.row(t).copy_from_slice(b);
                }
            });
        });
    }
    inputs.for_tiles(cpu, hidden, |tile, _, b, hidden| {
        tile.multiply(Matrix::Up, b);
        for (t, b) in b.iter_mut().enumerate() {
            multiply_gates(&gate[(tile.first_token + t) * stride..][..stride], tile.rows, b);
        }
        store(b, hidden);
    });
}

/// b\[i\] ← b\[i\] · gate\[rows\[i\]\], the rows increasing.
fn multiply_gates(gate: &[f32], rows: &[u32], b: &mut [f32; BLOCK]) {
    let first = rows[0] as usize;
    match gate[first..].first_chunk::<BLOCK>() {
        Some(gate) if rows.len() == BLOCK && rows[BLOCK - 1] as usize - first == BLOCK - 1 => {
            b.iter_mut().zip(gate).for_each(|(b, gate)| *b *= gate);
        }
        _ => rows.iter().zip(b).for_each(|(&j, b)| *b *= gate[j as usize]),
    }
}

/// The products of a call's kept neurons, f32 \[tokens, stride\] by position in `kept`.
#[derive(Clone, Copy)]
pub(super) struct Products<'a> {
    pub hidden: &'a [f32],
    pub stride: usize,
    pub tokens: usize,
    pub kept: &'a [u32],
}

/// What down works in.
pub(super) struct DownWork<'a> {
    /// Codes by position, \[tokens, stride\].
    codes: (&'a mut [i8], usize),
    hidden_int8: &'a mut Quantized,
    slots: &'a mut SlotList,
    split: &'a mut SplitSums,
}

impl Workspace {
    /// The last call's products, and what down works in.
    pub(super) fn down(&mut self) -> (Products<'_>, DownWork<'_>) {
        let Workspace { hidden, stride, tokens, kept, codes, hidden_int8, slots, split, .. } = self;
        let codes = (codes.as_mut_slice(), *stride);
        (Products { hidden, stride: *stride, tokens: *tokens, kept }, DownWork { codes, hidden_int8, slots, split })
    }
}

/// Cuts the kept neurons into runs of blocks and quantizes `hidden` to int8 by slot; the scale of a token whose product has
/// overflowed is NaN.
pub(super) fn quantize_hidden(cpu: &Cpu, weights: &Weights, products: Products<'_>, work: &mut DownWork<'_>) {
    let Store::FourBit(w) = &weights.store else { return };
    let Products { hidden, stride, tokens, kept } = products;
    let numbers = weights.numbers(kept);
    let layout = SlotLayout::of(&w.down, weights.neurons.is_none(), kept, tokens);
    layout.cut(cpu, (numbers, kept), work.slots);
    let slots_of = &*work.slots;
    let n = numbers.len();
    let (codes, width) = (&mut *work.codes.0, work.codes.1);
    let parts = (Pieces::new(&mut codes[..tokens * width], width), work.hidden_int8.parts(tokens));
    for_tokens(cpu, 2 * n, parts, |t, (codes, (slots, scale, sums))| {
        let codes = &mut codes[..n];
        cpu.simd().run(Quantize { x: &hidden[t * stride..][..n], codes, scale: &mut scale[0] });
        layout.spread(cpu, (codes, numbers), slots_of, (slots, sums));
    });
}

/// y ← down·hidden (+ bias) (+ residual), for some columns of y; with 4-bit weights, of what [`quantize_hidden`] has left.
pub(super) fn project_down(
    cpu: &Cpu,
    weights: &Weights,
    (products, work): (Products<'_>, &mut DownWork<'_>),
    residual: Option<&[f32]>,
    y: (SharedSlice<'_, f32>, Range<usize>),
) {
    let bias = Some(weights.bias(Matrix::Down)).filter(|bias| !bias.is_empty());
    let added = Added { d: weights.shape().d_model, bias, residual };
    let call = (products, &mut *work.split);
    match &weights.store {
        Store::F32(w) => down_dense(cpu, (weights, &w.down), call, &added, y),
        Store::F16(w) => down_dense(cpu, (weights, &w.down), call, &added, y),
        Store::Bf16(w) => down_dense(cpu, (weights, &w.down), call, &added, y),
        Store::FourBit(w) => {
            let h = work.hidden_int8.at_token(0);
            let layout = SlotLayout::of(&w.down, weights.neurons.is_none(), products.kept, products.tokens);
            let input = Slots { layout, slots: work.slots.rows(), runs: work.slots.runs(), h };
            down_4bit(cpu, &w.down, &input, &added, y, work.split);
        }
    }
}

/// What is added to the down projection's sums.
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
    fn add(&self, token: usize, start: usize, y: &mut [f32]) {
        let at = token * self.d + start;
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[start..]).for_each(|(y, b)| *y += b);
        }
        if let Some(residual) = self.residual {
            y.iter_mut().zip(&residual[at..]).for_each(|(y, r)| *y += r);
        }
    }
}

/// Whole rows for a few tokens if rows are whole vectors, else chunks of columns by tiles of tokens.
fn down_dense<T: SimdElement>(
    cpu: &Cpu,
    (weights, matrix): (&Weights, &[T]),
    (products, split): (Products<'_>, &mut SplitSums),
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
) {
    let Products { hidden, stride, kept: list, .. } = products;
    let d = added.d;
    let splits = &splits_of(weights.numbers(list), weights.all_neurons());
    if y.len() <= FEW_TOKENS * d && d % 16 == 0 {
        let rows = input_sparse::Rows { elements: matrix, stride: d };
        let kept = Kept { splits, list, x: hidden, stride };
        let finish = |token, column, y: &mut [f32]| added.add(token, column, y);
        return split.run(cpu, (&rows, kept), (y, d), std::slice::from_ref(&columns), finish);
    }
    let tiles = Tiles::new(y, d, columns, DOWN_TOKENS, DENSE_CHUNK);
    let grid = tiles.grid();
    cpu.team().for_parts_with(tiles, 1, Fresh(|| [[0.0f32; CHUNK]; DOWN_TOKENS]), |sums, unit, mut y| {
        let (first, column, skip) = grid.at(unit);
        let sums = &mut sums[..y.rows()];
        let width = (d - column).min(DENSE_CHUNK);
        let h = &hidden[first * stride..];
        cpu.simd().run(Down { matrix, d, list, splits, h, stride, column, width, out: sums });
        sums.iter().enumerate().for_each(|(t, sums)| added.write(first + t, column + skip, &sums[skip..], y.row(t)));
    });
}

/// y ← rows of codes times what is in their slots (+ bias) (+ residual), for some columns of y.
pub(crate) fn down_4bit(
    cpu: &Cpu,
    matrix: &DownMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
    split: &mut SplitSums,
) {
    if y.len() == added.d {
        let chunks = matrix.columns.start(1);
        let chunks = columns.start / chunks..columns.end.div_ceil(chunks);
        match matrix.splits(input.runs) {
            (runs, 2..) if matrix.splits_pay(chunks.len(), cpu.threads()) => {
                down_4bit_split(cpu, matrix, (input, &runs), added, (y, columns, chunks), split);
            }
            _ => down_4bit_one(cpu, matrix, input, added, (y, columns, chunks)),
        }
    } else if input.layout.is_whole() {
        down_4bit_panels(cpu, matrix, input, added, (y, columns));
    } else {
        down_4bit_many(cpu, matrix, input, added, (y, columns));
    }
}

/// One token: neighbouring chunks together, so that each thread reads as long a piece of a row as there is.
fn down_4bit_one(
    cpu: &Cpu,
    matrix: &DownMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, asked, chunks): (SharedSlice<'_, f32>, Range<usize>, Range<usize>),
) {
    let columns = &matrix.columns;
    let (width, first, count) = (columns.start(1), chunks.start, chunks.len());
    let units = count.div_ceil(DOWN_CHUNKS).next_multiple_of(cpu.threads()).min(count);
    let parts = Pieces::shares(y, asked.clone(), width, units);
    cpu.team().for_parts(parts, 1, |unit, mut y| {
        let chunks = first + unit * count / units..first + (unit + 1) * count / units;
        let mut sums = [[0.0f32; CHUNK]; DOWN_CHUNKS];
        let sums = &mut sums[..chunks.len()];
        let Slots { slots, runs, h, .. } = *input;
        cpu.simd().run(FourBitDown { matrix, slots, runs, h, tokens: 1, chunks: chunks.clone(), out: sums });
        for (chunk, sums) in chunks.zip(sums) {
            let start = columns.start(chunk);
            let skip = asked.start.saturating_sub(start);
            let (part, rest) = y.split_at_mut(y.len().min(width - skip));
            added.write(0, start + skip, &sums[skip..], part);
            y = rest;
        }
    });
}

/// One token, short rows: each thread reads whole rows of some runs of K, whose sums are then added in order.
fn down_4bit_split(
    cpu: &Cpu,
    matrix: &DownMatrix,
    (input, splits): (&Slots<'_>, &[Range<usize>]),
    added: &Added<'_>,
    (y, asked, chunks): (SharedSlice<'_, f32>, Range<usize>, Range<usize>),
    split: &mut SplitSums,
) {
    let columns = &matrix.columns;
    let splits = splits.iter().filter(|runs| !runs.is_empty());
    let count = splits.clone().count();
    let strips = chunks.len().div_ceil(DOWN_CHUNKS);
    let width = chunks.len().div_ceil(strips);
    let sums = split.room(count * strips * width * CHUNK).as_chunks_mut::<CHUNK>().0;
    cpu.team().for_parts(Pieces::new(sums, width), 1, |unit, sums| {
        let first = chunks.start + unit % strips * width;
        let chunks = first..chunks.end.min(first + width);
        let Some(runs) = splits.clone().nth(unit / strips) else { return };
        let Slots { slots, runs: all, h, .. } = *input;
        // not scaled before all are added
        let h = Codes { sums: &h.sums[runs.start..], scale: &[1.0], ..h };
        let (runs, out) = (&all[runs.clone()], &mut sums[..chunks.len()]);
        cpu.simd().run(FourBitDown { matrix, slots, runs, h, tokens: 1, chunks, out });
    });
    let (sums, scale) = (&*sums, input.h.scale[0]);
    cpu.team().for_parts(Pieces::shares(y, asked.clone(), asked.end.max(1), 1), 1, |_, mut y| {
        for (at, chunk) in chunks.clone().enumerate() {
            let start = columns.start(chunk);
            let skip = asked.start.saturating_sub(start);
            let (part, rest) = y.split_at_mut(y.len().min(columns.start(1) - skip));
            let mut total = [0.0f32; CHUNK];
            for sums in sums[at..].iter().step_by(strips * width) {
                total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
            }
            total.iter_mut().for_each(|total| *total *= scale);
            added.write(0, start + skip, &total[skip..], part);
            y = rest;
        }
    });
}

/// Chunks of columns by tiles of tokens.
fn down_4bit_many(
    cpu: &Cpu,
    matrix: &DownMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
) {
    let width = matrix.columns.start(1);
    let tiles = Tiles::new(y, added.d, columns, DOWN_TOKENS, width);
    let grid = tiles.grid();
    cpu.team().for_parts_with(tiles, 1, Fresh(|| [[0.0f32; CHUNK]; DOWN_TOKENS]), |sums, unit, mut y| {
        let (first, column, skip) = grid.at(unit);
        let (chunk, h) = (column / width, input.h.at_token(first));
        let (tokens, slots, runs, sums) = (y.rows(), input.slots, input.runs, &mut sums[..y.rows()]);
        cpu.simd().run(FourBitDown { matrix, slots, runs, h, tokens, chunks: chunk..chunk + 1, out: sums });
        sums.iter().enumerate().for_each(|(t, sums)| added.write(first + t, column + skip, &sums[skip..], y.row(t)));
    });
}

/// Chunks of columns by tiles of many tokens, for which each chunk is turned into panels.
fn down_4bit_panels(
    cpu: &Cpu,
    matrix: &DownMatrix,
    input: &Slots<'_>,
    added: &Added<'_>,
    (y, columns): (SharedSlice<'_, f32>, Range<usize>),
) {
    let width = matrix.columns.start(1);
    let tiles = Tiles::new(y, added.d, columns, TILE_TOKENS, width);
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
