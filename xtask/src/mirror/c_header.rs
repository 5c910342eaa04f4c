//! The C header as bindgen reads it, beside the Rust that exports it: a test that does not compile where they differ.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::structures::Bindgen;

/// What stands for the host's headers, which libclang does not bring.
const HEADERS: [(&str, &str); 2] = [
    ("stddef.h", "#pragma once\ntypedef unsigned long size_t;\n"),
    (
        "stdint.h",
        "#pragma once\ntypedef signed char int8_t;\ntypedef int int32_t;\ntypedef unsigned char uint8_t;\n\
         typedef unsigned short uint16_t;\ntypedef unsigned int uint32_t;\ntypedef unsigned long uint64_t;\n",
    ),
];

/// The test's text: layouts, constants and signatures of the header, each asserted of the crate.
pub(super) fn test(bindgen: &Bindgen, header: &Path) -> io::Result<String> {
    let folder = std::env::temp_dir().join(format!("moray-header-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    for (name, text) in HEADERS {
        fs::write(folder.join(name), text)?;
    }
    let mut command = bindgen.command();
    command.arg(header).args(["--no-doc-comments", "--use-core", "--allowlist-item", "(moray|Moray|MORAY).*"]);
    command.args(["--", "-nostdinc"]).arg(format!("-I{}", folder.display()));
    let run = command.output()?;
    fs::remove_dir_all(&folder)?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        return Err(io::Error::other(format!("expected bindgen to read {}, got:\n{said}", header.display())));
    }
    Ok(as_test(&String::from_utf8_lossy(&run.stdout)))
}

/// Keeps bindgen's assertions and declarations, whose names become those of the crate.
fn as_test(text: &str) -> String {
    let (mut layouts, mut constants, mut declared, mut same) =
        (String::new(), String::new(), String::new(), String::new());
    let mut items = text.lines().peekable();
    while let Some(line) = items.next() {
        let mut item = |out: &mut String, end: &str| {
            let _ = writeln!(out, "{line}");
            for line in items.by_ref() {
                let _ = writeln!(out, "{line}");
                if line == end {
                    break;
                }
            }
        };
        if line == "const _: () = {" {
            item(&mut layouts, "};");
        } else if line.starts_with("unsafe extern \"C\" {") {
            let mut block = String::new();
            item(&mut block, "}");
            if let Some((name, arguments)) = function(&block) {
                let blanks = vec!["_"; arguments].join(", ");
                let result = if block.contains(") -> ") { " -> _" } else { "" };
                let _ =
                    writeln!(same, "let _: [unsafe extern \"C\" fn({blanks}){result}; 2] = [header::{name}, {name}];");
            }
            declared += &block;
        } else if let Some((name, value)) = constant(line) {
            let _ = writeln!(constants, "assert!({name} == {value});");
        }
    }
    format!(
        "//! What bindgen reads in `include/moray.h`, asserted of the crate; written by `cargo xtask mirror`.\n\
         #![allow(clippy::identity_op, clippy::unnecessary_operation)]\n\
         #![allow(improper_ctypes)] // handles are opaque\n\nuse moray_c::*;\n\n{layouts}\n\
         const _: () = {{\nassert!(size_of::<MorayStatus>() == size_of::<core::ffi::c_uint>());\n{constants}}};\n\n\
         mod header {{\nuse moray_c::*;\n\n{declared}}}\n\n\
         #[test]\nfn signatures_of_the_header_match_the_crate() {{\n{same}}}\n"
    )
}

/// The name of a declared function and how many arguments it has.
fn function(block: &str) -> Option<(&str, usize)> {
    let (name, rest) = block.split_once("pub fn ")?.1.split_once('(')?;
    Some((name, rest.rsplit_once(')')?.0.matches(": ").count()))
}

/// A constant with its value; those of a status as the variants that they are in Rust.
fn constant(line: &str) -> Option<(String, &str)> {
    let (name, rest) = line.strip_prefix("pub const ")?.split_once(": ")?;
    let value = rest.split_once("= ")?.1.strip_suffix(';')?;
    let name = match name.strip_prefix("MorayStatus_MORAY_STATUS_") {
        Some(variant) => format!("MorayStatus::{} as u32", variant.split('_').map(capitalised).collect::<String>()),
        None => name.to_owned(),
    };
    Some((name, value))
}

fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(1.min(word.len()));
    first.to_owned() + &rest.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::{constant, function};

    #[test]
    fn names_counts_and_values_match_those_of_a_declaration() {
        let block =
            "unsafe extern \"C\" {\n    pub fn moray_f(\n        a: *const A,\n        b: usize,\n    ) -> S;\n}\n";
        assert_eq!(function(block), Some(("moray_f", 2)));
        assert_eq!(function("pub fn moray_g() -> u32;"), Some(("moray_g", 0)));
        let status = "pub const MorayStatus_MORAY_STATUS_NOT_INCREASING: MorayStatus = 4;";
        assert_eq!(constant(status), Some(("MorayStatus::NotIncreasing as u32".to_owned(), "4")));
        assert_eq!(constant("pub const MORAY_F16: u32 = 1;"), Some(("MORAY_F16".to_owned(), "1")));
        assert_eq!(constant("pub type MorayOp = u32;"), None);
    }
}
