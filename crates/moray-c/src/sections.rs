//! The parts of a weight, as memory.

use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::status::Outcome;
use moray::w4a8::{Format, QuantizedWeight, Scales, Sections, Values};

/// The parts of a weight that are read: of a packed one its sections, of a plain one codes int8 [N, K], channel f32 [N], group
/// f16 or u8 [N, K / group_size] and offset f16 or u8 [N, K / group_size], row-major. Null for those that the format does not have.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MoraySections {
    /// The codes.
    pub codes: MorayBytes,
    /// The channels' scales.
    pub channel: MorayBytes,
    /// The groups' scales.
    pub group: MorayBytes,
    /// The groups' offsets or zero points.
    pub offset: MorayBytes,
}

/// Memory for the sections of a packed weight, of `moray_section_bytes`; null for those that the format does not have.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MoraySectionsMut {
    /// The codes.
    pub codes: MorayBytesMut,
    /// The channels' scales.
    pub channel: MorayBytesMut,
    /// The groups' scales.
    pub group: MorayBytesMut,
    /// The groups' offsets or zero points.
    pub offset: MorayBytesMut,
}

const NAMES: [&str; 4] = ["codes", "channel", "group", "offset"];

impl MoraySections {
    /// The parts by name.
    pub(crate) fn named(&self) -> [(&'static str, MorayBytes); 4] {
        let [codes, channel, group, offset] = NAMES;
        [(codes, self.codes), (channel, self.channel), (group, self.group), (offset, self.offset)]
    }

    /// Borrows the bytes of packed sections.
    ///
    /// # Safety
    /// As [`MorayBytes::read`], for each.
    pub(crate) unsafe fn packed<'a>(&self) -> Outcome<Sections<&'a [u8]>> {
        let names = Sections { codes: NAMES[0], channel: NAMES[1], group: NAMES[2], offset: NAMES[3] };
        let parts = Sections { codes: self.codes, channel: self.channel, group: self.group, offset: self.offset };
        // SAFETY: the caller's.
        parts.zip(names).try_map(|(bytes, what)| unsafe { bytes.read(what) })
    }

    /// Copies the arrays of a plain weight of a format.
    ///
    /// # Safety
    /// As [`MorayBytes::read`], for each.
    pub(crate) unsafe fn plain(&self, format: Format, n: usize, k: usize) -> Outcome<QuantizedWeight> {
        // SAFETY: the caller's.
        let codes = unsafe { self.codes.read::<i8>(NAMES[0])? };
        // SAFETY: the caller's.
        let channel = unsafe { self.channel.optional::<f32>(NAMES[1])? };
        let values = |bytes: MorayBytes, what, whole: bool| -> Outcome<Option<Values>> {
            if bytes.is_none() {
                return Ok(None);
            }
            // SAFETY: the caller's.
            Ok(Some(match whole {
                // SAFETY: the caller's.
                true => unsafe { bytes.read::<u8>(what)? }.to_vec().into(),
                // SAFETY: the caller's.
                false => unsafe { bytes.read::<half::f16>(what)? }.to_vec().into(),
            }))
        };
        let group_is_whole = format.group_scale() == Some(moray::w4a8::GroupScale::Integer);
        let offset_is_whole = format.offset() == moray::w4a8::Offset::ZeroPoint;
        let scales = Scales {
            channel: channel.map(<[f32]>::to_vec),
            group: values(self.group, NAMES[2], group_is_whole)?,
            offset: values(self.offset, NAMES[3], offset_is_whole)?,
        };
        Ok(QuantizedWeight::new(n, k, format, codes.to_vec(), scales)?)
    }

    /// The arrays of a plain weight.
    pub(crate) fn of(weight: &QuantizedWeight) -> Self {
        let scales = weight.scales();
        let values = |values: &Option<Values>| match values {
            None => MorayBytes::NONE,
            Some(Values::F16(values)) => MorayBytes::of(values),
            Some(Values::U8(values)) => MorayBytes::of(values),
        };
        MoraySections {
            codes: MorayBytes::of(weight.codes()),
            channel: scales.channel.as_deref().map_or(MorayBytes::NONE, MorayBytes::of),
            group: values(&scales.group),
            offset: values(&scales.offset),
        }
    }
}

impl MoraySectionsMut {
    /// The parts by name.
    pub(crate) fn named(&self) -> [(&'static str, MorayBytesMut); 4] {
        let [codes, channel, group, offset] = NAMES;
        [(codes, self.codes), (channel, self.channel), (group, self.group), (offset, self.offset)]
    }

    /// Borrows the memory of each section.
    ///
    /// # Safety
    /// As [`MorayBytesMut::write`], for each.
    pub(crate) unsafe fn packed<'a>(&self) -> Outcome<Sections<&'a mut [u8]>> {
        let parts = self.named();
        for (i, (what, part)) in parts.into_iter().enumerate() {
            let before = parts[..i].iter().map(|(what, part)| (*what, part.as_read().range()));
            part.check_apart(what, &before.collect::<Vec<_>>())?;
        }
        let MoraySectionsMut { codes, channel, group, offset } = *self;
        // SAFETY: the caller's, and checked to be apart.
        unsafe {
            Ok(Sections {
                codes: codes.write(NAMES[0])?,
                channel: channel.write(NAMES[1])?,
                group: group.write(NAMES[2])?,
                offset: offset.write(NAMES[3])?,
            })
        }
    }
}
