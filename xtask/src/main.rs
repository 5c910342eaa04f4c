//! Maintainers' tasks: `cargo xtask <task>`.

mod activations;
mod claims;
mod demo;
mod dependencies;
mod engines;
mod fetch;
mod figures;
mod fuzz;
mod gains;
mod gpu_bundle;
mod hub_kernel;
mod inlined;
mod mirror;
mod oldest;
mod outside;
mod overhead;
mod packages;
mod python;
mod quality;
mod resources;
mod roofline;
mod simcuda;
mod sizes;
mod speed_goals;
mod study;
mod test;
mod toolkit;
mod trial;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a task returns: nothing, or why it failed.
type TaskResult = Result<(), Box<dyn Error>>;

/// One task: its name, one line of help, and what it does with the arguments after its name.
struct Task {
    name: &'static str,
    help: &'static str,
    run: fn(&[String]) -> TaskResult,
}

/// Every task; a new one is a module and a row here.
const TASKS: &[Task] = &[
    Task { name: "demo", help: "run a real model dense, quantized and sparse, and print one table", run: demo::run },
    Task { name: "bench", help: "measure a real model's speed, beside other programs if told so", run: demo::bench },
    Task { name: "quality", help: "quantize a real model in many ways, and print one table", run: quality::run },
    Task {
        name: "activations",
        help: "score a real model with int8 inputs in several places, and write one table",
        run: activations::run,
    },
    Task { name: "test", help: "run everything that is tested; cuda: only on the simulated device", run: test::run },
    Task {
        name: "trial",
        help: "follow the documents' commands in a clean clone, of all pages or of some; --long: those of minutes too",
        run: trial::run,
    },
    Task { name: "toolkit", help: "obtain a CUDA compiler where there is none", run: toolkit::run },
    Task { name: "oldest", help: "compile the kernels with the oldest toolkit that is promised", run: oldest::run },
    Task { name: "fetch", help: "obtain the model and the text that examples and tests use", run: fetch::run },
    Task { name: "figures", help: "draw docs/figures from the result files; --check compares", run: figures::run },
    Task { name: "fuzz", help: "run fuzz targets on changes of their corpora: [runs [target ...]]", run: fuzz::run },
    Task {
        name: "gains",
        help: "write the tables that come from several result files; --check compares",
        run: gains::run,
    },
    Task {
        name: "study",
        help: "run the commands of results/study.md again and write what they print: [beginning of a heading ...]",
        run: study::run,
    },
    Task { name: "resources", help: "write docs/kernels.md; --check compares", run: resources::run },
    Task {
        name: "roofline",
        help: "count the kernels and write docs/roofline.md; table: of the committed counts; --check compares",
        run: roofline::run,
    },
    Task { name: "mirror", help: "write what Rust has to know of the kernels; --check compares", run: mirror::run },
    Task { name: "gpu-bundle", help: "pack tests and benches for a machine with a GPU", run: gpu_bundle::run },
    Task { name: "dependencies", help: "check the licences and sources of all dependencies", run: dependencies::run },
    Task {
        name: "engines",
        help: "test moray in engines that are no part of the workspace, all or some: candle (or its candle-tests and candle-package alone), candle-cuda, cuda (cust, another cudarc, a driver loaded by hand)",
        run: engines::run,
    },
    Task {
        name: "packages",
        help: "check what the published packages hold, the Rust they declare, and moray's from a crate outside the workspace; all, as in CI: that each crate builds from the packages alone (the wheel: python)",
        run: packages::run,
    },
    Task {
        name: "python",
        help: "build the Python wheel and test it; torch: with torch and transformers",
        run: python::run,
    },
    Task {
        name: "overhead",
        help: "measure what a call costs through each door: [--python FILE] [--candle]",
        run: overhead::run,
    },
    Task { name: "inlined", help: "check that kernels call no vector operation, but hold it", run: inlined::run },
    Task { name: "sizes", help: "write how large the C library and the wheel are: [--cuda]", run: sizes::run },
    Task {
        name: "hub-kernel",
        help: "write the kernel that the Hugging Face kernels library loads: [folder]",
        run: hub_kernel::run,
    },
    Task {
        name: "simcuda",
        help: "path | run <command>: the simulated driver; kernels: its test kernels",
        run: simcuda::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, rest)) = arguments.split_first() else {
        print_usage();
        return ExitCode::from(2);
    };
    if ["help", "--help", "-h"].contains(&name.as_str()) {
        print_usage();
        return ExitCode::SUCCESS;
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprintln!("error: expected a task, got {name}");
        print_usage();
        return ExitCode::from(2);
    };
    match (task.run)(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_usage() {
    println!("usage: cargo xtask <task>\n");
    for Task { name, help, .. } in TASKS {
        println!("    {name:12} {help}");
    }
}

/// The repository's root directory.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
