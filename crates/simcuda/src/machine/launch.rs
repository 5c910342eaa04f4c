//! Launches: their shape, their options, and the checks before the first block runs.

#![allow(clippy::result_large_err, reason = "a fault is returned once a launch and carries its whole report")]

use std::sync::Arc;

use super::error::{Fault, FaultKind};
use super::exec::{Block, Code, LaunchRow};
use super::memory::Memory;
use super::meter::Report;
use super::module::Function;
use super::sched::pool::run_job;

/// The simulated architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Arch {
    /// Compute capability 7.5: a device that runs no PTX for 8.0.
    Sm75,
    /// Compute capability 8.0.
    #[default]
    Sm80,
    /// Compute capability 9.0: clusters, mbarrier transactions, bulk copies.
    Sm90,
}

impl Arch {
    /// Compute capability as (major, minor).
    pub fn compute_capability(self) -> (u32, u32) {
        match self {
            Self::Sm75 => (7, 5),
            Self::Sm80 => (8, 0),
            Self::Sm90 => (9, 0),
        }
    }
}

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

/// The simulated device and how strictly it watches.
#[derive(Clone, Debug)]
pub struct Options {
    /// Checks initialisation, bounds, races and asynchronous copies; bounds of the whole arena are always kept.
    pub checks: bool,
    /// Counts sectors and bank conflicts; instruction counts are always kept.
    pub meter: bool,
    /// Threads of the host that run blocks, the caller included.
    pub workers: usize,
    /// Warp-instructions after which a launch is stopped as endless.
    pub instruction_budget: u64,
    /// The simulated architecture.
    pub arch: Arch,
    /// Multiprocessors; with the occupancy it bounds how many blocks are resident together.
    pub sm_count: u32,
    /// Shared memory a block may opt in to.
    pub max_shared_bytes: u32,
    /// Seed of the order in which asynchronous operations are delivered.
    pub seed: u64,
}

impl Options {
    /// Makes the options of one architecture with checks and meter on.
    pub fn for_arch(arch: Arch) -> Self {
        let max_shared_bytes = match arch {
            Arch::Sm75 => 64 * 1024,
            Arch::Sm80 => 163 * 1024,
            Arch::Sm90 => 227 * 1024,
        };
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        let instruction_budget = 1 << 36;
        Self { checks: true, meter: true, workers, instruction_budget, arch, sm_count: 16, max_shared_bytes, seed: 0 }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::for_arch(Arch::default())
    }
}

/// Most threads of a block.
const MAX_THREADS: u32 = 1024;
/// Threads and blocks that a multiprocessor holds.
const THREADS_PER_SM: u32 = 2048;
const BLOCKS_PER_SM: u32 = 32;
/// Most blocks of a cluster, and without the non-portable attribute 8; the larger is accepted.
const MAX_CLUSTER: u32 = 16;
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

/// Everything the blocks of one launch share.
pub(crate) struct Env {
    pub memory: Memory,
    pub code: Arc<Code>,
    pub kernel: String,
    pub files: Arc<Vec<(u32, String)>>,
    pub params: Vec<u8>,
    pub config: LaunchConfig,
    pub options: Options,
    pub shared_bytes: u32,
    pub local_bytes: u32,
    pub resident_clusters: u64,
}

/// Blocks that one multiprocessor holds at once, as limited by threads and shared memory.
pub(crate) fn occupancy(threads: u32, shared_bytes: u32, options: &Options) -> u32 {
    let by_threads = THREADS_PER_SM / threads.next_multiple_of(32).max(32);
    // A multiprocessor has 1 KiB per block beside what a block can opt in to.
    let by_shared = (options.max_shared_bytes + 1024) / (shared_bytes + 1024);
    by_threads.min(by_shared).min(BLOCKS_PER_SM)
}

/// Runs one kernel to its end.
///
/// # Errors
/// Returns the first [`Fault`] that stopped it; memory written before stays written.
pub fn launch(
    memory: &Memory,
    function: &Function,
    config: &LaunchConfig,
    params: &[u8],
    options: &Options,
) -> Result<Report, Fault> {
    let env = prepare(memory, function, config, params, options)?;
    let clusters = config.grid.iter().zip(config.cluster).map(|(&g, c)| u64::from(g / c)).product();
    let mut report = Report {
        kernel: function.name.clone(),
        registers: function.registers,
        registers_arch: function.registers_arch,
        shared_bytes: env.shared_bytes,
        ..Report::default()
    };
    let code = Arc::clone(&env.code);
    let (counters, counts) = run_job(Arc::new(env), clusters).map_err(|fault| *fault)?;
    report.fill(&counters, &counts, &code.classes, &code.merged);
    Ok(report)
}

