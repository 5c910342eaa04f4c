// Attention of few tokens over long contexts (flash decoding): the context is split between blocks and the parts are merged.
//
//   out[t, h] = sum_j softmax_j(q[t, h] . k[j, kv(h)] / sqrt(head_dim)) v[j, kv(h)],  kv(h) = h / (n_q_heads / n_kv_heads),
//   over the positions j <= position of t that the cache holds for kv(h); zeros for a head that does not run.
//
// | argument      | dtype          | shape                                | layout                                        |
// |---------------|----------------|--------------------------------------|-----------------------------------------------|
// | q             | f32            | [M, n_q_heads, head_dim]             | row-major, turned by RoPE                     |
// | projected     | f32, f16, bf16 | see ProjectedView                    | or, instead of q, q, k and v as projected     |
// | k, v          | f32 to i8      | [pages, n_kv_heads, page, head_dim]  | by strides, see KvView                        |
// | k/v_scale     | f32            | [pages, n_kv_heads, page]            | i8 only                                       |
// | present       | u32            | [slots, n_kv_heads, present_words]   | bit per position; null: none is missing       |
// | spans         | Span           | [spans]                              | read on the device, so that graphs replay     |
// | partial_out   | f32            | [M, n_q_heads, n_splits, head_dim]   | weighted sums, where n_splits > 1             |
// | partial_state | f32 x 2        | [M, n_q_heads, n_splits]             | (maximum, sum of weights)                     |
// | arrived       | u32            | [spans, blocks y]                    | null: attention_merge follows; else zeros, left so |
// | out           | f32, f16, bf16 | [M, n_q_heads, head_dim]             | row-major, all of it written                  |
//
// Requires head_dim % 8 == 0 (i8: % 16), head_dim <= DIM; K and V rows and strides of 16 bytes; group <= 256;
// split_len % 64 == 0.
// attend: Grid (n_splits, n_kv_heads x row tiles of 16 (token, head) pairs, spans); Block 128; Smem sizeof(Shared).
//   A split beyond a span's end, and a group without a running head, ends at once. With `arrived` the last of a tile's splits merges them.
// merge, where there is no `arrived`: Grid (ceil(n_q_heads / 4), tokens of the longest span, spans); Block 128 (a warp a head).
//
// With `projected` a block turns the rows of q that it reads by RoPE, and the block whose split holds a token's position writes the token's
// K and V into the cache before it reads them, as write.cu does: no other block of the launch looks at them. That takes one tile of
// rows for each span, (tokens x group) <= 16. The block of a group that does not run writes what the policy says.
//
// The four warps take 16 of every 64 keys each and are merged in order through shared memory, then splits in order: the result
// does not depend on the batch, only on split_len.
// Source: Flash-Decoding; heads of a group in the rows of one tile; FlashAttention-2 (arXiv 2307.08691).
// Wrapper: src/attention/cuda.
#include "common/shared.cuh"
#include "heads.cuh"
#include "projected.cuh"
#include "softmax.cuh"

