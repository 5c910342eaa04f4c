//! What cuModuleLoadData is given: PTX text, or a fatbin with PTX and perhaps machine code in it.
//!
//! # Source
//! The layout of fatbins was read off files that nvcc writes: a 16-byte container header (magic, version, header size,
//! size of all entries), then entries of a header, whose length it states, and a padded payload.

mod cubin;
mod little_endian;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read as _;

use crate::driver::abi::Bytes;
use crate::driver::codes::{Code, Error, Result};
use crate::machine::CompiledRegisters;
use little_endian::{u16_at, u32_at, u64_at};

const CONTAINER_MAGIC: u32 = 0xba55_ed50;
const CONTAINER_BYTES: usize = 16;
/// A structure that compilers put into host programs; its second word points at the container.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
const SMALLEST_ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
const KIND_CUBIN: u16 = 2;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCH_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY_SPECIFIC: u64 = 0x20_0000;
/// An entry larger than this is refused rather than decompressed.
const LARGEST_ENTRY_BYTES: u64 = 1 << 30;

/// What an image holds for one device.
#[derive(Debug)]
pub(crate) struct Image {
    /// The text that runs.
    pub(crate) ptx: String,
    /// What machine code beside it says of its kernels, by name.
    pub(crate) registers: HashMap<String, CompiledRegisters>,
}

/// Reads the PTX text that an image holds for a device of `capability` (80, 90), and its kernels' registers.
pub(crate) fn read(image: Bytes, capability: u32) -> Result<Image> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE.because("expected an image, got null"));
    }
    // Text is terminated, and every binary header has a zero byte soon after its magic.
    let start = image.copy_text();
    match u32_at(&start, 0) {
        Some(CONTAINER_MAGIC) => container(image, capability),
        Some(WRAPPER_MAGIC) => {
            let address = u64_at(&image.copy(16), 8).ok_or_else(|| truncated("wrapper"))?;
            container(Bytes::from_address(address as usize), capability)
        }
        Some(ELF_MAGIC) => Err(machine_code_alone()),
        _ => text_alone(start),
    }
}

fn machine_code_alone() -> Error {
    Code::NO_BINARY_FOR_GPU.because("expected PTX, got a cubin, whose machine code does not run here")
}

/// Reads an image from the bytes of a file.
pub(crate) fn read_file(bytes: &[u8], capability: u32) -> Result<Image> {
    match u32_at(bytes, 0) {
        Some(CONTAINER_MAGIC) => fatbin(bytes, capability),
        Some(ELF_MAGIC) => Err(machine_code_alone()),
        _ => text_alone(bytes.iter().copied().take_while(|&byte| byte != 0).collect()),
    }
}

fn container(image: Bytes, capability: u32) -> Result<Image> {
    let header = image.copy(CONTAINER_BYTES);
    let size = u64_at(&header, 8).and_then(|size| usize::try_from(size).ok()?.checked_add(CONTAINER_BYTES));
    fatbin(&image.copy(size.ok_or_else(|| truncated("container"))?), capability)
}

fn truncated(what: &str) -> Error {
    Code::INVALID_IMAGE.because(format!("expected a whole fatbin, got a {what} that ends early"))
}

/// One entry of a fatbin.
struct Entry<'a> {
    kind: u16,
    arch: u32,
    flags: u64,
    payload: &'a [u8],
    plain_bytes: u64,
}

