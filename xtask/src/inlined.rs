//! `cargo xtask inlined`: whether the kernels are compiled for their instruction sets.
//!
//! A kernel is written once over the operations of vectors, each of which has to end up inside a function that is compiled for the
//! instruction set. An operation in a closure that the compiler leaves as a function of its own is of no instruction
//! set, calls each intrinsic, and is several times as slow; its results are right, so that no test sees it.

use std::process::Command;

use crate::{TaskResult, root, simcuda};

/// Builds the library of the C ABI, which has every CPU kernel, and reads its symbols.
pub fn run(arguments: &[String]) -> TaskResult {
    if let Some(argument) = arguments.first() {
        return Err(format!("inlined: expected no arguments, got {argument}").into());
    }
    if !cfg!(target_arch = "x86_64") {
        println!("skipped: no instruction set here has kernels of its own");
        return Ok(());
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--locked", "--package", "moray-c"])
        .current_dir(root())
        .status()?;
    if !built.success() {
        return Err(format!("expected the C library to be built, got {built}").into());
    }
    let name = format!("{}moray_c{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = simcuda::target_folder().join("release").join(name);
    let symbols = Command::new("nm").args(["--demangle", "--defined-only"]).arg(&library).output()?;
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    if !symbols.contains("run_avx2") {
        return Err(format!("expected the kernels' symbols in {}, got none", library.display()).into());
    }
    let called: Vec<&str> = symbols.lines().filter(|symbol| is_operation(symbol)).collect();
    if called.is_empty() {
        println!("no vector operation is a function of its own");
        return Ok(());
    }
    Err(format!(
        "expected vector operations inside of kernels, got functions of their own:\n{}\nPut loops where closures call them.",
        called.join("\n")
    )
    .into())
}

/// Whether a line of nm's is the code of an intrinsic or of an operation of the kernels' vectors.
fn is_operation(symbol: &str) -> bool {
    let Some((_, name)) = symbol.split_once(" t ").or_else(|| symbol.split_once(" T ")) else { return false };
    name.starts_with("core::core_arch::x86") && name.contains("::_mm")
        || name.contains(" as moray::simd::Simd>::") && name.ends_with("::inner")
}

#[cfg(test)]
mod tests {
    use super::is_operation;

    #[test]
    fn operations_are_told_from_other_code() {
        for symbol in [
            "0000000000ad6280 t core::core_arch::x86::avx::_mm256_loadu_si256",
            "0000000000b7ac30 t <moray::simd::avx512::Avx512 as moray::simd::Simd>::splat::inner",
        ] {
            assert!(is_operation(symbol), "{symbol}");
        }
        for symbol in [
            "0000000000ad6280 t core::core_arch::x86::xsave::_xgetbv",
            "0000000000ad6280 t <core::core_arch::x86::__m256i as core::fmt::Debug>::fmt",
            "0000000000ad6280 t moray::simd::avx2::run_avx2",
            "",
        ] {
            assert!(!is_operation(symbol), "{symbol}");
        }
    }
}
