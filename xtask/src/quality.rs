//! `cargo xtask quality`: one real model quantized in many ways, in one table of quality, size and speed.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{TaskResult, fetch, root};

/// Tokens that calibrate where groups have scales of their own.
const GROUP_TOKENS: &str = "8192";

/// Tokens that calibrate where a channel has one scale.
const CHANNEL_TOKENS: &str = "16384";

/// Tokens that are scored.
const SCORED_TOKENS: &str = "8192";

/// Rows of the table: what it is called, arguments of `moray quantize`.
const ROWS: [(&str, &str, &[&str]); 11] = [
    ("round to nearest", "per-channel", &["--method", "rtn", "--tokens", "2048"]),
    ("round to nearest", "g64", &["--method", "rtn", "--tokens", "2048"]),
    ("round to nearest", "g64o", &["--method", "rtn", "--tokens", "2048"]),
    ("round to nearest", "two-level", &["--method", "rtn", "--tokens", "2048"]),
    ("GPTQ", "g64o", &["--method", "gptq", "--tokens", GROUP_TOKENS]),
    ("QQQ: rotation + GPTQ", "per-channel", &["--method", "qqq", "--tokens", CHANNEL_TOKENS]),
    ("QQQ: rotation + GPTQ", "g64o", &["--method", "qqq", "--tokens", GROUP_TOKENS]),
    ("full", "per-channel", &["--method", "full", "--tokens", CHANNEL_TOKENS]),
    ("full", "g64", &["--method", "full", "--tokens", GROUP_TOKENS]),
    ("full", "g64o", &["--method", "full", "--tokens", GROUP_TOKENS]),
    ("full", "two-level", &["--method", "full", "--tokens", GROUP_TOKENS]),
];

/// What a row of the table says.
struct Row {
    method: String,
    weights: String,
    calibration: String,
    bits: String,
    megabytes: String,
    perplexity: String,
    increase: String,
    kl: String,
    agreement: String,
    speed: String,
}

/// Quantizes what is not there yet, scores and times everything, and writes `results/quality.md`. With `--table` nothing is
/// quantized: the table is made of what is there.
pub fn run(arguments: &[String]) -> TaskResult {
    let table_only = match arguments {
        [] => false,
        [only] if only == "--table" => true,
        _ => return Err(format!("expected --table or nothing, got {}", arguments.join(" ")).into()),
    };
    let build = ["build", "--release", "--package", "moray-lab"];
    let status = Command::new(env!("CARGO")).args(build).current_dir(root()).status()?;
    if !status.success() {
        return Err(format!("expected the build to succeed, got {status}").into());
    }
    fetch::run(&[])?;
    let work = root().join("target/quality");
    fs::create_dir_all(&work)?;
    let [calibration, evaluation] = split_text(&work)?;
    let model = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut rows = Vec::new();
    for (name, weights) in [("the model, 16 bits", "dense"), ("its own Q4_1 blocks", "as-file")] {
        rows.push(row(name, "–", &model, &["--weights", weights], &evaluation, None)?);
    }
    for (name, weights, method) in ROWS {
        let out = work.join(format!("{}-{weights}", method[1]));
        if !out.exists() && !table_only {
            let mut command = moray("quantize");
            command.args(["--scored-tokens", "0", "--weights", weights]).args(method);
            command.arg("--model").arg(&model).arg("--calibration").arg(&calibration).arg("--out").arg(&out);
            match command.status()? {
                status if status.success() => {}
                status => return Err(format!("expected {weights} to be quantized, got {status}").into()),
            }
        }
        if out.exists() {
            rows.push(row(name, weights, &out, &[], &evaluation, Some(&model))?);
        }
    }
    let table = table(&rows);
    fs::write(root().join("results/quality.md"), &table)?;
    println!("{table}");
    Ok(())
}

/// The first four fifths of the text's lines calibrate, the rest is scored.
fn split_text(work: &Path) -> Result<[PathBuf; 2], Box<dyn std::error::Error>> {
    let text = fs::read_to_string(root().join("models/lee_background.cor"))?;
    let lines: Vec<&str> = text.lines().collect();
    let (first, second) = lines.split_at(lines.len() * 4 / 5);
    let paths = [work.join("calibration.txt"), work.join("evaluation.txt")];
    for (path, lines) in paths.iter().zip([first, second]) {
        fs::write(path, lines.join("\n") + "\n")?;
    }
    Ok(paths)
}

fn moray(subcommand: &str) -> Command {
    let mut command =
        Command::new(root().join("target/release").join(format!("moray{}", std::env::consts::EXE_SUFFIX)));
    command.arg(subcommand);
    command
}

fn json(command: &mut Command) -> Result<Value, Box<dyn std::error::Error>> {
    let output = command.arg("--json").output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn row(
    method: &str,
    weights: &str,
    model: &Path,
    switches: &[&str],
    text: &Path,
    against: Option<&Path>,
) -> Result<Row, Box<dyn std::error::Error>> {
    let mut eval = moray("eval");
    eval.arg("--model").arg(model).args(switches).arg("--text").arg(text).args(["--tokens", SCORED_TOKENS]);
    if let Some(against) = against {
        eval.arg("--against").arg(against);
    }
    let quality = json(&mut eval)?;
    let prompt = ["--prompt", "The history of the lighthouse begins with", "-n", "128", "--ignore-eos"];
    let speed = json(moray("generate").arg("--model").arg(model).args(switches).args(prompt))?;
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap_or(f64::NAN);
    let dense = &quality["dense"];
    let compared = |text: String| if dense.is_object() { text } else { "–".into() };
    let report: Value = match fs::read(model.join("report.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Value::Null,
    };
    let size = &report["size"];
    // calibration only scores where every weight goes to the nearest level
    let calibration = report["calibration_tokens"].as_u64().filter(|_| report["options"]["method"] != "rtn");
    let (perplexity, reference) = (number(&quality, "perplexity"), number(dense, "perplexity"));
    Ok(Row {
        method: method.into(),
        weights: weights.into(),
        calibration: calibration.map_or("–".into(), |tokens| tokens.to_string()),
        bits: size["bits_per_weight"].as_f64().map_or("–".into(), |bits| format!("{bits:.2}")),
        megabytes: format!("{:.0}", number(&speed, "weight_bytes_per_token") / 1e6),
        perplexity: format!("{perplexity:.2} ± {:.2}", number(&quality, "perplexity_se")),
        increase: compared(format!("{:+.1}%", 100.0 * (perplexity / reference - 1.0))),
        kl: compared(format!("{:.3}", number(dense, "kl"))),
        agreement: compared(format!("{:.1}%", number(dense, "agreement_percent"))),
        speed: format!("{:.0}", number(&speed, "decode_tokens_per_second")),
    })
}

fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| method | weights | calibration tokens | bits a weight | MB a token | perplexity | increase | KL, nats | \
         same top token | tok/s |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let Row { method, weights, calibration, bits, megabytes, perplexity, increase, kl, agreement, speed } = row;
        let cells = [method, weights, calibration, bits, megabytes, perplexity, increase, kl, agreement, speed];
        let _ = writeln!(out, "| {} |", cells.map(String::as_str).join(" | "));
    }
    let _ = writeln!(
        out,
        "\nSmolLM2-135M-Instruct, activations int8, embedding and output layer in 16 bits (the file's own in the second row). \
         Calibrated on the first tokens of a news text (round to nearest needs none), scored on {SCORED_TOKENS} tokens of its \
         last fifth in windows of 512. Speed: greedy decoding, one sequence. Made by `cargo xtask quality`."
    );
    out
}