namespace moray::attention {

constexpr int WARPS = 4, THREADS = 32 * WARPS, WARP_KEYS = BLOCK / WARPS;

// What the warps of a block leave for the merge. Rows are padded by 8 floats, so that the 8-byte stores of half a warp (four
// rows, four column pairs) touch all banks once.
template <int DIM>
struct WarpStates {
    float out[WARPS][TILE_ROWS][DIM + 8];  // (warp, row, dimension)
    float maximum[WARPS][TILE_ROWS];
    float sum[WARPS][TILE_ROWS];
};

template <class Kv, int DIM>
struct Tiles {
    KvTile<Kv, DIM, BLOCK> k, v;
};

template <class Kv, int DIM>
union TilesThenStates {
    Tiles<Kv, DIM> tiles;
    WarpStates<DIM> states;
};

template <class Kv, int DIM>
struct Shared {
    TilesThenStates<Kv, DIM> memory;
    uint16_t running[MAX_GROUP];  // the group's query heads that run
    uint32_t n_running;
    bool last;                    // of the splits
    Queries<typename Kv::Compute, DIM> queries;  // of all warps, whose rows are the same
};

// The part of a block: which rows, which keys.
struct Part {
    Span span;
    uint32_t span_index, kv_head, split;
    uint32_t first_row, n_rows;  // (token, head) pairs of this tile, token by token
    uint32_t begin, end;         // positions
    uint32_t splits;             // of the tile's last row
};

// Merges the splits of a (token, head) in order by a warp, and writes the output.
__device__ inline void merge_row(const AttendParams& p, size_t row, uint32_t splits) {
    const float2* states = p.partial_state + row * p.n_splits;
    float largest = -INFINITY, sum = 0.0f;
    // past the first-level cache, where a neighbour's line may be old
#pragma unroll 8
    for (uint32_t split = 0; split < splits; split++) {
        largest = fmaxf(largest, __ldcg(&states[split]).x);
    }
#pragma unroll 8
    for (uint32_t split = 0; split < splits; split++) {
        const float2 state = __ldcg(&states[split]);
        sum = fmaf(state.y, state.x == -INFINITY ? 0.0f : exp2_approx(state.x - largest), sum);
    }
    for (uint32_t dim = 2 * (threadIdx.x % 32); dim < p.head_dim; dim += 64) {
        float2 total = {0.0f, 0.0f};
#pragma unroll 8
        for (uint32_t split = 0; split < splits; split++) {
            const float maximum = __ldcg(&states[split]).x;
            const float factor = maximum == -INFINITY ? 0.0f : exp2_approx(maximum - largest);
            const float2 pair =
                __ldcg(reinterpret_cast<const float2*>(p.partial_out + (row * p.n_splits + split) * p.head_dim + dim));
            total.x = fmaf(pair.x, factor, total.x);
            total.y = fmaf(pair.y, factor, total.y);
        }
        store_mean(p.out, row * p.head_dim + dim, p.out_dtype, total.x, total.y, sum);
    }
}

// Splits that hold something for a token.
__device__ inline uint32_t splits_of(const AttendParams& p, const Span& span, uint32_t token) {
    return min(min(span.start + token, p.kv.capacity - 1) / p.split_len + 1, p.n_splits);
}

// Rows of q after RoPE, where the first tile of V comes later. Padded as WarpStates.
template <int DIM>
using TurnedRows = float[TILE_ROWS][DIM + 8];

template <class Kv, int DIM>
__device__ inline TurnedRows<DIM>& turned_rows(Shared<Kv, DIM>& shared) {
    static_assert(sizeof(TurnedRows<DIM>) <= sizeof(shared.memory.tiles.v.elements), "where V goes");
    return *reinterpret_cast<TurnedRows<DIM>*>(shared.memory.tiles.v.elements);
}

// Row of the tile -> its token within the span and its query head.
__device__ inline uint2 token_and_head(const Part& part, uint32_t row, const uint16_t* running_smem, uint32_t n_running) {
    const uint32_t index = part.first_row + row;
    return make_uint2(index / n_running, running_smem[index % n_running]);
}

template <class Kv, int DIM>
__device__ inline void load_rows(RowsOf<Kv, DIM>& rows, const AttendParams& p, const Part& part, Shared<Kv, DIM>& shared) {
    const float* q[2] = {};
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const uint32_t row = threadIdx.x % 32 / 4 + 8 * which;
        rows.last[which] = 0xffffffffu;  // padding sees everything, and hides nothing from the fast path
        if (row < part.n_rows) {
            const uint2 at = token_and_head(part, row, shared.running, shared.n_running);
            rows.last[which] = part.span.start + at.x;
            if (p.projected.k != nullptr) {
                q[which] = turned_rows(shared)[row];
            } else {
                q[which] = p.q + (static_cast<size_t>(part.span.first_row + at.x) * p.n_q_heads + at.y) * p.head_dim;
            }
        }
    }
    load_queries<typename Kv::Compute>(rows, shared.queries, q, p.head_dim, p.score_factor, threadIdx.x < 32);
}

// Tokens whose positions are a split's, by their place in the span, and what the cache gets of them.
struct NewTokens {
    uint32_t first, count;
    Content what;
};

__device__ inline NewTokens new_tokens(const AttendParams& p, const Part& part, bool runs) {
    if (p.projected.k == nullptr) {
        return {0, 0, Content::NOTHING};
    }
    const uint32_t start = part.span.start, len = min(part.span.len, p.kv.capacity - min(start, p.kv.capacity));
    const uint32_t past = part.begin + p.split_len, first = part.begin - min(part.begin, start);
    const uint32_t end = min(len, past - min(past, start));
    return {first, end - min(end, first), content_of(p.projected, runs)};
}

