//! The plain form of a quantized weight matrix: integer codes and how they become numbers.

mod check;

use crate::error::{Error, Result, check_len};
use check::check_scales;
use half::f16;

pub(crate) use check::{check_group, check_shape};

/// The largest K for which every int32 sum is exact: 255 · 127 · K < 2³¹.
pub(crate) const MAX_K: usize = 65_536;

/// How a weight matrix is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// int4, one f32 scale for each output channel.
    PerChannel,
    /// int4, one f16 scale for each group of 32, 64 or 128 along K; with an f16 offset (the group's minimum) or symmetric.
    PerGroup {
        /// Values that share a scale.
        group_size: usize,
        /// Whether a group has an offset.
        offset: bool,
    },
    /// int4, an integer scale of 1..=16 for each group over an f32 scale for each channel: integers up to the epilogue.
    TwoLevel {
        /// Values that share an integer scale.
        group_size: usize,
    },
    /// QQQ's own group form: int4 with an f16 scale for each group of 128 that takes the code to int8, and an f32
    /// scale for each channel.
    Qqq,
    /// int8, one f32 scale for each output channel.
    W8,
}

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Codes 0..=15.
    Four,
    /// Codes −128..=127.
    Eight,
}

/// What is added to a group besides scale · code.
#[derive(Debug, Clone, PartialEq)]
pub enum GroupOffset {
    /// w = scale · (code − 8) for 4 bits, scale · code for 8 bits.
    Symmetric,
    /// w = scale · code + offset; f16 \[N, K/group_size\].
    F16(Vec<f16>),
    /// w = scale · (code − zero_point); 0..=15 \[N, K/group_size\], 4 bits only.
    ZeroPoint(Vec<u8>),
}

/// How codes become numbers. Arrays are row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Scales {
    /// w = scale\[n\] · (code − 8) for 4 bits, scale\[n\] · code for 8 bits.
    PerChannel {
        /// f32 \[N\].
        scale: Vec<f32>,
    },
    /// w = scale\[n, g\] · (code − zero_point) or scale\[n, g\] · code + offset\[n, g\].
    PerGroup {
        /// 32, 64 or 128.
        group_size: usize,
        /// f16 \[N, K/group_size\].
        scale: Vec<f16>,
        /// What is added.
        offset: GroupOffset,
    },
    /// w = scale\[n\] · group_scale\[n, g\] · (code − 8); 4 bits only.
    TwoLevel {
        /// 32, 64 or 128.
        group_size: usize,
        /// 1..=16 \[N, K/group_size\].
        group_scale: Vec<u8>,
        /// f32 \[N\].
        scale: Vec<f32>,
    },
    /// w = scale\[n\] · rne((code − 8) · group_scale\[n, g\]), the product rounded to f16 first; 4 bits only.
    Qqq {
        /// f16 \[N, K/128\].
        group_scale: Vec<f16>,
        /// f32 \[N\].
        scale: Vec<f32>,
    },
}

impl Scales {
    /// The number of K values that share a scale, `None` for a whole channel.
    pub fn group_size(&self) -> Option<usize> {
        match self {
            Scales::PerChannel { .. } => None,
            Scales::PerGroup { group_size, .. } | Scales::TwoLevel { group_size, .. } => Some(*group_size),
            Scales::Qqq { .. } => Some(QQQ_GROUP),
        }
    }
}

/// The only group size of QQQ's group form.
pub(crate) const QQQ_GROUP: usize = 128;

/// A weight matrix w\[N, K\] as integer codes and scales: what quantizers write and packers read.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizedWeight {
    n: usize,
    k: usize,
    bits: Bits,
    codes: Vec<i8>,
    scales: Scales,
}

impl QuantizedWeight {
    /// Checks and takes the parts: `codes` is \[N, K\] row-major, one code a byte.
    ///
    /// # Errors
    /// [`Error::Shape`] unless N ≥ 1 and K is a multiple of 32 (and of the group size), at most 65 536;
    /// [`Error::Length`] for an array of another size; [`Error::Value`] for a scale that is not finite or a code,
    /// zero point or integer scale out of range; [`Error::Unsupported`] for scales that the bits do not go with.
    pub fn new(n: usize, k: usize, bits: Bits, codes: Vec<i8>, scales: Scales) -> Result<Self> {
        check_shape(n, k)?;
        check_len("codes", n * k, codes.len())?;
        if bits == Bits::Four
            && let Some(&bad) = codes.iter().find(|c| !(0..=15).contains(*c))
        {
            return Err(Error::Value { what: "codes", expected: "4-bit codes in 0..=15", got: f32::from(bad) });
        }
        check_scales(n, k, bits, &codes, &scales)?;
        Ok(QuantizedWeight { n, k, bits, codes, scales })
    }

    /// Output features N.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bits of a code.
    pub fn bits(&self) -> Bits {
        self.bits
    }

    /// Codes \[N, K\], one a byte.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// How codes become numbers.
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

    /// Puts matrices of the same K, bits and kind of scales below each other, as one layer.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if there is none or they are of different kinds.
    pub fn concatenate(parts: &[&QuantizedWeight]) -> Result<Self> {
        let mismatch = |got: &str| Error::Unsupported {
            what: "parts",
            expected: "one or more weights of the same K, bits and scales",
            got: got.into(),
        };
        let (first, rest) = parts.split_first().ok_or_else(|| mismatch("none"))?;
        let mut all = (*first).clone();
        for part in rest {
            if part.k != all.k || part.bits != all.bits {
                return Err(mismatch("different K or bits"));
            }
            all.n += part.n;
            all.codes.extend_from_slice(&part.codes);
            append_scales(&mut all.scales, &part.scales).ok_or_else(|| mismatch("different scales"))?;
        }
        Ok(all)
    }

