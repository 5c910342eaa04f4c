//! The README's tables are those of the result files.

use std::path::Path;

#[test]
fn readme_tables_match_their_result_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    let mut tables = 0;
    for name in readme.lines().filter_map(|line| line.strip_prefix("<!-- ")?.strip_suffix(" -->")) {
        let table = std::fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let below = format!("<!-- {name} -->\n{table}");
        assert!(readme.contains(&below), "README.md: expected the table of {name}:\n{table}");
        tables += 1;
    }
    assert!(tables >= 2, "{tables} tables");
}
