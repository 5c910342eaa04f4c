// What the host passes to the kernels of attention. `cargo xtask mirror` writes src/attention/cuda/mirror.rs from it.
#pragma once

#include "common/kinds.cuh"

namespace moray::attention {

// Positions per presence word, and per tile of the decode kernel.
constexpr int BLOCK = 64;

// A run of consecutive tokens of one sequence; the tokens of all spans stand one after another in the rows of q, k, v, out.
struct Span {
    uint32_t slot;       // the sequence's place in the cache
    uint32_t start;      // position of the first token
    uint32_t len;        // tokens
    uint32_t first_row;  // row of the first token
};
static_assert(sizeof(Span) == 16);

// How `HeadsView` names the query heads that run.
enum HeadForm : uint32_t { ALL_HEADS = 0, HEAD_LIST = 1, GROUP_LIST = 2, HEAD_MASK = 3 };

struct HeadsView {
    const uint32_t* list;    // u32 [spans, width]: query heads, KV heads or mask words, by form
    const uint32_t* counts;  // u32 [spans]: entries of a list in use
    uint32_t form;           // HeadForm
    uint32_t width;          // entries per span
};
static_assert(sizeof(HeadsView) == 24);

// One layer of the KV cache. Row `position` of a KV head begins at
//     page * page_stride + kv_head * head_stride + (position within the page) * row_stride,
// where the page is the slot itself (contiguous: one page holds a sequence) or an entry of the slot's page table.
struct KvView {
    void* k;                     // f32, f16, bf16 or i8; K turned by RoPE
    void* v;                     // as k
    float* k_scale;              // f32 [pages, n_kv_heads, page_size], for i8 only
    float* v_scale;              // as k_scale
    uint32_t* present;           // bit per position [slots, n_kv_heads, present_words]; null: no holes
    const uint32_t* page_table;  // u32 [slots, max_pages]; null: contiguous
    uint64_t page_stride;        // elements
    uint64_t head_stride;        // elements
    uint32_t row_stride;         // elements
    uint32_t page_size;          // positions; a power of two where there is a table
    uint32_t max_pages;          // pages of a slot
    uint32_t present_words;      // u32 words per (slot, KV head)
    uint32_t capacity;           // positions per slot
    uint32_t n_kv_heads;
};
static_assert(sizeof(KvView) == 88);

// What is stored for a group none of whose query heads runs.
// KEEP leaves what there is.
enum KvPolicy : uint32_t { WRITE_ALL = 0, HOLE = 1, ZERO = 2, KEEP = 3 };

// The projections of a call's tokens, before RoPE.
struct ProjectedView {
    const void* q;      // dtype [M, n_q_heads, head_dim], rows q_stride apart; null: K and V only
    const void* k;      // dtype [M, n_kv_heads, head_dim], rows k_stride apart
    const void* v;      // dtype [M, n_kv_heads, head_dim], rows v_stride apart
    const float* rope;  // f32 [context, head_dim]: head_dim / 2 cosines, then sines; null: no rotation
    uint64_t q_stride;  // elements
    uint64_t k_stride;  // elements
    uint64_t v_stride;  // elements
    Element dtype;
    uint32_t policy;    // KvPolicy
};
static_assert(sizeof(ProjectedView) == 64);

struct AttendParams {
    KvView kv;
    HeadsView heads;
    ProjectedView projected;  // k null: q is turned and the cache written already. Else q is not read, and spans have one tile of rows
    const Span* spans;       // [spans]
    const float* q;          // f32 [M, n_q_heads, head_dim], turned by RoPE
    void* out;               // out_dtype [M, n_q_heads, head_dim]
    float* partial_out;      // f32 [M, n_q_heads, n_splits, head_dim]
    float2* partial_state;   // f32 [M, n_q_heads, n_splits] of (maximum, sum of weights)
    uint32_t* arrived;       // [spans, n_kv_heads x row tiles], zeros between launches; null: a launch of its own merges
    uint32_t n_q_heads;
    uint32_t head_dim;
    Element out_dtype;
    uint32_t split_len;      // positions per split, a multiple of BLOCK
    uint32_t n_splits;       // 1: the output is written at once
    float score_factor;      // log2(e) / sqrt(head_dim)
};
static_assert(sizeof(AttendParams) == 248);

struct WriteParams {
    KvView kv;
    HeadsView heads;
    ProjectedView projected;
    const Span* spans;      // [spans]
    float* q_out;           // f32 [M, n_q_heads, head_dim]
    uint32_t n_q_heads;
    uint32_t head_dim;
};
static_assert(sizeof(WriteParams) == 200);

struct AdvanceParams {
    Span* spans;  // [n_spans]
    uint32_t n_spans;
    uint32_t reserved;
};
static_assert(sizeof(AdvanceParams) == 16);

}  // namespace moray::attention
