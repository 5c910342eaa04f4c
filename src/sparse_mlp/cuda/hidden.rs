//! Which neurons a call computes, and their products.

use super::call::Call;
use super::params::{MaskParams, MatrixView, Neurons};
use super::selection::{Score, Selection, launch, launch_mask};
use crate::error::Result;
use crate::sparse_mlp::ScoreOn;
use std::ffi::c_void;

impl Call<'_> {
    /// Zeroes the inputs that score too low, if the selection is on inputs, and quantizes; returns what is to be projected.
    ///
    /// # Safety
    /// `x` is the address of f32 \[tokens, d_model\], aligned to 16 bytes; the selection has been checked.
    pub(super) unsafe fn prepare_inputs(&self, x: u64, selection: &Selection<'_>) -> Result<u64> {
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
            if self.is_tiled() {
                self.fill_operand(inputs, 0, &self.ws.x_operand, d, d)?;
            } else if self.weights.is_four_bit() {
                self.quantize(inputs, 0, &self.ws.x_int8, d, d)?;
            }
        }
        Ok(inputs)
    }

    /// Fills `gate` and `hidden` and returns the positions of `hidden`.
    ///
    /// # Safety
    /// `x` is what `prepare_inputs` returned for this selection.
    pub(super) unsafe fn compute_hidden(&self, x: u64, selection: &Selection<'_>) -> Result<Neurons> {
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

    /// Masks what the selection keeps of values \[tokens, stride\].
    unsafe fn mask(
        &self,
        values: u64,
        n: usize,
        stride: usize,
        selection: &Selection<'_>,
        score: Score<'_>,
    ) -> Result<()> {
        let keep = match selection {
            Selection::Threshold { threshold, .. } => (f64::from(*threshold), 0),
            Selection::TopK { k, .. } => (0.0, *k),
            _ => return Ok(()),
        };
        let channel_scale = score.channel_scale.map_or(0, |scale| self.address(scale));
        let params = MaskParams::new([values, channel_scale, self.address(&self.ws.masks)], n, stride, keep);
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
}
