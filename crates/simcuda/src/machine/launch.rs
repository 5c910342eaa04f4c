//! Launches: the checks before the first block runs, and the run.

#![allow(clippy::result_large_err, reason = "a fault is returned once a launch and carries its whole report")]

use std::sync::Arc;

use super::config::LaunchConfig;
use super::env::{Env, THREADS_PER_SM};
use super::error::{Fault, FaultKind};
use super::memory::Memory;
use super::meter::Report;
use super::module::Function;
use super::options::{Arch, Options};
use super::sched::pool::run_job;

/// Most threads of a block.
const MAX_THREADS: u32 = 1024;
/// Blocks that a multiprocessor holds.
const BLOCKS_PER_SM: u32 = 32;
/// Most blocks of a cluster, and without the non-portable attribute 8; the larger is accepted.
const MAX_CLUSTER: u32 = 16;
const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];

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
        spilled_registers: function.spilled_registers,
        shared_bytes: env.shared_bytes,
        ..Report::default()
    };
    let code = Arc::clone(&env.code);
    let totals = run_job(Arc::new(env), clusters).map_err(|fault| *fault)?;
    report.fill(&totals.counters, &totals.counts, &code.classes, &code.merged);
    report.warnings = totals.warnings;
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
        levels: options.checks.of_kernel(&function.name),
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
