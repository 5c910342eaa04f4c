//! A call: check, gather what is kept, multiply.

use super::float::{Many, TILE_COLUMNS, TILE_TOKENS};
use super::four_bit;
use super::kept::{UNION_TOKENS, gather};
use super::split::{Kept, SplitSums, hull, splits_of};
use super::weight::{Rows, Store, Weight};
use super::workspace::Workspace;
use crate::cpu::Cpu;
use crate::element::DenseType;
use crate::error::{Error, Result, check_len, product};
use crate::simd::SimdElement;
use crate::threads::{Fresh, RowBlocks, SharedSlice, Tiles};
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
    fn multiply<T: SimdElement>(&self, weight: &Rows<'_, T>, y: SharedSlice<'_, f32>, split: &mut SplitSums) {
        if y.len() <= UNION_TOKENS * self.n { self.few(weight, y, split) } else { self.many(weight, y) }
    }

    /// A few tokens: whole rows, each read once.
    fn few<T: SimdElement>(&self, rows: &Rows<'_, T>, y: SharedSlice<'_, f32>, split: &mut SplitSums) {
        let splits = splits_of(self.kept, self.k);
        let kept = Kept { splits: &splits, list: self.kept, x: self.x, stride: self.kept.len() };
        split.run(self.cpu, (rows, kept), (y, self.n), self.rows, |token, column, y| {
            self.finish(token, column, y);
        });
    }

    /// Several tokens: tiles of columns, whose weights are unpacked once for a block of tokens.
    fn many<T: SimdElement>(&self, rows: &Rows<'_, T>, y: SharedSlice<'_, f32>) {
        let n = self.n;
        let tiles = Tiles::new(y, n, hull(self.rows), TILE_TOKENS, TILE_COLUMNS);
        let grid = tiles.grid();
        let scratch = Fresh(|| [[[[0.0f32; 16]; TILE_COLUMNS / 16]; TILE_TOKENS]; 2]);
        let splits = &splits_of(self.kept, self.k);
        self.cpu.team().for_parts_with(tiles, 1, scratch, |[sums, part], unit, mut y| {
            let (token, column, skip) = grid.at(unit);
            let width = TILE_COLUMNS.min(n - column);
            if self.asks_for(column..column + width) {
                let (sums, part) = (&mut sums[..y.rows()], &mut part[..y.rows()]);
                let x = &self.x[token * self.kept.len()..];
                self.cpu.simd().run(Many { rows, kept: self.kept, splits, x, column, width, sums, part });
                for (row, sums) in sums.iter().enumerate() {
                    let y = y.row(row);
                    y.copy_from_slice(&sums.as_flattened()[skip..][..y.len()]);
                    self.finish(token + row, column + skip, y);
                }
            }
        });
    }

    /// Whether an output feature of these columns is asked for.
    fn asks_for(&self, columns: Range<usize>) -> bool {
        self.rows.iter().any(|rows| rows.start < columns.end && columns.start < rows.end)
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
