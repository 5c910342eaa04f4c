//! What the kernels take: the structs of `kernels/attention/params.cuh`, whose sizes are asserted on both sides.

use crate::element::Element;

/// A run of tokens as kernels read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SpanRecord {
    /// The sequence's place in the cache.
    pub slot: u32,
    /// Position of the first token.
    pub start: u32,
    /// Tokens.
    pub len: u32,
    /// Row of the first token in q, k, v and out.
    pub first_row: u32,
}

/// The query heads that run; see [`super::Heads`].
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct HeadsView {
    /// u32 \[spans, width\].
    pub list: u64,
    /// u32 \[spans\], or 0.
    pub counts: u64,
    /// 0: all, 1: query heads, 2: KV heads, 3: mask words.
    pub form: u32,
    /// Entries per span.
    pub width: u32,
}

/// One layer of a KV cache by addresses and strides, so that an engine's own cache can be read and written.
///
/// Row `position` of a KV head begins at `page · page_stride + kv_head · head_stride + row · row_stride` elements, where page
/// and row are the slot and the position (contiguous), or the entry of the slot's page table and the position within the
/// page. Addresses and strides are multiples of 16 bytes.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct KvView {
    /// f32, f16, bf16 or int8.
    pub k: u64,
    /// As `k`.
    pub v: u64,
    /// f32 \[pages, n_kv_heads, page_size\] for int8, else 0.
    pub k_scale: u64,
    /// As `k_scale`.
    pub v_scale: u64,
    /// A bit per position, u32 \[slots, n_kv_heads, present_words\]; 0 if no position may be missing.
    pub present: u64,
    /// u32 \[slots, max_pages\]; 0 for a contiguous cache.
    pub page_table: u64,
    /// Elements.
    pub page_stride: u64,
    /// Elements.
    pub head_stride: u64,
    /// Elements.
    pub row_stride: u32,
    /// Positions; a power of two where there is a table.
    pub page_size: u32,
    /// Pages of a slot.
    pub max_pages: u32,
    /// Presence words of a (slot, KV head): an even number.
    pub present_words: u32,
    /// Positions of a slot.
    pub capacity: u32,
    /// KV heads.
    pub n_kv_heads: u32,
}

/// The arguments of the decode, merge and prefill kernels.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct AttendParams {
    /// The cache.
    pub kv: KvView,
    /// The heads that run.
    pub heads: HeadsView,
    /// [`SpanRecord`] \[spans\].
    pub spans: u64,
    /// f32 \[M, n_q_heads, head_dim\].
    pub q: u64,
    /// \[M, n_q_heads, head_dim\].
    pub out: u64,
    /// f32 \[M, n_q_heads, n_splits, head_dim\]; unused where `n_splits` is 1.
    pub partial_out: u64,
    /// (f32, f32) \[M, n_q_heads, n_splits\]; unused where `n_splits` is 1.
    pub partial_state: u64,
    /// Query heads.
    pub n_q_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// 0: f32, 1: f16, 2: bf16.
    pub out_dtype: u32,
    /// Positions per split, a multiple of 64.
    pub split_len: u32,
    /// Splits.
    pub n_splits: u32,
    /// log₂ e / √head_dim.
    pub score_factor: f32,
}

/// The arguments of the kernels that turn q and k and write K and V.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct WriteParams {
    /// The cache.
    pub kv: KvView,
    /// The heads that run.
    pub heads: HeadsView,
    /// [`SpanRecord`] \[spans\].
    pub spans: u64,
    /// \[M, n_q_heads, head_dim\]; 0: K and V only.
    pub q: u64,
    /// \[M, n_kv_heads, head_dim\].
    pub k: u64,
    /// \[M, n_kv_heads, head_dim\].
    pub v: u64,
    /// f32 \[M, n_q_heads, head_dim\].
    pub q_out: u64,
    /// f32 \[context, head_dim\]; 0: no rotation.
    pub rope: u64,
    /// Elements from one token's q to the next.
    pub q_stride: u64,
    /// Elements.
    pub k_stride: u64,
    /// Elements.
    pub v_stride: u64,
    /// Query heads.
    pub n_q_heads: u32,
    /// Elements per head.
    pub head_dim: u32,
    /// 0: f32, 1: f16, 2: bf16.
    pub dtype: u32,
    /// 0: write all, 1: hole, 2: zero, 3: leave what there is.
    pub policy: u32,
}

const _: () = {
    assert!(size_of::<SpanRecord>() == 16);
    assert!(size_of::<HeadsView>() == 24);
    assert!(size_of::<KvView>() == 88);
    assert!(size_of::<AttendParams>() == 176);
    assert!(size_of::<WriteParams>() == 200);
};

/// The number by which kernels know an element type.
pub(super) fn dtype_of<E: Element>() -> u32 {
    match E::NAME {
        "f16" => 1,
        "bf16" => 2,
        _ => 0,
    }
}
