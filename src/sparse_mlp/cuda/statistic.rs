//! The prompt statistic of GRIFFIN and TDA, on the device.

use super::keep::mask_words;
use super::raw;
use super::selection::{NeuronList, check_room};
use crate::device::cudarc::driver::{CudaSlice, DevicePtr};
use crate::device::{Arguments, Device};
use crate::error::{Error, Result};

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
        let PromptStatistic { squares, norms, d_ff, .. } = self;
        if stride < *d_ff || stride > u32::MAX as usize {
            return Err(Error::Shape { what: "stride", expected: "at least d_ff, below 2^32", got: stride });
        }
        check_room("hidden", tokens.saturating_mul(stride), hidden.len())?;
        for first in (0..tokens).step_by(MAX_TOKENS) {
            let mut arguments = Arguments::new(device);
            let observe = raw::ObserveStatistic {
                hidden: arguments.read("hidden", hidden)?.offset(first * stride),
                d_ff: *d_ff,
                stride,
                tokens: MAX_TOKENS.min(tokens - first),
                norms: arguments.write("statistic", norms)?,
                squares: arguments.write("statistic", squares)?,
            };
            arguments.launch(&observe)?;
        }
        self.tokens += tokens;
        Ok(())
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
        device.clear(&mut self.squares)?;
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
        crate::error::check_len("list's limit", self.d_ff, list.limit())?;
        let mut arguments = Arguments::new(device);
        let select = raw::SelectStatistic {
            squares: arguments.read("statistic", &self.squares)?,
            d_ff: self.d_ff,
            tokens_seen: self.tokens,
            threshold,
            k,
            masks: arguments.write("statistic", &mut self.masks)?,
        };
        arguments.launch(&select)?;
        list.set_union(device, &self.masks, 1)
    }
}
