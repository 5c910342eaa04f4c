//! Exact top-k per token.

use super::kept_count;
use crate::error::Result;
use crate::sparse_mlp::select::{Score, ScoreOn, Selection};

/// Each token keeps exactly k neurons with the highest scores.
///
/// By gate, the score is |act(g_j)|: up and down rows of the others are not read. By contribution, it is
/// |act(g_j)·u_j| · ‖down_j‖₂, the size of what the neuron adds to y: only down rows are saved, and the choice is the
/// best that a score without sums over neurons can make.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    k: usize,
    on: ScoreOn,
    /// Per layer, down norms; empty by gate.
    norms: Vec<Vec<f32>>,
}

impl TopK {
    /// Keeps ⌈kept · d_ff⌉ neurons by |act(g)|.
    ///
    /// # Errors
    /// [`crate::Error::Value`] for a fraction outside (0, 1].
    pub fn by_gate(kept: f32, d_ff: usize) -> Result<Self> {
        Ok(TopK { k: kept_count(kept, d_ff)?, on: ScoreOn::Gate, norms: Vec::new() })
    }

    /// Keeps ⌈kept · d_ff⌉ neurons by |act(g)·u| · ‖down‖; `down_norms` is one list \[d_ff\] for each layer, as
    /// [`crate::sparse_mlp::Weights::down_norms`] gives it.
    ///
    /// # Errors
    /// [`crate::Error::Value`] for a fraction outside (0, 1], [`crate::Error::Length`] for norms of another size.
    pub fn by_contribution(kept: f32, d_ff: usize, down_norms: Vec<Vec<f32>>) -> Result<Self> {
        down_norms.iter().try_for_each(|norms| crate::error::check_len("down_norms", d_ff, norms.len()))?;
        Ok(TopK { k: kept_count(kept, d_ff)?, on: ScoreOn::Hidden, norms: down_norms })
    }

    /// Neurons that a token keeps.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The selection for a layer.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a layer without norms.
    pub fn selection(&self, layer: usize) -> Result<Selection<'_>> {
        let channel_scale = match self.on {
            ScoreOn::Gate => None,
            _ => {
                super::check_layer(layer, self.norms.len())?;
                Some(self.norms[layer].as_slice())
            }
        };
        Ok(Selection::TopK { score: Score { on: self.on, channel_scale }, k: self.k })
    }
}
