//! Unquantized weights on the CPU: f32, f16 or bf16 in blocks of 16 rows, arithmetic in f32.
//!
//! This is the baseline that the quantized and sparse operations are measured against, and the output layer where it
//! stays in 16 bits.

use crate::cpu::Cpu;
use crate::element::{DenseType, Element};
use crate::error::{Error, Result, check_len, product};
use crate::memory::{Line, Memory};
use crate::simd::{Kernel, Simd, SimdElement};
use crate::threads::{BlockColumns, RowBlocks};
use crate::w4a8::Epilogue;
use half::{bf16, f16};
use std::ops::Range;

/// Rows of a block: one lane each.
const ROWS: usize = RowBlocks::HEIGHT;

/// Tokens between two write-backs.
const TOKEN_BLOCK: usize = 48;

/// Tokens that wait for memory: what they read next is asked for.
const FEW_TOKENS: usize = 4;

/// Bytes from the weights at hand to those that are asked into the second-level cache meanwhile.
const FAR_BYTES: usize = 8 << 10;

/// Bytes from the weights at hand to those that are asked from there into the first-level cache.
const NEAR_BYTES: usize = 2 << 10;

/// A weight matrix w\[N, K\] in floating point, stored \[N/16\]\[K\]\[16\] so that 16 rows are the lanes of a vector.
///
/// Every output is four chains of fused multiply-adds, over k ≡ 0, 1, 2, 3 (mod 4), added as (0 + 1) + (2 + 3): the result
/// does not depend on the number of tokens, the threads or the instruction set.
#[derive(Clone)]
pub struct DenseWeight {
    n: usize,
    k: usize,
    dtype: DenseType,
    data: Memory<Line>,
}

impl std::fmt::Debug for DenseWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DenseWeight").field("n", &self.n).field("k", &self.k).field("dtype", &self.dtype).finish()
    }
}

impl DenseWeight {
    /// Allocates a matrix of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0, or a matrix that no memory can hold.
    pub fn zeros(n: usize, k: usize, dtype: DenseType) -> Result<Self> {
        for (what, got) in [("n", n), ("k", k)] {
            if got == 0 {
                return Err(Error::Shape { what, expected: "at least 1", got });
            }
        }
        let bytes = product("n", &[n.div_ceil(ROWS), ROWS, k, dtype.bytes()])?;
        Ok(DenseWeight { n, k, dtype, data: Memory::zeroed(bytes.div_ceil(64)) })
    }

    /// Rounds f32 \[N, K\] row-major to `dtype`.
    ///
    /// # Errors
    /// As [`DenseWeight::zeros`] and [`DenseWeight::set_rows`].
    pub fn from_f32(w: &[f32], n: usize, k: usize, dtype: DenseType) -> Result<Self> {
        check_len("w", product("n", &[n, k])?, w.len())?;
        let mut weight = Self::zeros(n, k, dtype)?;
        weight.set_rows(0, w)?;
        Ok(weight)
    }

    /// Rounds f32 rows \[…, K\] into place, from row `first` on, so that a large matrix need not be in f32 whole.
    ///
    /// # Errors
    /// [`Error::Length`] unless `rows` is whole rows, [`Error::Index`] past row N, [`Error::Value`] for a number that is not
    /// finite in `dtype`.
    pub fn set_rows(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        check_len("rows", rows.len() / self.k * self.k, rows.len())?;
        let end = first + rows.len() / self.k;
        if end > self.n {
            return Err(Error::Index { what: "rows", limit: self.n, got: end - 1 });
        }
        self.dtype.check_finite(rows)?;
        let k = self.k;
        match self.dtype {
            DenseType::F32 => place(bytemuck::cast_slice_mut::<Line, f32>(&mut self.data), k, first, rows),
            DenseType::F16 => place(bytemuck::cast_slice_mut::<Line, f16>(&mut self.data), k, first, rows),
            DenseType::Bf16 => place(bytemuck::cast_slice_mut::<Line, bf16>(&mut self.data), k, first, rows),
        }
        Ok(())
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The element type.
    pub fn dtype(&self) -> DenseType {
        self.dtype
    }

    /// Bytes that one multiplication reads.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.data[..])
    }

