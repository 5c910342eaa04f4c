//! One stored tensor and its conversion to f32.

use std::borrow::Cow;
use std::ops::Range;

use crate::dequantize::{all_finite, dequantize};
use crate::dtype::DType;
use crate::error::{Error, Result};

/// One tensor of a checkpoint: rows of blocks along K, as the file stores them.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The tensor's name in the file.
    pub name: &'a str,
    /// How elements are stored.
    pub dtype: DType,
    /// `[rows N, columns K]`; a vector is `[1, K]`.
    pub shape: [usize; 2],
    /// Row-major, `shape[0] * row_bytes()` bytes, no alignment promised. Borrowed from the mapped file, or owned where
    /// rows had to be reordered.
    pub bytes: Cow<'a, [u8]>,
    /// Where the bytes lie: index of the file and range in it.
    pub(crate) origin: (usize, Range<usize>),
}

impl Tensor<'_> {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.bytes.len() / self.shape[0]
    }

    /// Expands the whole tensor to f32, row-major.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a weight or a block's scale is NaN or infinite.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.shape[0] * self.shape[1]];
        self.rows_to_f32(0..self.shape[0], &mut out)?;
        Ok(out)
    }

    /// Expands the rows `rows` to f32 into `out`, row-major, `rows.len() * K` elements.
    ///
    /// # Errors
    /// [`Error::Index`] if `rows` reaches beyond the tensor, [`Error::Kernel`] if `out` has another length,
    /// [`Error::NotFinite`] if a weight or a block's scale is NaN or infinite (`out` is then partly written).
    pub fn rows_to_f32(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        let [n, k] = self.shape;
        if rows.start > rows.end || rows.end > n {
            let got = rows.end.max(rows.start);
            return Err(Error::Index { what: format!("end of the rows of {}", self.name), limit: n + 1, got });
        }
        if out.len() != rows.len() * k {
            let (expected, got) = (rows.len() * k, out.len());
            return Err(moray::Error::Length { what: "out", expected, got }.into());
        }
        let row_bytes = self.row_bytes();
        for (row, values) in rows.zip(out.chunks_exact_mut(k)) {
            if !dequantize(self.dtype, &self.bytes[row * row_bytes..][..row_bytes], values) {
                return Err(Error::NotFinite { name: self.name.into(), row });
            }
        }
        Ok(())
    }

    /// Checks every scale (or float) without expanding anything, for users that keep the stored blocks.
    ///
    /// # Errors
    /// [`Error::NotFinite`] if a weight or a block's scale is NaN or infinite.
    pub fn check_finite(&self) -> Result<()> {
        for (row, bytes) in self.bytes.chunks_exact(self.row_bytes()).enumerate() {
            if !all_finite(self.dtype, bytes) {
                return Err(Error::NotFinite { name: self.name.into(), row });
            }
        }
        Ok(())
    }
}
