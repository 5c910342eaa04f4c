//! Which neurons a call on a device computes.

use crate::arguments::MorayBytes;
use crate::selection::{MorayScore, MoraySelect};

/// Which neurons each token of a call computes, by memory of the device. What its kind does not name is not looked at.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaSelection {
    /// The kind: one of the `MORAY_SELECT_..` constants.
    pub kind: MoraySelect,
    /// Threshold, top-k: what is scored.
    pub score: MorayScore,
    /// List, union: u32 [d_ff], strictly increasing as far as the count goes.
    pub list: MorayBytes,
    /// List, union: u32 [1]; more than d_ff counts as d_ff.
    pub count: MorayBytes,
    /// Masks, union: u64 [tokens, ceil(d_ff / 64)], neuron j is bit j % 64 of word j / 64.
    pub masks: MorayBytes,
    /// Threshold, top-k: f32 [d_ff] (d_model for inputs) that scores are multiplied with, or left out.
    pub channel_scale: MorayBytes,
    /// Threshold: finite, at least 0.
    pub threshold: f32,
    /// Top-k: 1 to the number of what is scored; the lower index first where scores are equal.
    pub k: usize,
}
