//! What the benches on a CUDA device share: cold calls in a captured graph, timed by device events, beside a copy of the same run.
//!
//! With `--bench`, which `cargo bench` passes, everything is timed; without it, as under `cargo test`, and with `--test`, shapes
//! are small and times worth nothing: it shows that the program works.
#![allow(dead_code)] // each bench uses its part

use moray::device::cudarc::driver::CudaGraph;
use moray::device::cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use moray::{Device, Result};

/// Replays of which the median counts.
const REPLAYS: usize = 15;

/// Calls in a graph, at least.
const CALLS: usize = 20;

/// A device and what the rows of a table are compared with.
pub struct Bench {
    pub device: Device,
    /// Small shapes, nothing worth reading.
    pub quick: bool,
    /// Bytes a second that a copy reads and writes.
    copy: f64,
    cache_bytes: usize,
}

/// One line of the table.
pub struct Row {
    /// `op/mode/model.layer/mM`.
    pub id: String,
    pub seconds: f64,
    /// Bytes that have to be moved, each once.
    pub bytes: f64,
    /// Multiplications and additions; 0 where they are not the point.
    pub operations: f64,
    /// Seconds of the f16 baseline, where there is one.
    pub baseline: Option<f64>,
}

impl Bench {
    /// Opens the first device, times a copy and prints what machine this is and the table's head.
    pub fn open() -> Result<Bench> {
        let has = |wanted: &str| std::env::args().any(|argument| argument == wanted);
        let quick = has("--test") || !has("--bench");
        let device = Device::new(0)?;
        let attribute = |name| device.context().attribute(name).unwrap_or(0);
        let cache_bytes = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE) as usize;
        let mut bench = Bench { device, quick, copy: 0.0, cache_bytes };
        bench.copy = bench.copy_bytes_per_second(if quick { 1 << 20 } else { 1 << 30 })?;
        println!(
            "device: {}, compute capability {:?}, {} multiprocessors",
            bench.device.name(),
            bench.device.capability(),
            bench.device.multiprocessors(),
        );
        println!("copy: {:.0} GB/s, read and written; cache of {} MiB", bench.copy / 1e9, cache_bytes >> 20);
        Ok(bench)
    }

    /// Prints the head of a table.
    pub fn head(&self) {
        println!("| id | µs | GB/s | % of copy | TOPS | × f16 |\n|---|---|---|---|---|---|");
    }

    /// Prints a row.
    pub fn print(&self, row: &Row) {
        let Row { id, seconds, bytes, operations, baseline } = row;
        let baseline = baseline.map_or("–".into(), |baseline| format!("{:.2}", baseline / seconds));
        println!(
            "| {id} | {:.2} | {:.0} | {:.0}% | {:.2} | {baseline} |",
            seconds * 1e6,
            bytes / seconds / 1e9,
            100.0 * bytes / seconds / self.copy,
            operations / seconds / 1e12
        );
    }

    /// Buffers of so many bytes that together are three times the cache, so that none is still there when its turn comes.
    pub fn copies(&self, bytes: usize) -> usize {
        if self.quick { 2 } else { (3 * self.cache_bytes).div_ceil(bytes.max(1)).max(2) }
    }

    /// Seconds of one call: a graph of calls on buffer 0, 1, … in turn, replayed, the median.
    pub fn seconds(&self, copies: usize, mut call: impl FnMut(usize) -> Result<()>) -> Result<f64> {
        let calls = if self.quick { 2 } else { CALLS.next_multiple_of(copies) };
        let graph = self.capture(|| (0..calls).try_for_each(|i| call(i % copies)))?;
        Ok(self.median_seconds(&graph, if self.quick { 1 } else { REPLAYS })? / calls as f64)
    }

    fn capture(&self, calls: impl FnOnce() -> Result<()>) -> Result<CudaGraph> {
        let stream = self.device.stream();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).expect("a capture begins");
        let captured = calls();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags);
        captured.map(|()| graph.expect("a capture ends").expect("a graph"))
    }

    fn median_seconds(&self, graph: &CudaGraph, replays: usize) -> Result<f64> {
        let event = || self.device.stream().record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("an event");
        graph.launch().expect("the graph runs");
        let mut times = Vec::new();
        for _ in 0..replays {
            let start = event();
            graph.launch().expect("the graph runs");
            let end = event();
            self.device.synchronize()?;
            times.push(f64::from(start.elapsed_ms(&end).expect("both have passed")) / 1e3);
        }
        times.sort_by(f64::total_cmp);
        // a simulated device may be done before its clock moves
        Ok(times[times.len() / 2].max(1e-9))
    }

    fn copy_bytes_per_second(&self, bytes: usize) -> Result<f64> {
        let source = self.device.zeros::<u8>(bytes)?;
        let mut target = self.device.zeros::<u8>(bytes)?;
        let graph = self.capture(|| self.device.copy(&source, &mut target))?;
        Ok(2.0 * bytes as f64 / self.median_seconds(&graph, 5)?)
    }
}

/// A block of values repeated: how long a product takes does not depend on it, and how long the preparation takes does.
pub fn repeated<T: Clone>(block: &[T], len: usize) -> Vec<T> {
    block.iter().cycle().take(len).cloned().collect()
}
