//! What cuModuleLoadData is given: PTX text, or a fatbin with PTX in it.
//!
//! # Source
//! The layout of fatbins was read off files that nvcc writes: a 16-byte container header (magic, version, header size,
//! size of all entries), then entries of a header, whose length it states, and a padded payload.

use std::io::Read as _;

use super::abi::Bytes;
use super::codes::{Code, Error, Result};

const CONTAINER_MAGIC: u32 = 0xba55_ed50;
const CONTAINER_BYTES: usize = 16;
/// A structure that compilers put into host programs; its second word points at the container.
const WRAPPER_MAGIC: u32 = 0x4662_43b1;
const ELF_MAGIC: u32 = u32::from_le_bytes(*b"\x7fELF");
const SMALLEST_ENTRY_HEADER: usize = 64;
const KIND_PTX: u16 = 1;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCH_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY_SPECIFIC: u64 = 0x20_0000;
/// PTX larger than this is refused rather than decompressed.
const LARGEST_PTX_BYTES: u64 = 1 << 30;

/// Reads the PTX text that an image holds for a device of `capability` (80, 90).
pub(super) fn read(image: Bytes, capability: u32) -> Result<String> {
    if image.is_null() {
        return Err(Code::INVALID_VALUE.because("expected an image, got null"));
    }
    // Text is terminated, and every binary header has a zero byte soon after its magic.
    let start = image.copy_text();
    match start.get(..4).map(|magic| u32_at(magic, 0)) {
        Some(CONTAINER_MAGIC) => container(image, capability),
        Some(WRAPPER_MAGIC) => container(Bytes::from_address(u64_at(&image.copy(16), 8) as usize), capability),
        Some(ELF_MAGIC) => Err(cubin()),
        _ => text(start),
    }
}

fn cubin() -> Error {
    Code::NO_BINARY_FOR_GPU.because("expected PTX, got a cubin, whose machine code does not run here")
}

/// Reads an image from the bytes of a file.
pub(super) fn read_file(bytes: &[u8], capability: u32) -> Result<String> {
    match bytes.get(..4).map(|magic| u32_at(magic, 0)) {
        Some(CONTAINER_MAGIC) => fatbin(bytes, capability),
        Some(ELF_MAGIC) => Err(cubin()),
        _ => text(bytes.iter().copied().take_while(|&byte| byte != 0).collect()),
    }
}

fn container(image: Bytes, capability: u32) -> Result<String> {
    let header = image.copy(CONTAINER_BYTES);
    let size = usize::try_from(u64_at(&header, 8)).ok().and_then(|size| size.checked_add(CONTAINER_BYTES));
    fatbin(&image.copy(size.ok_or_else(|| truncated("container"))?), capability)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn truncated(what: &str) -> Error {
    Code::INVALID_IMAGE.because(format!("expected a whole fatbin, got a {what} that ends early"))
}

/// One PTX entry of a fatbin.
struct Entry<'a> {
    arch: u32,
    flags: u64,
    payload: &'a [u8],
    plain_bytes: u64,
}

impl<'a> Entry<'a> {
    /// Splits the first entry off `bytes`: the entry, if it is PTX, and the rest.
    fn parse(bytes: &'a [u8]) -> Result<(Option<Self>, &'a [u8])> {
        if bytes.len() < SMALLEST_ENTRY_HEADER {
            return Err(truncated("header"));
        }
        let header_bytes = u32_at(bytes, 4) as usize;
        let padded = usize::try_from(u64_at(bytes, 8)).map_err(|_| truncated("payload"))?;
        let end = header_bytes.checked_add(padded).filter(|&end| end <= bytes.len());
        let end = end.filter(|_| header_bytes >= SMALLEST_ENTRY_HEADER).ok_or_else(|| truncated("payload"))?;
        let stored = match u32_at(bytes, 16) as usize {
            0 => padded,
            compressed => compressed.min(padded),
        };
        let entry = Self {
            arch: u32_at(bytes, 28),
            flags: u64_at(bytes, 40),
            payload: &bytes[header_bytes..header_bytes + stored],
            plain_bytes: u64_at(bytes, 56),
        };
        Ok(((u16_at(bytes, 0) == KIND_PTX).then_some(entry), &bytes[end..]))
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

    fn text(&self) -> Result<String> {
        if self.flags & FLAG_LZ4 != 0 {
            return Err(Code::INVALID_IMAGE.because("expected PTX stored plainly or with zstd, got LZ4"));
        }
        if self.flags & FLAG_ZSTD == 0 {
            return text(self.payload.iter().copied().take_while(|&byte| byte != 0).collect());
        }
        let broken =
            |e: &dyn std::fmt::Display| Code::INVALID_IMAGE.because(format!("expected a zstd stream, got: {e}"));
        let decoder = ruzstd::decoding::StreamingDecoder::new(self.payload).map_err(|e| broken(&e))?;
        let mut plain = Vec::new();
        let limit = self.plain_bytes.min(LARGEST_PTX_BYTES);
        decoder.take(limit).read_to_end(&mut plain).map_err(|e| broken(&e))?;
        plain.truncate(plain.iter().position(|&byte| byte == 0).unwrap_or(plain.len()));
        text(plain)
    }
}

/// Chooses the PTX of the highest capability that the device has.
fn fatbin(bytes: &[u8], capability: u32) -> Result<String> {
    if bytes.len() < CONTAINER_BYTES {
        return Err(truncated("container"));
    }
    let header_bytes = u16_at(bytes, 6) as usize;
    let size = usize::try_from(u64_at(bytes, 8)).ok().and_then(|size| size.checked_add(header_bytes));
    let mut rest = size.and_then(|end| bytes.get(header_bytes..end)).ok_or_else(|| truncated("container"))?;
    let mut best: Option<Entry<'_>> = None;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let (entry, after) = Entry::parse(rest)?;
        rest = after;
        if let Some(entry) = entry {
            seen.push(format!("sm_{}", entry.arch));
            if entry.runs_on(capability) && best.as_ref().is_none_or(|other| other.arch < entry.arch) {
                best = Some(entry);
            }
        }
    }
    let none = || {
        let seen = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
        Code::NO_BINARY_FOR_GPU
            .because(format!("expected PTX for compute capability {capability} or lower, got {seen}"))
    };
    best.ok_or_else(none)?.text()
}

