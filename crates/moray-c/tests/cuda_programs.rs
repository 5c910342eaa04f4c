//! Programs in C and C++ with a context, a stream and memory of their own call the library on a device: a GPU, or the simulated driver
//! that `cargo xtask test` puts on the library path.

mod compiler;

use compiler::{Language, Link, compile, run};
use std::path::{Path, PathBuf};

/// The driver where the linker looks for libraries.
const SYSTEM: &str = "-l:libcuda.so.1";

/// Options that compile with the driver's functions and link them, or nothing, and `skipped` is said, where there is no driver. With
/// `MORAY_REQUIRE_CUDA=1` that fails.
fn driver() -> Option<Vec<String>> {
    let paths = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|path| path.join("libcuda.so.1")).find(|path| path.exists());
    let probe = compiler::source("int main(void) { return 0; }\n", Language::C);
    let of_system = || compiler::accepts(probe.path(), &[SYSTEM]).then(|| SYSTEM.to_owned());
    let found = on_path.map(|path| path.display().to_string()).or_else(of_system);
    if found.is_none() {
        assert!(std::env::var("MORAY_REQUIRE_CUDA").is_err(), "expected libcuda.so.1 on the library path, got none");
        println!("skipped: no CUDA driver");
    }
    Some(vec!["-I".into(), folder().display().to_string(), found?])
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/cuda")
}

fn compiled(program: &Path, link: Link, driver: &[String]) -> tempfile::TempPath {
    compile(program, link, &driver.iter().map(String::as_str).collect::<Vec<_>>())
}

const PROGRAMS: [&str; 6] = ["bad_input.c", "linear.c", "product.c", "mlp.c", "attention.c", "owners.cc"];

#[test]
fn programs_have_the_results_of_the_cpu() {
    let Some(driver) = driver() else { return };
    for program in PROGRAMS {
        run(&compiled(&folder().join(program), Link::Shared, &driver));
    }
}

#[test]
fn programs_neither_leak_nor_touch_what_is_not_theirs() {
    let Some(mut driver) = driver() else { return };
    driver.extend(["-fsanitize=address", "-g"].map(String::from));
    let probe = compiler::source("int main(void) { return 0; }\n", Language::C);
    if !compiler::accepts(probe.path(), &["-fsanitize=address"]) {
        println!("skipped: the C compiler has no AddressSanitizer");
        return;
    }
    for program in PROGRAMS {
        run(&compiled(&folder().join(program), Link::Static, &driver));
    }
}

#[test]
fn program_of_the_documentation_runs_as_it_stands() {
    let Some(driver) = driver() else { return };
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CUDA.md")).unwrap();
    let blocks: Vec<&str> = text.split("```c\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        assert!(block.lines().count() <= 30, "{} lines", block.lines().count());
        run(&compiled(compiler::source(block, Language::C).path(), Link::Static, &driver));
    }
}
