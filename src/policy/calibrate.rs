//! Looking at what a model computes over a text, to set a policy by it.

use std::sync::{Arc, Mutex, PoisonError};

use super::observed::tokens_of;
use super::{Kept, Observed, Policy, PolicyConfig, Site, Sizes, Values, Wanted};
use crate::attention::Span;
use crate::error::Result;
use crate::sparse_mlp::Selection;

/// What adds up values of a text, layer by layer.
pub trait Calibration: std::fmt::Debug + Send + 'static {
    /// The values that it looks at.
    fn values(&self) -> Values;

    /// Takes in one token's values of a layer.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for a layer too high, [`crate::Error::Value`] for a value that is not finite.
    fn observe(&mut self, layer: usize, values: &[f32]) -> Result<()>;
}

/// Keeps everything, and shows what it sees to a [`Calibration`] that it shares with its maker.
#[derive(Debug)]
pub struct Calibrate<C>(Arc<Mutex<C>>);

impl<C: Calibration> Calibrate<C> {
    /// Starts with a calibration.
    pub fn new(calibration: C) -> Self {
        Calibrate(Arc::new(Mutex::new(calibration)))
    }

    /// Lets `look` see, and change, what there is so far.
    pub fn with<T>(&self, look: impl FnOnce(&mut C) -> T) -> T {
        // a calibration that panicked has only lost its last token
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn values(&self) -> Values {
        self.with(|calibration| calibration.values())
    }
}

impl<C> Clone for Calibrate<C> {
    /// Another handle of the same calibration.
    fn clone(&self) -> Self {
        Calibrate(Arc::clone(&self.0))
    }
}

impl<C: Calibration> PolicyConfig for Calibrate<C> {
    fn policy(&self, _: &Sizes) -> Result<Box<dyn Policy>> {
        Ok(Box::new(self.clone()))
    }
}

impl<C: Calibration> Policy for Calibrate<C> {
    fn site(&self) -> Site {
        match self.values() {
            Values::Gate | Values::Hidden => Site::Neurons,
            Values::HeadOutputs => Site::Heads,
            Values::Inputs(projection) => Site::Inputs(projection),
        }
    }

    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::Copied(self.values())
    }

    fn select(&mut self, _: usize, _: &[Span]) -> Result<Selection<'_>> {
        Ok(Selection::All)
    }

    fn observe(&mut self, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<Kept> {
        self.with(|calibration| {
            (0..tokens_of(spans)).try_for_each(|token| calibration.observe(layer, observed.token(token)))
        })?;
        Ok(Kept::default())
    }

    fn is_settled(&self, _: &[Span]) -> bool {
        false
    }
}
