//! The parameters and the kernels of `kernels/w4a8/`, written by `cargo xtask mirror`.
#![deny(dead_code)] // a kernel that nothing starts

use crate::device::{Kernel, Module, images, layout};

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct LinearParams {
    pub(super) codes: u64,
    pub(super) scale: u64,
    pub(super) group_scale: u64,
    pub(super) offset: u64,
    pub(super) x: u64,
    pub(super) act_scale: u64,
    pub(super) sums: u64,
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) y: u64,
    pub(super) partial: u64,
    pub(super) arrived: u64,
    pub(super) m: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) group_size: u32,
    pub(super) offset_kind: u32,
    pub(super) element: u32,
    pub(super) shares: u32,
    pub(super) fine: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct GemvParams {
    pub(super) linear: LinearParams,
    pub(super) x: u64,
    pub(super) norm: u64,
    pub(super) eps: f32,
    pub(super) x_element: u32,
    pub(super) gated: u32,
    pub(super) activation: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct GemvPairParams {
    pub(super) first: GemvParams,
    pub(super) second: GemvParams,
    pub(super) arrived: u64,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct QuantizeParams {
    pub(super) x: u64,
    pub(super) weight: u64,
    pub(super) codes: u64,
    pub(super) scale: u64,
    pub(super) sums: [u64; 3],
    pub(super) totals: u64,
    pub(super) m: u32,
    pub(super) k: u32,
    pub(super) eps: f32,
    pub(super) activation: u32,
    pub(super) fine: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct RowsParams {
    pub(super) rows: u64,
    pub(super) codes: u64,
    pub(super) scale: u64,
    pub(super) group_scale: u64,
    pub(super) offset: u64,
    pub(super) y: u64,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) bits: u32,
    pub(super) group_scale_kind: u32,
    pub(super) group_size: u32,
    pub(super) offset_kind: u32,
}

layout!(
    LinearParams,
    128,
    codes = 0,
    scale = 8,
    group_scale = 16,
    offset = 24,
    x = 32,
    act_scale = 40,
    sums = 48,
    bias = 56,
    residual = 64,
    y = 72,
    partial = 80,
    arrived = 88,
    m = 96,
    n = 100,
    k = 104,
    group_size = 108,
    offset_kind = 112,
    element = 116,
    shares = 120,
    fine = 124
);
layout!(GemvParams, 160, linear = 0, x = 128, norm = 136, eps = 144, x_element = 148, gated = 152, activation = 156);
layout!(GemvPairParams, 328, first = 0, second = 160, arrived = 320);
layout!(
    QuantizeParams,
    88,
    x = 0,
    weight = 8,
    codes = 16,
    scale = 24,
    sums = 32,
    totals = 56,
    m = 64,
    k = 68,
    eps = 72,
    activation = 76,
    fine = 80,
    reserved = 84
);
layout!(
    RowsParams,
    72,
    rows = 0,
    codes = 8,
    scale = 16,
    group_scale = 24,
    offset = 32,
    y = 40,
    n = 48,
    k = 52,
    bits = 56,
    group_scale_kind = 60,
    group_size = 64,
    offset_kind = 68
);

static MODULE_GEMM: Module = Module::new(
    "w4a8/gemm",
    images::W4A8_GEMM,
    &[
        "w4a8_gemm_per_channel_128",
        "w4a8_gemm_per_channel_16",
        "w4a8_gemm_per_channel_64",
        "w4a8_gemm_qqq_128",
        "w4a8_gemm_qqq_16",
        "w4a8_gemm_qqq_64",
        "w4a8_gemm_two_level_128",
        "w4a8_gemm_two_level_16",
        "w4a8_gemm_two_level_64",
        "w4a8_gemm_w8_128",
        "w4a8_gemm_w8_16",
        "w4a8_gemm_w8_64",
    ],
);

pub(super) const GEMM_PER_CHANNEL_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_per_channel_128", 256, 98304, 128);
pub(super) const GEMM_PER_CHANNEL_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_per_channel_16", 256, 92160, 128);
pub(super) const GEMM_PER_CHANNEL_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_per_channel_64", 256, 98304, 128);
pub(super) const GEMM_QQQ_128: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_qqq_128", 256, 99840, 128);
pub(super) const GEMM_QQQ_16: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_qqq_16", 256, 94720, 128);
pub(super) const GEMM_QQQ_64: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_qqq_64", 256, 100352, 128);
pub(super) const GEMM_TWO_LEVEL_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_two_level_128", 256, 101376, 128);
pub(super) const GEMM_TWO_LEVEL_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_two_level_16", 256, 97280, 128);
pub(super) const GEMM_TWO_LEVEL_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM, "w4a8_gemm_two_level_64", 256, 76800, 128);
pub(super) const GEMM_W8_128: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_w8_128", 256, 98304, 128);
pub(super) const GEMM_W8_16: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_w8_16", 256, 87040, 128);
pub(super) const GEMM_W8_64: Kernel<LinearParams> = Kernel::new(&MODULE_GEMM, "w4a8_gemm_w8_64", 256, 81920, 128);

static MODULE_GEMM_FINE: Module = Module::new(
    "w4a8/gemm_fine",
    images::W4A8_GEMM_FINE,
    &[
        "w4a8_gemm_fine_per_channel_128",
        "w4a8_gemm_fine_per_channel_16",
        "w4a8_gemm_fine_per_channel_64",
        "w4a8_gemm_fine_qqq_128",
        "w4a8_gemm_fine_qqq_16",
        "w4a8_gemm_fine_qqq_64",
        "w4a8_gemm_fine_two_level_128",
        "w4a8_gemm_fine_two_level_16",
        "w4a8_gemm_fine_two_level_64",
        "w4a8_gemm_fine_w8_128",
        "w4a8_gemm_fine_w8_16",
        "w4a8_gemm_fine_w8_64",
    ],
);

pub(super) const GEMM_FINE_PER_CHANNEL_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_per_channel_128", 256, 75264, 128);
pub(super) const GEMM_FINE_PER_CHANNEL_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_per_channel_16", 128, 74496, 128);
pub(super) const GEMM_FINE_PER_CHANNEL_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_per_channel_64", 256, 74496, 128);
pub(super) const GEMM_FINE_QQQ_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_qqq_128", 256, 76032, 128);
pub(super) const GEMM_FINE_QQQ_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_qqq_16", 128, 76032, 128);
pub(super) const GEMM_FINE_QQQ_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_qqq_64", 256, 76032, 128);
pub(super) const GEMM_FINE_TWO_LEVEL_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_two_level_128", 256, 76800, 128);
pub(super) const GEMM_FINE_TWO_LEVEL_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_two_level_16", 128, 77568, 128);
pub(super) const GEMM_FINE_TWO_LEVEL_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_two_level_64", 256, 77568, 128);
pub(super) const GEMM_FINE_W8_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_w8_128", 256, 99840, 128);
pub(super) const GEMM_FINE_W8_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_w8_16", 128, 61824, 128);
pub(super) const GEMM_FINE_W8_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_FINE, "w4a8_gemm_fine_w8_64", 256, 82432, 128);

