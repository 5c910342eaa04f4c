//! Other programs measured beside moray's rows: what they print is read, in the forms of llama.cpp's `llama-bench` or as JSON.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use serde_json::Value;

use super::ways::Plan;
use crate::error::{Error, Result};

/// A program that prints tokens a second, and its arguments, in which `{model}`, `{prompt}`, `{n}`, `{threads}` and `{positions}`
/// stand for the run's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// What its row is called.
    pub name: String,
    words: Vec<String>,
}

/// Tokens a second that a peer printed, and of what.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Printed {
    /// Tokens of a prompt that are part of what was timed.
    prompt: usize,
    /// Tokens that were generated.
    generated: usize,
    /// Positions before them, not timed.
    depth: usize,
    tokens_per_second: f64,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut words = words(text)?;
        let name = match words.first().and_then(|word| word.strip_suffix(':')).map(str::to_owned) {
            Some(name) => {
                words.remove(0);
                name
            }
            None => words.first().map_or("", |word| word.rsplit('/').next().unwrap_or_default()).to_owned(),
        };
        match words.is_empty() || name.is_empty() {
            true => Err("expected a program and its arguments, got none".into()),
            false => Ok(Self { name, words }),
        }
    }
}

/// The words of a command: between spaces, or between quotes of either kind, in which nothing else is special.
fn words(text: &str) -> std::result::Result<Vec<String>, String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    match quote {
        Some(open) => Err(format!("expected a second {open} in {text}, got one")),
        None => {
            words.extend(word);
            Ok(words)
        }
    }
}

impl Peer {
    /// llama-cpp-python, measured by a script.
    pub(super) fn python(python: &Path, script: &Path) -> Self {
        let arguments = ["{model}", "{prompt}", "{n}", "{threads}", "{positions}"].map(str::to_owned);
        let paths = [python, script].map(|path| path.to_string_lossy().into_owned());
        Self { name: "llama.cpp".into(), words: paths.into_iter().chain(arguments).collect() }
    }

    /// Runs the program once and reads a value for each column of the plan that it printed one for.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be run, [`Error::Malformed`] with what it printed if it fails or prints no figure of the plan.
    pub(super) fn measure(&self, model: &Path, threads: usize, plan: &Plan) -> Result<Vec<Option<f64>>> {
        let positions = plan.positions.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let values = [
            ("{model}", model.to_string_lossy().into_owned()),
            ("{prompt}", plan.prompt.to_string()),
            ("{n}", plan.n.to_string()),
            ("{threads}", threads.to_string()),
            ("{positions}", positions),
        ];
        let filled = |word: &String| values.iter().fold(word.clone(), |word, (name, value)| word.replace(name, value));
        let words: Vec<String> = self.words.iter().map(filled).collect();
        let program = PathBuf::from(&words[0]);
        let output = Command::new(&program).args(&words[1..]).output();
        let output = output.map_err(|source| Error::io("run", &program, source))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        let values = columns(&figures(&printed), plan);
        if output.status.success() && values.iter().any(Option::is_some) {
            return Ok(values);
        }
        let expected = match output.status.success() {
            true => {
                "tokens a second of the run's prompt or positions, as llama-bench prints them or as JSON".to_owned()
            }
            false => format!("success, not {}", output.status),
        };
        let all = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
        Err(Error::malformed(&program, "peer", expected, shown(&all)))
    }
}

/// Lines of what a peer printed that an error shows, from the last.
const SHOWN_LINES: usize = 20;

fn shown(printed: &str) -> String {
    let lines: Vec<&str> = printed.lines().collect();
    match lines.len() {
        0 => "nothing printed".into(),
        len => format!("this output:\n{}", lines[len.saturating_sub(SHOWN_LINES)..].join("\n")),
    }
}

/// The values of the plan's columns; decoding that begins before the first position counts as at it.
fn columns(printed: &[Printed], plan: &Plan) -> Vec<Option<f64>> {
    let mut values = vec![None; usize::from(plan.prompt > 0) + plan.positions.len()];
    for figure in printed {
        let first = usize::from(plan.prompt > 0);
        let at = |depth: usize| plan.positions.iter().position(|&position| position == depth);
        let column = match (figure.prompt, figure.generated) {
            (prompt, 0) if prompt == plan.prompt && figure.depth == 0 && prompt > 0 => Some(0),
            (0, 1..) => at(figure.depth)
                .or_else(|| plan.positions.first().filter(|&&position| figure.depth < position).map(|_| 0))
                .map(|position| first + position),
            _ => None,
        };
        if let Some(column) = column {
            values[column] = Some(figure.tokens_per_second);
        }
    }
    values
}

