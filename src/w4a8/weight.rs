//! The plain form of a quantized weight matrix: integer codes and how they become numbers.

use super::format::{Bits, Format};
use super::scales::Scales;
use crate::error::{Error, Result, check_len, product};

/// The largest K for which every int32 sum is exact: 255 · 127 · K < 2³¹.
pub(crate) const MAX_K: usize = 65_536;

/// A weight matrix w\[N, K\] as integer codes and scales: what quantizers write and packers read.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeight {
    n: usize,
    k: usize,
    format: Format,
    codes: Vec<i8>,
    scales: Scales,
}

impl QuantizedWeight {
    /// Checks and takes the parts: `codes` is \[N, K\] row-major, one code a byte.
    ///
    /// # Errors
    /// [`Error::Shape`] unless N ≥ 1 and K is a multiple of 32 (and of the group size), at most 65 536;
    /// [`Error::Length`] for an array of another size; [`Error::Value`] for a scale that is not finite or a code,
    /// zero point or integer scale out of range; [`Error::Unsupported`] for a format of parts that do not go together, and for
    /// other arrays of scales than it has.
    pub fn new(n: usize, k: usize, format: Format, codes: Vec<i8>, scales: Scales) -> Result<Self> {
        format.check(n, k)?;
        check_len("codes", product("n", &[n, k])?, codes.len())?;
        if format.bits == Bits::Four
            && let Some(&bad) = codes.iter().find(|c| !(0..=15).contains(*c))
        {
            return Err(Error::Value { what: "codes", expected: "4-bit codes in 0..=15", got: f32::from(bad) });
        }
        scales.check(format, n, k, &codes)?;
        Ok(QuantizedWeight { n, k, format, codes, scales })
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How codes become numbers.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Codes \[N, K\], one a byte.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The numbers beside the codes.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Returns the same matrix with its rows in another order: row `i` of the result is row `order[i]`.
    ///
    /// # Errors
    /// [`Error::Length`] unless `order` has N entries, [`Error::Index`] if one is N or more.
    pub fn permute_rows(&self, order: &[usize]) -> Result<Self> {
        check_len("order", self.n, order.len())?;
        if let Some(&got) = order.iter().find(|&&row| row >= self.n) {
            return Err(Error::Index { what: "order", limit: self.n, got });
        }
        Ok(self.select(order))
    }

    /// Returns some consecutive rows as a matrix of their own: the inverse of [`QuantizedWeight::concatenate`].
    ///
    /// # Errors
    /// [`Error::Index`] for a range past N, [`Error::Shape`] for an empty one.
    pub fn rows(&self, rows: std::ops::Range<usize>) -> Result<Self> {
        if rows.end > self.n {
            return Err(Error::Index { what: "rows", limit: self.n + 1, got: rows.end });
        }
        if rows.is_empty() {
            return Err(Error::Shape { what: "rows", expected: "at least 1", got: 0 });
        }
        Ok(self.select(&rows.collect::<Vec<_>>()))
    }

    /// Puts matrices of the same K and format below each other, as one layer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is none or they are of different formats.
    pub fn concatenate(parts: &[&QuantizedWeight]) -> Result<Self> {
        let mismatch = |got: &str| Error::Unsupported {
            what: "parts",
            expected: "one or more weights of the same K and format",
            got: got.into(),
        };
        let (first, rest) = parts.split_first().ok_or_else(|| mismatch("none"))?;
        if rest.iter().any(|part| (part.k, part.format) != (first.k, first.format)) {
            return Err(mismatch("different K or formats"));
        }
        let joined = |i: usize| parts.iter().flat_map(|part| part.scales.bytes()[i]).copied().collect::<Vec<u8>>();
        let scales = [joined(0), joined(1), joined(2)];
        Ok(QuantizedWeight {
            n: parts.iter().map(|part| part.n).sum(),
            codes: parts.iter().flat_map(|part| &part.codes).copied().collect(),
            scales: Scales::from_bytes(first.format, scales.each_ref().map(|bytes| &bytes[..])),
            ..**first
        })
    }

    fn select(&self, rows: &[usize]) -> Self {
        let (entry, per_row, bytes) = (self.format.entry_bytes(), self.format.row_entries(self.k), self.scales.bytes());
        let gathered = |i: usize| {
            let stride = entry[i] * per_row[i];
            rows.iter().flat_map(|&row| &bytes[i][row * stride..(row + 1) * stride]).copied().collect::<Vec<u8>>()
        };
        let scales = [gathered(0), gathered(1), gathered(2)];
        let codes = rows.iter().flat_map(|&row| &self.codes[row * self.k..(row + 1) * self.k]).copied().collect();
        let scales = Scales::from_bytes(self.format, scales.each_ref().map(|bytes| &bytes[..]));
        QuantizedWeight { n: rows.len(), codes, scales, ..*self }
    }

    /// The number that stands for element (n, k), in f64 from the stored codes and scales: the definition.
    pub fn dequantize_at(&self, n: usize, k: usize) -> f64 {
        let (code, scales) = (self.codes[n * self.k + k], self.scales.at(self.format, n, k, self.k));
        let product = f64::from(self.format.scale(scales)) * f64::from(self.format.integer(code, scales));
        self.format.added(scales).map_or(product, |offset| product + f64::from(offset))
    }

    /// The whole matrix as f32 \[N, K\].
    pub fn dequantize(&self) -> Vec<f32> {
        (0..self.n * self.k).map(|i| self.dequantize_at(i / self.k, i % self.k) as f32).collect()
    }
}

/// Checks the sizes of a matrix of any format.
pub(crate) fn check_shape(n: usize, k: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::Shape { what: "n", expected: "at least 1", got: n });
    }
    if k == 0 || k % 32 != 0 || k > MAX_K {
        return Err(Error::Shape { what: "k", expected: "a multiple of 32 from 32 to 65536", got: k });
    }
    Ok(())
}