// Turns the part's rows of q, and writes K and V of its new tokens, by warps that take rows in turn.
template <class Kv, int DIM>
__device__ inline void take_projections(const AttendParams& p, const Part& part, const NewTokens& fresh, Shared<Kv, DIM>& shared) {
    const ProjectedView& from = p.projected;
    for (uint32_t item = threadIdx.x / 32; item < part.n_rows + 2 * fresh.count; item += WARPS) {
        if (item < part.n_rows) {
            const uint2 at = token_and_head(part, item, shared.running, shared.n_running);
            const uint32_t row = part.span.first_row + at.x, position = part.span.start + at.x;
            // a token past the end is computed of what nobody reads
            HeadRow<DIM> q = {};
            if (position < p.kv.capacity) q = turned_query<DIM>(from, row, position, at.y, p.head_dim);
            store_query(q, turned_rows(shared)[item], p.head_dim);
            continue;
        }
        const uint32_t token = fresh.first + (item - part.n_rows) % fresh.count;
        const NewRow at = {part.span.first_row + token, part.span.slot, part.span.start + token, part.kv_head};
        if (item - part.n_rows < fresh.count) {
            write_key<Kv, DIM>(from, p.kv, at, fresh.what, p.head_dim);
        } else {
            write_value<Kv, DIM>(from, p.kv, at, fresh.what, p.head_dim);
        }
    }
}

// Begins with the first tile of a part's keys.
template <class Kv, int DIM>
__device__ inline void load_first(Window& window, const AttendParams& p, const Part& part, Shared<Kv, DIM>& shared) {
    const Source from = {p.kv, part.span.slot, part.kv_head, p.head_dim};
    seek(window, from, part.end);
    if (window.first < part.end) {
        load_tile<Kv, DIM, BLOCK, THREADS>(shared.memory.tiles.k, p.kv.k, p.kv.k_scale, from, window);
    }
}

// Runs over the part's keys from `window` on, 64 at a time: while scores are computed V is on its way, while V is added the next K.
template <class Kv, int DIM>
__device__ inline void accumulate(RowsOf<Kv, DIM>& rows, const AttendParams& p, const Part& part, Window window,
                                  Shared<Kv, DIM>& shared) {
    using E = typename Kv::Compute;
    const Source from = {p.kv, part.span.slot, part.kv_head, p.head_dim};
    Tiles<Kv, DIM>& tiles = shared.memory.tiles;
    const int key0 = threadIdx.x / 32 * WARP_KEYS;
    while (window.first < part.end) {
        load_tile<Kv, DIM, BLOCK, THREADS>(tiles.v, p.kv.v, p.kv.v_scale, from, window);
        Window next = {window.first + BLOCK, 0};
        seek(next, from, part.end);
        cp_async_wait<1>();
        __syncthreads();
        if constexpr (Kv::QUANTIZED) {
            widen_tile<Kv, DIM, BLOCK, THREADS>(tiles.k);
            __syncthreads();
        }
        float score[WARP_KEYS / 8][4];
        uint32_t weight_frag[WARP_KEYS / E::STEP][4];
        multiply_keys<E, DIM, WARP_KEYS>(score, rows, shared.queries, tiles.k.elements, key0);
        __syncthreads();  // K is free
        if (next.first < part.end) {
            load_tile<Kv, DIM, BLOCK, THREADS>(tiles.k, p.kv.k, p.kv.k_scale, from, next);
        } else {
            cp_async_commit();  // an empty group, so that the count of groups is always the same
        }
        hide_keys<E, DIM, WARP_KEYS>(score, rows, window.visible >> key0, window.first + key0);
        weigh_keys<E, DIM, WARP_KEYS>(weight_frag, rows, score);
        cp_async_wait<1>();
        __syncthreads();
        if constexpr (Kv::QUANTIZED) {
            widen_tile<Kv, DIM, BLOCK, THREADS>(tiles.v);
            __syncthreads();
        }
        add_values<E, DIM, WARP_KEYS>(rows, weight_frag, tiles.v.elements, key0);
        __syncthreads();  // V is free
        window = next;
    }
}

template <class E, int DIM>
__device__ inline void publish(WarpStates<DIM>& states, const Rows<E, DIM>& rows) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const int row = lane / 4 + 8 * which;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            *reinterpret_cast<float2*>(&states.out[warp][row][n * 8 + 2 * (lane % 4)]) =
                make_float2(rows.out_frag[n][2 * which], rows.out_frag[n][2 * which + 1]);
        }
        if (lane % 4 == 0) {
            states.maximum[warp][row] = rows.maximum[which];
            states.sum[warp][row] = rows.sum_frag[2 * which];
        }
    }
}

