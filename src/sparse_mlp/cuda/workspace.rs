//! The memory of a call on the device, allocated once and passed in.

use super::activation::OperandBuffer;
use super::selection::{NeuronList, mask_words};
use super::variant::{FEW_TOKENS, down_splits, is_tiled};
use super::weights::{RowFormat, Weights};
use crate::device::Device;
use crate::device::cudarc::driver::CudaSlice;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::Shape;

/// Most tokens of a call.
pub const MAX_TOKENS: usize = 512;

/// int8 activations and their scales and sums.
#[derive(Debug)]
pub(super) struct Quantized {
    /// \[tokens, stride\].
    pub codes: CudaSlice<i8>,
    /// \[tokens, stride / 32\].
    pub sums: CudaSlice<i32>,
    /// \[tokens\].
    pub scale: CudaSlice<f32>,
}

impl Quantized {
    fn new(device: &Device, tokens: usize, stride: usize) -> Result<Self> {
        Ok(Quantized {
            codes: device.zeros(tokens * stride)?,
            sums: device.zeros(tokens * stride.div_ceil(32))?,
            scale: device.zeros(tokens)?,
        })
    }
}

/// The buffers of [`super::forward`] for up to a number of tokens, and after a call its intermediate activations.
///
/// One workspace serves all layers of the same shape.
#[derive(Debug)]
pub struct Workspace {
    pub(super) shape: Shape,
    max_tokens: usize,
    /// Floats between tokens in the buffers by neuron: d_ff rounded up to 32.
    pub(super) stride: usize,
    /// Parts of the list that down is cut into for few tokens, and for many.
    pub(super) splits: usize,
    pub(super) tile_splits: usize,
    pub(super) gate: CudaSlice<f32>,
    pub(super) hidden: CudaSlice<f32>,
    /// Products by neuron, before those that are kept are known.
    pub(super) products: CudaSlice<f32>,
    pub(super) kept: NeuronList,
    pub(super) masks: CudaSlice<u32>,
    /// Inputs with those that score too low zeroed.
    pub(super) x: CudaSlice<f32>,
    pub(super) x_int8: Quantized,
    pub(super) hidden_int8: Quantized,
    /// The same activations for the matrix units.
    pub(super) x_operand: OperandBuffer,
    pub(super) hidden_operand: OperandBuffer,
    /// \[splits, tokens, d_model\].
    pub(super) partial: CudaSlice<f32>,
    /// What the buffers of activations are made for.
    format: RowFormat,
}

impl Workspace {
    /// Allocates for `weights` (or others of the same shape and kind) and up to `max_tokens` tokens a call.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `max_tokens` is 1 to [`MAX_TOKENS`], [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, weights: &Weights, max_tokens: usize) -> Result<Workspace> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(Error::Shape { what: "max_tokens", expected: "1 to 512", got: max_tokens });
        }
        let shape = weights.shape();
        let Shape { d_model, d_ff, .. } = shape;
        let stride = d_ff.next_multiple_of(32);
        let format = weights.format;
        let cut = |tokens| down_splits(format, d_model, d_ff, tokens, device.multiprocessors() as usize);
        let few = max_tokens.min(FEW_TOKENS);
        let (splits, tile_splits) = (cut(few), if is_tiled(max_tokens) { cut(max_tokens) } else { 0 });
        let partial = (splits * few).max(tile_splits * max_tokens);
        let int8_tokens = if weights.is_four_bit() { few } else { 1 };
        let int8 = |width: usize| Quantized::new(device, int8_tokens, if weights.is_four_bit() { width } else { 1 });
        let tiled_tokens = if is_tiled(max_tokens) { max_tokens } else { 0 };
        let operand = |width, sums| OperandBuffer::new(device, format, tiled_tokens, width, sums);
        let floats = |elems: usize| device.zeros::<f32>(max_tokens * elems);
        Ok(Workspace {
            shape,
            max_tokens,
            stride,
            splits,
            tile_splits,
            gate: floats(stride)?,
            hidden: floats(stride)?,
            products: floats(stride)?,
            kept: NeuronList::new(device, d_ff)?,
            masks: device.zeros(max_tokens * mask_words(d_ff.max(d_model)))?,
            x: floats(d_model)?,
            x_int8: int8(d_model)?,
            hidden_int8: int8(stride)?,
            x_operand: operand(d_model, weights.is_four_bit())?,
            hidden_operand: operand(stride, false)?,
            partial: device.zeros(partial * d_model)?,
            format,
        })
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        let int8 = |q: &Quantized| q.codes.len() + 4 * (q.sums.len() + q.scale.len());
        let floats = [&self.gate, &self.hidden, &self.products, &self.x, &self.partial];
        4 * (floats.iter().map(|slice| slice.len()).sum::<usize>() + self.masks.len() + self.shape.d_ff + 1)
            + int8(&self.x_int8)
            + int8(&self.hidden_int8)
            + self.x_operand.memory_bytes()
            + self.hidden_operand.memory_bytes()
    }

    pub(super) fn check(&self, device: &Device, weights: &Weights, tokens: usize) -> Result<()> {
        super::check_context("workspace", device, &self.hidden)?;
        check_len("workspace's d_model", weights.shape().d_model, self.shape.d_model)?;
        check_len("workspace's d_ff", weights.shape().d_ff, self.shape.d_ff)?;
        if tokens > self.max_tokens {
            let expected = "at most the workspace's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: tokens });
        }
        if weights.format != self.format {
            let (expected, got) =
                ("one made for weights of this format", format!("one for {} rows", self.format.name()));
            return Err(Error::Unsupported { what: "workspace", expected, got });
        }
        Ok(())
    }

    /// act(x·gate) of the last call, f32 \[tokens, [`Workspace::stride`]\]: by neuron after [`super::Selection::All`] and after
    /// scores on the gate or the product, by position in the list otherwise.
    pub fn gate(&self) -> &CudaSlice<f32> {
        &self.gate
    }

    /// A = act(x·gate) ⊙ (x·up) of the last call, f32 \[tokens, [`Workspace::stride`]\] by position in the list that was read: by
    /// neuron after [`super::Selection::All`]. Neurons that a token did not keep are 0.
    pub fn hidden(&self) -> &CudaSlice<f32> {
        &self.hidden
    }

    /// Elements between tokens in [`Workspace::gate`] and [`Workspace::hidden`].
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The neurons that any token of the last call kept, where the call made the list itself: after masks and scores on the gate
    /// or the product.
    pub fn kept(&self) -> &NeuronList {
        &self.kept
    }
}
