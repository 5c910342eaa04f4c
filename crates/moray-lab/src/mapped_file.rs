//! A model file in memory: mapped, so that only what is read is resident, or owned bytes for tests and fuzzing.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::error::{Error, Result};

#[cfg(unix)]
mod resident {
    use memmap2::{Mmap, UncheckedAdvice};

    /// Drops a range of a read-only mapping from the resident set. Failure changes only the resident size.
    pub(super) fn discard(map: &Mmap, offset: usize, len: usize) {
        // SAFETY: the mapping is read-only and backed by a file, so discarded pages are read back from it; nothing was
        // ever written to them. The caller clamps the range to the mapping.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len) };
    }
}

#[cfg(not(unix))]
mod resident {
    /// Does nothing: where the system takes no advice, pages stay until it needs them.
    pub(super) fn discard(_map: &memmap2::Mmap, _offset: usize, _len: usize) {}
}

/// A first read brings in up to this many bytes around it (Linux's default), so what was released just before comes
/// back in part and is released again.
const FAULT_AROUND_BYTES: usize = 64 << 10;

/// The bytes of one file.
///
/// A mapped file must not be truncated by another process while it is open: the operating system answers a read beyond
/// the new end with SIGBUS. Bytes changed in place merely change what is read.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl MappedFile {
    /// Maps a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`] if the path cannot be read, [`Error::Malformed`] if it is no regular file, a link to nothing, or stands for a
    /// file that was not fetched.
    pub fn open(path: &Path) -> Result<Self> {
        let len = regular_len(path)?;
        let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
        if len == 0 {
            return Ok(Self::from_bytes(path, Vec::new())); // an empty mapping is refused by the system
        }
        // SAFETY: the mapping is read-only and private to this value; the struct's documentation asks that the file
        // is not truncated while it lives. Concurrent writes can change bytes, and every reader treats them as data
        // that may hold anything.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io("map", path, source))?;
        check_fetched(path, &map)?;
        Ok(Self { path: path.into(), storage: Storage::Mapped(map) })
    }

    /// Reads a file of no more than `limit` bytes.
    ///
    /// # Errors
    /// As [`MappedFile::open`]; [`Error::Malformed`] if it is longer.
    pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
        let len = regular_len(path)?;
        if len > limit {
            return Err(Error::malformed(path, "size", format!("at most {limit} bytes"), len));
        }
        let bytes = std::fs::read(path).map_err(|source| Error::io("read", path, source))?;
        check_fetched(path, &bytes)?;
        Ok(bytes)
    }

    /// Whether something has this name.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is a link to nothing.
    pub(crate) fn exists(path: &Path) -> Result<bool> {
        match (path.exists(), path.read_link()) {
            (true, _) => Ok(true),
            (false, Err(_)) => Ok(false),
            (false, Ok(target)) => {
                let got = format!("{}, which is not there", target.display());
                Err(Error::malformed(path, "link", "one to a file", got))
            }
        }
    }

    /// Takes bytes that are already in memory; `path` only names them in messages.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), storage: Storage::Owned(bytes) }
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Mapped(map) => map,
            Storage::Owned(bytes) => bytes,
        }
    }

    /// Where the file came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Drops a range of bytes from the resident set. Reading them again is allowed and fetches them again.
    pub fn release(&self, range: Range<usize>) {
        let Storage::Mapped(map) = &self.storage else { return };
        let (start, end) = (range.start.saturating_sub(FAULT_AROUND_BYTES).min(map.len()), range.end.min(map.len()));
        if start >= end {
            return;
        }
        resident::discard(map, start, end - start);
    }
}

/// The length of a regular file. What is none is not opened: opening a pipe waits for who writes it.
fn regular_len(path: &Path) -> Result<u64> {
    MappedFile::exists(path)?;
    let metadata = std::fs::metadata(path).map_err(|source| Error::io("open", path, source))?;
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    let got = if metadata.is_dir() { "a directory" } else { "something else" };
    Err(Error::malformed(path, "path", "a regular file", got))
}

/// Refuses what version control leaves in a large file's place.
fn check_fetched(path: &Path, bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        let got = "a Git LFS pointer: fetch the file with git lfs pull";
        return Err(Error::malformed(path, "content", "the file itself", got));
    }
    Ok(())
}
