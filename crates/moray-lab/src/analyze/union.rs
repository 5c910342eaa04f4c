//! Union: what share of the neurons a batch needs together.

use super::sets::count;
use super::{Activations, Analysis, Row};

/// Compares the share of neurons that any of B sequences has among its largest, at the same position of each, with what B independent
/// choices would need: 1 − (1 − q)^B.
///
/// # Source
/// The union over a batch that kernels read: Polar Sparsity (arXiv 2505.14884).
pub fn union(sequences: &[Activations], kept: f64) -> Analysis {
    let d_ff = sequences.first().map_or(1, Activations::d_ff);
    let k = ((kept * d_ff as f64).ceil() as usize).clamp(1, d_ff);
    let sets: Vec<_> = sequences.iter().map(|sequence| sequence.top(k)).collect();
    let sizes: Vec<usize> = std::iter::successors(Some(1), |b| Some(b * 2)).take_while(|b| *b <= sets.len()).collect();
    let tokens = sets.iter().map(super::Sets::tokens).min().unwrap_or(0);
    let share = |batch: usize| {
        let groups: Vec<_> = sets.chunks_exact(batch).collect();
        let of_group = |group: &&[super::Sets]| {
            group[0].mean(0..tokens, |layer, token| {
                let mut union = group[0].token(layer, token).to_vec();
                for other in &group[1..] {
                    union.iter_mut().zip(other.token(layer, token)).for_each(|(union, word)| *union |= word);
                }
                count(&union) as f64 / d_ff as f64
            })
        };
        groups.iter().map(of_group).sum::<f64>() / groups.len().max(1) as f64
    };
    let measured: Vec<f64> = sizes.iter().map(|&batch| share(batch)).collect();
    let independent: Vec<f64> =
        sizes.iter().map(|&batch| 1.0 - (1.0 - k as f64 / d_ff as f64).powi(batch as i32)).collect();
    let (batch, [found, chance]) = (
        sizes.last().copied().unwrap_or(1),
        [&measured, &independent].map(|values| values.last().copied().unwrap_or(1.0)),
    );
    let says = format!(
        "Batches lose the sparsity of their tokens: {}. {batch} sequences that keep {:.0}% each need {:.1}% together; independent choices \
         would need {:.1}%.",
        if found > 0.9 { "holds here" } else { "does not hold here" },
        100.0 * kept,
        100.0 * found,
        100.0 * chance
    );
    let row = |name: &str, values: Vec<f64>| Row { name: name.into(), values: values.into_iter().map(Some).collect() };
    Analysis {
        name: "union".into(),
        title: "Union over a batch".into(),
        x: "sequences".into(),
        y: "share of neurons that any sequence needs".into(),
        columns: sizes.iter().map(ToString::to_string).collect(),
        rows: vec![row("measured", measured), row("independent", independent)],
        says,
    }
}
