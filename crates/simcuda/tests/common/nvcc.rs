//! Where a CUDA compiler may be.

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Finds nvcc: `NVCC`, `CUDA_HOME` or `CUDA_PATH`, the search path, an active virtual environment, the usual place.
pub fn find_nvcc() -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> = env::var_os("NVCC").map(PathBuf::from).into_iter().collect();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        candidates.extend(env::var_os(variable).map(|home| Path::new(&home).join("bin/nvcc")));
    }
    if let Some(path) = env::var_os("PATH") {
        candidates.extend(env::split_paths(&path).map(|folder| folder.join("nvcc")));
    }
    if let Some(venv) = env::var_os("VIRTUAL_ENV") {
        let pythons = fs::read_dir(Path::new(&venv).join("lib")).into_iter().flatten().flatten();
        candidates.extend(pythons.map(|python| python.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    }
    candidates.push("/usr/local/cuda/bin/nvcc".into());
    candidates.into_iter().find(|path| path.is_file())
}
