//! `cargo xtask quality`: one real model quantized in many ways, in one table of quality, size and speed.

mod peers;
mod texts;

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::{TaskResult, fetch, root};
use texts::Calibration::{self, Mixed, News};
use texts::Texts;

/// Tokens that calibrate.
const CALIBRATION_TOKENS: &str = "16384";

/// Tokens that are scored of the encyclopedia, and of the held-out news.
const SCORED_TOKENS: [&str; 2] = ["4096", "2048"];

/// Rounds over all rows in which each decodes once: the median counts, so that what else the machine does meets all alike.
const ROUNDS: usize = 5;

/// Rows of the table: what it is called, the weights, `--method`, the text and the tokens that calibrate.
const ROWS: [(&str, &str, &str, Calibration, &str); 15] = [
    ("round to nearest", "per-channel", "rtn", News, "2048"),
    ("round to nearest", "g64", "rtn", News, "2048"),
    ("round to nearest", "g64o", "rtn", News, "2048"),
    ("round to nearest", "two-level", "rtn", News, "2048"),
    ("GPTQ", "g64o", "gptq", News, CALIBRATION_TOKENS),
    ("QQQ: rotation + GPTQ", "per-channel", "qqq", News, CALIBRATION_TOKENS),
    ("QQQ: rotation + GPTQ", "g64o", "qqq", News, CALIBRATION_TOKENS),
    ("full", "per-channel", "full", News, CALIBRATION_TOKENS),
    ("full", "g64", "full", News, CALIBRATION_TOKENS),
    ("full", "g64o", "full", News, CALIBRATION_TOKENS),
    ("full", "two-level", "full", News, CALIBRATION_TOKENS),
    ("full", "per-channel", "full", Mixed, CALIBRATION_TOKENS),
    ("full", "g64", "full", Mixed, CALIBRATION_TOKENS),
    ("full", "g64o", "full", Mixed, CALIBRATION_TOKENS),
    ("full", "two-level", "full", Mixed, CALIBRATION_TOKENS),
];

/// What a row of the table says.
#[derive(Default)]
struct Row {
    method: String,
    weights: String,
    calibration: String,
    bits: String,
    megabytes: String,
    perplexity: f64,
    error: f64,
    /// Perplexity of the held-out news.
    news: f64,
    kl: String,
    agreement: String,
    speed: String,
    /// The model and its switches, where moray runs it.
    run: Option<(PathBuf, Vec<&'static str>)>,
}

/// What the task was asked for.
#[derive(Default)]
struct Arguments {
    /// Make the table of what has been quantized.
    table_only: bool,
    /// A Python with llama-cpp-python, and GPTQModel for its row.
    peer: Option<PathBuf>,
}

impl Arguments {
    fn parse(arguments: &[String]) -> Result<Arguments, String> {
        let mut parsed = Arguments::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--table" => parsed.table_only = true,
                "--peer" => match rest.next() {
                    Some(python) => parsed.peer = Some(python.into()),
                    None => return Err("quality: expected a Python after --peer, got nothing".into()),
                },
                other => return Err(format!("quality: expected --table or --peer PYTHON, got {other}")),
            }
        }
        Ok(parsed)
    }
}

