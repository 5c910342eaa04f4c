//! CONTRIBUTING.md counts the files that a change touches; here they are counted.

use std::fs;

use crate::tree::Tree;

/// Where the code of the library and the command is; tests are no part of a change's size.
fn is_code(path: &str) -> bool {
    let ours = path.starts_with("src/") || path.starts_with("kernels/") || path.starts_with("crates/moray-lab/src/");
    ours && !path.ends_with("/tests.rs") && [".rs", ".cu", ".cuh"].iter().any(|ending| path.ends_with(ending))
}

/// The files of code that have any of these words.
fn naming<'a>(tree: &'a Tree, words: &[&str]) -> Vec<&'a str> {
    let names = |path: &&String| {
        let text = fs::read_to_string(tree.root.join(path)).expect("text in UTF-8");
        words.iter().any(|word| text.contains(word))
    };
    tree.files.iter().filter(|path| is_code(path)).filter(names).map(String::as_str).collect()
}

#[test]
fn counts_match_the_files_that_name_each_thing() {
    let tree = Tree::read();
    let text = fs::read_to_string(tree.root.join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let mut rows = 0;
    // | change | files | before | `word`, `word` |
    for row in text.lines().filter(|line| line.starts_with("| a")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let words: Vec<&str> = cells[4].split('`').skip(1).step_by(2).collect();
        let found = naming(&tree, &words);
        let count: usize = cells[2].parse().unwrap_or_else(|_| panic!("{row}: expected a count"));
        assert_eq!(found.len(), count, "{row}: {}", found.join(" "));
        rows += 1;
    }
    assert!(rows >= 3, "{rows} rows");
}
