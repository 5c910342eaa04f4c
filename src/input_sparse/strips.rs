//! One token's outputs, cut into strips whose sums stay in the first-level cache.

use super::float::One;
use super::weight::Rows;
use crate::cpu::Cpu;
use crate::simd::SimdElement;
use crate::threads::{Fresh, Tiles, Window};

/// Columns of y that one unit covers at most: their sums stay in the first-level cache.
const STRIP: usize = 1024;

/// Units that each thread gets on average, so that unequal ones balance.
const UNITS_PER_THREAD: usize = 2;

/// Columns of a unit, of which there are whole cache lines.
const STEP: usize = 32;

/// Sums the rows that `kept` lists, each times its input, and hands the sums of each strip of y to `write` with its first column; a
/// strip that `asks` has no use for is left out. Rows have whole vectors of 16 columns, of which `y.len()` are used.
pub(crate) fn sum_rows<T: SimdElement>(
    cpu: &Cpu,
    rows: &Rows<'_, T>,
    (kept, x): (&[u32], &[f32]),
    y: &mut [f32],
    asks: impl Fn(usize, usize) -> bool + Sync,
    write: impl Fn(usize, &[f32], Window<'_, f32>) + Sync,
) {
    let n = y.len();
    let units = (UNITS_PER_THREAD * cpu.threads()).max(n.div_ceil(STRIP));
    let width = n.div_ceil(units).next_multiple_of(STEP).min(STRIP);
    let scratch = Fresh(|| [[0.0f32; 16]; STRIP / 16]);
    cpu.team().for_parts_with(Tiles::new(y, n, n, 1, width), 1, scratch, |sums, unit, y| {
        let column = unit * width;
        let sums = &mut sums[..width.min(n - column).div_ceil(16)];
        if asks(column, width) {
            cpu.simd().run(One { rows, kept, x, column, sums });
            write(column, sums.as_flattened(), y);
        }
    });
}
