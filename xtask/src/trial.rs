//! `cargo xtask trial [--short | --long] [page ...]`: follows the documents' commands literally, in a clean clone, as someone would who has just
//! come; with `--short` those of the pages that take two minutes together, or of the pages that are named.
//!
//! Lines of `sh` blocks have to succeed; a line of a `console` block, after `$ `, has to print what stands below it, where `...`
//! stands for anything. What documents call M, TEXT and so on is filled in. A line whose comment speaks of minutes runs with
//! `--long` only, one that needs what a clone does not bring (a peer, a registry) never; both are named.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use crate::{TaskResult, fetch, root, simcuda, toolkit};

/// Documents whose commands are for users; those of `crates/moray-bpipe` have a test of their own, as their output is exact.
const DOCUMENTS: [&str; 20] = [
    "README.md",
    "docs/command.md",
    "docs/rust.md",
    "crates/moray-c/README.md",
    "crates/moray-c/CUDA.md",
    "docs/python.md",
    "docs/torch.md",
    "docs/tvm-ffi.md",
    "docs/vllm.md",
    "docs/hub.md",
    "docs/candle.md",
    "docs/cuda-engines.md",
    "docs/demo.md",
    "docs/speed.md",
    "docs/quality.md",
    "docs/numbers.md",
    "docs/files.md",
    "docs/w4a8.md",
    "docs/attention.md",
    "crates/simcuda/README.md",
];

/// Documents that are followed with every change.
const SHORT: [&str; 2] = ["docs/rust.md", "crates/moray-c/README.md"];

/// How much of the documents is followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// A few of them.
    Short,
    /// All that takes no minutes.
    Usual,
    /// All.
    Long,
}

/// What a document's words stand for here.
const NAMES: [(&str, &str); 7] = [
    ("M", "models/SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("FILE", "models/lee_background.cor"),
    ("TEXT", "models/lee_background.cor"),
    ("OTHER", "models/lee_background.cor"),
    ("QUESTIONS", "questions.jsonl"),
    ("DIR", "out"),
    ("URL", "file://CLONE"),
];

/// What a reader calls the program of a page: the first block of its language.
const PROGRAMS: [(&str, &str); 3] = [("c", "program.c"), ("cpp", "program.cc"), ("python", "program.py")];

/// What a reader would ask.
const QUESTIONS: &str = r#"{"question": "The capital of France is", "choices": ["Paris", "a square"], "answer": 0}
{"question": "The sky is", "choices": ["seven", "blue"], "answer": 1}
"#;

/// What no clone brings.
const ELSEWHERE: [&str; 6] =
    ["PYTHON", "cargo publish", "cargo install", "-F cuda", "--features cuda", "pip install torch"];

/// A command of a document, and what it prints if the document says so.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    comment: String,
    output: Option<Vec<String>>,
}

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    let (extent, pages) = match arguments.split_first() {
        Some((short, pages)) if short == "--short" => (Extent::Short, pages),
        Some((long, pages)) if long == "--long" => (Extent::Long, pages),
        _ => (Extent::Usual, arguments),
    };
    let documents = documents(extent, pages)?;
    fetch::run(&[])?;
    // always the same, so that the next trial finds what this one built
    let folder = env::temp_dir().join("moray-trial");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    clone(&folder).and_then(|clone| follow(&clone, extent, &documents))
}

/// The pages that are followed: those that are named, or all of an extent.
fn documents(extent: Extent, named: &[String]) -> Result<Vec<&'static str>, String> {
    let of_extent = if extent == Extent::Short { &SHORT[..] } else { &DOCUMENTS[..] };
    if named.is_empty() {
        return Ok(of_extent.to_vec());
    }
    let find = |page: &String| {
        let known = DOCUMENTS.into_iter().find(|document| document == page);
        known
            .ok_or_else(|| format!("trial: expected --short, --long, or pages of {}, got {page}", DOCUMENTS.join(", ")))
    };
    named.iter().map(find).collect()
}

