//! llama.cpp's own quantizations of the same model, beside ours.

use std::path::Path;
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
