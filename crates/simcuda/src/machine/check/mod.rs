//! The checker of shared memory: initialisation, races and asynchronous copies.

pub(crate) mod clock;
mod events;
pub(crate) mod shadow;
mod words;
