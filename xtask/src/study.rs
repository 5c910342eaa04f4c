//! `cargo xtask study`: runs the commands of `results/study.md` again and writes what they print in place of what stands there.
//!
//! A part of the file is a heading, a block of commands, sentences, and after the line [`MARK`] the output of the commands, which is all that is
//! replaced. They run one part after another in `target/study`, where a study that was interrupted goes on: parts that are done are written at once.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{TaskResult, fetch, figures, gains, root};

const FILE: &str = "results/study.md";

/// The cells of the first part as comma-separated values, which the figure of `docs/study.md` is drawn from.
const CSV: &str = "results/study.csv";

/// What stands before the output of a part's commands.
const MARK: &str = "<!-- output -->";

/// Tables that are made of the file, and the documents that show them.
const SHOWN: [&str; 3] = ["results/front.md", "results/claims.md", "results/goals.md"];
const DOCUMENTS: [&str; 2] = ["README.md", "docs/study.md"];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A part of the file.
#[derive(Debug, PartialEq)]
struct Part<'a> {
    heading: &'a str,
    /// Lines for a shell.
    commands: &'a str,
    /// All before the output, from the heading's line on.
    before: &'a str,
}

/// Builds the command, obtains the model and the text, runs the parts whose headings begin with an argument, or all of them, and writes the tables and
/// figures that are made of the file.
pub fn run(arguments: &[String]) -> TaskResult {
    let path = root().join(FILE);
    let headings: Vec<String> =
        parts_of(&fs::read_to_string(&path)?)?.iter().map(|part| part.heading.to_owned()).collect();
    let chosen = chosen(&headings, arguments)?;
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "moray-lab"])
        .current_dir(root())
        .status()?;
    if !status.success() {
        return Err(format!("expected the build to succeed, got {status}").into());
    }
    fetch::run(&[])?;
    let folder = folder()?;
    for heading in chosen {
        println!("{heading}");
        let text = fs::read_to_string(&path)?;
        let parts = parts_of(&text)?;
        let part =
            parts.iter().find(|part| part.heading == heading).ok_or_else(|| format!("{FILE}: no part {heading}"))?;
        let output = output_of(&folder, part.commands)?;
        fs::write(&path, with_output(&text, part, &output))?;
        if *heading == headings[0] {
            fs::copy(folder.join("study/study.csv"), root().join(CSV))?;
        }
    }
    let read = |file: &str| fs::read_to_string(root().join(file));
    let before = SHOWN.map(read).into_iter().collect::<std::io::Result<Vec<_>>>()?;
    gains::run(&[])?;
    figures::run(&[])?;
    for document in DOCUMENTS {
        let mut text = read(document)?;
        for (file, before) in SHOWN.iter().zip(&before) {
            text = shown(&text, file, before, &read(file)?);
        }
        fs::write(root().join(document), text)?;
    }
    Ok(())
}

/// A document with another content of a table that it shows.
fn shown(text: &str, file: &str, before: &str, after: &str) -> String {
    text.replace(&format!("<!-- {file} -->\n{before}"), &format!("<!-- {file} -->\n{after}"))
}

/// The headings that begin with one of the arguments, all without any.
fn chosen<'a>(headings: &'a [String], arguments: &[String]) -> Result<Vec<&'a String>> {
    let begins = |argument: &String| headings.iter().any(|heading| heading.starts_with(&**argument));
    if let Some(other) = arguments.iter().find(|argument| !begins(argument)) {
        return Err(format!("study: expected the beginning of one of {headings:?}, got {other}").into());
    }
    let is_chosen =
        |heading: &&String| arguments.is_empty() || arguments.iter().any(|argument| heading.starts_with(&**argument));
    Ok(headings.iter().filter(is_chosen).collect())
}

/// Where the commands run, with the models beside them.
fn folder() -> Result<PathBuf> {
    let folder = root().join("target/study");
    fs::create_dir_all(&folder)?;
    let models = folder.join("models");
    if !models.exists() {
        #[cfg(unix)]
        std::os::unix::fs::symlink(root().join("models"), &models)?;
        #[cfg(not(unix))]
        return Err(format!("study: expected the models in {}, got none", models.display()).into());
    }
    Ok(folder)
}

