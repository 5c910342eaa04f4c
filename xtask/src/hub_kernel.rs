//! `cargo xtask hub-kernel`: the kernel that the Hugging Face `kernels` library loads, around the C ABI's library.

use std::path::PathBuf;
use std::process::Command;

use crate::{TaskResult, root, simcuda, toolkit};

/// Compiles the library and writes the kernel into the folder that is named, or `target/hub-kernel`; with `--cuda VERSION` first, that of nvcc,
/// the variant that has kernels for CUDA devices.
pub fn run(arguments: &[String]) -> TaskResult {
    let (cuda, arguments) = match arguments {
        [flag, version, rest @ ..] if flag == "--cuda" => (Some(version), rest),
        _ => (None, arguments),
    };
    let out = match arguments {
        [] => simcuda::target_folder().join("hub-kernel"),
        [folder] => PathBuf::from(folder),
        _ => return Err(format!("hub-kernel: expected a folder or nothing, got {}", arguments.join(" ")).into()),
    };
    let library = with_features(if cuda.is_some() { &["--features", "cuda"] } else { &[] })?;
    let mut build = Command::new(toolkit::python()?);
    build.arg(root().join("python/hub/build.py")).arg(library).arg(out);
    succeed(build.args(cuda))
}

/// Compiles the C ABI's shared library as it is given away, and says where it is.
pub fn library() -> Result<PathBuf, Box<dyn std::error::Error>> {
    with_features(&[])
}

/// As [`library`], with features of moray-c, as arguments of cargo.
pub fn with_features(features: &[&str]) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["rustc", "--quiet", "--release", "--locked", "--package", "moray-c", "--crate-type", "cdylib"]);
    cargo.args(features).args(["--", "-C", "strip=symbols"]).current_dir(root());
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
