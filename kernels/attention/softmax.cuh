// Sixteen query rows of one warp against tiles of keys: scores, the online softmax, the weighted sum of values.
//
//   m' = max(m, max_j s_j),  l' = l 2^(m - m') + sum_j 2^(s_j - m'),  o' = o 2^(m - m') + sum_j 2^(s_j - m') v_j
//
// Scores carry a factor log2(e) / sqrt(head_dim) from q, so that weights are powers of two. Weights are rounded to 16 bits
// before they multiply V (over f32 caches to two tf32 numbers), and l sums the rounded ones (as one more column of the product, all ones), so that their rounding
// cannot make the mean of equal values another. A row that has seen nothing has m = -inf, l = 0, o = 0.
//
// Source: Milakov and Gimelshein (arXiv 1805.02867); FlashAttention-2 (arXiv 2307.08691).
#pragma once

#include "common/reduce.cuh"
#include "kv.cuh"

namespace moray::attention {

// Rows of a warp's tile: the M of an mma.
constexpr int TILE_ROWS = 16;

// Whether a lane keeps its fragment of q in registers; at 256 dimensions, and in f32, there is no room beside the accumulators.
template <class E, int DIM>
constexpr bool Q_IN_REGISTERS = !E::WIDE && DIM <= 128;

// A warp's fragments of q in shared memory: (k-step, lane) -> the four registers of an A operand.
template <class E, int DIM>
struct Queries {
    uint4 frag[Q_IN_REGISTERS<E, DIM> ? 1 : DIM / E::STEP][32];
};

// A lane holds rows lane / 4 and lane / 4 + 8.
template <class E, int DIM>
struct Rows {
    uint32_t q_frag[Q_IN_REGISTERS<E, DIM> ? DIM / 16 : 1][4];  // (k-step, reg) -> (row, dimension)
    float out_frag[DIM / 8][4];    // (n-tile, val) -> (row, dimension)
    float sum_frag[4];             // (val) -> (row, any column)
    float maximum[2];
    uint32_t last[2];              // last position that the row may see
};

// The rows of a kernel over a cache of type Kv.
template <class Kv, int DIM>
using RowsOf = Rows<typename Kv::Compute, DIM>;

template <class E, int DIM>
__device__ inline void clear(Rows<E, DIM>& rows) {
#pragma unroll
    for (int n = 0; n < DIM / 8; n++) {
#pragma unroll
        for (int val = 0; val < 4; val++) {
            rows.out_frag[n][val] = 0.0f;
        }
    }
#pragma unroll
    for (int val = 0; val < 4; val++) {
        rows.sum_frag[val] = 0.0f;
    }
    rows.maximum[0] = rows.maximum[1] = -INFINITY;
}

// The dimensions of a k-step that a register of an A operand holds: two neighbours in 16 bits; in f32 one, where the pairs of
// lane % 4 stand for k and k + 4, in K as in q.
template <class E>
__device__ __forceinline__ uint32_t query_register(const float* row, int step, int reg, uint32_t head_dim, float factor) {
    const int dim = step * E::STEP + (E::WIDE ? 0 : reg / 2 * 8) + 2 * (threadIdx.x % 4);
    float2 pair = {0.0f, 0.0f};
    if (row != nullptr && dim < head_dim) {
        pair = *reinterpret_cast<const float2*>(row + dim);
    }
    if constexpr (E::WIDE) {
        return __float_as_uint((reg / 2 ? pair.y : pair.x) * factor);
    } else {
        return E::pack(pair.x * factor, pair.y * factor);
    }
}

// Reads a lane's two rows of q, times `factor`; null: a row of padding, whose weights are computed and never used. Where warps
// share `queries_smem`, one of them writes it.
template <class E, int DIM>
__device__ inline void load_queries(Rows<E, DIM>& rows, Queries<E, DIM>& queries_smem, const float* const (&q)[2],
                                    uint32_t head_dim, float factor, bool writes) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < DIM / E::STEP; step++) {
        uint32_t frag[4];
#pragma unroll
        for (int reg = 0; reg < 4; reg++) {
            frag[reg] = query_register<E>(q[reg % 2], step, reg, head_dim, factor);
            if constexpr (Q_IN_REGISTERS<E, DIM>) {
                rows.q_frag[step][reg] = frag[reg];
            }
        }
        if constexpr (!Q_IN_REGISTERS<E, DIM>) {
            if (writes) {
                queries_smem.frag[step][lane] = make_uint4(frag[0], frag[1], frag[2], frag[3]);
            }
        }
    }
}

// The four values of an A operand as sums of two.
__device__ __forceinline__ void split_operand(uint32_t (&high)[4], uint32_t (&low)[4], const uint32_t (&a)[4]) {
#pragma unroll
    for (int reg = 0; reg < 4; reg++) {
        const Parts parts = split(__uint_as_float(a[reg]));
        high[reg] = parts.high;
        low[reg] = parts.low;
    }
}

