//! Kernel launches: arguments, limits, attributes.

use std::sync::Arc;

use super::event;
use super::function;
use crate::driver::abi::{Bytes, In, Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::cluster::{cluster_shape, most_cluster_blocks};
use crate::driver::object::kernel::{Kernel, refused};
use crate::driver::object::launch::Launch;
use crate::driver::object::occupancy::max_active_blocks;
use crate::driver::object::work::Work;
use crate::driver::state::Driver;
use crate::driver::streams;
use crate::machine::LaunchConfig;
use crate::machine::Limits;

/// `CU_LAUNCH_PARAM_END`, `…_BUFFER_POINTER` and `…_BUFFER_SIZE`, the keys of the `extra` array.
const EXTRA_END: usize = 0;
const EXTRA_POINTER: usize = 1;
const EXTRA_SIZE: usize = 2;

/// Reads the arguments, given one pointer each.
fn read_params(kernel: &Kernel, params: &In<Bytes>) -> Result<Vec<u8>> {
    let function = &kernel.function;
    let mut buffer = vec![0; function.param_bytes];
    for (i, param) in function.params.iter().enumerate() {
        let pointer = params.at(i)?;
        if pointer.is_null() {
            return Err(
                Code::INVALID_VALUE.because(format!("argument {i} of {}: expected a pointer, got null", function.name))
            );
        }
        let range = param.offset_bytes..param.offset_bytes + param.size_bytes;
        buffer[range].copy_from_slice(&pointer.copy(param.size_bytes));
    }
    Ok(buffer)
}

/// Reads the arguments, given as one buffer with its size.
fn read_extra(kernel: &Kernel, extra: &In<Bytes>) -> Result<Vec<u8>> {
    let (mut buffer, mut size) = (None, None);
    for pair in 0..2 {
        let value = || extra.at(2 * pair + 1);
        match extra.at(2 * pair)?.address() {
            EXTRA_END => break,
            EXTRA_POINTER => buffer = Some(value()?),
            EXTRA_SIZE => size = Some(In::<usize>::from(value()?).get()?),
            other => {
                return Err(Code::INVALID_VALUE.because(format!("expected a launch parameter key, got {other:#x}")));
            }
        }
    }
    let expected = kernel.function.param_bytes;
    match (buffer, size) {
        (Some(buffer), Some(size)) if size == expected && (!buffer.is_null() || size == 0) => Ok(buffer.copy(size)),
        (_, size) => {
            let message = format!("arguments of {}: expected {expected} bytes, got {size:?}", kernel.function.name);
            Err(Code::INVALID_VALUE.because(message))
        }
    }
}

fn arguments(kernel: &Kernel, params: &In<Bytes>, extra: &In<Bytes>) -> Result<Vec<u8>> {
    if !params.is_null() && !extra.is_null() {
        return Err(Code::INVALID_VALUE.because("expected arguments as pointers or as a buffer, got both"));
    }
    if !extra.is_null() {
        return read_extra(kernel, extra);
    }
    if kernel.function.params.is_empty() {
        return Ok(Vec::new());
    }
    if params.is_null() {
        let (name, count) = (&kernel.function.name, kernel.function.params.len());
        return Err(Code::INVALID_VALUE.because(format!("arguments of {name}: expected {count}, got none")));
    }
    read_params(kernel, params)
}

fn check_shape(driver: &Driver, limits: &Limits, kernel: &Kernel, config: &LaunchConfig) -> Result<()> {
    let fits = |given: [u32; 3], most: [u32; 3]| given.iter().zip(most).all(|(&n, most)| (1..=most).contains(&n));
    if !fits(config.grid, limits.grid) {
        return Err(refused(Code::INVALID_VALUE, kernel, "grid", format!("1 to {:?}", limits.grid), config.grid));
    }
    let threads: u32 = config.block.iter().fold(1, |product, &n| product.saturating_mul(n));
    if !fits(config.block, limits.block) || threads > limits.threads_per_block {
        let expected = format!("1 to {:?} with at most {} threads", limits.block, limits.threads_per_block);
        return Err(refused(Code::INVALID_VALUE, kernel, "block", expected, config.block));
    }
    let most = kernel.max_threads(limits);
    if threads > most {
        return Err(refused(
            Code::LAUNCH_OUT_OF_RESOURCES,
            kernel,
            "block",
            format!("at most {most} threads"),
            threads,
        ));
    }
    let dynamic = config.dynamic_shared_bytes;
    if dynamic > kernel.max_dynamic() {
        let expected = format!("at most {} bytes (cuFuncSetAttribute raises it)", kernel.max_dynamic());
        return Err(refused(Code::INVALID_VALUE, kernel, "dynamic shared memory", expected, dynamic));
    }
    if config.cooperative {
        let blocks: u64 = config.grid.iter().map(|&n| u64::from(n)).product();
        let fit = max_active_blocks(&driver.device.options, kernel, threads, dynamic as usize)
            * driver.device.options.sm_count;
        if blocks > u64::from(fit) {
            let expected = format!("at most {fit} blocks that are resident together");
            return Err(refused(Code::COOPERATIVE_LAUNCH_TOO_LARGE, kernel, "cooperative grid", expected, blocks));
        }
    }
    Ok(())
}

/// A launch as asked for.
pub(super) struct Request {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) cluster: Option<[u32; 3]>,
    pub(super) dynamic_shared_bytes: u32,
    pub(super) cooperative: bool,
}

