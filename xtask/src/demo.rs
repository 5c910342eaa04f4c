//! `cargo xtask demo` and `cargo xtask bench`: one real model dense, quantized and sparse, in one table, for quality and for speed.

use std::process::Command;

use crate::{TaskResult, fetch, root};

/// Prints the demo's table.
pub fn run(arguments: &[String]) -> TaskResult {
    on_model("demo", arguments)
}

/// Prints the bench's tables; `--peer` and `--peer-command` name what to measure beside.
pub fn bench(arguments: &[String]) -> TaskResult {
    on_model("bench", arguments)
}

/// Builds the command, obtains the model and the text where they are absent, and runs a subcommand on them.
fn on_model(subcommand: &str, arguments: &[String]) -> TaskResult {
    let build = ["build", "--release", "--package", "moray-lab"];
    let status = Command::new(env!("CARGO")).args(build).current_dir(root()).status()?;
    if !status.success() {
        return Err(format!("expected the build to succeed, got {status}").into());
    }
    fetch::run(&[])?;
    let command = root().join("target/release").join(format!("moray{}", std::env::consts::EXE_SUFFIX));
    let models = root().join("models");
    let mut command = Command::new(command);
    command.arg(subcommand).arg("--model").arg(models.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    command.arg("--text").arg(models.join("lee_background.cor")).args(arguments);
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected {subcommand} to succeed, got {status}").into()),
    }
}
