// A block's part of a product of few tokens in floating point: it quantizes all of them for itself, and its teams multiply rows of tiles.
#pragma once

#include "common/activation.cuh"
#include "common/norm.cuh"
#include "w4a8/gemv.cuh"
#include "w4a8/quantize.cuh"

namespace moray {

constexpr uint32_t MAX_BYTES = 16384;  // of codes: M · padded K
// Times four values of a token that a thread holds; what is past them is loaded twice.
template <typename T>
constexpr uint32_t KEPT = sizeof(T) == 4 ? 4 : 2;

// Words from one token's codes to the next: an odd number of half the banks, so that the lanes of two tokens read different ones.
__device__ __forceinline__ uint32_t token_words(uint32_t k) { return padded(k) / 4 | 16; }

template <typename W, uint32_t TEAMS>
struct Shared {
    union {
        int32_t teams[TEAMS][TEAM_WORDS<W>];
        float squares[2][4 * TEAM * TEAMS];  // values whose squares are added, a piece after another
    };
    uint32_t codes[MAX_BYTES / 4 + TOKENS * 16];         // (token, two steps of K, quarter4, (step2, half2)) -> four codes
    int32_t sums[MAX_BYTES / 32];                        // (part, token), or (token) over all K
    float scales[MAX_BYTES / ACT_BLOCK + TOKENS];        // (token), or fine (block, token)
    uint32_t maxima[32];
    int32_t total;
    float factor;
};

// Quantized tokens in shared memory.
template <typename W, uint32_t TEAMS>
struct BlockTokens {
    static constexpr uint32_t STEPS = 2;

    const Shared<W, TEAMS>& shared;
    const uint32_t* x;  // of this lane
    uint32_t m;

    __device__ __forceinline__ void load(uint32_t (&b)[STEPS][2], uint32_t step, uint32_t end) const {
        uint4 two = {0, 0, 0, 0};
        if (step < end) two = *reinterpret_cast<const uint4*>(x + step * 8);
        b[0][0] = two.x, b[0][1] = two.y, b[1][0] = two.z, b[1][1] = two.w;
    }
    __device__ __forceinline__ float scale(uint32_t token, uint32_t block = 0) const { return shared.scales[block * m + token]; }
    __device__ __forceinline__ int32_t sum(uint32_t token, uint32_t part = 0) const { return shared.sums[part * m + token]; }
};

constexpr uint32_t ALL_K = 3;  // of levels of sums

// Where the codes of a token go in shared memory.
template <typename W, uint32_t TEAMS>
struct BlockCodes {
    Shared<W, TEAMS>& shared;
    uint32_t token, m, words;
    uint32_t level;  // of the sums that are kept

    __device__ __forceinline__ void codes(uint32_t k, uint32_t word) const {
        const uint32_t at = k / 4 % 8;  // in its step
        shared.codes[token * words + k / 64 * 16 + at % 4 * 4 + k / 32 % 2 * 2 + at / 4] = word;
    }
    __device__ __forceinline__ void sum(uint32_t of, uint32_t group, int32_t sum) const {
        if (of == level) shared.sums[group * m + token] = sum;
    }
    __device__ __forceinline__ void scale(float scale, uint32_t block) const { shared.scales[block * m + token] = scale; }
    __device__ __forceinline__ void total(int32_t sum) const {
        if (level == ALL_K) shared.sums[token] = sum;
    }
};

// The values of a token: x, and then, or at once, with its norm.
template <typename T>
struct TokenValues {
    const T* x;
    const float* norm;
    float inverse;

    __device__ __forceinline__ void load(float (&v)[4], uint32_t k) const {
        load_4(v, x + k);
        normalise(v, k);
    }
    __device__ __forceinline__ void normalise(float (&v)[4], uint32_t k) const {
        if (norm == nullptr) return;
        float w[4];
        load_4(w, norm + k);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = __fmul_rn(__fmul_rn(v[i], inverse), w[i]);
    }
};

// RMSNorm's factor of a token of which the first values are in `kept`: `block_rms_factor`, with its bits, of values that are loaded once.
// While the first warp adds the squares of a piece, the others bring the next.
template <uint32_t THREADS, typename T>
__device__ __forceinline__ float rms_factor(const float (&kept)[KEPT<T>][4], const T* x, uint32_t k_end, float eps,
                                            float (&squares_smem)[2][4 * THREADS], float* factor_smem) {
    constexpr uint32_t STRIDE = 4 * THREADS;
    float squares = 0.0f;
    const auto add = [&](uint32_t piece, const float (&v)[4]) {
        float* piece_smem = squares_smem[piece % 2];
        *reinterpret_cast<float4*>(piece_smem + 4 * threadIdx.x) = make_float4(v[0], v[1], v[2], v[3]);
        __syncthreads();
        if (threadIdx.x >= 32) return;
        const uint32_t count = min(k_end - piece * STRIDE, STRIDE);
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < count; i += 32) squares = __fmaf_rn(piece_smem[i], piece_smem[i], squares);
    };
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT<T>; ++piece) {
        if (piece * STRIDE < k_end) add(piece, kept[piece]);
    }
#pragma unroll 1
    for (uint32_t piece = KEPT<T>; piece * STRIDE < k_end; ++piece) {
        const uint32_t k = piece * STRIDE + 4 * threadIdx.x;
        float v[4] = {};
        if (k < k_end) load_4(v, x + k);
        add(piece, v);
    }
    if (threadIdx.x < 32) {
        const float factor = rms_of_squares(squares, k_end, eps);
        if (threadIdx.x == 0) *factor_smem = factor;
    }
    __syncthreads();
    return *factor_smem;
}