// Merges the warps' states in order and writes the output, or this split's part of it.
template <class Kv, int DIM>
__device__ inline void write_back(const AttendParams& p, const Part& part, const Shared<Kv, DIM>& shared) {
    const WarpStates<DIM>& states = shared.memory.states;
    for (uint32_t row = threadIdx.x / 32; row < part.n_rows; row += WARPS) {
        float largest = -INFINITY, sum = 0.0f, factor[WARPS];
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            largest = fmaxf(largest, states.maximum[warp][row]);
        }
#pragma unroll
        for (int warp = 0; warp < WARPS; warp++) {
            const float maximum = states.maximum[warp][row];
            factor[warp] = maximum == -INFINITY ? 0.0f : exp2_approx(maximum - largest);
            sum = fmaf(states.sum[warp][row], factor[warp], sum);
        }
        const uint2 at = token_and_head(part, row, shared.running, shared.n_running);
        const size_t head = static_cast<size_t>(part.span.first_row + at.x) * p.n_q_heads + at.y;
        const size_t place = head * p.n_splits + part.split;
        for (uint32_t dim = 2 * (threadIdx.x % 32); dim < p.head_dim; dim += 64) {
            float2 total = {0.0f, 0.0f};
#pragma unroll
            for (int warp = 0; warp < WARPS; warp++) {
                const float2 pair = *reinterpret_cast<const float2*>(&states.out[warp][row][dim]);
                total.x = fmaf(pair.x, factor[warp], total.x);
                total.y = fmaf(pair.y, factor[warp], total.y);
            }
            if (p.n_splits > 1) {
                *reinterpret_cast<float2*>(p.partial_out + place * p.head_dim + dim) = total;
            } else {
                store_mean(p.out, head * p.head_dim + dim, p.out_dtype, total.x, total.y, sum);
            }
        }
        if (p.n_splits > 1 && threadIdx.x % 32 == 0) {
            p.partial_state[place] = make_float2(largest, sum);
        }
    }
}

// Merges the rows of a tile, if this is the last of its splits to come here.
template <class Kv, int DIM>
__device__ inline void merge_if_last(const AttendParams& p, const Part& part, Shared<Kv, DIM>& shared) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        uint32_t* arrived = p.arrived + blockIdx.z * gridDim.y + blockIdx.y;
        shared.last = atomicAdd(arrived, 1) + 1 == part.splits;
        if (shared.last) {
            *arrived = 0;  // for the next launch
        }
    }
    __syncthreads();
    if (!shared.last) {
        return;
    }
    __threadfence();
    for (uint32_t row = threadIdx.x / 32; row < part.n_rows; row += WARPS) {
        const uint2 at = token_and_head(part, row, shared.running, shared.n_running);
        const size_t head = static_cast<size_t>(part.span.first_row + at.x) * p.n_q_heads + at.y;
        merge_row(p, head, splits_of(p, part.span, at.x));
    }
}

