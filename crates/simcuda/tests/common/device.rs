//! What tests that run kernels share: a device with one stream, and data that is the same in every run.

#![allow(dead_code, reason = "not every test file uses all of it")]

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig};
use cudarc::nvrtc::Ptx;

/// A context, a stream and a loaded module.
pub struct Device {
    /// The context.
    pub context: Arc<CudaContext>,
    /// A stream of its own.
    pub stream: Arc<CudaStream>,
    /// The module.
    pub module: Arc<CudaModule>,
}

impl Device {
    /// Opens the device and loads one of the committed kernels.
    pub fn with_kernels(name: &str) -> Self {
        let context = CudaContext::new(0).expect("the simulated device");
        let stream = context.new_stream().expect("a stream");
        let module = context.load_module(Ptx::from_src(crate::common::kernel_ptx(name))).expect("the module loads");
        Self { context, stream, module }
    }

    /// Finds a kernel.
    pub fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).expect("the module has this entry")
    }
}

/// A launch of `grid` × `block` threads.
pub fn shape(grid: (u32, u32), block: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (grid.0, grid.1, 1), block_dim: (block, 1, 1), shared_mem_bytes: 0 }
}

/// A small generator (splitmix64).
pub struct Random(u64);

impl Random {
    /// Starts at a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Draws 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Draws from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Draws `count` values.
    pub fn take<T>(&mut self, count: usize, draw: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..count).map(|_| draw(self)).collect()
    }
}
