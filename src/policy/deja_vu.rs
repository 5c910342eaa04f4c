//! Deja Vu: neurons predicted by two small matrices from the inputs of an MLP.

use std::sync::Arc;

use super::record::Record;
use super::table::{Arguments, Context, Policies};
use super::{Found, LowRank, ModelSizes, Predicted, PredictedLayer, Projection, Training, Values, kept_count};
use crate::error::{Error, Result};

/// Tokens of a calibration text that predictors are fitted to.
pub(super) const TOKENS: usize = 1024;

/// Inputs for each direction of a predictor.
const INPUTS_A_DIRECTION: usize = 12;

/// Fits a predictor of ⌈kept · d_ff⌉ neurons for each layer: of whether a neuron is among the token's largest |act(g_j)·u_j|·‖down_j‖, from
/// the inputs of the same MLP, or `ahead` from those of the MLP before it; then trains it by gradients. `inputs` are f32 \[tokens, d_model\] of each layer, `hidden` f32
/// \[tokens, d_ff\], `norms` f32 \[d_ff\].
///
/// # Errors
/// As [`LowRank::fit_and_train`], and [`Error::Value`] for a fraction outside (0, 1].
///
/// # Source
/// Deja Vu (ICML 2023): two linear maps without a function between them, here a twelfth of d_model wide, and first the best of their rank under a
/// ridge in closed form; trained from there by weighted binary cross entropy.
pub fn deja_vu(
    inputs: &[Vec<f32>],
    hidden: &[Vec<f32>],
    norms: &[Vec<f32>],
    (kept, ahead): (f32, bool),
    training: Training,
) -> Result<Predicted> {
    let mut layers = Vec::with_capacity(hidden.len());
    let mut k = 1;
    for (layer, (hidden, norms)) in hidden.iter().zip(norms).enumerate() {
        let d_ff = norms.len();
        k = kept_count(kept, d_ff)?;
        let x = &inputs[layer.saturating_sub(usize::from(ahead))];
        let d = x.len() / (hidden.len() / d_ff).max(1);
        let labels = labels(hidden, norms, k);
        let rank = (d / INPUTS_A_DIRECTION).max(8);
        let predictor = LowRank::fit_and_train(x, &labels, (d, d_ff), rank, training)?;
        layers.push(PredictedLayer { predictor, units: Vec::new() });
    }
    Predicted::new(layers, k, ahead)
}

/// 1 for the `k` neurons of each token that add most to the MLP's output, 0 for the others.
fn labels(hidden: &[f32], norms: &[f32], k: usize) -> Vec<f32> {
    let mut labels = vec![0.0; hidden.len()];
    for (row, labels) in hidden.chunks_exact(norms.len()).zip(labels.chunks_exact_mut(norms.len())) {
        let score = |j: u32| row[j as usize].abs() * norms[j as usize];
        let mut order: Vec<u32> = (0..norms.len() as u32).collect();
        if k < order.len() {
            order.select_nth_unstable_by(k, |&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        }
        order[..k].iter().for_each(|&j| labels[j as usize] = 1.0);
    }
    labels
}

/// Finds the predictors of the policy that a command names.
pub(super) fn find(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
    found(arguments, context, Training::NONE)
}

/// Finds predictors and trains them.
pub(super) fn find_trained(arguments: &Arguments, context: &mut dyn Context) -> Result<Found> {
    found(arguments, context, Training::STANDARD)
}

fn found(arguments: &Arguments, context: &mut dyn Context, training: Training) -> Result<Found> {
    if arguments.tokens > 1 {
        let (what, expected) = ("layers that are looked ahead", "0 or 1");
        return Err(Error::Shape { what, expected, got: arguments.tokens });
    }
    let (inputs, hidden, norms) = recorded(context)?;
    let predicted = deja_vu(&inputs, &hidden, &norms, (arguments.fraction, arguments.tokens == 1), training)?;
    let mut found = Found::default();
    put_predictors(&mut found, &predicted.layers().iter().map(|layer| &layer.predictor).collect::<Vec<_>>())?;
    Ok(found)
}

/// Makes the policy that a command names of its predictors.
pub(super) fn make(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
    let layer = |predictor| PredictedLayer { predictor, units: Vec::new() };
    let layers = predictors_of(found, model, model.d_ff)?.into_iter().map(layer).collect();
    let k = kept_count(arguments.fraction, model.d_ff)?;
    Ok(vec![Arc::new(Predicted::new(layers, k, arguments.tokens == 1)?)])
}

/// Adds predictors of one size: read f32 \[layers, d, rank\], write f32 \[layers, rank, n\], bias f32 \[layers, n\].
pub(super) fn put_predictors(found: &mut Found, layers: &[&LowRank]) -> Result<()> {
    let [d, rank, n] = layers.first().map_or([0; 3], |predictor| predictor.sizes());
    let part = |part: usize| layers.iter().flat_map(|predictor| predictor.parts()[part].iter().copied()).collect();
    found.put_f32("read", &[layers.len(), d, rank], part(0))?;
    found.put_f32("write", &[layers.len(), rank, n], part(1))?;
    found.put_f32("bias", &[layers.len(), n], part(2))
}

/// The predictor of each layer, of `n` outputs.
pub(super) fn predictors_of(found: &Found, model: &ModelSizes, n: usize) -> Result<Vec<LowRank>> {
    let (n_layers, d, rank) = (model.n_layers, model.d_model, found.size("read", 2));
    let (read, write) = (found.f32("read", &[n_layers, d, rank])?, found.f32("write", &[n_layers, rank, n])?);
    let bias = found.f32("bias", &[n_layers, n])?;
    let layer = |layer: usize| {
        let of = |part: &[f32], elems: usize| part[layer * elems..(layer + 1) * elems].to_vec();
        LowRank::new(d, rank, of(read, d * rank), of(write, rank * n), of(bias, n))
    };
    (0..n_layers).map(layer).collect()
}

/// Inputs and products of each layer's MLP over the calibration text, and the norms of down.
pub(super) fn recorded(context: &mut dyn Context) -> Result<(Vec<Vec<f32>>, Vec<Vec<f32>>, Vec<Vec<f32>>)> {
    // one call shows one kind of values of an MLP
    let inputs = Record::of(context, Values::Inputs(Projection::GateUp), TOKENS)?;
    let hidden = Record::of(context, Values::Hidden, TOKENS)?;
    let norms =
        (0..context.model().n_layers).map(|layer| Ok(context.mlp(layer)?.down_norms())).collect::<Result<_>>()?;
    Ok((inputs, hidden, norms))
}