impl<'a> Entry<'a> {
    /// Splits the first entry off `bytes`: the entry and the rest.
    fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8])> {
        let word = |at: usize| u32_at(bytes, at).ok_or_else(|| truncated("header"));
        let long = |at: usize| u64_at(bytes, at).ok_or_else(|| truncated("header"));
        let (kind, flags, plain_bytes) = (u16_at(bytes, 0).ok_or_else(|| truncated("header"))?, long(40)?, long(56)?);
        let header_bytes = word(4)? as usize;
        let padded = usize::try_from(long(8)?).map_err(|_| truncated("payload"))?;
        let end = header_bytes.checked_add(padded).filter(|&end| end <= bytes.len());
        let end = end.filter(|_| header_bytes >= SMALLEST_ENTRY_HEADER).ok_or_else(|| truncated("payload"))?;
        let stored = match word(16)? as usize {
            0 => padded,
            compressed => compressed.min(padded),
        };
        let entry =
            Self { kind, arch: word(28)?, flags, payload: &bytes[header_bytes..header_bytes + stored], plain_bytes };
        Ok((entry, &bytes[end..]))
    }

    /// Tells whether a device of `capability` can run it.
    fn runs_on(&self, capability: u32) -> bool {
        if self.flags & FLAG_ARCH_SPECIFIC != 0 {
            self.arch == capability
        } else if self.flags & FLAG_FAMILY_SPECIFIC != 0 {
            self.arch / 10 == capability / 10 && self.arch <= capability
        } else {
            self.arch <= capability
        }
    }

    /// Returns the payload as it was before it was compressed.
    fn plain(&self) -> Result<Cow<'a, [u8]>> {
        if self.flags & FLAG_LZ4 != 0 {
            return Err(Code::INVALID_IMAGE.because("expected an entry stored plainly or with zstd, got LZ4"));
        }
        if self.flags & FLAG_ZSTD == 0 {
            return Ok(Cow::Borrowed(self.payload));
        }
        let broken =
            |e: &dyn std::fmt::Display| Code::INVALID_IMAGE.because(format!("expected a zstd stream, got: {e}"));
        let decoder = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|e| broken(&e))?;
        let mut plain = Vec::new();
        let limit = self.plain_bytes.min(LARGEST_ENTRY_BYTES);
        decoder.take(limit).read_to_end(&mut plain).map_err(|e| broken(&e))?;
        Ok(Cow::Owned(plain))
    }

    fn text(&self) -> Result<String> {
        text(self.plain()?.iter().copied().take_while(|&byte| byte != 0).collect())
    }
}

/// Chooses the PTX of the highest capability that the device has.
fn fatbin(bytes: &[u8], capability: u32) -> Result<Image> {
    let contained = || {
        let (start, size) = (usize::from(u16_at(bytes, 6)?), usize::try_from(u64_at(bytes, 8)?).ok()?);
        bytes.get(start..size.checked_add(start)?)
    };
    let mut rest = contained().ok_or_else(|| truncated("container"))?;
    let mut best: Option<Entry<'_>> = None;
    let (mut seen, mut cubins) = (Vec::new(), Vec::new());
    while !rest.is_empty() {
        let (entry, after) = Entry::parse(rest)?;
        rest = after;
        match entry.kind {
            KIND_PTX => {
                seen.push(format!("sm_{}", entry.arch));
                if entry.runs_on(capability) && best.as_ref().is_none_or(|other| other.arch < entry.arch) {
                    best = Some(entry);
                }
            }
            KIND_CUBIN => cubins.push(entry),
            _ => {}
        }
    }
    let none = || {
        let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        Code::NO_BINARY_FOR_GPU
            .because(format!("expected PTX for compute capability {capability} or lower, got {seen}"))
    };
    Ok(Image { ptx: best.ok_or_else(none)?.text()?, registers: compiled_registers(cubins, capability) })
}

/// Collects the register counts of machine code. Of several entries for one kernel counts the one that a device of
/// `capability` would run, the highest of its generation and not above it; where it would run none, the nearest.
///
/// Machine code is not run here, so an entry that cannot be read only leaves its kernels without a count.
fn compiled_registers(mut cubins: Vec<Entry<'_>>, capability: u32) -> HashMap<String, CompiledRegisters> {
    let runs = |entry: &Entry<'_>| entry.arch / 10 == capability / 10 && entry.runs_on(capability);
    cubins.sort_by_key(|entry| (!runs(entry), entry.arch.abs_diff(capability)));
    let mut registers = HashMap::new();
    for entry in cubins {
        let Ok(elf) = entry.plain() else { continue };
        for (kernel, count) in cubin::registers(&elf).unwrap_or_default() {
            registers.entry(kernel).or_insert(CompiledRegisters { count, arch: entry.arch });
        }
    }
    registers
}

fn text_alone(bytes: Vec<u8>) -> Result<Image> {
    Ok(Image { ptx: text(bytes)?, registers: HashMap::new() })
}

fn text(bytes: Vec<u8>) -> Result<String> {
    match String::from_utf8(bytes) {
        Ok(text) if text.contains(".version") => Ok(text),
        _ => Err(Code::INVALID_IMAGE.because("expected PTX text or a fatbin, got neither")),
    }
}

#[cfg(test)]
mod tests;
