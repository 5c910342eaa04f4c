//! What a device does for the forward pass: a few fused operations on a state of its own.

use super::config::Config;
use super::settings::Settings;
use crate::attention::Span;
use crate::error::Result;
use crate::policy::PolicySet;

/// A device that runs the forward pass.
///
/// The state holds everything that a session keeps on the device: activations of the current call (x \[M, d\] first of
/// all), KV cache, statistics and selections of the policies, workspaces. An operation reads and writes it there; only
/// logits come back. A state is made for the [`Settings`] and never grows.
pub trait Backend {
    /// A weight matrix \[N, K\], perhaps with a bias.
    type Linear: std::fmt::Debug;
    /// RMSNorm weights \[d\].
    type Norm: std::fmt::Debug;
    /// The weights of one gated MLP.
    type Mlp: std::fmt::Debug;
    /// What a session keeps on the device.
    type State: SessionState;

    /// Allocates the state of a session.
    ///
    /// # Errors
    /// An [`crate::Error`] for settings that the device or the model cannot take.
    fn new_state(&self, config: &Config, layers: &[Layer<Self>], settings: &Settings) -> Result<Self::State>
    where
        Self: Sized;

    /// x ← rows of the embedding for the M tokens of a call.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a token that is no row.
    fn embed(&self, state: &mut Self::State, table: &Self::Linear, tokens: &[u32]) -> Result<()>;

    /// Attention of one layer: x ← x + o(attend(rope(qkv(norm(x))))), with the KV cache, the heads that run and what is
    /// stored for the others.
    ///
    /// # Errors
    /// An [`crate::Error`] for spans that the state does not hold, or activations that are not finite.
    fn attention(&self, state: &mut Self::State, index: usize, layer: &Layer<Self>, spans: &[Span]) -> Result<()>
    where
        Self: Sized;

    /// MLP of one layer: x ← x + down(act(gate(n)) ⊙ up(n)), n = norm(x), over the neurons that the policy keeps.
    ///
    /// # Errors
    /// As [`Backend::attention`].
    fn mlp(&self, state: &mut Self::State, index: usize, layer: &Layer<Self>, spans: &[Span]) -> Result<()>
    where
        Self: Sized;

    /// Logits \[rows, vocab\] of the given rows of x, in f32, on the host.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a row that the call did not have, [`crate::Error::Shape`] for more rows than the
    /// settings have room for.
    fn logits<'a>(
        &self,
        state: &'a mut Self::State,
        norm: &Self::Norm,
        head: &Self::Linear,
        rows: &[usize],
    ) -> Result<&'a [f32]>;

    /// Tells the policies that a slot's prompt is complete: selections that depend on it are made.
    ///
    /// # Errors
    /// An [`crate::Error`] if the slot has seen no prompt.
    fn start_generation(&self, state: &mut Self::State, slot: usize) -> Result<()>;

    /// Tells the policies that a slot has generated one token.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there.
    fn advance(&self, state: &mut Self::State, slot: usize) -> Result<()>;

    /// Forgets the positions from `len` on; with `len` 0 the policies' statistics too.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there.
    fn truncate(&self, state: &mut Self::State, slot: usize, len: usize) -> Result<()>;
}

/// What a session keeps on its device, as far as the host may ask for it.
pub trait SessionState: std::fmt::Debug {
    /// Bytes of the KV cache.
    fn kv_bytes(&self) -> usize;

    /// The policies' selections and statistics.
    fn policies(&self) -> &PolicySet;
}

/// The weights of one layer.
#[derive(Debug, Clone)]
pub struct Layer<B: Backend> {
    /// Before attention.
    pub attn_norm: B::Norm,
    /// Query, key and value rows, one below the other.
    pub qkv: B::Linear,
    /// The output projection.
    pub o: B::Linear,
    /// Before the MLP.
    pub mlp_norm: B::Norm,
    /// The MLP.
    pub mlp: B::Mlp,
}