/// Quantizes what is not there yet, scores and times everything, and writes `results/quality.md`. With `--table` nothing is
/// quantized: the table is made of what is there. `--peer PYTHON` adds llama.cpp's and, if it is installed there, GPTQModel's
/// quantizations of the same model.
pub fn run(arguments: &[String]) -> TaskResult {
    let arguments = Arguments::parse(arguments)?;
    let build = ["build", "--release", "--package", "moray-lab"];
    let status = Command::new(env!("CARGO")).args(build).current_dir(root()).status()?;
    if !status.success() {
        return Err(format!("expected the build to succeed, got {status}").into());
    }
    fetch::run(&[])?;
    let work = root().join("target/quality");
    fs::create_dir_all(&work)?;
    let texts = Texts::make(&work)?;
    let model = root().join("models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let mut rows = Vec::new();
    for (name, weights) in [("the model, 16 bits", "dense"), ("its own Q4_1 blocks", "as-file")] {
        rows.push(row([name, "–", "–"], &model, &["--weights", weights], &texts, None)?);
    }
    for (name, weights, method, calibration, tokens) in ROWS {
        let out = work.join(format!("{method}-{weights}-{}-{tokens}", calibration.name()));
        if !out.exists() && !arguments.table_only {
            let mut command = moray("quantize");
            command.args(["--scored-tokens", "0", "--weights", weights, "--method", method, "--tokens", tokens]);
            let text = texts.calibration(calibration);
            command.arg("--model").arg(&model).arg("--calibration").arg(text).arg("--out").arg(&out);
            match command.status()? {
                status if status.success() => {}
                status => return Err(format!("expected {weights} to be quantized, got {status}").into()),
            }
        }
        if out.exists() {
            rows.push(row([name, weights, calibration.name()], &out, &[], &texts, Some(&model))?);
        }
    }
    if let Some(python) = &arguments.peer {
        if peers::has_gptqmodel(python)? {
            let text = texts.calibration(News);
            let out = peers::gptqmodel(python, &model, text, CALIBRATION_TOKENS, &work)?;
            let mut row = row(["GPTQModel, QQQ", "per-channel", "news"], &out, &[], &texts, Some(&model))?;
            row.calibration = format!("news {CALIBRATION_TOKENS}");
            rows.push(row);
        }
        peers::add_rows(python, &model, &texts, &mut rows)?;
    }
    time(&mut rows)?;
    let table = table(&rows);
    fs::write(root().join("results/quality.md"), &table)?;
    println!("{table}");
    Ok(())
}

fn program() -> PathBuf {
    root().join("target/release").join(format!("moray{}", std::env::consts::EXE_SUFFIX))
}

fn moray(subcommand: &str) -> Command {
    let mut command = Command::new(program());
    command.arg(subcommand);
    command
}

fn json(command: &mut Command) -> Result<Value, Box<dyn std::error::Error>> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or(f64::NAN)
}

