//! `cargo xtask sizes`: how large what is given away is, into `results/sizes.md`.

use std::fs;
use std::path::Path;

use crate::{TaskResult, hub_kernel, python, root, simcuda};

const FILE: &str = "results/sizes.md";

/// Builds the C library and the wheel around it, `--cuda` also with the kernels for devices, and writes the table.
pub fn run(arguments: &[String]) -> TaskResult {
    let with_cuda = match arguments {
        [] => false,
        [only] if only == "--cuda" => true,
        _ => return Err(format!("sizes: expected --cuda or nothing, got {}", arguments.join(" ")).into()),
    };
    let features: &[(&str, &[&str])] = &[("for the CPU", &[]), ("with all CUDA kernels", &["--features", "cuda"])];
    let mut rows = String::new();
    for (what, features) in &features[..if with_cuda { 2 } else { 1 }] {
        let built = hub_kernel::with_features(features)?;
        // apart from the next one's
        let library = simcuda::target_folder().join("sizes").join(built.file_name().ok_or("expected a file's name")?);
        fs::create_dir_all(library.parent().ok_or("expected a folder")?)?;
        fs::copy(&built, &library)?;
        let wheel = python::wheel_around(&library)?;
        rows += &format!("| {what} | {} | {} |\n", megabytes(&library)?, megabytes(&wheel)?);
    }
    let architectures = match std::env::var("MORAY_CUDA_ARCHS") {
        Ok(archs) if with_cuda => format!(", kernels for {archs}"),
        _ if with_cuda => ", kernels for every architecture".into(),
        _ => String::new(),
    };
    let (arch, os) = (std::env::consts::ARCH, std::env::consts::OS);
    let page = format!(
        "# What is given away, in MB\n\nWritten by `cargo xtask sizes{}`: the shared library of the C ABI in release mode without symbols, and the wheel around it, \
         which is compressed; {arch}, {os}{architectures}.\n\n| | library | wheel |\n|---|---:|---:|\n{rows}",
        if with_cuda { " --cuda" } else { "" },
    );
    fs::write(root().join(FILE), &page)?;
    println!("{page}");
    Ok(())
}

/// The size of a file in MB of 10⁶ bytes.
fn megabytes(file: &Path) -> std::io::Result<String> {
    Ok(format!("{:.2}", fs::metadata(file)?.len() as f64 / 1e6))
}
