//! The phases of a call on the device: inputs, gate and up, selection, quantization, down.

use super::params::{Codes, CombineParams, DownParams, GateUpParams, MaskParams, MatrixView, Neurons};
use super::selection::{Score, Selection, launch, launch_mask, mask_words};
use super::weights::Weights;
use super::workspace::{Quantized, Workspace};
use super::{check_aligned, check_device, check_room};
use crate::device::Device;
use crate::device::cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut, DeviceRepr};
use crate::element::Element;
use crate::error::Result;
use crate::sparse_mlp::{Activation, ScoreOn, Shape};
use std::ffi::c_void;

/// Computes y = down(act(gate·x) ⊙ (up·x)) over the selected neurons of each token (+ residual).
///
/// | argument | dtype | shape | meaning |
/// |---|---|---|---|
/// | `x` | f32 | \[tokens, d_model\] | inputs, already normalised, aligned to 16 bytes |
/// | `selection` | | | which neurons; scores are per token |
/// | `residual` | f32, f16, bf16 | \[tokens, d_model\] | added to y |
/// | `y` | f32, f16, bf16 | \[tokens, d_model\] | overwritten |
///
/// Only selected rows of the weights are read, once for every 8 tokens. Selections, lists and counts stay on the device; nothing
/// is allocated or waited for. With 4-bit weights x and the product are quantized to int8 per token (scale max|·|/127), sums
/// are exact integers within a group. An activation that is not finite makes its token's y NaN or infinite.
///
/// # Errors
/// [`crate::Error::Length`] for a buffer or selection that is too short, [`crate::Error::Shape`] for more tokens than the
/// workspace has room for, [`crate::Error::Value`] for a threshold that makes no sense, [`crate::Error::Unsupported`] for memory of another
/// device or that is not aligned, [`crate::Error::Launch`] if a kernel cannot be started. Checks come before any launch.
///
/// # Example
/// See [`crate::sparse_mlp::cuda`].
pub fn forward<E: Element + DeviceRepr>(
    device: &Device,
    weights: &Weights,
    x: &impl DevicePtr<f32>,
    tokens: usize,
    selection: &Selection<'_>,
    residual: Option<&CudaView<'_, E>>,
    y: &mut impl DevicePtrMut<E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let Shape { d_model, d_ff, .. } = weights.shape();
    weights.check_device(device)?;
    workspace.check(device, weights, tokens)?;
    check_device("x", device, x)?;
    check_device("y", device, y)?;
    check_room("x", tokens * d_model, x.len())?;
    check_room("y", tokens * d_model, y.len())?;
    if let Some(residual) = residual {
        check_device("residual", device, residual)?;
        check_room("residual", tokens * d_model, residual.len())?;
    }
    selection.check(device, tokens, d_model, d_ff)?;
    let stream = device.stream();
    let (x, _read) = x.device_ptr(stream);
    check_aligned("x", x)?;
    if tokens == 0 {
        return Ok(());
    }
    let residual = residual.map_or(0, |residual| residual.device_ptr(stream).0);
    let (y, _write) = y.device_ptr_mut(stream);
    let run = Run { device, weights, tokens, ws: &*workspace };
    // SAFETY: every address below is of a buffer whose length has been checked, or of the workspace, which was made for
    // this shape and has room for these tokens; all of them live until this stream has passed the call.
    unsafe {
        let x = run.prepare_inputs(x, selection)?;
        let neurons = run.compute_hidden(x, selection)?;
        run.down(neurons)?;
        run.combine(residual, y, dtype_of::<E>())
    }
}

/// Threads of a block of the gathers, and neurons and tokens that it computes.
const THREADS: u32 = 256;
const BLOCK_NEURONS: u32 = 16;
const BLOCK_TOKENS: u32 = 8;

const GATE_UP: [[&str; 2]; 3] = [
    ["sparse_mlp_gate_up_f16_1", "sparse_mlp_gate_up_f16_8"],
    ["sparse_mlp_gate_up_bf16_1", "sparse_mlp_gate_up_bf16_8"],
    ["sparse_mlp_gate_up_int4_1", "sparse_mlp_gate_up_int4_8"],
];
const DOWN: [[&str; 2]; 3] = [
    ["sparse_mlp_down_f16_1", "sparse_mlp_down_f16_8"],
    ["sparse_mlp_down_bf16_1", "sparse_mlp_down_bf16_8"],
    ["sparse_mlp_down_int4_1", "sparse_mlp_down_int4_8"],
];

/// One call. The functions are unsafe since they launch kernels on addresses, all by the contract that `forward` states.
struct Run<'a> {
    device: &'a Device,
    weights: &'a Weights,
    tokens: usize,
    ws: &'a Workspace,
}

