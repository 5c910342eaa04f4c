//! The repository's files, read from the disk.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What the repository does not hold: what is built or fetched, and what git ignores.
pub const NOT_OURS: [&str; 3] = ["target", "models", "corpus"];

/// The repository's files, by their paths from its root.
pub struct Tree {
    pub root: PathBuf,
    pub files: BTreeSet<String>,
    pub folders: BTreeSet<String>,
}

impl Tree {
    pub fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut tree = Self { root: root.clone(), files: BTreeSet::new(), folders: BTreeSet::new() };
        tree.walk(&root, "");
        tree
    }

    fn walk(&mut self, folder: &Path, prefix: &str) {
        for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
            let name = entry.file_name().into_string().expect("a name in UTF-8");
            let path = format!("{prefix}{name}");
            if !entry.path().is_dir() {
                self.files.insert(path);
            } else if name != ".git" && !NOT_OURS.contains(&name.as_str()) {
                self.walk(&entry.path(), &format!("{path}/"));
                self.folders.insert(path);
            }
        }
    }
}