    /// The elements' bytes, \[N/16\]\[K\]\[16\].
    pub fn data(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.data)[..self.n.div_ceil(ROWS) * ROWS * self.k * self.dtype.bytes()]
    }

    /// Writes row `n` as f32.
    ///
    /// # Errors
    /// [`Error::Index`] if `n` is not a row, [`Error::Length`] unless `out` has K elements.
    pub fn row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        if n >= self.n {
            return Err(Error::Index { what: "n", limit: self.n, got: n });
        }
        check_len("out", self.k, out.len())?;
        match self.dtype {
            DenseType::F32 => fetch(bytemuck::cast_slice::<Line, f32>(&self.data), n, out),
            DenseType::F16 => fetch(bytemuck::cast_slice::<Line, f16>(&self.data), n, out),
            DenseType::Bf16 => fetch(bytemuck::cast_slice::<Line, bf16>(&self.data), n, out),
        }
        Ok(())
    }

    /// Multiplies: y\[M, N\] = x\[M, K\] · wᵀ + bias + residual.
    ///
    /// # Errors
    /// [`Error::Length`] for a buffer of another size.
    pub fn linear(&self, cpu: &Cpu, x: &[f32], epilogue: Epilogue<'_, f32>, y: &mut [f32]) -> Result<()> {
        self.linear_rows(cpu, &[0..self.n], x, epilogue, y)
    }

    /// Multiplies as [`DenseWeight::linear`], only for the output features in `rows` (increasing ranges, widened to whole
    /// blocks of 16); the others of `y` are left as they are.
    ///
    /// # Errors
    /// As [`DenseWeight::linear`]; [`Error::Index`] for a range past N.
    pub fn linear_rows(
        &self,
        cpu: &Cpu,
        rows: &[Range<usize>],
        x: &[f32],
        epilogue: Epilogue<'_, f32>,
        y: &mut [f32],
    ) -> Result<()> {
        let blocks = RowBlocks::new(rows, self.n)?;
        let m = x.len() / self.k;
        check_len("x", m * self.k, x.len())?;
        let outputs = product("m", &[m, self.n])?;
        check_len("y", outputs, y.len())?;
        epilogue.bias.map_or(Ok(()), |bias| check_len("bias", self.n, bias.len()))?;
        epilogue.residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))?;
        match self.dtype {
            DenseType::F32 => self.multiply::<f32>(cpu, &blocks, x, epilogue, y),
            DenseType::F16 => self.multiply::<f16>(cpu, &blocks, x, epilogue, y),
            DenseType::Bf16 => self.multiply::<bf16>(cpu, &blocks, x, epilogue, y),
        }
        Ok(())
    }

    fn multiply<T: SimdElement>(
        &self,
        cpu: &Cpu,
        blocks: &RowBlocks<'_>,
        x: &[f32],
        epilogue: Epilogue<'_, f32>,
        y: &mut [f32],
    ) {
        let (n, k, m) = (self.n, self.k, x.len() / self.k);
        let rows: &[T] = &bytemuck::cast_slice(&self.data)[..n.div_ceil(ROWS) * ROWS * k];
        let grain = if m <= FEW_TOKENS { (8192 / k).clamp(1, 8) } else { 1 };
        cpu.team().for_parts(BlockColumns::new(y, n, blocks), grain, |_, (columns, mut y)| {
            let first = columns.start;
            let rows = &rows[first * k..];
            for (index, x) in x.chunks(TOKEN_BLOCK * k).enumerate() {
                let mut sums = [[0.0f32; ROWS]; TOKEN_BLOCK];
                cpu.simd().run(Multiply { rows, x, k, few: m <= FEW_TOKENS, sums: &mut sums });
                for (sums, m) in sums.iter().zip(index * TOKEN_BLOCK..).take(x.len() / k) {
                    for (i, (out, sum)) in y.row(m).iter_mut().zip(sums).enumerate() {
                        let bias = epilogue.bias.map_or(0.0, |bias| bias[first + i]);
                        let residual = epilogue.residual.map_or(0.0, |residual| residual[m * n + first + i]);
                        *out = sum + bias + residual;
                    }
                }
            }
        });
    }
}

