// RoPE on q and k, fused with writing K and V into the cache under a policy for skipped groups.
//
//   x'[i] = x[i] cos - x[i + h] sin,  x'[i + h] = x[i + h] cos + x[i] sin,  h = head_dim / 2, i < h
//
// | argument | dtype          | shape                               | layout                                                  |
// |----------|----------------|-------------------------------------|---------------------------------------------------------|
// | q        | f32, f16, bf16 | [M, n_q_heads, head_dim]            | rows q_stride elements apart; null: K and V only        |
// | k, v     | f32, f16, bf16 | [M, n_kv_heads, head_dim]           | rows k_stride, v_stride elements apart                  |
// | rope     | f32            | [context, head_dim]                 | h cosines, then h sines; null: no rotation              |
// | q_out    | f32            | [M, n_q_heads, head_dim]            | row-major; rows of skipped heads are left as they are   |
// | cache    | f32 to i8      | [pages, n_kv_heads, page, head_dim] | by strides, see KvView                                  |
// | present  | u32            | [slots, n_kv_heads, present_words]  | bit per position; null where no position may be missing |
//
// A group without a running head gets, by policy: its K and V all the same (WRITE_ALL), a cleared presence bit (HOLE),
// zeros (ZERO), or nothing, not even the bit (KEEP). Rounding is that of the CPU, bit for bit: each product of the rotation is rounded, f16 and bf16 to nearest
// even; int8 code = x / scale to nearest even, scale = max|x| / 127 of the row.
//
// Requires head_dim % 8 == 0, head_dim <= 256, positions below the capacity and the rope table (others are left out).
// attention_write_*: Grid (tokens of the longest span, spans, parts of the heads); Block 128, a warp a head: q heads first, then KV heads;
// Smem none.
// attention_advance: Grid (ceil(spans / 128)); Block 128.
// Source: RoFormer (arXiv 2104.09864), half-split pairing. Wrapper: src/attention/cuda.
#include "heads.cuh"
#include "kv.cuh"

namespace moray::attention {

constexpr int WARPS = 4, THREADS = 32 * WARPS;
constexpr int MAX_PAIRS = 256 / 2 / 32;  // pairs of a lane at the largest head_dim

// One head of one token: lane l holds pairs l, l + 32, ... as elements (i, i + h).
struct HeadRow {
    float low[MAX_PAIRS], high[MAX_PAIRS];
};

__device__ inline HeadRow load_head(const void* x, size_t at, Element dtype, uint32_t head_dim) {
    HeadRow row = {};
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < head_dim / 2) {
            row.low[pair] = load_element(x, at + i, dtype);
            row.high[pair] = load_element(x, at + i + head_dim / 2, dtype);
        }
    }
    return row;
}

// Turns the pairs by the angles of a position; without fused multiply-adds, as the CPU.
__device__ inline void rotate(HeadRow& row, const float* rope, uint32_t position, uint32_t head_dim) {
    if (rope == nullptr) {
        return;
    }
    const float* cosines = rope + static_cast<size_t>(position) * head_dim;
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < head_dim / 2) {
            const float cosine = cosines[i], sine = cosines[i + head_dim / 2], a = row.low[pair], b = row.high[pair];
            row.low[pair] = __fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine));
            row.high[pair] = __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine));
        }
    }
}

template <class Kv>
__device__ inline void store_head(const HeadRow& row, void* cache, float* scales, size_t at, size_t scale_at,
                                  uint32_t head_dim) {
    float scale = 0.0f, inverse = 0.0f;
    if constexpr (Kv::QUANTIZED) {
        uint32_t largest = 0;  // of the bits of |x|, whose order is that of the numbers, NaN above all
#pragma unroll
        for (int pair = 0; pair < MAX_PAIRS; pair++) {
            largest = max(largest, __float_as_uint(row.low[pair]) & 0x7fffffffu);
            largest = max(largest, __float_as_uint(row.high[pair]) & 0x7fffffffu);
        }
        largest = __reduce_max_sync(FULL_WARP, largest);
        scale = largest < 0x7f800000u ? __fdiv_rn(__uint_as_float(largest), 127.0f) : NAN;
        inverse = scale > 0.0f ? __fdiv_rn(1.0f, scale) : 0.0f;
        inverse = isfinite(inverse) ? inverse : 0.0f;
        if (threadIdx.x % 32 == 0) {
            scales[scale_at] = scale;
        }
    }
    auto* out = static_cast<typename Kv::Stored*>(cache) + at;
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i >= head_dim / 2) {
            continue;
        }
        if constexpr (Kv::QUANTIZED) {
            const auto code = [&](float x) {
                return static_cast<int8_t>(__float2int_rn(fminf(fmaxf(__fmul_rn(x, inverse), -127.0f), 127.0f)));
            };
            out[i] = code(row.low[pair]);
            out[i + head_dim / 2] = code(row.high[pair]);
        } else {
            out[i] = Kv::Compute::narrow(row.low[pair]);
            out[i + head_dim / 2] = Kv::Compute::narrow(row.high[pair]);
        }
    }
}

