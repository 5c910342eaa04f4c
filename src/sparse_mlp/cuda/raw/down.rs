//! Gathered rows of down.

use super::combine::combine;
use super::{Activations, Arrivals, DownMatrix, Maxima, Neurons, Output, check_tokens, check_width};
use crate::device::{Access, Address, Buffer, Device, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::Shape;
use crate::sparse_mlp::cuda::RowFormat;
use crate::sparse_mlp::cuda::mirror::DownParams;
use crate::sparse_mlp::cuda::variant::{self, Variant, is_tiled};

/// y\[t\] = Σ hidden\[t, i\] · down\[neuron i\] over the positions i of the list + bias + residual\[t\]: the sums of the list's parts, in their
/// order. Up to 8 tokens' hidden is quantized for 4-bit rows.
#[derive(Debug, Clone, Copy)]
pub struct Down {
    /// What rows are stored as.
    pub format: RowFormat,
    /// The sizes; the nonlinearity has been applied.
    pub shape: Shape,
    /// The rows.
    pub matrix: DownMatrix,
    /// The neurons of the positions of `hidden`; masks are of no use, as `hidden` is 0 there.
    pub neurons: Neurons,
    /// Tokens.
    pub tokens: usize,
    /// \[tokens, stride\] by position, in f32 for up to 8 tokens.
    pub hidden: Activations,
    /// Of `hidden`, for 4-bit rows of up to 8 tokens.
    pub maxima: Option<Maxima>,
    /// Elements from one token's values to the next's: at least d_ff; a multiple of 4 for 4-bit rows.
    pub stride: usize,
    /// Parts, 1 to 64: results depend on them.
    pub splits: usize,
    /// f32 \[splits, tokens, d_model\] of scratch.
    pub partial: Address<f32>,
    /// Cleared counters, for up to 8 tokens.
    pub arrivals: Option<Arrivals>,
    /// Where the sums go.
    pub output: Output,
}

impl Down {
    /// Counters that up to 8 tokens take, for d_model columns.
    pub fn arrivals(format: RowFormat, d_model: usize) -> usize {
        // one token and several have tiles of columns of their own
        [1, 2].map(|tokens| variant::down(format, tokens, d_model).grid[0]).into_iter().max().unwrap_or(0) as usize
    }

    /// Checks that what few tokens take is there.
    fn check_few(&self) -> Result<()> {
        if self.format == RowFormat::FourBit && self.maxima.is_none_or(|maxima| maxima.count == 0) {
            return Err(Error::Shape { what: "maxima", expected: "at least 1 for 4-bit rows", got: 0 });
        }
        let (needed, got) =
            (Down::arrivals(self.format, self.shape.d_model), self.arrivals.map_or(0, |arrivals| arrivals.count));
        match got < needed {
            true => Err(Error::Length { what: "arrivals", expected: needed, got }),
            false => Ok(()),
        }
    }
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
        self.hidden.check_hidden(self.format, self.tokens, self.shape.d_ff)?;
        if is_tiled(self.tokens) { Ok(()) } else { self.check_few() }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        self.hidden.name_buffers("hidden", self.format, (self.tokens, self.stride), show);
        self.matrix.name_buffers(self.format, &self.shape, show);
        Neurons { masks: None, ..self.neurons }.name_buffers(self.tokens, show);
        let elems = product([self.splits, self.tokens, self.shape.d_model]);
        show(Buffer::write("partial", self.partial, elems).aligned(16));
        if let Some(maxima) = self.maxima {
            maxima.name_buffers(self.tokens, Access::Read, show);
        }
        if let Some(arrivals) = self.arrivals {
            arrivals.name_buffers(show);
        }
        self.output.name_buffers((self.tokens, self.shape.d_model), show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let Variant { kernel, grid } = variant::down(self.format, self.tokens, self.shape.d_model);
        queue.launch(kernel, [grid[0], self.splits as u32, grid[1]], self.params())?;
        match self.hidden {
            Activations::Operand(operand) => combine(queue, self, &operand),
            _ => Ok(()),
        }
    }
}

impl Down {
    pub(super) fn params(&self) -> DownParams {
        let (hidden, _, _, operand) = self.hidden.params(self.format, self.tokens);
        let group = self.matrix.group;
        DownParams {
            rows: self.matrix.rows.get(),
            scales: or_null(self.matrix.scales),
            neurons: self.neurons.params(),
            hidden,
            maxima: or_null(self.maxima.map(|maxima| maxima.bits)),
            operand,
            partial: self.partial.get(),
            arrived: or_null(self.arrivals.map(|arrivals| arrivals.counters)),
            output: self.output.params(),
            n_maxima: self.maxima.map_or(0, |maxima| maxima.count as u32),
            tokens: self.tokens as u32,
            d_model: self.shape.d_model as u32,
            stride: self.stride as u32,
            group_scale: group.map_or(0, |group| group.scale as u32),
            group_size: group.map_or(self.shape.d_ff, |group| group.size) as u32,
            offset: group.map_or(0, |group| group.offset as u32),
            reserved: 0,
        }
    }
}
