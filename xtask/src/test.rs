//! `cargo xtask test`: everything that is tested, on a machine without a GPU.

use std::process::Command;

use crate::{TaskResult, fetch, root};

/// Obtains the model and the text, then runs the tests of every crate, the examples in the documentation among them.
pub fn run(arguments: &[String]) -> TaskResult {
    fetch::run(&[])?;
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--workspace"]).args(arguments).current_dir(root()).env("MORAY_REQUIRE_MODEL", "1");
    match command.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected the tests to pass, got {status}").into()),
    }
}
