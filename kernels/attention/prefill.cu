// Causal attention of many tokens: 64 (token, head) pairs of a group share every pass over K and V.
//
//   out[t, h] = sum_j softmax_j(q[t, h] . k[j, kv(h)] / sqrt(head_dim)) v[j, kv(h)],  kv(h) = h / (n_q_heads / n_kv_heads),
//   over the positions j <= position of t that the cache holds for kv(h); zeros for a head that does not run.
//
// | argument  | dtype          | shape                                | layout                                            |
// |-----------|----------------|--------------------------------------|---------------------------------------------------|
// | q         | f32            | [M, n_q_heads, head_dim]             | row-major, turned by RoPE                         |
// | k, v      | f32 to i8      | [pages, n_kv_heads, page, head_dim]  | by strides, see KvView; this call's tokens within |
// | k/v_scale | f32            | [pages, n_kv_heads, page]            | i8 only                                           |
// | present   | u32            | [slots, n_kv_heads, present_words]   | bit per position; null: none is missing           |
// | spans     | Span           | [spans]                              | read on the device                                |
// | out       | f32, f16, bf16 | [M, n_q_heads, head_dim]             | row-major, all of it written                      |
//
// Requires head_dim % 8 == 0 (i8: % 16), head_dim <= DIM; K and V rows and strides of 16 bytes; group <= 256.
// Grid (ceil(tokens of the longest span x group / 64), n_kv_heads, spans), late tokens first since they have the longest
// contexts; Block 128 (16 rows a warp); Smem sizeof(Shared). Rows are the running heads of each token, so a skipped head takes
// no place in a tile, and a group without a running head ends at once.
//
// A row's result depends on the cache up to its position only: any split of a prompt gives the same bits.
// Source: FlashAttention-2 (arXiv 2307.08691); heads of a group in the rows of one tile.
// Wrapper: src/attention/cuda.
#include "common/shared.cuh"
#include "heads.cuh"
#include "softmax.cuh"

namespace moray::attention {

constexpr int WARPS = 4, THREADS = 32 * WARPS, BLOCK_ROWS = TILE_ROWS * WARPS;

// Keys per pass: 32 where the accumulators of 256 dimensions leave no registers for more; in f32 as many bytes.
template <class Kv, int DIM>
constexpr int KEYS = (DIM <= 128 ? 64 : 32) / (Kv::Compute::WIDE && DIM > 64 ? 2 : 1);

template <class Kv, int DIM>
struct Shared {
    KvTile<Kv, DIM, KEYS<Kv, DIM>> k, v;
    uint16_t running[MAX_GROUP];  // the group's query heads that run
    uint32_t n_running;
    Queries<typename Kv::Compute, DIM> queries[WARPS];
};

// The rows of a warp: (token, head) pairs, token by token.
struct Part {
    Span span;
    uint32_t kv_head;
    uint32_t first_row;  // of the warp
    uint32_t all_rows;   // of the span
    uint32_t end;        // one past the last position that the block may see
};

// Row of the span -> its row of q and out.
__device__ inline size_t output_row(const AttendParams& p, const Part& part, uint32_t row, const uint16_t* running_smem,
                                    uint32_t n_running) {
    const size_t token = part.span.first_row + row / n_running;
    return (token * p.n_q_heads + running_smem[row % n_running]) * p.head_dim;
}

template <class Kv, int DIM>
__device__ inline void load_rows(RowsOf<Kv, DIM>& rows, const AttendParams& p, const Part& part, Shared<Kv, DIM>& shared) {
    const float* q[2] = {};
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const uint32_t row = part.first_row + threadIdx.x % 32 / 4 + 8 * which;
        rows.last[which] = 0xffffffffu;  // padding sees everything, and hides nothing from the fast path
        if (row < part.all_rows) {
            q[which] = p.q + output_row(p, part, row, shared.running, shared.n_running);
            rows.last[which] = part.span.start + row / shared.n_running;
        }
    }
    load_queries<typename Kv::Compute>(rows, shared.queries[threadIdx.x / 32], q, p.head_dim, p.score_factor, true);
}

// The window of N positions from `first` on, within a block that is already known.
template <int N>
__device__ inline Window narrow(const Window& block, uint32_t first) {
    return {first, block.visible >> (first - block.first) & (N == 64 ? ~0ull : (1ull << N % 64) - 1)};
}

// Moves on to the next window of N positions with anything visible.
template <int N>
__device__ inline void advance(Window& block, Window& window, const Source& from, uint32_t end) {
    do {
        const uint32_t first = window.first + N;
        if (first >= block.first + BLOCK) {
            block.first += BLOCK;
            seek(block, from, end);
            window = narrow<N>(block, block.first);
        } else {
            window = narrow<N>(block, first);
        }
    } while (window.visible == 0 && window.first < end);
}