/// What the commands print, with the command that was built as `moray`; the first that fails ends them.
fn output_of(folder: &Path, commands: &str) -> Result<String> {
    let mut path = root().join("target/release").into_os_string();
    if let Some(others) = std::env::var_os("PATH") {
        path.push(":");
        path.push(others);
    }
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", commands])
        .current_dir(folder)
        .env("PATH", path)
        .stderr(std::process::Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("expected the commands to succeed, got {}:\n{commands}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// The parts of the file.
fn parts_of(text: &str) -> Result<Vec<Part<'_>>> {
    let starts: Vec<usize> = text.match_indices("\n## ").map(|(at, _)| at + 1).collect();
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let part = |(&start, end): (&usize, usize)| {
        let part = &text[start..end];
        let heading = part[3..].lines().next().unwrap_or_default();
        let missing = |what: &str| format!("{FILE}: {heading}: expected {what}, got none");
        let begin = part.find("```sh\n").ok_or_else(|| missing("a block of commands"))? + 6;
        let length = part[begin..].find("\n```\n").ok_or_else(|| missing("the end of the commands"))?;
        let mark = part.find(&format!("\n{MARK}\n")).ok_or_else(|| missing(MARK))?;
        Ok(Part { heading, commands: &part[begin..begin + length], before: &part[..mark] })
    };
    starts.iter().zip(ends).map(part).collect()
}

/// The file with another output of a part.
fn with_output(text: &str, part: &Part<'_>, output: &str) -> String {
    let start = part.before.as_ptr() as usize - text.as_ptr() as usize;
    let rest = &text[start + part.before.len()..];
    let next = rest.find("\n## ").map_or("", |next| &rest[next..]);
    let mut made = text[..start + part.before.len()].to_owned();
    let _ = write!(made, "\n{MARK}\n{}\n{next}", output.trim_end());
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Study\n\n## A\n```sh\none\ntwo\n```\n\nWhat it is.\n\n<!-- output -->\nold\n\nolder\n\n## B\n```sh\nthree\n```\n<!-- output -->\nb\n";

    #[test]
    fn parts_are_their_commands_and_only_their_output_is_replaced() {
        let parts = parts_of(TEXT).unwrap();
        let found: Vec<_> = parts.iter().map(|part| (part.heading, part.commands)).collect();
        assert_eq!(found, [("A", "one\ntwo"), ("B", "three")]);
        assert_eq!(with_output(TEXT, &parts[0], "new\n\n"), TEXT.replace("old\n\nolder", "new"));
        assert_eq!(with_output(TEXT, &parts[1], "new"), TEXT.replace("\nb\n", "\nnew\n"));
        for (text, said) in [
            ("# Study\n\n## A\nno commands\n<!-- output -->\n", "a block of commands"),
            ("# Study\n\n## A\n```sh\none\n", "the end of the commands"),
            ("# Study\n\n## A\n```sh\none\n```\n", MARK),
        ] {
            let refused = parts_of(text).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn documents_show_the_table_that_is_made() {
        let document = "a\n<!-- results/t.md -->\n| old |\n\nb | old |\n";
        assert_eq!(shown(document, "results/t.md", "| old |\n", "| new |\n"), document.replacen("old", "new", 1));
        assert_eq!(shown(document, "results/u.md", "| old |\n", "| new |\n"), document);
    }

    #[test]
    fn arguments_are_beginnings_of_headings() {
        let headings = ["Methods".to_owned(), "More".to_owned(), "Heads".to_owned()];
        assert_eq!(chosen(&headings, &[]).unwrap().len(), 3);
        assert_eq!(chosen(&headings, &["Mo".into(), "Heads".into()]).unwrap(), ["More", "Heads"]);
        assert!(chosen(&headings, &["Mo".into(), "Tails".into()]).unwrap_err().to_string().contains("Tails"));
    }

    #[test]
    fn commands_end_where_one_fails() {
        let folder = std::env::temp_dir();
        assert_eq!(output_of(&folder, "echo a\necho b").unwrap(), "a\nb\n");
        assert!(output_of(&folder, "false\necho b").unwrap_err().to_string().contains("false"));
    }

    #[test]
    fn the_committed_file_can_be_made_again() {
        let text = fs::read_to_string(root().join(FILE)).unwrap();
        let parts = parts_of(&text).unwrap();
        assert!(parts.len() > 5);
        for part in parts {
            assert!(part.commands.contains("moray"), "{}", part.heading);
            let output = text.split_once(part.before).unwrap().1.strip_prefix(&format!("\n{MARK}\n")).unwrap();
            let output = output.split("\n## ").next().unwrap();
            assert_eq!(with_output(&text, &part, output), text, "{}", part.heading);
        }
    }
}
