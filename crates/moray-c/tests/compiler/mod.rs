//! The machine's C and C++ compilers, and the libraries that Cargo has built for this test.
#![allow(dead_code)] // each test uses some of it

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a program is linked with.
#[derive(Debug, Clone, Copy)]
pub enum Link {
    Static,
    Shared,
}

/// What a program is written in.
#[derive(Debug, Clone, Copy)]
pub enum Language {
    C,
    Cpp,
}

/// What the static library needs of the system, as `rustc --print native-static-libs` says.
const SYSTEM: [&str; 4] = ["-lm", "-lpthread", "-ldl", "-lgcc_s"];

/// A file that is removed when it is dropped.
pub fn source(text: &str, language: Language) -> tempfile::NamedTempFile {
    let ending = match language {
        Language::C => ".c",
        Language::Cpp => ".cc",
    };
    let file = tempfile::Builder::new().suffix(ending).tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn compiler(program: &Path) -> Command {
    let cpp = program.extension().is_some_and(|extension| extension == "cc");
    let (variable, default) = if cpp { ("CXX", "c++") } else { ("CC", "cc") };
    let mut command = Command::new(std::env::var(variable).unwrap_or_else(|_| default.into()));
    command.arg(if cpp { "-std=c++17" } else { "-std=c11" }).args(["-O1", "-Wall", "-Wextra", "-Werror", "-pedantic"]);
    if cpp {
        // of moray.hpp, in which what programs compile with is compiled too
        command.arg("-Wshadow");
    }
    command.arg(program);
    command
}

/// Whether the compiler takes these options.
pub fn accepts(program: &Path, options: &[&str]) -> bool {
    let out = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    compiler(program).args(options).arg("-o").arg(&*out).output().is_ok_and(|run| run.status.success())
}

/// The folder of the libraries: beside this test's own program.
pub fn libraries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().into()
}

/// Compiles and links a program.
pub fn compile(program: &Path, link: Link, options: &[&str]) -> tempfile::TempPath {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libraries = libraries();
    let out = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    let mut command = compiler(program);
    command.args(options).arg("-I").arg(crate_root.join("include")).arg("-o").arg(&*out);
    match link {
        Link::Static => {
            command.arg(libraries.join("libmoray_c.a")).args(SYSTEM);
        }
        Link::Shared => {
            // a program asks for the name that the library has for its ABI
            let named = libraries.join("libmoray_c.so.1");
            if !named.exists() {
                let _ = std::os::unix::fs::symlink("libmoray_c.so", &named);
            }
            command.arg(&named).arg(format!("-Wl,-rpath,{}", libraries.display())).args(["-lm", "-lpthread"]);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    out
}

/// Runs a program, which has to succeed.
pub fn run(program: &Path) {
    // memory that cannot be had is what the library is asked for on purpose
    let output = Command::new(program).env("ASAN_OPTIONS", "allocator_may_return_null=1").output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}: {}\n{said}{errors}", output.status);
}
