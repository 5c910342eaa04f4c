//! What bindings of CUDA, and candle, take for a CUDA toolkit on a machine without one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use crate::{simcuda, toolkit as compiler};

/// The libraries that candle links and that nothing here computes with.
const LIBRARIES: [&str; 4] = ["cublas", "cublasLt", "curand", "nvrtc"];

/// Makes a folder with the simulated driver in `lib64/`.
pub fn toolkit() -> io::Result<PathBuf> {
    let folder = simcuda::target_folder().join("engines/toolkit");
    let libraries = folder.join("lib64");
    fs::create_dir_all(&libraries)?;
    fs::copy(simcuda::library_folder()?.join("libcuda.so.1"), libraries.join("libcuda.so"))?;
    Ok(folder)
}

/// Makes a folder with that and what candle links besides: the runtime of the toolkit that has the compiler, and one library that stands in
/// for the others.
///
/// # Errors
/// Returns an error if the toolkit has no runtime, or the C compiler fails.
pub fn toolkit_for_candle() -> io::Result<PathBuf> {
    let folder = toolkit()?;
    let libraries = folder.join("lib64");
    for runtime in runtime()? {
        fs::copy(&runtime, libraries.join(runtime.file_name().unwrap_or_default()))?;
        fs::copy(&runtime, libraries.join("libcudart.so"))?;
    }
    let first = libraries.join(format!("lib{}.so", LIBRARIES[0]));
    let mut compile = Command::new(env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compile.args(["-shared", "-fPIC", "-o"]).arg(&first).arg(crate::root().join("xtask/src/engines/stand_in.c"));
    match compile.status()? {
        status if status.success() => (),
        status => return Err(io::Error::other(format!("{compile:?}: expected success, got {status}"))),
    }
    for other in &LIBRARIES[1..] {
        fs::copy(&first, libraries.join(format!("lib{other}.so")))?;
    }
    Ok(folder)
}

/// The files of libcudart, under all names that a toolkit has of it.
fn runtime() -> io::Result<Vec<PathBuf>> {
    let nvcc = compiler::nvcc()?;
    let of_compiler = nvcc.parent().and_then(Path::parent).map(Path::to_path_buf);
    let roots = of_compiler.into_iter().chain([simcuda::target_folder().join("toolkit/nvidia/cu13")]);
    let folders = roots.flat_map(|root| ["lib64", "lib", "targets/x86_64-linux/lib"].map(|lib| root.join(lib)));
    let is_runtime =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcudart.so"));
    for folder in folders {
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let found: Vec<_> = files.filter(is_runtime).collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(io::Error::other(format!("expected libcudart.so beside {}, got none", nvcc.display())))
}
