//! `cargo xtask activations`: what int8 activations cost a real model, with a scale for each token and with finer ones.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{TaskResult, fetch, root};

/// Tokens that are scored.
const TOKENS: &str = "2048";

/// Rows of the table: which inputs are int8, and the scheme without its scales.
const ROWS: [(&str, &str); 3] = [("gate and up", ":gate_up"), ("MLP", ":mlp"), ("all", "")];

/// Builds the command (unless `--command PATH` names one that is built), scores the model in every way and writes
/// `results/activation-scales.md`.
pub fn run(arguments: &[String]) -> TaskResult {
    let program = match arguments {
        [] => build()?,
        [option, path] if option == "--command" => path.into(),
        _ => return Err(format!("activations: expected nothing or --command PATH, got {arguments:?}").into()),
    };
    let score = |weights: &str, activations: &str| score(&program, weights, activations);
    fetch::run(&[])?;
    let base = score("dense", "token")?;
    let mut table = String::from(
        "| int8 inputs | a scale for each token | increase | KL, nats | for each (token, 128 of K) | increase | KL, nats |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    let _ = writeln!(table, "| none | {:.3} ± {:.3} | – | – | – | – | – |", base.perplexity, base.error);
    for (name, int8) in ROWS {
        let mut line = format!("| {name} |");
        for scales in ["token", "fine"] {
            let Score { perplexity, error, kl } = score("as-file", &format!("{scales}{int8}"))?;
            let increase = 100.0 * (perplexity / base.perplexity - 1.0);
            let _ = write!(line, " {perplexity:.3} ± {error:.3} | {increase:+.2}% | {kl:.5} |");
        }
        println!("{line}");
        let _ = writeln!(table, "{line}");
    }
    let _ = writeln!(
        table,
        "\nPerplexity of SmolLM2-135M-Instruct with its file's own weights (Q4_1 blocks), of which those whose inputs are int8 run as \
         integers and the others in 16 bits; standard errors are of the text, which is the same for all. {TOKENS} tokens of news in \
         windows of 512. Made by `cargo xtask activations`."
    );
    print!("{table}");
    Ok(fs::write(root().join("results/activation-scales.md"), table)?)
}

/// What one way to run the model scores.
struct Score {
    perplexity: f64,
    error: f64,
    /// KL divergence from the model in 16 bits; 0 for that.
    kl: f64,
}

/// Builds the command and returns its path.
fn build() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let build = ["build", "--release", "--package", "moray-lab"];
    let status = Command::new(env!("CARGO")).args(build).current_dir(root()).status()?;
    match status.success() {
        true => Ok(root().join("target/release").join(format!("moray{}", std::env::consts::EXE_SUFFIX))),
        false => Err(format!("expected the build to succeed, got {status}").into()),
    }
}

fn score(program: &Path, weights: &str, activations: &str) -> Result<Score, Box<dyn std::error::Error>> {
    let models = root().join("models");
    let mut command = Command::new(program);
    command.args(["eval", "--json", "--weights", weights, "--activations", activations, "--tokens", TOKENS]);
    command.arg("--model").arg(models.join("SmolLM2-135M-Instruct.Q4_1.gguf"));
    command.arg("--text").arg(models.join("lee_background.cor"));
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |key: &str| report[key].as_f64().ok_or(format!("expected {key} in the report, got none"));
    let kl = report["dense"]["kl"].as_f64().unwrap_or(0.0);
    Ok(Score { perplexity: number("perplexity")?, error: number("perplexity_se")?, kl })
}
