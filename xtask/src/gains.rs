//! `cargo xtask gains`: writes the tables of the README, of `docs/study.md` and of `docs/speed.md` that come from several result files; `--check`
//! compares.
//!
//! Each row of `results/gains.md` sets a figure of moray's beside the strongest alternative that the same result file holds, and says where the two were
//! measured, or that they are predicted.

use std::fs;

use serde_json::Value;

use crate::{TaskResult, root};

const FILE: &str = "results/gains.md";

/// A table of a Markdown file: the first whose head names a column.
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One line of the result.
struct Gain {
    work: String,
    over: String,
    times: String,
    place: String,
}

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    for (file, fresh) in [(FILE, table()?), crate::speed_goals::file()?].into_iter().chain(crate::claims::files()?) {
        let path = root().join(file);
        match arguments {
            [] => fs::write(&path, fresh)?,
            [check] if check == "--check" => {
                if fs::read_to_string(&path)? != fresh {
                    return Err(format!("{file} is stale; `cargo xtask gains` writes it").into());
                }
            }
            _ => return Err("gains: expected --check or nothing".into()),
        }
        println!("{file} is current");
    }
    Ok(())
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn table() -> Result<String> {
    let mut text = "| work | over | times | on |\n|---|---|---:|---|\n".to_owned();
    for Gain { work, over, times, place } in measured()?.into_iter().chain(quality()?).chain(predicted()?) {
        text += &format!("| {work} | {over} | {times} | {place} |\n");
    }
    text += "\nTimes: how many times as fast, medians (quartiles) of rounds in which each has its turn; below 1 it is slower. Predicted: from counted bytes, passes and \
             instructions of each launch and published rates; no GPU has measured these kernels yet.\n";
    Ok(text)
}

/// Runs of the bench, one for each kind of processor.
pub const BENCHES: [&str; 2] = ["results/bench.md", "results/bench-intel-avx512.md"];

/// What is shown of each: work, row, what it is over, column.
const BENCH_ROWS: [(&str, &str, &str, &str); 6] = [
    ("a 4-bit file as it is, prompt of 512", "--weights as-file", "ik_llama.cpp", "prefill 512"),
    ("the same, decoding after 8 tokens", "--weights as-file", "ik_llama.cpp", "decode at 8"),
    ("the same, decoding after 2000 tokens", "--weights as-file", "ik_llama.cpp", "decode at 2000"),
    ("half of the neurons, chosen by the prompt", "--weights dense --mlp griffin:0.5", DENSE, "decode at 500"),
    ("half of the neurons, chosen for each token", "--weights dense --mlp topk:0.5", DENSE, "decode at 500"),
    ("seven tenths of all inputs (TEAL)", "--weights dense --inputs teal:0.7", DENSE, "decode at 8"),
];

const DENSE: &str = "--weights dense";

/// A run of the bench on random weights in the shape of a larger model.
const LARGE: &str = "results/bench-llama-2-7b.md";

/// What is shown of it.
const LARGE_ROWS: [(&str, &str, &str, &str); 3] = [
    ("half of the neurons, chosen by the prompt", "--weights as-file --mlp griffin:0.5", FOUR_BITS, "decode at 8"),
    ("seven tenths of all inputs (TEAL)", "--weights as-file --inputs teal:0.7", FOUR_BITS, "decode at 8"),
    (
        "half of the neurons for each token, half of the heads, after 2000",
        "--weights as-file --mlp topk:0.5 --heads norm:0.5 --kv hole",
        FOUR_BITS,
        "decode at 2000",
    ),
];

const FOUR_BITS: &str = "--weights as-file";

/// Rows of benches on this project's machines, a line of the cells for each machine.
fn measured() -> Result<Vec<Gain>> {
    let read = |file: &'static str| fs::read_to_string(root().join(file)).map(|text| (file, text));
    let texts = BENCHES.into_iter().map(read).collect::<std::io::Result<Vec<_>>>()?;
    let gain = |model: &str, (work, row, over, column): (&str, &str, &str, &str), texts: &[(&str, String)]| {
        let of = |(file, text): &(&str, String)| {
            let table =
                Table::of(text, "over").ok_or_else(|| format!("{file}: expected a table of ratios, got none"))?;
            let cell = table.cell(&[(0, &format!("`{row}`")), (1, over)], column);
            let times = cell.ok_or_else(|| format!("{file}: expected {column} of {row} over {over}, got none"))?;
            let place =
                text.lines().find_map(place_of).ok_or_else(|| format!("{file}: expected a processor, got none"))?;
            Ok((times, format!("{place}, measured")))
        };
        let (times, places): (Vec<_>, Vec<_>) = texts.iter().map(of).collect::<Result<Vec<_>>>()?.into_iter().unzip();
        let over = match over {
            DENSE => "all of it, 16 bits",
            FOUR_BITS => "all of it, 4 bits",
            other => other,
        };
        let (work, over) = (format!("{model}, {work}"), over.to_owned());
        Ok(Gain { work, over, times: times.join("<br>"), place: places.join("<br>") })
    };
    let large = [read(LARGE)?];
    let small = BENCH_ROWS.iter().map(|row| gain("SmolLM2-135M", *row, &texts));
    small
        .chain(LARGE_ROWS.iter().map(|row| gain("8 layers in LLaMA-2-7B's shape, random 4-bit weights", *row, &large)))
        .collect()
}

