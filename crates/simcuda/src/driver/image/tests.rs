//! Images built by hand, whole and broken.

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

fn cubin_entry(arch: u32, flags: u64, kernels: &[(&str, u32)]) -> Vec<u8> {
    let elf = cubin::tests::cubin(kernels);
    entry(KIND_CUBIN, arch, flags, 0x40, &elf, elf.len())
}

/// The text of an image without machine code.
fn ptx(image: &[u8], capability: u32) -> Result<String> {
    read_file(image, capability).map(|image| {
        assert_eq!(image.registers, HashMap::new());
        image.ptx
    })
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
    assert!(ptx(&image, 80).expect("runnable").ends_with("middle"));
    assert!(ptx(&image, 90).expect("runnable").ends_with("nine-a"));
    assert!(ptx(&container(&[ptx_entry(80, FLAG_ARCH_SPECIFIC, "a")]), 80).is_ok());
    assert_eq!(code(ptx(&container(&[ptx_entry(80, FLAG_ARCH_SPECIFIC, "a")]), 90)), 209);
    assert!(ptx(&container(&[ptx_entry(80, FLAG_FAMILY_SPECIFIC, "f")]), 86).is_ok());
    assert_eq!(code(ptx(&container(&[ptx_entry(90, 0, "x")]), 80)), 209);
    assert_eq!(code(ptx(&container(&[]), 80)), 209);
}

#[test]
fn broken_images_are_refused_at_every_length() {
    let whole = container(&[ptx_entry(80, 0, "text")]);
    for length in 0..whole.len() {
        let error = ptx(&whole[..length], 80).expect_err("cut short");
        assert_eq!(error.code, Code::INVALID_IMAGE, "cut at {length}");
    }
    assert_eq!(code(ptx(b"\x7fELF and so on", 80)), 209);
    assert_eq!(code(ptx(b"not an image", 80)), 200);
    let lz4 = container(&[ptx_entry(80, FLAG_LZ4, "compressed")]);
    assert_eq!(code(ptx(&lz4, 80)), 200);
    let zstd = container(&[ptx_entry(80, FLAG_ZSTD, "not a stream")]);
    assert_eq!(code(ptx(&zstd, 80)), 200);
    let mut short_header = container(&[ptx_entry(80, 0, "text")]);
    short_header[16 + 4..16 + 8].copy_from_slice(&8u32.to_le_bytes());
    assert_eq!(code(ptx(&short_header, 80)), 200);
}

#[test]
fn zstd_entry_matches_its_plain_text() {
    let text = format!("{PTX}// {}", "compress me ".repeat(40));
    let packed = ruzstd::encoding::compress_to_vec(text.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    let image = container(&[entry(KIND_PTX, 80, FLAG_ZSTD, 0x68, &packed, text.len())]);
    assert_eq!(ptx(&image, 80).expect("a zstd entry"), text);
}

#[test]
fn registers_match_the_cubin_that_the_device_would_run() {
    let known = |entries: &[Vec<u8>], capability: u32, kernel: &str| {
        let image = container(&[entries, &[ptx_entry(70, 0, "text")]].concat());
        let found = read_file(&image, capability).expect("a whole image").registers.get(kernel).copied();
        found.map(|known| (known.count, known.arch))
    };
    let several = [
        cubin_entry(90, 0, &[("kernel", 90)]),
        cubin_entry(80, 0, &[("kernel", 80), ("only_80", 18)]),
        cubin_entry(86, 0, &[("kernel", 86)]),
        cubin_entry(100, 0, &[("kernel", 100)]),
    ];
    // The device's own, the highest of its generation below it, and without one the nearest.
    for (capability, arch) in [(80, 80), (86, 86), (87, 86), (89, 86), (90, 90), (103, 100), (72, 80)] {
        assert_eq!(known(&several, capability, "kernel"), Some((arch, arch)), "{capability}");
    }
    // What one does not hold, another may.
    assert_eq!(known(&several, 90, "only_80"), Some((18, 80)));
    assert_eq!(known(&several, 90, "another"), None);
    // 8.7 lies nearer to 8.6 than 8.0 does, but 8.6 does not run it.
    let above = [cubin_entry(87, 0, &[("kernel", 87)]), cubin_entry(80, 0, &[("kernel", 80)])];
    assert_eq!(known(&above, 86, "kernel"), Some((80, 80)));
    let specific = [cubin_entry(80, FLAG_ARCH_SPECIFIC, &[("kernel", 1)]), cubin_entry(75, 0, &[("kernel", 2)])];
    assert_eq!(known(&specific, 80, "kernel"), Some((1, 80)));
}

#[test]
fn registers_are_unknown_where_machine_code_is_unreadable() {
    let elf = cubin::tests::cubin(&[("kernel", 40)]);
    let packed = ruzstd::encoding::compress_to_vec(elf.as_slice(), ruzstd::encoding::CompressionLevel::Fastest);
    let zstd = entry(KIND_CUBIN, 80, FLAG_ZSTD, 0x40, &packed, elf.len());
    let found = |cubin: Vec<u8>| {
        let image = read_file(&container(&[cubin, ptx_entry(80, 0, "text")]), 80).expect("its PTX is whole");
        image.registers.get("kernel").map(|known| known.count)
    };
    assert_eq!(found(zstd), Some(40));
    assert_eq!(found(cubin_entry(80, FLAG_LZ4, &[("kernel", 40)])), None);
    assert_eq!(found(cubin_entry(80, FLAG_ZSTD, &[("kernel", 40)])), None);
    assert_eq!(found(entry(KIND_CUBIN, 80, 0, 0x40, &elf[..elf.len() - 8], elf.len() - 8)), None);
    assert_eq!(found(entry(KIND_CUBIN, 80, FLAG_ZSTD, 0x40, &packed, elf.len() - 8)), None);
}
