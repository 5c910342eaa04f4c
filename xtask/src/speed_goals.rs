//! `results/speed-goals.md`, a part of `docs/speed.md`: what was aimed at on a CPU, and what the runs of the benches say of it.

use std::fs;

use crate::gains::{BENCHES, Table, place_of};
use crate::root;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const SMALL: &[&str] = &BENCHES;
const LARGE: &[&str] = &["results/bench-llama-3.2-1b-amd.md", "results/bench-llama-3.2-1b.md"];
const MLP: [&str; 2] = ["results/sparse-mlp-amd-avx512.md", "results/sparse-mlp-intel-avx512.md"];
const THREADS: &str = "results/threads.md";

const DENSE: &str = "--weights dense";
const FOUR_BITS: &str = "--weights as-file";

/// The heads of columns.
const SHARE: &str = "% of bandwidth";
const BYTES: &str = "MB a token";
const MLP_TIME: &str = "× packed";

/// Where a figure stands.
enum Figure {
    /// How often as fast a row is as another, at a column, in runs of the bench.
    Times { files: &'static [&'static str], row: &'static str, over: &'static str, columns: &'static [&'static str] },
    /// What share of the bandwidth a row reads, in percent.
    Share { row: &'static str },
    /// The time of an MLP's neurons over that of the packed matrices, and what the same lines take that are only touched.
    Mlp { row: &'static str },
    /// The speed of two threads over one.
    Threads { column: &'static str },
}

/// Something aimed at.
struct Goal {
    work: &'static str,
    aim: f64,
    figure: Figure,
}

/// A figure that was measured.
struct Measured {
    place: String,
    value: f64,
    shown: String,
    /// What it is bound by, where that is in the file.
    bound: Option<String>,
}

const fn times(
    files: &'static [&'static str],
    work: &'static str,
    aim: f64,
    (row, over): (&'static str, &'static str),
    columns: &'static [&'static str],
) -> Goal {
    Goal { work, aim, figure: Figure::Times { files, row, over, columns } }
}

const GOALS: [Goal; 14] = [
    times(
        SMALL,
        "a 4-bit file, decoding, over ik_llama.cpp",
        1.3,
        (FOUR_BITS, "ik_llama.cpp"),
        &["decode at 8", "decode at 500"],
    ),
    Goal {
        work: "a 4-bit file, decoding, % of what memory reads",
        aim: 75.0,
        figure: Figure::Share { row: FOUR_BITS },
    },
    times(
        SMALL,
        "a 4-bit file, a prompt of 512, over ik_llama.cpp",
        1.6,
        (FOUR_BITS, "ik_llama.cpp"),
        &["prefill 512"],
    ),
    times(
        SMALL,
        "16 bits, half of the neurons by the prompt, over all",
        1.3,
        ("--weights dense --mlp griffin:0.5", DENSE),
        &["decode at 8"],
    ),
    times(
        SMALL,
        "16 bits, half of the neurons by token, over all",
        1.15,
        ("--weights dense --mlp topk:0.5", DENSE),
        &["decode at 8"],
    ),
    times(
        SMALL,
        "16 bits, seven tenths of all inputs, over all",
        1.22,
        ("--weights dense --inputs teal:0.7", DENSE),
        &["decode at 8"],
    ),
    times(
        LARGE,
        "4 bits, 1B shape, seven tenths of all inputs, over all",
        1.2,
        ("--weights as-file --inputs teal:0.7", FOUR_BITS),
        &["decode at 8"],
    ),
    Goal {
        work: "4 bits, MLP of the 1B shape, a list of half, time over packed",
        aim: 0.6,
        figure: Figure::Mlp { row: "Llama-3.2-1B list 0.5, gathered" },
    },
    Goal { work: "the same by token", aim: 0.7, figure: Figure::Mlp { row: "Llama-3.2-1B … gate in tiles" } },
    Goal {
        work: "4 bits, MLP of the 7B shape, a list of half, time over packed",
        aim: 0.6,
        figure: Figure::Mlp { row: "LLaMA-7B list 0.5, gathered" },
    },
    Goal { work: "the same by token", aim: 0.7, figure: Figure::Mlp { row: "LLaMA-7B … gate in tiles" } },
    times(
        LARGE,
        "4 bits, 1B shape, half of the neurons by token and of the heads, at 2000, over all",
        1.35,
        ("--weights as-file --mlp topk:0.5 --heads norm:0.5 --kv hole", FOUR_BITS),
        &["decode at 2000"],
    ),
    Goal {
        work: "two threads over one, free cores",
        aim: 1.7,
        figure: Figure::Threads { column: "nothing else runs" },
    },
    Goal {
        work: "two threads over one, beside a busy thread",
        aim: 0.9,
        figure: Figure::Threads { column: "one busy thread beside" },
    },
];

