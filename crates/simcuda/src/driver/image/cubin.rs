//! What machine code says of its kernels: the registers that the compiler settled on.
//!
//! # Source
//! A cubin is an ELF file (System V ABI, 64 bits, little endian). Its section of type 0x70000000 with no section of its own
//! lists attributes of kernels; that layout was read off files that nvcc writes and held against what its assembler prints.
//! Section headers of the code carry the count too, but no longer from compute capability 9.0 on.

use super::little_endian::{u16_at, u32_at, u64_at};

const SECTION_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const TYPE_SYMBOLS: u32 = 2;
const TYPE_STRINGS: u32 = 3;
const TYPE_INFO: u32 = 0x7000_0000;
/// Attributes whose second half-word is the length of what follows.
const FORMAT_SIZED: u8 = 4;
/// Number of the attribute with a symbol and its registers.
const REGISTER_COUNT: u8 = 0x2f;
const MOST_REGISTERS: u32 = 255;
const LONGEST_NAME_BYTES: usize = 1 << 14;

fn usize_at(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64_at(bytes, at)?).ok()
}

/// The section headers of an ELF file.
struct Elf<'a> {
    file: &'a [u8],
    headers: &'a [u8],
}

impl<'a> Elf<'a> {
    fn parse(file: &'a [u8]) -> Option<Self> {
        let is_little_64 = file.starts_with(b"\x7fELF\x02\x01") && usize::from(u16_at(file, 58)?) == SECTION_BYTES;
        let bytes = usize::from(u16_at(file, 60)?) * SECTION_BYTES;
        let headers = file.get(usize_at(file, 40)?..)?.get(..bytes)?;
        is_little_64.then_some(Self { file, headers })
    }

    /// Type of a section and the number that its header points to.
    fn kind_and_link(&self, section: usize) -> Option<(u32, usize)> {
        let header = self.header(section)?;
        Some((u32_at(header, 4)?, u32_at(header, 40)? as usize))
    }

    fn header(&self, section: usize) -> Option<&'a [u8]> {
        self.headers.chunks_exact(SECTION_BYTES).nth(section)
    }

    fn content(&self, section: usize) -> Option<&'a [u8]> {
        let header = self.header(section)?;
        self.file.get(usize_at(header, 24)?..)?.get(..usize_at(header, 32)?)
    }

    /// The section with attributes of the whole file: the one of its type that belongs to no other.
    fn info(&self) -> Option<usize> {
        let of_file = |header: &[u8]| u32_at(header, 4) == Some(TYPE_INFO) && u32_at(header, 44) == Some(0);
        self.headers.chunks_exact(SECTION_BYTES).position(of_file)
    }

    /// The section that `section` points to, if it is of type `kind`.
    fn linked(&self, section: usize, kind: u32) -> Option<usize> {
        let (_, link) = self.kind_and_link(section)?;
        (self.kind_and_link(link)?.0 == kind).then_some(link)
    }
}

/// Lists the registers of each kernel and device function of a cubin; `None` for what is not one.
pub(crate) fn registers(file: &[u8]) -> Option<Vec<(String, u32)>> {
    let elf = Elf::parse(file)?;
    let info = elf.info()?;
    let symbols = elf.linked(info, TYPE_SYMBOLS)?;
    let names = elf.content(elf.linked(symbols, TYPE_STRINGS)?)?;
    let (mut rest, symbols) = (elf.content(info)?, elf.content(symbols)?);
    let mut counts = Vec::new();
    while let [format, attribute, ..] = *rest {
        let following = if format == FORMAT_SIZED { usize::from(u16_at(rest, 2)?) } else { 0 };
        let value = rest.get(4..)?.get(..following)?;
        if (format, attribute) == (FORMAT_SIZED, REGISTER_COUNT) {
            let symbol = symbols.chunks_exact(SYMBOL_BYTES).nth(u32_at(value, 0)? as usize)?;
            let count = u32_at(value, 4).filter(|count| (1..=MOST_REGISTERS).contains(count))?;
            counts.push((name(names, u32_at(symbol, 0)? as usize)?, count));
        }
        rest = &rest[4 + following..];
    }
    Some(counts)
}

