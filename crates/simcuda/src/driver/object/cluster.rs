//! Cluster shapes: what the launch asks for, what the kernel demands, what the device has.

use std::sync::atomic::Ordering::Relaxed;

use super::kernel::{Kernel, refused};
use crate::driver::codes::{Code, Result};
use crate::machine::Limits;

/// Most blocks of a cluster where more than the portable number is allowed.
const LARGEST_CLUSTER_BLOCKS: u32 = 16;

/// Tells how many blocks a cluster of this kernel may have; 0 without clusters.
pub(crate) fn most_cluster_blocks(limits: &Limits, kernel: &Kernel) -> u32 {
    match kernel.non_portable_cluster.load(Relaxed) {
        0 => limits.portable_cluster_blocks,
        _ if limits.portable_cluster_blocks > 0 => LARGEST_CLUSTER_BLOCKS,
        _ => 0,
    }
}

/// Settles the cluster shape between the launch and the kernel, and checks it.
pub(crate) fn cluster_shape(
    limits: &Limits,
    kernel: &Kernel,
    given: Option<[u32; 3]>,
    grid: [u32; 3],
) -> Result<[u32; 3]> {
    let set: [u32; 3] = std::array::from_fn(|i| kernel.cluster[i].load(Relaxed).max(0) as u32);
    let demanded = (set[0] != 0).then(|| set.map(|extent| extent.max(1)));
    let shape = match (given, demanded) {
        (None, None) => return Ok([1; 3]),
        (Some(given), Some(demanded)) if given != demanded => {
            return Err(refused(Code::INVALID_CLUSTER_SIZE, kernel, "cluster", format!("{demanded:?}"), given));
        }
        (Some(shape), _) | (None, Some(shape)) => shape,
    };
    let blocks: u32 = shape.iter().fold(1, |product, &n| product.saturating_mul(n));
    let most = most_cluster_blocks(limits, kernel);
    if blocks > 1 && limits.portable_cluster_blocks == 0 {
        return Err(Code::NOT_SUPPORTED.because(format!("clusters of {blocks} blocks need compute capability 9.0")));
    }
    if blocks == 0 || blocks > most.max(1) {
        return Err(refused(Code::INVALID_CLUSTER_SIZE, kernel, "cluster", format!("1 to {most} blocks"), shape));
    }
    if (0..3).any(|i| !grid[i].is_multiple_of(shape[i])) {
        return Err(refused(Code::INVALID_VALUE, kernel, "grid", format!("a multiple of cluster {shape:?}"), grid));
    }
    Ok(shape)
}
