//! The tables of the README and of the pages of `docs` are those of the result files.

use std::path::Path;

/// Checks the tables of a document; returns how many there are.
fn check(root: &Path, document: &Path) -> usize {
    let text = std::fs::read_to_string(document).expect("a document");
    let name = document.display();
    let files = text.lines().filter_map(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->"));
    files
        .map(|file| {
            let table =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
            assert!(
                text.contains(&format!("<!-- {file} -->\n{table}")),
                "{name}: expected the table of {file}:\n{table}"
            );
        })
        .count()
}

#[test]
fn tables_match_their_result_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = std::fs::read_dir(root.join("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
    let documents = pages.filter(|page| page.extension().is_some_and(|extension| extension == "md"));
    let tables: usize = documents.chain([root.join("README.md")]).map(|document| check(&root, &document)).sum();
    assert!(tables >= 4, "{tables} tables");
}

#[test]
fn the_readme_is_read_in_one_sitting() {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).expect("README.md");
    let lines = text.lines().count();
    assert!(lines <= 150, "README.md has {lines} lines, expected at most 150");
}
