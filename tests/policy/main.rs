//! The policies against their definitions: what they keep, how they are calibrated, when they renew.

#[path = "../common/mod.rs"]
mod common;

mod beforehand;
mod head_norm;
mod neurons;
mod predicted;
mod set;
mod table;
mod wina;

use moray::attention::{AttentionShape, Span};
use moray::policy::{ModelSizes, Sizes};

/// Two slots of a model of `n_layers` with 4 query heads of 8 in 2 groups.
fn sizes(n_layers: usize, d_ff: usize) -> Sizes {
    let attention = AttentionShape::new(4, 2, 8).unwrap();
    Sizes { model: ModelSizes { n_layers, d_model: 32, d_ff, attention }, slots: 2, max_tokens: 8 }
}

/// One token of a slot.
fn token(slot: usize, start: usize) -> [Span; 1] {
    [Span { slot, start, len: 1 }]
}
