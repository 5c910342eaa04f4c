//! `cargo xtask packages`: what a package promises to those who build it holds: its licences, its Rust version, that moray's can be
//! linked, and that all build alone.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{TaskResult, engines, outside, root};

/// What every published package carries beside its code.
const FILES: [&str; 3] = ["LICENSE-MIT", "LICENSE-APACHE", "README.md"];

/// The package that is a workspace of its own.
const BESIDE: &str = "moray-candle";

/// Runs the task; `all` also builds every package, which takes minutes.
pub fn run(arguments: &[String]) -> TaskResult {
    let are_built = match arguments {
        [] => false,
        [only] if only == "all" => true,
        _ => return Err(format!("packages: expected all or nothing, got {}", arguments.join(" ")).into()),
    };
    let packages = published()?;
    for name in &packages {
        let missing = missing(&contents(name)?);
        if !missing.is_empty() {
            return Err(format!("package {name}: expected {}, got none of them", missing.join(", ")).into());
        }
    }
    println!("{}: each has {}", packages.join(", "), FILES.join(", "));
    check_with_declared_rust()?;
    outside::check(&packages.into_iter().filter(|name| name != BESIDE).collect::<Vec<_>>(), are_built)?;
    if are_built { engines::candle_package() } else { Ok(()) }
}

/// The packages that are meant for a registry.
fn published() -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let arguments = ["metadata", "--format-version", "1", "--locked", "--no-deps"];
    let metadata: Value = serde_json::from_str(&output(Command::new(env!("CARGO")).args(arguments))?)?;
    let packages = metadata["packages"].as_array().ok_or("expected packages from cargo metadata, got none")?;
    // `publish = false` is an empty list of registries
    let published = packages.iter().filter(|package| package["publish"].as_array().is_none_or(|to| !to.is_empty()));
    Ok(published.filter_map(|package| package["name"].as_str()).chain([BESIDE]).map(str::to_owned).collect())
}

/// The paths that a package would hold.
fn contents(name: &str) -> Result<String, Box<dyn std::error::Error>> {
    let manifest = if name == BESIDE { format!("crates/{name}/Cargo.toml") } else { "Cargo.toml".into() };
    let arguments = ["package", "--list", "--allow-dirty", "--locked", "--package", name, "--manifest-path", &manifest];
    output(Command::new(env!("CARGO")).args(arguments))
}

fn missing(contents: &str) -> Vec<&'static str> {
    FILES.into_iter().filter(|file| !contents.lines().any(|line| line == *file)).collect()
}

/// Compiles the workspace with the oldest Rust that its packages declare, where that toolchain is there or can be had.
fn check_with_declared_rust() -> TaskResult {
    let version = declared_rust(&std::fs::read_to_string(root().join("Cargo.toml"))?)
        .ok_or("Cargo.toml: expected rust-version, got none")?;
    let rustup = |arguments: &[&str]| {
        // an outer rustup names its own toolchain here
        let mut command = Command::new("rustup");
        command.args(arguments).current_dir(root()).env_remove("RUSTUP_TOOLCHAIN");
        command
    };
    let install = ["toolchain", "install", &version, "--profile", "minimal", "--no-self-update"];
    let is_there = || rustup(&["run", &version, "cargo", "--version"]).output().is_ok_and(|run| run.status.success());
    if !is_there() && !rustup(&install).output().is_ok_and(|run| run.status.success() && is_there()) {
        println!(
            "skipped: Rust {version} is neither installed nor to be had; only clippy's incompatible_msrv has checked"
        );
        return Ok(());
    }
    // a folder of its own, so that the two toolchains do not rebuild each other's dependencies
    let target = Path::new("target").join("declared-rust");
    let mut check =
        rustup(&["run", &version, "cargo", "check", "--workspace", "--all-features", "--locked", "--quiet"]);
    check.arg("--target-dir").arg(target).env("MORAY_CUDA_ARCHS", "compute_80");
    // of another toolchain
    for variable in ["CARGO", "RUSTC", "RUSTFLAGS"] {
        check.env_remove(variable);
    }
    match check.status()? {
        status if status.success() => println!("the workspace compiles with the declared Rust {version}"),
        status => return Err(format!("expected the workspace to compile with Rust {version}, got {status}").into()),
    }
    Ok(())
}

/// The first `rust-version` of a manifest.
fn declared_rust(manifest: &str) -> Option<String> {
    let value = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "))?;
    Some(value.trim().trim_matches('"').to_owned())
}

fn output(command: &mut Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.current_dir(root()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into())
}

#[cfg(test)]
mod tests {
    use super::{declared_rust, missing};

    #[test]
    fn missing_files_match_those_that_a_list_lacks() {
        assert_eq!(missing("Cargo.toml\nLICENSE-MIT\nREADME.md\nsrc/LICENSE-APACHE\n"), ["LICENSE-APACHE"]);
        assert!(missing("LICENSE-APACHE\nLICENSE-MIT\nREADME.md\n").is_empty());
    }

    #[test]
    fn declared_rust_matches_the_manifest() {
        assert_eq!(declared_rust("[workspace.package]\nrust-version = \"1.89\"\n").as_deref(), Some("1.89"));
        assert_eq!(declared_rust("[package]\nname = \"x\"\n"), None);
    }
}
