//! A packed weight on the device.

use super::raw::check_weight;
use crate::device::{Address, Arguments, Device, Memory};
use crate::error::Result;
use crate::w4a8::{Format, PackedView, Sections};

/// A packed weight matrix in device memory: its tiles and scales as they are on the host.
#[derive(Debug, Clone)]
pub struct Weight {
    n: usize,
    k: usize,
    format: Format,
    bytes: usize,
    /// None for those that the format does not have.
    sections: Sections<Option<Memory<u8>>>,
}

impl Weight {
    /// Copies a packed weight to the device.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] if it does not fit, [`crate::Error::Driver`] for any other refusal.
    pub fn upload<'w>(device: &Device, weight: impl Into<PackedView<'w>>) -> Result<Self> {
        let weight = weight.into();
        device.prepare(super::MODULES)?;
        let copy = |bytes: &[u8]| (!bytes.is_empty()).then(|| device.upload(bytes).map(Memory::from)).transpose();
        Ok(Weight {
            n: weight.n(),
            k: weight.k(),
            format: weight.format(),
            bytes: weight.bytes(),
            sections: weight.sections().try_map(copy)?,
        })
    }

    /// Takes a packed weight where an engine has it: the sections in device memory, each at a multiple of 16 and of the size
    /// that [`Format::section_bytes`] says, in the packed layout of version `layout` ([`crate::w4a8::PackedWeight`]). They are
    /// neither copied nor freed.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] for sizes that the format does not take, [`crate::Error::Unsupported`] for another packed layout;
    /// a section that is missing or not aligned is refused by the call that reads it.
    ///
    /// # Safety
    /// The sections that the format has are memory of the device's context, filled before what the device's stream does next,
    /// and neither written nor freed before the weight is dropped and its device's stream has passed what was put on it then.
    pub unsafe fn lent(
        device: &Device,
        format: Format,
        n: usize,
        k: usize,
        layout: u32,
        sections: Sections<Address>,
    ) -> Result<Self> {
        check_weight(format, n, k, layout)?;
        device.prepare(super::MODULES)?;
        let sizes = format.section_bytes(n, k)?;
        // SAFETY: the caller's.
        let lend = |(address, bytes)| (bytes > 0).then(|| unsafe { Memory::lent(device, address, bytes) });
        let bytes = sizes.into_array().iter().sum();
        Ok(Weight { n, k, format, bytes, sections: sections.zip(sizes).map(lend) })
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

    /// Bytes of codes and scales, all of which one multiplication reads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds the sections for a call; null for what the format does not have.
    pub(super) fn arguments<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<Sections<Address>> {
        self.sections.as_ref().try_map(|section| match section {
            Some(section) => arguments.read("weight", &**section),
            None => Ok(Address::NULL),
        })
    }

    /// The addresses of the sections for raw calls, whose caller keeps the weight and orders streams; null for what the format
    /// does not have.
    pub fn addresses(&self) -> Sections<Address> {
        self.sections.as_ref().map(|section| section.as_ref().map_or(Address::NULL, Memory::address))
    }
}
