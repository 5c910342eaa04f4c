//! How a call is cut, and where its scratch lies.

use super::{Arrivals, Codes, Down, MAX_WIDTH, MaskValues, Maxima, Operand};
use crate::device::{Address, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::Shape;
use crate::sparse_mlp::cuda::variant::{FEW_TOKENS, down_splits, gate_up, is_tiled};
use crate::sparse_mlp::cuda::{MAX_TOKENS, RowFormat, mask_words};

/// What calls of up to a number of tokens need, for all layers of one shape. Results depend on it through the parts of down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    format: RowFormat,
    shape: Shape,
    max_tokens: usize,
    /// Parts of the list that down is cut into for few tokens, and for many.
    splits: usize,
    tile_splits: usize,
    multiprocessors: usize,
}

/// Scratch of a call in one region, by what lies where.
#[derive(Debug, Clone, Copy)]
pub struct Sections {
    /// f32 \[max_tokens, [`Plan::stride`]\]: act(gate·x) after a call, by neuron after [`super::Selection::All`] and after scores
    /// on the gate or the product, by position in the list otherwise.
    pub gate: Address<f32>,
    /// f32 \[max_tokens, [`Plan::stride`]\]: act(gate·x) ⊙ (up·x) after a call, by position in the list that was read.
    pub hidden: Address<f32>,
    /// f32 \[max_tokens, [`Plan::stride`]\]: products of every neuron, before those that are kept are known.
    pub products: Address<f32>,
    /// u32 \[max_tokens, mask words of the wider of d_model and d_ff\].
    pub masks: Address<u32>,
    /// f32 \[max_tokens, d_model\]: inputs with those that score too low zeroed, or widened.
    pub x: Address<f32>,
    /// x of 2 to 8 tokens as int8, for 4-bit rows.
    pub x_codes: Codes,
    /// u32 \[tokens up to 8, blocks\]: the largest sizes of products of up to 8 tokens, for 4-bit rows.
    pub maxima: Address<u32>,
    /// u32: what the blocks of down count in, for up to 8 tokens.
    pub arrivals: Address<u32>,
    /// x of more tokens.
    pub x_operand: Operand,
    /// The products of more tokens.
    pub hidden_operand: Operand,
    /// f32 \[splits, tokens, d_model\].
    pub partial: Address<f32>,
}

/// Sections one after the other, each at a multiple of 256 bytes.
struct Region {
    base: Address<f32>,
    floats: usize,
}

impl Region {
    fn take<T>(&mut self, elems: usize) -> Address<T> {
        let at = self.base.offset(self.floats);
        let floats = product([elems, size_of::<T>()]).div_ceil(256).saturating_mul(64);
        self.floats = self.floats.saturating_add(floats);
        at.cast()
    }
}

