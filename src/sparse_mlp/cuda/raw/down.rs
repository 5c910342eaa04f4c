//! Gathered rows of down.

use super::{Activations, DownMatrix, Neurons, check_tokens, check_width};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::Shape;
use crate::sparse_mlp::cuda::RowFormat;
use crate::sparse_mlp::cuda::mirror::DownParams;
use crate::sparse_mlp::cuda::variant::{self, Variant};

/// partial\[s, t\] = Σ hidden\[t, i\] · down\[neuron i\] over the positions i of part s of the list.
#[derive(Debug, Clone, Copy)]
pub struct Down {
    /// What rows are stored as.
    pub format: RowFormat,
    /// The sizes; the nonlinearity has been applied.
    pub shape: Shape,
    /// The rows; [`super::Combine`] adds the bias.
    pub matrix: DownMatrix,
    /// The neurons of the positions of `hidden`; masks are of no use, as `hidden` is 0 there.
    pub neurons: Neurons,
    /// Tokens.
    pub tokens: usize,
    /// \[tokens, stride\] by position.
    pub hidden: Activations,
    /// Elements from one token's values to the next's: at least d_ff; a multiple of 4 for 4-bit rows.
    pub stride: usize,
    /// Parts, 1 to 64: results depend on them.
    pub splits: usize,
    /// f32 \[splits, tokens, d_model\].
    pub partial: Address<f32>,
}

impl Enqueue for Down {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_tokens(self.tokens)?;
        check_width("d_model", self.shape.d_model, self.shape.d_model)?;
        check_width("d_ff", self.shape.d_ff, self.stride)?;
        if self.shape.d_model % 8 != 0 {
            return Err(Error::Shape { what: "d_model", expected: "a multiple of 8", got: self.shape.d_model });
        }
        if !(1..=64).contains(&self.splits) {
            return Err(Error::Shape { what: "splits", expected: "1 to 64", got: self.splits });
        }
        if self.format == RowFormat::FourBit && self.stride % 4 != 0 {
            return Err(Error::Shape { what: "stride", expected: "a multiple of 4 for 4-bit rows", got: self.stride });
        }
        crate::error::check_len("neurons", self.shape.d_ff, self.neurons.limit)?;
        self.matrix.check(self.format, &self.shape)?;
        self.hidden.check("hidden", self.format, self.tokens, self.shape.d_ff, false)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        self.hidden.name_buffers("hidden", self.format, (self.tokens, self.stride), show);
        self.matrix.name_buffers(self.format, &self.shape, show);
        Neurons { masks: None, ..self.neurons }.name_buffers(self.tokens, show);
        let elems = product([self.splits, self.tokens, self.shape.d_model]);
        show(Buffer::write("partial", self.partial, elems).aligned(16));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let (hidden, hidden_int8, operand) = self.hidden.params(self.format, self.tokens);
        let group = self.matrix.group;
        let params = DownParams {
            rows: self.matrix.rows.get(),
            scales: or_null(self.matrix.scales),
            neurons: self.neurons.params(),
            hidden,
            hidden_int8,
            operand,
            partial: self.partial.get(),
            tokens: self.tokens as u32,
            d_model: self.shape.d_model as u32,
            stride: self.stride as u32,
            group_scale: group.map_or(0, |group| group.scale as u32),
            group_size: group.map_or(self.shape.d_ff, |group| group.size) as u32,
            offset: group.map_or(0, |group| group.offset as u32),
        };
        let Variant { kernel, grid } = variant::down(self.format, self.tokens, self.shape.d_model);
        queue.launch(kernel, [grid[0], self.splits as u32, grid[1]], params)
    }
}
