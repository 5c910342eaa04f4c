//! Every link of a document to a file or a folder of the repository leads there, and the index of `docs` names all of its pages.

use crate::tree::Tree;
use std::fs;

/// The targets of a document's links, `[words](target)`, and the files of its figures, outside of programs.
fn targets(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_program = false;
    for line in text.lines() {
        is_program ^= line.starts_with("```");
        if !is_program {
            for (before, after) in [("](", ')'), (" src=\"", '"'), ("srcset=\"", '"')] {
                found.extend(line.split(before).skip(1).filter_map(|rest| rest.split(after).next()));
            }
        }
    }
    found
}

/// The path from the root that a target stands for in a document, without the part after `#`.
fn resolved(document: &str, target: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('#').next().unwrap_or(target).split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[test]
fn links_match_the_tree() {
    let tree = Tree::read();
    let (mut checked, mut broken) = (0, Vec::new());
    for file in tree.files.iter().filter(|file| file.ends_with(".md")) {
        let text = fs::read_to_string(tree.root.join(file)).expect("text in UTF-8");
        for target in targets(&text).into_iter().filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = resolved(file, target);
            if !path.is_empty() && !tree.files.contains(&path) && !tree.folders.contains(&path) {
                broken.push(format!("{file} links to {target}"));
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "{checked} links found");
    assert!(broken.is_empty(), "the tree does not have:\n{}", broken.join("\n"));
}

#[test]
fn index_matches_the_pages() {
    let tree = Tree::read();
    let index = fs::read_to_string(tree.root.join("docs/README.md")).expect("docs/README.md");
    let linked: Vec<String> = targets(&index).into_iter().map(|target| resolved("docs/README.md", target)).collect();
    let is_page = |file: &&String| file.starts_with("docs/") && !file.ends_with(".svg") && *file != "docs/README.md";
    for page in tree.files.iter().filter(is_page) {
        assert!(linked.contains(page), "docs/README.md does not link to {page}");
    }
}

#[test]
fn links_match_those_of_a_line() {
    assert_eq!(targets("see [a](b.md#c) and [d](../e)\n```\n[f](g)\n```"), ["b.md#c", "../e"]);
    assert_eq!(targets("<source srcset=\"a.svg\">\n<img alt=\"x\" src=\"b.svg\">"), ["a.svg", "b.svg"]);
    assert_eq!(resolved("docs/x.md", "../e/f.md#g"), "e/f.md");
    assert_eq!(resolved("README.md", "docs/"), "docs");
}