static MODULE_GEMM_G128: Module = Module::new(
    "w4a8/gemm_g128",
    images::W4A8_GEMM_G128,
    &[
        "w4a8_gemm_fine_per_group8_g128_128",
        "w4a8_gemm_fine_per_group8_g128_16",
        "w4a8_gemm_fine_per_group8_g128_64",
        "w4a8_gemm_fine_per_group_g128_128",
        "w4a8_gemm_fine_per_group_g128_16",
        "w4a8_gemm_fine_per_group_g128_64",
        "w4a8_gemm_per_group8_g128_128",
        "w4a8_gemm_per_group8_g128_16",
        "w4a8_gemm_per_group8_g128_64",
        "w4a8_gemm_per_group_g128_128",
        "w4a8_gemm_per_group_g128_16",
        "w4a8_gemm_per_group_g128_64",
    ],
);

pub(super) const GEMM_FINE_PER_GROUP8_G128_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group8_g128_128", 256, 68608, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G128_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group8_g128_16", 128, 63744, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G128_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group8_g128_64", 256, 84992, 128);
pub(super) const GEMM_FINE_PER_GROUP_G128_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group_g128_128", 256, 78336, 128);
pub(super) const GEMM_FINE_PER_GROUP_G128_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group_g128_16", 128, 78336, 128);
pub(super) const GEMM_FINE_PER_GROUP_G128_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_fine_per_group_g128_64", 256, 78336, 128);
pub(super) const GEMM_PER_GROUP8_G128_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group8_g128_128", 256, 99840, 128);
pub(super) const GEMM_PER_GROUP8_G128_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group8_g128_16", 128, 63360, 128);
pub(super) const GEMM_PER_GROUP8_G128_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group8_g128_64", 256, 84480, 128);
pub(super) const GEMM_PER_GROUP_G128_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group_g128_128", 256, 76800, 128);
pub(super) const GEMM_PER_GROUP_G128_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group_g128_16", 128, 77568, 128);
pub(super) const GEMM_PER_GROUP_G128_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G128, "w4a8_gemm_per_group_g128_64", 256, 77568, 128);