__device__ inline void write_query(const WriteParams& p, uint32_t row, uint32_t position, uint32_t head) {
    HeadRow values = load_head(p.q, row * p.q_stride + static_cast<size_t>(head) * p.head_dim, p.dtype, p.head_dim);
    rotate(values, p.rope, position, p.head_dim);
    float* out = p.q_out + (static_cast<size_t>(row) * p.n_q_heads + head) * p.head_dim;
#pragma unroll
    for (int pair = 0; pair < MAX_PAIRS; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < p.head_dim / 2) {
            out[i] = values.low[pair];
            out[i + p.head_dim / 2] = values.high[pair];
        }
    }
}

// Sets or clears the bit of a position. Neighbouring positions of a prompt share a word, hence the atomics; and and or give
// the same word in any order.
__device__ inline void mark(const KvView& kv, uint32_t slot, uint32_t kv_head, uint32_t position, bool present) {
    if (kv.present == nullptr || threadIdx.x % 32 != 0) {
        return;
    }
    uint32_t* word = presence_of(kv, slot, kv_head) + position / 32;
    const uint32_t bit = 1u << (position % 32);
    if (present) {
        atomicOr(word, bit);
    } else {
        atomicAnd(word, ~bit);
    }
}

template <class Kv>
__device__ inline void write_key_value(const WriteParams& p, const Span& span, uint32_t span_index, uint32_t row,
                                       uint32_t position, uint32_t kv_head) {
    const bool projected =
        p.policy == WRITE_ALL || group_runs(p.heads, span_index, kv_head, p.n_q_heads / p.kv.n_kv_heads);
    if (!projected && p.policy == KEEP) {
        return;
    }
    if (projected || p.policy == ZERO) {
        const Place place = place_of(p.kv, span.slot, position);
        const size_t at = row_offset(p.kv, place, kv_head), scale_at = scale_offset(p.kv, place, kv_head);
        HeadRow k = {}, v = {};
        if (projected) {
            const size_t column = static_cast<size_t>(kv_head) * p.head_dim;
            k = load_head(p.k, row * p.k_stride + column, p.dtype, p.head_dim);
            v = load_head(p.v, row * p.v_stride + column, p.dtype, p.head_dim);
            rotate(k, p.rope, position, p.head_dim);
        }
        store_head<Kv>(k, p.kv.k, p.kv.k_scale, at, scale_at, p.head_dim);
        store_head<Kv>(v, p.kv.v, p.kv.v_scale, at, scale_at, p.head_dim);
    }
    mark(p.kv, span.slot, kv_head, position, projected || p.policy == ZERO);
}

template <class Kv>
__device__ inline void write_token(const WriteParams& p) {
    const Span span = p.spans[blockIdx.y];
    const uint32_t position = span.start + blockIdx.x, row = span.first_row + blockIdx.x;
    if (blockIdx.x >= span.len || position >= p.kv.capacity) {
        return;
    }
    const uint32_t q_heads = p.q == nullptr ? 0 : p.n_q_heads;
    for (uint32_t item = blockIdx.z * WARPS + threadIdx.x / 32; item < q_heads + p.kv.n_kv_heads; item += gridDim.z * WARPS) {
        if (item >= q_heads) {
            write_key_value<Kv>(p, span, blockIdx.y, row, position, item - q_heads);
        } else if (head_runs(p.heads, blockIdx.y, item, p.n_q_heads / p.kv.n_kv_heads)) {
            write_query(p, row, position, item);
        }
    }
}

}  // namespace moray::attention

using namespace moray::attention;

#define MORAY_WRITE(name, Kv)                                                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) attention_write_##name(const __grid_constant__ WriteParams p) { \
        write_token<Kv>(p);                                                                                             \
    }

MORAY_WRITE(f16, F16Kv)
MORAY_WRITE(bf16, Bf16Kv)
MORAY_WRITE(int8, Int8Kv)
MORAY_WRITE(f32, F32Kv)

// start += len for every span: the next step of a captured graph continues where this one ended. Spans of length 0 stay.
extern "C" __global__ void __launch_bounds__(THREADS) attention_advance(const __grid_constant__ AdvanceParams p) {
    const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
    if (i < p.n_spans) {
        p.spans[i].start += p.spans[i].len;
    }
}
