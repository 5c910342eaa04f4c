//! The prompt statistic of GRIFFIN and TDA, on the device.

use super::params::MaskParams;
use super::selection::{NeuronList, launch, launch_mask, mask_words};
use super::{check_context, check_room};
use crate::device::Device;
use crate::device::cudarc::driver::{CudaSlice, DevicePtr};
use crate::error::{Error, Result};
use std::ffi::c_void;

/// Tokens whose norms are held at once.
const MAX_TOKENS: usize = 64;

/// Accumulates s_j² = Σ_t (A\[t, j\] / ‖A\[t, :\]‖₂)² over tokens: [`crate::policy::PromptStatistic`], with its bits.
///
/// One for each layer and sequence. All that is selected from it stays on the device.
#[derive(Debug)]
pub struct PromptStatistic {
    /// f64 \[d_ff\].
    squares: CudaSlice<f64>,
    norms: CudaSlice<f64>,
    masks: CudaSlice<u32>,
    d_ff: usize,
    tokens: usize,
}

impl PromptStatistic {
    /// Starts with no tokens.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `d_ff` is 1 to 2²⁴, [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, d_ff: usize) -> Result<PromptStatistic> {
        if !(1..=1 << 24).contains(&d_ff) {
            return Err(Error::Shape { what: "d_ff", expected: "1 to 2^24", got: d_ff });
        }
        Ok(PromptStatistic {
            squares: device.zeros(d_ff)?,
            norms: device.zeros(MAX_TOKENS)?,
            masks: device.zeros(mask_words(d_ff))?,
            d_ff,
            tokens: 0,
        })
    }

    /// Adds A of `tokens` tokens, f32 \[tokens, stride\] of which the first d_ff of a row count: [`super::Workspace::hidden`] of a
    /// call that computed every neuron.
    ///
    /// # Errors
    /// [`Error::Length`] if the buffer is too short, [`Error::Shape`] for a stride below d_ff, [`Error::Launch`] if a kernel
    /// cannot be started.
    pub fn observe(
        &mut self,
        device: &Device,
        hidden: &impl DevicePtr<f32>,
        tokens: usize,
        stride: usize,
    ) -> Result<()> {
        check_context("hidden", device, hidden)?;
        check_context("statistic", device, &self.squares)?;
        if stride < self.d_ff || stride > u32::MAX as usize {
            return Err(Error::Shape { what: "stride", expected: "at least d_ff, below 2^32", got: stride });
        }
        check_room("hidden", tokens.saturating_mul(stride), hidden.len())?;
        let (address, _read) = hidden.device_ptr(device.stream());
        for first in (0..tokens).step_by(MAX_TOKENS) {
            let n = MAX_TOKENS.min(tokens - first);
            // SAFETY: the rows first .. first + n are in the buffer by the check above.
            unsafe { self.add(device, address + 4 * (first * stride) as u64, n, stride)? };
        }
        self.tokens += tokens;
        Ok(())
    }

    /// # Safety
    /// `hidden` is the address of `tokens` ≤ MAX_TOKENS rows of `stride` ≥ d_ff floats.
    unsafe fn add(&mut self, device: &Device, hidden: u64, tokens: usize, stride: usize) -> Result<()> {
        let stream = device.stream();
        let (mut hidden, mut norms, mut squares) =
            (hidden, self.norms.device_ptr(stream).0, self.squares.device_ptr(stream).0);
        let (mut n, mut stride, mut tokens) = (self.d_ff as u32, stride as u32, tokens as u32);
        let hidden: *mut c_void = (&raw mut hidden).cast();
        let norms: *mut c_void = (&raw mut norms).cast();
        let sizes = [(&raw mut n).cast(), (&raw mut stride).cast(), (&raw mut tokens).cast()];
        let mut norm_args = [hidden, norms, sizes[0], sizes[1], sizes[2]];
        let mut observe_args = [hidden, norms, (&raw mut squares).cast(), sizes[0], sizes[1], sizes[2]];
        // SAFETY: the parameters are those of the two kernels; there is a norm for each token and a square for each neuron.
        unsafe {
            launch(device, "sparse_mlp_norms", [tokens.div_ceil(32), 1], 32, &mut norm_args)?;
            launch(device, "sparse_mlp_observe", [n.div_ceil(256), 1], 256, &mut observe_args)
        }
    }

    /// Tokens seen.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Σ_t R\[t, j\]² as the host's statistic holds it. Waits for the device.
    ///
    /// # Errors
    /// [`Error::Driver`] if the copy, or a kernel before it, fails.
    pub fn squares(&self, device: &Device) -> Result<Vec<f64>> {
        device.download(&self.squares)
    }

    /// Forgets all tokens.
    ///
    /// # Errors
    /// [`Error::Driver`] if the memory cannot be cleared.
    pub fn clear(&mut self, device: &Device) -> Result<()> {
        device.stream().memset_zeros(&mut self.squares).map_err(crate::device::call("clear memory"))?;
        self.tokens = 0;
        Ok(())
    }

    /// Keeps the neurons with s_j / √P above a threshold, as [`crate::policy::Tda`] does.
    ///
    /// # Errors
    /// [`Error::Shape`] before any token, [`Error::Value`] for a threshold that is NaN, [`Error::Launch`] if a kernel cannot be
    /// started.
    pub fn select_above(&mut self, device: &Device, threshold: f64, list: &mut NeuronList) -> Result<()> {
        if threshold.is_nan() {
            return Err(Error::Value { what: "threshold", expected: "a number", got: f32::NAN });
        }
        self.select(device, threshold, 0, list)
    }

    /// Keeps the `k` neurons with the highest s_j, the lower index first where equal, as
    /// [`crate::policy::Griffin`] does.
    ///
    /// # Errors
    /// [`Error::Shape`] before any token and unless `k` is 1 to d_ff, [`Error::Launch`] if a kernel cannot be started.
    pub fn select_top(&mut self, device: &Device, k: usize, list: &mut NeuronList) -> Result<()> {
        if !(1..=self.d_ff).contains(&k) {
            return Err(Error::Shape { what: "k", expected: "1 to the number of channels", got: k });
        }
        self.select(device, 0.0, k, list)
    }

    fn select(&mut self, device: &Device, threshold: f64, k: usize, list: &mut NeuronList) -> Result<()> {
        if self.tokens == 0 {
            return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
        }
        check_context("statistic", device, &self.squares)?;
        crate::error::check_len("list's limit", self.d_ff, list.limit())?;
        let (squares, masks) = (self.squares.device_ptr(device.stream()).0, self.masks.device_ptr(device.stream()).0);
        let params = MaskParams {
            tokens_seen: self.tokens as f64,
            ..MaskParams::new([squares, 0, masks], self.d_ff, 0, (threshold, k))
        };
        // SAFETY: the statistic has d_ff squares and the mask its words.
        unsafe { launch_mask(device, "sparse_mlp_mask_statistic", 1, params)? };
        list.set_union(device, &self.masks, 1)
    }
}