static MODULE_GEMM_G32: Module = Module::new(
    "w4a8/gemm_g32",
    images::W4A8_GEMM_G32,
    &[
        "w4a8_gemm_fine_per_group8_g32_128",
        "w4a8_gemm_fine_per_group8_g32_16",
        "w4a8_gemm_fine_per_group8_g32_64",
        "w4a8_gemm_fine_per_group_g32_128",
        "w4a8_gemm_fine_per_group_g32_16",
        "w4a8_gemm_fine_per_group_g32_64",
        "w4a8_gemm_per_group8_g32_128",
        "w4a8_gemm_per_group8_g32_16",
        "w4a8_gemm_per_group8_g32_64",
        "w4a8_gemm_per_group_g32_128",
        "w4a8_gemm_per_group_g32_16",
        "w4a8_gemm_per_group_g32_64",
    ],
);

pub(super) const GEMM_FINE_PER_GROUP8_G32_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group8_g32_128", 256, 74752, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G32_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group8_g32_16", 128, 69504, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G32_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group8_g32_64", 256, 92672, 128);
pub(super) const GEMM_FINE_PER_GROUP_G32_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group_g32_128", 256, 87552, 128);
pub(super) const GEMM_FINE_PER_GROUP_G32_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group_g32_16", 128, 89856, 128);
pub(super) const GEMM_FINE_PER_GROUP_G32_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_fine_per_group_g32_64", 256, 89856, 128);
pub(super) const GEMM_PER_GROUP8_G32_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group8_g32_128", 256, 73728, 128);
pub(super) const GEMM_PER_GROUP8_G32_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group8_g32_16", 128, 69120, 128);
pub(super) const GEMM_PER_GROUP8_G32_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group8_g32_64", 256, 92160, 128);
pub(super) const GEMM_PER_GROUP_G32_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group_g32_128", 256, 86016, 128);
pub(super) const GEMM_PER_GROUP_G32_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group_g32_16", 128, 89088, 128);
pub(super) const GEMM_PER_GROUP_G32_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G32, "w4a8_gemm_per_group_g32_64", 256, 89088, 128);

static MODULE_GEMM_G64: Module = Module::new(
    "w4a8/gemm_g64",
    images::W4A8_GEMM_G64,
    &[
        "w4a8_gemm_fine_per_group8_g64_128",
        "w4a8_gemm_fine_per_group8_g64_16",
        "w4a8_gemm_fine_per_group8_g64_64",
        "w4a8_gemm_fine_per_group_g64_128",
        "w4a8_gemm_fine_per_group_g64_16",
        "w4a8_gemm_fine_per_group_g64_64",
        "w4a8_gemm_per_group8_g64_128",
        "w4a8_gemm_per_group8_g64_16",
        "w4a8_gemm_per_group8_g64_64",
        "w4a8_gemm_per_group_g64_128",
        "w4a8_gemm_per_group_g64_16",
        "w4a8_gemm_per_group_g64_64",
    ],
);

