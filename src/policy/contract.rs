//! What a policy is, and what one is made from.

use super::{Kept, Observed, Site, Sizes, Wanted};
use crate::attention::Span;
use crate::error::Result;
use crate::sparse_mlp::Selection;

/// Decides what of a site is computed, call by call, for the sequences of one session.
///
/// For each layer of a call the forward pass asks [`Policy::select`] before the site is computed and shows what it computed to
/// [`Policy::observe`] after it, unless [`Policy::wants`] says that nothing is to be shown. It calls
/// [`Policy::begin_generation`] when a slot's prompt is complete, [`Policy::end_token`] after each token that the slot generates, and
/// [`Policy::reset`] when the slot is emptied. A policy that looks at no text has only `site`, `wants`, `select` and
/// `is_settled` to say.
pub trait Policy: std::fmt::Debug + Send {
    /// What it decides about.
    fn site(&self) -> Site;

    /// What it must be shown of a call with these spans; the same for every layer of the call.
    fn wants(&self, spans: &[Span]) -> Wanted;

    /// Whether it must be shown the inputs of a layer's MLP before it selects of that layer, see [`Policy::predict`].
    fn predicts(&self) -> bool {
        false
    }

    /// Looks at the inputs \[d_model\] of a layer's MLP, of each token of a call, before it selects of that layer; in a session these are
    /// copied to the host for it.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a layer that is not there, [`crate::Error::Length`] for inputs of another size.
    fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        let _ = (layer, spans, inputs);
        Ok(())
    }

    /// What is computed of a layer in a call with these spans. Of neurons and inputs, masks are one for each token; of heads,
    /// one for each span.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a layer or slot that is not there.
    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>>;

    /// The most neurons or heads that a list of a layer's holds, where that is known before any text is read: memory for it can be taken
    /// then. None where it is not known, or where it selects otherwise.
    fn longest_list(&self, layer: usize) -> Option<usize> {
        let _ = layer;
        None
    }

    /// Looks at a layer of the call that it has selected for, and says what its tokens kept of what there was. Tokens that ran
    /// whole because nothing was chosen yet are not counted.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a layer or slot that is not there, [`crate::Error::Value`] for values that are not finite.
    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        let _ = (layer, spans, observed);
        Ok(Kept::default())
    }

    /// Ends a slot's prompt: a choice that depends on it is made. In a slot that generates already it does nothing.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there, [`crate::Error::Shape`] if no token of it was observed.
    fn begin_generation(&mut self, slot: usize) -> Result<()> {
        let _ = slot;
        Ok(())
    }

    /// Ends a token that a slot has generated; in its prompt this does nothing.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there.
    fn end_token(&mut self, slot: usize) -> Result<()> {
        let _ = slot;
        Ok(())
    }

    /// Forgets a slot.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a slot that is not there.
    fn reset(&mut self, slot: usize) -> Result<()> {
        let _ = slot;
        Ok(())
    }

    /// Says whether these spans' selections stay as they are while they generate, so that a captured graph may hold them. What
    /// kernels choose for each token by a score is a selection that stays.
    fn is_settled(&self, spans: &[Span]) -> bool;
}

/// What a policy is made from: cloned with a session's settings, and turned into a policy of its own by each session.
pub trait PolicyConfig: std::fmt::Debug + Send + Sync {
    /// Makes the policy of a session. All memory is taken here.
    ///
    /// # Errors
    /// [`crate::Error::Length`] or [`crate::Error::Shape`] for sizes that it was not made for.
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>>;
}
