//! moray as a crate meets it that is no part of this workspace: from its package, in a folder without our settings of cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::{TaskResult, root, simcuda, toolkit};

/// The device's counterpart of examples/linear.rs, against it.
const ON_A_DEVICE: &str = include_str!("outside_cuda.rs");

/// Packs moray, and builds and runs a program that links the package: with the default features and, on the simulated driver,
/// with one operation's kernels.
pub fn check() -> TaskResult {
    let folder = env::temp_dir().join(format!("moray-outside-{}", std::process::id()));
    let checked = check_in(&folder);
    fs::remove_dir_all(&folder)?;
    checked
}

fn check_in(folder: &Path) -> TaskResult {
    fs::create_dir_all(folder.join("src/bin"))?;
    let package = unpack(folder)?;
    let manifest = format!(
        "[package]\nname = \"outside\"\nedition = \"2024\"\n\n[dependencies]\nmoray = {{ path = {package:?} }}\n\n\
         [features]\ncuda = [\"moray/cuda-w4a8\", \"moray/cudarc-0_19\"]\n\n[[bin]]\nname = \"device\"\nrequired-features = [\"cuda\"]\n\n[workspace]\n"
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    // the versions that are tested; cargo takes out what is not needed
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::copy(root().join("examples/linear.rs"), folder.join("src/bin/linear.rs"))?;
    fs::write(folder.join("src/bin/device.rs"), ON_A_DEVICE)?;
    run(cargo_run(folder, "linear"))?;
    let mut device = cargo_run(folder, "device");
    device.args(["--features", "cuda"]).env("MORAY_NVCC", toolkit::nvcc()?).env("MORAY_CUDA_ARCHS", "compute_80");
    // what the README says where cudarc does not know the toolkit
    device.env("CUDARC_CUDA_VERSION", "13000");
    run(simcuda::with_library(device)?)?;
    println!(
        "a crate outside the workspace builds and runs with moray's package, on the CPU and on the simulated device"
    );
    Ok(())
}

/// The package as it would be published, unpacked in a folder.
fn unpack(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let target = simcuda::target_folder().join("outside");
    let mut pack = Command::new(env!("CARGO"));
    pack.args(["package", "--package", "moray", "--no-verify", "--allow-dirty", "--locked", "--quiet", "--target-dir"]);
    pack.arg(&target).current_dir(root());
    run(pack)?;
    let name = format!("moray-{}", env!("CARGO_PKG_VERSION"));
    let mut unpack = Command::new("tar");
    unpack.arg("xf").arg(target.join(format!("package/{name}.crate"))).arg("-C").arg(folder);
    run(unpack)?;
    Ok(folder.join(name))
}

/// `cargo run` of a program there, without what cargo tells its tasks and without our settings.
fn cargo_run(folder: &Path, program: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "--bin", program, "--target-dir"]);
    command.arg(simcuda::target_folder().join("outside")).current_dir(folder);
    for variable in ["CUDARC_CUDA_VERSION", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    command
}

fn run(mut command: Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{command:?}: expected success, got {status}").into()),
    }
}
