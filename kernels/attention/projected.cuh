// The projections of new tokens: RoPE, and K and V on their way into the cache. A warp has a head.
//
//   x'[i] = x[i] cos - x[i + h] sin,  x'[i + h] = x[i + h] cos + x[i] sin,  h = head_dim / 2, i < h
//
// Rounding is that of the CPU, bit for bit: each product of the rotation is rounded, f16 and bf16 to nearest even; int8 code = x / scale to
// nearest even, scale = max|x| / 127 of the row.
// Source: RoFormer (arXiv 2104.09864), half-split pairing.
#pragma once

#include "common/reduce.cuh"
#include "kv.cuh"

namespace moray::attention {

// Pairs of a lane for heads of up to DIM.
template <int DIM>
constexpr int PAIRS = DIM / 2 / 32;

// One head of one token: lane l holds pairs l, l + 32, ... as elements (i, i + h).
template <int DIM>
struct HeadRow {
    float low[PAIRS<DIM>], high[PAIRS<DIM>];
};

template <int DIM>
__device__ inline HeadRow<DIM> load_head(const void* x, size_t at, Element dtype, uint32_t head_dim) {
    HeadRow<DIM> row = {};
#pragma unroll
    for (int pair = 0; pair < PAIRS<DIM>; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < head_dim / 2) {
            row.low[pair] = load_element(x, at + i, dtype);
            row.high[pair] = load_element(x, at + i + head_dim / 2, dtype);
        }
    }
    return row;
}

// Turns the pairs by the angles of a position; without fused multiply-adds, as the CPU.
template <int DIM>
__device__ inline void rotate(HeadRow<DIM>& row, const float* rope, uint32_t position, uint32_t head_dim) {
    if (rope == nullptr) {
        return;
    }
    const float* cosines = rope + static_cast<size_t>(position) * head_dim;
#pragma unroll
    for (int pair = 0; pair < PAIRS<DIM>; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < head_dim / 2) {
            const float cosine = cosines[i], sine = cosines[i + head_dim / 2], a = row.low[pair], b = row.high[pair];
            row.low[pair] = __fsub_rn(__fmul_rn(a, cosine), __fmul_rn(b, sine));
            row.high[pair] = __fadd_rn(__fmul_rn(b, cosine), __fmul_rn(a, sine));
        }
    }
}

template <class Kv, int DIM>
__device__ inline void store_head(const HeadRow<DIM>& row, void* cache, float* scales, size_t at, size_t scale_at,
                                  uint32_t head_dim) {
    float scale = 0.0f, inverse = 0.0f;
    if constexpr (Kv::QUANTIZED) {
        uint32_t largest = 0;  // of the bits of |x|, whose order is that of the numbers, NaN above all
#pragma unroll
        for (int pair = 0; pair < PAIRS<DIM>; pair++) {
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
    for (int pair = 0; pair < PAIRS<DIM>; pair++) {
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

// A query head of a row, turned.
template <int DIM>
__device__ inline HeadRow<DIM> turned_query(const ProjectedView& from, uint32_t row, uint32_t position, uint32_t head, uint32_t head_dim) {
    HeadRow<DIM> q = load_head<DIM>(from.q, row * from.q_stride + static_cast<size_t>(head) * head_dim, from.dtype, head_dim);
    rotate(q, from.rope, position, head_dim);
    return q;
}

template <int DIM>
__device__ inline void store_query(const HeadRow<DIM>& q, float* out, uint32_t head_dim) {
#pragma unroll
    for (int pair = 0; pair < PAIRS<DIM>; pair++) {
        const uint32_t i = threadIdx.x % 32 + 32 * pair;
        if (i < head_dim / 2) {
            out[i] = q.low[pair];
            out[i + head_dim / 2] = q.high[pair];
        }
    }
}

// What the cache gets of a token for a KV head: its projections, zeros, or nothing.
enum class Content { PROJECTED, ZEROS, NOTHING };

__device__ inline Content content_of(const ProjectedView& from, bool runs) {
    if (runs || from.policy == WRITE_ALL) {
        return Content::PROJECTED;
    }
    return from.policy == ZERO ? Content::ZEROS : Content::NOTHING;
}

// Where a token goes: its row of the projections, its position and the KV head.
struct NewRow {
    uint32_t row, slot, position, kv_head;
};

template <class Kv, int DIM>
__device__ inline void write_key(const ProjectedView& from, const KvView& kv, const NewRow& at, Content what, uint32_t head_dim) {
    if (what != Content::NOTHING) {
        HeadRow<DIM> k = {};
        if (what == Content::PROJECTED) {
            k = load_head<DIM>(from.k, at.row * from.k_stride + static_cast<size_t>(at.kv_head) * head_dim, from.dtype, head_dim);
            rotate(k, from.rope, at.position, head_dim);
        }
        const Place place = place_of(kv, at.slot, at.position);
        const size_t scale_at = scale_offset(kv, place, at.kv_head);
        store_head<Kv>(k, kv.k, kv.k_scale, row_offset(kv, place, at.kv_head), scale_at, head_dim);
    }
    if (what != Content::NOTHING || from.policy != KEEP) {
        mark(kv, at.slot, at.kv_head, at.position, what != Content::NOTHING);
    }
}

template <class Kv, int DIM>
__device__ inline void write_value(const ProjectedView& from, const KvView& kv, const NewRow& at, Content what, uint32_t head_dim) {
    if (what == Content::NOTHING) {
        return;
    }
    HeadRow<DIM> v = {};
    if (what == Content::PROJECTED) {
        v = load_head<DIM>(from.v, at.row * from.v_stride + static_cast<size_t>(at.kv_head) * head_dim, from.dtype, head_dim);
    }
    const Place place = place_of(kv, at.slot, at.position);
    store_head<Kv>(v, kv.v, kv.v_scale, row_offset(kv, place, at.kv_head), scale_offset(kv, place, at.kv_head), head_dim);
}

}  // namespace moray::attention
