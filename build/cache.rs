//! Compiled images that builds of other target folders, packages and features share, in the folder that `MORAY_CUDA_CACHE` names.
//!
//! An entry is one file, which holds all that decides what the compiler makes — the compiler's version, its arguments, the variables of
//! the environment that it reads, the source and every header — and then the compiler's report and the image. It is named by a hash of the
//! former, which is compared whole: names that are the same by chance cost a compilation. Entries are written beside their place and
//! moved, so that none is there in part; nothing removes them.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::{env, fs, io};

/// What nvcc takes from the environment beside its arguments.
const READ_BY_NVCC: [&str; 6] =
    ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN", "CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH"];

/// What decides an image: names and bytes, each after its length.
#[derive(Clone)]
pub struct Key(Vec<u8>);

impl Key {
    /// What all sources have in common beside their headers.
    pub fn new(compiler: &str, arguments: &[String]) -> Self {
        let mut key = Key(Vec::new());
        key.add("compiler", compiler.as_bytes());
        for argument in arguments {
            key.add("argument", argument.as_bytes());
        }
        for name in READ_BY_NVCC {
            if let Some(value) = env::var_os(name) {
                key.add(name, value.as_encoded_bytes());
            }
        }
        key
    }

    /// Adds something with its name.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        for part in [name.as_bytes(), bytes] {
            self.0.extend((part.len() as u64).to_le_bytes());
            self.0.extend(part);
        }
    }

    /// With a source.
    pub fn of(&self, name: &str, source: &[u8]) -> Self {
        let mut key = self.clone();
        key.add(name, source);
        key
    }

    /// Sixteen hexadecimal digits that other keys hardly have.
    pub fn name(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    }
}

/// A folder of entries.
pub struct Cache(PathBuf);

impl Cache {
    /// The one that the environment names.
    pub fn named() -> Option<Self> {
        env::var_os("MORAY_CUDA_CACHE").filter(|folder| !folder.is_empty()).map(|folder| Self::at(folder.into()))
    }

    /// One in a folder.
    pub fn at(folder: PathBuf) -> Self {
        Cache(folder)
    }

    /// The report and the image of a key.
    pub fn get(&self, key: &Key) -> Option<(Vec<u8>, Vec<u8>)> {
        let entry = fs::read(self.0.join(key.name())).ok()?;
        let (lengths, rest) = entry.split_at_checked(16)?;
        let length = |at: usize| usize::try_from(u64::from_le_bytes(lengths[at..at + 8].try_into().ok()?)).ok();
        let (report, image) = rest.strip_prefix(&key.0[..])?.split_at_checked(length(0)?)?;
        (image.len() == length(8)?).then(|| (report.to_vec(), image.to_vec()))
    }

    /// Keeps the report and the image of a key.
    pub fn keep(&self, key: &Key, report: &[u8], image: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let [report_len, image_len] = [report, image].map(|part| (part.len() as u64).to_le_bytes());
        let fresh = self.0.join(format!("{}.{}", key.name(), std::process::id()));
        fs::write(&fresh, [&report_len, &image_len, &key.0[..], report, image].concat())?;
        fs::rename(&fresh, self.0.join(key.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cache, Key};
    use std::fs;

    #[test]
    fn entry_is_what_was_kept_or_none() {
        let folder = std::env::temp_dir().join(format!("moray-cache-{}", std::process::id()));
        let cache = Cache::at(folder.join("images"));
        let [a, b] = ["a", "b"].map(|compiler| Key::new(compiler, &[]));
        assert_eq!(cache.get(&a), None, "there is no folder yet");
        cache.keep(&a, b"report", b"image").unwrap();
        cache.keep(&b, b"", b"other").unwrap();
        assert_eq!(cache.get(&a), Some((b"report".to_vec(), b"image".to_vec())));
        assert_eq!(cache.get(&b), Some((Vec::new(), b"other".to_vec())));
        assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 2, "nothing stands beside the entries");

        let [of_a, of_b] = [&a, &b].map(|key| cache.0.join(key.name()));
        let whole = fs::read(&of_a).unwrap();
        for length in 0..whole.len() {
            fs::write(&of_a, &whole[..length]).unwrap();
            assert_eq!(cache.get(&a), None, "{length} bytes");
        }
        fs::write(&of_a, [&whole[..], b"more"].concat()).unwrap();
        assert_eq!(cache.get(&a), None);
        fs::copy(of_b, of_a).unwrap();
        assert_eq!(cache.get(&a), None, "another key of the same name");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn key_is_that_of_all_that_it_is_made_of() {
        let arguments = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        let key = |compiler: &str, list: &[&str], header: (&str, &str), source: (&str, &str)| {
            let mut key = Key::new(compiler, &arguments(list));
            key.add(header.0, header.1.as_bytes());
            key.of(source.0, source.1.as_bytes())
        };
        let first = || key("1", &["-a", "-b"], ("h", "x"), ("s", "y"));
        let keys = [
            first(),
            key("2", &["-a", "-b"], ("h", "x"), ("s", "y")),
            key("1", &["-a"], ("h", "x"), ("s", "y")),
            key("1", &["-a-b"], ("h", "x"), ("s", "y")),
            key("1", &["-b", "-a"], ("h", "x"), ("s", "y")),
            key("1", &["-a", "-b"], ("h", "z"), ("s", "y")),
            key("1", &["-a", "-b"], ("g", "x"), ("s", "y")),
            key("1", &["-a", "-b"], ("hx", ""), ("s", "y")),
            key("1", &["-a", "-b"], ("h", "x"), ("s", "z")),
            key("1", &["-a", "-b"], ("h", "x"), ("t", "y")),
        ];
        assert!(keys[0].0 == first().0 && keys[0].name() == first().name());
        for (i, key) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|other| other.0 != key.0 && other.name() != key.name()), "{i}");
        }
    }
}
