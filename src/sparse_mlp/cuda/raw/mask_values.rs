//! Values where a mask keeps them.

use super::{Maxima, Neurons, check_width};
use crate::device::{Access, Address, Buffer, Device, ElementKind, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::mirror::{KEEP, KeepParams};

/// out\[t, i\] = values\[t, neuron i\] in f32 where token t's mask keeps it, and 0 elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct MaskValues {
    /// \[tokens, stride\].
    pub values: Address,
    /// Of the values.
    pub values_type: ElementKind,
    /// Which values, in which order.
    pub neurons: Neurons,
    /// f32 \[tokens, stride\] by position; may be `values` where there is no list and they are f32.
    pub out: Address<f32>,
    /// Where the largest sizes in `out` go, [`MaskValues::maxima_of`] for each token; None where they are not wanted.
    pub maxima: Option<Maxima>,
    /// Elements from one token's values to the next's.
    pub stride: usize,
    /// Tokens, at most 65535.
    pub tokens: usize,
}

impl MaskValues {
    /// Maxima of each token of so many neurons.
    pub fn maxima_of(limit: usize) -> usize {
        limit.div_ceil(KEEP.threads as usize)
    }
}

impl Enqueue for MaskValues {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("neurons", self.neurons.limit, self.stride)?;
        let maxima = MaskValues::maxima_of(self.neurons.limit);
        self.maxima.map_or(Ok(()), |of| crate::error::check_len("maxima", maxima, of.count))?;
        match self.tokens > 0xffff {
            true => Err(Error::Shape { what: "tokens", expected: "at most 65535", got: self.tokens }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let elems = product([self.tokens, self.stride]);
        show(Buffer::read("values", self.values, elems).of_bytes(self.values_type.bytes()));
        self.neurons.name_buffers(self.tokens, show);
        show(Buffer::write("out", self.out, elems));
        if let Some(maxima) = self.maxima {
            maxima.name_buffers(self.tokens, Access::Write, show);
        }
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let params = KeepParams {
            neurons: self.neurons.params(),
            values: self.values.get(),
            out: self.out.get(),
            maxima: or_null(self.maxima.map(|maxima| maxima.bits)),
            stride: self.stride as u32,
            dtype: self.values_type as u32,
        };
        let grid = [MaskValues::maxima_of(self.neurons.limit) as u32, self.tokens as u32, 1];
        queue.launch(KEEP, grid, params)
    }
}