pub(super) const GEMM_FINE_PER_GROUP8_G64_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group8_g64_128", 256, 70656, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G64_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group8_g64_16", 128, 65664, 128);
pub(super) const GEMM_FINE_PER_GROUP8_G64_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group8_g64_64", 256, 87552, 128);
pub(super) const GEMM_FINE_PER_GROUP_G64_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group_g64_128", 256, 81408, 128);
pub(super) const GEMM_FINE_PER_GROUP_G64_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group_g64_16", 128, 82176, 128);
pub(super) const GEMM_FINE_PER_GROUP_G64_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_fine_per_group_g64_64", 256, 82176, 128);
pub(super) const GEMM_PER_GROUP8_G64_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group8_g64_128", 256, 69632, 128);
pub(super) const GEMM_PER_GROUP8_G64_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group8_g64_16", 128, 65280, 128);
pub(super) const GEMM_PER_GROUP8_G64_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group8_g64_64", 256, 87040, 128);
pub(super) const GEMM_PER_GROUP_G64_128: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group_g64_128", 256, 79872, 128);
pub(super) const GEMM_PER_GROUP_G64_16: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group_g64_16", 128, 81408, 128);
pub(super) const GEMM_PER_GROUP_G64_64: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMM_G64, "w4a8_gemm_per_group_g64_64", 256, 81408, 128);

static MODULE_GEMV: Module = Module::new(
    "w4a8/gemv",
    images::W4A8_GEMV,
    &[
        "w4a8_gemv_per_channel",
        "w4a8_gemv_per_group",
        "w4a8_gemv_per_group8",
        "w4a8_gemv_qqq",
        "w4a8_gemv_two_level",
        "w4a8_gemv_w8",
    ],
);

pub(super) const GEMV_PER_CHANNEL: Kernel<LinearParams> =
    Kernel::new(&MODULE_GEMV, "w4a8_gemv_per_channel", 256, 0, 128);
pub(super) const GEMV_PER_GROUP: Kernel<LinearParams> = Kernel::new(&MODULE_GEMV, "w4a8_gemv_per_group", 256, 0, 128);
pub(super) const GEMV_PER_GROUP8: Kernel<LinearParams> = Kernel::new(&MODULE_GEMV, "w4a8_gemv_per_group8", 256, 0, 128);
pub(super) const GEMV_QQQ: Kernel<LinearParams> = Kernel::new(&MODULE_GEMV, "w4a8_gemv_qqq", 256, 0, 128);
pub(super) const GEMV_TWO_LEVEL: Kernel<LinearParams> = Kernel::new(&MODULE_GEMV, "w4a8_gemv_two_level", 256, 0, 128);
pub(super) const GEMV_W8: Kernel<LinearParams> = Kernel::new(&MODULE_GEMV, "w4a8_gemv_w8", 256, 0, 128);

static MODULE_GEMV_PAIR: Module = Module::new(
    "w4a8/gemv_pair",
    images::W4A8_GEMV_PAIR,
    &[
        "w4a8_gemv_pair_per_channel",
        "w4a8_gemv_pair_per_group",
        "w4a8_gemv_pair_qqq",
        "w4a8_gemv_pair_two_level",
        "w4a8_gemv_pair_w8",
    ],
);

pub(super) const GEMV_PAIR_PER_CHANNEL: Kernel<GemvPairParams> =
    Kernel::new(&MODULE_GEMV_PAIR, "w4a8_gemv_pair_per_channel", 512, 35736, 328);
pub(super) const GEMV_PAIR_PER_GROUP: Kernel<GemvPairParams> =
    Kernel::new(&MODULE_GEMV_PAIR, "w4a8_gemv_pair_per_group", 512, 84888, 328);
pub(super) const GEMV_PAIR_QQQ: Kernel<GemvPairParams> =
    Kernel::new(&MODULE_GEMV_PAIR, "w4a8_gemv_pair_qqq", 512, 35736, 328);
pub(super) const GEMV_PAIR_TWO_LEVEL: Kernel<GemvPairParams> =
    Kernel::new(&MODULE_GEMV_PAIR, "w4a8_gemv_pair_two_level", 512, 35736, 328);
