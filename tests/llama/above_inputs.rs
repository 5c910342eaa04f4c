//! A policy of a user's own, for the inputs of a matrix.

use moray::attention::Span;
use moray::policy::{Kept, Observed, Policy, PolicyConfig, Projection, Site, Sizes, Values, Wanted};
use moray::sparse_mlp::{Score, ScoreOn, Selection};

/// A threshold on the inputs of gate and up, and how many of them it was shown above it.
#[derive(Debug, Clone)]
pub struct AboveInputs(pub f32);

impl PolicyConfig for AboveInputs {
    fn policy(&self, _: &Sizes) -> moray::Result<Box<dyn Policy>> {
        Ok(Box::new(self.clone()))
    }
}

impl Policy for AboveInputs {
    fn site(&self) -> Site {
        Site::Inputs(Projection::GateUp)
    }
    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::AtHand(Values::Inputs(Projection::GateUp))
    }
    fn select(&mut self, _: usize, _: &[Span]) -> moray::Result<Selection<'_>> {
        Ok(Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold: self.0 })
    }
    fn observe(&mut self, _: usize, spans: &[Span], observed: &Observed<'_>) -> moray::Result<Kept> {
        let mut kept = Kept::default();
        for inputs in (0..spans.iter().map(|span| span.len).sum()).map(|token| observed.token(token)) {
            kept += Kept::each(1, inputs.iter().filter(|x| x.abs() > self.0).count(), inputs.len());
        }
        Ok(kept)
    }
    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}
