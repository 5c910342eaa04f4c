//! Other programs' quantizations of the same model, beside ours.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::texts::Texts;
use super::{Row, SCORED_TOKENS, json, number};
use crate::root;

/// llama.cpp's types at about as many bits a weight.
const TYPES: [&str; 2] = ["Q4_0", "Q4_K_M"];

/// Quantizes and scores with llama-cpp-python, by `scripts/llama_cpp_quality.py`, and appends a row for each type.
pub fn add_rows(
    python: &Path,
    model: &Path,
    texts: &Texts,
    rows: &mut Vec<Row>,
) -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::thread::available_parallelism()?.to_string();
    let score = |text: &Path, tokens: &str| {
        let mut command = Command::new(python);
        command.arg(root().join("scripts/llama_cpp_quality.py")).arg(model).arg(text);
        json(command.args([tokens, "512", &threads]).args(TYPES))
    };
    let [encyclopedia, news] = [score(&texts.encyclopedia, SCORED_TOKENS[0])?, score(&texts.news, SCORED_TOKENS[1])?];
    for name in TYPES {
        rows.push(Row {
            method: format!("llama.cpp {name}"),
            weights: "–".into(),
            calibration: "–".into(),
            bits: format!("{:.2}", number(&encyclopedia[name], "bits_per_weight")),
            megabytes: "–".into(),
            perplexity: number(&encyclopedia[name], "perplexity"),
            news: number(&news[name], "perplexity"),
            kl: "–".into(),
            agreement: "–".into(),
            speed: "–".into(),
            ..Row::default()
        });
    }
    Ok(())
}

/// Whether a Python has GPTQModel.
pub fn has_gptqmodel(python: &Path) -> Result<bool, Box<dyn std::error::Error>> {
    let find = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('gptqmodel') else 1)";
    Ok(Command::new(python).args(["-c", find]).status()?.success())
}

/// Quantizes with GPTQModel's QQQ, by `scripts/gptqmodel_qqq.py`, unless that has been done; returns the checkpoint.
pub fn gptqmodel(
    python: &Path,
    model: &Path,
    text: &Path,
    tokens: &str,
    work: &Path,
) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let out = work.join(format!("gptqmodel-per-channel-news-{tokens}"));
    if !out.exists() {
        // a run that is killed leaves a directory that nobody takes for whole
        let partial = out.with_extension("partial");
        let mut command = Command::new(python);
        command.arg(root().join("scripts/gptqmodel_qqq.py")).arg(model).arg(text).args([tokens, "512"]).arg(&partial);
        let status = command.status()?;
        if !status.success() {
            return Err(format!("expected GPTQModel to quantize, got {status}").into());
        }
        std::fs::rename(partial, &out)?;
    }
    Ok(out)
}
