//! How codes become numbers, as data.

use super::sections::Sections;
use super::weight::check_shape;
use crate::error::{Error, Result, product};

/// Bits of a stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bits {
    /// Codes 0..=15.
    Four,
    /// Codes −128..=127.
    Eight,
}

/// What the scale of a group is, and so where it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GroupScale {
    /// f16, and no scale of the channel: groups are combined in f32.
    F16 = 1,
    /// A whole number of 1..=16 over the channel's scale: integers up to the epilogue.
    Integer = 2,
    /// QQQ's f16 over the channel's scale: it takes the code to an int8, integers up to the epilogue.
    Qqq = 3,
}

impl GroupScale {
    /// In words.
    pub(crate) fn name(self) -> &'static str {
        match self {
            GroupScale::F16 => "f16 group scales",
            GroupScale::Integer => "two-level scales",
            GroupScale::Qqq => "qqq's group scales",
        }
    }
}

/// What a group has besides its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Offset {
    /// Nothing: codes of 4 bits lie about 8, those of 8 bits about 0.
    None = 0,
    /// f16, added after scaling.
    F16 = 1,
    /// 0..=15, subtracted from the codes; 4 bits only.
    ZeroPoint = 2,
}

/// The groups of K that a row is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Group {
    /// Values that share a scale: 32, 64 or 128.
    pub size: usize,
    /// The kind of scale.
    pub scale: GroupScale,
    /// What is added or subtracted; with [`GroupScale::F16`] only.
    pub offset: Offset,
}

/// How the codes of a weight matrix become numbers. Without groups, or where their scales are over the channel's, a row has
/// an f32 scale of its own.
///
/// | | w\[n, k\] with g = k / size |
/// |---|---|
/// | no groups | channel\[n\] · (code − centre), centre 8 for 4 bits and 0 for 8 |
/// | [`GroupScale::F16`] | group\[n, g\] · (code − centre), group · (code − zero_point) or group · code + offset |
/// | [`GroupScale::Integer`] | channel\[n\] · group\[n, g\] · (code − 8) |
/// | [`GroupScale::Qqq`] | channel\[n\] · rne((code − 8) · group\[n, g\]), the exact product rounded once |
///
/// # Example
/// ```
/// use moray::w4a8::{Format, Offset};
///
/// let format = Format::per_group(64, Offset::F16);
/// assert_eq!(format.group_size(), Some(64));
/// assert!(!format.stays_integer());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Format {
    /// Of a code.
    pub bits: Bits,
    /// The groups, if there are any.
    pub group: Option<Group>,
}

impl Format {
    /// int4, one f32 scale for each output channel.
    pub const fn per_channel() -> Self {
        Format { bits: Bits::Four, group: None }
    }

    /// int8, one f32 scale for each output channel.
    pub const fn w8() -> Self {
        Format { bits: Bits::Eight, group: None }
    }

    /// int4, one f16 scale for each group of `size` along K.
    pub const fn per_group(size: usize, offset: Offset) -> Self {
        Format { bits: Bits::Four, group: Some(Group { size, scale: GroupScale::F16, offset }) }
    }

    /// int4, a whole-numbered scale for each group of `size` over an f32 scale for each channel.
    pub const fn two_level(size: usize) -> Self {
        Format { bits: Bits::Four, group: Some(Group { size, scale: GroupScale::Integer, offset: Offset::None }) }
    }

    /// QQQ's own group form: groups of 128.
    pub const fn qqq() -> Self {
        let group = Group { size: QQQ_GROUP, scale: GroupScale::Qqq, offset: Offset::None };
        Format { bits: Bits::Four, group: Some(group) }
    }

    /// The same with codes of other bits.
    pub const fn with_bits(self, bits: Bits) -> Self {
        Format { bits, ..self }
    }

    /// K values that share a scale, `None` for a whole channel.
    pub fn group_size(&self) -> Option<usize> {
        self.group.map(|group| group.size)
    }

    /// The kind of the groups' scales.
    pub fn group_scale(&self) -> Option<GroupScale> {
        self.group.map(|group| group.scale)
    }

    /// The K values whose products are summed as integers: QQQ's scales are inside its int8 weights.
    pub(crate) fn integer_group(&self) -> Option<usize> {
        self.group.filter(|group| group.scale != GroupScale::Qqq).map(|group| group.size)
    }

    /// What groups have besides.
    pub fn offset(&self) -> Offset {
        self.group.map_or(Offset::None, |group| group.offset)
    }

    /// Says whether sums stay integers until the scale of the channel, which then is there: K can be split and every bit
    /// stays.
    pub fn stays_integer(&self) -> bool {
        self.group_scale() != Some(GroupScale::F16)
    }

    /// The code that stands for 0 where groups say nothing else.
    pub(crate) fn centre(&self) -> i32 {
        if self.bits == Bits::Four { 8 } else { 0 }
    }

    /// Groups in a row, 0 without.
    pub fn groups(&self, k: usize) -> usize {
        self.group.map_or(0, |group| k / group.size)
    }

