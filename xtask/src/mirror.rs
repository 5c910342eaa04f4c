//! `cargo xtask mirror`: writes what Rust has to know of the kernels, `mirror.rs` of each operation's `cuda` module.
//!
//! Structures come from `kernels/<operation>/params.cuh` by bindgen, with assertions of their layout; kernels from the PTX that
//! the compiler makes of every source. The C header is compared with the Rust that exports it in the same way, by a test that is
//! written here. Neither bindgen nor libclang is needed to build the crates.

mod c_header;
mod entries;
mod structures;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use crate::{TaskResult, root, toolkit};
use entries::Source;

/// Runs the task; `--check` compares instead of writing.
pub fn run(arguments: &[String]) -> TaskResult {
    let check = match arguments {
        [] => false,
        [argument] if argument == "--check" => true,
        _ => return Err(format!("mirror: expected nothing or --check, got {arguments:?}").into()),
    };
    let (nvcc, kernels) = (toolkit::nvcc()?, root().join("kernels"));
    let bindgen = structures::Bindgen::obtain()?;
    for folder in sorted(&kernels)? {
        let mut sources = sorted(&folder)?;
        sources.retain(|path| path.extension().is_some_and(|extension| extension == "cu"));
        if sources.is_empty() {
            continue;
        }
        let operation = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let sources =
            sources.iter().map(|source| Source::read(&nvcc, &kernels, source)).collect::<io::Result<Vec<_>>>()?;
        let text = format(&render(&operation, &bindgen.structures(&kernels, &operation)?, &sources))?;
        write_or_compare(&root().join("src").join(&operation).join("cuda/mirror.rs"), &text, check)?;
    }
    let c = root().join("crates/moray-c");
    write_or_compare(
        &c.join("tests/mirror.rs"),
        &format(&c_header::test(&bindgen, &c.join("include/moray.h"))?)?,
        check,
    )
}

fn write_or_compare(path: &Path, text: &str, check: bool) -> TaskResult {
    if !check {
        fs::write(path, text)?;
        println!("wrote {}", path.display());
    } else if fs::read_to_string(path)? != text {
        let path = path.display();
        return Err(format!("{path}: expected what its sources are now; run `cargo xtask mirror`").into());
    }
    Ok(())
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| folder.ends_with("kernels") == path.is_dir());
    paths.sort();
    Ok(paths)
}

/// The module's text: structures, then each source with its kernels.
fn render(operation: &str, structures: &str, sources: &[Source]) -> String {
    let mut text = format!(
        "//! The parameters and the kernels of `kernels/{operation}/`, written by `cargo xtask mirror`.\n\
         #![deny(dead_code)] // a kernel that nothing starts\n\n\
         use crate::device::{{Kernel, Module, images, layout}};\n\n{structures}\n"
    );
    let mut modules = String::new();
    for Source { name, kernels } in sources {
        let module = format!("MODULE_{}", name.to_uppercase());
        let image = format!("{operation}_{name}").to_uppercase();
        let symbols: Vec<_> = kernels.iter().map(|kernel| format!("{:?}", kernel.symbol)).collect();
        let _ = writeln!(
            text,
            "static {module}: Module = Module::new(\"{operation}/{name}\", images::{image}, &[{}]);\n",
            symbols.join(", ")
        );
        let _ = write!(modules, "&{module},");
        for kernel in kernels {
            let entries::Kernel { symbol, params, threads, shared_bytes, param_bytes } = kernel;
            let name = symbol.strip_prefix(&format!("{operation}_")).unwrap_or(symbol).to_uppercase();
            let _ = writeln!(
                text,
                "pub(super) const {name}: Kernel<{params}> = \
                 Kernel::new(&{module}, {symbol:?}, {threads}, {shared_bytes}, {param_bytes});"
            );
        }
        text.push('\n');
    }
    let _ = writeln!(text, "/// Every compiled source.\npub(crate) static MODULES: &[&Module] = &[{modules}];");
    text
}

/// Formats as `cargo fmt` does.
fn format(text: &str) -> io::Result<String> {
    let mut rustfmt = Command::new("rustfmt");
    rustfmt.args(["--edition", "2024", "--config-path"]).arg(root().join("rustfmt.toml"));
    let mut child = rustfmt.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = child.stdin.take().ok_or_else(|| io::Error::other("expected rustfmt to read"))?;
    input.write_all(text.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    match output.status.success() {
        true => String::from_utf8(output.stdout).map_err(io::Error::other),
        false => Err(io::Error::other(format!("expected rustfmt to format, got {}:\n{text}", output.status))),
    }
}