/// Checks a launch and reads its arguments.
pub(super) fn prepare(function: usize, request: &Request, params: &In<Bytes>, extra: &In<Bytes>) -> Result<Work> {
    let (driver, kernel) = function::find(function)?;
    let limits = driver.device.options.arch.limits();
    let &Request { grid, block, cluster, dynamic_shared_bytes, cooperative } = request;
    let cluster = cluster_shape(&limits, &kernel, cluster, grid)?;
    let config = LaunchConfig { grid, block, cluster, dynamic_shared_bytes, cooperative };
    check_shape(driver, &limits, &kernel, &config)?;
    let params = arguments(&kernel, params, extra)?;
    Ok(Work::Launch(Arc::new(Launch { kernel, config, params })))
}

fn submit(function: usize, request: &Request, stream: usize, params: &In<Bytes>, extra: &In<Bytes>) -> Result<()> {
    let (driver, stream) = streams::find(stream)?;
    driver.enqueue(&stream, prepare(function, request, params, extra)?)
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
struct ExtendedConfig {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    stream: usize,
    attributes: In<Attribute>,
    attribute_count: u32,
}

/// `CUlaunchAttribute`: a number and a union of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attribute {
    number: u32,
    padding: u32,
    value: [u32; 16],
}

impl Attribute {
    /// The first eight bytes of the union as an event handle.
    fn event(&self) -> usize {
        (u64::from(self.value[1]) << 32 | u64::from(self.value[0])) as usize
    }
}

/// Reads the attributes of an extended launch: what they ask for, and events to record behind it.
fn read_attributes(config: &ExtendedConfig) -> Result<(Request, Vec<usize>)> {
    let mut request = Request {
        grid: config.grid,
        block: config.block,
        cluster: None,
        dynamic_shared_bytes: config.dynamic_shared_bytes,
        cooperative: false,
    };
    let mut events = Vec::new();
    for i in 0..config.attribute_count as usize {
        let attribute = config.attributes.at(i)?;
        match attribute.number {
            2 => request.cooperative = attribute.value[0] != 0,
            4 => request.cluster = Some([attribute.value[0], attribute.value[1], attribute.value[2]]),
            // The kernel's or all its blocks' programmatic completion: both have come when the kernel has run.
            7 | 12 => events.push(attribute.event()),
            // Ignored, L2 windows, host waiting, scheduling preference, programmatic serialisation (the kernel before has
            // ended when this one starts, which is one of the allowed orders), priority, memory domains, preferred
            // cluster, carveout, link scheduling: none changes what a kernel computes.
            0 | 1 | 3 | 5 | 6 | 8..=11 | 14 | 16 => {}
            other => return Err(Code::NOT_SUPPORTED.because(format!("launch attribute {other}"))),
        }
    }
    Ok((request, events))
}

fn launch_extended(config: &ExtendedConfig, function: usize, params: &In<Bytes>, extra: &In<Bytes>) -> Result<()> {
    let (request, events) = read_attributes(config)?;
    submit(function, &request, config.stream, params, extra)?;
    events.into_iter().try_for_each(|event| event::record(event, config.stream))
}

/// Counts the clusters of a launch that are resident together.
fn active_clusters(config: &ExtendedConfig, function: usize) -> Result<u32> {
    let (driver, kernel) = function::find(function)?;
    let (request, _) = read_attributes(config)?;
    let limits = driver.device.options.arch.limits();
    let cluster = cluster_shape(&limits, &kernel, request.cluster, request.grid)?;
    let threads = request.block.iter().fold(1u32, |product, &n| product.saturating_mul(n));
    if threads == 0 {
        return Err(refused(Code::INVALID_VALUE, &kernel, "block", "at least one thread", request.block));
    }
    let blocks = max_active_blocks(&driver.device.options, &kernel, threads, request.dynamic_shared_bytes as usize);
    Ok(blocks * driver.device.options.sm_count / cluster.iter().product::<u32>())
}

api! {
    fn cuLaunchKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared_bytes: u32, stream: usize, params: In<Bytes>, extra: In<Bytes>
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let request = Request { grid, block, cluster: None, dynamic_shared_bytes, cooperative: false };
        submit(function, &request, stream, &params, &extra)
    }

    fn cuLaunchCooperativeKernel(
        function: usize, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared_bytes: u32, stream: usize, params: In<Bytes>
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let request = Request { grid, block, cluster: None, dynamic_shared_bytes, cooperative: true };
        submit(function, &request, stream, &params, &In::null())
    }

    fn cuOccupancyMaxPotentialClusterSize(out: Out<i32>, function: usize, config: In<ExtendedConfig>) {
        let (driver, kernel) = function::find(function)?;
        config.get()?;
        match most_cluster_blocks(&driver.device.options.arch.limits(), &kernel) {
            0 => Err(Code::NOT_SUPPORTED.because("clusters need compute capability 9.0")),
            blocks => out.set(blocks as i32),
        }
    }

    fn cuOccupancyMaxActiveClusters(out: Out<i32>, function: usize, config: In<ExtendedConfig>) {
        out.set(active_clusters(&config.get()?, function)? as i32)
    }

    fn cuLaunchKernelEx(config: In<ExtendedConfig>, function: usize, params: In<Bytes>, extra: In<Bytes>) {
        launch_extended(&config.get()?, function, &params, &extra)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn structures_match_the_sizes_of_the_c_header() {
        assert_eq!(size_of::<Attribute>(), 72);
        assert_eq!(offset_of!(Attribute, value), 8);
        assert_eq!(size_of::<ExtendedConfig>(), 56);
        assert_eq!(offset_of!(ExtendedConfig, stream), 32);
    }
}
