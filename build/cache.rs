//! Compiled images that builds of other target folders, packages and features share, in the folder that `MORAY_CUDA_CACHE` names.
//!
//! An entry is one file, named by the SHA-256 of all that decides what the compiler makes: the compiler's version, its arguments,
//! the variables of the environment that it reads, the source and every header. It begins with the SHA-256 of what follows, the
//! compiler's report and the image, so that an entry that is not whole is none. Entries are written beside their place and moved,
//! and never change; nothing removes them.

use std::path::PathBuf;
use std::{env, fs, io};

use super::sha256;

/// What nvcc takes from the environment beside its arguments.
const READ_BY_NVCC: [&str; 6] =
    ["NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS", "NVCC_CCBIN", "CPATH", "CPLUS_INCLUDE_PATH", "C_INCLUDE_PATH"];

/// The length of a digest in hexadecimal.
const DIGEST: usize = 64;

/// What decides an image.
pub struct Key(String);

impl Key {
    /// What all sources have in common beside their headers.
    pub fn new(compiler: &str, arguments: &[String]) -> Self {
        let mut key = Key(String::new());
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

    /// Adds something by two digests, so that no two lists of things are the same.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        self.0.push_str(&sha256::hex(name.as_bytes()));
        self.0.push_str(&sha256::hex(bytes));
    }

    /// With a source.
    pub fn of(&self, name: &str, source: &[u8]) -> String {
        let mut key = Key(self.0.clone());
        key.add(name, source);
        sha256::hex(key.0.as_bytes())
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
    pub fn get(&self, key: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        let entry = fs::read(self.0.join(key)).ok()?;
        let (digest, rest) = entry.split_at_checked(DIGEST)?;
        let (length, both) = rest.split_at_checked(8)?;
        let (report, image) = both.split_at_checked(u64::from_le_bytes(length.try_into().ok()?).try_into().ok()?)?;
        (sha256::hex(rest).as_bytes() == digest).then(|| (report.to_vec(), image.to_vec()))
    }

    /// Keeps the report and the image of a key.
    pub fn keep(&self, key: &str, report: &[u8], image: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        let rest = [&(report.len() as u64).to_le_bytes(), report, image].concat();
        let fresh = self.0.join(format!("{key}.{}", std::process::id()));
        fs::write(&fresh, [sha256::hex(&rest).as_bytes(), &rest].concat())?;
        fs::rename(&fresh, self.0.join(key))
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
        assert_eq!(cache.get("a"), None, "there is no folder yet");
        cache.keep("a", b"report", b"image").unwrap();
        cache.keep("b", b"", b"other").unwrap();
        assert_eq!(cache.get("a"), Some((b"report".to_vec(), b"image".to_vec())));
        assert_eq!(cache.get("b"), Some((Vec::new(), b"other".to_vec())));
        assert_eq!(fs::read_dir(&cache.0).unwrap().count(), 2, "nothing stands beside the entries");

        let whole = fs::read(cache.0.join("a")).unwrap();
        for length in 0..whole.len() {
            fs::write(cache.0.join("a"), &whole[..length]).unwrap();
            assert_eq!(cache.get("a"), None, "{length} bytes");
        }
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            fs::write(cache.0.join("a"), other).unwrap();
            assert_eq!(cache.get("a"), None, "byte {at}");
        }
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
        assert_eq!(keys[0], first());
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{i}");
        }
    }
}
