//! The library has the driver's name, every function that cudarc's bindings look up is exported, and what is not
//! implemented says so.

mod common;

use std::collections::BTreeSet;
use std::process::Command;

use common::{driver_lines, library_folder, under_simcuda};

/// Reads the names out of the bindings that this workspace is locked to.
fn names_in_bindings() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs this test");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    let cudarc =
        packages.iter().find(|package| package["name"] == "cudarc").expect("cudarc is a dependency of the tests");
    let manifest = std::path::Path::new(cudarc["manifest_path"].as_str().expect("a path"));
    let bindings = manifest.with_file_name("src").join("driver/sys/mod.rs");
    let source = std::fs::read_to_string(bindings).expect("the bindings' source");
    let declared = source.lines().filter_map(|line| line.trim().strip_prefix("pub unsafe fn cu"));
    declared.filter_map(|rest| rest.split_once('(')).map(|(name, _)| format!("cu{name}")).collect()
}

#[test]
fn exported_names_match_the_bindings_list() {
    let names = names_in_bindings();
    assert!(names.len() > 500, "expected the whole interface, got {} names", names.len());
    // SAFETY: the library is the one built with this test; its only initialiser is Rust's.
    let library = unsafe { libloading::Library::new(library_folder().join("libcuda.so.1")) }.expect("it loads");
    let missing: Vec<&String> = names
        .iter()
        // SAFETY: the symbol is only looked up, never called.
        .filter(|name| unsafe { library.get::<*const ()>(name.as_bytes()) }.is_err())
        .collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
}

#[test]
fn unimplemented_call_matches_not_supported_and_names_itself() {
    let stderr = under_simcuda("unimplemented_call_matches_not_supported_and_names_itself", &[], || {
        // SAFETY: the stub takes no arguments into account.
        let result = unsafe { cudarc::driver::sys::cuTexObjectDestroy(0) };
        assert_eq!(result, cudarc::driver::sys::CUresult::CUDA_ERROR_NOT_SUPPORTED);
    });
    let lines = driver_lines(&stderr);
    assert_eq!(lines.len(), 1, "{stderr}");
    assert!(lines[0].contains("cuTexObjectDestroy") && lines[0].contains("CUDA_ERROR_NOT_SUPPORTED (801)"), "{stderr}");
}

/// A number of `bytes` bytes, little endian.
fn number(file: &[u8], at: usize, bytes: usize) -> usize {
    file[at..at + bytes].iter().rev().fold(0, |value, &byte| value << 8 | usize::from(byte))
}

/// The SONAME of a 64-bit ELF file: the entry of that tag in its dynamic section names a string of the linked table.
fn soname(file: &[u8]) -> Option<String> {
    const DYNAMIC: usize = 6;
    const TAG_SONAME: usize = 14;
    let (headers, header_bytes, count) = (number(file, 40, 8), number(file, 58, 2), number(file, 60, 2));
    let header = |index: usize| headers + index * header_bytes;
    let range = |at: usize| (number(file, at + 24, 8), number(file, at + 32, 8));
    let dynamic = (0..count).map(header).find(|&at| number(file, at + 4, 4) == DYNAMIC)?;
    let (strings, _) = range(header(number(file, dynamic + 40, 4)));
    let (start, size) = range(dynamic);
    let entry = (start..start + size).step_by(16).find(|&at| number(file, at, 8) == TAG_SONAME)?;
    let name = file[strings + number(file, entry + 8, 8)..].split(|&byte| byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

#[test]
fn soname_matches_the_driver_that_programs_look_for() {
    let file = std::fs::read(library_folder().join("libcuda.so.1")).expect("the library");
    assert_eq!(soname(&file).as_deref(), Some("libcuda.so.1"));
}