/// The file and what should be in it.
pub fn file() -> Result<(&'static str, String)> {
    let mut made = "| aimed at | | here | figures | what binds it |\n|---|---:|---|---|---|\n".to_owned();
    for Goal { work, aim, figure } in &GOALS {
        let is_time = matches!(figure, Figure::Mlp { .. });
        let is_reached = |figure: &&Measured| if is_time { figure.value <= *aim } else { figure.value >= *aim };
        let figures = measured(figure)?;
        let (reached, missed): (Vec<&Measured>, Vec<&Measured>) = figures.iter().partition(is_reached);
        let places = |figures: &[&Measured]| {
            let mut places: Vec<&str> = figures.iter().map(|figure| &*figure.place).collect();
            places.dedup();
            places.join(", ")
        };
        let verdict = match (&*reached, &*missed) {
            (_, []) => "reached".to_owned(),
            ([], _) => "missed".to_owned(),
            (_, missed) => format!("missed on {}", places(missed)),
        };
        let shown: Vec<String> = figures.iter().map(|figure| format!("{} {}", figure.place, figure.shown)).collect();
        let mut bounds: Vec<String> = missed.iter().filter_map(|figure| figure.bound.clone()).collect();
        bounds.dedup();
        made += &format!("| {work} | {aim} | {verdict} | {} | {} |\n", shown.join("; "), bounds.join("; "));
    }
    Ok(("results/speed-goals.md", made))
}

fn measured(figure: &Figure) -> Result<Vec<Measured>> {
    match *figure {
        Figure::Times { files, row, over, columns } => {
            let pairs = files.iter().flat_map(|file| columns.iter().map(move |column| (file, column)));
            pairs.map(|(file, column)| times_of(file, (row, over), column)).collect()
        }
        Figure::Share { row } => SMALL
            .iter()
            .map(|file| {
                let text = Text::of(file)?;
                let shown = text.cell(SHARE, &[(0, row)], SHARE)?;
                Ok(Measured { place: text.place()?, value: first_number(&shown)?, shown, bound: None })
            })
            .collect(),
        Figure::Mlp { row } => MLP.iter().map(|file| mlp_of(file, row)).collect(),
        Figure::Threads { column } => {
            let text = Text::of(THREADS)?;
            let of = |place: &&str| {
                let shown = text.cell(column, &[(0, place), (1, "2")], column)?;
                // the lesser of the runs
                let runs = shown.split(", ").map(first_number).collect::<Result<Vec<f64>>>()?;
                let value = runs.into_iter().fold(f64::INFINITY, f64::min);
                let bound = Some("`results/threads.md` has what was tried".to_owned());
                Ok(Measured { place: (*place).to_owned(), value, shown, bound })
            };
            ["AMD EPYC", "Intel(R) Xeon(R) Processor"].iter().map(of).collect()
        }
    }
}

