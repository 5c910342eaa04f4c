//! What the blocks of one launch share.

use std::sync::Arc;

use super::checks::Levels;
use super::config::LaunchConfig;
use super::exec::{Block, Code, LaunchRow};
use super::memory::Memory;
use super::options::Options;

/// Everything the blocks of one launch share.
pub(crate) struct Env {
    pub memory: Memory,
    pub code: Arc<Code>,
    pub kernel: String,
    pub files: Arc<Vec<(u32, String)>>,
    pub params: Vec<u8>,
    pub config: LaunchConfig,
    pub options: Options,
    pub levels: Levels,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub resident_clusters: u64,
}

impl Env {
    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        self.config.block.iter().product()
    }

    /// Clusters of the grid by dimension.
    fn clusters(&self) -> [u64; 3] {
        let (grid, shape) = (self.config.grid, self.config.cluster);
        std::array::from_fn(|d| u64::from(grid[d] / shape[d]))
    }

    /// Columns of clusters that run.
    fn columns(&self) -> u64 {
        let all = self.clusters()[0];
        match self.config.cooperative {
            true => all,
            false => self.options.sample.columns(&self.kernel, all as u32).into(),
        }
    }

    /// Counts the clusters that run.
    pub(crate) fn clusters_to_run(&self) -> u64 {
        let [_, y, z] = self.clusters();
        self.columns() * y * z
    }

    /// Linear index in the grid of the `n`-th cluster that runs.
    pub(crate) fn cluster_index(&self, n: u64) -> u64 {
        let (all, columns) = (self.clusters()[0], self.columns());
        n / columns * all + n % columns * all / columns
    }

    /// Block index of a rank in the cluster of a linear index.
    pub(crate) fn block_index(&self, cluster: u64, rank: u32) -> [u32; 3] {
        let (shape, clusters) = (self.config.cluster, self.clusters());
        let at = [cluster % clusters[0], cluster / clusters[0] % clusters[1], cluster / clusters[0] / clusters[1]];
        let inside = [rank % shape[0], rank / shape[0] % shape[1], rank / shape[0] / shape[1]];
        std::array::from_fn(|d| at[d] as u32 * shape[d] + inside[d])
    }

    /// Source file and line of a location.
    pub(crate) fn source(&self, (file, line): (u32, u32)) -> Option<(String, u32)> {
        self.files.iter().find(|f| f.0 == file).map(|f| (f.1.clone(), line))
    }

    /// Writes the values that a block's threads share into its rows; parameters only for a `fresh` block.
    pub(crate) fn fill_launch_rows(&self, block: &mut Block, fresh: bool) {
        let mut row = 0;
        while row < self.code.launch_rows.len() {
            let kind = self.code.launch_rows[row];
            if let LaunchRow::Param { offset, bytes: 8, .. } = kind {
                let value = self.param(offset as usize, 8);
                let words = [value as u32, (value >> 32) as u32];
                for half in 0..if fresh { 2 } else { 0 } {
                    block.launch_rows[row + half].0 = std::array::from_fn(|at| words[at % 2]);
                }
                row += 2;
                continue;
            }
            if fresh || !matches!(kind, LaunchRow::Param { .. }) {
                block.launch_rows[row].0 = [self.launch_value(block, kind); 32];
            }
            row += 1;
        }
    }

    fn param(&self, offset: usize, bytes: usize) -> u64 {
        let range = self.params.get(offset..offset + bytes).unwrap_or(&[]);
        range.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    fn launch_value(&self, block: &Block, kind: LaunchRow) -> u32 {
        let (grid, shape) = (self.config.grid, self.config.cluster);
        let d = |axis: u8| axis as usize % 3;
        match kind {
            LaunchRow::Param { offset, bytes, signed } => {
                let value = self.param(offset as usize, bytes.into()) as u32;
                let unused = 32 - 8 * u32::from(bytes.min(4));
                if signed { ((value << unused) as i32 >> unused) as u32 } else { value }
            }
            LaunchRow::Ntid(axis) => self.config.block[d(axis)],
            LaunchRow::Ctaid(axis) => block.index[d(axis)],
            LaunchRow::Nctaid(axis) => grid[d(axis)],
            LaunchRow::ClusterId(axis) => block.index[d(axis)] / shape[d(axis)],
            LaunchRow::NclusterId(axis) => grid[d(axis)] / shape[d(axis)],
            LaunchRow::ClusterCtaid(axis) => block.index[d(axis)] % shape[d(axis)],
            LaunchRow::ClusterNctaid(axis) => shape[d(axis)],
            LaunchRow::ClusterCtarank => block.rank,
            LaunchRow::ClusterNctarank => shape.iter().product(),
            LaunchRow::Nwarpid => self.options.arch.limits().threads_per_sm / 32,
            LaunchRow::Smid => {
                (block.index[0] + grid[0] * (block.index[1] + grid[1] * block.index[2])) % self.options.sm_count
            }
            LaunchRow::Nsmid => self.options.sm_count,
            LaunchRow::DynamicSharedBytes => self.config.dynamic_shared_bytes,
            LaunchRow::TotalSharedBytes => self.shared_bytes,
            LaunchRow::IsExplicitCluster => u32::from(shape != [1; 3]),
            LaunchRow::Gridid | LaunchRow::Zero | LaunchRow::Continued => 0,
        }
    }
}
