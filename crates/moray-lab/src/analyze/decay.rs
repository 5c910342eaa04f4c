//! Decay: how long the neurons that a prompt used stay the ones that are used.

use super::sets::{chance, jaccard};
use super::{Activations, Analysis, Row, Sets};
use crate::error::Result;

/// Last tokens, after the prompt, of each column; the first of a column follows the last of the one before.
const DISTANCES: [usize; 5] = [16, 32, 64, 128, 256];

/// Tokens that a renewal looks at.
const WINDOW: usize = 8;

/// Compares each token's largest activations with the neurons that the prompt used most, by distance from the prompt, for prompts of
/// an eighth, a quarter and half of the tokens, and for half of them with the mask renewed every 64 and every 16 tokens by the mean
/// of the prompt's statistic and that of the 8 tokens before.
///
/// # Errors
/// As [`Activations::statistic`].
///
/// # Source
/// Masks fixed by the prompt: GRIFFIN, TDA (arXiv 2408.11393); renewal: GLASS, DART.
pub fn decay(activations: &Activations, kept: f64) -> Result<Analysis> {
    let (tokens, d_ff) = (activations.tokens(), activations.d_ff());
    let k = ((kept * d_ff as f64).ceil() as usize).clamp(1, d_ff);
    let sets = activations.top(k);
    let mut rows = Vec::new();
    for part in [8, 4, 2] {
        let prompt = tokens / part;
        rows.push(row(activations, &sets, k, (prompt, 0), format!("prompt of {prompt}"))?);
    }
    let prompt = tokens / 2;
    for every in [64, 16] {
        rows.push(row(activations, &sets, k, (prompt, every), format!("prompt of {prompt}, renewed every {every}"))?);
    }
    let ends = |row: &Row| {
        let mut there = row.values.iter().flatten();
        let first = there.next().copied().unwrap_or(0.0);
        (first, there.next_back().copied().unwrap_or(first))
    };
    let ((near, far), (_, renewed)) = (ends(&rows[2]), ends(&rows[4]));
    let floor = chance(kept);
    // half of what a prompt's mask has beyond chance at first
    let decays = far - floor < 0.5 * (near - floor);
    let says = format!(
        "A mask fixed by the prompt decays: {}. Beside each token's own largest {:.0}% it is {near:.3} alike over the first {} tokens and \
         {far:.3} over the last, by chance {floor:.3}; renewed every 16 tokens it is {renewed:.3} there. What it lacks at once is what it \
         costs: no mask of the past is a token's own.",
        if decays { "holds here" } else { "does not hold here" },
        100.0 * kept,
        DISTANCES[0]
    );
    let columns = DISTANCES.iter().map(ToString::to_string).collect();
    let (title, x) = ("Decay of a prompt's mask".into(), "up to tokens after the prompt".into());
    let y = "Jaccard similarity of the mask and a token's largest activations".into();
    Ok(Analysis { name: "decay".into(), title, x, y, columns, rows, says })
}

/// One prompt length; `every` 0 for a mask that stays.
fn row(activations: &Activations, sets: &Sets, k: usize, (prompt, every): (usize, usize), name: String) -> Result<Row> {
    let (tokens, d_ff) = (sets.tokens(), activations.d_ff());
    let renewals = if every == 0 { 1 } else { (tokens - prompt).div_ceil(every).max(1) };
    let mut layers = Vec::with_capacity(sets.n_layers());
    for layer in 0..sets.n_layers() {
        let whole = activations.statistic(layer, 0..prompt)?;
        let mut masks = vec![whole.all_normalised()];
        for renewal in 1..renewals {
            let end = prompt + renewal * every;
            let recent = activations.statistic(layer, end - WINDOW..end)?;
            masks.push(whole.mixed(&recent, 0.5)?.all_normalised());
        }
        layers.push(masks);
    }
    let masks = Sets::new(d_ff, k, layers);
    let of = |token: usize| (token - prompt).checked_div(every).unwrap_or(0);
    let mut start = prompt;
    let values = DISTANCES.map(|distance| {
        let range = start..(prompt + distance).min(tokens);
        start = range.end.max(start);
        (!range.is_empty()).then(|| sets.mean(range, |l, t| jaccard(sets.token(l, t), masks.token(l, of(t)))))
    });
    Ok(Row { name, values: values.to_vec() })
}
