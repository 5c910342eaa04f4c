//! The shape of a launch.

/// The shape of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks per dimension.
    pub grid: [u32; 3],
    /// Threads per block and dimension.
    pub block: [u32; 3],
    /// Blocks per cluster and dimension; all ones without clusters.
    pub cluster: [u32; 3],
    /// Dynamic shared memory per block.
    pub dynamic_shared_bytes: u32,
    /// All blocks must be resident together (grid-wide synchronisation).
    pub cooperative: bool,
}

impl LaunchConfig {
    /// Makes a launch of `grid` blocks of `block` threads without clusters or dynamic shared memory.
    pub fn new(grid: [u32; 3], block: [u32; 3]) -> Self {
        Self { grid, block, cluster: [1; 3], dynamic_shared_bytes: 0, cooperative: false }
    }
}
