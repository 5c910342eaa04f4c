//! Policies: what of a layer is computed, decided by one contract for neurons, for heads and for the inputs of matrices.
//!
//! A [`PolicyConfig`] is clonable settings; each session makes a [`Policy`] of it, which is asked before a [`Site`] of a layer is
//! computed ([`Policy::select`]) and shown what it [wants](Wanted) of it afterwards. A policy only produces
//! [`Selection`](crate::sparse_mlp::Selection)s; operations only consume them.
//!
//! | policy | of | decides | from | gate read |
//! |---|---|---|---|---|
//! | [`TopK`] | neurons | per token | \|act(g)\| or \|act(g)·u\|·‖down‖ | whole |
//! | [`Cats`] | neurons | per token | \|act(g)\| above a calibrated threshold | whole |
//! | [`Cett`] | neurons | per token | \|act(g)·u\|·‖down‖ above a calibrated threshold | whole |
//! | [`Griffin`] | neurons | per prompt | top-k of the prompt statistic | kept rows |
//! | [`Tda`] | neurons | per prompt | prompt statistic above a threshold per layer | kept rows |
//! | [`CoreInfer`] | neurons | per prompt | how often among tokens' largest | kept rows |
//! | [`Predicted`] | neurons | per token | predictors or a router from the MLP's inputs | kept rows |
//! | [`Refreshed`] | neurons | renews either as text goes on | prompt and recent tokens | kept rows |
//! | [`PredictedHeads`] | heads | per token | predictors from the inputs of the MLP before | – |
//! | [`HeadNorm`] | heads | per prompt | norms of head outputs | – |
//! | [`Magnitude`] | both | beforehand | mean size over a calibration text | kept rows |
//! | [`Teal`] | inputs of a matrix | per token | \|x\| above a calibrated threshold | – |
//! | [`Wina`] | inputs of a matrix | per token | \|x\|·‖column‖, exactly top-k or above a calibrated threshold | – |
//! | [`Random`] | both | beforehand | a fixed seed | kept rows |
//! | [`Lists`] | both | beforehand | given | kept rows |
//! | [`InLayers`] | its own | as another policy, in some of the layers | | |
//! | [`Calibrate`] | both | keeps all | shows a calibration what it sees | whole |
//!
//! [`TABLE`] names them for commands. A policy is added in a file of its own here, and a line in that table.

mod by_prediction;
mod by_prompt;
mod calibrate;
mod cats;
mod cett;
mod contract;
mod core_infer;
mod deja_vu;
mod found;
mod griffin;
mod head_norm;
mod in_layers;
mod lists;
mod low_rank;
mod magnitude;
mod moefication;
mod observed;
mod predicted_heads;
mod quantiles;
mod random;
mod record;
mod refresh;
mod set;
mod site;
mod statistic;
mod table;
mod tda;
mod teal;
mod teal_greedy;
mod teal_kl;
mod top_k;
mod training;
mod wina;

pub use by_prediction::{Predicted, PredictedLayer};
use by_prompt::ByPrompt;
pub use by_prompt::{LayerRule, PromptRule};
pub use calibrate::{Calibrate, Calibration};
pub use cats::{Cats, CatsCalibrator};
pub use cett::{Cett, cett_of_dropping, threshold_for_cett};
pub use contract::{Policy, PolicyConfig};
pub use core_infer::CoreInfer;
pub use deja_vu::deja_vu;
pub use found::{Array, Elements, Found};
pub use griffin::Griffin;
pub use head_norm::HeadNorm;
pub use in_layers::InLayers;
pub use lists::Lists;
pub use low_rank::LowRank;
pub use magnitude::Magnitude;
pub use moefication::balanced_clusters;
pub use observed::{Kept, Observed, SiteUsage, Usage, Values, Wanted};
pub use predicted_heads::{PredictedHeads, largest_heads, predicted_heads};
pub use random::Random;
pub use refresh::{Refresh, RefreshOptions, Refreshed};
pub use set::PolicySet;
pub use site::{ModelSizes, Projection, Site, Sizes};
pub use statistic::PromptStatistic;
pub use table::{Chosen, Context, Effect, Entry, Named, help};
pub use tda::{Tda, TdaQuantile, TdaShareOfMax};
pub use teal::{Teal, TealCalibrator};
use teal_kl::TealKl;
pub use top_k::TopK;
pub use training::Training;
pub use wina::Wina;

use crate::error::{Error, Result};
use crate::sparse_mlp::Matrix;

const GATE: &[Matrix] = &[Matrix::Gate];
const GATE_UP: &[Matrix] = &[Matrix::Gate, Matrix::Up];
const NEURONS: &[Site] = &[Site::Neurons];
const HEADS: &[Site] = &[Site::Heads];
const BOTH: &[Site] = &[Site::Neurons, Site::Heads];

