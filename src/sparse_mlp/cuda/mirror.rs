//! The parameters and the kernels of `kernels/sparse_mlp/`, written by `cargo xtask mirror`.
#![deny(dead_code)] // a kernel that nothing starts

use crate::device::{Kernel, Module, images, layout};

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MatrixView {
    pub(super) rows: u64,
    pub(super) scales: u64,
    pub(super) bias: u64,
    pub(super) group_scale: u32,
    pub(super) segments_per_group: u32,
    pub(super) scale_stride: u32,
    pub(super) offset: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Neurons {
    pub(super) list: u64,
    pub(super) count: u64,
    pub(super) masks: u64,
    pub(super) mask_words: u32,
    pub(super) limit: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Codes {
    pub(super) codes: u64,
    pub(super) sums: u64,
    pub(super) scale: u64,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Operand {
    pub(super) tiles: u64,
    pub(super) sums: u64,
    pub(super) scale: u64,
    pub(super) token_tiles: u32,
    pub(super) spans: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct OperandParams {
    pub(super) x: u64,
    pub(super) count: u64,
    pub(super) tiles: u64,
    pub(super) sums: u64,
    pub(super) scale: u64,
    pub(super) n: u32,
    pub(super) stride: u32,
    pub(super) token_tiles: u32,
    pub(super) spans: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct GateUpParams {
    pub(super) gate: MatrixView,
    pub(super) up: MatrixView,
    pub(super) neurons: Neurons,
    pub(super) x: u64,
    pub(super) x_int8: Codes,
    pub(super) operand: Operand,
    pub(super) gate_values: u64,
    pub(super) hidden: u64,
    pub(super) maxima: u64,
    pub(super) arrived: u64,
    pub(super) n_arrived: u32,
    pub(super) x_dtype: u32,
    pub(super) tokens: u32,
    pub(super) d_model: u32,
    pub(super) stride: u32,
    pub(super) activation: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Output {
    pub(super) bias: u64,
    pub(super) residual: u64,
    pub(super) y: u64,
    pub(super) dtype: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct DownParams {
    pub(super) rows: u64,
    pub(super) scales: u64,
    pub(super) neurons: Neurons,
    pub(super) hidden: u64,
    pub(super) maxima: u64,
    pub(super) operand: Operand,
    pub(super) partial: u64,
    pub(super) arrived: u64,
    pub(super) output: Output,
    pub(super) n_maxima: u32,
    pub(super) tokens: u32,
    pub(super) d_model: u32,
    pub(super) stride: u32,
    pub(super) group_scale: u32,
    pub(super) group_size: u32,
    pub(super) offset: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct WholeParams {
    pub(super) gate_up: GateUpParams,
    pub(super) down: DownParams,
    pub(super) arrived: u64,
    pub(super) splits: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct CombineParams {
    pub(super) partial: u64,
    pub(super) act_scale: u64,
    pub(super) output: Output,
    pub(super) n_splits: u32,
    pub(super) tokens: u32,
    pub(super) d_model: u32,
    pub(super) reserved: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MaskParams {
    pub(super) values: u64,
    pub(super) channel_scale: u64,
    pub(super) masks: u64,
    pub(super) threshold: f64,
    pub(super) tokens_seen: f64,
    pub(super) n: u32,
    pub(super) stride: u32,
    pub(super) words: u32,
    pub(super) k: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct UnionParams {
    pub(super) masks: u64,
    pub(super) list: u64,
    pub(super) count: u64,
    pub(super) tokens: u32,
    pub(super) words: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct KeepParams {
    pub(super) neurons: Neurons,
    pub(super) values: u64,
    pub(super) out: u64,
    pub(super) maxima: u64,
    pub(super) stride: u32,
    pub(super) dtype: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct QuantizeParams {
    pub(super) x: u64,
    pub(super) codes: u64,
    pub(super) sums: u64,
    pub(super) scales: u64,
    pub(super) n: u32,
    pub(super) stride: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct StatisticParams {
    pub(super) hidden: u64,
    pub(super) norms: u64,
    pub(super) squares: u64,
    pub(super) n: u32,
    pub(super) stride: u32,
    pub(super) tokens: u32,
    pub(super) reserved: u32,
}

layout!(
    MatrixView,
    40,
    rows = 0,
    scales = 8,
    bias = 16,
    group_scale = 24,
    segments_per_group = 28,
    scale_stride = 32,
    offset = 36
);
layout!(Neurons, 32, list = 0, count = 8, masks = 16, mask_words = 24, limit = 28);
layout!(Codes, 24, codes = 0, sums = 8, scale = 16);
layout!(Operand, 32, tiles = 0, sums = 8, scale = 16, token_tiles = 24, spans = 28);
layout!(
    OperandParams,
    56,
    x = 0,
    count = 8,
    tiles = 16,
    sums = 24,
    scale = 32,
    n = 40,
    stride = 44,
    token_tiles = 48,
    spans = 52
);
layout!(
    GateUpParams,
    232,
    gate = 0,
    up = 40,
    neurons = 80,
    x = 112,
    x_int8 = 120,
    operand = 144,
    gate_values = 176,
    hidden = 184,
    maxima = 192,
    arrived = 200,
    n_arrived = 208,
    x_dtype = 212,
    tokens = 216,
    d_model = 220,
    stride = 224,
    activation = 228
);
layout!(Output, 32, bias = 0, residual = 8, y = 16, dtype = 24, reserved = 28);
layout!(
    DownParams,
    176,
    rows = 0,
    scales = 8,
    neurons = 16,
    hidden = 48,
    maxima = 56,
    operand = 64,
    partial = 96,
    arrived = 104,
    output = 112,
    n_maxima = 144,
    tokens = 148,
    d_model = 152,
    stride = 156,
    group_scale = 160,
    group_size = 164,
    offset = 168,
    reserved = 172
);
layout!(WholeParams, 424, gate_up = 0, down = 232, arrived = 408, splits = 416, reserved = 420);
layout!(
    CombineParams,
    64,
    partial = 0,
    act_scale = 8,
    output = 16,
    n_splits = 48,
    tokens = 52,
    d_model = 56,
    reserved = 60
);
layout!(
    MaskParams,
    56,
    values = 0,
    channel_scale = 8,
    masks = 16,
    threshold = 24,
    tokens_seen = 32,
    n = 40,
    stride = 44,
    words = 48,
    k = 52
);
layout!(UnionParams, 32, masks = 0, list = 8, count = 16, tokens = 24, words = 28);
layout!(KeepParams, 64, neurons = 0, values = 32, out = 40, maxima = 48, stride = 56, dtype = 60);
layout!(QuantizeParams, 40, x = 0, codes = 8, sums = 16, scales = 24, n = 32, stride = 36);
layout!(StatisticParams, 40, hidden = 0, norms = 8, squares = 16, n = 24, stride = 28, tokens = 32, reserved = 36);

static MODULE_DOWN: Module = Module::new(
    "sparse_mlp/down",
    images::SPARSE_MLP_DOWN,
    &[
        "sparse_mlp_combine",
        "sparse_mlp_down_bf16_1",
        "sparse_mlp_down_bf16_8",
        "sparse_mlp_down_f16_1",
        "sparse_mlp_down_f16_8",
        "sparse_mlp_down_int4_1",
        "sparse_mlp_down_int4_8",
    ],
);

pub(super) const COMBINE: Kernel<CombineParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_combine", 256, 0, 64);
pub(super) const DOWN_BF16_1: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_bf16_1", 256, 0, 176);
pub(super) const DOWN_BF16_8: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_bf16_8", 256, 0, 176);
pub(super) const DOWN_F16_1: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_f16_1", 256, 0, 176);
pub(super) const DOWN_F16_8: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_f16_8", 256, 0, 176);
pub(super) const DOWN_INT4_1: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_int4_1", 256, 0, 176);
pub(super) const DOWN_INT4_8: Kernel<DownParams> = Kernel::new(&MODULE_DOWN, "sparse_mlp_down_int4_8", 256, 0, 176);

static MODULE_DOWN_TILES: Module = Module::new(
    "sparse_mlp/down_tiles",
    images::SPARSE_MLP_DOWN_TILES,
    &[
        "sparse_mlp_down_tiles_bf16_16",
        "sparse_mlp_down_tiles_bf16_64",
        "sparse_mlp_down_tiles_f16_16",
        "sparse_mlp_down_tiles_f16_64",
        "sparse_mlp_down_tiles_int4_16",
        "sparse_mlp_down_tiles_int4_64",
    ],
);

pub(super) const DOWN_TILES_BF16_16: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_bf16_16", 64, 29696, 176);
pub(super) const DOWN_TILES_BF16_64: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_bf16_64", 128, 82944, 176);
pub(super) const DOWN_TILES_F16_16: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_f16_16", 64, 25600, 176);
pub(super) const DOWN_TILES_F16_64: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_f16_64", 128, 66560, 176);
pub(super) const DOWN_TILES_INT4_16: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_int4_16", 128, 22528, 176);
pub(super) const DOWN_TILES_INT4_64: Kernel<DownParams> =
    Kernel::new(&MODULE_DOWN_TILES, "sparse_mlp_down_tiles_int4_64", 256, 51200, 176);

static MODULE_GATHER: Module = Module::new(
    "sparse_mlp/gather",
    images::SPARSE_MLP_GATHER,
    &[
        "sparse_mlp_gate_up_bf16_1",
        "sparse_mlp_gate_up_bf16_8",
        "sparse_mlp_gate_up_f16_1",
        "sparse_mlp_gate_up_f16_8",
        "sparse_mlp_gate_up_int4_1",
        "sparse_mlp_gate_up_int4_8",
    ],
);

pub(super) const GATE_UP_BF16_1: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_bf16_1", 512, 0, 232);
pub(super) const GATE_UP_BF16_8: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_bf16_8", 256, 0, 232);
pub(super) const GATE_UP_F16_1: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_f16_1", 512, 0, 232);
pub(super) const GATE_UP_F16_8: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_f16_8", 256, 0, 232);
pub(super) const GATE_UP_INT4_1: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_int4_1", 512, 0, 232);
pub(super) const GATE_UP_INT4_8: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER, "sparse_mlp_gate_up_int4_8", 256, 0, 232);

static MODULE_GATHER_TILES: Module = Module::new(
    "sparse_mlp/gather_tiles",
    images::SPARSE_MLP_GATHER_TILES,
    &[
        "sparse_mlp_gate_up_tiles_bf16_16",
        "sparse_mlp_gate_up_tiles_bf16_64",
        "sparse_mlp_gate_up_tiles_f16_16",
        "sparse_mlp_gate_up_tiles_f16_64",
        "sparse_mlp_gate_up_tiles_int4_16",
        "sparse_mlp_gate_up_tiles_int4_64",
    ],
);

pub(super) const GATE_UP_TILES_BF16_16: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_bf16_16", 64, 57344, 232);
pub(super) const GATE_UP_TILES_BF16_64: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_bf16_64", 128, 81920, 232);
pub(super) const GATE_UP_TILES_F16_16: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_f16_16", 64, 49152, 232);
pub(super) const GATE_UP_TILES_F16_64: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_f16_64", 128, 65536, 232);
pub(super) const GATE_UP_TILES_INT4_16: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_int4_16", 64, 34048, 232);
pub(super) const GATE_UP_TILES_INT4_64: Kernel<GateUpParams> =
    Kernel::new(&MODULE_GATHER_TILES, "sparse_mlp_gate_up_tiles_int4_64", 128, 87040, 232);

static MODULE_OPERAND: Module = Module::new(
    "sparse_mlp/operand",
    images::SPARSE_MLP_OPERAND,
    &["sparse_mlp_operand_bf16", "sparse_mlp_operand_f16", "sparse_mlp_operand_int8"],
);

pub(super) const OPERAND_BF16: Kernel<OperandParams> =
    Kernel::new(&MODULE_OPERAND, "sparse_mlp_operand_bf16", 1024, 0, 56);
pub(super) const OPERAND_F16: Kernel<OperandParams> =
    Kernel::new(&MODULE_OPERAND, "sparse_mlp_operand_f16", 1024, 0, 56);
pub(super) const OPERAND_INT8: Kernel<OperandParams> =
    Kernel::new(&MODULE_OPERAND, "sparse_mlp_operand_int8", 1024, 0, 56);

static MODULE_SELECT: Module = Module::new(
    "sparse_mlp/select",
    images::SPARSE_MLP_SELECT,
    &[
        "sparse_mlp_keep",
        "sparse_mlp_mask",
        "sparse_mlp_mask_statistic",
        "sparse_mlp_norms",
        "sparse_mlp_observe",
        "sparse_mlp_quantize",
        "sparse_mlp_union",
    ],
);

pub(super) const KEEP: Kernel<KeepParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_keep", 256, 0, 64);
pub(super) const MASK: Kernel<MaskParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_mask", 1024, 0, 56);
pub(super) const MASK_STATISTIC: Kernel<MaskParams> =
    Kernel::new(&MODULE_SELECT, "sparse_mlp_mask_statistic", 1024, 0, 56);
pub(super) const NORMS: Kernel<StatisticParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_norms", 32, 0, 40);
pub(super) const OBSERVE: Kernel<StatisticParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_observe", 256, 0, 40);
pub(super) const QUANTIZE: Kernel<QuantizeParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_quantize", 1024, 0, 40);
pub(super) const UNION: Kernel<UnionParams> = Kernel::new(&MODULE_SELECT, "sparse_mlp_union", 1024, 0, 32);

static MODULE_WHOLE: Module = Module::new(
    "sparse_mlp/whole",
    images::SPARSE_MLP_WHOLE,
    &["sparse_mlp_whole_bf16_1", "sparse_mlp_whole_f16_1", "sparse_mlp_whole_int4_1"],
);

pub(super) const WHOLE_BF16_1: Kernel<WholeParams> = Kernel::new(&MODULE_WHOLE, "sparse_mlp_whole_bf16_1", 512, 0, 424);
pub(super) const WHOLE_F16_1: Kernel<WholeParams> = Kernel::new(&MODULE_WHOLE, "sparse_mlp_whole_f16_1", 512, 0, 424);
pub(super) const WHOLE_INT4_1: Kernel<WholeParams> = Kernel::new(&MODULE_WHOLE, "sparse_mlp_whole_int4_1", 512, 0, 424);

/// Every compiled source.
pub(crate) static MODULES: &[&Module] = &[
    &MODULE_DOWN,
    &MODULE_DOWN_TILES,
    &MODULE_GATHER,
    &MODULE_GATHER_TILES,
    &MODULE_OPERAND,
    &MODULE_SELECT,
    &MODULE_WHOLE,
];