pub(super) const GEMV_PAIR_W8: Kernel<GemvPairParams> =
    Kernel::new(&MODULE_GEMV_PAIR, "w4a8_gemv_pair_w8", 512, 35736, 328);

static MODULE_GEMV_QUANTIZE: Module = Module::new(
    "w4a8/gemv_quantize",
    images::W4A8_GEMV_QUANTIZE,
    &[
        "w4a8_gemv_quantize_per_channel",
        "w4a8_gemv_quantize_per_group",
        "w4a8_gemv_quantize_per_group8",
        "w4a8_gemv_quantize_qqq",
        "w4a8_gemv_quantize_two_level",
        "w4a8_gemv_quantize_w8",
    ],
);

pub(super) const GEMV_QUANTIZE_PER_CHANNEL: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_per_channel", 768, 43928, 160);
pub(super) const GEMV_QUANTIZE_PER_GROUP: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_per_group", 512, 84888, 160);
pub(super) const GEMV_QUANTIZE_PER_GROUP8: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_per_group8", 512, 84888, 160);
pub(super) const GEMV_QUANTIZE_QQQ: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_qqq", 768, 43928, 160);
pub(super) const GEMV_QUANTIZE_TWO_LEVEL: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_two_level", 768, 43928, 160);
pub(super) const GEMV_QUANTIZE_W8: Kernel<GemvParams> =
    Kernel::new(&MODULE_GEMV_QUANTIZE, "w4a8_gemv_quantize_w8", 512, 35736, 160);

static MODULE_QUANTIZE: Module = Module::new(
    "w4a8/quantize",
    images::W4A8_QUANTIZE,
    &[
        "w4a8_quantize_bf16",
        "w4a8_quantize_f16",
        "w4a8_quantize_f32",
        "w4a8_quantize_rms_norm_bf16",
        "w4a8_quantize_rms_norm_f16",
        "w4a8_quantize_rms_norm_f32",
        "w4a8_quantize_swiglu_bf16",
        "w4a8_quantize_swiglu_f16",
        "w4a8_quantize_swiglu_f32",
    ],
);

pub(super) const QUANTIZE_BF16: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_bf16", 512, 0, 88);
pub(super) const QUANTIZE_F16: Kernel<QuantizeParams> = Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_f16", 512, 0, 88);
pub(super) const QUANTIZE_F32: Kernel<QuantizeParams> = Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_f32", 512, 0, 88);
pub(super) const QUANTIZE_RMS_NORM_BF16: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_rms_norm_bf16", 512, 0, 88);
pub(super) const QUANTIZE_RMS_NORM_F16: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_rms_norm_f16", 512, 0, 88);
pub(super) const QUANTIZE_RMS_NORM_F32: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_rms_norm_f32", 512, 0, 88);
pub(super) const QUANTIZE_SWIGLU_BF16: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_swiglu_bf16", 512, 0, 88);
pub(super) const QUANTIZE_SWIGLU_F16: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_swiglu_f16", 512, 0, 88);
pub(super) const QUANTIZE_SWIGLU_F32: Kernel<QuantizeParams> =
    Kernel::new(&MODULE_QUANTIZE, "w4a8_quantize_swiglu_f32", 512, 0, 88);

static MODULE_ROWS: Module = Module::new("w4a8/rows", images::W4A8_ROWS, &["w4a8_rows"]);

pub(super) const ROWS: Kernel<RowsParams> = Kernel::new(&MODULE_ROWS, "w4a8_rows", 256, 0, 72);

/// Every compiled source.
pub(crate) static MODULES: &[&Module] = &[
    &MODULE_GEMM,
    &MODULE_GEMM_FINE,
    &MODULE_GEMM_G128,
    &MODULE_GEMM_G32,
    &MODULE_GEMM_G64,
    &MODULE_GEMV,
    &MODULE_GEMV_PAIR,
    &MODULE_GEMV_QUANTIZE,
    &MODULE_QUANTIZE,
    &MODULE_ROWS,
];