template <class Kv, int DIM>
__device__ inline void attend(const AttendParams& p) {
    extern __shared__ __align__(128) unsigned char dynamic_smem[];
    Shared<Kv, DIM>& shared = *reinterpret_cast<Shared<Kv, DIM>*>(dynamic_smem);
    Part part;
    part.span_index = blockIdx.z;
    part.split = blockIdx.x;
    part.kv_head = blockIdx.y % p.kv.n_kv_heads;
    part.span = p.spans[part.span_index];
    const uint32_t group = p.n_q_heads / p.kv.n_kv_heads, row_tile = blockIdx.y / p.kv.n_kv_heads;
    if (threadIdx.x < 32) {
        const uint32_t count = list_running(p.heads, part.span_index, part.kv_head, group, shared.running);
        if (threadIdx.x == 0) {
            shared.n_running = count;
        }
    }
    __syncthreads();
    if (p.n_splits == 1 || (p.arrived != nullptr && part.split == 0)) {
        const uint32_t row_tiles = gridDim.y / p.kv.n_kv_heads;
        zero_skipped(p, part.span, part.kv_head, shared.running, shared.n_running, row_tile, row_tiles);
    }
    const uint32_t all_rows = part.span.len * shared.n_running;
    part.first_row = row_tile * TILE_ROWS;
    part.n_rows = min(all_rows - min(all_rows, part.first_row), TILE_ROWS);
    part.begin = part.split * p.split_len;
    part.end = part.begin;
    if (part.n_rows > 0) {
        const uint32_t last_token = (part.first_row + part.n_rows - 1) / shared.n_running;
        const uint32_t end = min(part.span.start + last_token + 1, p.kv.capacity);
        part.end = max(min(end, part.begin + p.split_len), part.begin);
        part.splits = (end + p.split_len - 1) / p.split_len;
    }
    const NewTokens fresh = new_tokens(p, part, shared.n_running > 0);
    if (part.begin == part.end && fresh.count == 0) {
        return;
    }
    // the first keys are on their way while rows are turned, but not those that this block writes
    Window window = {part.begin, 0};
#pragma unroll 1
    for (uint32_t pass = 0; pass < 2; pass++) {
        if ((pass == 0) == (fresh.count == 0)) {
            load_first<Kv, DIM>(window, p, part, shared);
        } else if (p.projected.k != nullptr) {
            take_projections<Kv, DIM>(p, part, fresh, shared);
            __syncthreads();
        }
    }
    if (part.n_rows == 0) {
        return;
    }
    RowsOf<Kv, DIM> rows;
    clear(rows);
    load_rows<Kv, DIM>(rows, p, part, shared);
    if (p.projected.k != nullptr) {
        __syncthreads();  // the rows' room is V's again
    }
    accumulate<Kv, DIM>(rows, p, part, window, shared);
    publish(shared.memory.states, rows);
    __syncthreads();
    write_back<Kv, DIM>(p, part, shared);
    if (p.n_splits > 1 && p.arrived != nullptr) {
        merge_if_last<Kv, DIM>(p, part, shared);
    }
}

}  // namespace moray::attention

using namespace moray::attention;

// The rest are launch bounds.
#define MORAY_DECODE_WITHIN(name, Kv, DIM, ...)                                                                              \
    MORAY_SHARED(attention_decode_##name, sizeof(Shared<Kv, DIM>))                                                          \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__) attention_decode_##name(const __grid_constant__ AttendParams p) { \
        attend<Kv, DIM>(p);                                                                                                \
    }
#define MORAY_DECODE(name, Kv, DIM) MORAY_DECODE_WITHIN(name, Kv, DIM, THREADS)

MORAY_DECODE(f16_64, F16Kv, 64)
MORAY_DECODE(f16_128, F16Kv, 128)
MORAY_DECODE(f16_256, F16Kv, 256)
MORAY_DECODE(bf16_64, Bf16Kv, 64)
MORAY_DECODE(bf16_128, Bf16Kv, 128)
MORAY_DECODE(bf16_256, Bf16Kv, 256)
// Four blocks to a multiprocessor: for a fifth the compiler spills. Three of 128 dimensions, which is what shared memory leaves room for.
MORAY_DECODE_WITHIN(int8_64, Int8Kv, 64, THREADS, 4)
MORAY_DECODE_WITHIN(int8_128, Int8Kv, 128, THREADS, 3)
MORAY_DECODE(int8_256, Int8Kv, 256)
MORAY_DECODE(f32_64, F32Kv, 64)
MORAY_DECODE(f32_128, F32Kv, 128)
// Its shared memory is more than devices from 12.0 on have, where its accumulators would not fit in registers either.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ < 1200
MORAY_DECODE(f32_256, F32Kv, 256)
#else
extern "C" __global__ void attention_decode_f32_256(const __grid_constant__ AttendParams) {}
#endif

// Merges the splits of every (token, head) in order; a head that does not run, or that holds nothing, gives zeros.
extern "C" __global__ void __launch_bounds__(THREADS) attention_merge(const __grid_constant__ AttendParams p) {
    const uint32_t head = blockIdx.x * WARPS + threadIdx.x / 32;
    const Span span = p.spans[blockIdx.z];
    if (head >= p.n_q_heads || blockIdx.y >= span.len) {
        return;
    }
    const size_t row = static_cast<size_t>(span.first_row + blockIdx.y) * p.n_q_heads + head;
    const bool runs = head_runs(p.heads, blockIdx.z, head, p.n_q_heads / p.kv.n_kv_heads);
    merge_row(p, row, runs ? splits_of(p, span, blockIdx.y) : 0);
}
