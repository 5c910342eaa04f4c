//! `cargo xtask fuzz [runs [target ...]]`: runs fuzz targets on changes of their corpora, each for a number of files.
//!
//! The targets are compiled for coverage by the compiler's stable options, without a sanitizer: what they read, they read in
//! safe Rust. `fuzz/README.md` says how to run one for long.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{TaskResult, root};

/// Files of each target by default: seconds of each.
const RUNS: &str = "20000";

/// What `cargo fuzz` compiles with, but for the sanitizer.
const FLAGS: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    let (runs, named) = match arguments.split_first() {
        Some((runs, named)) => (runs.as_str(), named),
        None => (RUNS, &[][..]),
    };
    let targets = if named.is_empty() { targets()? } else { named.to_vec() };
    let folder = root().join("fuzz");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--release", "--bins", "--locked", "--target", &host()?]).current_dir(&folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")).env_remove("CARGO_TARGET_DIR");
    if !build.status()?.success() {
        return Err("expected the fuzz targets to compile".into());
    }
    let programs = folder.join("target").join(host()?).join("release");
    for target in targets {
        fuzz(&programs.join(&target), &target, runs)?;
    }
    Ok(())
}

/// The names of all targets.
fn targets() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/fuzz_targets"))? {
        let path: PathBuf = entry?.path();
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    Ok(names)
}

/// Runs one target; what is found stays in `fuzz/target/found`.
fn fuzz(program: &Path, target: &str, runs: &str) -> TaskResult {
    let folder = root().join("fuzz");
    let found = folder.join("target/found").join(target);
    fs::create_dir_all(&found)?;
    let mut command = Command::new(program);
    command.arg(&found).arg(folder.join("corpus").join(target));
    command.args([&format!("-runs={runs}"), "-seed=1", "-rss_limit_mb=1024", "-timeout=10", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", folder.join("target").display()));
    println!("fuzzing {target}");
    let output = command.current_dir(&folder).output()?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{log}\nfuzz target {target}: expected no finding, got one").into());
    }
    let done = log.lines().rev().find(|line| line.contains("number_of_executed_units"));
    println!("{}", done.unwrap_or("no count of runs"));
    Ok(())
}

/// The triple of this machine, which keeps the options away from build scripts.
fn host() -> Result<String, Box<dyn std::error::Error>> {
    let output = Command::new("rustc").args(["--version", "--verbose"]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("expected the host's triple from rustc, got none")?.to_owned())
}