/// The policies that commands know by name.
#[rustfmt::skip]
pub const TABLE: &[Entry] = &[
    Entry::whole("dense", NEURONS, "every neuron"),
    Entry::whole("all", HEADS, "every head"),
    Entry::whole("all", &Site::INPUTS, "every input"),
    Entry::new("topk:K", NEURONS, Chosen::PerToken, "the largest gates of each token", TopK::make).reading_all(GATE),
    Entry::found("oracle:K", NEURONS, Chosen::PerToken, "the largest contributions of each token, for which all gates and ups are computed", TopK::find_norms, TopK::make_by_contribution).once().reading_all(GATE_UP),
    Entry::found("cats:K", NEURONS, Chosen::PerToken, "gates above a calibrated threshold", Cats::find, Cats::make).calibrated().reading_all(GATE),
    Entry::found("cett:T", NEURONS, Chosen::PerToken, "contributions whose rest is the error T", Cett::find, Cett::make).calibrated().reading_all(GATE_UP),
    Entry::new("griffin:K", NEURONS, Chosen::ByPrompt, "the largest over the prompt, as many in each layer", Griffin::make),
    Entry::new("tda:K", NEURONS, Chosen::ByPrompt, "the largest over the prompt, in all layers together", TdaQuantile::make),
    Entry::found("tda-cett:T", NEURONS, Chosen::ByPrompt, "those of the prompt above thresholds whose rest is the error T on the calibration text", Tda::find_by_cett, Tda::make_by_cett).calibrated(),
    Entry::new("tda-max:T", NEURONS, Chosen::ByPrompt, "those of the prompt above T of the layer's largest", TdaShareOfMax::make),
    Entry::new("griffin-refresh:K[:R]", NEURONS, Chosen::ByPrompt, "griffin renewed every R tokens, 32 if not said, K with the tokens that run whole for it", Refreshed::make_griffin),
    Entry::new("tda-refresh:K[:R]", NEURONS, Chosen::ByPrompt, "tda renewed in the same way", Refreshed::make_tda),
    Entry::new("coreinfer:K", NEURONS, Chosen::ByPrompt, "those most often among the largest of the prompt's tokens", CoreInfer::make),
    Entry::new("coreinfer-size:K", NEURONS, Chosen::ByPrompt, "the same by sizes, whatever the signs", CoreInfer::make_by_size),
    Entry::found("dejavu:K[:A]", NEURONS, Chosen::PerToken, "predicted from the MLP's inputs, or from those of A = 1 layer before", deja_vu::find, deja_vu::make).calibrated_on(deja_vu::TOKENS),
    Entry::found("dejavu-trained:K[:A]", NEURONS, Chosen::PerToken, "the same predictors, trained by gradients from there", deja_vu::find_trained, deja_vu::make).calibrated_on(deja_vu::TOKENS),
    Entry::found("moefication:K", NEURONS, Chosen::PerToken, "clusters that a router chooses", moefication::find, moefication::make).once().calibrated_on(deja_vu::TOKENS),
    Entry::found("teal:K", &Site::INPUTS, Chosen::PerToken, "inputs above thresholds, calibrated for each layer and matrix", Teal::find, Teal::make).calibrated(),
    Entry::found("teal-greedy:K", &Site::INPUTS, Chosen::PerToken, "teal with shares of a block's matrices by the error of its output", teal_greedy::find, Teal::make).calibrated(),
    Entry::found("teal-kl:K", &Site::INPUTS, Chosen::PerToken, "teal with thresholds that cost the model's distribution as much for each weight, K of the weights", TealKl::find, TealKl::make).once().calibrated(),
    Entry::found("wina:K", &Site::INPUTS, Chosen::PerToken, "as many of the inputs for each token, by their sizes times the norms of their columns", Wina::find_norms, Wina::make_exact).once(),
    Entry::found("wina-threshold:K", &Site::INPUTS, Chosen::PerToken, "inputs whose sizes times the norms of their columns are above calibrated thresholds", Wina::find_thresholds, Wina::make_above).calibrated(),
    Entry::new("norm:K[:R]", HEADS, Chosen::ByPrompt, "the largest outputs over the prompt, chosen anew every R tokens", HeadNorm::make),
    Entry::new("norm-groups:K[:R]", HEADS, Chosen::ByPrompt, "the same of whole groups that share a KV head", HeadNorm::make_groups),
    Entry::found("predictor:K", HEADS, Chosen::ByPrompt, "predicted for each token after the prompt, from the inputs of the MLP before", PredictedHeads::find, PredictedHeads::make).calibrated_on(deja_vu::TOKENS),
    Entry::found("static:K", BOTH, Chosen::Beforehand, "the largest over the calibration text", Magnitude::find, Magnitude::make).once().calibrated(),
    Entry::new("random:K", BOTH, Chosen::Beforehand, "drawn for each layer from a fixed seed", Random::make),
];

/// The number of units that a kept fraction in (0, 1] of `n` stands for: ⌈fraction · n⌉.
///
/// # Errors
/// [`Error::Value`] for a fraction outside (0, 1].
pub fn kept_count(fraction: f32, n: usize) -> Result<usize> {
    check_fraction("kept fraction", fraction)?;
    // a fraction like 0.7 lies a little above or below its decimal; so small an excess is not another unit
    let exact = f64::from(fraction) * n as f64;
    let near = exact.round();
    let slack = f64::from(f32::EPSILON) * n as f64;
    let count = if (exact - near).abs() <= slack { near } else { exact.ceil() };
    Ok((count as usize).clamp(1, n.max(1)))
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
    crate::sparse_mlp::check_finite("activations", activations)?;
    Ok(activations.len() / d_ff)
}

/// Checks that a layer exists.
fn check_layer(layer: usize, limit: usize) -> Result<()> {
    if layer < limit { Ok(()) } else { Err(Error::Index { what: "layer", limit, got: layer }) }
}
