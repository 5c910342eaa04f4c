//! The parameters and the kernels of `kernels/input_sparse/`, written by `cargo xtask mirror`.
#![deny(dead_code)] // a kernel that nothing starts

use crate::device::{Kernel, Module, images, layout};

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct ByInputParams {
    pub(super) w: u64,
    pub(super) x: u64,
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) y: u64,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) row_bytes: u32,
    pub(super) threshold: f32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct FourBitParams {
    pub(super) rows: u64,
    pub(super) scales: u64,
    pub(super) x: u64,
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) y: u64,
    pub(super) act_scale: u64,
    pub(super) partial: u64,
    pub(super) arrived: u64,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) d: u32,
    pub(super) group_size: u32,
    pub(super) group_scale: u32,
    pub(super) offset: u32,
    pub(super) shares: u32,
    pub(super) threshold: f32,
    pub(super) reserved: u32,
}

layout!(
    ByInputParams,
    64,
    w = 0,
    x = 8,
    bias = 16,
    residual = 24,
    y = 32,
    m = 40,
    n = 44,
    k = 48,
    row_bytes = 52,
    threshold = 56,
    reserved = 60
);
layout!(
    FourBitParams,
    112,
    rows = 0,
    scales = 8,
    x = 16,
    bias = 24,
    residual = 32,
    y = 40,
    act_scale = 48,
    partial = 56,
    arrived = 64,
    m = 72,
    n = 76,
    k = 80,
    d = 84,
    group_size = 88,
    group_scale = 92,
    offset = 96,
    shares = 100,
    threshold = 104,
    reserved = 108
);

static MODULE_FOUR_BIT: Module = Module::new(
    "input_sparse/four_bit",
    images::INPUT_SPARSE_FOUR_BIT,
    &["input_sparse_four_bit_1", "input_sparse_four_bit_8", "input_sparse_four_bit_scales"],
);

pub(super) const FOUR_BIT_1: Kernel<FourBitParams> =
    Kernel::new(&MODULE_FOUR_BIT, "input_sparse_four_bit_1", 256, 94928, 112);
pub(super) const FOUR_BIT_8: Kernel<FourBitParams> =
    Kernel::new(&MODULE_FOUR_BIT, "input_sparse_four_bit_8", 256, 93648, 112);
pub(super) const FOUR_BIT_SCALES: Kernel<FourBitParams> =
    Kernel::new(&MODULE_FOUR_BIT, "input_sparse_four_bit_scales", 256, 0, 112);

static MODULE_LINEAR: Module = Module::new(
    "input_sparse/linear",
    images::INPUT_SPARSE_LINEAR,
    &[
        "input_sparse_linear_bf16_1",
        "input_sparse_linear_bf16_8",
        "input_sparse_linear_f16_1",
        "input_sparse_linear_f16_8",
        "input_sparse_linear_f32_1",
        "input_sparse_linear_f32_8",
    ],
);

pub(super) const LINEAR_BF16_1: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_bf16_1", 128, 40960, 64);
pub(super) const LINEAR_BF16_8: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_bf16_8", 128, 69632, 64);
pub(super) const LINEAR_F16_1: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_f16_1", 128, 40960, 64);
pub(super) const LINEAR_F16_8: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_f16_8", 128, 69632, 64);
pub(super) const LINEAR_F32_1: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_f32_1", 128, 40960, 64);
pub(super) const LINEAR_F32_8: Kernel<ByInputParams> =
    Kernel::new(&MODULE_LINEAR, "input_sparse_linear_f32_8", 128, 69632, 64);

/// Every compiled source.
pub(crate) static MODULES: &[&Module] = &[&MODULE_FOUR_BIT, &MODULE_LINEAR];
