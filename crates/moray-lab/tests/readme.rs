//! The README's table is the result file's.

use std::path::Path;

#[test]
fn readme_table_matches_its_result_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("results/demo.md")).expect("results/demo.md");
    let readme = std::fs::read_to_string(root.join("README.md")).expect("README.md");
    assert!(readme.contains(&table), "README.md: expected the table of results/demo.md:\n{table}");
}
