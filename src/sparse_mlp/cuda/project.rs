//! The projections of a call: gathered gate and up rows, gathered rows of down, and the sum of down's parts.

use super::call::Call;
use super::params::{CombineParams, DownParams, GateUpParams, MatrixView, Neurons, Operand};
use super::variant::{self, Variant};
use super::weights::RowFormat;
use crate::error::Result;
use crate::sparse_mlp::Activation;
use std::ffi::c_void;

/// Threads and columns of a block that adds down's parts.
const COMBINE_THREADS: u32 = 256;

impl Call<'_> {
    /// Rows of gate and up (either may be absent) of given neurons.
    ///
    /// # Safety
    /// `x` is that of the call, prepared by `prepare_inputs`; `hidden` is 0 or the address of \[tokens, stride\] floats.
    pub(super) unsafe fn gather(
        &self,
        x: u64,
        neurons: Neurons,
        gate: MatrixView,
        up: MatrixView,
        hidden: u64,
    ) -> Result<()> {
        let ws = self.ws;
        let activation = match ws.shape.activation {
            Activation::Silu => 0,
            Activation::Relu => 1,
        };
        let mut params = GateUpParams {
            gate,
            up,
            neurons,
            x,
            x_int8: self.codes(&ws.x_int8),
            operand: self.operand(&ws.x_operand),
            gate_values: self.address(&ws.gate),
            hidden,
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            stride: ws.stride as u32,
            activation,
        };
        let Variant { module, symbol, grid, threads, shared_bytes } =
            variant::gate_up(self.weights.format, self.tokens, ws.shape.d_ff);
        let mut args = [(&raw mut params).cast::<c_void>()];
        let grid = [grid[0], grid[1], 1];
        // SAFETY: the caller's; the one parameter is a `GateUpParams`.
        unsafe { self.device.launch(module, symbol, grid, [threads, 1, 1], shared_bytes, &mut args) }
    }

    /// Rows of down of the positions in `hidden`, in parts.
    ///
    /// # Safety
    /// The workspace's hidden values are those of `neurons`.
    pub(super) unsafe fn down(&self, neurons: Neurons) -> Result<()> {
        let (ws, down) = (self.ws, &self.weights.down);
        let hidden = self.address(&ws.hidden);
        // SAFETY: `hidden` is the workspace's. A count of 0 stands for all neurons, whose number is d_ff.
        unsafe {
            if self.is_tiled() {
                self.fill_operand(hidden, neurons.count, &ws.hidden_operand, ws.shape.d_ff, ws.stride)?;
            } else if self.weights.is_four_bit() {
                self.quantize(hidden, neurons.count, &ws.hidden_int8, ws.shape.d_ff, ws.stride)?;
            }
        }
        let mut params = DownParams {
            rows: self.address(&down.data),
            scales: self.address(&down.scales),
            neurons,
            hidden,
            hidden_int8: self.codes(&ws.hidden_int8),
            operand: self.operand(&ws.hidden_operand),
            partial: self.address(&ws.partial),
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            stride: ws.stride as u32,
            group_scale: down.form[0],
            offset: down.form[1],
            group_size: down.group_size,
        };
        let Variant { module, symbol, grid, threads, shared_bytes } =
            variant::down(self.weights.format, self.tokens, ws.shape.d_model);
        let grid = [grid[0], self.splits() as u32, grid[1]];
        let mut args = [(&raw mut params).cast::<c_void>()];
        // SAFETY: the caller's; the one parameter is a `DownParams`.
        unsafe { self.device.launch(module, symbol, grid, [threads, 1, 1], shared_bytes, &mut args) }
    }

    /// Parts of the list.
    fn splits(&self) -> usize {
        if self.is_tiled() { self.ws.tile_splits } else { self.ws.splits }
    }

    /// y ← the parts' sum, scaled (+ bias) (+ residual).
    ///
    /// # Safety
    /// `residual` is 0 or the address of \[tokens, d_model\] elements of `dtype`, and so is `y`, but not 0.
    pub(super) unsafe fn combine(&self, residual: u64, y: u64, dtype: u32) -> Result<()> {
        let ws = self.ws;
        let Operand { scale: operand_scale, .. } = self.operand(&ws.hidden_operand);
        let act_scale = match (self.is_tiled(), self.weights.format) {
            (true, RowFormat::F16 | RowFormat::FourBit) => operand_scale,
            (false, RowFormat::FourBit) => self.address(&ws.hidden_int8.scale),
            _ => 0,
        };
        let mut params = CombineParams {
            partial: self.address(&ws.partial),
            act_scale,
            bias: self.weights.down_bias(self.device),
            residual,
            y,
            n_splits: self.splits() as u32,
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            dtype,
        };
        let grid = [params.d_model.div_ceil(COMBINE_THREADS), self.tokens as u32, 1];
        let mut args = [(&raw mut params).cast::<c_void>()];
        let block = [COMBINE_THREADS, 1, 1];
        // SAFETY: the caller's; the one parameter is a `CombineParams`.
        unsafe { self.device.launch("sparse_mlp/down", "sparse_mlp_combine", grid, block, 0, &mut args) }
    }
}