/// A clone of what is committed, with the models that are fetched already and the target folder, where dependencies are built.
fn clone(folder: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let clone = folder.join("moray");
    let target = simcuda::target_folder();
    fs::create_dir_all(&target)?;
    fs::create_dir_all(folder)?;
    let status = Command::new("git").args(["clone", "--quiet"]).arg(root().canonicalize()?).arg(&clone).status()?;
    if !status.success() {
        return Err(format!("expected git to clone, got {status}").into());
    }
    for (name, place) in [("models", root().join("models")), ("target", target)] {
        std::os::unix::fs::symlink(place.canonicalize()?, clone.join(name))?;
    }
    Ok(clone)
}

fn follow(clone: &Path, extent: Extent, documents: &[&str]) -> TaskResult {
    // a crate of the reader's, for `cargo add`
    let status = Command::new(env!("CARGO"))
        .args(["new", "--quiet", "reader"])
        .current_dir(clone.with_file_name(""))
        .status()?;
    if !status.success() {
        return Err(format!("expected cargo to make a crate, got {status}").into());
    }
    fs::write(clone.join("questions.jsonl"), QUESTIONS)?;
    if extent == Extent::Long {
        let environment = clone.with_file_name("environment");
        let status = Command::new(toolkit::python()?).args(["-m", "venv"]).arg(&environment).status()?;
        if !status.success() {
            return Err(format!("expected an environment of Python's, got {status}").into());
        }
    }
    let (mut followed, mut left) = (0, Vec::new());
    for document in documents {
        let text = fs::read_to_string(clone.join(document))?;
        for (language, file) in PROGRAMS {
            if let Some(program) = first_block(&text, language) {
                fs::write(clone.join(file), program)?;
            }
        }
        for step in steps(&text) {
            let takes_long = ["minutes", "hour"].iter().any(|word| step.comment.contains(word));
            let is_elsewhere = ELSEWHERE.iter().any(|word| step.command.contains(word));
            if is_elsewhere || (takes_long && extent != Extent::Long) {
                left.push(format!("{document}: {}", step.command));
                continue;
            }
            let start = Instant::now();
            println!("{document}: {}", step.command);
            try_step(&step, clone).map_err(|error| format!("{document}: {}\n{error}", step.command))?;
            println!("    {:.0} s", start.elapsed().as_secs_f64());
            followed += 1;
        }
    }
    println!("{followed} commands did what their pages say; not run: {}", left.join("; "));
    Ok(())
}

fn try_step(step: &Step, clone: &Path) -> Result<(), String> {
    let mut line = step.command.clone();
    for (name, stands_for) in NAMES {
        let words = line.split(' ').map(|word| if word == name { stands_for } else { word });
        line = words.collect::<Vec<_>>().join(" ");
    }
    line = line.replace("CLONE", &clone.display().to_string());
    let is_readers = line.starts_with("cargo add");
    // a Python of the reader's own, where there is one
    let mut path = vec![clone.join("target/release"), clone.with_file_name("environment").join("bin")];
    path.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    let mut command = Command::new("bash");
    command.args(["-euc", &line]).current_dir(if is_readers {
        clone.with_file_name("reader")
    } else {
        clone.to_owned()
    });
    command.env("PATH", env::join_paths(path).map_err(|error| error.to_string())?);
    // as a shell that no cargo has started
    env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")).for_each(|(name, _)| {
        if name != "CARGO_HOME" {
            command.env_remove(name);
        }
    });
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let (printed, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        return Err(format!("expected it to succeed, got {}\n{printed}{errors}", output.status));
    }
    let said = |expected: &Vec<String>| !matches(expected, &printed.lines().collect::<Vec<_>>());
    match &step.output {
        Some(expected) if said(expected) => Err(format!("expected\n{}\ngot\n{printed}", expected.join("\n"))),
        _ => Ok(()),
    }
}

fn first_block<'a>(text: &'a str, language: &str) -> Option<&'a str> {
    text.split(&format!("\n```{language}\n")).nth(1)?.split("\n```").next()
}

