//! What the kernels take: the structs of `kernels/attention/params.cuh`, whose sizes are asserted on both sides.

/// The query heads that run; see [`super::raw::Heads`].
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct HeadsView {
    pub list: u64,
    pub counts: u64,
    pub form: u32,
    pub width: u32,
}

/// A layer of a KV cache; see [`super::raw::Kv`].
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct KvView {
    pub k: u64,
    pub v: u64,
    pub k_scale: u64,
    pub v_scale: u64,
    pub present: u64,
    pub page_table: u64,
    pub page_stride: u64,
    pub head_stride: u64,
    pub row_stride: u32,
    pub page_size: u32,
    pub max_pages: u32,
    pub present_words: u32,
    pub capacity: u32,
    pub n_kv_heads: u32,
}

/// The arguments of the decode, merge and prefill kernels.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct AttendParams {
    pub kv: KvView,
    pub heads: HeadsView,
    pub spans: u64,
    pub q: u64,
    pub out: u64,
    pub partial_out: u64,
    pub partial_state: u64,
    pub n_q_heads: u32,
    pub head_dim: u32,
    pub out_dtype: u32,
    pub split_len: u32,
    pub n_splits: u32,
    pub score_factor: f32,
}

/// The arguments of the kernels that turn q and k and write K and V.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct WriteParams {
    pub kv: KvView,
    pub heads: HeadsView,
    pub spans: u64,
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub q_out: u64,
    pub rope: u64,
    pub q_stride: u64,
    pub k_stride: u64,
    pub v_stride: u64,
    pub n_q_heads: u32,
    pub head_dim: u32,
    pub dtype: u32,
    pub policy: u32,
}

/// The arguments of the kernel that moves spans on.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct AdvanceParams {
    pub spans: u64,
    pub n_spans: u32,
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<HeadsView>() == 24);
    assert!(size_of::<KvView>() == 88);
    assert!(size_of::<AttendParams>() == 176);
    assert!(size_of::<WriteParams>() == 200);
    assert!(size_of::<AdvanceParams>() == 16);
};
