//! Reading little-endian fields from bytes that may end or lie.

use std::path::Path;

use crate::error::{Error, Result};

/// A position in a file; every read is checked against its end.
#[derive(Debug, Clone)]
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8], position: usize) -> Self {
        Self { path, bytes, position: position.min(bytes.len()) }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// Takes `len` bytes, or says what they were for.
    pub(crate) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8]> {
        let left = self.remaining();
        match usize::try_from(len) {
            Ok(len) if len <= left => {
                let taken = &self.bytes[self.position..][..len];
                self.position += len;
                Ok(taken)
            }
            _ => Err(Error::Truncated { path: self.path.into(), what: what.into(), expected: len, got: left as u64 }),
        }
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a count of things of which each takes at least `min_bytes`.
    pub(crate) fn count(&mut self, min_bytes: u64, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let left = self.remaining() as u64;
        match count.checked_mul(min_bytes) {
            Some(bytes) if bytes <= left => Ok(count as usize),
            bytes => Err(Error::Truncated {
                path: self.path.into(),
                what: format!("{what} {count}"),
                expected: bytes.unwrap_or(u64::MAX),
                got: left,
            }),
        }
    }

    /// Reads the bytes of a length-prefixed string.
    pub(crate) fn string_bytes(&mut self, what: &str) -> Result<&'a [u8]> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    /// Reads a length-prefixed UTF-8 string.
    pub(crate) fn string(&mut self, what: &str) -> Result<&'a str> {
        let bytes = self.string_bytes(what)?;
        std::str::from_utf8(bytes).map_err(|error| Error::malformed(self.path, what, "UTF-8", error))
    }
}
