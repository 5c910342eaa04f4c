//! `cargo xtask python`: builds the sdist, the wheel from it alone, and tests what that installs in an environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{TaskResult, root, simcuda, toolkit};

/// Runs the task; `torch` also installs torch and transformers, and demands the tests that need them.
pub fn run(arguments: &[String]) -> TaskResult {
    let with_torch = match arguments {
        [] => false,
        [only] if only == "torch" => true,
        _ => return Err(format!("python: expected torch or nothing, got {}", arguments.join(" ")).into()),
    };
    let folder = simcuda::target_folder().join("python");
    let python = environment(&folder)?;
    let mut lists = vec!["requirements.txt"];
    if with_torch {
        lists.push("requirements-torch.txt");
    }
    let files = lists.iter().flat_map(|list| ["-r".into(), tests().join(list)]);
    succeed(pip(&python, "install").args(files))?;
    let source = sdist(&python, &folder.join("sdist"))?;
    let wheel = wheel(&python, &folder.join("wheels"), &source, None)?;
    succeed(pip(&python, "install").args(["--no-deps", "--force-reinstall"]).arg(&wheel))?;
    let mut pytest = pytest(&python, &folder, &tests());
    if with_torch {
        pytest.env("MORAY_REQUIRE_TORCH", "1");
    }
    succeed(&mut pytest)
}

/// Tests what the package calls of a device on the simulated one, with the library that the device's own tests have been built with.
pub fn on_the_simulated_device() -> TaskResult {
    let folder = simcuda::target_folder().join("python");
    let (python, packages) = (environment(&folder)?, folder.join("cuda"));
    succeed(pip(&python, "install").arg("-r").arg(tests().join("requirements.txt")))?;
    let library = simcuda::target_folder().join("debug/deps/libmoray_c.so");
    let wheel = wheel(&python, &folder.join("wheels"), &root().join("python"), Some(&library))?;
    succeed(pip(&python, "install").args(["--no-deps", "--upgrade", "--target"]).arg(&packages).arg(&wheel))?;
    let mut pytest = pytest(&python, &folder, &tests().join("test_cuda.py"));
    // skipped where `cargo xtask python torch` has not installed torch
    pytest.arg(tests().join("test_torch_cuda.py"));
    pytest.env("PYTHONPATH", &packages).env("MORAY_REQUIRE_CUDA", "1");
    succeed(&mut simcuda::with_library(pytest)?)
}

/// The wheel around a library.
pub fn wheel_around(library: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let folder = simcuda::target_folder().join("python");
    let python = environment(&folder)?;
    succeed(pip(&python, "install").arg("-r").arg(tests().join("requirements.txt")))?;
    wheel(&python, &folder.join("wheels"), &root().join("python"), Some(library))
}

fn tests() -> PathBuf {
    root().join("python/tests")
}

/// Makes the sdist in an empty folder.
fn sdist(python: &Path, folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])";
    let mut command = Command::new(python);
    let log = fs::File::create(emptied(folder)?.with_extension("log"))?;
    command.args(["-c", build]).arg(folder).current_dir(root().join("python")).stdout(log);
    succeed(&mut command)?;
    only_file(folder)
}

/// Builds the wheel of sources in an empty folder, around a library that is there or a new one.
fn wheel(
    python: &Path,
    folder: &Path,
    source: &Path,
    library: Option<&Path>,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let mut build = pip(python, "wheel");
    // what the wheel is built with has been installed
    build.args(["--no-deps", "--no-build-isolation", "--wheel-dir"]).arg(emptied(folder)?).arg(source);
    if let Some(library) = library {
        build.env("MORAY_LIBRARY", library);
    }
    succeed(&mut build)?;
    only_file(folder)
}

fn emptied(folder: &Path) -> std::io::Result<&Path> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    Ok(folder)
}

fn only_file(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    Ok(fs::read_dir(folder)?.next().ok_or("expected a file, got none")??.path())
}

/// Tests from another folder than the sources, so that what is installed is imported.
fn pytest(python: &Path, folder: &Path, tests: &Path) -> Command {
    let mut pytest = Command::new(python);
    pytest.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]).arg(tests).current_dir(folder);
    pytest
}

/// An environment's interpreter; made where it is not.
fn environment(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let environment = folder.join("environment");
    let python = environment.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        succeed(Command::new(toolkit::python()?).args(["-m", "venv"]).arg(&environment))?;
    }
    Ok(python)
}

fn pip(python: &Path, task: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", task, "--quiet", "--disable-pip-version-check"]);
    command
}

fn succeed(command: &mut Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected {command:?} to succeed, got {status}").into()),
    }
}
