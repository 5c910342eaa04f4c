//! `cargo xtask roofline`: what binds each kernel on each machine, computed without a GPU.
//!
//! Counts are those of the simulated driver and of the machine code, committed in results/roofline; times are arithmetic over them.

mod code;
mod counts;
mod goals;
mod machine;
mod predict;
mod prediction;
mod published;
mod report;
mod sass;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use self::code::Codes;
use self::counts::Row;
use self::machine::{MACHINES, Machine};
use self::prediction::Prediction;
use crate::{TaskResult, root, simcuda, test, toolkit};

const TABLE: &str = "docs/roofline.md";
const PREDICTIONS: &str = "results/roofline/predictions.json";

/// What a row may lose against the committed predictions before the task refuses it.
const SLOWER: f64 = 1.05;

/// Runs the task: counts and writes; `table` takes the committed counts, `code` these and the machine code as it is now, `--check` compares,
/// `--accept` writes slower rows too.
pub fn run(arguments: &[String]) -> TaskResult {
    let mut words = BTreeSet::new();
    for argument in arguments {
        if !["table", "code", "--check", "--accept"].contains(&argument.as_str()) {
            return Err(format!("roofline: expected table, code, --check or --accept, got {argument}").into());
        }
        words.insert(argument.as_str());
    }
    if words.contains("--check") {
        return check();
    }
    if !words.contains("table") {
        if !words.contains("code") {
            count()?;
        }
        let kernels = counts::read()?.into_iter().flat_map(|row| row.launches).map(|launch| launch.kernel).collect();
        code::write(&kernels)?;
    }
    let written = Written::make()?;
    let slower = written.slower(&read(PREDICTIONS).unwrap_or_default());
    if !slower.is_empty() && !words.contains("--accept") {
        return Err(
            format!("rows are slower than those committed (--accept writes them):\n{}", slower.join("\n")).into()
        );
    }
    fs::write(root().join(TABLE), &written.table)?;
    fs::write(root().join(PREDICTIONS), &written.predictions)?;
    println!("wrote {TABLE} and results/roofline");
    Ok(())
}

/// Has the tests that count write what they count.
fn count() -> TaskResult {
    let mut command = Command::new(env!("CARGO"));
    command.args(["test", "--package", "moray", "--features", "cuda", "--test", "cuda_roofline"]).current_dir(root());
    command.envs([("MORAY_ROOFLINE_WRITE", "1"), ("MORAY_REQUIRE_CUDA", "1"), ("SIMCUDA_ARCH", "8.0")]);
    command.env("MORAY_CUDA_ARCHS", test::ARCHITECTURES).env("MORAY_NVCC", toolkit::nvcc()?);
    match simcuda::with_library(command)?.status()? {
        status if status.success() => Ok(()),
        status => Err(format!("expected the kernels to be counted, got {status}").into()),
    }
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(root().join(file)).map_err(|e| format!("{file}: {e}"))
}

fn check() -> TaskResult {
    let written = Written::make()?;
    for (file, text) in [(TABLE, &written.table), (PREDICTIONS, &written.predictions)] {
        if read(file)? != *text {
            return Err(format!("{file}: expected what the counts give now; run `cargo xtask roofline`").into());
        }
    }
    Ok(())
}

/// Predicts every row on every machine.
fn predict_all(rows: &[Row], codes: &Codes) -> Result<Vec<Prediction>, String> {
    let of = |machine: &'static Machine| rows.iter().filter(|row| row.is_of(machine)).map(move |row| (machine, row));
    MACHINES.iter().flat_map(of).map(|(machine, row)| Prediction::new(machine, row, codes)).collect()
}

/// What is written of the committed counts.
struct Written {
    table: String,
    predictions: String,
}

impl Written {
    fn make() -> Result<Self, String> {
        let (rows, codes) = (counts::read()?, code::read()?);
        let predictions = predict_all(&rows, &codes)?;
        let outcomes = goals::outcomes(&predictions)?;
        let lines: Vec<String> = predictions.iter().map(|of| to_json(of).to_string()).collect();
        Ok(Self {
            table: report::render(&predictions, &outcomes, &rows, &codes),
            predictions: format!("[\n{}\n]\n", lines.join(",\n")),
        })
    }

    /// The rows that take more than [`SLOWER`] times as long as in `committed`.
    fn slower(&self, committed: &str) -> Vec<String> {
        let list = |text: &str| serde_json::from_str::<Vec<Value>>(text).unwrap_or_default();
        let before = list(committed);
        let name = |row: &Value| (row["id"].clone(), row["machine"].clone());
        let slower = |row: Value| {
            let old = before.iter().find(|old| name(old) == name(&row))?["microseconds"].as_f64()?;
            let new = row["microseconds"].as_f64()?;
            (new > SLOWER * old).then(|| format!("{} on {}: {new} µs, before {old}", row["id"], row["machine"]))
        };
        list(&self.predictions).into_iter().filter_map(slower).collect()
    }
}

fn to_json(of: &Prediction) -> Value {
    let micro = |seconds: f64| (seconds * 1e9).round() / 1e3;
    json!({
        "id": of.id, "machine": of.machine.name, "microseconds": micro(of.seconds()), "bound": of.bound(),
        "cublas_fp16_microseconds": of.library.map(micro), "limit_microseconds": micro(of.limit),
        "resources_microseconds": of.resources().map(micro),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_table_matches_the_committed_counts() {
        check().expect("run `cargo xtask roofline table`");
    }

    #[test]
    fn no_product_takes_more_time_than_cublas() {
        let predictions = predict_all(&counts::read().expect("counts"), &code::read().expect("code")).expect("rows");
        for of in &predictions {
            let (seconds, library) = (of.seconds(), of.library.unwrap_or(f64::INFINITY));
            assert!(seconds <= library, "{} on {}: {seconds} s, cuBLAS {library}", of.id, of.machine.name);
        }
    }

    /// More tokens of one mode take as long or longer: a choice of kernels that makes a cliff is seen here.
    #[test]
    fn time_does_not_fall_when_tokens_are_added() {
        let predictions = predict_all(&counts::read().expect("counts"), &code::read().expect("code")).expect("rows");
        let tokens = |of: &Prediction| -> Option<(String, u32)> {
            let (mode, m) = of.id.strip_prefix("w4a8/")?.rsplit_once("/m")?;
            Some((mode.to_owned(), m.parse().ok()?))
        };
        for (few, many) in predictions.iter().flat_map(|few| predictions.iter().map(move |many| (few, many))) {
            let (Some((mode, m)), Some((other, more))) = (tokens(few), tokens(many)) else { continue };
            if mode != other || few.machine.name != many.machine.name || m >= more {
                continue;
            }
            let (few, many, machine) = (few.seconds(), many.seconds(), few.machine.name);
            assert!(few <= 1.01 * many, "{mode} on {machine}: {few} s for {m} tokens, {many} s for {more}");
        }
    }

    #[test]
    fn a_row_that_takes_a_twentieth_longer_is_named() {
        let text = |time: f64| format!(r#"[{{"id":"a","machine":"A100","microseconds":{time}}}]"#);
        let slower = |time| Written { table: String::new(), predictions: text(time) }.slower(&text(100.0));
        assert!(slower(105.0).is_empty() && slower(90.0).is_empty());
        assert_eq!(slower(105.1), [r#""a" on "A100": 105.1 µs, before 100"#]);
        assert!(Written { table: String::new(), predictions: text(1.0) }.slower("").is_empty());
    }
}
