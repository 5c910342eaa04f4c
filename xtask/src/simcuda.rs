//! The simulated driver: builds it, and runs programs that find it as `libcuda.so.1`.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

/// Builds the driver and returns the folder that `LD_LIBRARY_PATH` must name for programs to load it.
///
/// # Errors
/// Returns an error if the build fails or the library cannot be put in place.
pub fn library_folder() -> io::Result<PathBuf> {
    let build = Command::new(env!("CARGO")).args(["build", "--quiet", "--release", "--package", "simcuda"]).status()?;
    if !build.success() {
        return Err(io::Error::other(format!("expected simcuda to build, got {build}")));
    }
    let target = target_folder();
    let folder = target.join("simcuda");
    fs::create_dir_all(&folder)?;
    // A copy moved into place: programs that run now keep the library they have.
    let (library, fresh) = (folder.join("libcuda.so.1"), folder.join(format!("libcuda.{}", std::process::id())));
    fs::copy(target.join("release").join("libsimcuda.so"), &fresh)?;
    fs::rename(&fresh, &library)?;
    Ok(folder)
}

/// Returns cargo's target folder.
pub fn target_folder() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from)
}

/// Returns `command` with the simulated driver on its library path.
///
/// # Errors
/// As [`library_folder`].
pub fn with_library(command: Command) -> io::Result<Command> {
    with_libraries(command, &[])
}

/// Returns `command` with the simulated driver on its library path, and other folders after it.
///
/// # Errors
/// As [`library_folder`].
pub fn with_libraries(mut command: Command, folders: &[PathBuf]) -> io::Result<Command> {
    let mut paths = vec![library_folder()?];
    paths.extend_from_slice(folders);
    paths.extend(env::var_os("LD_LIBRARY_PATH").iter().flat_map(env::split_paths));
    command.env("LD_LIBRARY_PATH", env::join_paths(paths).map_err(io::Error::other)?);
    Ok(command)
}

/// Runs `cargo xtask simcuda path | run <command …> | kernels`.
///
/// # Errors
/// Returns an error for an unknown task and for a command that fails.
pub fn run(arguments: &[String]) -> crate::TaskResult {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = match words[..] {
        ["path"] => {
            println!("{}", library_folder()?.canonicalize()?.display());
            return Ok(());
        }
        ["run", program, ref rest @ ..] => {
            let mut command = Command::new(program);
            command.args(rest);
            with_library(command)?
        }
        ["kernels"] => {
            let mut command = Command::new(env!("CARGO"));
            command.args(["test", "--package", "simcuda", "--test", "kernels_are_current"]);
            command.env("SIMCUDA_REGENERATE", "1");
            command
        }
        _ => return Err(format!("expected path, run <command> or kernels, got {words:?}").into()),
    };
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
