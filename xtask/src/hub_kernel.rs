//! `cargo xtask hub-kernel`: the kernel that the Hugging Face `kernels` library loads, around the C ABI's library.

use std::path::PathBuf;
use std::process::Command;

use crate::{TaskResult, root, simcuda, toolkit};

/// Compiles the library and writes the kernel into the folder that is named, or `target/hub-kernel`.
pub fn run(arguments: &[String]) -> TaskResult {
    let out = match arguments {
        [] => simcuda::target_folder().join("hub-kernel"),
        [folder] => PathBuf::from(folder),
        _ => return Err(format!("hub-kernel: expected a folder or nothing, got {}", arguments.join(" ")).into()),
    };
    let library = library()?;
    succeed(Command::new(toolkit::python()?).arg(root().join("python/hub/build.py")).arg(library).arg(out))
}

/// Compiles the C ABI's shared library as it is given away, and says where it is.
pub fn library() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "--quiet", "--release", "--locked", "--package", "moray-c", "--crate-type", "cdylib"]);
    cargo.args(["--", "-C", "strip=symbols"]).current_dir(root());
    succeed(&mut cargo)?;
    let name = format!("{}moray_c{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(simcuda::target_folder().join("release").join(name))
}

fn succeed(command: &mut Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected {command:?} to succeed, got {status}").into()),
    }
}