/// The processor, from `MODEL on PROCESSOR, N threads, ISA; ..`.
pub fn place_of(line: &str) -> Option<String> {
    let (place, rest) = line.split_once(" on ")?.1.split_once(';')?;
    rest.contains("memory reads").then(|| place.to_owned())
}

/// Perplexity that fewer bits cost, beside the strongest format of others.
fn quality() -> Result<Vec<Gain>> {
    const FILE: &str = "results/quality.md";
    let text = fs::read_to_string(root().join(FILE))?;
    let table = Table::of(&text, "bits a weight").ok_or_else(|| format!("{FILE}: expected a table, got none"))?;
    let ours = [(0, "full"), (1, "g64o"), (2, "mixed 16384")];
    let theirs = [(0, "llama.cpp Q4_K_M")];
    let cell = |row: &[(usize, &str)], column: &str| {
        table.cell(row, column).ok_or_else(|| format!("{FILE}: expected {column} of {row:?}, got none"))
    };
    let (bits, increase) = (cell(&ours, "bits a weight")?, cell(&ours, "increase")?);
    let (their_bits, their_increase) = (cell(&theirs, "bits a weight")?, cell(&theirs, "increase")?);
    Ok(vec![Gain {
        work: format!("SmolLM2-135M quantized to {bits} bits a weight: perplexity {increase}"),
        over: format!("llama.cpp Q4_K_M, {their_bits} bits: {their_increase}"),
        times: "–".to_owned(),
        place: "text not used for calibration, measured".to_owned(),
    }])
}

/// Rows of the roofline.
fn predicted() -> Result<Vec<Gain>> {
    const FILE: &str = "results/roofline/predictions.json";
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(root().join(FILE))?)?;
    let number = |machine: &str, id: &str, field: &str| {
        let row = rows.iter().find(|row| row["machine"] == machine && row["id"] == id);
        row.and_then(|row| row[field].as_f64())
            .ok_or_else(|| format!("{FILE}: expected {field} of {id} on {machine}, got none"))
    };
    let mut gains = Vec::new();
    for (m, machine) in [(1, "A100"), (16, "A100"), (2048, "RTX 4090"), (2048, "H200")] {
        let id = format!("w4a8/per-channel/qqq.figure/m{m}");
        let times = number(machine, &id, "cublas_fp16_microseconds")? / number(machine, &id, "microseconds")?;
        gains.push(Gain {
            work: format!("W4A8 per channel, N = 8192, K = 21760, M = {m}"),
            over: "cuBLAS fp16".to_owned(),
            times: format!("{times:.2}"),
            place: format!("{machine}, predicted"),
        });
    }
    for context in ["4096", "32768"] {
        let id = |which: &str| format!("attention/f16/llama-3-8b/decode-{context}-{which}-groups");
        let times = number("H200", &id("all"), "microseconds")? / number("H200", &id("half"), "microseconds")?;
        gains.push(Gain {
            work: format!("attention of half of the head groups, context {context}"),
            over: "all of them".to_owned(),
            times: format!("{times:.2}"),
            place: "H200, predicted".to_owned(),
        });
    }
    Ok(gains)
}

impl Table {
    /// The first table that has a column of this name.
    pub fn of(text: &str, column: &str) -> Option<Self> {
        let cells = |line: &str| -> Vec<String> {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        };
        let mut lines =
            text.lines().skip_while(|line| !(line.starts_with('|') && cells(line).iter().any(|cell| cell == column)));
        let head = cells(lines.next()?);
        let rows = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
        Some(Self { head, rows })
    }

    /// The cell of the first row whose cells at these places are these.
    pub fn cell(&self, row: &[(usize, &str)], column: &str) -> Option<String> {
        let is = |cells: &&Vec<String>| {
            row.iter().all(|(at, text)| cells.get(*at).is_some_and(|cell| cell == text.trim_matches('`')))
        };
        let at = self.head.iter().position(|name| name == column)?;
        self.rows.iter().find(is)?.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cell_matches_its_row_and_column() {
        let text = "a\n| x | over | y |\n|---|---|---|\n| `b` | c | 1 |\n| `b` | d | 2 |\n\n| x | z |\n";
        let table = Table::of(text, "over").unwrap();
        assert_eq!(table.cell(&[(0, "`b`"), (1, "d")], "y").as_deref(), Some("2"));
        assert_eq!(table.cell(&[(0, "e")], "y"), None);
        assert_eq!(table.cell(&[(0, "b")], "w"), None);
    }

    #[test]
    fn committed_table_matches_the_result_files() {
        run(&["--check".to_owned()]).unwrap();
    }
}
