//! Heads: how few of them carry what attention puts out, and whether they stay the same.

use super::inertia::LAGS;
use super::sets::jaccard;
use super::{Activations, Analysis, Row, Sets};

/// The share of the sum of squares that heads are to carry together.
const CARRIED: f64 = 0.9;

/// Compares the heads with the largest outputs of tokens, as sets, by distance, and counts how few heads have 0.9 of the squares of a token's
/// outputs. `outputs` are those of attention \[tokens, n_heads · head_dim\].
///
/// # Source
/// The norm of a head's output as its importance, and heads as hard to predict: Deja Vu (ICML 2023), arXiv 2405.09274.
pub fn heads(outputs: &Activations, n_heads: usize, kept: f64) -> Analysis {
    let k = ((kept * n_heads as f64).ceil() as usize).clamp(1, n_heads);
    let head_dim = outputs.d_ff() / n_heads;
    let squares = |token: &[f32]| -> Vec<f64> {
        token.chunks_exact(head_dim).map(|head| head.iter().map(|&v| f64::from(v).powi(2)).sum()).collect()
    };
    let layers: Vec<Vec<Vec<f64>>> = (0..outputs.n_layers())
        .map(|layer| outputs.layer(layer).chunks_exact(outputs.d_ff()).map(squares).collect())
        .collect();
    let carrying = layers.iter().flatten().map(|token| fewest(token)).sum::<usize>() as f64;
    let tokens = outputs.tokens();
    let carrying = carrying / (layers.len() * tokens * n_heads).max(1) as f64;
    let sets = Sets::new(n_heads, k, layers);
    let at = |lag: &usize| {
        let range = (*lag).min(tokens)..tokens;
        (!range.is_empty()).then(|| sets.mean(range, |l, t| jaccard(sets.token(l, t), sets.token(l, t - lag))))
    };
    let values: Vec<Option<f64>> = LAGS.iter().map(at).collect();
    let floor = by_chance(k, n_heads);
    let next = values[0].unwrap_or(floor);
    let hard = next - floor < 0.5 * (1.0 - floor);
    let says = format!(
        "The heads that matter change from token to token: {}. Neighbours' sets of the largest {k} of {n_heads} are {next:.3} alike, by chance \
         {floor:.3}; {:.0}% of the squares of what a token's heads put out are in {:.1}% of the heads.",
        if hard { "holds here" } else { "does not hold here" },
        100.0 * CARRIED,
        100.0 * carrying
    );
    Analysis {
        name: "heads".into(),
        title: "Heads with the largest outputs".into(),
        x: "tokens apart".into(),
        y: "Jaccard similarity of the sets of heads".into(),
        columns: LAGS.iter().map(ToString::to_string).collect(),
        rows: vec![
            Row { name: "measured".into(), values },
            Row { name: "by chance".into(), values: vec![Some(floor); LAGS.len()] },
        ],
        says,
    }
}

/// The least number of heads that have 0.9 of the sum.
fn fewest(squares: &[f64]) -> usize {
    let mut sorted = squares.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let all: f64 = squares.iter().sum();
    let mut sum = 0.0;
    let enough = |square: &f64| {
        let before = sum;
        sum += square;
        before >= CARRIED * all
    };
    sorted.iter().position(enough).unwrap_or(sorted.len())
}

/// The mean Jaccard similarity of two sets of `k` of `n` that know nothing of each other: Σ_i P(i in both) · i / (2k − i).
fn by_chance(k: usize, n: usize) -> f64 {
    let choose = |n: usize, k: usize| (0..k).fold(1.0, |product, i| product * (n - i) as f64 / (i + 1) as f64);
    let shared = (2 * k).saturating_sub(n)..=k;
    shared.map(|i| choose(k, i) * choose(n - k, k - i) / choose(n, k) * i as f64 / (2 * k - i) as f64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_matches_all_pairs_of_sets() {
        for (k, n) in [(1, 4), (3, 5), (2, 6), (4, 4)] {
            let sets: Vec<u64> = (0u64..1 << n).filter(|set| set.count_ones() as usize == k).collect();
            let pairs = sets.iter().flat_map(|a| sets.iter().map(|b| jaccard(&[*a], &[*b])));
            let mean = pairs.sum::<f64>() / (sets.len() * sets.len()) as f64;
            // the same quotients, weighted by counts
            assert!((by_chance(k, n) - mean).abs() < 1e-12, "{k} of {n}: {} and {mean}", by_chance(k, n));
        }
    }

    #[test]
    fn few_heads_carry_what_few_put_out() {
        assert_eq!(fewest(&[0.5, 9.0, 0.5]), 1);
        assert_eq!(fewest(&[1.0, 1.0, 1.0, 1.0]), 4);
        assert_eq!(fewest(&[4.0, 0.0, 4.0, 0.5]), 2);
        assert_eq!(fewest(&[0.0, 0.0]), 0);
    }
}
