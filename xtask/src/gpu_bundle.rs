//! `cargo xtask gpu-bundle`: everything that a machine with a GPU needs to test and time the kernels, without Rust.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::{TaskResult, root, simcuda, toolkit};

/// The most that the archive may be, so that it is easily carried.
const LIMIT_BYTES: u64 = 60 << 20;

/// What is built, of the whole workspace with one set of features, so that the kernels are compiled once.
const PROGRAMS: [&[&str]; 2] =
    [&["test", "--no-run", "--test", "cuda_*", "--bench", "cuda_*"], &["build", "--bin", "moray"]];

/// The features of [`PROGRAMS`].
const FEATURES: &str = "moray/cublaslt,moray-lab/cuda";

/// How the archive is packed. Every program holds all kernels, which differ in nothing: a dictionary larger than a program finds
/// them again.
const PACKING: &str = "--lzma2=preset=1,dict=128MiB";

/// Builds the programs in release, strips them and writes `target/gpu-bundle.tar.xz`.
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
    for words in PROGRAMS {
        for (program, name) in build(words, &nvcc)? {
            install(&program, &name, &folder)?;
        }
    }
    fs::write(folder.join("commit"), commit())?;
    fs::write(folder.join("run.sh"), RUN)?;
    let archive = target.join("gpu-bundle.tar.xz");
    let mut tar = Command::new("tar");
    tar.env("XZ_OPT", PACKING)
        .args(["--create", "--xz", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(&target)
        .arg("gpu-bundle");
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

/// Builds programs in release and returns their files and names.
fn build(words: &[&str], nvcc: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut command = Command::new(env!("CARGO"));
    command.arg(words[0]).args(["--release", "--workspace", "--features", FEATURES]).args(&words[1..]);
    command.args(["--message-format", "json-render-diagnostics"]).current_dir(root()).env("MORAY_NVCC", nvcc);
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("expected cargo {} to build, got {}", words[0], output.status)));
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(messages.lines().filter_map(program_of).collect())
}

/// The program that a line of cargo's messages names, and what it is called in the bundle.
fn program_of(line: &str) -> Option<(PathBuf, String)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let program = PathBuf::from(message["executable"].as_str()?);
    let name = message["target"]["name"].as_str()?;
    // a test and a bench may have one name
    let is_bench = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "bench");
    Some((program, if is_bench { format!("{name}_bench") } else { name.into() }))
}

/// Copies a program under its plain name, without cargo's hash, and strips it.
fn install(program: &Path, name: &str, folder: &Path) -> io::Result<()> {
    let to = folder.join(name);
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
#   MORAY_ONLY=<word>         only programs whose names contain it: w4a8, bench, cuda_device ...
#   MORAY_QUICK=1             benches on small shapes, to see that they work
#   MORAY_MODEL=<file.gguf>   a model runs too
# With compute-sanitizer on the path, the tests also run under memcheck and racecheck.
set -uo pipefail
result=$(realpath -m "${1:-$(dirname "$0")/result.txt}")
cd "$(dirname "$0")"
failed=0
ran=0
section() { printf '\n## %s\n' "$1" | tee -a "$result"; }
wanted() { [ -x "$1" ] && case $1 in *"${MORAY_ONLY:-}"*) true ;; *) false ;; esac; }
check() {
    section "$*"
    ran=$((ran + 1))
    "$@" >output.txt 2>&1
    local code=$?
    grep -E '^(test result|test .*FAILED|thread|expected|assertion| +(left|right):|\||simcuda|=+ ERROR|[a-z0-9_]+/|device:|copy:|cuBLASLt|skipped|Error)' output.txt |
        tail -2000 | tee -a "$result"
    printf 'exit status %d\n' "$code" | tee -a "$result"
    [ "$code" -eq 0 ] || failed=1
}
machine() {
    section "$1"
    nvidia-smi --format=csv \
        --query-gpu=name,driver_version,compute_cap,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,temperature.gpu,power.draw,power.limit,memory.total \
        2>&1 | tee -a "$result"
}
: >"$result"
section "moray"
{ printf 'commit %s\n' "$(cat commit)"; date -u +'%Y-%m-%dT%H:%M:%SZ'; } | tee -a "$result"
machine "machine"
export MORAY_REQUIRE_CUDA=1
if ! ./cuda_device --exact every_kernel_of_the_table_is_loaded_and_found >output.txt 2>&1; then
    section "no device that runs the kernels"
    grep -E '^(expected|Error|error)' output.txt | head -5 | tee -a "$result"
    rm -f output.txt
    echo "FAILED" | tee -a "$result"
    exit 1
