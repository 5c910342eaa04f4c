//! The checker of shared memory: initialisation, races and asynchronous copies.

pub(crate) mod clock;
pub(crate) mod shadow;
