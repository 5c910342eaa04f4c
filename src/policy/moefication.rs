//! MoEfication: clusters of neurons as experts, chosen by a router.

use std::sync::Arc;

use super::deja_vu::{predictors_of, put_predictors, recorded};
use super::low_rank::add;
use super::table::{Arguments, Context, Policies};
use super::{Found, LowRank, ModelSizes, Predicted, PredictedLayer, kept_count};
use crate::error::{Result, check_len};
use crate::sparse_mlp::Matrix;

/// Neurons of a cluster, but for what is left over.
const NEURONS: usize = 32;

/// Rounds of clustering, at most.
const ROUNDS: usize = 8;

/// Divides n rows \[n, d\] into `count` clusters of ⌊n/count⌋ or ⌈n/count⌉ whose directions are alike: k-means of the normalised rows, in which
/// the most alike pair of a row and a cluster with room is joined first. Returns the cluster of each row.
///
/// # Errors
/// [`crate::Error::Length`] unless rows are whole, [`crate::Error::Value`] for numbers that are not finite.
///
/// # Source
/// Balanced k-means: Malinen and Fränti (2014); on the first matrix's rows: MoEfication (arXiv 2110.01786).
pub fn balanced_clusters(rows: &[f32], d: usize, count: usize) -> Result<Vec<u32>> {
    let n = rows.len() / d.max(1);
    check_len("rows of neurons", n * d, rows.len())?;
    crate::sparse_mlp::check_finite("rows of neurons", rows)?;
    let rows: Vec<f32> = rows.chunks_exact(d).flat_map(normalised).collect();
    let count = count.clamp(1, n.max(1));
    let mut centres: Vec<f32> = (0..count).flat_map(|c| rows[c * n / count * d..][..d].iter().copied()).collect();
    let mut clusters = Vec::new();
    for _ in 0..ROUNDS {
        let joined = joined(&alike(&rows, &centres, d), n, count);
        if joined == clusters {
            break;
        }
        clusters = joined;
        centres.fill(0.0);
        for (row, &cluster) in rows.chunks_exact(d).zip(&clusters) {
            add(&mut centres[cluster as usize * d..][..d], 1.0, row);
        }
        centres = centres.chunks_exact(d).flat_map(normalised).collect();
    }
    Ok(clusters)
}

fn normalised(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
    let factor = if norm > 0.0 { 1.0 / norm } else { 0.0 };
    row.iter().map(|v| v * factor).collect()
}

/// Products of rows and centres \[n, count\].
fn alike(rows: &[f32], centres: &[f32], d: usize) -> Vec<f32> {
    let count = centres.len() / d;
    let mut by_input = vec![0.0; centres.len()];
    for (c, centre) in centres.chunks_exact(d).enumerate() {
        centre.iter().enumerate().for_each(|(k, &value)| by_input[k * count + c] = value);
    }
    let mut found = vec![0.0; rows.len() / d * count];
    for (row, found) in rows.chunks_exact(d).zip(found.chunks_exact_mut(count)) {
        row.iter().zip(by_input.chunks_exact(count)).for_each(|(&x, centres)| add(found, x, centres));
    }
    found
}

/// The cluster of each row: the most alike pairs first, as long as a cluster has room.
fn joined(alike: &[f32], n: usize, count: usize) -> Vec<u32> {
    let mut pairs: Vec<u32> = (0..alike.len() as u32).collect();
    pairs.sort_unstable_by(|&a, &b| alike[b as usize].total_cmp(&alike[a as usize]).then(a.cmp(&b)));
    let mut room: Vec<usize> = (0..count).map(|c| n / count + usize::from(c < n % count)).collect();
    let mut clusters = vec![u32::MAX; n];
    for pair in pairs {
        let (row, cluster) = (pair as usize / count, pair as usize % count);
        if clusters[row] == u32::MAX && room[cluster] > 0 {
            room[cluster] -= 1;
            clusters[row] = cluster as u32;
        }
    }
    clusters
}

fn clusters(d_ff: usize) -> usize {
    (d_ff / NEURONS).max(1)
}

/// Finds what the policy is made of that a command names: clusters of 32 neurons by their gate rows, and a router, linear and fitted under a
/// ridge, that predicts Σ |act(g_j)·u_j|·‖down_j‖ of each cluster from the MLP's inputs.
pub(super) fn find(_: &Arguments, context: &mut dyn Context) -> Result<Found> {
    let (inputs, hidden, norms) = recorded(context)?;
    let (d, d_ff) = (context.model().d_model, context.model().d_ff);
    let count = clusters(d_ff);
    let mut layers = Vec::with_capacity(hidden.len());
    for (layer, (x, hidden)) in inputs.iter().zip(&hidden).enumerate() {
        let weights = context.mlp(layer)?;
        let mut gates = vec![0.0; d_ff * d];
        for (j, row) in gates.chunks_exact_mut(d).enumerate() {
            weights.row(Matrix::Gate, j, row)?;
        }
        let units = balanced_clusters(&gates, d, count)?;
        let mut sums = vec![0.0; hidden.len() / d_ff * count];
        for (row, sums) in hidden.chunks_exact(d_ff).zip(sums.chunks_exact_mut(count)) {
            let sizes = row.iter().zip(&norms[layer]).map(|(a, norm)| a.abs() * norm);
            sizes.zip(&units).for_each(|(size, &unit)| sums[unit as usize] += size);
        }
        layers.push(PredictedLayer { predictor: LowRank::fit(x, &sums, (d, count), count)?, units });
    }
    let mut found = Found::default();
    put_predictors(&mut found, &layers.iter().map(|layer| &layer.predictor).collect::<Vec<_>>())?;
    let units = layers.iter().flat_map(|layer| layer.units.iter().copied()).collect();
    found.put_u32("units", &[layers.len(), d_ff], units)?;
    Ok(found)
}

/// Makes the policy that a command names: each token computes the ⌈kept · clusters⌉ of the highest predictions.
pub(super) fn make(arguments: &Arguments, model: &ModelSizes, found: &Found) -> Policies {
    let count = clusters(model.d_ff);
    let units = found.u32("units", &[model.n_layers, model.d_ff])?.chunks_exact(model.d_ff);
    let layer = |(predictor, units): (LowRank, &[u32])| PredictedLayer { predictor, units: units.to_vec() };
    let layers = predictors_of(found, model, count)?.into_iter().zip(units).map(layer).collect();
    Ok(vec![Arc::new(Predicted::new(layers, kept_count(arguments.fraction, count)?, false)?)])
}
