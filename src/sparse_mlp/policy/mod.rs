//! Policies: small types that decide which neurons are computed and produce [`Selection`]s.
//!
//! | policy | decides | from | gate read |
//! |---|---|---|---|
//! | [`Dense`] | – | – | whole |
//! | [`TopK`] | per token | \|act(g)\| or \|act(g)·u\|·‖down‖ | whole |
//! | [`Cats`] | per token | \|act(g)\| above a calibrated threshold | whole |
//! | [`Cett`] | per token | \|act(g)·u\|·‖down‖ above a calibrated threshold | whole |
//! | [`Griffin`] | per prompt | top-k of the prompt statistic | kept rows |
//! | [`Tda`] | per prompt | prompt statistic above a threshold per layer | kept rows |
//! | [`Refresh`] | renews either as text goes on | prompt and recent tokens | kept rows |

mod cats;
mod cett;
mod griffin;
mod prompt;
mod refresh;
mod tda;
mod top_k;

pub use cats::{Cats, CatsCalibrator};
pub use cett::{Cett, cett_of_dropping, threshold_for_cett};
pub use griffin::Griffin;
pub use prompt::PromptStatistic;
pub use refresh::{PromptPolicy, Refresh, RefreshOptions};
pub use tda::Tda;
pub use top_k::TopK;

use super::select::Selection;
use crate::error::{Error, Result};

/// Computes every neuron.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dense;

impl Dense {
    /// [`Selection::All`].
    pub fn selection(&self) -> Selection<'static> {
        Selection::All
    }
}

/// The number of neurons that a kept fraction in (0, 1] stands for: ⌈fraction · d_ff⌉.
///
/// # Errors
/// [`Error::Value`] for a fraction outside (0, 1].
pub fn kept_count(fraction: f32, d_ff: usize) -> Result<usize> {
    check_fraction("kept fraction", fraction)?;
    // a fraction like 0.7 lies a little above or below its decimal; so small an excess is not another neuron
    let exact = f64::from(fraction) * d_ff as f64;
    let near = exact.round();
    let slack = f64::from(f32::EPSILON) * d_ff as f64;
    let count = if (exact - near).abs() <= slack { near } else { exact.ceil() };
    Ok((count as usize).clamp(1, d_ff.max(1)))
}

fn check_fraction(what: &'static str, fraction: f32) -> Result<()> {
    if fraction > 0.0 && fraction <= 1.0 {
        Ok(())
    } else {
        Err(Error::Value { what, expected: "a number in (0, 1]", got: fraction })
    }
}

/// Checks activations \[tokens, d_ff\] and returns the number of tokens.
fn check_activations(activations: &[f32], d_ff: usize) -> Result<usize> {
    if d_ff == 0 || activations.len() % d_ff != 0 {
        let expected = "a multiple of d_ff elements";
        return Err(Error::Shape { what: "activations", expected, got: activations.len() });
    }
    super::elementwise::check_finite("activations", activations)?;
    Ok(activations.len() / d_ff)
}

/// Checks that a layer exists.
fn check_layer(layer: usize, limit: usize) -> Result<()> {
    if layer < limit { Ok(()) } else { Err(Error::Index { what: "layer", limit, got: layer }) }
}
