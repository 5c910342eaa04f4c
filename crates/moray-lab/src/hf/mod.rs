//! Hugging Face model directories, as they are.
//!
//! `config.json` describes the model; `model.safetensors`, or the shards that `model.safetensors.index.json` lists, hold
//! the tensors; `tokenizer.json` the vocabulary. `generation_config.json`, `tokenizer_config.json` and
//! `chat_template.jinja` add token ids and the template where they exist.

mod added_tokens;
mod config;
mod directory;
mod keys;
mod rope;
mod safetensors;
mod text_bounds;
mod tokenizer_file;

pub use config::parse_config;
pub use safetensors::{StoredTensor, parse_safetensors};

pub(crate) use added_tokens::AddedTokens;
pub(crate) use directory::{Opened, added_tokens, open_directory};
pub(crate) use safetensors::{StoredArrayInfo, parse_arrays};
pub(crate) use tokenizer_file::check_merges;
