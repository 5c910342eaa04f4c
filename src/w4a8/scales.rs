//! The numbers beside the codes of a quantized weight.

use super::format::{Format, GroupScale, Offset, QQQ_GROUP};
use crate::error::{Error, Result, check_len};
use half::f16;

/// Numbers of one kind, one for each group.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Half precision.
    F16(Vec<f16>),
    /// Whole numbers.
    U8(Vec<u8>),
}

impl From<Vec<f16>> for Values {
    fn from(values: Vec<f16>) -> Self {
        Values::F16(values)
    }
}

impl From<Vec<u8>> for Values {
    fn from(values: Vec<u8>) -> Self {
        Values::U8(values)
    }
}

impl Values {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Values::F16(values) => values.len(),
            Values::U8(values) => values.len(),
        }
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number `i`, exactly.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Values::F16(values) => values[i].to_f32(),
            Values::U8(values) => f32::from(values[i]),
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = f32> {
        (0..self.len()).map(|i| self.get(i))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Values::F16(values) => bytemuck::cast_slice(values),
            Values::U8(values) => values,
        }
    }

    /// Reads back [`Values::bytes`] of entries of so many bytes; none for 0.
    fn from_bytes(entry_bytes: usize, bytes: &[u8]) -> Option<Self> {
        match entry_bytes {
            0 => None,
            1 => Some(Values::U8(bytes.to_vec())),
            _ => Some(Values::F16(bytemuck::pod_collect_to_vec(bytes))),
        }
    }
}

/// The numbers that go with codes: which there are, and what they mean, is the [`Format`]'s. Arrays are row-major.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Scales {
    /// f32 \[N\].
    pub channel: Option<Vec<f32>>,
    /// \[N, K/group_size\]: f16, or whole numbers of 1..=16.
    pub group: Option<Values>,
    /// \[N, K/group_size\]: f16 offsets, or zero points of 0..=15.
    pub offset: Option<Values>,
}

impl Scales {
    /// A scale for each channel, f32 \[N\].
    pub fn per_channel(scale: Vec<f32>) -> Self {
        Scales { channel: Some(scale), ..Scales::default() }
    }

    /// A scale for each group, f16 \[N, K/group_size\], and offsets or zero points where there are some.
    pub fn per_group(scale: Vec<f16>, offset: Option<Values>) -> Self {
        Scales { channel: None, group: Some(scale.into()), offset }
    }

    /// A scale for each group over one for each channel.
    pub fn over_channel(group: impl Into<Values>, channel: Vec<f32>) -> Self {
        Scales { channel: Some(channel), group: Some(group.into()), offset: None }
    }

    /// The arrays' bytes in the order of the fields; empty where there is none.
    pub(super) fn bytes(&self) -> [&[u8]; 3] {
        [
            self.channel.as_deref().map_or(&[], bytemuck::cast_slice),
            self.group.as_ref().map_or(&[], Values::bytes),
            self.offset.as_ref().map_or(&[], Values::bytes),
        ]
    }

    /// Reads back [`Scales::bytes`] of a format.
    pub(super) fn from_bytes(format: Format, [channel, group, offset]: [&[u8]; 3]) -> Self {
        let [_, group_bytes, offset_bytes] = format.entry_bytes();
        Scales {
            channel: format.stays_integer().then(|| bytemuck::pod_collect_to_vec(channel)),
            group: Values::from_bytes(group_bytes, group),
            offset: Values::from_bytes(offset_bytes, offset),
        }
    }

    /// The numbers that element (n, k) falls under: those of the channel, the group and its offset; 1, 1 and 0 where there is
    /// none.
    pub(crate) fn at(&self, format: Format, row: usize, column: usize, k: usize) -> [f32; 3] {
        let at = format.group_size().map_or(0, |size| row * (k / size) + column / size);
        [
            self.channel.as_ref().map_or(1.0, |channel| channel[row]),
            self.group.as_ref().map_or(1.0, |group| group.get(at)),
            self.offset.as_ref().map_or(0.0, |offset| offset.get(at)),
        ]
    }

    /// Checks that the arrays of a format, and no others, are there, that they have its sizes, and that their numbers make
    /// sense for these codes.
    pub(super) fn check(&self, format: Format, n: usize, k: usize, codes: &[i8]) -> Result<()> {
        let names = ["scales.channel", "scales.group", "scales.offset"];
        let found = [self.channel.as_ref().map_or(0, |_| 4), entry_bytes(&self.group), entry_bytes(&self.offset)];
        for ((what, expected), got) in names.into_iter().zip(format.entry_bytes()).zip(found) {
            if expected != got {
                let (expected, got) = ("the array that the format has", format!("{got} bytes an entry"));
                return Err(Error::Unsupported { what, expected, got });
            }
        }
        for (((what, bytes), entry), per_row) in
            names.into_iter().zip(self.bytes()).zip(format.entry_bytes()).zip(format.row_entries(k))
        {
            if let Some(got) = bytes.len().checked_div(entry) {
                check_len(what, n * per_row, got)?;
            }
        }
        check_finite(names[0], self.channel.iter().flatten().copied())?;
        check_finite(names[1], self.group.iter().flat_map(Values::iter))?;
        check_finite(names[2], self.offset.iter().flat_map(Values::iter))?;
        if let (Some(largest), Some(scale)) = (format.largest_whole_scale(), &self.group) {
            check_range(names[1], "1..=16", scale, 1.0..=f32::from(largest))?;
        }
        if let (Offset::ZeroPoint, Some(points)) = (format.offset(), &self.offset) {
            check_range(names[2], "0..=15", points, 0.0..=15.0)?;
        }
        match (format.group_scale(), &self.group) {
            (Some(GroupScale::Qqq), Some(scale)) => check_products(codes, scale),
            _ => Ok(()),
        }
    }
}

fn entry_bytes(values: &Option<Values>) -> usize {
    match values {
        None => 0,
        Some(Values::U8(_)) => 1,
        Some(Values::F16(_)) => 2,
    }
}

fn check_finite(what: &'static str, mut values: impl Iterator<Item = f32>) -> Result<()> {
    match values.find(|v| !v.is_finite()) {
        Some(got) => Err(Error::Value { what, expected: "finite numbers", got }),
        None => Ok(()),
    }
}

fn check_range(
    what: &'static str,
    expected: &'static str,
    values: &Values,
    range: std::ops::RangeInclusive<f32>,
) -> Result<()> {
    match values.iter().find(|v| !range.contains(v)) {
        Some(got) => Err(Error::Value { what, expected, got }),
        None => Ok(()),
    }
}

/// QQQ's kernel has no clamp: a product past int8 would wrap.
fn check_products(codes: &[i8], scale: &Values) -> Result<()> {
    for (codes, scale) in codes.chunks_exact(QQQ_GROUP).zip(scale.iter()) {
        let low = codes.iter().min().map_or(0.0, |&c| (f32::from(c) - 8.0) * scale);
        let high = codes.iter().max().map_or(0.0, |&c| (f32::from(c) - 8.0) * scale);
        if let Some(got) = [low, high].into_iter().find(|v| v.abs() >= 127.5) {
            return Err(Error::Value { what: "codes", expected: "|(code − 8) · group scale| < 127.5", got });
        }
    }
    Ok(())
}
