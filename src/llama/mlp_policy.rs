//! Which neurons a session computes: a policy's settings, and its statistics and selections.

use super::backend::Layer;
use super::config::Config;
use super::settings::Settings;
use crate::attention::Span;
use crate::cpu::Cpu;
use crate::error::Result;
use crate::sparse_mlp::{Score, ScoreOn, Selection, Workspace};

/// A policy and its settings.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MlpPolicy {
    /// Every neuron.
    Dense,
    /// The ⌈kept · d_ff⌉ largest |act(gate)| of each token.
    TopK {
        /// Fraction in (0, 1].
        kept: f32,
    },
}

/// What a policy keeps of a session.
#[derive(Debug)]
pub struct MlpPolicyState {
    policy: MlpPolicy,
    d_ff: usize,
}

impl MlpPolicyState {
    pub(super) fn new(
        policy: &MlpPolicy,
        _layers: &[Layer<Cpu>],
        config: &Config,
        _settings: &Settings,
    ) -> Result<Self> {
        Ok(MlpPolicyState { policy: policy.clone(), d_ff: config.d_ff })
    }

    pub(super) fn selection(&self, _index: usize, _spans: &[Span]) -> Result<Selection<'_>> {
        match self.policy {
            MlpPolicy::Dense => Ok(Selection::All),
            MlpPolicy::TopK { kept } => {
                let k = ((kept * self.d_ff as f32).ceil() as usize).clamp(1, self.d_ff);
                Ok(Selection::TopK { score: Score::plain(ScoreOn::Gate), k })
            }
        }
    }

    pub(super) fn observe(&mut self, _index: usize, _spans: &[Span], _workspace: &Workspace) -> Result<()> {
        Ok(())
    }

    pub(super) fn start_generation(&mut self, _slot: usize) -> Result<()> {
        Ok(())
    }

    pub(super) fn advance(&mut self, _slot: usize) -> Result<()> {
        Ok(())
    }

    pub(super) fn reset(&mut self, _slot: usize) -> Result<()> {
        Ok(())
    }
}
