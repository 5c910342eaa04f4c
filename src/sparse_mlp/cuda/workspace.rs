//! The memory of a call on the device, allocated once and passed in.

use super::selection::{NeuronList, mask_words};
use super::weights::Weights;
use crate::device::Device;
use crate::device::cudarc::driver::CudaSlice;
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::Shape;

/// Most tokens of a call.
pub const MAX_TOKENS: usize = 64;

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
    /// Parts of the list that down is cut into.
    pub(super) splits: usize,
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
    /// \[splits, tokens, d_model\].
    pub(super) partial: CudaSlice<f32>,
    /// Whether a call left its own list in `kept`, and whether for 4-bit weights.
    four_bit: bool,
}

impl Workspace {
    /// Allocates for `weights` (or others of the same shape and kind) and up to `max_tokens` tokens a call.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `max_tokens` is 1 to [`MAX_TOKENS`], [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, weights: &Weights, max_tokens: usize) -> Result<Workspace> {
        if !(1..=MAX_TOKENS).contains(&max_tokens) {
            return Err(Error::Shape { what: "max_tokens", expected: "1 to 64", got: max_tokens });
        }
        let shape = weights.shape();
        let Shape { d_model, d_ff, .. } = shape;
        let stride = d_ff.next_multiple_of(32);
        let splits = down_splits(d_model, d_ff, max_tokens, device.multiprocessors() as usize);
        let int8_tokens = if weights.is_four_bit() { max_tokens } else { 1 };
        let int8 = |width: usize| Quantized::new(device, int8_tokens, if weights.is_four_bit() { width } else { 1 });
        let floats = |elems: usize| device.zeros::<f32>(max_tokens * elems);
        Ok(Workspace {
            shape,
            max_tokens,
            stride,
            splits,
            gate: floats(stride)?,
            hidden: floats(stride)?,
            products: floats(stride)?,
            kept: NeuronList::new(device, d_ff)?,
            masks: device.zeros(max_tokens * mask_words(d_ff.max(d_model)))?,
            x: floats(d_model)?,
            x_int8: int8(d_model)?,
            hidden_int8: int8(stride)?,
            partial: floats(splits * d_model)?,
            four_bit: weights.is_four_bit(),
        })
    }

    /// Bytes allocated on the device.
    pub fn memory_bytes(&self) -> usize {
        let int8 = |q: &Quantized| q.codes.len() + 4 * (q.sums.len() + q.scale.len());
        let floats = [&self.gate, &self.hidden, &self.products, &self.x, &self.partial];
        4 * (floats.iter().map(|slice| slice.len()).sum::<usize>() + self.masks.len() + self.shape.d_ff + 1)
            + int8(&self.x_int8)
            + int8(&self.hidden_int8)
    }

    pub(super) fn check(&self, device: &Device, weights: &Weights, tokens: usize) -> Result<()> {
        super::check_device("workspace", device, &self.hidden)?;
        check_len("workspace's d_model", weights.shape().d_model, self.shape.d_model)?;
        check_len("workspace's d_ff", weights.shape().d_ff, self.shape.d_ff)?;
        if tokens > self.max_tokens {
            let expected = "at most the workspace's max_tokens";
            return Err(Error::Shape { what: "tokens", expected, got: tokens });
        }
        if weights.is_four_bit() && !self.four_bit {
            let (expected, got) = ("one made for 4-bit weights", "one for 16-bit weights".into());
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

/// Parts of the list for down: enough blocks to fill the device twice, and at least 32 neurons a part.
fn down_splits(d_model: usize, d_ff: usize, max_tokens: usize, multiprocessors: usize) -> usize {
    let blocks = d_model.div_ceil(256) * max_tokens.div_ceil(8);
    (2 * multiprocessors).div_ceil(blocks).min(d_ff.div_ceil(32)).clamp(1, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_fill_the_device_and_leave_no_part_too_small() {
        assert_eq!(down_splits(4096, 14336, 1, 132), 17);
        assert_eq!(down_splits(576, 1536, 1, 132), 48);
        assert_eq!(down_splits(64, 96, 1, 132), 3);
        assert_eq!(down_splits(8192, 28672, 64, 132), 2);
    }
}
