//! Every command in the documentation still prints what stands below it.

use crate::command::words;
use std::path::Path;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");
const PLOT: &str = "timeline.svg";
const PROMPT: &str = "$ moray bpipe ";

/// Runs a command as it stands in the document: backslashes join its lines; the plot that it writes goes to `folder`.
fn output(command: &str, folder: &Path) -> String {
    let line = command.replace("\\\n", " ").replace(PLOT, &folder.join(PLOT).display().to_string());
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

/// Compares a document with what its commands print, and the plot with what they draw; with `MORAY_UPDATE_DOCS=1` writes
/// them instead.
fn check(path: &Path, least_commands: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = std::fs::read_to_string(path).expect("the document");
    let (fresh, commands) = regenerated(&text, folder.path());
    assert!(commands >= least_commands, "{}: {commands} commands", path.display());
    agrees(path, &fresh);
    if let Ok(redrawn) = std::fs::read_to_string(folder.path().join(PLOT)) {
        agrees(&Path::new(CRATE).join(PLOT), &redrawn);
    }
}

fn agrees(path: &Path, fresh: &str) {
    if std::env::var("MORAY_UPDATE_DOCS").is_ok_and(|update| update == "1") {
        std::fs::write(path, fresh).expect("the document is writable");
        return;
    }
    let committed = std::fs::read_to_string(path).expect("the document");
    let name = path.display();
    assert!(committed == fresh, "{name} is stale; MORAY_UPDATE_DOCS=1 cargo test -p moray-bpipe rewrites it:\n{fresh}");
}

#[test]
fn document_matches_the_output_of_its_commands() {
    check(&Path::new(CRATE).join("README.md"), 4);
    assert!(Path::new(CRATE).join(PLOT).is_file());
}
