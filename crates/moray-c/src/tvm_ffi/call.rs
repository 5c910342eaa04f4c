//! The arguments of a call, taken one after another.

use super::tensor::{CPU, Rows, Strided};
use super::value::TvmFfiAny;
use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::format::{MorayFormat, MorayOffset};
use crate::status::{Fault, Outcome};
use crate::{MORAY_ACT_SCALES_FINE, MORAY_ACT_SCALES_TOKEN, MorayActScales};
use crate::{MORAY_GROUP_SCALE_F16, MORAY_GROUP_SCALE_INTEGER, MORAY_GROUP_SCALE_QQQ};
use crate::{MORAY_OFFSET_F16, MORAY_OFFSET_NONE, MORAY_OFFSET_ZERO_POINT, MoraySections, MoraySectionsMut};

/// What is left of a call's arguments.
pub(super) struct Arguments<'a> {
    function: &'static str,
    /// The kind of device that tensors are of.
    device_type: i32,
    /// Which of them, that of the first tensor there.
    device_id: Option<usize>,
    given: usize,
    left: std::slice::Iter<'a, TvmFfiAny>,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(function: &'static str, values: &'a [TvmFfiAny]) -> Self {
        Arguments { function, device_type: CPU, device_id: None, given: values.len(), left: values.iter() }
    }

    /// Takes tensors of another kind of device from here on.
    pub(super) fn expect_device(&mut self, device_type: i32) {
        self.device_type = device_type;
        self.device_id = None;
    }

    /// Checks that a tensor is of the same device as those before it; the CPU is one, whatever its number.
    fn check_device(&mut self, what: &'static str, got: usize) -> Outcome {
        let expected = *self.device_id.get_or_insert(got);
        match self.device_type == CPU || got == expected {
            true => Ok(()),
            false => {
                let (expected, got) = (format!("memory of CUDA device {expected}"), format!("of device {got}"));
                Err(Fault::Argument { what, expected, got })
            }
        }
    }

    fn next(&mut self, what: &'static str) -> Outcome<&'a TvmFfiAny> {
        let got = format!("{} arguments to {}", self.given, self.function);
        self.left.next().ok_or_else(|| Fault::unsupported(what, "an argument", got))
    }

    /// Whether the next argument is None, which is taken then.
    fn is_left_out(&mut self) -> bool {
        let is_none = self.left.as_slice().first().is_some_and(TvmFfiAny::is_none);
        if is_none {
            self.left.next();
        }
        is_none
    }

    /// Checks that there are no more.
    pub(super) fn end(&mut self) -> Outcome {
        match self.left.len() {
            0 => Ok(()),
            more => {
                let (expected, got) = (format!("{} arguments", self.given - more), self.given.to_string());
                Err(Fault::Argument { what: self.function, expected, got })
            }
        }
    }

    pub(super) fn size(&mut self, what: &'static str) -> Outcome<usize> {
        let got = self.next(what)?.int(what)?;
        usize::try_from(got).map_err(|_| Fault::unsupported(what, "a size from 0", got))
    }

    pub(super) fn number(&mut self, what: &'static str) -> Outcome<f64> {
        self.next(what)?.float(what)
    }

    /// The number of a name.
    ///
    /// # Safety
    /// As [`TvmFfiAny::text`].
    pub(super) unsafe fn name(&mut self, what: &'static str, names: &[(&'static str, u32)]) -> Outcome<u32> {
        // SAFETY: the caller's.
        let got = unsafe { self.next(what)?.text(what)? };
        let found = names.iter().find(|(name, _)| *name == got);
        found.map(|&(_, number)| number).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
            Fault::Argument { what, expected: format!("one of {}", names.join(", ")), got }
        })
    }

    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn tensor(&mut self, what: &'static str) -> Outcome<Rows> {
        // SAFETY: the caller's.
        let rows = unsafe { self.next(what)?.tensor(what)?.rows(what, self.device_type)? };
        self.check_device(what, rows.device_id)?;
        Ok(rows)
    }

    /// A tensor with strides.
    ///
    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn strided(&mut self, what: &'static str) -> Outcome<Strided> {
        // SAFETY: the caller's.
        let strided = unsafe { self.next(what)?.tensor(what)?.strided(what, self.device_type)? };
        self.check_device(what, strided.device_id)?;
        Ok(strided)
    }

    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn optional(&mut self, what: &'static str) -> Outcome<Option<Rows>> {
        if self.is_left_out() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        unsafe { self.tensor(what) }.map(Some)
    }

    /// As [`Arguments::optional`], with strides.
    ///
    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn optional_strided(&mut self, what: &'static str) -> Outcome<Option<Strided>> {
        if self.is_left_out() {
            return Ok(None);
        }
        // SAFETY: the caller's.
        unsafe { self.strided(what) }.map(Some)
    }

    /// How finely activations are scaled: "token" or "fine".
    ///
    /// # Safety
    /// As [`TvmFfiAny::text`].
    pub(super) unsafe fn act_scales(&mut self) -> Outcome<MorayActScales> {
        let names = [("token", MORAY_ACT_SCALES_TOKEN), ("fine", MORAY_ACT_SCALES_FINE)];
        // SAFETY: the caller's.
        unsafe { self.name("act_scales", &names) }
    }

    /// Bits, group size, group scale ("none", "f16", "integer", "qqq") and offset ("none", "f16", "zero_point").
    ///
    /// # Safety
    /// As [`TvmFfiAny::text`].
    pub(super) unsafe fn format(&mut self) -> Outcome<MorayFormat> {
        let (bits, group_size) = (self.size("bits")?, self.size("group_size")?);
        let narrow =
            |what, size: usize| u32::try_from(size).map_err(|_| Fault::unsupported(what, "a small number", size));
        let scales = [
            ("none", 0),
            ("f16", MORAY_GROUP_SCALE_F16),
            ("integer", MORAY_GROUP_SCALE_INTEGER),
            ("qqq", MORAY_GROUP_SCALE_QQQ),
        ];
        Ok(MorayFormat {
            bits: narrow("bits", bits)?,
            group_size: narrow("group_size", group_size)?,
            // SAFETY: the caller's.
            group_scale: unsafe { self.name("group_scale", &scales)? },
            // SAFETY: the caller's.
            offset: unsafe { self.offset()? },
        })
    }

    /// What groups have besides a scale: "none", "f16" or "zero_point".
    ///
    /// # Safety
    /// As [`TvmFfiAny::text`].
    pub(super) unsafe fn offset(&mut self) -> Outcome<MorayOffset> {
        let offsets = [("none", MORAY_OFFSET_NONE), ("f16", MORAY_OFFSET_F16), ("zero_point", MORAY_OFFSET_ZERO_POINT)];
        // SAFETY: the caller's.
        unsafe { self.name("offset_kind", &offsets) }
    }

    /// The four sections of a packed weight, u8; None for those that its format has not.
    ///
    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    unsafe fn parts(&mut self) -> Outcome<[Option<Rows>; 4]> {
        let mut parts = [const { None }; 4];
        for (part, what) in parts.iter_mut().zip(["codes", "channel", "group", "offset"]) {
            // SAFETY: the caller's.
            *part = unsafe { self.optional(what)? }.map(|rows| rows.of(what, super::tensor::U8)).transpose()?;
        }
        Ok(parts)
    }

    /// The sections, to be read.
    ///
    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn sections(&mut self) -> Outcome<MoraySections> {
        // SAFETY: the caller's.
        let parts = unsafe { self.parts()? };
        let [codes, channel, group, offset] = parts.map(|part| part.map_or(MorayBytes::NONE, |rows| rows.read()));
        Ok(MoraySections { codes, channel, group, offset })
    }

    /// The sections, to be written.
    ///
    /// # Safety
    /// As [`TvmFfiAny::tensor`].
    pub(super) unsafe fn sections_mut(&mut self) -> Outcome<MoraySectionsMut> {
        let none = MorayBytesMut { data: std::ptr::null_mut(), bytes: 0 };
        // SAFETY: the caller's.
        let parts = unsafe { self.parts()? };
        let [codes, channel, group, offset] = parts.map(|part| part.map_or(none, |rows| rows.write()));
        Ok(MoraySectionsMut { codes, channel, group, offset })
    }
}