// Runs over the keys: while scores are computed V is on its way, while V is added the next K.
template <class Kv, int DIM>
__device__ inline void accumulate(RowsOf<Kv, DIM>& rows, const AttendParams& p, const Part& part, Shared<Kv, DIM>& shared) {
    using E = typename Kv::Compute;
    constexpr int N = KEYS<Kv, DIM>;
    const Source from = {p.kv, part.span.slot, part.kv_head, p.head_dim};
    Window block = {0, 0};
    seek(block, from, part.end);
    Window window = narrow<N>(block, block.first);
    if (window.visible == 0 && window.first < part.end) {
        advance<N>(block, window, from, part.end);
    }
    if (window.first < part.end) {
        load_tile<Kv, DIM, N, THREADS>(shared.k, p.kv.k, p.kv.k_scale, from, window);
    }
    while (window.first < part.end) {
        load_tile<Kv, DIM, N, THREADS>(shared.v, p.kv.v, p.kv.v_scale, from, window);
        Window next = window;
        advance<N>(block, next, from, part.end);
        cp_async_wait<1>();
        __syncthreads();
        if constexpr (Kv::QUANTIZED) {
            widen_tile<Kv, DIM, N, THREADS>(shared.k);
            __syncthreads();
        }
        float score[N / 8][4];
        uint32_t weight_frag[N / E::STEP][4];
        multiply_keys<E, DIM, N>(score, rows, shared.queries[threadIdx.x / 32], shared.k.elements, 0);
        __syncthreads();  // K is free
        if (next.first < part.end) {
            load_tile<Kv, DIM, N, THREADS>(shared.k, p.kv.k, p.kv.k_scale, from, next);
        } else {
            cp_async_commit();  // an empty group, so that the count of groups is always the same
        }
        hide_keys<E, DIM, N>(score, rows, window.visible, window.first);
        weigh_keys<E, DIM, N>(weight_frag, rows, score);
        cp_async_wait<1>();
        __syncthreads();
        if constexpr (Kv::QUANTIZED) {
            widen_tile<Kv, DIM, N, THREADS>(shared.v);
            __syncthreads();
        }
        add_values<E, DIM, N>(rows, weight_frag, shared.v.elements, 0);
        __syncthreads();  // V is free
        window = next;
    }
}

template <class Kv, int DIM>
__device__ inline void write_back(const AttendParams& p, const Part& part, const RowsOf<Kv, DIM>& rows,
                                  const Shared<Kv, DIM>& shared) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const uint32_t row = part.first_row + lane / 4 + 8 * which;
        if (row >= part.all_rows) {
            continue;
        }
        const size_t out = output_row(p, part, row, shared.running, shared.n_running);
        const float sum = rows.sum_frag[2 * which];
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            if (n * 8 < p.head_dim) {
                store_mean(p.out, out + n * 8 + 2 * (lane % 4), p.out_dtype, rows.out_frag[n][2 * which],
                           rows.out_frag[n][2 * which + 1], sum);
            }
        }
    }
}

template <class Kv, int DIM>
__device__ inline void attend(const AttendParams& p) {
    extern __shared__ __align__(128) unsigned char dynamic_smem[];
    Shared<Kv, DIM>& shared = *reinterpret_cast<Shared<Kv, DIM>*>(dynamic_smem);
    Part part;
    part.kv_head = blockIdx.y;
    part.span = p.spans[blockIdx.z];
    const uint32_t group = p.n_q_heads / p.kv.n_kv_heads, tile = gridDim.x - 1 - blockIdx.x;
    if (threadIdx.x < 32) {
        const uint32_t count = list_running(p.heads, blockIdx.z, part.kv_head, group, shared.running);
        if (threadIdx.x == 0) {
            shared.n_running = count;
        }
    }
    __syncthreads();
    zero_skipped(p, part.span, part.kv_head, shared.running, shared.n_running, tile, gridDim.x);
    part.all_rows = part.span.len * shared.n_running;
    if (tile * BLOCK_ROWS >= part.all_rows) {
        return;
    }
    const uint32_t last_row = min(tile * BLOCK_ROWS + BLOCK_ROWS, part.all_rows) - 1;
    part.end = min(part.span.start + last_row / shared.n_running + 1, p.kv.capacity);
    part.first_row = tile * BLOCK_ROWS + threadIdx.x / 32 * TILE_ROWS;

    RowsOf<Kv, DIM> rows;
    clear(rows);
    load_rows<Kv, DIM>(rows, p, part, shared);
    accumulate<Kv, DIM>(rows, p, part, shared);
    write_back<Kv, DIM>(p, part, rows, shared);
}

}  // namespace moray::attention

using namespace moray::attention;

#define MORAY_PREFILL(name, Kv, DIM)                                                                                       \
    MORAY_SHARED(attention_prefill_##name, sizeof(Shared<Kv, DIM>))                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_prefill_##name(const __grid_constant__ AttendParams p) { \
        attend<Kv, DIM>(p);                                                                                                \
    }

MORAY_PREFILL(f16_64, F16Kv, 64)
MORAY_PREFILL(f16_128, F16Kv, 128)
MORAY_PREFILL(f16_256, F16Kv, 256)
MORAY_PREFILL(bf16_64, Bf16Kv, 64)
MORAY_PREFILL(bf16_128, Bf16Kv, 128)
MORAY_PREFILL(bf16_256, Bf16Kv, 256)
MORAY_PREFILL(int8_64, Int8Kv, 64)
MORAY_PREFILL(int8_128, Int8Kv, 128)
MORAY_PREFILL(int8_256, Int8Kv, 256)
MORAY_PREFILL(f32_64, F32Kv, 64)
MORAY_PREFILL(f32_128, F32Kv, 128)
MORAY_PREFILL(f32_256, F32Kv, 256)
