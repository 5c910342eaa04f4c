//! Launches: the checks before the first block runs, and the run.

#![allow(clippy::result_large_err, reason = "a fault is returned once a launch and carries its whole report")]

use std::sync::Arc;

use super::config::LaunchConfig;
use super::env::Env;
use super::error::{Fault, FaultKind};
use super::memory::Memory;
use super::meter::Report;
use super::module::Function;
use super::options::Options;
use super::sched::pool::run_job;

/// Most blocks of a cluster, and without the non-portable attribute 8; the larger is accepted.
const MAX_CLUSTER: u32 = 16;

/// Blocks that one multiprocessor holds at once, as limited by threads and shared memory.
pub(crate) fn occupancy(threads: u32, shared_bytes: u32, options: &Options) -> u32 {
    let limits = options.arch.limits();
    let by_threads = limits.threads_per_sm / threads.next_multiple_of(32).max(32);
    let reserved = limits.reserved_shared_bytes;
    let by_shared = (options.max_shared_bytes + reserved) / (shared_bytes + reserved).max(1);
    by_threads.min(by_shared).min(limits.blocks_per_sm)
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
    let clusters = env.clusters_to_run();
    let mut report = Report {
        blocks_run: clusters * u64::from(config.cluster.iter().product::<u32>()),
        registers: function.registers,
        registers_arch: function.registers_arch,
        spilled_registers: function.spilled_registers,
        shared_bytes: env.shared_bytes,
        ..Report::new(&function.name, config)
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
    let limits = options.arch.limits();
    let within = |shape: [u32; 3], most: [u32; 3]| shape.iter().zip(most).all(|(&n, most)| n >= 1 && n <= most);
    if !within(config.grid, limits.grid) {
        let message = format!("expected a grid of 1 to {:?} blocks, got {:?}", limits.grid, config.grid);
        return fail(FaultKind::InvalidLaunch, message);
    }
    let threads: u32 = config.block.iter().fold(1, |n, &d| n.saturating_mul(d));
    if !within(config.block, limits.block) || threads > limits.threads_per_block {
        let most = limits.threads_per_block;
        let message = format!("expected a block of 1 to {most} threads, got {:?}", config.block);
        return fail(FaultKind::InvalidLaunch, message);
    }
    if threads > function.max_threads {
        let message = format!("expected at most {} threads, got {threads}", function.max_threads);
        return fail(FaultKind::InvalidLaunch, message);
    }
    let blocks = config.cluster.iter().fold(1, |n: u32, &d| n.saturating_mul(d));
    let divides = config.grid.iter().zip(config.cluster).all(|(&g, c)| c >= 1 && g % c == 0);
    if blocks > MAX_CLUSTER || !divides || (blocks > 1 && limits.portable_cluster_blocks == 0) {
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
