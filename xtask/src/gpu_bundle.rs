//! `cargo xtask gpu-bundle`: everything that a machine with a GPU needs to test and time the kernels, without Rust.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::{TaskResult, root, simcuda, toolkit};

/// The most that the archive may be, so that it is easily carried.
const LIMIT_BYTES: u64 = 60 << 20;

/// What is built: package and the kind of cargo's targets.
const PROGRAMS: [(&str, &[&str]); 2] = [
    ("moray", &["test", "--features", "cuda", "--test", "cuda_*", "--bench", "cuda_w4a8"]),
    ("moray-lab", &["build", "--features", "cuda", "--bin", "moray"]),
];

/// Builds the programs in release, strips them and writes `target/gpu-bundle.tar.gz`.
pub fn run(arguments: &[String]) -> TaskResult {
    if let Some(argument) = arguments.first() {
        return Err(format!("gpu-bundle: expected no arguments, got {argument}").into());
    }
    let nvcc = toolkit::nvcc()?;
    let target = simcuda::target_folder();
    let folder = target.join("gpu-bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    for (package, words) in PROGRAMS {
        for program in build(package, words, &nvcc)? {
            install(&program, &folder)?;
        }
    }
    fs::write(folder.join("commit"), commit())?;
    fs::write(folder.join("run.sh"), RUN)?;
    let archive = target.join("gpu-bundle.tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--gzip", "--file"]).arg(&archive).arg("--directory").arg(&target).arg("gpu-bundle");
    succeed(tar)?;
    let bytes = fs::metadata(&archive)?.len();
    if bytes > LIMIT_BYTES {
        return Err(format!("{}: expected at most {LIMIT_BYTES} bytes, got {bytes}", archive.display()).into());
    }
    println!(
        "{}: {:.1} MB; unpack it on a machine with a GPU and run `bash gpu-bundle/run.sh`",
        archive.display(),
        bytes as f64 / 1e6
    );
    Ok(())
}

/// Builds a package's programs in release and returns their files.
fn build(package: &str, words: &[&str], nvcc: &Path) -> io::Result<Vec<PathBuf>> {
    let mut command = Command::new(env!("CARGO"));
    command.arg(words[0]).args(["--release", "--package", package]).args(&words[1..]);
    if words[0] == "test" {
        command.arg("--no-run");
    }
    command.args(["--message-format", "json-render-diagnostics"]).current_dir(root()).env("MORAY_NVCC", nvcc);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("expected {package} to build, got {}", output.status)));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let parsed = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    Ok(parsed.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect())
}

/// Copies a program under its plain name, without cargo's hash, and strips it.
fn install(program: &Path, folder: &Path) -> io::Result<()> {
    let stem = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let hash = |tail: &str| tail.len() == 16 && tail.chars().all(|c| c.is_ascii_hexdigit());
    let name = match stem.rsplit_once('-') {
        Some((name, tail)) if hash(tail) => name,
        _ => &stem,
    };
    // a test and a bench may have one name
    let mut to = folder.join(name);
    if to.exists() {
        to = folder.join(format!("{name}_bench"));
    }
    fs::copy(program, &to)?;
    let mut strip = Command::new("strip");
    strip.arg(&to);
    succeed(strip)
}

/// The commit that was built, with a mark if the tree had changes.
fn commit() -> String {
    let git = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=40"]).current_dir(root()).output();
    git.map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeed(mut command: Command) -> io::Result<()> {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("{command:?}: {status}"))),
    }
}

/// Runs on the machine with the GPU: correctness, then times; one result file.
const RUN: &str = r#"#!/usr/bin/env bash
# Tests and times moray's kernels on this machine's first GPU. Writes result.txt beside this file, or where $1 says.
# With compute-sanitizer on the path, the tests also run under memcheck and racecheck. With MORAY_MODEL=<file.gguf> a model runs.
set -uo pipefail
cd "$(dirname "$0")"
result=${1:-result.txt}
failed=0
section() { printf '\n## %s\n' "$1" | tee -a "$result"; }
check() {
    section "$*"
    "$@" >output.txt 2>&1
    local code=$?
    grep -E '^(test result|test .*FAILED|thread|\||simcuda|=+ ERROR|[a-z0-9_]+/)' output.txt | tail -200 | tee -a "$result"
    printf 'exit status %d\n' "$code" | tee -a "$result"
    [ "$code" -eq 0 ] || failed=1
}
: >"$result"
section "machine"
{
    printf 'commit %s\n' "$(cat commit)"
    date -u +'%Y-%m-%dT%H:%M:%SZ'
    nvidia-smi --query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,memory.total \
        --format=csv
} 2>&1 | tee -a "$result"
export MORAY_REQUIRE_CUDA=1
for test in ./cuda_*; do
    case $test in *_bench) continue ;; esac
    check "$test"
done
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for test in ./cuda_w4a8 ./cuda_attention ./cuda_sparse_mlp; do
            [ -x "$test" ] && check compute-sanitizer --tool "$tool" --error-exitcode 1 "$test" --test-threads 1
        done
    done
fi
for bench in ./cuda_*_bench; do
    [ -x "$bench" ] && check "$bench" --bench
done
if [ -n "${MORAY_MODEL:-}" ]; then
    for weights in dense as-file; do
        check ./moray generate --model "$MORAY_MODEL" --prompt "The capital of France is" -n 128 --ignore-eos --json \
            --weights "$weights" --device cuda
        cat output.txt >>"$result"
    done
fi
rm -f output.txt
section "end"
[ "$failed" -eq 0 ] && echo "all passed" | tee -a "$result" || echo "FAILED" | tee -a "$result"
exit "$failed"
"#;