/// The time of a row of the MLP bench, `SHAPE ROW`, over that of the packed matrices.
fn mlp_of(file: &'static str, row: &str) -> Result<Measured> {
    let text = Text::of(file)?;
    let (shape, row) = row.split_once(' ').ok_or("expected a shape and a row")?;
    let part = text.after(&format!("{shape}, one token"))?;
    let shown = part.cell(MLP_TIME, &[(0, row)], MLP_TIME)?;
    let touched = part.cell(MLP_TIME, &[(0, "lines of list 0.5")], MLP_TIME)?;
    let bytes = |row| part.cell(MLP_TIME, &[(0, row)], "MB").and_then(|cell| first_number(&cell));
    let (read, whole) = (bytes("top-k by gate 0.5")?, bytes("all, by neuron")?);
    let gate = format!(
        "{:.2} of the bytes, as the gate is read whole; only touching the lines of a list of half takes {touched}",
        read / whole
    );
    // a list that was gathered reads half of all
    let bound =
        if row.contains("gathered") { format!("only touching the lines of the list takes {touched}") } else { gate };
    Ok(Measured { place: text.place()?, value: first_number(&shown)?, shown, bound: Some(bound) })
}

/// A row of the bench over another, and what of it the bytes and the bandwidth explain.
fn times_of(file: &'static str, (row, over): (&str, &str), column: &str) -> Result<Measured> {
    let text = Text::of(file)?;
    let shown = text.cell("over", &[(0, row), (1, over)], column)?;
    let share = |row: &str| text.cell(SHARE, &[(0, row)], SHARE);
    let bytes = |row: &str| text.cell(SHARE, &[(0, row)], BYTES).and_then(|cell| first_number(&cell));
    let bound = match bytes(over) {
        Ok(of) => format!(
            "weights' bytes allow {:.2}; it reads {}% of what memory does, the whole {}%",
            of / bytes(row)?,
            share(row)?,
            share(over)?
        ),
        Err(_) if column.starts_with("prefill") => "not taken apart".to_owned(),
        Err(_) => format!("it reads {}% of what memory does", share(row)?),
    };
    let at = column.trim_start_matches("decode ");
    let at = if at.starts_with("prefill") { String::new() } else { format!("{at}: ") };
    Ok(Measured {
        place: text.place()?,
        value: first_number(&shown)?,
        shown: format!("{at}{shown}"),
        bound: Some(bound),
    })
}

/// The text of a result file, or a part of it.
struct Text {
    file: &'static str,
    text: String,
    /// What the place is read from.
    whole: String,
}

impl Text {
    fn of(file: &'static str) -> Result<Self> {
        let text = fs::read_to_string(root().join(file))?;
        Ok(Self { file, whole: text.clone(), text })
    }

    /// What follows a piece of text.
    fn after(&self, mark: &str) -> Result<Self> {
        let rest = self.text.split_once(mark).ok_or_else(|| format!("{}: expected {mark:?}, got none", self.file))?.1;
        Ok(Self { file: self.file, text: rest.to_owned(), whole: self.whole.clone() })
    }

    /// A cell of the first table with the column `head`.
    fn cell(&self, head: &str, row: &[(usize, &str)], column: &str) -> Result<String> {
        let cell = Table::of(&self.text, head).and_then(|table| table.cell(row, column));
        cell.ok_or_else(|| format!("{}: expected {column} of {row:?}, got none", self.file).into())
    }

    fn place(&self) -> Result<String> {
        let place = self.whole.lines().find_map(place_of);
        // without the threads and the instructions
        let name = place.as_deref().and_then(|place| place.split(", ").next()).map(str::to_owned);
        name.ok_or_else(|| format!("{}: expected a processor, got none", self.file).into())
    }
}

/// The number that a cell begins with.
fn first_number(cell: &str) -> Result<f64> {
    let number = cell.split([' ', '×', ',']).next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("expected a number, got {cell:?}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_their_cells() {
        for (cell, number) in [("1.44 (1.37–1.58)", 1.44), ("1.81×, 1.80×", 1.81), ("76", 76.0)] {
            assert_eq!(first_number(cell).unwrap(), number);
        }
        assert!(first_number("–").is_err());
    }

    #[test]
    fn every_goal_has_figures_and_what_misses_them_says_why() {
        let (_, made) = file().unwrap();
        let rows: Vec<Vec<&str>> =
            made.lines().skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect();
        assert_eq!(rows.len(), GOALS.len());
        for row in rows {
            assert!(row[2] == "reached" || !row[4].is_empty(), "{row:?}");
            assert!(!row[3].is_empty(), "{row:?}");
        }
    }
}
