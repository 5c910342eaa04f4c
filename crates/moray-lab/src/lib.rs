//! The library behind the `moray` command: model files, tokenizers and the studies built on moray's kernels.

pub mod activations;
pub mod analyze;
pub mod calibration;
pub mod checkpoint;
pub mod choices;
pub mod cli;
pub mod config;
pub mod dequantize;
pub mod dtype;
pub mod error;
pub mod eval;
mod fields;
#[doc(hidden)]
pub mod fixture;
#[doc(hidden)]
pub mod fuzzing;
pub mod gguf;
pub mod hf;
mod json;
pub mod load;
mod lossy_path;
pub mod machine;
pub mod mapped_file;
pub mod notes;
pub mod on_cpu;
pub mod packed;
mod plot;
pub mod quantize;
mod roles;
pub mod statistics;
pub mod study;
pub mod tensor;
pub mod text_bounds;
pub mod tokenizer;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