fn row(
    [method, weights, text]: [&str; 3],
    model: &Path,
    switches: &[&'static str],
    texts: &Texts,
    against: Option<&Path>,
) -> Result<Row, Box<dyn std::error::Error>> {
    println!("scoring {method}, {weights}, {text}");
    let eval = |text: &Path, tokens: &str, against: Option<&Path>| {
        let mut eval = moray("eval");
        eval.arg("--json").arg("--model").arg(model).args(switches).arg("--text").arg(text).args(["--tokens", tokens]);
        against.map(|against| eval.arg("--against").arg(against));
        json(&mut eval)
    };
    let scores = texts.scores.join(format!("{method}, {weights}, {text}.json"));
    let [quality, news] = match kept(&scores, model, &program())? {
        Some(scores) => scores,
        None => {
            let fresh =
                [eval(&texts.encyclopedia, SCORED_TOKENS[0], against)?, eval(&texts.news, SCORED_TOKENS[1], None)?];
            fs::write(&scores, serde_json::to_vec(&fresh)?)?;
            fresh
        }
    };
    let dense = &quality["dense"];
    let compared = |text: String| if dense.is_object() { text } else { "–".into() };
    let report: Value = match fs::read(model.join("report.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(_) => Value::Null,
    };
    // calibration only scores where every weight goes to the nearest level
    let calibration = report["calibration_tokens"].as_u64().filter(|_| report["options"]["method"] != "rtn");
    Ok(Row {
        method: method.into(),
        weights: weights.into(),
        calibration: calibration.map_or("–".into(), |tokens| format!("{text} {tokens}")),
        bits: report["size"]["bits_per_weight"].as_f64().map_or("–".into(), |bits| format!("{bits:.2}")),
        perplexity: number(&quality, "perplexity"),
        error: number(&quality, "perplexity_se"),
        news: number(&news, "perplexity"),
        kl: compared(format!("{:.3}", number(dense, "kl"))),
        agreement: compared(format!("{:.1}%", number(dense, "agreement_percent"))),
        run: Some((model.into(), switches.to_vec())),
        ..Row::default()
    })
}

/// Measures the speed of every row that moray runs, and what it reads for a token.
fn time(rows: &mut [Row]) -> TaskResult {
    let prompt = ["--prompt", "The history of the lighthouse begins with", "-n", "128", "--ignore-eos"];
    let mut speeds = vec![Vec::with_capacity(ROUNDS); rows.len()];
    for round in 1..=ROUNDS {
        println!("timing, round {round} of {ROUNDS}");
        for (row, speeds) in rows.iter_mut().zip(&mut speeds) {
            let Some((model, switches)) = &row.run else { continue };
            let found = json(moray("generate").arg("--json").arg("--model").arg(model).args(switches).args(prompt))?;
            row.megabytes = format!("{:.0}", number(&found, "weight_bytes_per_token") / 1e6);
            speeds.push(number(&found, "decode_tokens_per_second"));
        }
    }
    for (row, speeds) in rows.iter_mut().zip(&mut speeds).filter(|(row, _)| row.run.is_some()) {
        speeds.sort_by(f64::total_cmp);
        row.speed = format!("{:.0}", speeds[ROUNDS / 2]);
    }
    Ok(())
}

/// Scores of an earlier run, unless the model or the program that scores has been written since: a run that was interrupted
/// goes on where it was.
fn kept(scores: &Path, model: &Path, program: &Path) -> Result<Option<[Value; 2]>, Box<dyn std::error::Error>> {
    let report = model.join("report.json");
    let model = if report.exists() { &report } else { model };
    let Ok(scored) = fs::metadata(scores) else { return Ok(None) };
    for source in [model, program] {
        if scored.modified()? < fs::metadata(source)?.modified()? {
            return Ok(None);
        }
    }
    Ok(serde_json::from_slice(&fs::read(scores)?).ok())
}

/// The table; increases are over the first row.
fn table(rows: &[Row]) -> String {
    let mut out = String::from(
        "| method | weights | calibration, tokens | bits a weight | MB a token | perplexity | increase | increase, news | \
         KL, nats | same top token | tok/s |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for row in rows {
        let Row { method, weights, calibration, bits, megabytes, kl, agreement, speed, .. } = row;
        let increase = |value: f64, base: f64| format!("{:+.1}%", 100.0 * (value / base - 1.0));
        let perplexity = match row.error > 0.0 {
            true => format!("{:.2} ± {:.2}", row.perplexity, row.error),
            false => format!("{:.2}", row.perplexity),
        };
        let increases = [increase(row.perplexity, rows[0].perplexity), increase(row.news, rows[0].news)];
        let cells = [method, weights, calibration, bits, megabytes, &perplexity, &increases[0], &increases[1]];
        let cells = cells.into_iter().chain([kl, agreement, speed]).map(String::as_str);
        let _ = writeln!(out, "| {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    let [encyclopedia, news] = SCORED_TOKENS;
    let _ = writeln!(
        out,
        "\nSmolLM2-135M-Instruct, activations int8 (16 bits in the first row), embedding and output layer in 16 bits (the file's \
         own in the second row). Calibrated on news, or on news and Wikipedia articles in turn; round to nearest needs no text. \
         Scored in windows of 512 on {encyclopedia} tokens of other Wikipedia articles and on {news} tokens of other news. \
         Speed: greedy decoding, one sequence, median of {ROUNDS} rounds over all rows. Made by `cargo xtask quality`. \
         GPTQModel's row: its QQQ with its defaults, which neither rotates nor smooths, made by `scripts/gptqmodel_qqq.py`."
    );
    out.push_str(&by_method(rows));
    out
}

/// What each method costs where all of them share one kind of weights.
fn by_method(rows: &[Row]) -> String {
    let cost = |row: &Row| {
        let text = if row.calibration == "–" { "" } else { &row.calibration };
        let cost = 100.0 * (row.perplexity / rows[0].perplexity - 1.0);
        format!("{} {cost:+.1}%", format!("{} {text}", row.method).trim())
    };
    let costs: Vec<String> = rows.iter().filter(|row| row.weights == "g64o").map(cost).collect();
    format!("Perplexity of groups of 64 with offsets over 16 bits: {}.\n", costs.join(", "))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn scores_are_kept_until_the_model_or_the_program_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, minute: u64| {
            let path = directory.path().join(name);
            fs::write(&path, "[1, 2]").unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute);
            fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let (scores, model, program) = (file("scores", 5), file("model", 4), file("program", 4));
        let kept = |program: &Path, model: &Path| kept(&scores, model, program).unwrap();
        assert_eq!(kept(&program, &model), Some([1.into(), 2.into()]));
        assert_eq!(kept(&file("newer program", 6), &model), None);
        assert_eq!(kept(&program, &file("newer model", 6)), None);
        // of a quantized model its report counts, which is written last
        let quantized = directory.path().join("quantized");
        fs::create_dir(&quantized).unwrap();
        file("quantized/report.json", 4);
        assert!(kept(&program, &quantized).is_some());
        file("quantized/report.json", 6);
        assert_eq!(kept(&program, &quantized), None);
        fs::remove_file(&scores).unwrap();
        assert_eq!(kept(&program, &model), None);
    }
}
