//! Which inputs a call keeps.

use super::workspace::{List, Workspace};
use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd, load_first};
use crate::threads::Pieces;
use crate::w4a8::Activations;

/// Tokens that read the union of what they keep; more keep nearly all together.
pub(super) const UNION_TOKENS: usize = 8;

/// Inputs whose masking is worth a barrier.
pub(super) const PARALLEL_ELEMENTS: usize = 16_384;

/// Whether an input is kept: NaN is.
#[inline(always)]
pub(super) fn is_kept(x: f32, threshold: f32) -> bool {
    !(x.abs() <= threshold)
}

/// An input, or 0 in place of one that is dropped.
#[inline(always)]
fn masked(x: f32, threshold: f32) -> f32 {
    if is_kept(x, threshold) { x } else { 0.0 }
}

/// Lists the inputs of x \[M, K\] that a call reads, and gathers them in f32.
pub(super) fn gather(cpu: &Cpu, x: &[f32], k: usize, threshold: f32, ws: &mut Workspace) {
    list(cpu, (x, k, threshold), None, &mut ws.kept);
    let Workspace { kept, x: out, .. } = ws;
    if x.len() <= UNION_TOKENS * k {
        out.clear();
        out.reserve(x.len());
        if x.len() == k {
            // what one token keeps is what is listed
            out.extend(kept.iter().map(|&i| x[i as usize]));
            return;
        }
        for x in x.chunks_exact(k) {
            out.extend(kept.iter().map(|&i| masked(x[i as usize], threshold)));
        }
        return;
    }
    out.resize(x.len(), 0.0);
    cpu.team().for_parts(Pieces::new(out, k), (PARALLEL_ELEMENTS / k).max(1), |token, out| {
        out.iter_mut().zip(&x[token * k..]).for_each(|(out, &x)| *out = masked(x, threshold));
    });
}

/// Lists the inputs of x \[M, K\] that a call reads: those that a token keeps, with a code other than 0 where there are codes, or all of
/// many tokens.
pub(super) fn list(cpu: &Cpu, (x, k, threshold): (&[f32], usize, f32), codes: Option<&Activations>, kept: &mut List) {
    let room = kept.room(k + 16);
    let count = if x.len() <= UNION_TOKENS * k {
        cpu.simd().run(Union { x, k, threshold, codes, kept: room })
    } else {
        room.iter_mut().zip(0..k as u32).for_each(|(kept, i)| *kept = i);
        k
    };
    kept.take(count);
}

/// The inputs that any token keeps.
struct Union<'a> {
    /// \[M, K\].
    x: &'a [f32],
    k: usize,
    threshold: f32,
    codes: Option<&'a Activations>,
    /// Room for K and 16.
    kept: &'a mut [u32],
}

impl Kernel for Union<'_> {
    /// How many there are.
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> usize {
        let Union { x, k, threshold, codes, kept } = self;
        let (threshold, zero) = (simd.splat(threshold), simd.splat(0.0));
        let mut count = 0;
        for at in (0..k).step_by(16) {
            let lanes = (k - at).min(16);
            let mut bits = 0;
            for (t, x) in x.chunks_exact(k).enumerate() {
                let above = !simd.ge_mask(threshold, simd.abs(load_first(simd, &x[at..])));
                // tokens of codes are padded to more than sixteen
                let code = codes.and_then(|codes| codes.token(t)[at..].first_chunk());
                bits |= match code {
                    Some(code) => above & simd.gt_mask(simd.abs(simd.load_i8(code)), zero),
                    None => above,
                };
            }
            let bits = bits & (u16::MAX >> (16 - lanes));
            if let Some(room) = kept[count..].first_chunk_mut() {
                count += simd.list_lanes(bits, at as u32, room);
            }
        }
        count
    }
}