/// The figures in what a peer printed: JSON, JSON by lines, CSV with a header, or a Markdown table.
fn figures(text: &str) -> Vec<Printed> {
    let json = |text: &str| serde_json::from_str::<Value>(text.trim()).ok();
    let objects = match json(text) {
        Some(Value::Array(objects)) => objects,
        Some(object) => vec![object],
        None => text.lines().filter_map(json).collect(),
    };
    let found: Vec<_> = objects.iter().filter_map(|object| printed(&|field| text_of(object.get(field)?))).collect();
    if !found.is_empty() {
        return found;
    }
    [table(text, csv_cells), table(text, markdown_cells)].concat()
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The rows of a table, whose header is the first line that names speeds.
fn table(text: &str, cells: fn(&str) -> Option<Vec<String>>) -> Vec<Printed> {
    let mut lines = text.lines().filter_map(cells);
    let names = |header: &Vec<String>| SPEEDS.iter().any(|speed| header.iter().any(|name| name == speed));
    let Some(header) = lines.find(names) else { return Vec::new() };
    let row = |cells: Vec<String>| {
        printed(&|field| {
            cells.get(header.iter().position(|name| name == field)?).cloned().filter(|cell| !cell.is_empty())
        })
    };
    lines.filter_map(row).collect()
}

fn csv_cells(line: &str) -> Option<Vec<String>> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.trim().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            _ => cell.push(c),
        }
    }
    cells.push(cell);
    (cells.len() > 1).then_some(cells)
}