    fn select(&self, rows: &[usize]) -> Self {
        let take = |per_row: usize| move |row: &usize| row * per_row..(row + 1) * per_row;
        let groups = self.scales.group_size().map_or(1, |size| self.k / size);
        let f32s = |from: &[f32]| rows.iter().map(|&row| from[row]).collect();
        let f16s = |from: &[f16]| rows.iter().map(take(groups)).flat_map(|r| from[r].iter().copied()).collect();
        let u8s = |from: &[u8]| rows.iter().map(take(groups)).flat_map(|r| from[r].iter().copied()).collect();
        let scales = match &self.scales {
            Scales::PerChannel { scale } => Scales::PerChannel { scale: f32s(scale) },
            Scales::PerGroup { group_size, scale, offset } => Scales::PerGroup {
                group_size: *group_size,
                scale: f16s(scale),
                offset: match offset {
                    GroupOffset::Symmetric => GroupOffset::Symmetric,
                    GroupOffset::F16(offset) => GroupOffset::F16(f16s(offset)),
                    GroupOffset::ZeroPoint(zero) => GroupOffset::ZeroPoint(u8s(zero)),
                },
            },
            Scales::TwoLevel { group_size, group_scale, scale } => {
                Scales::TwoLevel { group_size: *group_size, group_scale: u8s(group_scale), scale: f32s(scale) }
            }
            Scales::Qqq { group_scale, scale } => Scales::Qqq { group_scale: f16s(group_scale), scale: f32s(scale) },
        };
        let codes = rows.iter().map(take(self.k)).flat_map(|r| self.codes[r].iter().copied()).collect();
        QuantizedWeight { n: rows.len(), k: self.k, bits: self.bits, codes, scales }
    }

    /// The number that stands for element (n, k), in f64 from the stored codes and scales: the definition.
    pub fn dequantize_at(&self, n: usize, k: usize) -> f64 {
        let code = f64::from(self.codes[n * self.k + k]);
        let centre = if self.bits == Bits::Four { 8.0 } else { 0.0 };
        let group = |size: usize| n * (self.k / size) + k / size;
        match &self.scales {
            Scales::PerChannel { scale } => f64::from(scale[n]) * (code - centre),
            Scales::PerGroup { group_size, scale, offset } => {
                let g = group(*group_size);
                let scale = scale[g].to_f64();
                match offset {
                    GroupOffset::Symmetric => scale * (code - centre),
                    GroupOffset::F16(offset) => scale * code + offset[g].to_f64(),
                    GroupOffset::ZeroPoint(zero) => scale * (code - f64::from(zero[g])),
                }
            }
            Scales::TwoLevel { group_size, group_scale, scale } => {
                f64::from(scale[n]) * f64::from(group_scale[group(*group_size)]) * (code - centre)
            }
            Scales::Qqq { group_scale, scale } => {
                let code = self.codes[n * self.k + k];
                f64::from(scale[n]) * f64::from(qqq_code(code, group_scale[group(QQQ_GROUP)]))
            }
        }
    }

    /// The whole matrix as f32 \[N, K\].
    pub fn dequantize(&self) -> Vec<f32> {
        (0..self.n * self.k).map(|i| self.dequantize_at(i / self.k, i % self.k) as f32).collect()
    }
}

/// QQQ's int8 weight: the code times its group scale in f16, rounded to the nearest integer, ties to even.
pub(crate) fn qqq_code(code: i8, group_scale: f16) -> i8 {
    let product = f16::from_f32((f32::from(code) - 8.0) * group_scale.to_f32());
    product.to_f32().round_ties_even() as i8
}

fn append_scales(all: &mut Scales, part: &Scales) -> Option<()> {
    match (all, part) {
        (Scales::PerChannel { scale: a }, Scales::PerChannel { scale: b }) => a.extend_from_slice(b),
        (
            Scales::PerGroup { group_size: ga, scale: a, offset: oa },
            Scales::PerGroup { group_size: gb, scale: b, offset: ob },
        ) if ga == gb => {
            match (oa, ob) {
                (GroupOffset::Symmetric, GroupOffset::Symmetric) => {}
                (GroupOffset::F16(oa), GroupOffset::F16(ob)) => oa.extend_from_slice(ob),
                (GroupOffset::ZeroPoint(oa), GroupOffset::ZeroPoint(ob)) => oa.extend_from_slice(ob),
                _ => return None,
            }
            a.extend_from_slice(b);
        }
        (
            Scales::TwoLevel { group_size: ga, group_scale: sa, scale: a },
            Scales::TwoLevel { group_size: gb, group_scale: sb, scale: b },
        ) if ga == gb => {
            sa.extend_from_slice(sb);
            a.extend_from_slice(b);
        }
        (Scales::Qqq { group_scale: sa, scale: a }, Scales::Qqq { group_scale: sb, scale: b }) => {
            sa.extend_from_slice(sb);
            a.extend_from_slice(b);
        }
        _ => return None,
    }
    Some(())
}
