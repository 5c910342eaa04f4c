//! Weights by input.

use crate::element::{DenseType, Element};
use crate::error::{Error, Result, check_len, product};
use crate::memory::{LINE_BYTES, Memory};
use crate::simd::SimdElement;
use half::{bf16, f16};

/// A weight matrix w\[N, K\] in floating point, held by input: K rows of the N numbers w\[:, k\].
///
/// A row begins on a cache line, and an odd number of lines after the one before it, so that neighbouring rows do not meet in
/// the same sets of a cache.
///
/// # Example
/// ```
/// use moray::input_sparse::{Weight, Workspace, linear};
/// use moray::w4a8::Epilogue;
/// use moray::{Cpu, DenseType};
///
/// let w = Weight::from_f32(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2, 3, DenseType::F16)?;
/// let (x, mut y) = ([1.0, 0.25, -1.0], [0.0; 2]);
/// linear(&Cpu::detect(), &w, &x, 0.5, Epilogue::default(), &mut y, &mut Workspace::default())?;
/// assert_eq!(y, [1.0 - 3.0, 4.0 - 6.0]);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Clone)]
pub struct Weight {
    n: usize,
    k: usize,
    dtype: DenseType,
    /// Lines from the start of a row to that of the next.
    stride: usize,
    data: Memory<u8>,
}

impl std::fmt::Debug for Weight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weight").field("n", &self.n).field("k", &self.k).field("dtype", &self.dtype).finish()
    }
}

/// The rows of a [`Weight`], as elements.
pub(super) struct Rows<'a, T> {
    pub(super) elements: &'a [T],
    pub(super) stride: usize,
}

impl Weight {
    /// Allocates a matrix of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size of 0, an input that no list can name, or a matrix that no memory can hold.
    pub fn zeros(n: usize, k: usize, dtype: DenseType) -> Result<Self> {
        for (what, got) in [("n", n), ("k", k)] {
            if got == 0 || got > u32::MAX as usize {
                return Err(Error::Shape { what, expected: "1 to 2³² − 1", got });
            }
        }
        let stride = (n * dtype.bytes()).div_ceil(LINE_BYTES) | 1;
        let bytes = product("n", &[stride, LINE_BYTES, k])?;
        let data = Memory::try_zeroed(bytes).ok_or(Error::Shape {
            what: "n",
            expected: "a matrix that memory holds",
            got: n,
        })?;
        Ok(Weight { n, k, dtype, stride, data })
    }

    /// Rounds f32 \[N, K\] row-major to `dtype`.
    ///
    /// # Errors
    /// As [`Weight::zeros`] and [`Weight::set_rows`].
    pub fn from_f32(w: &[f32], n: usize, k: usize, dtype: DenseType) -> Result<Self> {
        check_len("w", product("n", &[n, k])?, w.len())?;
        let mut weight = Self::zeros(n, k, dtype)?;
        weight.set_rows(0, w)?;
        Ok(weight)
    }

    /// Rounds output features' weights, f32 \[…, K\], into place, from feature `first` on, so that a large matrix need not be in f32
    /// whole.
    ///
    /// # Errors
    /// [`Error::Length`] unless `rows` is whole rows of K, [`Error::Index`] past N, [`Error::Value`] for a number that is not
    /// finite in the weight's type.
    pub fn set_rows(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        check_len("rows", rows.len() / self.k * self.k, rows.len())?;
        let end = first + rows.len() / self.k;
        if end > self.n {
            return Err(Error::Index { what: "rows", limit: self.n, got: end - 1 });
        }
        self.dtype.check_finite(rows)?;
        match self.dtype {
            DenseType::F32 => self.place::<f32>(first, rows),
            DenseType::F16 => self.place::<f16>(first, rows),
            DenseType::Bf16 => self.place::<bf16>(first, rows),
        }
        Ok(())
    }

    fn place<T: Element>(&mut self, first: usize, rows: &[f32]) {
        let (k, stride) = (self.k, self.stride * (LINE_BYTES / size_of::<T>()));
        let data: &mut [T] = bytemuck::cast_slice_mut(&mut self.data[..]);
        // a row of outputs is written once, from inputs that are K apart
        for (input, data) in data.chunks_exact_mut(stride).enumerate() {
            let outputs = &mut data[first..first + rows.len() / k];
            outputs.iter_mut().zip(rows[input..].iter().step_by(k)).for_each(|(out, &w)| *out = T::from_f32(w));
        }
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

    /// Bytes that a call reads whose tokens keep this fraction of the inputs.
    pub fn bytes_read(&self, kept: f64) -> usize {
        (kept * (self.n * self.k * self.dtype.bytes()) as f64) as usize
    }

    /// Writes the weights of output feature `n`, f32 \[K\].
    ///
    /// # Errors
    /// [`Error::Index`] unless `n` is below N, [`Error::Length`] unless `out` has K elements.
    pub fn row(&self, n: usize, out: &mut [f32]) -> Result<()> {
        if n >= self.n {
            return Err(Error::Index { what: "n", limit: self.n, got: n });
        }
        check_len("out", self.k, out.len())?;
        match self.dtype {
            DenseType::F32 => self.fetch::<f32>(n, out),
            DenseType::F16 => self.fetch::<f16>(n, out),
            DenseType::Bf16 => self.fetch::<bf16>(n, out),
        }
        Ok(())
    }

    fn fetch<T: SimdElement>(&self, n: usize, out: &mut [f32]) {
        let rows = self.rows::<T>();
        out.iter_mut().zip(rows.elements.chunks_exact(rows.stride)).for_each(|(out, row)| *out = row[n].to_f32());
    }

    /// The rows as elements of the weight's type, whole lines of them.
    pub(super) fn rows<T: SimdElement>(&self) -> Rows<'_, T> {
        Rows { elements: bytemuck::cast_slice(&self.data[..]), stride: self.stride * (LINE_BYTES / size_of::<T>()) }
    }
}
