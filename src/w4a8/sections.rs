//! The parts that a packed weight is made of.

/// One thing for each section of a packed weight: its bytes, its size, its address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Sections<T> {
    /// Packed tiles \[N/16\]\[K/tile_k\]\[512\].
    pub codes: T,
    /// f32 \[N/16\]\[16\]: the channels' scales.
    pub channel: T,
    /// f16 or u8 \[N/16\]\[groups\]\[16\]: the groups' scales.
    pub group: T,
    /// f16 or u8 \[N/16\]\[groups\]\[16\]: the groups' offsets or zero points.
    pub offset: T,
}

impl<T> Sections<T> {
    /// The names, for messages.
    pub(crate) const NAMES: Sections<&'static str> =
        Sections { codes: "codes", channel: "channel", group: "group", offset: "offset" };

    /// Turns each into something else.
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Sections<U> {
        Sections { codes: f(self.codes), channel: f(self.channel), group: f(self.group), offset: f(self.offset) }
    }

    /// Turns each into something else, or stops at the first error.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn try_map<U, E>(self, mut f: impl FnMut(T) -> Result<U, E>) -> Result<Sections<U>, E> {
        Ok(Sections {
            codes: f(self.codes)?,
            channel: f(self.channel)?,
            group: f(self.group)?,
            offset: f(self.offset)?,
        })
    }

    /// Puts two side by side.
    pub fn zip<U>(self, other: Sections<U>) -> Sections<(T, U)> {
        Sections {
            codes: (self.codes, other.codes),
            channel: (self.channel, other.channel),
            group: (self.group, other.group),
            offset: (self.offset, other.offset),
        }
    }

    /// Borrows each.
    pub fn as_ref(&self) -> Sections<&T> {
        Sections { codes: &self.codes, channel: &self.channel, group: &self.group, offset: &self.offset }
    }

    /// Borrows each to write to it.
    pub fn as_mut(&mut self) -> Sections<&mut T> {
        Sections {
            codes: &mut self.codes,
            channel: &mut self.channel,
            group: &mut self.group,
            offset: &mut self.offset,
        }
    }

    /// In the order of the fields.
    pub fn into_array(self) -> [T; 4] {
        [self.codes, self.channel, self.group, self.offset]
    }
}