// Quantizes the tokens of x, or their RMSNorm, into shared memory.
template <typename W, uint32_t TEAMS, typename T>
__device__ __forceinline__ void quantize_tokens(const GemvParams& q, const float* norm, Shared<W, TEAMS>& shared) {
    constexpr uint32_t THREADS = TEAM * TEAMS;
    const LinearParams& p = q.linear;
    uint32_t level = ALL_K;
    if (W::GROUPED) level = p.group_size / 64;  // of 32, 64, 128
    else if (p.fine) level = 2;
#pragma unroll 1
    for (uint32_t token = 0; token < p.m; ++token) {
        if (threadIdx.x == 0) shared.total = 0;
        TokenValues<T> values = {static_cast<const T*>(q.x) + size_t(token) * p.k, nullptr, 1.0f};
        float kept[KEPT<T>][4];
        load_kept<THREADS>(kept, values, p.k);
        if (norm != nullptr) {
            values.inverse = rms_factor<THREADS>(kept, values.x, p.k, q.eps, shared.squares, &shared.factor);
            values.norm = norm;
#pragma unroll
            for (uint32_t piece = 0; piece < KEPT<T>; ++piece) {
                const uint32_t k = piece * 4 * THREADS + 4 * threadIdx.x;
                if (k < p.k) values.normalise(kept[piece], k);
            }
        }
        const BlockCodes<W, TEAMS> out = {shared, token, p.m, token_words(p.k), level};
        quantize_token<THREADS>(kept, values, p.k, p.fine, out, shared.maxima, &shared.total);
    }
    __syncthreads();
}

constexpr uint32_t NO_ROW = 0xffffffffu;

// The rows of tiles of a team; gated, those of gates, each followed by its up's.
struct Rows {
    uint32_t count, up, stride;
    bool gated;

    template <uint32_t TEAMS>
    __device__ static Rows of(const GemvParams& q, bool gated) {
        const uint32_t count = tiles_n(q.linear.n);
        return {count, gated ? count / 2 : count, gridDim.x * TEAMS, gated};
    }
    __device__ __forceinline__ uint32_t first() const {
        // neighbouring blocks, which neighbouring multiprocessors have, before a block's second team
        const uint32_t row = threadIdx.x / TEAM * gridDim.x + blockIdx.x;
        return row < up ? row : NO_ROW;
    }
    __device__ __forceinline__ bool is_gate(uint32_t row) const { return gated && row < up; }
    __device__ __forceinline__ uint32_t after(uint32_t row) const {
        if (is_gate(row)) return row + up;
        const uint32_t next = row - (gated ? up : 0) + stride;
        return next < up ? next : NO_ROW;
    }
};

// Multiplies the rows of tiles of this block's teams. While one is multiplied, the first weights of the next come to the second-level cache.
template <typename W, uint32_t TEAMS, bool FINE>
__device__ __forceinline__ void multiply_rows(const GemvParams& q, const Rows& rows, Shared<W, TEAMS>& shared) {
    const LinearParams& p = q.linear;
    const uint32_t team = threadIdx.x / TEAM, thread = threadIdx.x % TEAM, token = thread / TILE_N;
    const BlockTokens<W, TEAMS> tokens = {shared, shared.codes + threadIdx.x % 32 / 4 * token_words(p.k) + threadIdx.x % 4 * 4, p.m};
    uint32_t slot = 0;
    float gate = 0.0f;
    for (uint32_t row = rows.first(); row != NO_ROW; row = rows.after(row)) {
        const uint32_t next = rows.after(row);
        if (next != NO_ROW) Unit<W>::prefetch(p, next, thread / 32);
        const float sum = row_output<W, FINE, TEAMS>(p, tokens, row, shared.teams[team], slot);
        const uint32_t n = row * TILE_N + thread % TILE_N;
        if (token >= p.m || n >= p.n) continue;
        const float v = output(p, token, n, sum, FINE ? 1.0f : tokens.scale(token));
        if (rows.is_gate(row)) {
            gate = v;
        } else if (rows.gated) {
            const float hidden = __fmul_rn(activate(Activation(q.activation), gate), v);
            store_element(p.y, size_t(token) * (p.n / 2) + n - p.n / 2, p.element, hidden);
        } else {
            store_element(p.y, size_t(token) * p.n + n, p.element, v);
        }
    }
}

// Brings the first weights of this block's teams to the second-level cache.
template <typename W>
__device__ __forceinline__ void ask_ahead(const GemvParams& q, const Rows& rows) {
    if (rows.first() == NO_ROW) return;
    const uint32_t warp = threadIdx.x % TEAM / 32;
    Unit<W>::prefetch(q.linear, rows.first(), warp);
    Unit<W>::prefetch(q.linear, rows.first(), WARPS + warp);
}

// Multiplies with the quantized tokens.
template <typename W, uint32_t TEAMS>
__device__ __forceinline__ void multiply_rows(const GemvParams& q, const Rows& rows, Shared<W, TEAMS>& shared) {
    if (q.linear.fine) multiply_rows<W, TEAMS, true>(q, rows, shared);
    else multiply_rows<W, TEAMS, false>(q, rows, shared);
}

}  // namespace moray
