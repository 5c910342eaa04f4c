//! The parameters and the kernels of `kernels/attention/`, written by `cargo xtask mirror`.
#![deny(dead_code)] // a kernel that nothing starts

use crate::device::{Kernel, Module, images, layout};

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Span {
    pub(super) slot: u32,
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) first_row: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct HeadsView {
    pub(super) list: u64,
    pub(super) counts: u64,
    pub(super) form: u32,
    pub(super) width: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct KvView {
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) k_scale: u64,
    pub(super) v_scale: u64,
    pub(super) present: u64,
    pub(super) page_table: u64,
    pub(super) page_stride: u64,
    pub(super) head_stride: u64,
    pub(super) row_stride: u32,
    pub(super) page_size: u32,
    pub(super) max_pages: u32,
    pub(super) present_words: u32,
    pub(super) capacity: u32,
    pub(super) n_kv_heads: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct ProjectedView {
    pub(super) q: u64,
    pub(super) k: u64,
    pub(super) v: u64,
    pub(super) rope: u64,
    pub(super) q_stride: u64,
    pub(super) k_stride: u64,
    pub(super) v_stride: u64,
    pub(super) dtype: u32,
    pub(super) policy: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct AttendParams {
    pub(super) kv: KvView,
    pub(super) heads: HeadsView,
    pub(super) projected: ProjectedView,
    pub(super) spans: u64,
    pub(super) q: u64,
    pub(super) out: u64,
    pub(super) partial_out: u64,
    pub(super) partial_state: u64,
    pub(super) arrived: u64,
    pub(super) n_q_heads: u32,
    pub(super) head_dim: u32,
    pub(super) out_dtype: u32,
    pub(super) split_len: u32,
    pub(super) n_splits: u32,
    pub(super) score_factor: f32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct WriteParams {
    pub(super) kv: KvView,
    pub(super) heads: HeadsView,
    pub(super) projected: ProjectedView,
    pub(super) spans: u64,
    pub(super) q_out: u64,
    pub(super) n_q_heads: u32,
    pub(super) head_dim: u32,
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct AdvanceParams {
    pub(super) spans: u64,
    pub(super) n_spans: u32,
    pub(super) reserved: u32,
}

layout!(Span, 16, slot = 0, start = 4, len = 8, first_row = 12);
layout!(HeadsView, 24, list = 0, counts = 8, form = 16, width = 20);
layout!(
    KvView,
    88,
    k = 0,
    v = 8,
    k_scale = 16,
    v_scale = 24,
    present = 32,
    page_table = 40,
    page_stride = 48,
    head_stride = 56,
    row_stride = 64,
    page_size = 68,
    max_pages = 72,
    present_words = 76,
    capacity = 80,
    n_kv_heads = 84
);
layout!(
    ProjectedView,
    64,
    q = 0,
    k = 8,
    v = 16,
    rope = 24,
    q_stride = 32,
    k_stride = 40,
    v_stride = 48,
    dtype = 56,
    policy = 60
);
layout!(
    AttendParams,
    248,
    kv = 0,
    heads = 88,
    projected = 112,
    spans = 176,
    q = 184,
    out = 192,
    partial_out = 200,
    partial_state = 208,
    arrived = 216,
    n_q_heads = 224,
    head_dim = 228,
    out_dtype = 232,
    split_len = 236,
    n_splits = 240,
    score_factor = 244
);
layout!(
    WriteParams,
    200,
    kv = 0,
    heads = 88,
    projected = 112,
    spans = 176,
    q_out = 184,
    n_q_heads = 192,
    head_dim = 196
);
layout!(AdvanceParams, 16, spans = 0, n_spans = 8, reserved = 12);

static MODULE_DECODE: Module = Module::new(
    "attention/decode",
    images::ATTENTION_DECODE,
    &[
        "attention_decode_bf16_128",
        "attention_decode_bf16_256",
        "attention_decode_bf16_64",
        "attention_decode_f16_128",
        "attention_decode_f16_256",
        "attention_decode_f16_64",
        "attention_decode_f32_128",
        "attention_decode_f32_256",
        "attention_decode_f32_64",
        "attention_decode_int8_128",
        "attention_decode_int8_256",
        "attention_decode_int8_64",
        "attention_merge",
    ],
);

pub(super) const DECODE_BF16_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_bf16_128", 128, 36368, 248);
pub(super) const DECODE_BF16_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_bf16_256", 128, 76816, 248);
pub(super) const DECODE_BF16_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_bf16_64", 128, 19984, 248);
pub(super) const DECODE_F16_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f16_128", 128, 36368, 248);
pub(super) const DECODE_F16_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f16_256", 128, 76816, 248);
pub(super) const DECODE_F16_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f16_64", 128, 19984, 248);
pub(super) const DECODE_F32_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f32_128", 128, 74416, 248);
pub(super) const DECODE_F32_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f32_256", 128, 148144, 248);
pub(super) const DECODE_F32_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_f32_64", 128, 37552, 248);
pub(super) const DECODE_INT8_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_int8_128", 128, 50704, 248);
pub(super) const DECODE_INT8_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_int8_256", 128, 107536, 248);
pub(super) const DECODE_INT8_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_DECODE, "attention_decode_int8_64", 128, 26128, 248);
pub(super) const MERGE: Kernel<AttendParams> = Kernel::new(&MODULE_DECODE, "attention_merge", 128, 0, 248);

static MODULE_PREFILL: Module = Module::new(
    "attention/prefill",
    images::ATTENTION_PREFILL,
    &[
        "attention_prefill_bf16_128",
        "attention_prefill_bf16_256",
        "attention_prefill_bf16_64",
        "attention_prefill_f16_128",
        "attention_prefill_f16_256",
        "attention_prefill_f16_64",
        "attention_prefill_f32_128",
        "attention_prefill_f32_256",
        "attention_prefill_f32_64",
        "attention_prefill_int8_128",
        "attention_prefill_int8_256",
        "attention_prefill_int8_64",
    ],
);

pub(super) const PREFILL_BF16_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_bf16_128", 128, 35440, 248);
pub(super) const PREFILL_BF16_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_bf16_256", 128, 66160, 248);
pub(super) const PREFILL_BF16_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_bf16_64", 128, 19056, 248);
pub(super) const PREFILL_F16_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f16_128", 128, 35440, 248);
pub(super) const PREFILL_F16_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f16_256", 128, 66160, 248);
pub(super) const PREFILL_F16_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f16_64", 128, 19056, 248);
pub(super) const PREFILL_F32_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f32_128", 128, 66224, 248);
pub(super) const PREFILL_F32_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f32_256", 128, 98992, 248);
pub(super) const PREFILL_F32_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_f32_64", 128, 49840, 248);
pub(super) const PREFILL_INT8_128: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_int8_128", 128, 52240, 248);
pub(super) const PREFILL_INT8_256: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_int8_256", 128, 82704, 248);
pub(super) const PREFILL_INT8_64: Kernel<AttendParams> =
    Kernel::new(&MODULE_PREFILL, "attention_prefill_int8_64", 128, 27664, 248);

static MODULE_WRITE: Module = Module::new(
    "attention/write",
    images::ATTENTION_WRITE,
    &[
        "attention_advance",
        "attention_write_bf16",
        "attention_write_f16",
        "attention_write_f32",
        "attention_write_int8",
    ],
);

pub(super) const ADVANCE: Kernel<AdvanceParams> = Kernel::new(&MODULE_WRITE, "attention_advance", 128, 0, 16);
pub(super) const WRITE_BF16: Kernel<WriteParams> = Kernel::new(&MODULE_WRITE, "attention_write_bf16", 128, 0, 200);
pub(super) const WRITE_F16: Kernel<WriteParams> = Kernel::new(&MODULE_WRITE, "attention_write_f16", 128, 0, 200);
pub(super) const WRITE_F32: Kernel<WriteParams> = Kernel::new(&MODULE_WRITE, "attention_write_f32", 128, 0, 200);
pub(super) const WRITE_INT8: Kernel<WriteParams> = Kernel::new(&MODULE_WRITE, "attention_write_int8", 128, 0, 200);

/// Every compiled source.
pub(crate) static MODULES: &[&Module] = &[&MODULE_DECODE, &MODULE_PREFILL, &MODULE_WRITE];
