//! Uncertainty: whether neurons that are predicted after one history are predicted after another.

use moray::attention::AttentionShape;
use moray::policy::{LowRank, Predicted, Training, deja_vu, largest_heads, predicted_heads};

use super::{Activations, Analysis, Row};
use crate::error::Result;

/// Inputs of MLPs, f32 \[tokens, d_model\] of each layer, and what they put out.
#[derive(Debug)]
pub struct Seen {
    /// The inputs.
    pub inputs: Activations,
    /// act(x·gate) ⊙ (x·up).
    pub hidden: Activations,
    /// Outputs of attention, f32 \[tokens, n_q_heads · head_dim\] of each layer.
    pub outputs: Activations,
}

/// The same tokens after different histories, and the text that predictors are fitted to.
#[derive(Debug)]
pub struct Histories {
    /// What predictors are fitted to: the text before the tokens.
    pub fitted: Seen,
    /// The tokens after that text.
    pub same: Seen,
    /// The tokens after the same text with its tokens in another order.
    pub shuffled: Seen,
    /// The tokens after random ones.
    pub other: Seen,
}

/// The columns.
const COLUMNS: [&str; 5] = ["fitted to", "same history", "shuffled", "random", "by chance"];

/// Fits predictors of each token's largest neurons, as policies `dejavu` and `dejavu-trained` have them, and of its heads with the largest outputs, as
/// policy `predictor`, to a text, and measures what share of those of the tokens after it they find, after the same, a shuffled and a random
/// history: neurons from the inputs of the same MLP and of the one before, heads from those of the MLP before, beside what always the same ones, the most
/// frequent, find. `norms` are those of down, \[d_ff\] of each layer.
///
/// # Errors
/// As [`deja_vu`] and [`predicted_heads`].
///
/// # Source
/// History-related activation uncertainty: MOYU (arXiv 2406.12569); predictors: Deja Vu (ICML 2023).
pub fn uncertainty(found: &Histories, norms: &[Vec<f32>], shape: &AttentionShape, kept: f64) -> Result<Analysis> {
    let mut rows = Vec::new();
    let seen = [&found.fitted, &found.same, &found.shuffled, &found.other];
    let layers = |of: &Activations| (0..of.n_layers()).map(|layer| of.layer(layer).to_vec()).collect::<Vec<_>>();
    let (inputs, hidden) = (layers(&found.fitted.inputs), layers(&found.fitted.hidden));
    for (name, ahead) in [("same layer", false), ("one layer ahead", true)] {
        for (said, training) in [("", Training::NONE), (", trained", Training::STANDARD)] {
            let predictors = deja_vu(&inputs, &hidden, norms, (kept as f32, ahead), training)?;
            let recall = |seen: &&Seen| Some(recall(&predictors, seen, norms, (kept, ahead)));
            let values = seen.iter().map(recall).chain([Some(kept)]).collect();
            rows.push(Row { name: format!("{name}{said}"), values });
        }
    }
    let k = ((kept * shape.n_q_heads as f64).ceil() as usize).clamp(1, shape.n_q_heads);
    let share = k as f64 / shape.n_q_heads as f64;
    let outputs = layers(&found.fitted.outputs);
    let predictors = |training| {
        Ok::<_, crate::Error>(predicted_heads(&inputs, &outputs, shape, kept as f32, training)?.layers().to_vec())
    };
    let [fitted, trained] = [predictors(Training::NONE)?, predictors(Training::STANDARD)?];
    let sets =
        |seen: &Seen| (1..outputs.len()).map(|layer| largest_heads(seen.outputs.layer(layer), shape, k)).collect();
    let fitted_sets: Vec<Vec<f32>> = sets(&found.fitted);
    let mut row = |name: &str, recall: &dyn Fn(usize, &[f32], &Seen) -> f64| {
        let mean = |seen: &&Seen| {
            let labels: Vec<Vec<f32>> = sets(seen);
            Some(
                labels.iter().enumerate().map(|(layer, labels)| recall(layer, labels, seen)).sum::<f64>()
                    / labels.len().max(1) as f64,
            )
        };
        rows.push(Row { name: name.into(), values: seen.iter().map(mean).chain([Some(share)]).collect() });
    };
    row("heads, always the same", &|layer, labels, _| {
        most_frequent_found(&fitted_sets[layer], labels, shape.n_q_heads, k)
    });
    row("heads one layer ahead", &|layer, labels, seen| fitted[layer + 1].recall(seen.inputs.layer(layer), labels));
    row("heads one layer ahead, trained", &|layer, labels, seen| {
        trained[layer + 1].recall(seen.inputs.layer(layer), labels)
    });
    let at = |row: usize, column: usize| rows[row].values[column].unwrap_or(kept);
    let (same, other, heads) = (at(0, 1), at(0, 3), [at(4, 1), at(5, 1), at(6, 1)]);
    let fails = other - kept < 0.5 * (same - kept);
    let hard = same - kept < 0.5 * (1.0 - kept);
    let says = format!(
        "A predictor that was fitted after one history fails after another: {}. Of each token's largest {:.0}% it finds {:.3} after the same \
         history, {:.3} after a shuffled one and {:.3} after a random one, by chance {kept:.3}. That neurons are hard to predict: {}; it finds \
         {:.3} in the text that it was fitted to, and one layer ahead {:.3} after the same history. Trained by gradients from there it finds {:.3}, one \
         layer ahead {:.3}. Of the {k} heads with the largest outputs, a predictor one layer ahead finds {:.3}, trained {:.3}, always the same ones \
         {:.3}, chance {share:.3}.",
        if fails { "holds here" } else { "does not hold here" },
        100.0 * kept,
        same,
        at(0, 2),
        other,
        if hard { "holds here" } else { "does not hold here" },
        at(0, 0),
        at(2, 1),
        at(1, 1),
        at(3, 1),
        heads[1],
        heads[2],
        heads[0]
    );
    Ok(Analysis {
        name: "uncertainty".into(),
        title: "Predicted neurons after different histories".into(),
        x: "history".into(),
        y: "share of a token's largest neurons that are predicted".into(),
        columns: COLUMNS.map(str::to_owned).to_vec(),
        rows,
        says,
    })
}

