//! README.md says how long the program of each door is; here the lines are counted.

use std::fs;

use crate::tree::Tree;

/// A door, its page, the language that its program's block names, and what the program has that other blocks of the page have not.
const DOORS: [(&str, &str, &str, &str); 8] = [
    ("Rust", "README.md", "rust", "fn main"),
    ("C", "crates/moray-c/README.md", "c", "int main"),
    ("C++", "crates/moray-c/README.md", "cpp", "int main"),
    ("Python", "docs/python.md", "python", "moray.linear"),
    ("torch", "docs/torch.md", "python", "torch.compile"),
    ("TVM FFI", "docs/tvm-ffi.md", "python", "import tvm_ffi"),
    ("candle", "crates/moray-candle/README.md", "rust", "fn main"),
    ("cust", "docs/cuda-engines.md", "rust", "fn main"),
];

/// Lines of a page's program that are not empty.
fn lines(text: &str, language: &str, words: &str) -> usize {
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    let program = blocks.into_iter().find(|block| block.contains(words)).expect("a program");
    program.lines().filter(|line| !line.trim().is_empty()).count()
}

#[test]
fn lines_of_programs_match_the_sentence() {
    let tree = Tree::read();
    let read = |page: &str| fs::read_to_string(tree.root.join(page)).expect("a page");
    let counted = DOORS.map(|(door, page, language, words)| format!("{door} {}", lines(&read(page), language, words)));
    let sentence = format!("Lines of each page's program: {}.", counted.join(", "));
    let readme = read("README.md").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(readme.contains(&sentence), "README.md: expected {sentence:?}");
    assert_eq!(lines("x\n```c\na\n\nb\n```\n```c\nint main\n```", "c", "main"), 1);
}
