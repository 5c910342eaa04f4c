// Sixteen query rows of one warp against tiles of keys: scores, the online softmax, the weighted sum of values.
//
//   m' = max(m, max_j s_j),  l' = l 2^(m - m') + sum_j 2^(s_j - m'),  o' = o 2^(m - m') + sum_j 2^(s_j - m') v_j
//
// Scores carry a factor log2(e) / sqrt(head_dim) from q, so that weights are powers of two. Weights are rounded to 16 bits
// before they multiply V, and l sums the rounded ones (as one more column of the product, all ones), so that their rounding
// cannot make the mean of equal values another. A row that has seen nothing has m = -inf, l = 0, o = 0.
//
// Source: Milakov and Gimelshein (arXiv 1805.02867); FlashAttention-2 (arXiv 2307.08691).
#pragma once

#include "common/reduce.cuh"
#include "kv.cuh"

namespace moray::attention {

// Rows of a warp's tile: the M of an mma.
constexpr int TILE_ROWS = 16;

// Whether a lane keeps its fragment of q in registers; at 256 dimensions there is no room beside the accumulators.
template <int DIM>
constexpr bool Q_IN_REGISTERS = DIM <= 128;

// A warp's fragments of q in shared memory: (k-step, lane) -> the four registers of an A operand.
template <int DIM>
struct Queries {
    uint4 frag[Q_IN_REGISTERS<DIM> ? 1 : DIM / 16][32];
};

// A lane holds rows lane / 4 and lane / 4 + 8.
template <int DIM>
struct Rows {
    uint32_t q_frag[Q_IN_REGISTERS<DIM> ? DIM / 16 : 1][4];  // (k-step, reg) -> (row, dimension)
    float out_frag[DIM / 8][4];    // (n-tile, val) -> (row, dimension)
    float sum_frag[4];             // (val) -> (row, any column)
    float maximum[2];
    uint32_t last[2];              // last position that the row may see
};

template <int DIM>
__device__ inline void clear(Rows<DIM>& rows) {
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

// Reads a lane's two rows of q, times `factor`; null: a row of padding, whose weights are computed and never used. Where warps
// share `queries_smem`, one of them writes it.
template <class E, int DIM>
__device__ inline void load_queries(Rows<DIM>& rows, Queries<DIM>& queries_smem, const float* const (&q)[2],
                                    uint32_t head_dim, float factor, bool writes) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t frag[4];
#pragma unroll
        for (int reg = 0; reg < 4; reg++) {
            const int dim = step * 16 + reg / 2 * 8 + 2 * (lane % 4);
            float2 pair = {0.0f, 0.0f};
            if (q[reg % 2] != nullptr && dim < head_dim) {
                pair = *reinterpret_cast<const float2*>(q[reg % 2] + dim);
            }
            frag[reg] = E::pack(pair.x * factor, pair.y * factor);
            if constexpr (Q_IN_REGISTERS<DIM>) {
                rows.q_frag[step][reg] = frag[reg];
            }
        }
        if constexpr (!Q_IN_REGISTERS<DIM>) {
            if (writes) {
                queries_smem.frag[step][lane] = make_uint4(frag[0], frag[1], frag[2], frag[3]);
            }
        }
    }
}

// score[16, KEYS] = q k^T for the keys from key0 on.
template <class E, int DIM, int KEYS>
__device__ inline void multiply_keys(float (&score)[KEYS / 8][4], const Rows<DIM>& rows,
                                     const Queries<DIM>& queries_smem, const uint16_t* k_smem, int key0) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
        for (int val = 0; val < 4; val++) {
            score[n][val] = 0.0f;
        }
    }
#pragma unroll
    for (int step = 0; step < DIM / 16; step++) {
        uint32_t q_frag[4];
        if constexpr (Q_IN_REGISTERS<DIM>) {
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

// Sets the scores of keys that a row may not see to -inf; bit i of `visible` is the key at position first + i.
template <int DIM, int KEYS>
__device__ inline void hide_keys(float (&score)[KEYS / 8][4], const Rows<DIM>& rows, uint64_t visible, uint32_t first) {
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

// Turns scores into weights and brings what the rows have accumulated to their new maxima.
template <class E, int DIM, int KEYS>
__device__ inline void weigh_keys(uint32_t (&weight_frag)[KEYS / 16][4], Rows<DIM>& rows, float (&score)[KEYS / 8][4]) {
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
            weight_frag[n / 2][row + 2 * (n % 2)] = E::pack(low, high);
        }
    }
}

// out += weights v, and the sums of the weights.
template <class E, int DIM, int KEYS>
__device__ inline void add_values(Rows<DIM>& rows, const uint32_t (&weight_frag)[KEYS / 16][4], const uint16_t* v_smem,
                                  int key0) {
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

// Writes two weighted sums divided by the sum of weights; nothing to attend to gives zeros.
__device__ inline void store_mean(void* out, size_t at, Element dtype, float low, float high, float sum) {
    const bool any = sum > 0.0f;
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
