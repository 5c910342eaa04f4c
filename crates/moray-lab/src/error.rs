//! The error type of the command's library.

use std::io;
use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model could not be opened, converted or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pipeline estimator or simulator was given something it cannot work with.
    #[error(transparent)]
    Bpipe(#[from] moray_bpipe::Error),
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The bytes contradict the format or themselves.
    #[error("{}: {what}: expected {expected}, got {got}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field, key or tensor.
        what: String,
        /// The rule it breaks.
        expected: String,
        /// What was found.
        got: String,
    },
    /// The file ends before what it announces.
    #[error("{}: {what}: expected {expected} more bytes, got {got}: the file is truncated or its counts are wrong", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// What was being read.
        what: String,
        /// Bytes it needs.
        expected: u64,
        /// Bytes that are left.
        got: u64,
    },
    /// The file is well formed and asks for something that is not implemented.
    #[error("{}: unsupported {what}: expected {expected}, got {got}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The property.
        what: String,
        /// What is supported.
        expected: String,
        /// What the file asks for.
        got: String,
    },
    /// A key without which the model cannot be described is absent.
    #[error("{}: expected the key {key}, got none", path.display())]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A tensor of the architecture is absent.
    #[error("{}: expected the tensor {name}, got none", path.display())]
    MissingTensor {
        /// The file or directory.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor that the architecture does not have, so the model computes something else.
    #[error("{}: expected only the tensors of a llama model, got {name}", path.display())]
    UnexpectedTensor {
        /// The file or directory.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
    },
    /// A tensor's shape contradicts the configuration.
    #[error("{}: tensor {name}: expected shape {expected:?} (rows, columns), got {got:?}", path.display())]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// Rows and columns by the configuration.
        expected: [usize; 2],
        /// Rows and columns found.
        got: [usize; 2],
    },
    /// A tensor's element type cannot be used in its place.
    #[error("{}: tensor {name}: expected {expected}, got {got}", path.display())]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        name: String,
        /// The element types that can.
        expected: String,
        /// The element type found.
        got: String,
    },
    /// Tokenizer and embedding disagree.
    #[error("{}: vocabulary: expected {expected} tokens as the embedding has rows, got {got}", path.display())]
    Vocabulary {
        /// The file that holds the tokenizer.
        path: PathBuf,
        /// Rows of the embedding.
        expected: usize,
        /// Tokens of the tokenizer.
        got: usize,
    },
    /// A weight or a block's scale is NaN or infinite.
    #[error("tensor {name}, row {row}: expected finite weights, got NaN or infinity")]
    NotFinite {
        /// The tensor's name in the file.
        name: String,
        /// The first row that holds one.
        row: usize,
    },
    /// A layer, row or token id lies outside its range.
    #[error("{what}: expected an index below {limit}, got {got}")]
    Index {
        /// What is indexed.
        what: String,
        /// First index that is too large.
        limit: usize,
        /// The index found.
        got: usize,
    },
    /// The tokenizer could not be built or failed on a text.
    #[error("{}: tokenizer: {message}", path.display())]
    Tokenizer {
        /// The file that holds the tokenizer.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// An operation of the kernel library refused its arguments.
    #[error(transparent)]
    Kernel(#[from] moray::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn malformed(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Malformed { path: path.into(), what: what.into(), expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Self {
        Self::Unsupported { path: path.into(), what: what.into(), expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn missing_key(path: &Path, key: impl Into<String>) -> Self {
        Self::MissingKey { path: path.into(), key: key.into() }
    }

    pub(crate) fn tokenizer(path: &Path, message: impl ToString) -> Self {
        Self::Tokenizer { path: path.into(), message: message.to_string() }
    }
}