    /// Checks that a matrix of N × K can have this format.
    ///
    /// # Errors
    /// [`Error::Shape`] for a size that it does not take, [`Error::Unsupported`] for what does not go together: zero points
    /// and scales over the channel's with 8 bits, offsets with scales over the channel's.
    pub fn check(&self, n: usize, k: usize) -> Result<()> {
        check_shape(n, k)?;
        let Some(group) = self.group else { return Ok(()) };
        if ![32, 64, 128].contains(&group.size) || (group.scale == GroupScale::Qqq && group.size != QQQ_GROUP) {
            let expected = "32, 64 or 128 (QQQ 128)";
            return Err(Error::Shape { what: "group_size", expected, got: group.size });
        }
        if k % group.size != 0 {
            return Err(Error::Shape { what: "k", expected: "a multiple of the group size", got: k });
        }
        let refused = match (self.bits, group.scale, group.offset) {
            (Bits::Eight, GroupScale::Integer | GroupScale::Qqq, _) => Some("8 bits"),
            (Bits::Eight, _, Offset::ZeroPoint) => Some("zero points with 8 bits"),
            (_, GroupScale::Integer | GroupScale::Qqq, Offset::F16 | Offset::ZeroPoint) => Some("offsets"),
            _ => None,
        };
        let expected =
            "f16 group scales with zero points (4 bits) or offsets, or 4 bits with scales over the channel's";
        refused.map_or(Ok(()), |got| Err(Error::Unsupported { what: "format", expected, got: got.into() }))
    }

    /// The largest group scale, where they are whole numbers from 1 up.
    pub(crate) fn largest_whole_scale(&self) -> Option<u8> {
        (self.group_scale() == Some(GroupScale::Integer)).then_some(16)
    }

    /// Bytes of one entry of each array of scales: 0 for those that are not there.
    pub(crate) fn entry_bytes(&self) -> [usize; 3] {
        let group = match self.group_scale() {
            None => 0,
            Some(GroupScale::Integer) => 1,
            Some(GroupScale::F16 | GroupScale::Qqq) => 2,
        };
        let offset = match self.offset() {
            Offset::None => 0,
            Offset::F16 => 2,
            Offset::ZeroPoint => 1,
        };
        [if self.stays_integer() { 4 } else { 0 }, group, offset]
    }

    /// Entries that a row has in each array of scales.
    pub(crate) fn row_entries(&self, k: usize) -> [usize; 3] {
        [1, self.groups(k), self.groups(k)]
    }

    /// Bytes of the packed sections of an N × K matrix, see [`super::PackedWeight`]; 0 for those that are not there.
    ///
    /// # Errors
    /// As [`Format::check`]; [`Error::Shape`] if they are more than can be counted.
    pub fn section_bytes(&self, n: usize, k: usize) -> Result<Sections<usize>> {
        self.check(n, k)?;
        let tiles = n.div_ceil(super::TILE_N);
        let codes = product("n", &[tiles, super::pack::k_tiles(k, self.bits), super::TILE_BYTES])?;
        let (bytes, entries) = (self.entry_bytes(), self.row_entries(k));
        let scales = |i: usize| product("n", &[tiles, super::TILE_N, bytes[i], entries[i]]);
        Ok(Sections { codes, channel: scales(0)?, group: scales(1)?, offset: scales(2)? })
    }

    /// The exact integer that a code stands for before the scale that is rounded: [`Format::scale`] multiplies it. `scales` are those
    /// it falls under: of the channel, of the group, and the offset.
    pub(crate) fn integer(&self, code: i8, [_, group, offset]: [f32; 3]) -> i32 {
        let centred = i32::from(code) - self.centre();
        match (self.group_scale(), self.offset()) {
            (Some(GroupScale::Integer), _) => centred * group as i32,
            (Some(GroupScale::Qqq), _) => i32::from(qqq_code(code, half::f16::from_f32(group))),
            (_, Offset::None) => centred,
            (_, Offset::ZeroPoint) => i32::from(code) - offset as i32,
            (_, Offset::F16) => i32::from(code),
        }
    }

    /// What multiplies the integers: the scale of the channel, or that of a group in f16.
    pub(crate) fn scale(&self, [channel, group, _]: [f32; 3]) -> f32 {
        if self.stays_integer() { channel } else { group }
    }

    /// What is added to the products, where there is such a thing.
    pub(crate) fn added(&self, [_, _, offset]: [f32; 3]) -> Option<f32> {
        (self.offset() == Offset::F16).then_some(offset)
    }

    /// The number that a code stands for: f32, the product and the sum rounded.
    pub(crate) fn dequantize(&self, code: i8, scales: [f32; 3]) -> f32 {
        let product = self.scale(scales) * self.integer(code, scales) as f32;
        self.added(scales).map_or(product, |offset| product + offset)
    }
}

/// The only group size of QQQ's group form.
pub(crate) const QQQ_GROUP: usize = 128;

/// QQQ's int8 weight: the code times its group scale, rounded once to the nearest integer, ties to even.
pub(crate) fn qqq_code(code: i8, group_scale: half::f16) -> i8 {
    // 4 bits times the 11 of an f16: the product in f32 is exact
    ((f32::from(code) - 8.0) * group_scale.to_f32()).round_ties_even() as i8
}
