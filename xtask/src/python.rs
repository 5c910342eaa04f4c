//! `cargo xtask python`: builds the wheel as a user does, and tests what it installs in an environment of its own.

use std::fs;
use std::path::Path;
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
    let tests = root().join("python/tests");
    let mut lists = vec!["requirements.txt"];
    if with_torch {
        lists.push("requirements-torch.txt");
    }
    let files = lists.iter().flat_map(|list| ["-r".into(), tests.join(list)]);
    succeed(pip(&python, "install").args(files))?;
    let wheels = folder.join("wheels");
    if wheels.exists() {
        fs::remove_dir_all(&wheels)?;
    }
    // what the wheel is built with has been installed
    let build = ["--no-deps", "--no-build-isolation", "--wheel-dir"];
    succeed(pip(&python, "wheel").args(build).arg(&wheels).arg(root().join("python")))?;
    let wheel = fs::read_dir(&wheels)?.next().ok_or("expected a wheel, got none")??.path();
    succeed(pip(&python, "install").args(["--no-deps", "--force-reinstall"]).arg(&wheel))?;
    // from another folder than the sources, so that what is installed is imported
    let mut pytest = Command::new(&python);
    pytest.args(["-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"]).arg(&tests).current_dir(&folder);
    if with_torch {
        pytest.env("MORAY_REQUIRE_TORCH", "1");
    }
    succeed(&mut pytest)
}

/// An environment's interpreter; made where it is not.
fn environment(folder: &Path) -> Result<std::path::PathBuf, Box<dyn std::error::Error>> {
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
