//! GGUF files, versions 2 and 3, little-endian.
//!
//! A file is a header (magic, version, counts), typed key/value pairs, a table of tensors and, aligned, their data. The
//! header is read once and remembered as positions in the mapped file, so that a vocabulary costs no memory until it
//! is used. Counts and lengths are believed only as far as the file could hold them.
//!
//! # Source
//! The format's specification, `docs/gguf.md` of the ggml project.

mod config;
mod cursor;
mod header;
mod metadata;
mod rotary;
mod text_bounds;
mod vocabulary;

pub use header::{Header, TensorInfo};
pub use metadata::{Array, Metadata, Value, ValueType};
pub use rotary::half_split_row;
pub use vocabulary::{TokenType, Vocabulary};

pub(crate) use config::{interleaved, model_config, vocabulary_bounds};
pub(crate) use rotary::half_split_rows;
