//! Exact top-k per token.

use std::sync::Arc;

use super::observed::tokens_of;
use super::table::{Arguments, Context, Policies};
use super::{Found, Kept, ModelSizes, Observed, Policy, PolicyConfig, Site, Sizes, Wanted, check_layer, kept_count};
use crate::attention::Span;
use crate::error::{Result, check_len};
use crate::sparse_mlp::{Score, ScoreOn, Selection};

/// Each token keeps exactly k neurons with the highest scores.
///
/// By gate, the score is |act(g_j)|: up and down rows of the others are not read. By contribution, it is
/// |act(g_j)·u_j| · ‖down_j‖₂, the size of what the neuron adds to y: only down rows are saved, and the choice is the
/// best that a score without sums over neurons can make.
#[derive(Debug, Clone, PartialEq)]
pub struct TopK {
    k: usize,
    d_ff: usize,
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
        Ok(TopK { k: kept_count(kept, d_ff)?, d_ff, on: ScoreOn::Gate, norms: Vec::new() })
    }

    /// Keeps ⌈kept · d_ff⌉ neurons by |act(g)·u| · ‖down‖; `down_norms` is one list \[d_ff\] for each layer, as
    /// [`crate::sparse_mlp::Weights::down_norms`] gives it.
    ///
    /// # Errors
    /// [`crate::Error::Value`] for a fraction outside (0, 1], [`crate::Error::Length`] for norms of another size.
    pub fn by_contribution(kept: f32, d_ff: usize, down_norms: Vec<Vec<f32>>) -> Result<Self> {
        down_norms.iter().try_for_each(|norms| check_len("down_norms", d_ff, norms.len()))?;
        Ok(TopK { k: kept_count(kept, d_ff)?, d_ff, on: ScoreOn::Hidden, norms: down_norms })
    }

    /// Neurons that a token keeps.
    pub fn k(&self) -> usize {
        self.k
    }

    pub(super) fn make(arguments: &Arguments, model: &ModelSizes) -> Policies {
        Ok(vec![Arc::new(TopK::by_gate(arguments.fraction, model.d_ff)?)])
    }

    /// Finds the norms of down.
    pub(super) fn find_norms(_: &Arguments, context: &mut dyn Context) -> Result<Found> {
        let ModelSizes { n_layers, d_ff, .. } = context.model();
        let mut norms = Vec::with_capacity(n_layers * d_ff);
        for layer in 0..n_layers {
            norms.extend(context.mlp(layer)?.down_norms());
        }
        let mut found = Found::default();
        found.put_f32("norms", &[n_layers, d_ff], norms)?;
        Ok(found)
    }

    pub(super) fn make_by_contribution(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
        let norms = found.f32("norms", &[model.n_layers, model.d_ff])?.chunks_exact(model.d_ff);
        let norms = norms.map(<[f32]>::to_vec).collect();
        Ok(vec![Arc::new(TopK::by_contribution(arguments.fraction, model.d_ff, norms)?)])
    }
}

impl PolicyConfig for TopK {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("top-k's d_ff", sizes.model.d_ff, self.d_ff)?;
        if self.on == ScoreOn::Hidden {
            check_len("down norms' layers", sizes.model.n_layers, self.norms.len())?;
        }
        Ok(Box::new(self.clone()))
    }
}

impl Policy for TopK {
    fn site(&self) -> Site {
        Site::Neurons
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Lengths
    }

    fn select(&mut self, layer: usize, _: &[Span]) -> Result<Selection<'_>> {
        let channel_scale = match self.on {
            ScoreOn::Gate => None,
            _ => {
                check_layer(layer, self.norms.len())?;
                Some(self.norms[layer].as_slice())
            }
        };
        Ok(Selection::TopK { score: Score { on: self.on, channel_scale }, k: self.k })
    }

    fn observe(&mut self, _: usize, spans: &[Span], _: &Observed<'_>) -> Result<Kept> {
        Ok(Kept::each(tokens_of(spans), self.k, self.d_ff))
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}
