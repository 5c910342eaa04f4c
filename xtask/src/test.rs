//! `cargo xtask test`: everything that is tested, on a machine without a GPU.

use std::path::Path;
use std::process::Command;

use crate::{TaskResult, engines, fetch, python, root, simcuda, toolkit};

/// The capabilities that the simulated driver can have; each takes other code of the fatbins.
const CAPABILITIES: [&str; 2] = ["8.0", "9.0"];

/// What the simulated driver runs of the kernels. Machine code is not built: it takes six times as long.
pub const ARCHITECTURES: &str = "compute_80,compute_90a";

/// Obtains the model and the text, then runs the tests of every crate, the examples in the documentation among them, those of the
/// Python package, moray in candle and with other bindings of CUDA, and the tests of the CUDA device on the simulated driver.
pub fn run(arguments: &[String]) -> TaskResult {
    if arguments.first().is_some_and(|argument| argument == "cuda") {
        return on_the_simulated_device(&arguments[1..]);
    }
    fetch::run(&[])?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace"]).args(arguments).current_dir(root()).env("MORAY_REQUIRE_MODEL", "1");
    check(command)?;
    python::run(&[])?;
    engines::run(&["candle-tests", "cuda"].map(str::to_owned))?;
    on_the_simulated_device(arguments)
}

/// Runs the tests and benches that need a device, which are those that need the feature `cuda`, and the examples in the
/// documentation with it.
fn on_the_simulated_device(arguments: &[String]) -> TaskResult {
    let nvcc = toolkit::nvcc()?;
    for capability in CAPABILITIES {
        println!("tests on the simulated device, compute capability {capability}");
        let mut targets = vec!["--test", "cuda_*"];
        if capability == CAPABILITIES[0] {
            // benches without `--bench` run small shapes, to see that they work
            targets.extend(["--bench", "cuda_*"]);
        }
        check(simcuda::with_library(on_a_device(&nvcc, capability, &targets, arguments))?)?;
    }
    python::on_the_simulated_device()?;
    check(simcuda::with_library(on_a_device(&nvcc, CAPABILITIES[0], &["--doc"], arguments))?)
}

/// `cargo test` of some targets with everything that a device needs.
fn on_a_device(nvcc: &Path, capability: &str, targets: &[&str], arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    // the whole workspace, so that dependencies are those that the other tests built
    command.args(["test", "--workspace", "--features", "moray/cublaslt,moray-c/cuda,moray-lab/cuda"]);
    command.args(targets).args(arguments).current_dir(root());
    command.envs([("MORAY_REQUIRE_CUDA", "1"), ("MORAY_REQUIRE_MODEL", "1")]);
    command.envs([("MORAY_CUDA_ARCHS", ARCHITECTURES), ("SIMCUDA_ARCH", capability)]);
    // our own kernels load nothing that nobody wrote, whether it is used or not
    command.env("SIMCUDA_CHECKS", "load=fatal");
    // remarks are errors here, and faults name lines of the kernels
    command.envs([("MORAY_CUDA_STRICT", "1"), ("MORAY_CUDA_PLAIN", "1")]);
    command.env("MORAY_NVCC", nvcc);
    command
}

fn check(mut command: Command) -> TaskResult {
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected the tests to pass, got {status}").into()),
    }
}
