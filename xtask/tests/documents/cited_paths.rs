//! Every file and folder that a comment or a document names exists.

use std::fs;
use std::path::Path;

use crate::tree::{NOT_OURS, Tree};

/// Endings of the files whose names are followed.
const FOLLOWED: [&str; 7] = [".rs", ".cu", ".cuh", ".py", ".sh", ".md", ".svg"];

/// Files of other projects that comments name.
const ELSEWHERE: [&str; 1] = ["docs/gguf.md"];

/// Whether a path that stands in `file` leads somewhere: from the root, or from the end of an existing path, as
/// `layout.cuh` and `w4a8/layout.cuh` do for `kernels/w4a8/layout.cuh`.
fn has(tree: &Tree, file: &str, path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_start_matches("../");
    let paths = if path.ends_with('/') { &tree.folders } else { &tree.files };
    let name = path.trim_end_matches('/');
    let beside = Path::new(file).parent().unwrap_or(Path::new("")).join(name);
    let ends = |known: &String| known == name || known.strip_suffix(name).is_some_and(|front| front.ends_with('/'));
    paths.iter().any(ends) || tree.root.join(beside).exists()
}

/// The part of a line that is prose: all of a document's, and of code what follows the sign of a comment.
fn prose<'a>(file: &str, line: &'a str) -> &'a str {
    let sign = match Path::new(file).extension().and_then(|ending| ending.to_str()) {
        Some("md") => return line,
        Some("rs" | "cu" | "cuh") => "//",
        _ => "#",
    };
    let start = line.trim_start();
    // a sign later in the line may stand in a string, so it needs space before it
    match start.strip_prefix(sign) {
        Some(comment) => comment,
        None => line.split_once(&format!(" {sign} ")).map_or("", |(_, comment)| comment),
    }
}

/// The paths that a piece of prose names: words with a followed ending, and folders under a top-level one.
fn cited<'a>(tree: &Tree, prose: &'a str) -> Vec<&'a str> {
    let parts = |c: char| !(c.is_ascii_alphanumeric() || "_-./*<>{}:$~".contains(c));
    let words = prose.split(parts).map(|word| word.trim_end_matches(['.', ':']));
    let is_pattern =
        |word: &str| word.contains(['*', '<', '>', '{', '}', ':', '$', '~']) || word.starts_with(['/', '.']);
    let is_file = |word: &str| FOLLOWED.iter().any(|ending| word.len() > ending.len() && word.ends_with(ending));
    let is_folder = |word: &str| {
        let top = word.split('/').next().unwrap_or_default();
        word.ends_with('/') && !NOT_OURS.contains(&top) && tree.folders.contains(top)
    };
    words.filter(|word| !is_pattern(word) && (is_file(word) || is_folder(word))).collect()
}

#[test]
fn cited_paths_match_the_tree() {
    let tree = Tree::read();
    let mut missing = Vec::new();
    let mut checked = 0;
    for file in &tree.files {
        if ![".rs", ".cu", ".cuh", ".md", ".toml", ".py"].iter().any(|ending| file.ends_with(ending)) {
            continue;
        }
        let text = fs::read_to_string(tree.root.join(file)).expect("text in UTF-8");
        for (number, line) in (1..).zip(text.lines()) {
            for path in cited(&tree, prose(file, line)) {
                checked += 1;
                if !ELSEWHERE.contains(&path) && !has(&tree, file, path) {
                    missing.push(format!("{file}:{number} names {path}"));
                }
            }
        }
    }
    assert!(checked > 100, "{checked} paths found");
    assert!(missing.is_empty(), "the tree does not have:\n{}", missing.join("\n"));
}

#[test]
fn citations_match_those_of_a_line() {
    let tree = Tree::read();
    let of = |line: &str| -> Vec<String> { cited(&tree, prose("a.rs", line)).into_iter().map(str::to_owned).collect() };
    assert_eq!(of("/// as `layout.cuh` and (src/cpu.rs)."), ["layout.cuh", "src/cpu.rs"]);
    let gone = "kernels/gone/";
    assert_eq!(of(&format!("let a = 1; // of {gone}: see")), [gone]);
    assert!(of("include!(\"gone.rs\"); a / b.rs").is_empty());
    assert!(of("// crates/*/x.rs, <file>.md, https://example.org/a.md, target/").is_empty());
    assert!(!has(&tree, "src/lib.rs", gone) && !has(&tree, "src/lib.rs", "yout.cuh"));
    assert!(has(&tree, "src/lib.rs", "w4a8/layout.cuh") && has(&tree, "kernels/w4a8/gemm.cu", "../common/ptx.cuh"));
}