fi
for test in ./cuda_*; do
    case $test in *_bench) continue ;; esac
    wanted "$test" && check "$test"
done
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
        for test in ./cuda_w4a8 ./cuda_attention ./cuda_sparse_mlp ./cuda_input_sparse; do
            wanted "$test" && check compute-sanitizer --tool "$tool" --error-exitcode 1 "$test" --test-threads 1
        done
    done
fi
for bench in ./cuda_*_bench; do
    wanted "$bench" && check "$bench" "$([ "${MORAY_QUICK:-}" = 1 ] && echo --test || echo --bench)"
done
machine "machine after the benches"
if [ -n "${MORAY_MODEL:-}" ]; then
    for weights in dense as-file; do
        check ./moray generate --model "$MORAY_MODEL" --prompt "The capital of France is" -n 128 --ignore-eos --json \
            --weights "$weights" --device cuda
        cat output.txt >>"$result"
    done
fi
rm -f output.txt
section "end"
if [ "$ran" -eq 0 ]; then
    printf 'no program is called %s\n' "${MORAY_ONLY:-}" | tee -a "$result"
    failed=1
fi
[ "$failed" -eq 0 ] && echo "all $ran passed" | tee -a "$result" || echo "FAILED" | tee -a "$result"
exit "$failed"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn programs_have_the_names_of_their_targets_and_benches_a_suffix() {
        let line = |kind: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"cuda_w4a8"}},"executable":"/t/cuda_w4a8-0123456789abcdef"}}"#
            )
        };
        let file = PathBuf::from("/t/cuda_w4a8-0123456789abcdef");
        assert_eq!(program_of(&line("test")), Some((file.clone(), "cuda_w4a8".into())));
        assert_eq!(program_of(&line("bench")), Some((file, "cuda_w4a8_bench".into())));
        assert_eq!(program_of(r#"{"reason":"compiler-artifact","executable":null}"#), None);
        assert_eq!(program_of("no JSON"), None);
    }

    /// A folder with the script and stand-ins for programs.
    fn bundle(name: &str, programs: &[(&str, &str)]) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("moray-gpu-bundle-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        fs::write(folder.join("run.sh"), RUN).expect("a script");
        fs::write(folder.join("commit"), "c0ffee\n").expect("a commit");
        for (name, body) in programs {
            let path = folder.join(name);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a program");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program that runs");
        }
        folder
    }

    fn run_in(folder: &Path, only: &str) -> (bool, String) {
        let mut command = Command::new("bash");
        command.arg(folder.join("run.sh")).env("MORAY_ONLY", only).env("MORAY_QUICK", "1").env_remove("MORAY_MODEL");
        let output = command.output().expect("bash runs");
        let result = fs::read_to_string(folder.join("result.txt")).expect("a result file");
        (output.status.success(), result)
    }

    #[test]
    fn the_script_says_what_is_missing_where_no_device_runs_the_kernels() {
        let absent = "echo \"thread '$2' panicked\"; echo 'expected a CUDA device, got: no driver' >&2; exit 101";
        let folder = bundle("absent", &[("cuda_device", absent), ("cuda_x", "echo 'test result: ok.'")]);
        let (passed, result) = run_in(&folder, "");
        assert!(!passed && result.contains("expected a CUDA device, got: no driver"), "{result}");
        assert!(result.ends_with("FAILED\n") && !result.contains("cuda_x"), "{result}");
        fs::remove_dir_all(folder).expect("the folder can go");
    }

    #[test]
    fn the_script_runs_every_program_and_its_result_says_which_failed() {
        let good = "echo 'test result: ok. 5 passed'";
        let bench = "echo \"| w4a8/x $1 | 1.0 |\"; [ \"$MORAY_REQUIRE_CUDA\" = 1 ]";
        let folder =
            bundle("all", &[("cuda_device", good), ("cuda_x", "echo nonsense; exit 3"), ("cuda_x_bench", bench)]);
        let (passed, result) = run_in(&folder, "");
        assert!(!passed && result.contains("FAILED") && result.contains("exit status 3"), "{result}");
        assert!(result.contains("commit c0ffee") && result.contains("test result: ok. 5 passed"), "{result}");
        assert!(result.contains("| w4a8/x --test | 1.0 |") && !result.contains("nonsense"), "{result}");

        let (passed, result) = run_in(&folder, "device");
        assert!(passed && result.contains("all 1 passed") && !result.contains("cuda_x"), "{result}");
        let (passed, result) = run_in(&folder, "cuda_missing");
        assert!(!passed && result.contains("no program is called cuda_missing"), "{result}");
        fs::remove_dir_all(folder).expect("the folder can go");
    }
}
