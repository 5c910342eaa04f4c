//! The prompt statistic.

use super::check_width;
use crate::device::{Address, Buffer, Device, Enqueue, Queue, strided};
use crate::error::{Error, Result};
use crate::sparse_mlp::cuda::mirror::{NORMS, OBSERVE, StatisticParams};

/// squares\[j\] += Σ_t (A\[t, j\] / ‖A\[t\]‖₂)² in f64, tokens in their order.
#[derive(Debug, Clone, Copy)]
pub struct ObserveStatistic {
    /// A: f32 \[tokens, stride\], of which the first d_ff of a row count.
    pub hidden: Address<f32>,
    /// Neurons, 1 to 2²⁴.
    pub d_ff: usize,
    /// Elements from one token's values to the next's.
    pub stride: usize,
    /// Tokens.
    pub tokens: usize,
    /// f64 \[tokens\] of scratch: ‖A\[t\]‖².
    pub norms: Address<f64>,
    /// f64 \[d_ff\].
    pub squares: Address<f64>,
}

impl Enqueue for ObserveStatistic {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_width("d_ff", self.d_ff, self.stride)?;
        match self.tokens > i32::MAX as usize {
            true => Err(Error::Shape { what: "tokens", expected: "fewer than 2^31", got: self.tokens }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("hidden", self.hidden, strided(self.tokens, self.stride, self.d_ff)));
        show(Buffer::write("norms", self.norms, self.tokens));
        show(Buffer::write("squares", self.squares, self.d_ff));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.tokens == 0 {
            return Ok(());
        }
        let params = StatisticParams {
            hidden: self.hidden.get(),
            norms: self.norms.get(),
            squares: self.squares.get(),
            n: self.d_ff as u32,
            stride: self.stride as u32,
            tokens: self.tokens as u32,
            reserved: 0,
        };
        queue.launch(NORMS, [params.tokens.div_ceil(NORMS.threads), 1, 1], params)?;
        queue.launch(OBSERVE, [params.n.div_ceil(OBSERVE.threads), 1, 1], params)
    }
}
