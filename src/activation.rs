//! The activation functions of gated MLPs.

use crate::cpu::Cpu;
use crate::error::{Result, check_len};
use crate::simd::{Kernel, Simd};

/// Elements of a vector.
const LANES: usize = 16;

/// The nonlinearity of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activation {
    /// x / (1 + e⁻ˣ).
    Silu,
    /// max(x, 0).
    Relu,
}

/// gate\[t\]\[i\] ← act(gate\[t\]\[i\]); up\[t\]\[i\] ← gate\[t\]\[i\] · up\[t\]\[i\].
pub(crate) struct Activate<'a> {
    pub activation: Activation,
    pub gate: &'a mut [[f32; LANES]],
    /// As many as `gate`, or none.
    pub up: &'a mut [[f32; LANES]],
}

impl Kernel for Activate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (i, gate) in self.gate.iter_mut().enumerate() {
            let g = simd.load(gate);
            let a = match self.activation {
                Activation::Silu => silu(simd, g),
                Activation::Relu => simd.max(g, simd.splat(0.0)),
            };
            simd.store(gate, a);
            if let Some(up) = self.up.get_mut(i) {
                simd.store(up, simd.mul(a, simd.load(up)));
            }
        }
    }
}

/// Computes up ← act(gate) ⊙ up on f32 buffers of one length, with the very bits of [`crate::sparse_mlp::forward`].
///
/// # Errors
/// [`crate::Error::Length`] unless both are as long.
///
/// # Example
/// ```
/// use moray::sparse_mlp::{Activation, activate_product};
///
/// let mut up = [2.0, 2.0];
/// activate_product(&moray::Cpu::detect(), Activation::Relu, &[3.0, -3.0], &mut up)?;
/// assert_eq!(up, [6.0, 0.0]);
/// # Ok::<(), moray::Error>(())
/// ```
pub fn activate_product(cpu: &Cpu, activation: Activation, gate: &[f32], up: &mut [f32]) -> Result<()> {
    check_len("up", gate.len(), up.len())?;
    const PIECE: usize = 4096;
    cpu.team().for_pieces_mut(up, PIECE, |index, up| {
        for (gate, up) in gate[index * PIECE..].chunks(LANES).zip(up.chunks_mut(LANES)) {
            let (mut g, mut u) = ([[0.0; LANES]], [[0.0; LANES]]);
            let n = up.len();
            g[0][..n].copy_from_slice(&gate[..n]);
            u[0][..n].copy_from_slice(up);
            cpu.simd().run(Activate { activation, gate: &mut g, up: &mut u });
            up.copy_from_slice(&u[0][..n]);
        }
    });
    Ok(())
}

/// x / (1 + e⁻ˣ), e⁻ˣ by 2ⁿ · a polynomial of degree 7 in |r| ≤ ln 2 / 2, whose remainder r⁸/8! is below 2⁻²⁷.
#[inline(always)]
fn silu<S: Simd>(simd: S, x: S::F) -> S::F {
    // beyond ±88, e⁻ˣ leaves the normal numbers and the result is x or 0 to within 10⁻³⁶
    let z = simd.mul(x, simd.splat(-1.0));
    let z = simd.max(simd.min(z, simd.splat(88.0)), simd.splat(-87.0));
    let n = simd.round(simd.mul(z, simd.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts: the first has 15 zero bits at the end, so n times it is exact
    let r = simd.fma(n, simd.splat(-0.693_359_4), z);
    let r = simd.fma(n, simd.splat(2.121_944_4e-4), r);
    let mut p = simd.splat(1.0 / 5040.0);
    for factorial in [720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = simd.fma(p, r, simd.splat(1.0 / factorial));
    }
    simd.div(x, simd.fma(p, simd.exp2_whole(n), simd.splat(1.0)))
}
