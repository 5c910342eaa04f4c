//! The README's tables are what the result files say.

use std::path::Path;

use moray_lab::cli::demo::{Demo, write_table};

#[test]
fn readme_table_matches_its_result_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let result = std::fs::read(root.join("results/demo.json")).expect("results/demo.json");
    let demo: Demo = serde_json::from_slice(&result).expect("a result of `moray demo --json`");
    let mut table = Vec::new();
    write_table(&demo, &mut table).expect("memory takes it");
    let table = String::from_utf8(table).expect("UTF-8");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    assert!(readme.contains(&table), "README.md: expected the table of results/demo.json:\n{table}");
}
