//! Weight formats as numbers.

use crate::arguments::{borrow, give};
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::w4a8::{Bits, Format, Group, GroupScale, Offset};

/// What the scale of a group is: one of the `MORAY_GROUP_SCALE_..` constants.
pub type MorayGroupScale = u32;

/// f16, and no scale of the channel.
pub const MORAY_GROUP_SCALE_F16: MorayGroupScale = 1;
/// A whole number of 1 to 16 over the channel's scale.
pub const MORAY_GROUP_SCALE_INTEGER: MorayGroupScale = 2;
/// QQQ's f16 over the channel's scale, groups of 128.
pub const MORAY_GROUP_SCALE_QQQ: MorayGroupScale = 3;

/// What a group has besides its scale: one of the `MORAY_OFFSET_..` constants.
pub type MorayOffset = u32;

/// Nothing: codes of 4 bits lie about 8, those of 8 bits about 0.
pub const MORAY_OFFSET_NONE: MorayOffset = 0;
/// f16, added after scaling.
pub const MORAY_OFFSET_F16: MorayOffset = 1;
/// 0 to 15, subtracted from the codes; 4 bits only.
pub const MORAY_OFFSET_ZERO_POINT: MorayOffset = 2;

/// How the codes of a weight matrix w[N, K] become numbers. With g = k / group_size:
///
/// - no groups: w = channel[n] * (code - centre), centre 8 for 4 bits and 0 for 8
/// - group scales in f16: w = group[n, g] * (code - centre), group * (code - zero_point) or group * code + offset
/// - whole-numbered group scales: w = channel[n] * group[n, g] * (code - 8)
/// - QQQ's: w = channel[n] * round((code - 8) * group[n, g])
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct MorayFormat {
    /// Of a code: 4 or 8.
    pub bits: u32,
    /// K values that share a group's scale: 32, 64 or 128; 0 for no groups, which leaves the next two without meaning, and 0.
    pub group_size: u32,
    /// What the scale of a group is.
    pub group_scale: MorayGroupScale,
    /// What a group has besides.
    pub offset: MorayOffset,
}

/// What a constant names.
pub(crate) fn offset(what: &'static str, constant: MorayOffset) -> Outcome<Offset> {
    match constant {
        MORAY_OFFSET_NONE => Ok(Offset::None),
        MORAY_OFFSET_F16 => Ok(Offset::F16),
        MORAY_OFFSET_ZERO_POINT => Ok(Offset::ZeroPoint),
        other => Err(Fault::unsupported(what, "a MORAY_OFFSET_ constant", other)),
    }
}

impl MorayFormat {
    /// The format that the numbers name; whether its parts go together, [`Format::check`] says.
    pub(crate) fn read(self) -> Outcome<Format> {
        let bits = match self.bits {
            4 => Bits::Four,
            8 => Bits::Eight,
            other => return Err(Fault::unsupported("format.bits", "4 or 8", other)),
        };
        let offset = offset("format.offset", self.offset)?;
        let scale = match (self.group_size, self.group_scale) {
            (0, 0) if offset == Offset::None => return Ok(Format { bits, group: None }),
            (0, _) => {
                let got = format!("scales {} and offsets {}", self.group_scale, self.offset);
                return Err(Fault::unsupported("format", "no group scales and offsets without groups", got));
            }
            (_, MORAY_GROUP_SCALE_F16) => GroupScale::F16,
            (_, MORAY_GROUP_SCALE_INTEGER) => GroupScale::Integer,
            (_, MORAY_GROUP_SCALE_QQQ) => GroupScale::Qqq,
            (_, other) => {
                return Err(Fault::unsupported("format.group_scale", "a MORAY_GROUP_SCALE_ constant", other));
            }
        };
        Ok(Format { bits, group: Some(Group { size: self.group_size as usize, scale, offset }) })
    }

    /// The numbers of a format.
    pub(crate) fn of(format: Format) -> Self {
        MorayFormat {
            bits: if format.bits == Bits::Four { 4 } else { 8 },
            group_size: format.group_size().map_or(0, |size| size as u32),
            group_scale: format.group_scale().map_or(0, |scale| scale as u32),
            offset: format.offset() as u32,
        }
    }
}

/// Bytes of each section of a packed weight; 0 for those that its format does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct MoraySectionBytes {
    /// Packed codes.
    pub codes: usize,
    /// f32: the channels' scales.
    pub channel: usize,
    /// f16 or u8: the groups' scales.
    pub group: usize,
    /// f16 or u8: the groups' offsets or zero points.
    pub offset: usize,
}

/// The version of the packed layout, to be stored with packed files.
pub const MORAY_LAYOUT_VERSION: u32 = 1;

/// Says how many bytes each section of a packed weight w[N, K] has.
///
/// Fails with `MORAY_STATUS_SHAPE` unless N is at least 1 and K a multiple of 32 (and of the group size) up to 65536, with
/// `MORAY_STATUS_UNSUPPORTED` for a format of parts that do not go together.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_section_bytes(
    format: *const MorayFormat,
    n: usize,
    k: usize,
    out: *mut MoraySectionBytes,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let format = unsafe { borrow("format", format)? }.read()?;
        let bytes = format.section_bytes(n, k)?;
        let [codes, channel, group, offset] = bytes.into_array();
        // SAFETY: the caller's.
        unsafe { give("out", out, MoraySectionBytes { codes, channel, group, offset }) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_version_matches_the_library() {
        assert_eq!(MORAY_LAYOUT_VERSION, moray::w4a8::LAYOUT_VERSION);
    }

    #[test]
    fn formats_come_back_from_their_numbers() {
        let grouped = |offset| Format::per_group(64, offset);
        for format in [
            Format::per_channel(),
            Format::w8(),
            grouped(Offset::None),
            grouped(Offset::F16),
            grouped(Offset::ZeroPoint),
            grouped(Offset::F16).with_bits(Bits::Eight),
            Format::two_level(32),
            Format::qqq(),
        ] {
            assert_eq!(MorayFormat::of(format).read().unwrap(), format);
        }
    }
}