fn markdown_cells(line: &str) -> Option<Vec<String>> {
    let cells = line.trim().strip_prefix('|')?.trim_end_matches('|');
    Some(cells.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// What the fields of speeds are called.
const SPEEDS: [&str; 3] = ["tokens_per_second", "avg_ts", "t/s"];

/// Reads one figure by the names of its fields. Without any word on what was timed it is decoding, from the beginning.
fn printed(field: &dyn Fn(&str) -> Option<String>) -> Option<Printed> {
    let speed = SPEEDS.iter().find_map(|name| field(name))?;
    let tokens_per_second: f64 = speed.split('±').next()?.trim().parse().ok()?;
    if !tokens_per_second.is_finite() || tokens_per_second <= 0.0 {
        return None;
    }
    if let Some(test) = field("test") {
        return labelled(&test, tokens_per_second);
    }
    let number = |name| field(name).map(|text| text.parse::<usize>());
    let (prompt, generated, depth) = (number("n_prompt"), number("n_gen"), number("n_depth"));
    let depth = depth.transpose().ok()?.unwrap_or(0);
    let (prompt, generated) = match (prompt.transpose().ok()?, generated.transpose().ok()?) {
        (None, None) => (0, 1),
        (prompt, generated) => (prompt.unwrap_or(0), generated.unwrap_or(0)),
    };
    Some(Printed { prompt, generated, depth, tokens_per_second })
}

/// Reads `pp512`, `tg128`, `pp512+tg128`, each also with ` @ d500` behind it, and `tg128@pp500`.
fn labelled(test: &str, tokens_per_second: f64) -> Option<Printed> {
    let (timed, before) = test.split_once('@').unwrap_or((test, "d0"));
    let depth = before.trim().trim_start_matches(char::is_alphabetic).parse().ok()?;
    let mut printed = Printed { prompt: 0, generated: 0, depth, tokens_per_second };
    for part in timed.split('+') {
        let part = part.trim();
        if let Some(tokens) = part.strip_prefix("pp") {
            printed.prompt = tokens.parse().ok()?;
        } else {
            printed.generated = part.strip_prefix("tg")?.parse().ok()?;
        }
    }
    Some(printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(prompt: usize, positions: &[usize]) -> Plan {
        Plan { tokens: Vec::new(), prompt, positions: positions.into(), n: 32, rounds: 1 }
    }

    fn read(text: &str) -> Vec<Option<f64>> {
        columns(&figures(text), &plan(512, &[8, 500]))
    }

    #[test]
    fn every_form_of_output_gives_the_same_values() {
        let expected = [Some(250.5), Some(90.25), Some(70.0)];
        let json = r#"[ {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 250.5, "samples_ts": [250.5]},
            {"n_prompt": 0, "n_gen": 32, "n_depth": 0, "avg_ts": 90.25},
            {"n_prompt": 0, "n_gen": 32, "n_depth": 500, "avg_ts": 70.0} ]"#;
        let by_lines = "loading the model\n{\"n_prompt\": 512, \"n_gen\": 0, \"avg_ts\": 250.5}\n\
            {\"n_gen\": 32, \"tokens_per_second\": 90.25}\n{\"n_gen\": 32, \"n_depth\": 500, \"tokens_per_second\": 70}\n";
        let csv = "build,n_prompt,n_gen,n_depth,avg_ts\n\"a, b\",\"512\",\"0\",\"0\",\"250.5\"\n\"\",\"0\",\"32\",\"8\",\"90.25\"\n\
            \"\",\"0\",\"32\",\"500\",\"70.0\"\n";
        let markdown = "| model | test | t/s |\n| --- | ---: | ---: |\n| llama | pp512 | 250.50 ± 3.10 |\n\
            | llama | tg32 | 90.25 ± 0.10 |\n| llama | tg32 @ d500 | 70.00 ± 0.00 |\n| llama | pp512+tg32 | 1.00 ± 0.00 |\n\n\
            build: 1 (2)\n";
        let by_prompt = "| model | test | t/s |\n|---|---|---|\n| llama | pp512 | 250.50 ± 3.10 |\n\
            | llama | tg32@pp8 | 90.25 ± 0.10 |\n| llama | tg32@pp500 | 70.00 ± 0.00 |\n";
        for text in [json, by_lines, csv, markdown, by_prompt] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn figures_of_other_tests_are_left_out() {
        assert_eq!(read("{\"tokens_per_second\": 12.5}"), [None, Some(12.5), None]);
        let other = "| test | t/s |\n| pp128 | 9.0 |\n| tg32 @ d300 | 9.0 |\n| pp512 @ d500 | 9.0 |\n| tg32 | nan |";
        assert_eq!(read(other), [None; 3]);
        assert_eq!(columns(&figures("{\"avg_ts\": 3.0, \"n_prompt\": 512}"), &plan(0, &[8])), [None]);
        for text in ["", "12.5 tokens a second", "[1, 2]", "| t/s |", "avg_ts,n_gen\n,\n"] {
            assert_eq!(read(text), [None; 3], "{text}");
        }
    }

    #[test]
    fn commands_are_split_at_spaces_outside_quotes() {
        let peer: Peer = "mine: '/a b/llama-bench' -m {model}  -o \"json l\"".parse().unwrap();
        assert_eq!(peer.name, "mine");
        assert_eq!(peer.words, ["/a b/llama-bench", "-m", "{model}", "-o", "json l"]);
        assert_eq!("bin/llama-bench -p 1".parse::<Peer>().unwrap().name, "llama-bench");
        for wrong in ["", "  ", "mine:", "'open"] {
            assert!(wrong.parse::<Peer>().is_err(), "{wrong:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn programs_get_the_plan_and_failures_show_what_was_printed() {
        let run =
            |text: &str| text.parse::<Peer>().unwrap().measure(Path::new("/m o/x.gguf"), 3, &plan(512, &[8, 500]));
        let echo =
            "sh -c '[ \"$0 $1 $2 $3 $4\" = \"/m o/x.gguf 512 32 3 8,500\" ] && echo {\\\"tokens_per_second\\\": 5}'";
        let all = format!("{echo} {{model}} {{prompt}} {{n}} {{threads}} {{positions}}");
        assert_eq!(run(&all).unwrap(), [None, Some(5.0), None]);
        let refusal = run("sh -c 'echo half a table; echo no such file >&2; exit 3'").unwrap_err().to_string();
        for part in ["sh: peer", "success", "3", "half a table", "no such file"] {
            assert!(refusal.contains(part), "{refusal}");
        }
        let refusal = run("echo fast").unwrap_err().to_string();
        assert!(refusal.contains("tokens a second") && refusal.contains("fast"), "{refusal}");
        assert!(run("true").unwrap_err().to_string().contains("nothing printed"));
        assert!(run("/no/such/program").unwrap_err().to_string().contains("/no/such/program"));
    }
}
