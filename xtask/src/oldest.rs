//! `cargo xtask oldest`: compiles the kernels with the compiler of the oldest toolkit that the README promises.
//!
//! No wheel holds that toolkit's nvcc, but NVRTC, which is the same compiler behind a library, and ptxas. One architecture is
//! enough to see whether every source is understood.

use std::io;
use std::process::Command;

use crate::{TaskResult, root, simcuda, toolkit};

/// Of CUDA 12.4.
const PACKAGES: [&str; 3] =
    ["nvidia-cuda-nvrtc-cu12==12.4.127", "nvidia-cuda-nvcc-cu12==12.4.131", "nvidia-cuda-runtime-cu12==12.4.127"];

const ARCHITECTURE: &str = "sm_80";

/// Calls NVRTC, and ptxas on what comes of it.
const PROGRAM: &str = include_str!("oldest.py");

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    if let Some(argument) = arguments.first() {
        return Err(format!("oldest: expected no arguments, got {argument}").into());
    }
    let folder = simcuda::target_folder().join("toolkit-oldest");
    toolkit::install(&folder, &PACKAGES, "nvidia/cuda_nvrtc")?;
    // both compilers have one thread: as many processes as there are cores, each with its share of the sources
    let cores = std::thread::available_parallelism()?.get();
    let python = |share: usize| {
        let mut python = Command::new(toolkit::python()?);
        python.arg("-c").arg(PROGRAM).arg(&folder).arg(root().join("kernels")).arg(ARCHITECTURE);
        python.args([share, cores].map(|number| number.to_string())).spawn()
    };
    let started = (0..cores).map(python).collect::<Vec<_>>();
    let ended = started.into_iter().map(|child| child?.wait()).collect::<io::Result<Vec<_>>>()?;
    match ended.into_iter().find(|status| !status.success()) {
        None => Ok(()),
        Some(status) => Err(format!("expected CUDA 12.4 to compile the kernels, got {status}").into()),
    }
}
