//! The three projections of a call, cut into units that threads share.

use super::elementwise::Quantize;
use super::forward::for_tokens;
use super::four_bit::{FourBit, FourBitRows, ROW_TOKENS, RowForm};
use super::rows::{BLOCK, Rows};
use super::weights::{Dense, Matrix, Store, Weights};
use super::workspace::{Quantized, Workspace};
use crate::Cpu;
use crate::activation::Activate;
use crate::column_sums::{
    self, Added, Codes, Kept, PANEL_TOKENS, SlotLayout, SlotList, Slots, SplitSums, splits_of, sum_codes, sum_tiles,
};
use crate::simd::{Available, SimdElement};
use crate::threads::{Fresh, Parts, Pieces, SharedSlice, Tiles, Window};
use crate::w4a8::{Activations, TILE_N, TOKEN_BLOCK, multiply_rows};
use std::ops::Range;

/// Ranges that each thread gets on average, so that unequal ones balance.
const RANGES_PER_THREAD: usize = 4;

/// Tokens whose sums of whole rows of down are kept beside each other.
pub(crate) const FEW_TOKENS: usize = 8;

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
            sum_codes(cpu, &w.down, &input, &added, y, work.split);
        }
    }
}

/// Whole rows for a few tokens if rows are whole vectors, else tiles of columns.
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
    let rows = column_sums::Rows { elements: matrix, stride: d };
    let kept = Kept { splits, list, x: hidden, stride };
    let finish = |token, column, y: &mut [f32]| added.add(token, column, y);
    let columns = std::slice::from_ref(&columns);
    if y.len() <= FEW_TOKENS * d && d % 16 == 0 {
        split.run(cpu, (&rows, kept), (y, d), columns, finish);
    } else {
        sum_tiles(cpu, (&rows, kept), (y, d), columns, finish);
    }
}
