//! Programs in C and C++ are compiled with the machine's compiler, linked with both libraries, and run.

mod compiler;

use compiler::{Language, Link, compile, run};
use std::path::{Path, PathBuf};

/// Every program under `tests/c` and `examples`.
fn programs() -> Vec<PathBuf> {
    let folders = ["tests/c", "examples"].map(|folder| Path::new(env!("CARGO_MANIFEST_DIR")).join(folder));
    let entries = folders.into_iter().flat_map(|folder| std::fs::read_dir(folder).unwrap());
    let mut programs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    programs.retain(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "cc"));
    programs.sort();
    programs
}

#[test]
fn programs_run_with_either_library() {
    for program in programs() {
        for link in [Link::Static, Link::Shared] {
            run(&compile(&program, link, &[]));
        }
    }
}

#[test]
fn programs_neither_leak_nor_touch_what_is_not_theirs() {
    let probe = compiler::source("int main(void) { return 0; }\n", Language::C);
    if !compiler::accepts(probe.path(), &["-fsanitize=address"]) {
        println!("skipped: the C compiler has no AddressSanitizer");
        return;
    }
    for program in programs() {
        run(&compile(&program, Link::Static, &["-fsanitize=address", "-g"]));
    }
}

#[test]
fn programs_of_the_documentation_run_as_they_stand() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    for (mark, language) in [("```c\n", Language::C), ("```cpp\n", Language::Cpp)] {
        let blocks: Vec<&str> = text.split(mark).skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!blocks.is_empty());
        for block in blocks {
            assert!(block.lines().count() <= 30, "{} lines", block.lines().count());
            let file = compiler::source(block, language);
            for link in [Link::Static, Link::Shared] {
                run(&compile(file.path(), link, &[]));
            }
        }
    }
}
