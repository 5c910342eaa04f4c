//! A call: check, gather what is kept, multiply.

use super::float::{Many, TILE_COLUMNS, TILE_TOKENS};
use super::four_bit;
use super::kept::gather;
use super::strips::sum_rows;
use super::weight::{Rows, Store, Weight};
use super::workspace::Workspace;
use crate::cpu::Cpu;
use crate::element::DenseType;
use crate::error::{Error, Result, check_len, product};
use crate::simd::SimdElement;
use crate::threads::{Fresh, RowBlocks, Tiles, Window};
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

/// Multiplies as [`linear`], only for the output features in `rows` (increasing ranges) and perhaps neighbours of them; the others
/// of `y` are left as they are.
///
/// # Errors
/// As [`linear`]; [`Error::Index`] for a range past N, [`Error::NotIncreasing`] for ranges out of order.
#[allow(clippy::too_many_arguments)]
pub fn linear_rows(
    cpu: &Cpu,
    weight: &Weight,
    rows: &[Range<usize>],
    x: &[f32],
    threshold: f32,
    epilogue: Epilogue<'_, f32>,
    y: &mut [f32],
    workspace: &mut Workspace,
) -> Result<()> {
    check(weight, x, threshold, &epilogue, y)?;
    RowBlocks::new(rows, weight.n())?;
    let floats = match &weight.store {
        Store::Floats(floats) => floats,
        Store::FourBit(matrix) => {
            let input = (x, weight.k(), threshold);
            return four_bit::multiply(cpu, matrix, input, (epilogue, weight.n()), y, workspace);
        }
    };
    gather(cpu, x, weight.k(), threshold, workspace);
    let call = Call { cpu, n: weight.n(), rows, kept: &workspace.kept, x: &workspace.x, epilogue };
    match floats.dtype {
        DenseType::F32 => call.multiply(&floats.rows::<f32>(), y),
        DenseType::F16 => call.multiply(&floats.rows::<f16>(), y),
        DenseType::Bf16 => call.multiply(&floats.rows::<bf16>(), y),
    }
    Ok(())
}

pub(super) fn check(weight: &Weight, x: &[f32], threshold: f32, epilogue: &Epilogue<'_, f32>, y: &[f32]) -> Result<()> {
    let m = x.len() / weight.k();
    check_len("x", m * weight.k(), x.len())?;
    let outputs = product("m", &[m, weight.n()])?;
    check_len("y", outputs, y.len())?;
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
    rows: &'a [Range<usize>],
    kept: &'a [u32],
    /// \[M, kept\].
    x: &'a [f32],
    epilogue: Epilogue<'a, f32>,
}

impl Call<'_> {
    fn multiply<T: SimdElement>(&self, weight: &Rows<'_, T>, y: &mut [f32]) {
        if y.len() == self.n { self.one(weight, y) } else { self.many(weight, y) }
    }

    /// One token: strips of the rows that are kept.
    fn one<T: SimdElement>(&self, rows: &Rows<'_, T>, y: &mut [f32]) {
        let asks = |column, width| self.asks_for(column..column + width);
        sum_rows(self.cpu, rows, (self.kept, self.x), y, asks, |column, sums, y| {
            self.write(0, column, &[sums.as_chunks().0], y);
        });
    }

    /// Several tokens: tiles of columns, whose weights are unpacked once for a block of tokens.
    fn many<T: SimdElement>(&self, rows: &Rows<'_, T>, y: &mut [f32]) {
        let n = self.n;
        let across = n.div_ceil(TILE_COLUMNS);
        let tiles = Tiles::new(y, n, n, TILE_TOKENS, TILE_COLUMNS);
        let scratch = Fresh(|| [[[0.0f32; 16]; TILE_COLUMNS / 16]; TILE_TOKENS]);
        self.cpu.team().for_parts_with(tiles, 1, scratch, |sums, unit, y| {
            let (token, column) = (unit / across * TILE_TOKENS, unit % across * TILE_COLUMNS);
            let width = TILE_COLUMNS.min(n - column);
            if self.asks_for(column..column + width) {
                let sums = &mut sums[..y.rows()];
                let x = &self.x[token * self.kept.len()..];
                self.cpu.simd().run(Many { rows, kept: self.kept, x, column, width, sums });
                self.write(token, column, sums, y);
            }
        });
    }

    /// Whether an output feature of these columns is asked for.
    fn asks_for(&self, columns: Range<usize>) -> bool {
        self.rows.iter().any(|rows| rows.start < columns.end && columns.start < rows.end)
    }

    /// y = sums + bias + residual, for the tokens from `token` on and the columns from `column` on.
    fn write<V: AsRef<[[f32; 16]]>>(&self, token: usize, column: usize, sums: &[V], mut y: Window<'_, f32>) {
        let n = self.n;
        for (row, sums) in sums.iter().enumerate() {
            let at = (token + row) * n + column;
            for (i, (out, sum)) in y.row(row).iter_mut().zip(sums.as_ref().as_flattened()).enumerate() {
                let bias = self.epilogue.bias.map_or(0.0, |bias| bias[column + i]);
                let residual = self.epilogue.residual.map_or(0.0, |residual| residual[at + i]);
                *out = sum + bias + residual;
            }
        }
    }
}
