//! The crates as those meet them who are no part of this workspace: from their packages, in a folder without our settings of cargo.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::{TaskResult, root, simcuda, toolkit};

/// The device's counterpart of examples/linear.rs, against it.
const ON_A_DEVICE: &str = include_str!("outside_cuda.rs");

/// All packages have the workspace's.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Packs the workspace's published crates, builds those that are to be built from the packages alone, and runs programs that link moray's: with
/// the default features and, on the simulated driver, with one operation's kernels.
pub fn check(packages: &[String], are_built: bool) -> TaskResult {
    let folder = env::temp_dir().join(format!("moray-outside-{}", std::process::id()));
    let checked = check_in(&folder, packages, are_built);
    fs::remove_dir_all(&folder)?;
    checked
}

fn check_in(folder: &Path, packages: &[String], are_built: bool) -> TaskResult {
    fs::create_dir_all(folder.join("src/bin"))?;
    let members = unpack(folder, packages)?;
    let manifest = format!(
        "[package]\nname = \"outside\"\nedition = \"2024\"\n\n[dependencies]\nmoray = \"{VERSION}\"\n\n\
         [features]\ncuda = [\"moray/cuda-w4a8\", \"moray/cudarc-0_19\"]\n\n[[bin]]\nname = \"device\"\nrequired-features = [\"cuda\"]\n\n\
         [workspace]\nmembers = {:?}\n\n[patch.crates-io]\n{}",
        members.iter().map(|(_, path)| path).collect::<Vec<_>>(),
        members.iter().map(|(name, path)| format!("{name} = {{ path = {path:?} }}\n")).collect::<String>(),
    );
    fs::write(folder.join("Cargo.toml"), manifest)?;
    // the versions that are tested; cargo takes out what is not needed
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::copy(root().join("examples/linear.rs"), folder.join("src/bin/linear.rs"))?;
    fs::write(folder.join("src/bin/device.rs"), ON_A_DEVICE)?;
    if are_built {
        let mut build = cargo(folder, "build");
        build.args(members.iter().flat_map(|(name, _)| ["--package", name]));
        run(build)?;
        println!("{} build from their packages alone", packages.join(", "));
    }
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

/// The packages as they would be published, unpacked in a folder: names and paths.
fn unpack<'a>(folder: &Path, packages: &'a [String]) -> Result<Vec<(&'a str, PathBuf)>, Box<dyn std::error::Error>> {
    // of the workspace together: none of them needs a registry that has the others
    let mut pack = Command::new(env!("CARGO"));
    pack.arg("package").args(packages.iter().flat_map(|name| ["--package", name]));
    pack_into(pack, simcuda::target_folder().join("outside"), folder, packages.iter().map(String::as_str))
}

/// Packs with `pack` in a target folder, and unpacks those packages.
fn pack_into<'a>(
    mut pack: Command,
    target: PathBuf,
    folder: &Path,
    packages: impl Iterator<Item = &'a str>,
) -> Result<Vec<(&'a str, PathBuf)>, Box<dyn std::error::Error>> {
    pack.args(["--no-verify", "--allow-dirty", "--locked", "--quiet", "--target-dir"]).arg(&target);
    pack.current_dir(root());
    run(pack)?;
    let unpack = |name: &'a str| -> Result<(&'a str, PathBuf), Box<dyn std::error::Error>> {
        let package = format!("{name}-{VERSION}");
        let mut unpack = Command::new("tar");
        unpack.arg("xf").arg(target.join(format!("package/{package}.crate"))).arg("-C").arg(folder);
        run(unpack)?;
        Ok((name, folder.join(package)))
    };
    packages.map(unpack).collect()
}

/// Builds a package that is a workspace of its own from itself and moray's, in a target folder that has its dependencies.
pub fn check_beside(name: &str, target: &Path) -> TaskResult {
    let folder = env::temp_dir().join(format!("moray-beside-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let checked = check_beside_in(&folder, name, target);
    fs::remove_dir_all(&folder)?;
    checked
}

fn check_beside_in(folder: &Path, name: &str, target: &Path) -> TaskResult {
    let moray = ["moray".to_owned()];
    let patch = format!("patch.crates-io.moray.path = {:?}", unpack(folder, &moray)?[0].1);
    let mut pack = Command::new(env!("CARGO"));
    // a lock file of the package would name moray's of a registry, which need not have it
    pack.args(["package", "--exclude-lockfile", "--manifest-path", &format!("crates/{name}/Cargo.toml")]);
    let packed = pack_into(pack, target.into(), folder, [name].into_iter())?;
    // the versions that are tested
    fs::copy(root().join(format!("crates/{name}/Cargo.lock")), packed[0].1.join("Cargo.lock"))?;
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--config", &patch, "--target-dir"]).arg(target);
    build.current_dir(&packed[0].1);
    run(build)?;
    println!("{name} builds from its package and moray's alone");
    Ok(())
}

/// `cargo run` of a program there.
fn cargo_run(folder: &Path, program: &str) -> Command {
    let mut command = cargo(folder, "run");
    command.args(["--bin", program]);
    command
}

/// cargo there, without what it tells its tasks and without our settings.
fn cargo(folder: &Path, task: &str) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args([task, "--quiet", "--target-dir"]);
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