impl Run<'_> {
    fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(self.device.stream()).0
    }

    fn codes(&self, q: &Quantized) -> Codes {
        Codes { codes: self.address(&q.codes), sums: self.address(&q.sums), scale: self.address(&q.scale) }
    }

    fn all(&self) -> Neurons {
        Neurons { limit: self.ws.shape.d_ff as u32, ..Neurons::default() }
    }

    fn masked(&self, neurons: Neurons, masks: u64, n: usize) -> Neurons {
        Neurons { masks, mask_words: mask_words(n) as u32, ..neurons }
    }

    /// Zeroes the inputs that score too low, if the selection is on inputs, and quantizes; returns what is to be projected.
    unsafe fn prepare_inputs(&self, x: u64, selection: &Selection<'_>) -> Result<u64> {
        let d = self.ws.shape.d_model;
        let mut inputs = x;
        // SAFETY: the caller's.
        unsafe {
            if let Some(score) = selection.score().filter(|score| score.on == ScoreOn::Input) {
                self.mask(x, d, d, selection, score)?;
                let all = Neurons { limit: d as u32, ..Neurons::default() };
                inputs = self.address(&self.ws.x);
                self.keep(x, self.masked(all, self.address(&self.ws.masks), d), inputs, d)?;
            }
            if self.weights.is_four_bit() {
                self.quantize(inputs, None, &self.ws.x_int8, d, d)?;
            }
        }
        Ok(inputs)
    }

    /// Fills `gate` and `hidden` and returns the positions of `hidden`.
    unsafe fn compute_hidden(&self, x: u64, selection: &Selection<'_>) -> Result<Neurons> {
        let (ws, d_ff) = (self.ws, self.ws.shape.d_ff);
        let masks_of = |neurons, masks| self.masked(neurons, masks, d_ff);
        // SAFETY: the caller's.
        unsafe {
            match selection {
                Selection::List(list) => self.gate_up(x, list.neurons(self.device)),
                Selection::Masks(masks) => {
                    ws.kept.union_of(self.device, self.address(masks), self.tokens)?;
                    self.gate_up(x, masks_of(ws.kept.neurons(self.device), self.address(masks)))
                }
                Selection::Union { list, masks } => {
                    self.gate_up(x, masks_of(list.neurons(self.device), self.address(masks)))
                }
                Selection::Threshold { score, .. } | Selection::TopK { score, .. } if score.on != ScoreOn::Input => {
                    self.select_by_value(x, selection, *score)
                }
                _ => self.gate_up(x, self.all()),
            }
        }
    }

    /// Gate and up rows of given neurons.
    unsafe fn gate_up(&self, x: u64, neurons: Neurons) -> Result<Neurons> {
        let (gate, up) = (self.weights.gate(self.device), self.weights.up(self.device));
        // SAFETY: the caller's.
        unsafe { self.gather(x, neurons, gate, up, self.address(&self.ws.hidden))? };
        Ok(neurons)
    }

    /// Rows of every gate (and up, for a score on the product), then the selection, then the rest of what is kept.
    unsafe fn select_by_value(&self, x: u64, selection: &Selection<'_>, score: Score<'_>) -> Result<Neurons> {
        let (ws, d_ff) = (self.ws, self.ws.shape.d_ff);
        let (gate, up, none) = (self.weights.gate(self.device), self.weights.up(self.device), MatrixView::default());
        let (masks, hidden, products) = (self.address(&ws.masks), self.address(&ws.hidden), self.address(&ws.products));
        let kept = self.masked(ws.kept.neurons(self.device), masks, d_ff);
        // SAFETY: the caller's.
        unsafe {
            if score.on == ScoreOn::Gate {
                self.gather(x, self.all(), gate, none, 0)?;
                self.mask(self.address(&ws.gate), d_ff, ws.stride, selection, score)?;
                ws.kept.union_of(self.device, masks, self.tokens)?;
                self.gather(x, kept, none, up, hidden)?;
            } else {
                self.gather(x, self.all(), gate, up, products)?;
                self.mask(products, d_ff, ws.stride, selection, score)?;
                ws.kept.union_of(self.device, masks, self.tokens)?;
                self.keep(products, kept, hidden, ws.stride)?;
            }
        }
        Ok(kept)
    }

    unsafe fn gather(&self, x: u64, neurons: Neurons, gate: MatrixView, up: MatrixView, hidden: u64) -> Result<()> {
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
            gate_values: self.address(&ws.gate),
            hidden,
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            stride: ws.stride as u32,
            activation,
        };
        let symbol = GATE_UP[self.weights.format_index()][usize::from(self.tokens > 1)];
        let grid = [(ws.shape.d_ff as u32).div_ceil(BLOCK_NEURONS), self.token_tiles(), 1];
        let mut args = [(&raw mut params).cast::<c_void>()];
        // SAFETY: the caller's; the one parameter is a `GateUpParams`.
        unsafe { self.device.launch("sparse_mlp/gather", symbol, grid, [THREADS, 1, 1], 0, &mut args) }
    }

    /// The blocks that the tokens take: the kernels for one token serve one.
    fn token_tiles(&self) -> u32 {
        (self.tokens as u32).div_ceil(BLOCK_TOKENS)
    }

    /// Masks what the selection keeps of values \[tokens, stride\].
    unsafe fn mask(
        &self,
        values: u64,
        n: usize,
        stride: usize,
        selection: &Selection<'_>,
        score: Score<'_>,
    ) -> Result<()> {
        let (threshold, k) = match selection {
            Selection::Threshold { threshold, .. } => (*threshold, 0),
            Selection::TopK { k, .. } => (0.0, *k),
            _ => return Ok(()),
        };
        let params = MaskParams {
            values,
            channel_scale: score.channel_scale.map_or(0, |scale| self.address(scale)),
            masks: self.address(&self.ws.masks),
            threshold: f64::from(threshold),
            tokens_seen: 1.0,
            n: n as u32,
            stride: stride as u32,
            words: mask_words(n) as u32,
            k: k as u32,
        };
        // SAFETY: the caller's.
        unsafe { launch_mask(self.device, "sparse_mlp_mask", self.tokens, params) }
    }

    /// out\[t, i\] = values\[t, neuron i\] where the mask keeps it, else 0.
    unsafe fn keep(&self, values: u64, neurons: Neurons, out: u64, stride: usize) -> Result<()> {
        let (mut values, mut neurons, mut out, mut stride) = (values, neurons, out, stride as u32);
        let grid = [neurons.limit.div_ceil(256), self.tokens as u32];
        let mut args = [
            (&raw mut values).cast::<c_void>(),
            (&raw mut neurons).cast(),
            (&raw mut out).cast(),
            (&raw mut stride).cast(),
        ];
        // SAFETY: the caller's.
        unsafe { launch(self.device, "sparse_mlp_keep", grid, 256, &mut args) }
    }

    /// Quantizes the first n (or, with a list, its count) values of each token.
    unsafe fn quantize(&self, x: u64, count: Option<u64>, to: &Quantized, n: usize, stride: usize) -> Result<()> {
        let Codes { mut codes, sums, mut scale } = self.codes(to);
        let (mut x, mut n, mut stride) = (x, n as u32, stride as u32);
        // sums of 32 codes are of use only where positions are columns
        let (mut count, mut sums) = (count.unwrap_or(0), if count.is_some() { 0 } else { sums });
        let mut args = [
            (&raw mut x).cast::<c_void>(),
            (&raw mut count).cast(),
            (&raw mut codes).cast(),
            (&raw mut sums).cast(),
            (&raw mut scale).cast(),
            (&raw mut n).cast(),
            (&raw mut stride).cast(),
        ];
        // SAFETY: the caller's.
        unsafe { launch(self.device, "sparse_mlp_quantize", [self.tokens as u32, 1], 1024, &mut args) }
    }

    unsafe fn down(&self, neurons: Neurons) -> Result<()> {
        let (ws, down) = (self.ws, &self.weights.down);
        let hidden = self.address(&ws.hidden);
        if self.weights.is_four_bit() {
            // SAFETY: the caller's. A count of 0 stands for all neurons, whose number is d_ff.
            unsafe { self.quantize(hidden, Some(neurons.count), &ws.hidden_int8, ws.shape.d_ff, ws.stride)? };
        }
        let mut params = DownParams {
            rows: self.address(&down.data),
            scales: self.address(&down.scales),
            neurons,
            hidden,
            hidden_int8: self.codes(&ws.hidden_int8),
            partial: self.address(&ws.partial),
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            stride: ws.stride as u32,
            kind: down.kind,
            group_size: down.group_size,
            unused: 0,
        };
        let symbol = DOWN[self.weights.format_index()][usize::from(self.tokens > 1)];
        let grid = [(ws.shape.d_model as u32).div_ceil(256), ws.splits as u32, self.token_tiles()];
        let mut args = [(&raw mut params).cast::<c_void>()];
        // SAFETY: the caller's; the one parameter is a `DownParams`.
        unsafe { self.device.launch("sparse_mlp/down", symbol, grid, [THREADS, 1, 1], 0, &mut args) }
    }

    unsafe fn combine(&self, residual: u64, y: u64, dtype: u32) -> Result<()> {
        let ws = self.ws;
        let act_scale = if self.weights.is_four_bit() { self.address(&ws.hidden_int8.scale) } else { 0 };
        let mut params = CombineParams {
            partial: self.address(&ws.partial),
            act_scale,
            bias: self.weights.down_bias(self.device),
            residual,
            y,
            n_splits: ws.splits as u32,
            tokens: self.tokens as u32,
            d_model: ws.shape.d_model as u32,
            dtype,
        };
        let grid = [params.d_model.div_ceil(THREADS), self.tokens as u32, 1];
        let mut args = [(&raw mut params).cast::<c_void>()];
        // SAFETY: the caller's; the one parameter is a `CombineParams`.
        unsafe { self.device.launch("sparse_mlp/down", "sparse_mlp_combine", grid, [THREADS, 1, 1], 0, &mut args) }
    }
}

/// The number by which kernels know an element type.
fn dtype_of<E: Element>() -> u32 {
    match E::NAME {
        "f16" => 1,
        "bf16" => 2,
        _ => 0,
    }
}
