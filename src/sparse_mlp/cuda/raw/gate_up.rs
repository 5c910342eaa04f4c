//! Gathered gate and up rows.

use super::{Activations, Arrivals, Matrix, Maxima, Neurons, check_tokens, check_width};
use crate::device::{Access, Address, Buffer, Device, Enqueue, Queue, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::RowFormat;
use crate::sparse_mlp::cuda::mirror::GateUpParams;
use crate::sparse_mlp::cuda::variant::{self, Variant, is_tiled};
use crate::sparse_mlp::{Activation, Shape};

/// gate_values\[t, i\] = act(gate\[j\] · x\[t\] + bias) and hidden\[t, i\] = gate_values\[t, i\] · (up\[j\] · x\[t\] + bias) for the
/// neurons j of the positions i; 0 in `hidden` where the token's mask leaves j out.
#[derive(Debug, Clone, Copy)]
pub struct GateUp {
    /// What rows are stored as.
    pub format: RowFormat,
    /// The sizes and the nonlinearity.
    pub shape: Shape,
    /// None: `gate_values` are there, by neuron.
    pub gate: Option<Matrix>,
    /// None: `hidden` is not written.
    pub up: Option<Matrix>,
    /// Which neurons, in which order; their limit is d_ff.
    pub neurons: Neurons,
    /// Tokens.
    pub tokens: usize,
    /// \[tokens, d_model\].
    pub x: Activations,
    /// f32 \[tokens, stride\]: written by position where there is a gate, read by neuron where there is none.
    pub gate_values: Address<f32>,
    /// f32 \[tokens, stride\] by position; needed where there is an up.
    pub hidden: Option<Address<f32>>,
    /// Elements from one token's values to the next's: at least d_ff.
    pub stride: usize,
    /// Where the largest sizes in `hidden` go, and how many blocks compute it; for 4-bit rows of up to 8 tokens, None where they are
    /// not wanted.
    pub maxima: Option<Maxima>,
    /// What the [`super::Down`] that follows counts in: cleared. For up to 8 tokens.
    pub arrivals: Option<Arrivals>,
}

impl Enqueue for GateUp {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_tokens(self.tokens)?;
        check_width("d_model", self.shape.d_model, self.shape.d_model)?;
        check_width("d_ff", self.shape.d_ff, self.stride)?;
        if self.shape.d_model % 8 != 0 {
            return Err(Error::Shape { what: "d_model", expected: "a multiple of 8", got: self.shape.d_model });
        }
        crate::error::check_len("neurons", self.shape.d_ff, self.neurons.limit)?;
        [self.gate, self.up].iter().flatten().try_for_each(|matrix| matrix.check(self.format, self.shape.d_model))?;
        self.x.check_inputs(self.format, self.tokens, self.shape.d_model)?;
        if let Some(Maxima { count, .. }) = self.maxima.filter(|maxima| !(1..=1 << 20).contains(&maxima.count)) {
            return Err(Error::Shape { what: "maxima", expected: "1 to 2^20", got: count });
        }
        if self.maxima.is_some() && self.format != RowFormat::FourBit || self.for_few() && is_tiled(self.tokens) {
            let (expected, got) = ("none for these rows and tokens", "some".into());
            return Err(Error::Unsupported { what: "maxima and arrivals", expected, got });
        }
        match self.up.is_some() && self.hidden.is_none() {
            true => Err(Error::Misaligned { what: "hidden", expected: 4, got: 0 }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        let Shape { d_model, .. } = self.shape;
        self.x.name_buffers("x", self.format, (self.tokens, d_model), show);
        [self.gate, self.up].iter().flatten().for_each(|matrix| matrix.name_buffers(self.format, &self.shape, show));
        self.neurons.name_buffers(self.tokens, show);
        let elems = product([self.tokens, self.stride]);
        let access = if self.gate.is_some() { Access::Write } else { Access::Read };
        show(Buffer { access, ..Buffer::read("gate_values", self.gate_values, elems) });
        if let (Some(hidden), Some(_)) = (self.hidden, self.up) {
            show(Buffer::write("hidden", hidden, elems));
        }
        if let Some(maxima) = self.maxima {
            maxima.name_buffers(self.tokens, Access::Write, show);
        }
        if let Some(arrivals) = self.arrivals {
            arrivals.name_buffers(show);
        }
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let multiprocessors = queue.device().multiprocessors() as usize;
        let Variant { kernel, grid } = variant::gate_up(self.format, self.tokens, self.shape.d_ff, multiprocessors);
        let blocks = self.maxima.map_or(grid[0], |maxima| maxima.count as u32);
        queue.launch(kernel, [blocks, grid[1], 1], self.params())
    }
}

impl GateUp {
    pub(super) fn params(&self) -> GateUpParams {
        let Shape { d_model, activation, .. } = self.shape;
        let matrix = |matrix: Option<Matrix>| matrix.map(|m| m.params(self.format, d_model)).unwrap_or_default();
        let (x, x_dtype, x_int8, operand) = self.x.params(self.format, self.tokens);
        GateUpParams {
            gate: matrix(self.gate),
            up: matrix(self.up),
            neurons: self.neurons.params(),
            x,
            x_int8,
            operand,
            gate_values: self.gate_values.get(),
            hidden: or_null(self.hidden),
            maxima: or_null(self.maxima.map(|maxima| maxima.bits)),
            arrived: or_null(self.arrivals.map(|arrivals| arrivals.counters)),
            n_arrived: self.arrivals.map_or(0, |arrivals| arrivals.count as u32),
            x_dtype,
            tokens: self.tokens as u32,
            d_model: d_model as u32,
            stride: self.stride as u32,
            activation: match activation {
                Activation::Silu => 0,
                Activation::Relu => 1,
            },
        }
    }

    /// Whether it has what only few tokens may have.
    fn for_few(&self) -> bool {
        self.maxima.is_some() || self.arrivals.is_some()
    }
}
