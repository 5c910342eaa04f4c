//! A policy in some layers.

use std::sync::Arc;

use super::{Kept, Observed, Policy, PolicyConfig, Site, Sizes, Wanted, check_layer};
use crate::attention::Span;
use crate::error::{Result, check_len};
use crate::sparse_mlp::Selection;

/// Decides as another policy does in some of the layers; in the others all of its site is computed.
///
/// The other policy is shown every layer, as if it decided in all: what it chooses for a layer does not depend on which these are.
///
/// # Example
/// ```
/// use moray::policy::{InLayers, PolicyConfig, Projection, Teal};
/// use std::sync::Arc;
///
/// // of three layers, the first and the last select among the inputs of down
/// let teal: Arc<dyn PolicyConfig> = Arc::new(Teal::new(Projection::Down, vec![0.1, 0.2, 0.3])?);
/// let policy = InLayers::new(teal, vec![true, false, true]);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct InLayers {
    policy: Arc<dyn PolicyConfig>,
    layers: Vec<bool>,
}

impl InLayers {
    /// Takes a policy, and for each layer whether it decides there.
    pub fn new(policy: Arc<dyn PolicyConfig>, layers: Vec<bool>) -> Self {
        InLayers { policy, layers }
    }
}

impl PolicyConfig for InLayers {
    fn policy(&self, sizes: &Sizes) -> Result<Box<dyn Policy>> {
        check_len("layers in which a policy decides or not", sizes.model.n_layers, self.layers.len())?;
        let policy = self.policy.policy(sizes)?;
        let count = sizes.model.count(policy.site());
        Ok(Box::new(Partial { policy, layers: self.layers.clone(), count }))
    }
}

/// The policy of a session.
#[derive(Debug)]
struct Partial {
    policy: Box<dyn Policy>,
    layers: Vec<bool>,
    /// What there is to select from in a layer.
    count: usize,
}

impl Partial {
    fn decides(&self, layer: usize) -> Result<bool> {
        check_layer(layer, self.layers.len())?;
        Ok(self.layers[layer])
    }
}

impl Policy for Partial {
    fn site(&self) -> Site {
        self.policy.site()
    }

    fn wants(&self, spans: &[Span]) -> Wanted {
        self.policy.wants(spans)
    }

    fn predicts(&self) -> bool {
        self.policy.predicts()
    }

    fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        self.policy.predict(layer, spans, inputs)
    }

    fn select(&mut self, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        if self.decides(layer)? { self.policy.select(layer, spans) } else { Ok(Selection::All) }
    }

    fn longest_list(&self, layer: usize) -> Option<usize> {
        let decides = self.layers.get(layer).copied().unwrap_or_default();
        if decides { self.policy.longest_list(layer) } else { None }
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        let kept = self.policy.observe(layer, spans, observed)?;
        let tokens = spans.iter().map(|span| span.len).sum();
        Ok(if self.decides(layer)? { kept } else { Kept::each(tokens, self.count, self.count) })
    }

    fn begin_generation(&mut self, slot: usize) -> Result<()> {
        self.policy.begin_generation(slot)
    }

    fn end_token(&mut self, slot: usize) -> Result<()> {
        self.policy.end_token(slot)
    }

    fn reset(&mut self, slot: usize) -> Result<()> {
        self.policy.reset(slot)
    }

    fn is_settled(&self, spans: &[Span]) -> bool {
        self.policy.is_settled(spans)
    }
}
