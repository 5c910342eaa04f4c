//! Inertia: whether a token's activations follow the tokens before it rather than itself.

use super::sets::{chance, jaccard};
use super::{Activations, Analysis, Row};
use crate::error::Result;

/// Tokens at the beginning of a sequence that are left out: the first gather what attention has no other place for.
const SKIPPED: usize = 4;

/// Distances between tokens.
pub(super) const LAGS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// Column of the similarity to the neurons that the first half of the tokens used most, over the second half.
const TO_PROMPT: &str = "prompt's mask";

/// The four settings: {text, random tokens} × {in sequence, each alone}.
#[derive(Debug)]
pub struct Inertia {
    /// Sentences in sequence.
    pub text_in_sequence: Activations,
    /// Tokens of the same sentences, each alone.
    pub text_alone: Activations,
    /// Random tokens in sequence.
    pub random_in_sequence: Activations,
    /// Random tokens, each alone.
    pub random_alone: Activations,
}

/// Compares the sets of largest activations of tokens, by Jaccard similarity, over all layers.
///
/// # Errors
/// As [`Activations::statistic`].
///
/// # Source
/// Semantic-irrelevant activation inertia: MOYU (arXiv 2406.12569).
pub fn inertia(found: &Inertia, kept: f64) -> Result<Analysis> {
    let settings = [
        ("text, in sequence", &found.text_in_sequence),
        ("random, in sequence", &found.random_in_sequence),
        ("text, each alone", &found.text_alone),
        ("random, each alone", &found.random_alone),
    ];
    let mut rows = Vec::new();
    for (name, activations) in settings {
        rows.push(Row { name: name.into(), values: similarities(activations, kept)? });
    }
    let columns: Vec<String> = LAGS.iter().map(ToString::to_string).chain([TO_PROMPT.to_owned()]).collect();
    let floor = chance(kept);
    rows.push(Row { name: "by chance".into(), values: vec![Some(floor); columns.len()] });
    let next = |row: usize| rows[row].values[0].unwrap_or(floor);
    let [text, random, alone] = [next(0), next(1), next(3)];
    let holds = random > alone && (random - text).abs() < (random - alone).abs();
    let says = format!(
        "Activations follow the sequence rather than the token: {}. Neighbours' sets of the largest {:.0}% are {random:.3} alike among \
         random tokens in sequence, {alone:.3} where each is alone and {text:.3} in sentences, by chance {floor:.3}; the claim is that \
         the first is far above the second and near the third.",
        if holds { "holds here" } else { "does not hold here" },
        100.0 * kept
    );
    Ok(Analysis {
        name: "inertia".into(),
        title: "Inertia of activations".into(),
        x: "tokens apart".into(),
        y: "Jaccard similarity of the sets of largest activations".into(),
        columns,
        rows,
        says,
    })
}

fn similarities(activations: &Activations, kept: f64) -> Result<Vec<Option<f64>>> {
    let (tokens, d_ff) = (activations.tokens(), activations.d_ff());
    let k = ((kept * d_ff as f64).ceil() as usize).clamp(1, d_ff);
    let sets = activations.top(k);
    let at = |lag: usize| {
        let range = (SKIPPED + lag).min(tokens)..tokens;
        (!range.is_empty()).then(|| sets.mean(range, |l, t| jaccard(sets.token(l, t), sets.token(l, t - lag))))
    };
    let half = tokens / 2;
    let statistic = |layer| Ok([activations.statistic(layer, 0..half)?.all_normalised()]);
    let prompt = super::Sets::new(d_ff, k, (0..sets.n_layers()).map(statistic).collect::<Result<Vec<_>>>()?);
    let to_prompt = sets.mean(half..tokens, |l, t| jaccard(sets.token(l, t), prompt.token(l, 0)));
    Ok(LAGS.into_iter().map(at).chain([Some(to_prompt)]).collect())
}