// multiply_keys in f32.
template <int DIM, int KEYS>
__device__ inline void add_wide_scores(float (&score)[KEYS / 8][4], const Queries<Single, DIM>& queries_smem,
                                       const float* k_smem, int key0) {
    const int lane = threadIdx.x % 32;
#pragma unroll 2
    for (int step = 0; step < DIM / 8; step++) {
        const uint4 words = queries_smem.frag[step][lane];
        const uint32_t q_frag[4] = {words.x, words.y, words.z, words.w};
        uint32_t high[4], low[4];
        split_operand(high, low, q_frag);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            const int key = key0 + n * 8 + lane / 4, chunk = step * 2 + lane % 4 / 2;
            const float2 k = *reinterpret_cast<const float2*>(&k_smem[wide_offset<DIM>(key, chunk) + 2 * (lane % 2)]);
            Single::multiply(score[n], high, low, k.x, k.y);
        }
    }
}

// multiply_keys in 16 bits.
template <class E, int DIM, int KEYS>
__device__ inline void add_narrow_scores(float (&score)[KEYS / 8][4], const Rows<E, DIM>& rows,
                                         const Queries<E, DIM>& queries_smem, const uint16_t* k_smem, int key0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t q_frag[4];
        if constexpr (Q_IN_REGISTERS<E, DIM>) {
#pragma unroll
            for (int reg = 0; reg < 4; reg++) {
                q_frag[reg] = rows.q_frag[step][reg];
            }
        } else {
            const uint4 words = queries_smem.frag[step][lane];
            q_frag[0] = words.x, q_frag[1] = words.y, q_frag[2] = words.z, q_frag[3] = words.w;
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            uint32_t k_frag[4];  // (n-tile, k half)
            const int key = key0 + n * 8 + lane / 16 * 8 + lane % 8, chunk = step * 2 + lane / 8 % 2;
            ldmatrix_x4(k_frag, shared_address(k_smem + tile_offset<DIM>(key, chunk)));
            E::multiply(score[n], q_frag, k_frag[0], k_frag[1]);
            E::multiply(score[n + 1], q_frag, k_frag[2], k_frag[3]);
        }
    }
}

// score[16, KEYS] = q k^T for the keys from key0 on.
template <class E, int DIM, int KEYS>
__device__ inline void multiply_keys(float (&score)[KEYS / 8][4], const Rows<E, DIM>& rows,
                                     const Queries<E, DIM>& queries_smem, const typename E::Element* k_smem, int key0) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int val = 0; val < 4; val++) {
            score[n][val] = 0.0f;
        }
    }
    if constexpr (E::WIDE) {
        add_wide_scores<DIM, KEYS>(score, queries_smem, k_smem, key0);
    } else {
        add_narrow_scores<E, DIM, KEYS>(score, rows, queries_smem, k_smem, key0);
    }
}

// Sets the scores of keys that a row may not see to -inf; bit i of `visible` is the key at position first + i.
template <class E, int DIM, int KEYS>
__device__ inline void hide_keys(float (&score)[KEYS / 8][4], const Rows<E, DIM>& rows, uint64_t visible, uint32_t first) {
    constexpr uint64_t ALL = KEYS == 64 ? ~0ull : (1ull << KEYS % 64) - 1;
    const bool whole = (visible & ALL) == ALL && first + KEYS - 1 <= min(rows.last[0], rows.last[1]);
    if (__all_sync(FULL_WARP, whole)) {
        return;
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int val = 0; val < 4; val++) {
            const int key = n * 8 + 2 * (threadIdx.x % 4) + val % 2;
            if (!(visible >> key & 1) || first + key > rows.last[val / 2]) {
                score[n][val] = -INFINITY;
            }
        }
    }
}

// Turns scores into weights, A operands of k-steps of keys, and brings what the rows have accumulated to their new maxima.
template <class E, int DIM, int KEYS>
__device__ inline void weigh_keys(uint32_t (&weight_frag)[KEYS / E::STEP][4], Rows<E, DIM>& rows,
                                  float (&score)[KEYS / 8][4]) {
#pragma unroll
    for (int row = 0; row < 2; row++) {
        float largest = rows.maximum[row];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            largest = fmaxf(largest, fmaxf(score[n][2 * row], score[n][2 * row + 1]));
        }
        // The four lanes of a quad hold the row's columns.
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(FULL_WARP, largest, 2));
        const float base = largest == -INFINITY ? 0.0f : largest;  // -inf - -inf would be NaN
        const float keep = exp2_approx(rows.maximum[row] - base);
        rows.maximum[row] = largest;
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            rows.out_frag[n][2 * row] *= keep;
            rows.out_frag[n][2 * row + 1] *= keep;
        }
        rows.sum_frag[2 * row] *= keep;
        rows.sum_frag[2 * row + 1] *= keep;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            const float low = exp2_approx(score[n][2 * row] - base), high = exp2_approx(score[n][2 * row + 1] - base);
            if constexpr (E::WIDE) {
                weight_frag[n][row] = __float_as_uint(low);  // keys 2 (lane % 4) and the next stand for k and k + 4
                weight_frag[n][row + 2] = __float_as_uint(high);
            } else {
                weight_frag[n / 2][row + 2 * (n % 2)] = E::pack(low, high);
            }
        }
    }
}

