//! RMSNorm on the CPU.

use crate::cpu::Cpu;
use crate::error::{Result, check_len};
use crate::simd::{Kernel, Simd, load_first};
use crate::threads::Pieces;

/// Elements that are worth a barrier.
const PARALLEL_ELEMENTS: usize = 16_384;

/// Normalises each token: y = x / √(mean(x²) + eps) ⊙ weight.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `x`, `y` | \[M, d\] | f32 |
/// | `weight` | \[d\] | f32 |
///
/// # Errors
/// [`crate::Error::Length`] unless `x` and `y` are of one length, a multiple of d.
///
/// # Source
/// RMSNorm (arXiv 1910.07467).
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// moray::llama::rms_norm(&moray::Cpu::detect(), &[3.0, 4.0], &[1.0, 2.0], 1e-9, &mut y)?;
/// let rms = 12.5f32.sqrt();
/// assert!((y[0] - 3.0 / rms).abs() < 1e-6 && (y[1] - 8.0 / rms).abs() < 1e-6);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn rms_norm(cpu: &Cpu, x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) -> Result<()> {
    let d = weight.len();
    check_len("x", x.len() / d.max(1) * d, x.len())?;
    check_len("y", x.len(), y.len())?;
    cpu.team().for_parts(Pieces::new(y, d), (PARALLEL_ELEMENTS / d.max(1)).max(1), |token, y| {
        cpu.simd().run(RmsNorm { x: &x[token * d..(token + 1) * d], weight, eps, y });
    });
    Ok(())
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut squares = [simd.splat(0.0); 2];
        for (i, x) in self.x.chunks(16).enumerate() {
            let x = load_first(simd, x);
            squares[i % 2] = simd.fma(x, x, squares[i % 2]);
        }
        let mean = (simd.sum(squares[0]) + simd.sum(squares[1])) / self.x.len() as f32;
        let scale = 1.0 / (mean + self.eps).sqrt();
        for ((y, &x), &weight) in self.y.iter_mut().zip(self.x).zip(self.weight) {
            *y = x * scale * weight;
        }
    }
}
