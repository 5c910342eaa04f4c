//! Masks from scores.

use super::check_width;
use crate::device::{Address, Buffer, Device, Enqueue, Queue, or_null, product, strided};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::mirror::{MASK, MASK_STATISTIC, MaskParams};
use crate::sparse_mlp::cuda::{Keep, mask_words};

/// masks\[t\] = which of n values token t keeps, by |values\[t, i\]| · channel_scale\[i\]. A score that is NaN is not kept.
#[derive(Debug, Clone, Copy)]
pub struct SelectMask {
    /// f32 \[tokens, stride\], of which the first n of a row count.
    pub values: Address<f32>,
    /// Values, 1 to 2²⁴.
    pub n: usize,
    /// Elements from one token's values to the next's.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// f32 \[n\], not negative.
    pub channel_scale: Option<Address<f32>>,
    /// The rule.
    pub keep: Keep,
    /// u32 \[tokens, [`mask_words`] of n\].
    pub masks: Address<u32>,
}

impl Enqueue for SelectMask {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("n", self.n, self.stride)?;
        check_grid(self.tokens)?;
        self.keep.check(self.n)
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("values", self.values, strided(self.tokens, self.stride, self.n)));
        if let Some(scale) = self.channel_scale {
            show(Buffer::read("channel_scale", scale, self.n));
        }
        show(Buffer::write("masks", self.masks, product([self.tokens, mask_words(self.n)])));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let (threshold, k) = match self.keep {
            Keep::Above(threshold) => (f64::from(threshold), 0),
            Keep::Top(k) => (0.0, k),
        };
        let params = MaskParams {
            values: self.values.get(),
            channel_scale: or_null(self.channel_scale),
            masks: self.masks.get(),
            threshold,
            tokens_seen: 1.0,
            n: self.n as u32,
            stride: self.stride as u32,
            words: mask_words(self.n) as u32,
            k: k as u32,
        };
        match self.tokens {
            0 => Ok(()),
            tokens => queue.launch(MASK, [tokens as u32, 1, 1], params),
        }
    }
}

/// One mask of the neurons whose s_j / √P, from the squares of [`super::ObserveStatistic`] over P tokens, is above a threshold or
/// among the k highest.
#[derive(Debug, Clone, Copy)]
pub struct SelectStatistic {
    /// f64 \[d_ff\].
    pub squares: Address<f64>,
    /// Neurons, 1 to 2²⁴.
    pub d_ff: usize,
    /// P, at least 1.
    pub tokens_seen: usize,
    /// Of s_j / √P; not NaN. Of no use where `k` is not 0.
    pub threshold: f64,
    /// How many of the highest, the lower index first where equal; 0: those above the threshold.
    pub k: usize,
    /// u32 \[[`mask_words`] of d_ff\].
    pub masks: Address<u32>,
}

impl Enqueue for SelectStatistic {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("d_ff", self.d_ff, self.d_ff)?;
        if self.tokens_seen == 0 {
            return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
        }
        if self.threshold.is_nan() {
            return Err(Error::Value { what: "threshold", expected: "a number", got: f32::NAN });
        }
        match self.k > self.d_ff {
            true => Err(Error::Shape { what: "k", expected: "1 to the number of channels", got: self.k }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("squares", self.squares, self.d_ff));
        show(Buffer::write("masks", self.masks, mask_words(self.d_ff)));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let params = MaskParams {
            values: self.squares.get(),
            channel_scale: 0,
            masks: self.masks.get(),
            threshold: self.threshold,
            tokens_seen: self.tokens_seen as f64,
            n: self.d_ff as u32,
            stride: 0,
            words: mask_words(self.d_ff) as u32,
            k: self.k as u32,
        };
        queue.launch(MASK_STATISTIC, [1, 1, 1], params)
    }
}

/// Checks what is the first axis of a grid.
fn check_grid(tokens: usize) -> Result<()> {
    match tokens > i32::MAX as usize {
        true => Err(Error::Shape { what: "tokens", expected: "fewer than 2^31", got: tokens }),
        false => Ok(()),
    }
}