// add_values in f32.
template <int DIM, int KEYS>
__device__ inline void add_wide_values(Rows<Single, DIM>& rows, const uint32_t (&weight_frag)[KEYS / 8][4],
                                       const float* v_smem, int key0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < KEYS / 8; step++) {
        uint32_t high[4], low[4];
        split_operand(high, low, weight_frag[step]);
        const int key = key0 + step * 8 + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < DIM / 8; n++) {
            const int chunk = n * 2 + lane / 16, at = lane / 4 % 4;
            Single::multiply(rows.out_frag[n], high, low, v_smem[wide_offset<DIM>(key, chunk) + at],
                             v_smem[wide_offset<DIM>(key + 1, chunk) + at]);
        }
        mma_tf32(rows.sum_frag, low, Single::ONES, Single::ONES);
        mma_tf32(rows.sum_frag, high, Single::ONES, Single::ONES);
    }
}

// add_values in 16 bits.
template <class E, int DIM, int KEYS>
__device__ inline void add_narrow_values(Rows<E, DIM>& rows, const uint32_t (&weight_frag)[KEYS / 16][4],
                                         const uint16_t* v_smem, int key0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) {
#pragma unroll
        for (int n = 0; n < DIM / 8; n += 2) {
            uint32_t v_frag[4];  // (n-tile, key half)
            const int key = key0 + step * 16 + lane / 8 % 2 * 8 + lane % 8, chunk = n + lane / 16;
            ldmatrix_x4_trans(v_frag, shared_address(v_smem + tile_offset<DIM>(key, chunk)));
            E::multiply(rows.out_frag[n], weight_frag[step], v_frag[0], v_frag[1]);
            E::multiply(rows.out_frag[n + 1], weight_frag[step], v_frag[2], v_frag[3]);
        }
        E::multiply(rows.sum_frag, weight_frag[step], E::ONES, E::ONES);
    }
}

// out += weights v, and the sums of the weights.
template <class E, int DIM, int KEYS>
__device__ inline void add_values(Rows<E, DIM>& rows, const uint32_t (&weight_frag)[KEYS / E::STEP][4],
                                  const typename E::Element* v_smem, int key0) {
    if constexpr (E::WIDE) {
        add_wide_values<DIM, KEYS>(rows, weight_frag, v_smem, key0);
    } else {
        add_narrow_values<E, DIM, KEYS>(rows, weight_frag, v_smem, key0);
    }
}

// Writes two neighbouring outputs in the type asked for.
__device__ inline void store_pair(void* out, size_t at, Element dtype, float low, float high) {
    if (dtype == Element::f16) {
        static_cast<uint32_t*>(out)[at / 2] = Half::pack(low, high);
    } else if (dtype == Element::bf16) {
        static_cast<uint32_t*>(out)[at / 2] = Bfloat::pack(low, high);
    } else {
        reinterpret_cast<float2*>(out)[at / 2] = make_float2(low, high);
    }
}

// Writes two weighted sums divided by the sum of weights; nothing to attend to gives zeros, and scores that are no numbers NaN.
__device__ inline void store_mean(void* out, size_t at, Element dtype, float low, float high, float sum) {
    const bool any = sum != 0.0f;  // also of NaN
    store_pair(out, at, dtype, any ? __fdiv_rn(low, sum) : 0.0f, any ? __fdiv_rn(high, sum) : 0.0f);
}

// Zeroes the outputs of a group's query heads that are not in the list, for the tokens first, first + step, ... of a span.
// The lists of running heads are sorted; one warp's lanes share the columns.
__device__ inline void zero_skipped(const AttendParams& p, const Span& span, uint32_t kv_head, const uint16_t* running_smem,
                                    uint32_t n_running, uint32_t first, uint32_t step) {
    const uint32_t group = p.n_q_heads / p.kv.n_kv_heads;
    if (n_running == group) {
        return;
    }
    for (uint32_t token = first; token < span.len; token += step) {
        uint32_t next = 0;
        for (uint32_t i = 0; i < group; i++) {
            const uint32_t head = kv_head * group + i;
            if (next < n_running && running_smem[next] == head) {
                next++;
                continue;
            }
            const size_t row = (static_cast<size_t>(span.first_row + token) * p.n_q_heads + head) * p.head_dim;
            for (uint32_t dim = 2 * threadIdx.x; dim < p.head_dim; dim += 2 * blockDim.x) {
                store_pair(p.out, row + dim, p.out_dtype, 0.0f, 0.0f);
            }
        }
    }
}

}  // namespace moray::attention
