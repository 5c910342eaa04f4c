//! What the kernels take: the structs of `kernels/sparse_mlp/params.cuh`, whose sizes are asserted on both sides.

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct MatrixView {
    pub rows: u64,
    pub scales: u64,
    pub bias: u64,
    pub group_scale: u32,
    pub segments_per_group: u32,
    pub scale_stride: u32,
    pub offset: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Neurons {
    pub list: u64,
    pub count: u64,
    pub masks: u64,
    pub mask_words: u32,
    pub limit: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Codes {
    pub codes: u64,
    pub sums: u64,
    pub scale: u64,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Operand {
    pub tiles: u64,
    pub sums: u64,
    pub scale: u64,
    pub token_tiles: u32,
    pub spans: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct OperandParams {
    pub x: u64,
    pub count: u64,
    pub tiles: u64,
    pub sums: u64,
    pub scale: u64,
    pub n: u32,
    pub stride: u32,
    pub token_tiles: u32,
    pub spans: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct GateUpParams {
    pub gate: MatrixView,
    pub up: MatrixView,
    pub neurons: Neurons,
    pub x: u64,
    pub x_int8: Codes,
    pub operand: Operand,
    pub gate_values: u64,
    pub hidden: u64,
    pub tokens: u32,
    pub d_model: u32,
    pub stride: u32,
    pub activation: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct DownParams {
    pub rows: u64,
    pub scales: u64,
    pub neurons: Neurons,
    pub hidden: u64,
    pub hidden_int8: Codes,
    pub operand: Operand,
    pub partial: u64,
    pub tokens: u32,
    pub d_model: u32,
    pub stride: u32,
    pub group_scale: u32,
    pub group_size: u32,
    pub offset: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct CombineParams {
    pub partial: u64,
    pub act_scale: u64,
    pub bias: u64,
    pub residual: u64,
    pub y: u64,
    pub n_splits: u32,
    pub tokens: u32,
    pub d_model: u32,
    pub dtype: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct MaskParams {
    pub values: u64,
    pub channel_scale: u64,
    pub masks: u64,
    pub threshold: f64,
    pub tokens_seen: f64,
    pub n: u32,
    pub stride: u32,
    pub words: u32,
    pub k: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct UnionParams {
    pub masks: u64,
    pub list: u64,
    pub count: u64,
    pub tokens: u32,
    pub words: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct KeepParams {
    pub neurons: Neurons,
    pub values: u64,
    pub out: u64,
    pub stride: u32,
    pub dtype: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct QuantizeParams {
    pub x: u64,
    pub count: u64,
    pub codes: u64,
    pub sums: u64,
    pub scales: u64,
    pub n: u32,
    pub stride: u32,
}

#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct StatisticParams {
    pub hidden: u64,
    pub norms: u64,
    pub squares: u64,
    pub n: u32,
    pub stride: u32,
    pub tokens: u32,
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<MatrixView>() == 40);
    assert!(size_of::<Neurons>() == 32);
    assert!(size_of::<Codes>() == 24);
    assert!(size_of::<Operand>() == 32);
    assert!(size_of::<OperandParams>() == 56);
    assert!(size_of::<GateUpParams>() == 208);
    assert!(size_of::<DownParams>() == 144);
    assert!(size_of::<CombineParams>() == 56);
    assert!(size_of::<MaskParams>() == 56);
    assert!(size_of::<UnionParams>() == 32);
    assert!(size_of::<KeepParams>() == 56);
    assert!(size_of::<QuantizeParams>() == 48);
    assert!(size_of::<StatisticParams>() == 40);
};
