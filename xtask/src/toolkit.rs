//! `cargo xtask toolkit`: obtains a CUDA compiler where there is none.
//!
//! NVIDIA's wheels hold a whole nvcc. pip unpacks them into a folder of its own below the target folder, where `build.rs`
//! looks; nothing else on the machine changes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use crate::TaskResult;

/// What an nvcc that compiles kernels consists of; it also needs the machine's g++.
const PACKAGES: [&str; 5] = [
    "nvidia-cuda-nvcc==13.5.*",
    "nvidia-cuda-crt==13.5.*",
    "nvidia-nvvm==13.5.*",
    "nvidia-cuda-runtime==13.5.*",
    "nvidia-cuda-cccl==13.*",
];

/// What they bring.
const INSTALLED: &str = "nvidia/cu13/bin/nvcc";

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    if let Some(argument) = arguments.first() {
        return Err(format!("toolkit: expected no arguments, got {argument}").into());
    }
    println!("{}", nvcc()?.display());
    Ok(())
}

/// Returns a compiler: the one that the environment names, one on the path, or the one that is then installed.
///
/// # Errors
/// Returns an error if there is no Python with pip, or pip cannot download or unpack the packages.
pub fn nvcc() -> io::Result<PathBuf> {
    let folder = crate::simcuda::target_folder().join("toolkit");
    let installed = folder.join(INSTALLED);
    if let Some(found) = elsewhere().or_else(|| installed.is_file().then(|| installed.clone())) {
        return Ok(found);
    }
    println!("installing nvcc 13.5 (about 270 MB) into {}", folder.display());
    install(&folder, &PACKAGES, INSTALLED)?;
    Ok(installed)
}

/// Has pip unpack packages into a folder, unless what they bring is there.
///
/// # Errors
/// As [`nvcc`].
pub fn install(folder: &Path, packages: &[&str], brings: &str) -> io::Result<()> {
    if folder.join(brings).exists() {
        return Ok(());
    }
    // Beside its place and then moved, so what stands there is whole.
    let fresh = folder.with_extension(std::process::id().to_string());
    let result = unpack(&fresh, packages).and_then(|()| {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::rename(&fresh, folder)
    });
    if result.is_err() && fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    result
}

/// The places outside the target folder where `build.rs` looks first, and in the same order.
fn elsewhere() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> =
        ["MORAY_NVCC", "NVCC"].iter().filter_map(env::var_os).map(PathBuf::from).collect();
    let homes = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os);
    candidates.extend(homes.map(|home| Path::new(&home).join("bin/nvcc")));
    candidates.extend(env::var_os("PATH").iter().flat_map(env::split_paths).map(|folder| folder.join("nvcc")));
    if let Some(environment) = env::var_os("VIRTUAL_ENV") {
        let pythons = fs::read_dir(Path::new(&environment).join("lib")).into_iter().flatten().flatten();
        candidates.extend(pythons.map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    }
    candidates.into_iter().find(|path| path.is_file())
}

fn unpack(folder: &Path, packages: &[&str]) -> io::Result<()> {
    let mut command = Command::new(python()?);
    command.args(["-m", "pip", "install", "--quiet", "--progress-bar", "on", "--no-deps", "--only-binary=:all:"]);
    command.args(["--disable-pip-version-check", "--target"]).arg(folder).args(packages);
    command.env("PIP_REQUIRE_VIRTUALENV", "false").env("PIP_USER", "0");
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("expected pip to install {}, got {status}", packages.join(", ")))),
    }
}

/// The name of a Python that starts.
///
/// # Errors
/// Returns an error if there is none.
pub fn python() -> io::Result<&'static str> {
    let starts = |python: &&str| Command::new(python).arg("--version").output().is_ok_and(|run| run.status.success());
    ["python3", "python"].into_iter().find(starts).ok_or_else(|| {
        io::Error::other("expected python3 or python on the path, got neither; install Python 3 with pip, or set NVCC")
    })
}