fn place<T: Element>(data: &mut [T], k: usize, first: usize, rows: &[f32]) {
    for (row, values) in rows.chunks_exact(k).enumerate() {
        let row = first + row;
        let block = &mut data[row / ROWS * ROWS * k..][..ROWS * k];
        block.chunks_exact_mut(ROWS).zip(values).for_each(|(column, &v)| column[row % ROWS] = T::from_f32(v));
    }
}

fn fetch<T: Element>(data: &[T], row: usize, out: &mut [f32]) {
    let block = &data[row / ROWS * ROWS * out.len()..];
    block.chunks_exact(ROWS).zip(out).for_each(|(column, out)| *out = column[row % ROWS].to_f32());
}

/// One block of 16 rows times up to [`TOKEN_BLOCK`] tokens.
struct Multiply<'a, T> {
    /// \[K\]\[16\] and the blocks after it.
    rows: &'a [T],
    /// \[tokens, K\].
    x: &'a [f32],
    k: usize,
    /// Whether memory is waited for.
    few: bool,
    sums: &'a mut [[f32; ROWS]; TOKEN_BLOCK],
}

impl<T: SimdElement> Kernel for Multiply<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.rows.as_chunks().0;
        let mut rest = &mut self.sums[..self.x.len() / self.k];
        let mut x = self.x;
        while !rest.is_empty() {
            let count = match rest.len() {
                4.. if S::TILE >= 4 => 4,
                2.. if S::TILE >= 2 => 2,
                _ => 1,
            };
            let (sums, later) = rest.split_at_mut(count);
            match (count, self.few) {
                (4, true) => multiply_tokens::<S, T, 4, true>(simd, rows, x, self.k, sums),
                (4, false) => multiply_tokens::<S, T, 4, false>(simd, rows, x, self.k, sums),
                (2, _) => multiply_tokens::<S, T, 2, true>(simd, rows, x, self.k, sums),
                _ => multiply_tokens::<S, T, 1, true>(simd, rows, x, self.k, sums),
            }
            rest = later;
            x = &x[count * self.k..];
        }
    }
}

/// `rows` is at least \[K\]\[16\], `x` at least \[M, K\] and `sums` M. `AHEAD` asks for the rows [`FAR_BYTES`] and
/// [`NEAR_BYTES`] further.
#[inline(always)]
fn multiply_tokens<S: Simd, T: SimdElement, const M: usize, const AHEAD: bool>(
    simd: S,
    rows: &[[T; ROWS]],
    x: &[f32],
    k: usize,
    sums: &mut [[f32; ROWS]],
) {
    let mut acc = [[simd.splat(0.0); 4]; M];
    let x: [&[f32]; M] = std::array::from_fn(|m| &x[m * k..][..k]);
    let (quads, rest) = rows[..k].as_chunks::<4>();
    let x_quads: [&[[f32; 4]]; M] = std::array::from_fn(|m| &x[m].as_chunks().0[..quads.len()]);
    let [near, far] = [NEAR_BYTES, FAR_BYTES].map(|ahead| ahead / size_of::<[T; ROWS]>());
    for (i, quad) in quads.iter().enumerate() {
        if AHEAD && let Some(later) = rows.get(4 * i + far..4 * i + far + 4) {
            simd.prefetch_far(later.as_flattened());
        }
        if AHEAD && let Some(later) = rows.get(4 * i + near..4 * i + near + 4) {
            simd.prefetch(later.as_flattened());
        }
        for phase in 0..4 {
            let w = T::load(simd, &quad[phase]);
            for m in 0..M {
                acc[m][phase] = simd.fma(w, simd.splat(x_quads[m][i][phase]), acc[m][phase]);
            }
        }
    }
    for (phase, row) in rest.iter().enumerate() {
        let w = T::load(simd, row);
        for m in 0..M {
            acc[m][phase] = simd.fma(w, simd.splat(x[m][k / 4 * 4 + phase]), acc[m][phase]);
        }
    }
    let one = simd.splat(1.0);
    for (sums, [a, b, c, d]) in sums.iter_mut().zip(acc) {
        simd.store(sums, simd.fma(simd.fma(a, one, b), one, simd.fma(c, one, d)));
    }
}
