//! Runs the body of a test in a process of its own that finds the built library as `libcuda.so.1`.
//!
//! A process of its own, because the library path is read at its start, a faulting kernel ends its context for good, and
//! what the driver says on stderr is part of what is tested.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaStream, DriverError};

const CHILD: &str = "SIMCUDA_TEST_CHILD";
const DONE: &str = "body of the test has run";

/// Returns a folder that holds the library under the name by which programs look for it.
///
/// Cargo builds the library into the folder of the test executables before it runs any of them.
pub fn library_folder() -> PathBuf {
    let executable = env::current_exe().expect("a test knows its executable");
    let built = executable.parent().expect("an executable lies in a folder").join("libsimcuda.so");
    assert!(built.is_file(), "expected the library beside the tests, got nothing at {}", built.display());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("library");
    fs::create_dir_all(&folder).expect("the target folder is writable");
    let link = folder.join("libcuda.so.1");
    if fs::read_link(&link).ok().as_deref() != Some(&built) {
        // Several tests may arrive here at once: make the link beside it and move it into place.
        let fresh = folder.join(format!("link-{}-{:?}", std::process::id(), std::thread::current().id()));
        std::os::unix::fs::symlink(&built, &fresh).expect("links can be made");
        fs::rename(&fresh, &link).expect("a link can be replaced");
    }
    folder
}

/// Runs `body` under the simulated driver with extra environment variables and returns what it printed on stderr.
///
/// `test` is the name of the calling test. A panic in the body fails the test.
pub fn under_simcuda(test: &str, settings: &[(&str, &str)], body: impl FnOnce()) -> String {
    if env::var(CHILD).is_ok_and(|name| name == test) {
        body();
        println!("{DONE}");
        std::process::exit(0);
    }
    let executable = env::current_exe().expect("a test knows its executable");
    let mut command = Command::new(executable);
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIMCUDA_")) {
        command.env_remove(name);
    }
    let run = command
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("LD_LIBRARY_PATH", library_folder())
        .envs(settings.iter().copied())
        .output()
        .expect("a test can start itself");
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && stdout.contains(DONE), "{test} {settings:?} failed:\n{stdout}\n{stderr}");
    stderr.into_owned()
}

/// The lines that the driver wrote on stderr.
pub fn driver_lines(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.starts_with("simcuda:")).collect()
}

/// Reads one of the committed kernels.
pub fn kernel_ptx(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(name).with_extension("ptx");
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The simulated device's context and a stream that does not wait for the default one.
pub fn open() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(0).expect("the simulated device");
    let stream = context.new_stream().expect("a stream");
    (context, stream)
}

/// The code that a call came to.
pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.err().map_or(CUresult::CUDA_SUCCESS, |error| error.0)
}