/// Reads the terminated name at an offset.
fn name(names: &[u8], at: usize) -> Option<String> {
    let bytes = names.get(at..)?;
    let end = bytes.iter().take(LONGEST_NAME_BYTES).position(|&byte| byte == 0)?;
    String::from_utf8(bytes[..end].to_vec()).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A section header: type, content, link, info.
    type Section<'a> = (u32, &'a [u8], u32, u32);

    fn elf(sections: &[Section<'_>]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(64, 0);
        let mut headers = vec![0; SECTION_BYTES];
        for &(kind, content, link, info) in sections {
            let mut header = [0; SECTION_BYTES];
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
            header[40..44].copy_from_slice(&link.to_le_bytes());
            header[44..48].copy_from_slice(&info.to_le_bytes());
            headers.extend(header);
            file.extend(content);
        }
        let at = file.len() as u64;
        file[40..48].copy_from_slice(&at.to_le_bytes());
        file[58..60].copy_from_slice(&(SECTION_BYTES as u16).to_le_bytes());
        file[60..62].copy_from_slice(&(sections.len() as u16 + 1).to_le_bytes());
        file.extend(headers);
        file
    }

    /// A cubin as ptxas lays it out, with kernels of these names and registers.
    pub(in super::super) fn cubin(kernels: &[(&str, u32)]) -> Vec<u8> {
        let (mut names, mut symbols) = (vec![0], vec![0; SYMBOL_BYTES]);
        // Attributes without a value and with one in place come between.
        let mut info = vec![1, 0x35, 0, 0, 3, 0x1b, 0xff, 0];
        for (index, (name, count)) in kernels.iter().enumerate() {
            let mut symbol = [0; SYMBOL_BYTES];
            symbol[..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
            symbols.extend(symbol);
            names.extend(name.bytes().chain([0]));
            for (attribute, value) in [(0x11, 77), (REGISTER_COUNT, *count)] {
                info.extend([FORMAT_SIZED, attribute, 8, 0]);
                info.extend((index as u32 + 1).to_le_bytes());
                info.extend(value.to_le_bytes());
            }
        }
        // A kernel's own attributes, which name the section of its code, come first.
        let own: Section<'_> = (TYPE_INFO, &[4, REGISTER_COUNT, 8, 0, 1, 0, 0, 0, 99, 0, 0, 0], 3, 7);
        elf(&[own, (TYPE_STRINGS, &names, 0, 0), (TYPE_SYMBOLS, &symbols, 2, 1), (TYPE_INFO, &info, 3, 0)])
    }

    #[test]
    fn counts_match_the_attributes_of_each_kernel() {
        let file = cubin(&[("first", 14), ("second", 255)]);
        assert_eq!(registers(&file), Some(vec![("first".to_owned(), 14), ("second".to_owned(), 255)]));
        assert_eq!(registers(&cubin(&[])), Some(Vec::new()));
        for impossible in [0, 256, u32::MAX] {
            assert_eq!(registers(&cubin(&[("kernel", impossible)])), None);
        }
    }

    #[test]
    fn broken_files_are_refused_at_every_length_and_byte() {
        let file = cubin(&[("first", 14), ("second", 40)]);
        let whole = registers(&file);
        assert!((0..file.len()).all(|length| registers(&file[..length]).is_none()), "the headers come last");
        let (mut refused, mut changed) = (0, 0);
        for at in 0..file.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut broken = file.clone();
                broken[at] = value;
                match registers(&broken) {
                    None => refused += 1,
                    other if other != whole => changed += 1,
                    _ => {}
                }
            }
        }
        // Most bytes of the headers and of the attributes matter.
        assert!(refused > 100 && changed > 10, "{refused} refused, {changed} changed");
    }

    #[test]
    fn links_to_other_sections_are_refused() {
        let info = [4, REGISTER_COUNT, 8, 0, 0, 0, 0, 0, 9, 0, 0, 0];
        let (names, symbols) = ([b'k', 0], [0u8; SYMBOL_BYTES]);
        let file = |symbols_of: u32, names_of: u32| {
            elf(&[
                (TYPE_INFO, &info, symbols_of, 0),
                (TYPE_SYMBOLS, &symbols, names_of, 0),
                (TYPE_STRINGS, &names, 0, 0),
            ])
        };
        assert_eq!(registers(&file(2, 3)), Some(vec![("k".to_owned(), 9)]));
        for (symbols_of, names_of) in [(3, 3), (2, 2), (1, 3), (2, 1), (9, 3), (2, u32::MAX)] {
            assert_eq!(registers(&file(symbols_of, names_of)), None, "{symbols_of} {names_of}");
        }
        assert_eq!(registers(&elf(&[(TYPE_SYMBOLS, &symbols, 2, 0), (TYPE_STRINGS, &names, 0, 0)])), None);
    }
}