/// A launch that cannot start.
fn refuse(function: &Function, kind: FaultKind, message: String) -> Fault {
    Fault {
        kind,
        kernel: function.name.clone(),
        ptx_line: 0,
        source: None,
        block: [0; 3],
        thread: [0; 3],
        address: None,
        allocation: None,
        message,
    }
}

fn prepare(
    memory: &Memory,
    function: &Function,
    config: &LaunchConfig,
    params: &[u8],
    options: &Options,
) -> Result<Env, Fault> {
    check_shape(function, config, options)?;
    let fail = |kind, message| Err(refuse(function, kind, message));
    if params.len() != function.param_bytes {
        let message = format!("expected {} bytes of arguments, got {}", function.param_bytes, params.len());
        return fail(FaultKind::InvalidLaunch, message);
    }
    let threads: u32 = config.block.iter().product();
    let shared = function.static_shared_bytes as u64 + u64::from(config.dynamic_shared_bytes);
    if shared > u64::from(options.max_shared_bytes) {
        let message = format!("expected at most {} bytes of shared memory, got {shared}", options.max_shared_bytes);
        return fail(FaultKind::OutOfResources, message);
    }
    let cluster: u32 = config.cluster.iter().product();
    let resident = u64::from((options.sm_count * occupancy(threads, shared as u32, options) / cluster).max(1));
    let blocks: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
    if config.cooperative && blocks > resident * u64::from(cluster) {
        let message = format!("expected at most {resident} blocks in a cooperative launch, got {blocks}");
        return fail(FaultKind::OutOfResources, message);
    }
    Ok(Env {
        memory: memory.clone(),
        code: Arc::clone(&function.code),
        kernel: function.name.clone(),
        files: Arc::clone(&function.files),
        params: params.to_vec(),
        config: config.clone(),
        options: options.clone(),
        shared_bytes: shared as u32,
        local_bytes: function.local_bytes as u32,
        resident_clusters: resident,
    })
}

fn check_shape(function: &Function, config: &LaunchConfig, options: &Options) -> Result<(), Fault> {
    let fail = |kind, message| Err(refuse(function, kind, message));
    let within = |shape: [u32; 3], most: [u32; 3]| shape.iter().zip(most).all(|(&n, most)| n >= 1 && n <= most);
    if !within(config.grid, MAX_GRID) {
        return fail(
            FaultKind::InvalidLaunch,
            format!("expected a grid of 1 to {MAX_GRID:?} blocks, got {:?}", config.grid),
        );
    }
    let threads: u32 = config.block.iter().fold(1, |n, &d| n.saturating_mul(d));
    if !within(config.block, MAX_BLOCK) || threads > MAX_THREADS {
        let message = format!("expected a block of 1 to {MAX_THREADS} threads, got {:?}", config.block);
        return fail(FaultKind::InvalidLaunch, message);
    }
    if threads > function.max_threads {
        let message = format!("expected at most {} threads, got {threads}", function.max_threads);
        return fail(FaultKind::InvalidLaunch, message);
    }
    let blocks = config.cluster.iter().fold(1, |n: u32, &d| n.saturating_mul(d));
    let divides = config.grid.iter().zip(config.cluster).all(|(&g, c)| c >= 1 && g % c == 0);
    if blocks > MAX_CLUSTER || !divides || (blocks > 1 && options.arch != Arch::Sm90) {
        let message = format!(
            "expected a cluster of at most {MAX_CLUSTER} blocks that divides the grid, got {:?}",
            config.cluster
        );
        return fail(FaultKind::InvalidLaunch, message);
    }
    if function.cluster.is_some_and(|shape| shape != config.cluster) {
        let message =
            format!("expected clusters of {:?} as the kernel demands, got {:?}", function.cluster, config.cluster);
        return fail(FaultKind::InvalidLaunch, message);
    }
    Ok(())
}

impl Env {
    /// Threads of a block.
    pub(crate) fn threads(&self) -> u32 {
        self.config.block.iter().product()
    }

    /// Block index of a rank in the cluster of a linear index.
    pub(crate) fn block_index(&self, cluster: u64, rank: u32) -> [u32; 3] {
        let (grid, shape) = (self.config.grid, self.config.cluster);
        let clusters = [0, 1].map(|d| u64::from(grid[d] / shape[d]));
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
            LaunchRow::Nwarpid => THREADS_PER_SM / 32,
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