fn text(bytes: Vec<u8>) -> Result<String> {
    match String::from_utf8(bytes) {
        Ok(text) if text.contains(".version") => Ok(text),
        _ => Err(Code::INVALID_IMAGE.because("expected PTX text or a fatbin, got neither")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = ".version 8.0\n.target sm_80\n";

    /// One entry as nvcc lays it out, with a header of `header_bytes`.
    fn entry(kind: u16, arch: u32, flags: u64, header_bytes: usize, payload: &[u8], plain_bytes: usize) -> Vec<u8> {
        let padded = payload.len().next_multiple_of(8);
        let mut bytes = vec![0; header_bytes + padded];
        bytes[..2].copy_from_slice(&kind.to_le_bytes());
        bytes[4..8].copy_from_slice(&(header_bytes as u32).to_le_bytes());
        bytes[8..16].copy_from_slice(&(padded as u64).to_le_bytes());
        if plain_bytes != payload.len() {
            bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        }
        bytes[28..32].copy_from_slice(&arch.to_le_bytes());
        bytes[40..48].copy_from_slice(&flags.to_le_bytes());
        bytes[56..64].copy_from_slice(&(plain_bytes as u64).to_le_bytes());
        bytes[header_bytes..header_bytes + payload.len()].copy_from_slice(payload);
        bytes
    }

    fn ptx_entry(arch: u32, flags: u64, marker: &str) -> Vec<u8> {
        let text = format!("{PTX}// {marker}");
        entry(KIND_PTX, arch, flags, 0x50, text.as_bytes(), text.len())
    }

    fn container(entries: &[Vec<u8>]) -> Vec<u8> {
        let body = entries.concat();
        let mut bytes = Vec::from(CONTAINER_MAGIC.to_le_bytes());
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((body.len() as u64).to_le_bytes());
        bytes.extend(body);
        bytes
    }

    fn code(result: Result<String>) -> i32 {
        result.expect_err("a broken image").code.0
    }

    #[test]
    fn chosen_entry_matches_the_highest_runnable_capability() {
        let image = container(&[
            entry(2, 80, 0, 0x40, &[1, 2, 3, 4], 4),
            ptx_entry(75, 0, "low"),
            ptx_entry(80, 0, "middle"),
            ptx_entry(90, FLAG_ARCH_SPECIFIC, "nine-a"),
            ptx_entry(100, 0, "high"),
        ]);
        assert!(read_file(&image, 80).expect("runnable").ends_with("middle"));
        assert!(read_file(&image, 90).expect("runnable").ends_with("nine-a"));
        assert!(read_file(&container(&[ptx_entry(80, FLAG_ARCH_SPECIFIC, "a")]), 80).is_ok());
        assert_eq!(code(read_file(&container(&[ptx_entry(80, FLAG_ARCH_SPECIFIC, "a")]), 90)), 209);
        assert!(read_file(&container(&[ptx_entry(80, FLAG_FAMILY_SPECIFIC, "f")]), 86).is_ok());
        assert_eq!(code(read_file(&container(&[ptx_entry(90, 0, "x")]), 80)), 209);
        assert_eq!(code(read_file(&container(&[]), 80)), 209);
    }

    #[test]
    fn broken_images_are_refused_at_every_length() {
        let whole = container(&[ptx_entry(80, 0, "text")]);
        for length in 0..whole.len() {
            let error = read_file(&whole[..length], 80).expect_err("cut short");
            assert_eq!(error.code, Code::INVALID_IMAGE, "cut at {length}");
        }
        assert_eq!(code(read_file(b"\x7fELF and so on", 80)), 209);
        assert_eq!(code(read_file(b"not an image", 80)), 200);
        let lz4 = container(&[ptx_entry(80, FLAG_LZ4, "compressed")]);
        assert_eq!(code(read_file(&lz4, 80)), 200);
        let zstd = container(&[ptx_entry(80, FLAG_ZSTD, "not a stream")]);
        assert_eq!(code(read_file(&zstd, 80)), 200);
        let mut short_header = container(&[ptx_entry(80, 0, "text")]);
        short_header[16 + 4..16 + 8].copy_from_slice(&8u32.to_le_bytes());
        assert_eq!(code(read_file(&short_header, 80)), 200);
    }

    #[test]
    fn zstd_entry_matches_its_plain_text() {
        let text = format!("{PTX}// {}", "compress me ".repeat(40));
        let packed = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
        let image = container(&[entry(KIND_PTX, 80, FLAG_ZSTD, 0x68, &packed, text.len())]);
        assert_eq!(read_file(&image, 80).expect("a zstd entry"), text);
    }
}