/// The commands of a document.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut block, mut begun) = ("", String::new());
    for line in text.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_empty() { language } else { "" };
            continue;
        }
        let line = format!("{begun}{}", if begun.is_empty() { line } else { line.trim_start() });
        begun = String::new();
        match (block, line.strip_prefix("$ "), line.strip_suffix('\\')) {
            ("sh", _, Some(part)) | ("console", Some(_), Some(part)) => begun = part.to_owned(),
            ("sh", ..) => steps.extend(step_of(&line, None)),
            ("console", Some(command), _) => steps.extend(step_of(command, Some(Vec::new()))),
            ("console", ..) => {
                if let Some(Step { output: Some(output), .. }) = steps.last_mut() {
                    output.push(line);
                }
            }
            _ => {}
        }
    }
    steps
}

fn step_of(line: &str, output: Option<Vec<String>>) -> Option<Step> {
    let (command, comment) = line.split_once(" #").unwrap_or((line, ""));
    let command = command.split_whitespace().collect::<Vec<_>>().join(" ");
    // settings by themselves are no commands
    let is_command = !command.is_empty() && !command.starts_with('#') && !command.starts_with("SIMCUDA_");
    is_command.then(|| Step { command, comment: comment.to_owned(), output })
}

/// Says whether lines are those expected, `...` being anything; a line that is nothing else stands for any number of lines.
fn matches(expected: &[String], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.iter().all(|line| line.is_empty()),
        Some((any, rest)) if any == "..." => (0..=printed.len()).any(|skip| matches(rest, &printed[skip..])),
        Some((line, rest)) => {
            printed.split_first().is_some_and(|(first, others)| is_like(line, first) && matches(rest, others))
        }
    }
}

fn is_like(expected: &str, printed: &str) -> bool {
    let mut parts = expected.split("...");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else { return false };
    let mut last = "";
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        last = part;
    }
    rest.is_empty()
        || (expected.contains("...") && last.is_empty())
        || (expected.contains("...") && printed.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_match_the_blocks() {
        let text = "a\n```sh\n# of all\ncargo b \\\n    -c  # 2 minutes\n```\n```console\n$ d e\nf ...\n\n$ g\n```\n```rust\nh\n```\n";
        let step = |command: &str, comment: &str, output: Option<&[&str]>| Step {
            command: command.to_owned(),
            comment: comment.to_owned(),
            output: output.map(|lines| lines.iter().map(|&line| line.to_owned()).collect()),
        };
        let found = steps(text);
        let expected =
            [step("cargo b -c", " 2 minutes", None), step("d e", "", Some(&["f ...", ""])), step("g", "", Some(&[]))];
        assert_eq!(found, expected);
    }

    #[test]
    fn documents_are_those_named_or_those_of_the_extent() {
        assert_eq!(documents(Extent::Short, &[]).unwrap(), SHORT);
        assert_eq!(documents(Extent::Usual, &[]).unwrap(), DOCUMENTS);
        assert_eq!(documents(Extent::Long, &["docs/hub.md".to_owned()]).unwrap(), ["docs/hub.md"]);
        assert!(documents(Extent::Usual, &["--quick".to_owned()]).unwrap_err().contains("got --quick"));
    }

    #[test]
    fn first_block_matches_its_language() {
        let text = "a\n```cpp\nb\n```\n```c\nd\ne\n```\n```c\nf\n```\n";
        assert_eq!(first_block(text, "c"), Some("d\ne"));
        assert_eq!(first_block(text, "python"), None);
    }

    #[test]
    fn output_matches_with_anything_for_dots() {
        let expected = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        assert!(matches(&expected(&["a ... c", "...", "e"]), &["a b c", "d", "d", "e", ""]));
        assert!(matches(&expected(&["a ..."]), &["a b"]));
        assert!(!matches(&expected(&["a ... c"]), &["a b"]));
        assert!(!matches(&expected(&["a"]), &["a", "b"]));
        assert!(!matches(&expected(&["a b"]), &["a"]));
    }
}
