//! `cargo xtask engines`: moray in engines that are no part of the workspace, each with a lock file of its own.

mod stand_in;

use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::{TaskResult, fetch, outside, root, simcuda, toolkit};

/// candle's operations, and programs with other bindings of CUDA, or none.
const CANDLE: &str = "crates/moray-candle";
const BINDINGS: &str = "examples/engines";

/// The programs of [`BINDINGS`], the first of which docs/cuda-engines.md shows.
const PROGRAMS: [&str; 3] = ["cust", "cudarc_0_18", "driver"];

/// What candle and the command continue: a prompt that leaves no doubt how it goes on, since candle and moray add in other orders,
/// and where two tokens are nearly as probable that decides; and tokens.
const PROMPT: &str = "1, 2, 3, 4, 5, 6, 7,";
const TOKENS: &str = "24";

/// The parts of the task by name; without one all run, and with `candle` those too that `cargo xtask test` and `packages all` run of it.
const PARTS: [(&str, fn() -> TaskResult); 5] = [
    (OF_CANDLE[0], candle_tests),
    (OF_CANDLE[1], candle_package),
    ("candle", in_candle),
    ("cuda", in_other_bindings),
    ("candle-cuda", in_candle_on_cuda),
];
const OF_CANDLE: [&str; 2] = ["candle-tests", "candle-package"];

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    let names = PARTS.map(|(name, _)| name);
    if let Some(unknown) = arguments.iter().find(|argument| !names.contains(&argument.as_str())) {
        return Err(format!("engines: expected {}, got {unknown}", names.join(", ")).into());
    }
    let is_named = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    let is_asked = |name: &str| is_named(name) || (OF_CANDLE.contains(&name) && is_named("candle"));
    PARTS.into_iter().filter(|(name, _)| is_asked(name)).try_for_each(|(_, part)| part())
}

/// Tests the operations on the CPU. Nothing is optimised, which takes candle's crates the most time, and shapes are small.
fn candle_tests() -> TaskResult {
    check(cargo(CANDLE, &["fmt", "--check"]))?;
    check(cargo(CANDLE, &["test", "--locked", "--lib", "--tests"]))?;
    check(cargo(CANDLE, &["test", "--locked", "--doc"]))
}

/// Builds moray-candle from its package and moray's alone, in the folder that the tests build in.
pub fn candle_package() -> TaskResult {
    outside::check_beside("moray-candle", &simcuda::target_folder().join("engines"))
}

/// Continues a text by candle's forward pass with moray's layers, by candle's own and by moray's.
fn in_candle() -> TaskResult {
    fetch::run(&[])?;
    let model = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut example = cargo(CANDLE, &["run", "--release", "--locked", "--quiet", "--example", "smollm2", "--"]);
    // one round of measurements, to see that they work
    example.arg(&model).args([PROMPT, TOKENS, "1"]);
    let printed = output(example)?;
    print!("{printed}");
    let mut generate = Command::new(env!("CARGO"));
    generate.args(["run", "--quiet", "--release", "--package", "moray-lab", "--", "generate", "--json", "--model"]);
    generate.arg(&model).args(["--weights", "as-file", "--prompt", PROMPT, "-n", TOKENS]).current_dir(root());
    let report: Value = serde_json::from_str(&output(generate)?)?;
    let text = report["text"].as_str().ok_or("expected a text from moray generate, got none")?;
    match printed.lines().any(|line| line == format!("moray:  {text:?}")) {
        true => Ok(()),
        false => Err(format!("expected moray generate's text {text:?} from candle with moray's layers").into()),
    }
}

/// Tests the operations on CUDA tensors of candle's on the simulated driver. candle compiles all of its kernels for it, which takes minutes.
fn in_candle_on_cuda() -> TaskResult {
    let stand_in = stand_in::toolkit_for_candle()?;
    let mut tests = cargo(CANDLE, &["test", "--release", "--locked", "--features", "cuda", "--test", "cuda"]);
    tests.envs([("MORAY_CUDA_ARCHS", "compute_80"), ("CUDA_COMPUTE_CAP", "80"), ("CUDARC_CUDA_VERSION", "13000")]);
    tests.env("CUDA_HOME", &stand_in).env("MORAY_NVCC", toolkit::nvcc()?);
    if env::var_os("NVCC").is_none() {
        tests.env("NVCC", toolkit::nvcc()?);
    }
    check(simcuda::with_libraries(tests, &[stand_in.join("lib64")])?)
}

/// Multiplies on the simulated driver from each binding.
fn in_other_bindings() -> TaskResult {
    check(cargo(BINDINGS, &["fmt", "--check"]))?;
    is_shown(&root().join("docs/cuda-engines.md"), &root().join(BINDINGS).join("src/bin").join(PROGRAMS[0]))?;
    let stand_in = stand_in::toolkit()?;
    for program in PROGRAMS {
        let mut run = cargo(BINDINGS, &["run", "--locked", "--quiet", "--bin", program]);
        run.env("CUDA_LIBRARY_PATH", &stand_in).env("MORAY_NVCC", toolkit::nvcc()?);
        run.env("MORAY_CUDA_ARCHS", "compute_80").env("CUDARC_CUDA_VERSION", "13000");
        check(simcuda::with_library(run)?)?;
        println!("{BINDINGS}: {program} multiplies on the simulated device with the CPU's bits");
    }
    Ok(())
}

/// Checks that a page has a program as it stands, from its first `use` on.
fn is_shown(page: &Path, program: &Path) -> TaskResult {
    let source = fs::read_to_string(program.with_extension("rs"))?;
    let program = source.find("use ").map_or("", |start| &source[start..]);
    match fs::read_to_string(page)?.contains(&format!("```rust\n{program}```")) {
        true => Ok(()),
        false => Err(format!("{}: expected the program\n{program}", page.display()).into()),
    }
}

/// cargo on a package beside the workspace, all of which build in one folder.
fn cargo(package: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(root().join(package));
    command.env("CARGO_TARGET_DIR", simcuda::target_folder().join("engines"));
    command
}

fn check(mut command: Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("{command:?}: expected success, got {status}").into()),
    }
}

fn output(mut command: Command) -> Result<String, Box<dyn std::error::Error>> {
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout)?),
        false => Err(format!("{command:?}: expected success, got {}", output.status).into()),
    }
}
