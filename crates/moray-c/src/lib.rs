//! The C ABI of [moray](https://crates.io/crates/moray): what an engine in C, C++ or any other language links.
//!
//! `include/moray.h` is made of these sources and says the same in C; the crate's README.md has a program, the rules of threads and
//! ownership, and the table of errors.
//!
//! # Conventions
//! Every call that can fail returns a [`MorayStatus`]; [`moray_last_error`] has the sentence that names the argument, what was
//! expected and what was found. A call that fails for its arguments has written nothing, and its handles stay usable. Nothing unwinds
//! into the caller. A buffer is passed with its size in bytes ([`MorayBytes`]), which has to be what the call needs, so that
//! a short buffer and one of another type are told instead of read.
//!
//! # Safety
//! Every function needs what C needs: a pointer is null or to what its type says, for as many bytes as stated, and nothing else writes
//! that memory during the call; a handle comes from its `create` and has not been destroyed. What else a function needs, it says.
#![allow(clippy::missing_safety_doc)] // stated once, above
#![allow(rustdoc::broken_intra_doc_links)] // texts are the C header's too, where [K] is a shape

mod activations;
mod arguments;
mod attention;
mod by_input;
mod cpu;
mod cuda;
mod dtype;
mod format;
mod import;
mod kv_pages;
mod linear;
mod mlp;
mod mlp_parts;
mod openmp;
mod quantized;
mod sections;
mod selection;
mod status;
mod supports;
#[cfg(unix)]
mod tvm_ffi;
mod version;
mod weight;

pub use activations::*;
pub use arguments::*;
pub use attention::*;
pub use by_input::*;
pub use cpu::*;
pub use cuda::*;
pub use dtype::*;
pub use format::*;
pub use import::*;
pub use kv_pages::*;
pub use linear::*;
pub use mlp::*;
pub use mlp_parts::*;
pub use quantized::*;
pub use sections::*;
pub use selection::*;
pub use status::*;
pub use supports::*;
pub use version::*;
pub use weight::*;