/// The mean share of tokens' neurons of the largest |a_j|·‖down_j‖ that are among those of the largest predictions.
fn recall(predictors: &Predicted, seen: &Seen, norms: &[Vec<f32>], (kept, ahead): (f64, bool)) -> f64 {
    let (mut sum, mut tokens) = (0.0, 0);
    for (layer, (predicted, norms)) in predictors.layers().iter().zip(norms).enumerate() {
        let (d, d_ff) = (seen.inputs.d_ff(), norms.len());
        let k = ((kept * d_ff as f64).ceil() as usize).clamp(1, d_ff);
        let x = seen.inputs.layer(layer.saturating_sub(usize::from(ahead)));
        for (x, hidden) in x.chunks_exact(d).zip(seen.hidden.layer(layer).chunks_exact(d_ff)) {
            let sizes: Vec<f32> = hidden.iter().zip(norms).map(|(a, norm)| a.abs() * norm).collect();
            let (own, mine) = (largest(&sizes, k), largest(&scores(&predicted.predictor, x), k));
            sum += own.iter().zip(mine).filter(|&(own, mine)| *own && mine).count() as f64 / k as f64;
            tokens += 1;
        }
    }
    sum / tokens.max(1) as f64
}

/// The share of tokens' ones that are in the `k` places with the most ones of other tokens, the lower place first where equal.
fn most_frequent_found(fitted: &[f32], labels: &[f32], n: usize, k: usize) -> f64 {
    let mut counts = vec![0.0; n];
    fitted.chunks_exact(n).for_each(|token| counts.iter_mut().zip(token).for_each(|(count, label)| *count += label));
    let kept = largest(&counts, k);
    let found = labels
        .chunks_exact(n)
        .flat_map(|token| token.iter().zip(&kept))
        .filter(|(label, kept)| **label == 1.0 && **kept);
    found.count() as f64 / labels.iter().filter(|label| **label == 1.0).count().max(1) as f64
}

fn scores(predictor: &LowRank, x: &[f32]) -> Vec<f32> {
    let [_, rank, n] = predictor.sizes();
    let (mut room, mut scores) = (vec![0.0; rank], vec![0.0; n]);
    predictor.predict(x, &mut room, &mut scores);
    scores
}

/// Whether each is among the `k` largest, the lower index first where equal.
fn largest(values: &[f32], k: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    if k < order.len() {
        order.select_nth_unstable_by(k, |&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    }
    let mut found = vec![false; values.len()];
    order[..k].iter().for_each(|&index| found[index] = true);
    found
}
