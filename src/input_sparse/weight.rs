//! Weights by input.

use crate::column_sums::{ColumnMatrix, Rows};
use crate::element::{DenseType, Element};
use crate::error::{Error, Result, check_len, product};
use crate::memory::{LINE_BYTES, Memory};
use crate::simd::SimdElement;
#[cfg(feature = "cuda-input-sparse")]
use crate::w4a8::Group;
use crate::w4a8::QuantizedWeight;
use half::{bf16, f16};

/// A weight matrix w\[N, K\] held by input: K rows of the N numbers w\[:, k\], in floating point, or in 4 bits with the scales of each
/// group of inputs beside them.
///
/// A row of floats begins on a cache line, and an odd number of lines after the one before it, so that neighbouring rows do not
/// meet in the same sets of a cache.
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
#[derive(Debug, Clone)]
pub struct Weight {
    n: usize,
    k: usize,
    pub(super) store: Store,
}

#[derive(Debug, Clone)]
pub(super) enum Store {
    Floats(Floats),
    FourBit(ColumnMatrix),
}

/// Rows of floats.
#[derive(Debug, Clone)]
pub(super) struct Floats {
    pub(super) dtype: DenseType,
    /// Lines from the start of a row to that of the next.
    stride: usize,
    data: Memory<u8>,
}

/// The parts of a [`Weight`] in 4 bits, as [`super::cuda::raw::FourBit`] names them: bytes to be copied to device memory.
#[cfg(feature = "cuda-input-sparse")]
#[derive(Debug, Clone)]
pub struct FourBitRows<'a> {
    /// \[K, d/2\], d = N rounded up to 32.
    pub rows: &'a [u8],
    /// f32 \[d\], or u16 \[groups, parts, d\].
    pub scales: Vec<u8>,
    /// The groups of K; none where channels have the scales.
    pub group: Option<Group>,
}

#[cfg(feature = "cuda-input-sparse")]
impl<'a> FourBitRows<'a> {
    pub(super) fn of(matrix: &'a ColumnMatrix) -> Self {
        FourBitRows {
            rows: &matrix.codes()[..matrix.code_bytes()],
            scales: matrix.scales_by_column(),
            group: matrix.group(),
        }
    }
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
        let expected = "a matrix that memory holds";
        let data = Memory::try_zeroed(bytes).ok_or(Error::Shape { what: "n", expected, got: n })?;
        Ok(Weight { n, k, store: Store::Floats(Floats { dtype, stride, data }) })
    }

    /// Holds 4-bit weights with the codes and scales they have: of channels, or f16 ones of groups, with offsets or zero points or
    /// without.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for 8-bit codes and for other scales.
    pub fn from_quantized(weight: &QuantizedWeight) -> Result<Self> {
        Ok(Weight { n: weight.n(), k: weight.k(), store: Store::FourBit(ColumnMatrix::new("weight", weight)?) })
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
    /// finite in the weight's type, [`Error::Unsupported`] for weights in 4 bits.
    pub fn set_rows(&mut self, first: usize, rows: &[f32]) -> Result<()> {
        check_len("rows", rows.len() / self.k * self.k, rows.len())?;
        let end = first + rows.len() / self.k;
        if end > self.n {
            return Err(Error::Index { what: "rows", limit: self.n, got: end - 1 });
        }
        let (k, Store::Floats(floats)) = (self.k, &mut self.store) else {
            let (expected, got) = ("weights in floating point", "4 bits".into());
            return Err(Error::Unsupported { what: "rows", expected, got });
        };
        floats.dtype.check_finite(rows)?;
        match floats.dtype {
            DenseType::F32 => floats.place::<f32>(k, first, rows),
            DenseType::F16 => floats.place::<f16>(k, first, rows),
            DenseType::Bf16 => floats.place::<bf16>(k, first, rows),
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

    /// The rows as they lie in memory, from the first input's on, with their type and the bytes from one to the next, a multiple of 64; None
    /// for weights in 4 bits. For engines that place weights themselves.
    pub fn rows_in_memory(&self) -> Option<(DenseType, usize, &[u8])> {
        match &self.store {
            Store::Floats(floats) => Some(floats.in_memory()),
            Store::FourBit(_) => None,
        }
    }

    /// The codes as they lie in memory and the scales as kernels of a device read them; None for weights in floating point. For engines
    /// that place weights themselves.
    #[cfg(feature = "cuda-input-sparse")]
    pub fn four_bit_rows(&self) -> Option<FourBitRows<'_>> {
        match &self.store {
            Store::Floats(_) => None,
            Store::FourBit(matrix) => Some(FourBitRows::of(matrix)),
        }
    }

    /// Whether inputs are multiplied in int8.
    pub fn is_integer(&self) -> bool {
        matches!(self.store, Store::FourBit(_))
    }

    /// Bytes that a call reads whose tokens keep this fraction of the inputs: of 4-bit weights the scales whole, since few groups lose
    /// all of their inputs.
    pub fn bytes_read(&self, kept: f64) -> usize {
        let part = |bytes: usize| (kept * bytes as f64) as usize;
        match &self.store {
            Store::Floats(floats) => part(self.n * self.k * floats.dtype.bytes()),
            Store::FourBit(matrix) => part(matrix.code_bytes()) + matrix.scale_bytes(),
        }
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
        match &self.store {
            Store::Floats(floats) => floats.column(n, out),
            Store::FourBit(matrix) => {
                out.iter_mut().enumerate().for_each(|(input, out)| *out = matrix.value(input, input, n));
            }
        }
        Ok(())
    }
}

impl Floats {
    /// The type, the bytes from one row to the next, and the rows.
    pub(super) fn in_memory(&self) -> (DenseType, usize, &[u8]) {
        (self.dtype, self.stride * LINE_BYTES, &self.data[..])
    }

    /// Writes outputs' weights, \[…, K\] row-major, from output `first` on.
    fn place<T: Element>(&mut self, k: usize, first: usize, rows: &[f32]) {
        let stride = self.stride * (LINE_BYTES / size_of::<T>());
        let data: &mut [T] = bytemuck::cast_slice_mut(&mut self.data[..]);
        // a row of outputs is written once, from inputs that are K apart
        for (input, data) in data.chunks_exact_mut(stride).enumerate() {
            let outputs = &mut data[first..first + rows.len() / k];
            outputs.iter_mut().zip(rows[input..].iter().step_by(k)).for_each(|(out, &w)| *out = T::from_f32(w));
        }
    }

    /// The weights of output `n`.
    fn column(&self, n: usize, out: &mut [f32]) {
        match self.dtype {
            DenseType::F32 => self.fetch::<f32>(n, out),
            DenseType::F16 => self.fetch::<f16>(n, out),
            DenseType::Bf16 => self.fetch::<bf16>(n, out),
        }
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
