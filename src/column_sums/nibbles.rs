//! Codes of 4 bits as rows of memory hold them, and the numbers beside them.

use crate::error::{Error, Result};
use crate::w4a8::{Bits, Format, GroupScale, Offset, QuantizedWeight};
use half::f16;

/// Values in 16 bytes of codes.
pub(crate) const SEGMENT: usize = 32;

/// Bytes that may be read past a row's end: scales are read 16 bytes at a time.
pub(crate) const SLACK: usize = 64;

/// Where the scales of a row differ in form: one of the channel, or those of groups with what they have besides.
pub(crate) const FORMS: [Option<Offset>; 4] = [None, Some(Offset::None), Some(Offset::F16), Some(Offset::ZeroPoint)];

pub(crate) fn unsupported(what: &'static str, got: &str) -> Error {
    Error::Unsupported { what, expected: "4-bit codes with per-channel or per-group scales", got: got.into() }
}

/// What groups have besides a scale (none for a scale of the channel), and their size (K then).
pub(crate) fn form_of(what: &'static str, format: Format, k: usize) -> Result<(Option<Offset>, usize)> {
    match (format.bits, format.group) {
        (Bits::Eight, _) => Err(unsupported(what, "8-bit codes")),
        (Bits::Four, None) => Ok((None, k)),
        (Bits::Four, Some(group)) => match group.scale {
            GroupScale::F16 => Ok((Some(group.offset), group.size)),
            scale => Err(unsupported(what, scale.name())),
        },
    }
}

/// What [`form_of`] takes apart.
pub(crate) fn format_of(offset: Option<Offset>, group_size: usize) -> Format {
    offset.map_or(Format::per_channel(), |offset| Format::per_group(group_size, offset))
}

/// The numbers beside the codes of one group of a row.
pub(crate) enum RowScale {
    Channel(f32),
    /// The bits of the f16 scale, and those of an f16 offset or a zero point.
    Group([u16; 2]),
}

pub(crate) fn scale_at(w: &QuantizedWeight, row: usize, group: usize) -> RowScale {
    let size = w.format().group_size().unwrap_or(w.k());
    let [channel, scale, offset] = w.scales().at(w.format(), row, group * size, w.k());
    let bits = |v: f32| f16::from_f32(v).to_bits();
    match w.format().offset() {
        _ if w.format().group.is_none() => RowScale::Channel(channel),
        Offset::None => RowScale::Group([bits(scale), 0]),
        Offset::F16 => RowScale::Group([bits(scale), bits(offset)]),
        Offset::ZeroPoint => RowScale::Group([bits(scale), offset as u16]),
    }
}

pub(crate) fn pack_codes(code: impl Fn(usize) -> i8, bytes: &mut [u8]) {
    for (segment, bytes) in bytes.chunks_exact_mut(16).enumerate() {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = segment * SEGMENT + i;
            *byte = code(at) as u8 & 15 | (code(at + 16) as u8) << 4;
        }
    }
}

pub(crate) fn code_at(codes: &[u8], k: usize) -> u8 {
    let byte = codes[k / SEGMENT * 16 + k % 16];
    if k % SEGMENT < 16 { byte & 15 } else { byte >> 4 }
}

pub(crate) fn dequantize(offset: Option<Offset>, code: u8, scale: f32, second: u16) -> f32 {
    match offset {
        None | Some(Offset::None) => scale * (f32::from(code) - 8.0),
        // products and sums of two f16 are exact in f64
        Some(Offset::F16) => (f64::from(scale) * f64::from(code) + f16::from_bits(second).to_f64()) as f32,
        Some(Offset::ZeroPoint) => scale * (f32::from(code) - f32::from(second)),
    }
}
