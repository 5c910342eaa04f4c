//! Finished cells in a file of JSON lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Record;
use crate::error::{Error, Result};

/// A file of JSON lines, one record each. A line is added at once when its cell is finished.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    records: Vec<Record>,
}

impl Log {
    /// Opens a file, or starts it. A last line without its end, as an interruption leaves it, is cut off.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read or written, [`Error::Malformed`] for a line that is no record.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |action| move |source| Error::io(action, path, source);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(io("open"))?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(io("read"))?;
        // what was not finished may end inside of a character
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        bytes.truncate(whole);
        let text = String::from_utf8(bytes)
            .map_err(|error| Error::malformed(path, "lines", "records of a study, in UTF-8", error))?;
        let record = |(index, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|error| Error::malformed(path, format!("line {}", index + 1), "a record of a study", error))
        };
        let records = text.lines().enumerate().map(record).collect::<Result<_>>()?;
        // a file of something else is left as it is
        file.set_len(whole as u64).map_err(io("shorten"))?;
        Ok(Log { path: path.into(), file, records })
    }

    /// The record of a key.
    pub fn find(&self, key: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.key == key)
    }

    /// Adds a record.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn add(&mut self, record: Record) -> Result<()> {
        let write = |file: &mut File| {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            file.write_all(&line)
        };
        write(&mut self.file).map_err(|source| Error::io("write", &self.path, source))?;
        self.records.push(record);
        Ok(())
    }
}
