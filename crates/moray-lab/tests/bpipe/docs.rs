//! Every command in the documentation still prints what stands below it.

use crate::command::words;
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const PROMPT: &str = "$ moray bpipe ";

/// Runs a command as it stands in the document: backslashes join its lines; what it writes to `docs/` goes to `folder`.
fn output(command: &str, folder: &Path) -> String {
    let written = format!("{}/", folder.display());
    let line = command.replace("\\\n", " ").replace("docs/", &written);
    words(&line).unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// The document with the output of every command in a `console` block replaced by what it prints now.
fn regenerated(text: &str, folder: &Path) -> (String, usize) {
    let mut fresh = String::new();
    let mut commands = 0;
    let mut lines = text.lines().peekable();
    let mut in_block = false;
    while let Some(line) = lines.next() {
        in_block = if line.starts_with("```") { line == "```console" } else { in_block };
        fresh.push_str(line);
        fresh.push('\n');
        let Some(first) = line.strip_prefix(PROMPT).filter(|_| in_block) else { continue };
        let mut command = first.to_string();
        while command.ends_with('\\') {
            let next = lines.next().expect("a line after a backslash");
            fresh.push_str(next);
            fresh.push('\n');
            command.push('\n');
            command.push_str(next);
        }
        fresh.push_str(&output(&command, folder));
        commands += 1;
        while lines.peek().is_some_and(|line| !line.starts_with("```") && !line.starts_with(PROMPT)) {
            lines.next();
        }
    }
    (fresh, commands)
}

/// Compares a document with what its commands print; with `MORAY_UPDATE_DOCS=1` writes it instead.
fn check(name: &str, least_commands: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = Path::new(ROOT).join(name);
    let text = std::fs::read_to_string(&path).expect("the document");
    let (fresh, commands) = regenerated(&text, folder.path());
    assert!(commands >= least_commands, "{name}: {commands} commands");
    let update = std::env::var("MORAY_UPDATE_DOCS").is_ok_and(|update| update == "1");
    if update {
        std::fs::write(&path, &fresh).expect("the document is writable");
    } else {
        assert_eq!(text, fresh, "{name} is stale; MORAY_UPDATE_DOCS=1 cargo test -p moray-lab rewrites it");
    }
    for file in std::fs::read_dir(folder.path()).expect("the folder").flatten() {
        let redrawn = std::fs::read_to_string(file.path()).expect("what a command wrote");
        let plot = Path::new(ROOT).join("docs").join(file.file_name());
        if update {
            std::fs::write(&plot, &redrawn).expect("the plot is writable");
        }
        let drawn = std::fs::read_to_string(&plot).expect("the plot");
        assert!(drawn == redrawn, "{} is stale; MORAY_UPDATE_DOCS=1 rewrites it", plot.display());
    }
}

#[test]
fn document_matches_the_output_of_its_commands() {
    check("docs/bpipe.md", 4);
    assert!(Path::new(ROOT).join("docs/bpipe-timeline.svg").is_file());
}

#[test]
fn readme_matches_the_output_of_its_commands() {
    check("README.md", 3);
}
