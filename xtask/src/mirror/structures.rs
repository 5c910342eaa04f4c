//! Structures of a header as Rust, by bindgen.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::{simcuda, toolkit};

/// The generator and the library that it reads C++ with.
const BINDGEN: &str = "0.73.2";
const LIBCLANG: [&str; 1] = ["libclang==18.1.1"];

/// What stands for the host's `<cstdint>`, which libclang does not bring, and what nvcc declares by itself.
const CSTDINT: &str = "#pragma once
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
struct uint4;
struct float2;
";

/// A bindgen that runs.
pub(super) struct Bindgen {
    program: PathBuf,
    libclang: PathBuf,
}

impl Bindgen {
    /// Installs bindgen and libclang into the target folder, unless they are there.
    pub(super) fn obtain() -> io::Result<Self> {
        let target = simcuda::target_folder();
        let (tools, clang) = (target.join("bindgen"), target.join("libclang"));
        toolkit::install(&clang, &LIBCLANG, "clang/native")?;
        let program = tools.join("bin/bindgen");
        if !program.is_file() {
            let mut cargo = Command::new(env!("CARGO"));
            // what it reads is small: not optimised, it is the sooner there
            cargo.args(["install", "bindgen-cli", "--debug", "--version", BINDGEN, "--locked", "--root"]).arg(&tools);
            let status = cargo.status()?;
            if !status.success() {
                return Err(io::Error::other(format!("expected cargo to install bindgen, got {status}")));
            }
        }
        Ok(Self { program, libclang: clang.join("clang/native") })
    }

    /// A run of it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("LIBCLANG_PATH", &self.libclang);
        command
    }

    /// The structures of an operation's `params.cuh`. Pointers are device addresses, and so u64; enumerations are their numbers.
    pub(super) fn structures(&self, kernels: &Path, operation: &str) -> io::Result<String> {
        let header = kernels.join(operation).join("params.cuh");
        let headers = std::env::temp_dir().join(format!("moray-mirror-{}", std::process::id()));
        fs::create_dir_all(&headers)?;
        fs::write(headers.join("cstdint"), CSTDINT)?;
        // one assertion a line
        let formats = headers.join("rustfmt.toml");
        fs::write(&formats, "max_width = 1000\n")?;
        let enumerations = enumerations(kernels)?;
        let mut command = self.command();
        command.arg(&header).arg("--allowlist-file").arg(&header);
        command.args(["--disable-name-namespacing", "--no-doc-comments", "--use-core", "--ignore-functions"]);
        command.args([
            "--no-derive-copy",
            "--no-derive-debug",
            "--blocklist-item",
            &format!(".*::({})", enumerations.join("|")),
        ]);
        command.args(["--blocklist-type", "uint4|float2", "--rustfmt-configuration-file"]).arg(&formats);
        command.args(["--", "-xc++", "-std=c++17", "-nostdinc", "-Wno-pragma-once-outside-header"]);
        command.arg(format!("-I{}", headers.display())).arg(format!("-I{}", kernels.display()));
        let run = command.output()?;
        fs::remove_dir_all(&headers)?;
        match run.status.success() {
            true => Ok(as_parameters(&String::from_utf8_lossy(&run.stdout), &enumerations)),
            false => {
                let said = String::from_utf8_lossy(&run.stderr);
                Err(io::Error::other(format!("expected bindgen to read {}, got:\n{said}", header.display())))
            }
        }
    }
}

/// The names of the enumerations in all headers; each is a `uint32_t`.
fn enumerations(kernels: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in fs::read_dir(kernels)? {
        for file in fs::read_dir(folder?.path())? {
            let file = file?.path();
            if file.extension().is_some_and(|extension| extension == "cuh") {
                let text = fs::read_to_string(file)?;
                let named = text.lines().filter_map(|line| line.strip_prefix("enum ")?.split_once(" : uint32_t"));
                names.extend(named.map(|(name, _)| name.trim_start_matches("class ").to_owned()));
            }
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Turns bindgen's structures, and its assertions of where their fields lie, into what launches fill in.
fn as_parameters(text: &str, enumerations: &[String]) -> String {
    let (mut structures, mut layout) = (String::new(), String::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|line| line.strip_suffix(" {")) {
            let _ =
                writeln!(structures, "#[derive(Debug, Clone, Copy, Default)]\n#[repr(C)]\npub(super) struct {name} {{");
        } else if let Some((name, kind)) =
            line.strip_prefix("pub ").and_then(|line| line.strip_suffix(',')?.split_once(": "))
        {
            let _ = writeln!(structures, "pub(super) {name}: {},", parameter(kind, enumerations));
        } else if let Some((name, bytes)) = asserted(line, "[\"Size of ") {
            let _ = write!(layout, "layout!({name}, {bytes}");
        } else if let Some((field, bytes)) = asserted(line, "[\"Offset of field: ") {
            let _ = write!(layout, ", {} = {bytes}", field.rsplit(':').next().unwrap_or(field));
        } else if line == "};" {
            layout.push_str(");\n");
        } else if line == "}" {
            structures.push_str("}\n\n");
        }
    }
    structures + &layout
}

/// The subject and the number of an assertion of bindgen's: `["Size of A"][size_of::<A>() - 8usize];`.
fn asserted<'a>(line: &'a str, what: &str) -> Option<(&'a str, &'a str)> {
    let (name, rest) = line.strip_prefix(what)?.split_once('"')?;
    Some((name, rest.rsplit(' ').next()?.strip_suffix("usize];")?))
}

/// The type of a parameter: pointers are device addresses, enumerations their numbers.
fn parameter(kind: &str, enumerations: &[String]) -> String {
    if let Some((element, count)) = kind.strip_prefix('[').and_then(|kind| kind.split_once("; ")) {
        return format!("[{}; {}", parameter(element, enumerations), count.replace("usize", ""));
    }
    match kind {
        pointer if pointer.starts_with('*') => "u64".into(),
        number if enumerations.iter().any(|name| name == number) => "u32".into(),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::as_parameters;

    #[test]
    fn pointers_are_addresses_and_enumerations_are_numbers() {
        let text = "\
#[repr(C)]
pub struct A {
    pub x: *const ::core::ffi::c_void,
    pub sums: [*mut i32; 3usize],
    pub kind: Kind,
    pub part: B,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    [\"Size of A\"][::core::mem::size_of::<A>() - 40usize];
    [\"Alignment of A\"][::core::mem::align_of::<A>() - 8usize];
    [\"Offset of field: A::x\"][::core::mem::offset_of!(A, x) - 0usize];
    [\"Offset of field: A::sums\"][::core::mem::offset_of!(A, sums) - 8usize];
};
";
        let expected = "\
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct A {
pub(super) x: u64,
pub(super) sums: [u64; 3],
pub(super) kind: u32,
pub(super) part: B,
}

layout!(A, 40, x = 0, sums = 8);
";
        assert_eq!(as_parameters(text, &["Kind".into()]), expected);
    }
}
