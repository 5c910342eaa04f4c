//! The driver: CUDA's exported functions over the [machine](crate::machine).
//!
//! From the bottom up: `abi` is the boundary to C, whose results are [`codes`]; `image` reads what modules are loaded from;
//! `object` holds contexts, streams, events, kernels, graphs and the device they work on; `state` is the one owner of all
//! objects, and `captures`, `current` and `streams` are the rules over several of them; `call` holds the exported functions.
//! Work goes through `streams` (or a capture) into `object::schedule`, which runs it as `object::work` when something waits
//! for it.

mod abi;
mod call;
mod captures;
mod codes;
mod current;
mod image;
mod object;
mod registry;
mod settings;
mod state;
mod streams;
