//! What cust takes for a CUDA toolkit, on a machine without one.

use std::fs;
use std::path::PathBuf;

use crate::simcuda;

/// Makes a folder with the simulated driver in `lib64/`.
pub fn toolkit() -> std::io::Result<PathBuf> {
    let folder = simcuda::target_folder().join("engines/toolkit");
    fs::create_dir_all(folder.join("lib64"))?;
    fs::copy(simcuda::library_folder()?.join("libcuda.so.1"), folder.join("lib64/libcuda.so"))?;
    Ok(folder)
}
