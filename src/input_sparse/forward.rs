//! A call: check, gather what is kept, multiply.

use super::four_bit;
use super::kept::{UNION_TOKENS, gather};
use super::weight::{Store, Weight};
use super::workspace::Workspace;
use crate::column_sums::{Kept, Rows, SplitSums, hull, splits_of, sum_tiles};
use crate::cpu::Cpu;
use crate::element::DenseType;
use crate::error::{Error, Result, check_len, product};
use crate::simd::SimdElement;
use crate::threads::{RowBlocks, SharedSlice};
use crate::w4a8::Epilogue;
use half::{bf16, f16};
use std::ops::Range;

/// Multiplies over the kept inputs: y\[m, n\] = Σ x\[m, k\] · w\[n, k\] over the k with |x\[m, k\]| above `threshold`, + bias + residual.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | f32, f16, bf16 or 4 bits by input |
/// | `x` | \[M, K\] row-major | f32 |
/// | `threshold` | one | f32, finite, at least 0 |
/// | `epilogue.bias` | \[N\] | f32 |
/// | `epilogue.residual` | \[M, N\] | f32 |
/// | `y` | \[M, N\] row-major | f32 |
///
/// # Errors
/// [`Error::Length`] for a buffer of another size, [`Error::Value`] for another threshold.
pub fn linear(
    cpu: &Cpu,
    weight: &Weight,
    x: &[f32],
    threshold: f32,
    epilogue: Epilogue<'_, f32>,
    y: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    linear_rows(cpu, weight, &[0..weight.n()], x, threshold, epilogue, y, workspace)
}

/// Multiplies as [`linear`], only for the output features in `rows` (increasing ranges) and perhaps others between the first and the last
/// of them; the rest of `y` is neither read nor written. Threads of an engine's own can share one multiplication by ranges that do not
/// overlap: each with the same `y` as a [`SharedSlice`] and a workspace of its own, on a [`Cpu`] of one thread, which any number of them
/// can use. Each lists what is kept for itself.
///
/// # Errors
/// As [`linear`]; [`Error::Index`] for a range past N, [`Error::NotIncreasing`] for ranges out of order.
#[allow(clippy::too_many_arguments)]
pub fn linear_rows<'y>(
    cpu: &Cpu,
    weight: &Weight,
    rows: &[Range<usize>],
    x: &[f32],
    threshold: f32,
    epilogue: Epilogue<'_, f32>,
    y: impl Into<SharedSlice<'y, f32>>,
    workspace: &mut Workspace,
) -> Result<()> {
    let y = y.into();
    check(weight, x, threshold, &epilogue, y.len())?;
    RowBlocks::new(rows, weight.n())?;
    if x.is_empty() {
        workspace.by_members = 0;
        workspace.kept.take(0);
        return Ok(());
    }
    let floats = match &weight.store {
        Store::Floats(floats) => floats,
        Store::FourBit(matrix) => {
            let input = (x, weight.k(), threshold);
            return four_bit::multiply(cpu, matrix, input, (epilogue, weight.n()), (y, hull(rows)), workspace);
        }
    };
    workspace.by_members = 0;
    gather(cpu, x, weight.k(), threshold, workspace);
    let Workspace { kept, x, split, .. } = workspace;
    let call = Call { cpu, n: weight.n(), k: weight.k(), rows, kept, x, epilogue };
    match floats.dtype {
        DenseType::F32 => call.multiply(&floats.rows::<f32>(), y, split),
        DenseType::F16 => call.multiply(&floats.rows::<f16>(), y, split),
        DenseType::Bf16 => call.multiply(&floats.rows::<bf16>(), y, split),
    }
    Ok(())
}

pub(super) fn check(weight: &Weight, x: &[f32], threshold: f32, epilogue: &Epilogue<'_, f32>, y: usize) -> Result<()> {
    let m = x.len() / weight.k();
    check_len("x", m * weight.k(), x.len())?;
    let outputs = product("m", &[m, weight.n()])?;
    check_len("y", outputs, y)?;
    epilogue.bias.map_or(Ok(()), |bias| check_len("bias", weight.n(), bias.len()))?;
    epilogue.residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))?;
    if threshold.is_finite() && threshold >= 0.0 {
        return Ok(());
    }
    Err(Error::Value { what: "threshold", expected: "a finite number of at least 0", got: threshold })
}

/// A multiplication whose inputs are gathered.
struct Call<'a> {
    cpu: &'a Cpu,
    n: usize,
    k: usize,
    rows: &'a [Range<usize>],
    kept: &'a [u32],
    /// \[M, kept\].
    x: &'a [f32],
    epilogue: Epilogue<'a, f32>,
}

impl Call<'_> {
    /// Whole rows, each read once, for a few tokens; tiles of columns for several.
    fn multiply<T: SimdElement>(&self, rows: &Rows<'_, T>, y: SharedSlice<'_, f32>, split: &mut SplitSums) {
        let splits = splits_of(self.kept, self.k);
        let kept = Kept { splits: &splits, list: self.kept, x: self.x, stride: self.kept.len() };
        let finish = |token, column, y: &mut [f32]| self.finish(token, column, y);
        let few = y.len() <= UNION_TOKENS * self.n;
        let y = (y, self.n);
        if few {
            split.run(self.cpu, (rows, kept), y, self.rows, finish)
        } else {
            sum_tiles(self.cpu, (rows, kept), y, self.rows, finish)
        }
    }

    /// Adds bias and residual, or 0, to a token's sums of the columns from `column` on.
    fn finish(&self, token: usize, column: usize, y: &mut [f32]) {
        let at = token * self.n + column;
        let add = |added: Option<&[f32]>, y: &mut [f32]| match added {
            Some(added) => y.iter_mut().zip(added).for_each(|(y, added)| *y += added),
            // makes -0 a 0
            None => y.iter_mut().for_each(|y| *y += 0.0),
        };
        add(self.epilogue.bias.map(|bias| &bias[column..]), y);
        add(self.epilogue.residual.map(|residual| &residual[at..]), y);
    }
}