impl Plan {
    /// Plans for calls of up to `max_tokens` tokens on a device of so many multiprocessors.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `max_tokens` is 1 to [`MAX_TOKENS`], d_model a multiple of 8 and both sizes 1 to 2²⁴.
    pub fn new(format: RowFormat, shape: Shape, max_tokens: usize, multiprocessors: usize) -> Result<Plan> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(Error::Shape { what: "max_tokens", expected: "1 to 512", got: max_tokens });
        }
        let Shape { d_model, d_ff, .. } = shape;
        if d_model == 0 || d_model % 8 != 0 || d_model > MAX_WIDTH {
            let expected = "a multiple of 8 on a CUDA device, at most 2^24";
            return Err(Error::Shape { what: "d_model", expected, got: d_model });
        }
        if d_ff == 0 || d_ff > MAX_WIDTH {
            return Err(Error::Shape { what: "d_ff", expected: "1 to 2^24", got: d_ff });
        }
        let cut = |tokens| down_splits(format, d_model, d_ff, tokens, multiprocessors);
        let (splits, tile_splits) =
            (cut(max_tokens.min(FEW_TOKENS)), if is_tiled(max_tokens) { cut(max_tokens) } else { 0 });
        Ok(Plan { format, shape, max_tokens, splits, tile_splits, multiprocessors: multiprocessors.max(1) })
    }

    /// What rows are stored as.
    pub fn format(&self) -> RowFormat {
        self.format
    }

    /// The sizes and the nonlinearity.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Tokens of a call at most.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Elements from one token to the next in what is kept by neuron: d_ff rounded up to 32.
    pub fn stride(&self) -> usize {
        self.shape.d_ff.next_multiple_of(32)
    }

    /// Parts of the list that down is cut into in a call of so many tokens.
    pub fn splits(&self, tokens: usize) -> usize {
        if is_tiled(tokens) { self.tile_splits } else { self.splits }
    }

    /// Blocks of gate and up.
    pub(super) fn gate_blocks(&self, tokens: usize) -> usize {
        gate_up(self.format, tokens, self.shape.d_ff, self.multiprocessors).grid[0] as usize
    }

    /// Room for `count` maxima of each token, where down takes them.
    pub(super) fn maxima(&self, s: &Sections, tokens: usize, count: usize) -> Option<Maxima> {
        (self.format == RowFormat::FourBit && !is_tiled(tokens)).then_some(Maxima { bits: s.maxima, count })
    }

    /// What down counts in, where it does.
    pub(super) fn arrivals(&self, s: &Sections, tokens: usize) -> Option<Arrivals> {
        let count = Down::arrivals(self.format, self.shape.d_model);
        (!is_tiled(tokens)).then_some(Arrivals { counters: s.arrivals, count })
    }

    /// Checks the tokens of a call and the bytes at its workspace.
    pub(super) fn check_call(&self, tokens: usize, workspace_bytes: usize) -> Result<()> {
        if tokens > self.max_tokens {
            return Err(Error::Shape { what: "tokens", expected: "at most the plan's max_tokens", got: tokens });
        }
        let needed = self.workspace_bytes();
        match workspace_bytes < needed {
            true => Err(Error::Length { what: "workspace", expected: needed / 4, got: workspace_bytes / 4 }),
            false => Ok(()),
        }
    }

    /// Bytes of scratch, at a multiple of 16 bytes.
    pub fn workspace_bytes(&self) -> usize {
        product([self.cut(Address::NULL).1, size_of::<f32>()])
    }

    /// Where the sections of a region of [`Plan::workspace_bytes`] lie.
    pub fn sections(&self, base: Address<f32>) -> Sections {
        self.cut(base).0
    }

    /// The sections, and how many floats they take.
    fn cut(&self, base: Address<f32>) -> (Sections, usize) {
        let (Shape { d_model, d_ff, .. }, stride, max) = (self.shape, self.stride(), self.max_tokens);
        let few = max.min(FEW_TOKENS);
        let (int8, tiled) = match (self.format, is_tiled(max)) {
            (RowFormat::FourBit, is_tiled) => (few, if is_tiled { max } else { 0 }),
            (_, is_tiled) => (0, if is_tiled { max } else { 0 }),
        };
        let mut region = Region { base, floats: 0 };
        let partial = (self.splits * few).max(self.tile_splits * max);
        let maxima = self.multiprocessors.min(d_ff).max(MaskValues::maxima_of(d_ff));
        let codes = |region: &mut Region| Codes {
            codes: region.take(product([int8, d_model])),
            sums: region.take(product([int8, d_model.div_ceil(32)])),
            scale: region.take(int8),
        };
        let operand = |region: &mut Region, width: usize, sums: bool| Operand {
            tiles: region.take(Operand::tile_bytes(self.format, tiled, width)),
            sums: sums.then(|| region.take(if tiled > 0 { Operand::sum_elems(tiled, width) } else { 0 })),
            scale: region.take(tiled),
            width,
        };
        let sections = Sections {
            gate: region.take(product([max, stride])),
            hidden: region.take(product([max, stride])),
            products: region.take(product([max, stride])),
            masks: region.take(product([max, mask_words(d_ff.max(d_model))])),
            x: region.take(product([max, d_model])),
            x_codes: codes(&mut region),
            maxima: region.take(product([int8, maxima])),
            arrivals: region.take(Down::arrivals(self.format, d_model)),
            x_operand: operand(&mut region, d_model, self.format == RowFormat::FourBit),
            hidden_operand: operand(&mut region, stride, false),
            partial: region.take(product([partial, d_model])),
        };
        (sections, region.floats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse_mlp::Activation;

    #[test]
    fn sections_lie_one_after_the_other_inside_the_workspace() {
        for format in [RowFormat::F16, RowFormat::Bf16, RowFormat::FourBit] {
            for max_tokens in [1, 8, 9, 64] {
                let shape = Shape { d_model: 64, d_ff: 100, activation: Activation::Silu };
                let plan = Plan::new(format, shape, max_tokens, 132).unwrap();
                let base = 1 << 20;
                let s = plan.sections(Address::new(base));
                let starts = [
                    s.gate.get(),
                    s.hidden.get(),
                    s.products.get(),
                    s.masks.get(),
                    s.x.get(),
                    s.x_codes.codes.get(),
                    s.maxima.get(),
                    s.arrivals.get(),
                    s.x_operand.tiles.get(),
                    s.hidden_operand.tiles.get(),
                    s.partial.get(),
                ];
                let partial = starts[10];
                assert_eq!(starts[0], base);
                assert!(starts.is_sorted() && starts.iter().all(|start| start % 256 == 0), "{starts:?}");
                assert_eq!(starts[1] - starts[0], (max_tokens as u64 * 128 * 4).next_multiple_of(256));
                let parts = (plan.splits(1) * max_tokens.min(8)).max(if max_tokens > 8 {
                    plan.splits(max_tokens) * max_tokens
                } else {
                    0
                });
                let end = partial + (parts as u64 * 64 * 4).next_multiple_of(256);
                assert_eq!(end - base, plan.workspace_bytes() as u64);
            }
        }
    }
}
