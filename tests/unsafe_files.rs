//! `unsafe` stays in the files listed here: the leaves that speak to an instruction set, to threads, to the system's memory, to a
//! device or to C.

use std::path::{Path, PathBuf};

/// Every file under `src/` with `unsafe` code.
const FILES: &[&str] = &[
    "device/arguments.rs",
    "device/context.rs",
    "device/driver.rs",
    "device/launch.rs",
    "device/lent.rs",
    "device/memory.rs",
    "device/mod.rs",
    "device/raw_call.rs",
    "device/stream.rs",
    "memory/huge.rs",
    "simd/avx2.rs",
    "simd/avx512.rs",
    "simd/rows.rs",
    "threads.rs",
    "threads/parts.rs",
    "w4a8/cuda/weight.rs",
    "w4a8/simd_avx2.rs",
    "w4a8/simd_avx512.rs",
    "w4a8/simd_avx512/gemv.rs",
    "w4a8/simd_avx512/unpack.rs",
];

/// Every file of the C ABI with it: those that export functions, and what they read their arguments with.
const FILES_OF_C: &[&str] = &[
    "activations.rs",
    "arguments.rs",
    "attention.rs",
    "by_input.rs",
    "cpu.rs",
    "cuda/activations.rs",
    "cuda/attention.rs",
    "cuda/by_input.rs",
    "cuda/call.rs",
    "cuda/device.rs",
    "cuda/fill/by_input.rs",
    "cuda/fill/mlp.rs",
    "cuda/linear.rs",
    "cuda/mlp.rs",
    "cuda/mlp_parts.rs",
    "cuda/no_device.rs",
    "cuda/no_operation.rs",
    "cuda/norm.rs",
    "cuda/product.rs",
    "cuda/select.rs",
    "cuda/write_attend.rs",
    "format.rs",
    "import.rs",
    "kv_pages.rs",
    "linear.rs",
    "mlp.rs",
    "mlp_parts.rs",
    "openmp.rs",
    "quantized.rs",
    "sections.rs",
    "selection.rs",
    "status.rs",
    "supports.rs",
    "tvm_ffi/attention.rs",
    "tvm_ffi/by_input.rs",
    "tvm_ffi/call.rs",
    "tvm_ffi/cuda/attention.rs",
    "tvm_ffi/cuda/by_input.rs",
    "tvm_ffi/cuda/linear.rs",
    "tvm_ffi/cuda/mod.rs",
    "tvm_ffi/cuda/sparse_mlp.rs",
    "tvm_ffi/functions.rs",
    "tvm_ffi/mod.rs",
    "tvm_ffi/process.rs",
    "tvm_ffi/raise.rs",
    "tvm_ffi/sparse_mlp.rs",
    "tvm_ffi/tensor.rs",
    "tvm_ffi/value.rs",
    "version.rs",
    "weight.rs",
];

/// The library's list may shrink, not grow past this.
const MOST: usize = 20;

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Says whether the word stands in a line outside of comments.
fn has_unsafe(source: &str) -> bool {
    let code = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    source.lines().any(|line| code(line).split(|c| !in_word(c)).any(|word| word == "unsafe"))
}

/// The files of a folder with `unsafe` code, sorted.
fn files_with_unsafe(folder: &str) -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut found: Vec<_> = files
        .iter()
        .filter(|path| has_unsafe(&std::fs::read_to_string(path).unwrap()))
        .map(|path| path.strip_prefix(&source).unwrap().to_str().unwrap().replace('\\', "/"))
        .collect();
    found.sort();
    found
}

#[test]
fn unsafe_code_is_in_the_listed_files_only() {
    assert_eq!(files_with_unsafe("src"), FILES);
    // a package of the library alone does not have it
    if Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/moray-c").is_dir() {
        assert_eq!(files_with_unsafe("crates/moray-c/src"), FILES_OF_C);
    }
    assert!(FILES.len() <= MOST, "{} files have unsafe code", FILES.len());
}

#[test]
fn the_word_counts_in_code_and_not_in_comments_or_other_words() {
    assert!(has_unsafe("    unsafe { f() }"));
    assert!(has_unsafe("x\nunsafe impl Send for X {} // why"));
    assert!(!has_unsafe("// unsafe\n/// # Safety of unsafe code\nfn f() {} // unsafe"));
    assert!(!has_unsafe("#![deny(unsafe_op_in_unsafe_fn)]"));
}
