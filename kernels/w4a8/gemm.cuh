// y[M,N] = act_scale[M] · (x[M,K] · w[N,K]ᵀ) + bias[N] + residual[M,N], x in int8, w in 4 or 8 bits, for M from 5 up: what the
// sources gemm*.cu make kernels of.
//
// | argument    | type            | shape                       | layout                                     |
// |-------------|-----------------|-----------------------------|--------------------------------------------|
// | codes       | 4- or 8-bit     | [N, K]                      | packed tiles, 16-byte aligned              |
// | scale       | f32             | [N]                         | [N/16][16]                                 |
// | group_scale | f16 or u8       | [N, groups]                 | [N/16][groups][16], 16-byte aligned        |
// | offset      | f16 or u8       | [N, groups]                 | as group_scale                             |
// | x           | int8            | [M, padded K]               | row-major, 16-byte aligned                 |
// | act_scale   | f32             | [M], fine [⌈K/128⌉, M]      | row-major                                  |
// | sums        | int32           | [groups, M] or as act_scale | row-major                                  |
// | y, residual | f32, f16, bf16  | [M, N]                      | row-major                                  |
//
// Requires: K a multiple of 32 and of the group size (32, 64 or 128; QQQ 128). Compute capability 8.0.
// Grid: as many blocks as there is room for, or a block a tile. Block and shared memory: see `Tile` and `Gemm`.
//
// Weights are the A operand of mma.m16n8k32 and tokens the N of 8, so a small M wastes little. A warp takes the bytes of a weight
// to int8 once for all of its tokens.
//
// Two ways through K. Where the sums are integers to the end, they stay in registers and every k-step of 32 adds to all of them;
// a tile's K may then be cut anywhere, since the order of integers does not matter. Where blocks of K are combined in f32 (groups
// with scales in f16, fine activation scales), the f32 sums stay in registers and a block's integers live as long as its k-steps:
// a block of K is the CPU's unit of sums, in its order, and a tile's K may be cut between runs, see runs.cuh and `Chains`.
// Source: offline fragment order as in Marlin (arXiv 2408.11743), the integer pipeline of QQQ (arXiv 2406.09904), group
// scales inside int8 as in QServe (arXiv 2405.04532), shares of K over exactly the multiprocessors as in Stream-K (arXiv
// 2301.03598); written anew. Wrapper: src/w4a8/cuda/linear.rs.
#pragma once

#include "common/ptx.cuh"
#include "common/shared.cuh"
#include "w4a8/dequant.cuh"
#include "w4a8/runs.cuh"

namespace moray {

constexpr uint32_t BAND = 4;                  // rows of tiles whose tiles of the same features follow each other
constexpr uint32_t SHARED_BYTES = 99 * 1024;  // that a block may have on 8.6, 8.9 and 12.0, the least from 8.0 on

// A block's tile: warps of WARP_ROWS features × WARP_TOKENS tokens, the K of a stage in 4 bits, and the most stages.
template <uint32_t ROW_WARPS, uint32_t TOKEN_WARPS, uint32_t WARP_ROWS_, uint32_t WARP_TOKENS_, uint32_t K_, uint32_t MOST_STAGES_>
struct Tile {
    static constexpr uint32_t WARP_ROWS = WARP_ROWS_, WARP_TOKENS = WARP_TOKENS_, K = K_, MOST_STAGES = MOST_STAGES_;
    static constexpr uint32_t ROWS = ROW_WARPS * WARP_ROWS, TOKENS = TOKEN_WARPS * WARP_TOKENS;
    static constexpr uint32_t WARPS = ROW_WARPS * TOKEN_WARPS, THREADS = 32 * WARPS;
    static constexpr uint32_t ROW_TILES = WARP_ROWS / TILE_N, TOKEN_TILES = WARP_TOKENS / 8;  // of mma, of a warp
    static_assert(WARP_ROWS % TILE_N == 0 && WARP_TOKENS % 16 == 0, "an ldmatrix takes 16 tokens");

    static __device__ __forceinline__ uint32_t warp_row() { return threadIdx.x / 32 / TOKEN_WARPS * WARP_ROWS; }
    static __device__ __forceinline__ uint32_t warp_token() { return threadIdx.x / 32 % TOKEN_WARPS * WARP_TOKENS; }
};

// What a product's sums are held in; NVRTC has no std::conditional_t.
template <bool FLOATS>
struct SumOf {
    using Value = int32_t;
};
template <>
struct SumOf<true> {
    using Value = float;
};

// A way through a product: a mode of weights, a tile, the K that is combined in f32 (0: none is), whether activation scales are
// fine, and what groups have besides scales: nothing, zero points (also of modes that have neither), or offsets in f16, each of which is
// a loop of its own in a kernel.
template <typename W_, typename T_, uint32_t BLOCK_K_, bool FINE_, Offset OFFSET_ = Offset::zero_point>
struct Gemm {
    using W = W_;
    using T = T_;
    static constexpr bool FINE = FINE_, HAS_OFFSETS = OFFSET_ == Offset::f16, FLOATS = BLOCK_K_ > 0;
    static constexpr uint32_t BLOCK_K = BLOCK_K_;
    // Whether operands are 16 · (code − 8), so that nothing is to be subtracted from sums, and no instruction for it.
    static constexpr bool CENTRED = FLOATS && W::ZERO == 8 && (!W::GROUPED || OFFSET_ == Offset::none);
    // Whether a group's zero point times the sum of its activations is.
    static constexpr bool SUBTRACTS = W::GROUPED && W::ZERO == 8 && OFFSET_ == Offset::zero_point;
    using Value = typename SumOf<FLOATS>::Value;
    static_assert(FLOATS == (W::GROUPED || FINE) && (W::GROUPED || !FINE || BLOCK_K == ACT_BLOCK), "what is combined in f32");
    static_assert(BLOCK_K <= 128, "sums that `exact` takes");

    // One stage in shared memory, in parts at byte offsets. In 8 bits a stage of half as long K has as many bytes, except where
    // blocks of K need 128.
    static constexpr uint32_t STAGE_K = W::BITS == 4 ? T::K : FLOATS && T::K / 2 < 128 ? 128 : T::K / 2;
    static_assert(!FLOATS || RUN_STEP % STAGE_K == 0, "no stage is of two runs");
    static constexpr uint32_t STEPS = STAGE_K / 32, TILES = STEPS / STEPS_PER_TILE<W::BITS>;  // along K
    static constexpr uint32_t GROUPS = W::GROUPED ? STAGE_K / BLOCK_K : STAGE_K < W::MIN_GROUP ? 1 : STAGE_K / W::MIN_GROUP;
    static constexpr uint32_t WEIGHTS = 0;                                                 // (tile row, tile, lane32, byte16)
    static constexpr uint32_t X = WEIGHTS + T::ROWS / TILE_N * TILES * TILE_BYTES;         // (token, chunk of 16), see `x_at`
    static constexpr uint32_t SCALES = X + T::TOKENS * STAGE_K;                            // (tile row, group, row16)
    static constexpr uint32_t SCALE_ROW = GROUPS * TILE_N * W::SCALE_BYTES;                // of a tile row
    static constexpr uint32_t OFFSETS = SCALES + T::ROWS / TILE_N * SCALE_ROW;             // as scales, f16 or u8
    static constexpr bool HAS_SUMS = HAS_OFFSETS || SUBTRACTS;
    static constexpr uint32_t SUMS = OFFSETS + (W::GROUPED ? OFFSETS - SCALES : 0);        // (group, token)
    static constexpr uint32_t ACT_SCALES = SUMS + (HAS_SUMS ? STAGE_K / BLOCK_K * T::TOKENS * 4 : 0);  // (128 of K, token)
    static constexpr uint32_t BYTES = ACT_SCALES + (FINE ? STAGE_K / ACT_BLOCK * T::TOKENS * 4 : 0);
    static_assert(BYTES % 16 == 0, "stages start where 16-byte copies may go");
    static constexpr uint32_t ROOM = SHARED_BYTES - (FLOATS ? 96 : 0);  // beside it a turn and what `arrived` says, of three ways
    static constexpr uint32_t STAGES = ROOM / BYTES < T::MOST_STAGES ? ROOM / BYTES : T::MOST_STAGES;
    static_assert(STAGES >= 2, "copies are under way while a stage is multiplied");
    static constexpr uint32_t ALL_BYTES = STAGES * BYTES;

    // 16 bytes of a token, so that eight tokens' same chunks lie in all banks.
    static __device__ __forceinline__ uint32_t x_at(uint32_t token, uint32_t chunk) {
        return X + token * STAGE_K + (chunk ^ (STAGE_K >= 128 ? token % 8 : token / 2 % 4)) * 16;
    }
};

// Where a tile is.
struct Place {
    uint32_t tile_row;  // of 16 rows
    uint32_t m0;
};

// What a block does at a time: a tile, or a part of one. Of f32 it lies in shared memory, for sums need the registers.
struct Turn {
    Place at;
    uint32_t cut;         // its number among those that are cut
    uint32_t begin, end;  // stages of K, or runs of it where blocks of K are combined in f32
    uint32_t sums;        // of f32: 0 while chains of earlier runs are not at hand, else 1 and how many runs another block had added
};

// What K is cut into: stages, or runs where blocks of K are combined in f32.
template <typename G>
__device__ __forceinline__ uint32_t pieces_of(const LinearParams& p) {
    return G::FLOATS ? runs_of(p.k) : (p.k + G::STAGE_K - 1) / G::STAGE_K;
}

// Groups in so much of K; their size is a power of two.
__device__ __forceinline__ uint32_t groups_of(const LinearParams& p, uint32_t k) { return k >> (31 - __clz(p.group_size)); }

// Copies the group values of a stage, `row_bytes` for each group of 16 rows, `count` groups from g0 on.
template <typename G>
__device__ __forceinline__ void load_group_rows(const LinearParams& p, const Place& at, uint32_t dst_smem, const void* src_gmem,
                                                uint32_t g0, uint32_t count, uint32_t row_bytes) {
    constexpr uint32_t CHUNKS = G::SCALE_ROW < 16 ? 1 : G::SCALE_ROW / 16, ALL = G::T::ROWS / TILE_N * CHUNKS;  // of 16 bytes
    const uint32_t groups = groups_of(p, p.k), chunk = threadIdx.x % CHUNKS;
#pragma unroll
    for (uint32_t i = 0; i < (ALL + G::T::THREADS - 1) / G::T::THREADS; ++i) {
        const uint32_t row = (i * G::T::THREADS + threadIdx.x) / CHUNKS;
        if (ALL % G::T::THREADS != 0 && row >= G::T::ROWS / TILE_N) continue;
        if (chunk * 16 >= count * row_bytes) continue;
        const bool valid = at.tile_row + row < tiles_n(p.n) && g0 + chunk * 16 / row_bytes < groups;
        const char* src = static_cast<const char*>(src_gmem) + (size_t(at.tile_row + row) * groups + g0) * row_bytes;
        cp_async_16(dst_smem + row * G::SCALE_ROW + chunk * 16, src + chunk * 16, valid ? 16 : 0);
    }
}

// Copies `COUNT` rows of what every token has, [rows][M], from row r0 of `rows` on.
template <typename G, uint32_t COUNT>
__device__ __forceinline__ void load_token_rows(const LinearParams& p, const Place& at, uint32_t dst_smem, const void* src_gmem,
                                                uint32_t r0, uint32_t rows) {
    constexpr uint32_t ALL = COUNT * G::T::TOKENS;
#pragma unroll
    for (uint32_t i = 0; i < (ALL + G::T::THREADS - 1) / G::T::THREADS; ++i) {
        const uint32_t to = i * G::T::THREADS + threadIdx.x, row = r0 + to / G::T::TOKENS, m = at.m0 + to % G::T::TOKENS;
        if (ALL % G::T::THREADS != 0 && to >= ALL) continue;
        const uint32_t* src = static_cast<const uint32_t*>(src_gmem) + size_t(row) * p.m + m;
        cp_async_4(dst_smem + to * 4, src, row < rows && m < p.m ? 4 : 0);
    }
}

// Starts the copies of stage number `index` of K into its slot. What lies past M, N or K is zeros, and is not read.
template <typename G>
__device__ __forceinline__ void load_stage(const LinearParams& p, const Place& at, uint32_t stage_smem, uint32_t index) {
    using W = typename G::W;
    using T = typename G::T;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, pad_k = padded(p.k);
    // a warp has its tile of K in every so many tile rows, a thread its chunk in every so many tokens
    constexpr uint32_t ROWS = T::WARPS / G::TILES, CHUNKS = G::STAGE_K / 16, TOKENS = T::THREADS / CHUNKS;
    static_assert(T::WARPS % G::TILES == 0 && TOKENS % 8 == 0, "all of a thread's copies are alike");
    const uint32_t tiles = tiles_n(p.n), tiles_k = pad_k / (32 * STEPS_PER_TILE<W::BITS>);
    const uint32_t row = warp / G::TILES, tile = index * G::TILES + warp % G::TILES;
    const uint4* codes = p.codes + (size_t(at.tile_row + row) * tiles_k + tile) * 32 + lane;
#pragma unroll
    for (uint32_t i = 0; i < T::ROWS / TILE_N / ROWS; ++i) {
        const bool valid = at.tile_row + row + i * ROWS < tiles && tile < tiles_k;
        const uint32_t to = stage_smem + G::WEIGHTS + threadIdx.x * 16 + i * T::THREADS * 16;
        cp_async_16(to, codes + size_t(i * ROWS) * tiles_k * 32, valid ? 16 : 0);
    }
    const uint32_t token = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, k = index * G::STAGE_K + chunk * 16;
    const int8_t* x = p.x + size_t(at.m0 + token) * pad_k + k;
#pragma unroll
    for (uint32_t i = 0; i < (T::TOKENS + TOKENS - 1) / TOKENS; ++i) {
        if (T::TOKENS % TOKENS != 0 && token + i * TOKENS >= T::TOKENS) continue;
        const bool valid = at.m0 + token + i * TOKENS < p.m && k < pad_k;
        cp_async_16(stage_smem + G::x_at(token, chunk) + i * TOKENS * G::STAGE_K, x + size_t(i * TOKENS) * pad_k, valid ? 16 : 0);
    }
    if constexpr (W::SCALE_BYTES > 0) {
        const uint32_t count = W::GROUPED ? G::GROUPS : max(1, groups_of(p, G::STAGE_K));
        const uint32_t g0 = W::GROUPED ? index * G::GROUPS : groups_of(p, index * G::STAGE_K);
        load_group_rows<G>(p, at, stage_smem + G::SCALES, p.group_scale, g0, count, TILE_N * W::SCALE_BYTES);
        if constexpr (G::HAS_OFFSETS) load_group_rows<G>(p, at, stage_smem + G::OFFSETS, p.offset, g0, count, TILE_N * 2);
        else if constexpr (G::SUBTRACTS)
            load_group_rows<G>(p, at, stage_smem + G::OFFSETS, p.offset, g0, count, TILE_N);
    }
    if constexpr (G::HAS_SUMS) {
        constexpr uint32_t COUNT = G::STAGE_K / G::BLOCK_K;
        load_token_rows<G, COUNT>(p, at, stage_smem + G::SUMS, p.sums, index * COUNT, (p.k + G::BLOCK_K - 1) / G::BLOCK_K);
    }
    if constexpr (G::FINE) {
        constexpr uint32_t COUNT = G::STAGE_K / ACT_BLOCK;
        load_token_rows<G, COUNT>(p, at, stage_smem + G::ACT_SCALES, p.act_scale, index * COUNT, (p.k + ACT_BLOCK - 1) / ACT_BLOCK);
    }
}

// The group values of a lane's two rows, 1 or 2 bytes each.
template <uint32_t Bytes>
__device__ __forceinline__ RowScales row_values(const char* group_smem) {
    const uint32_t row = threadIdx.x % 32 / 4;
    if constexpr (Bytes == 1) {
        const uint8_t* values = reinterpret_cast<const uint8_t*>(group_smem);
        return {values[row], values[row + 8]};
    } else {
        const uint16_t* values = reinterpret_cast<const uint16_t*>(group_smem);
        return {values[row], values[row + 8]};
    }
}

__device__ __forceinline__ float half_bits(uint32_t bits) { return __half2float(__ushort_as_half(static_cast<uint16_t>(bits))); }

// The operands A of `COUNT` k-steps from `first` on, of a warp's row tile r.
template <typename G, uint32_t COUNT>
__device__ __forceinline__ void dequantize(const LinearParams& p, const char* stage, uint32_t r, uint32_t first,
                                           uint32_t (&a)[COUNT][4]) {
    using W = typename G::W;
    constexpr uint32_t PER_TILE = STEPS_PER_TILE<W::BITS>;
    static_assert(COUNT == 1 || COUNT % PER_TILE == 0, "tiles are loaded whole");
    const uint32_t row = G::T::warp_row() / TILE_N + r, lane = threadIdx.x % 32;
    uint4 tile;
#pragma unroll
    for (uint32_t i = 0; i < COUNT; ++i) {
        const uint32_t step = first + i;
        if (i % PER_TILE == 0)
            tile = *reinterpret_cast<const uint4*>(stage + G::WEIGHTS + ((row * G::TILES + step / PER_TILE) * 32 + lane) * 16);
        RowScales scales = {0, 0};
        if constexpr (W::SCALE_BYTES > 0 && !W::GROUPED) {
            const uint32_t group = G::GROUPS == 1 ? 0 : groups_of(p, step * 32);
            scales = row_values<W::SCALE_BYTES>(stage + G::SCALES + row * G::SCALE_ROW + group * TILE_N * W::SCALE_BYTES);
        }
        if constexpr (G::CENTRED) centred_nibbles(a[i], tile, step % PER_TILE, 0x80808080u * min(p.k, 1u));
        else W::fragment(a[i], tile, step % PER_TILE, scales);
    }
}

// The operands B of 16 tokens from a warp's token tile t on.
template <typename G>
__device__ __forceinline__ void load_tokens(uint32_t stage_smem, uint32_t t, uint32_t step, uint32_t (&b)[4]) {
    // rows of ldmatrix: lanes 0–7 and 8–15 two chunks of tokens 0–7, 16–31 the same of tokens 8–15
    const uint32_t lane = threadIdx.x % 32, token = G::T::warp_token() + t * 8 + lane % 8 + lane / 16 * 8;
    ldmatrix_x4(b, stage_smem + G::x_at(token, 2 * step + lane / 8 % 2));
}

// Multiplies a stage where the sums are integers.
template <typename G>
__device__ __forceinline__ void multiply(const LinearParams& p, const char* stage, uint32_t stage_smem, uint32_t,
                                         int32_t (&dots)[G::T::ROW_TILES][G::T::TOKEN_TILES][4]) {
    using T = typename G::T;
    constexpr uint32_t TOGETHER = STEPS_PER_TILE<G::W::BITS>;  // k-steps of a packed tile
#pragma unroll
    for (uint32_t step = 0; step < G::STEPS; step += TOGETHER) {
        uint32_t b[TOGETHER][T::TOKEN_TILES / 2][4];
#pragma unroll
        for (uint32_t i = 0; i < TOGETHER; ++i)
#pragma unroll
            for (uint32_t t = 0; t < T::TOKEN_TILES / 2; ++t) load_tokens<G>(stage_smem, 2 * t, step + i, b[i][t]);
#pragma unroll
        for (uint32_t r = 0; r < T::ROW_TILES; ++r) {
            uint32_t a[TOGETHER][4];
            dequantize<G>(p, stage, r, step, a);
#pragma unroll
            for (uint32_t i = 0; i < TOGETHER; ++i)
#pragma unroll
                for (uint32_t t = 0; t < T::TOKEN_TILES; ++t)
                    mma_s8(dots[r][t], a[i], b[i][t / 2][t % 2 * 2], b[i][t / 2][t % 2 * 2 + 1]);
        }
    }
}

// A scale, or −0 past the end of K: a zero times it changes no sum, not even the sign of a zero.
__device__ __forceinline__ float unless(bool past, float scale) { return past ? -0.0f : scale; }

// What a lane's two rows of a row tile have of a block of K: scales, and zero points with the other sign.
struct RowGroup {
    float scale[2];
    int32_t minus[2];
};

template <typename G>
__device__ __forceinline__ RowGroup row_group(const LinearParams& p, const char* stage, uint32_t r, uint32_t group, bool past) {
    using W = typename G::W;
    RowGroup of = {};
    if constexpr (W::GROUPED) {
        const char* row = stage + (G::T::warp_row() / TILE_N + r) * G::SCALE_ROW;
        const RowScales scale = row_values<2>(row + G::SCALES + group * TILE_N * 2);
        of.scale[0] = unless(past, half_bits(scale.low)), of.scale[1] = unless(past, half_bits(scale.high));
        if constexpr (G::SUBTRACTS) {
            const RowScales point = row_values<1>(row + G::OFFSETS + group * TILE_N);
            of.minus[0] = -static_cast<int32_t>(point.low), of.minus[1] = -static_cast<int32_t>(point.high);
        }
    }
    return of;
}

// Integers of a block of K as numbers, exactly, by additions alone: the matrix units' sums begin at the bits of 1.5 · 2^23, whose last
// place is 1, and stay between 2^23 and 2^24 − 1 while no sum is beyond 2^22. None of 128 products is: with zero points, of which any
// byte may be one, 255 · 128 · 128, and of 16 · (code − 8), as of int8, 128 · 128 · 128.
constexpr int32_t EXACT_BITS = 0x4b400000;
constexpr float EXACT = 12582912.0f;

template <typename G>
__device__ __forceinline__ float exact(int32_t bits) {
    if constexpr (G::CENTRED) return __fmaf_rn(__int_as_float(bits), 0.0625f, -EXACT * 0.0625f);
    else return __fsub_rn(__int_as_float(bits), EXACT);
}

// What a lane's two tokens of token tile t have of a block of K: the sum of their codes, the scale of the codes.
struct TokenGroup {
    int32_t sum[2];
    float act_scale[2];
};

template <typename G>
__device__ __forceinline__ TokenGroup token_group(const char* stage, uint32_t t, uint32_t group) {
    const uint32_t token = G::T::warp_token() + t * 8 + 2 * (threadIdx.x % 4);
    TokenGroup of = {};
    if constexpr (G::HAS_SUMS) {
        const int2 two = *reinterpret_cast<const int2*>(stage + G::SUMS + (group * G::T::TOKENS + token) * 4);
        of.sum[0] = two.x, of.sum[1] = two.y;
    }
    if constexpr (G::FINE) {
        const float2 two = *reinterpret_cast<const float2*>(stage + G::ACT_SCALES + (group * G::BLOCK_K / ACT_BLOCK * G::T::TOKENS + token) * 4);
        of.act_scale[0] = two.x, of.act_scale[1] = two.y;
    }
    return of;
}

// Adds a group's offsets in f16 times the sums of its activations.
template <typename G>
__device__ __forceinline__ void add_offsets(const char* stage, uint32_t group, bool past, float (&sums)[G::T::ROW_TILES][G::T::TOKEN_TILES][4]) {
    using T = typename G::T;
#pragma unroll
    for (uint32_t r = 0; r < T::ROW_TILES; ++r) {
        const char* row = stage + (T::warp_row() / TILE_N + r) * G::SCALE_ROW;
        const RowScales bits = row_values<2>(row + G::OFFSETS + group * TILE_N * 2);
        const float offset[2] = {unless(past, half_bits(bits.low)), unless(past, half_bits(bits.high))};
#pragma unroll
        for (uint32_t t = 0; t < T::TOKEN_TILES; ++t) {
            const TokenGroup tokens = token_group<G>(stage, t, group);
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i)
                sums[r][t][i] = add_group<G::FINE>(sums[r][t][i], __int2float_rn(tokens.sum[i % 2]), tokens.act_scale[i % 2], offset[i / 2]);
        }
    }
}

// Multiplies stage number `index` of K where blocks of K are combined in f32.
template <typename G>
__device__ __forceinline__ void multiply(const LinearParams& p, const char* stage, uint32_t stage_smem, uint32_t index,
                                         float (&sums)[G::T::ROW_TILES][G::T::TOKEN_TILES][4]) {
    using T = typename G::T;
    constexpr uint32_t BLOCKS = G::STAGE_K / G::BLOCK_K, STEPS = G::BLOCK_K / 32;
    const int32_t begin[4] = {EXACT_BITS, EXACT_BITS, EXACT_BITS, EXACT_BITS};
    // with many sums there are no registers for the operands of several blocks
#pragma unroll (T::ROW_TILES * T::TOKEN_TILES > 8 ? 1 : BLOCKS)
    for (uint32_t block = 0; block < BLOCKS; ++block) {
        const bool past = BLOCKS > 1 && (index * BLOCKS + block) * G::BLOCK_K >= p.k;
        uint32_t a[T::ROW_TILES][STEPS][4];
        RowGroup rows[T::ROW_TILES];
#pragma unroll
        for (uint32_t r = 0; r < T::ROW_TILES; ++r) {
            dequantize<G>(p, stage, r, block * STEPS, a[r]);
            rows[r] = row_group<G>(p, stage, r, block, past);
        }
#pragma unroll
        for (uint32_t pair = 0; pair < T::TOKEN_TILES; pair += 2) {
            int32_t dots[2][T::ROW_TILES][4];
            if constexpr (G::SUBTRACTS) {
#pragma unroll
                for (uint32_t t = 0; t < 2; ++t) {
                    const TokenGroup tokens = token_group<G>(stage, pair + t, block);
#pragma unroll
                    for (uint32_t r = 0; r < T::ROW_TILES; ++r)
#pragma unroll
                        for (uint32_t i = 0; i < 4; ++i) dots[t][r][i] = rows[r].minus[i / 2] * tokens.sum[i % 2] + EXACT_BITS;
                }
            }
#pragma unroll
            for (uint32_t step = 0; step < STEPS; ++step) {
                uint32_t b[4];
                load_tokens<G>(stage_smem, pair, block * STEPS + step, b);
#pragma unroll
                for (uint32_t t = 0; t < 2; ++t)
#pragma unroll
                    for (uint32_t r = 0; r < T::ROW_TILES; ++r) {
                        if (step == 0 && !G::SUBTRACTS) mma_s8_from(dots[t][r], begin, a[r][step], b[t * 2], b[t * 2 + 1]);
                        else mma_s8(dots[t][r], a[r][step], b[t * 2], b[t * 2 + 1]);
                    }
            }
#pragma unroll
            for (uint32_t t = 0; t < 2; ++t) {
                const TokenGroup tokens = token_group<G>(stage, pair + t, block);
#pragma unroll
                for (uint32_t r = 0; r < T::ROW_TILES; ++r)
#pragma unroll
                    for (uint32_t i = 0; i < 4; ++i) {
                        float& sum = sums[r][pair + t][i];
                        const float act_scale = tokens.act_scale[i % 2];
                        if constexpr (G::W::GROUPED) sum = add_group<G::FINE>(sum, exact<G>(dots[t][r][i]), act_scale, rows[r].scale[i / 2]);
                        else sum = add_block(sum, exact<G>(dots[t][r][i]), unless(past, act_scale));
                    }
            }
        }
        if constexpr (G::HAS_OFFSETS) add_offsets<G>(stage, block, past, sums);
    }
}

// Adds a share of a tile's K to the sums that its other shares have left. Says whether they are all there, and then gives them.
template <typename G>
__device__ __forceinline__ bool add_share(const LinearParams& p, char* smem, uint32_t tile, uint32_t count, uint32_t stages,
                                          int32_t (&dots)[G::T::ROW_TILES][G::T::TOKEN_TILES][4]) {
    using T = typename G::T;
    uint32_t* last_smem = reinterpret_cast<uint32_t*>(smem);  // written when all are done with the stages
    constexpr uint32_t COLUMNS = T::TOKEN_TILES * 4, VALUES = T::ROW_TILES * COLUMNS;  // (value, thread)
    uint32_t* all = p.partial + size_t(tile) * T::ROWS * T::TOKENS + threadIdx.x;
#pragma unroll
    for (uint32_t i = 0; i < VALUES; ++i)
        atomicAdd(all + i * T::THREADS, static_cast<uint32_t>(dots[i / COLUMNS][i / 4 % T::TOKEN_TILES][i % 4]));
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const bool last = atomicAdd(p.arrived + tile, count) + count == stages;
        if (last) p.arrived[tile] = 0;  // for the next launch
        *last_smem = last;
    }
    __syncthreads();
    if (!*last_smem) return false;
    __threadfence();
#pragma unroll
    for (uint32_t i = 0; i < VALUES; ++i) {
        dots[i / COLUMNS][i / 4 % T::TOKEN_TILES][i % 4] = static_cast<int32_t>(__ldcg(all + i * T::THREADS));
        all[i * T::THREADS] = 0;
    }
    return true;
}

// What the sum of a tile's runs is held in. Many of them beside as many of a chain would leave no registers for what is under way: they are in
// local memory, where they are asked for once a run.
template <bool MANY>
struct TotalOf {
    using Value = float;
};
template <>
struct TotalOf<true> {
    using Value = volatile float;
};

// The sums in f32 of a tile's part: runs of K one after the other, whose chains are added in order as far as all that come before them are
// at hand. Those of a tile that is cut meet in `partial`, where a run has room of a tile's size: that of the first has the sum of as many
// as one block had from the first on. `arrived` has a bit for each run that is there, and how many that sum is of.
template <typename G>
struct Chains {
    using T = typename G::T;
    using Values = float[T::ROW_TILES][T::TOKEN_TILES][4];
    using Total = typename TotalOf<(T::ROW_TILES * T::TOKEN_TILES * 4 > 32)>::Value[T::ROW_TILES][T::TOKEN_TILES][4];
    static constexpr uint32_t COLUMNS = T::TOKEN_TILES * 4, VALUES = T::ROW_TILES * COLUMNS;  // (value, thread)
    static constexpr uint32_t COUNT = 8;  // bits of runs in `arrived`, below how many the first's room has

    static __device__ __forceinline__ uint32_t before(uint32_t run) { return (1u << run) - 1; }
    template <typename V>
    static __device__ __forceinline__ auto& value(V& of, uint32_t i) { return of[i / COLUMNS][i / 4 % T::TOKEN_TILES][i % 4]; }

    static __device__ __forceinline__ float* room(const LinearParams& p, const Turn& turn, uint32_t run) {
        const size_t tile = size_t(turn.cut) * runs_of(p.k) + run;
        return reinterpret_cast<float*>(p.partial) + tile * T::ROWS * T::TOKENS + threadIdx.x;
    }

    template <typename V>
    static __device__ __forceinline__ void leave(const LinearParams& p, const Turn& turn, uint32_t run, V& of) {
        float* to = room(p, turn, run);
#pragma unroll
        for (uint32_t i = 0; i < VALUES; ++i) __stcg(to + i * T::THREADS, value(of, i));
    }

    // Adds what was left of runs up to `end`, of which `first` are in one room, and leaves zeros.
    static __device__ __forceinline__ void collect(const LinearParams& p, const Turn& turn, uint32_t first, uint32_t end, Total& total) {
        __threadfence();
#pragma unroll 1
        for (uint32_t run = 0; run < end; run = run == 0 ? first : run + 1) {
            float* from = room(p, turn, run);
#pragma unroll
            for (uint32_t i = 0; i < VALUES; ++i) {
                value(total, i) = __fadd_rn(value(total, i), __ldcg(from + i * T::THREADS));
                __stcg(from + i * T::THREADS, 0.0f);
            }
        }
    }

    // Says to all threads what thread 0 has read or made of a tile's `arrived`.
    static __device__ __forceinline__ uint32_t arrived(const LinearParams& p, const Turn& turn, uint32_t more) {
        __shared__ uint32_t seen_smem;
        __syncthreads();
        if (threadIdx.x == 0) seen_smem = atomicAdd(p.arrived + turn.cut, more) + more;
        __syncthreads();
        return seen_smem;
    }

    // Ends run number `run` of a part: adds its chain to the sum of all before it, or leaves it.
    static __device__ __forceinline__ void end_run(const LinearParams& p, Turn& turn, uint32_t run, Values& chain, Total& total) {
        if (turn.sums == 0) {
            const uint32_t seen = arrived(p, turn, 0), needed = before(turn.begin);
            if ((seen & needed) == needed) {
                if (threadIdx.x == 0) turn.sums = 1 + (seen >> COUNT);
                collect(p, turn, seen >> COUNT, run, total);
            }
            __syncthreads();
        }
        if (turn.sums != 0) {
            constexpr uint32_t TOGETHER = VALUES < 16 ? VALUES : 16;  // that are asked for before the first is there
#pragma unroll
            for (uint32_t first = 0; first < VALUES; first += TOGETHER) {
                float before[TOGETHER];
#pragma unroll
                for (uint32_t i = 0; i < TOGETHER; ++i) before[i] = value(total, first + i);
#pragma unroll
                for (uint32_t i = 0; i < TOGETHER; ++i) value(total, first + i) = __fadd_rn(before[i], value(chain, first + i));
            }
        } else leave(p, turn, run, chain);
#pragma unroll
        for (uint32_t i = 0; i < VALUES; ++i) value(chain, i) = 0.0f;
    }

    // Ends a part. Says whether the tile's sums are all there, and then gives them.
    static __device__ __forceinline__ bool finish(const LinearParams& p, const Turn& turn, Total& total) {
        const uint32_t runs = runs_of(p.k), sums = turn.sums;
        if (turn.begin == 0 && turn.end == runs) return true;
        if (sums == 0 || turn.end < runs) {
            if (sums != 0) leave(p, turn, 0, total);
            __threadfence();
            const uint32_t more = before(turn.end) - before(turn.begin) + (sums == 0 ? 0 : (turn.end + 1 - sums) << COUNT);
            const uint32_t seen = arrived(p, turn, more);
            if ((seen & before(runs)) != before(runs)) return false;
#pragma unroll
            for (uint32_t i = 0; i < VALUES; ++i) value(total, i) = 0.0f;
            collect(p, turn, seen >> COUNT, runs, total);
        }
        if (threadIdx.x == 0) p.arrived[turn.cut] = 0;  // for the next launch
        return true;
    }
};

// Brings the values through shared memory into the order of y, up to 32 tokens of a warp at a time, scales them and writes them.
template <typename G, typename V>
__device__ __forceinline__ void write_back(const LinearParams& p, const Place& at, char* smem,
                                           V (&values)[G::T::ROW_TILES][G::T::TOKEN_TILES][4]) {
    using T = typename G::T;
    constexpr uint32_t STRIDE = T::WARP_ROWS + 4;  // words of a token: 4 tokens × 8 rows touch 32 banks
    constexpr uint32_t TOGETHER = T::TOKEN_TILES < 4 ? T::TOKEN_TILES : 4, PARTS = (T::WARP_ROWS + 31) / 32;
    static_assert(T::WARPS * 8 * TOGETHER * STRIDE * 4 <= G::ALL_BYTES, "it fits");
    const uint32_t lane = threadIdx.x % 32;
    typename G::Value* out = reinterpret_cast<typename G::Value*>(smem) + threadIdx.x / 32 * 8 * TOGETHER * STRIDE;
    const uint32_t n0 = at.tile_row * TILE_N + T::warp_row(), m0 = at.m0 + T::warp_token();
#pragma unroll
    for (uint32_t first = 0; first < T::TOKEN_TILES; first += TOGETHER) {
        __syncwarp();
#pragma unroll
        for (uint32_t t = 0; t < TOGETHER; ++t)
#pragma unroll
            for (uint32_t i = 0; i < 4 * T::ROW_TILES; ++i) {
                const uint32_t token = t * 8 + 2 * (lane % 4) + i % 2, row = i / 4 * TILE_N + i % 4 / 2 * 8 + lane / 4;
                out[token * STRIDE + row] = values[i / 4][first + t][i % 4];
            }
        __syncwarp();
#pragma unroll 1
        for (uint32_t i = 0; i < 8 * TOGETHER * T::WARP_ROWS / 32; ++i) {
            // 16 rows go with those of four tokens on, which lie in the other banks
            const uint32_t token = T::WARP_ROWS == 16 ? i / 4 * 8 + i % 4 + lane / 16 * 4 : i / PARTS;
            const uint32_t row = T::WARP_ROWS == 16 ? lane % 16 : i % PARTS * 32 + lane;
            const uint32_t m = m0 + first * 8 + token, n = n0 + row;
            if (m >= p.m || n >= p.n) continue;
            const typename G::Value value = out[token * STRIDE + row];
            float sum;
            if constexpr (G::FLOATS) sum = value;
            else sum = __int2float_rn(value - (G::W::ZERO != 0 ? G::W::ZERO * p.sums[m] : 0));
            if constexpr (!G::W::GROUPED) sum = __fmul_rn(sum, p.scale[n]);
            write_output(p, m, n, sum);
        }
    }
}

// The stages of a tile's K up to `end`, which are copied one after the other while those before them are multiplied.
template <typename G>
struct Pipeline {
    uint32_t index, end, base, slot = 0;

    __device__ __forceinline__ Pipeline(const LinearParams& p, const Turn& turn, uint32_t base, uint32_t begin, uint32_t end)
        : index(begin), end(end), base(base) {
#pragma unroll 1
        for (uint32_t i = 0; i < G::STAGES - 1; ++i) {
            if (begin + i < end) load_stage<G>(p, turn.at, base + i * G::BYTES, begin + i);
            cp_async_commit();
        }
    }

    // Has the stages before `stop` multiplied: `visit(slot, index)`.
    template <typename Visit>
    __device__ __forceinline__ void until(const LinearParams& p, const Turn& turn, uint32_t stop, Visit visit) {
#pragma unroll 1
        for (; index < stop; ++index) {
            cp_async_wait<G::STAGES - 2>();
            __syncthreads();  // the stage is there for all, and all are done with the one before it, whose slot is next
            const uint32_t next = index + G::STAGES - 1, free = slot == 0 ? G::STAGES - 1 : slot - 1;
            if (next < end) load_stage<G>(p, turn.at, base + free * G::BYTES, next);
            cp_async_commit();
            visit(slot * G::BYTES, index);
            slot = slot + 1 == G::STAGES ? 0 : slot + 1;
        }
    }
};

// Multiplies a part of a tile's K, and writes the tile where that is all of K or what was missing of it.
template <typename G>
__device__ __forceinline__ void multiply_tile(const LinearParams& p, char* smem, Turn& turn) {
    const uint32_t base = shared_address(smem);
    typename G::Value values[G::T::ROW_TILES][G::T::TOKEN_TILES][4] = {};
    if constexpr (G::FLOATS) {
        typename Chains<G>::Total total = {};
        const auto stage = [&](uint32_t run) { return (run_start(p.k, run) + G::STAGE_K - 1) / G::STAGE_K; };
        Pipeline<G> pipeline(p, turn, base, stage(turn.begin), stage(turn.end));
#pragma unroll 1
        for (uint32_t run = turn.begin; run < turn.end; ++run) {
            pipeline.until(p, turn, stage(run + 1), [&](uint32_t slot, uint32_t index) {
                multiply<G>(p, smem + slot, base + slot, index, values);
            });
            Chains<G>::end_run(p, turn, run, values, total);
        }
        cp_async_wait<0>();
        if (!Chains<G>::finish(p, turn, total)) return;
        __syncthreads();  // the stages are free
        write_back<G>(p, turn.at, smem, total);
    } else {
        const uint32_t stages = pieces_of<G>(p);
        Pipeline<G>(p, turn, base, turn.begin, turn.end).until(p, turn, turn.end, [&](uint32_t slot, uint32_t index) {
            multiply<G>(p, smem + slot, base + slot, index, values);
        });
        cp_async_wait<0>();
        const uint32_t count = turn.end - turn.begin;
        if (count < stages && !add_share<G>(p, smem, turn.cut, count, stages, values)) return;
        __syncthreads();
        write_back<G>(p, turn.at, smem, values);
    }
}

// What a block does after `index` turns, if anything: whole tiles, as often as there is one for every block, and then its share of the
// K of the rest, which is of two tiles at most. Of these the later one first, so that its beginning is there early for whom has its end.
template <typename G>
__device__ __forceinline__ bool take_turn(const LinearParams& p, uint32_t index, Turn& turn) {
    const uint32_t columns = (p.n + G::T::ROWS - 1) / G::T::ROWS, rows = (p.m + G::T::TOKENS - 1) / G::T::TOKENS;
    const uint32_t tiles = columns * rows, turns = tiles / gridDim.x, whole = turns * gridDim.x, pieces = pieces_of<G>(p);
    uint32_t tile = blockIdx.x + index * gridDim.x;
    turn.begin = 0, turn.end = pieces;
    if (index >= turns) {
        const uint64_t rest = uint64_t(tiles - whole) * pieces;  // that the blocks share
        const uint64_t begin = (blockIdx.x * rest + p.shares - 1) / p.shares, end = ((blockIdx.x + 1) * rest + p.shares - 1) / p.shares;
        const uint64_t middle = min(end, (begin / pieces + 1) * pieces);  // where the earlier tile ends
        const bool later = index == turns && middle < end;
        if (blockIdx.x >= p.shares || begin >= end || index > turns + (middle < end)) return false;
        const uint64_t from = later ? middle : begin, to = later ? end : middle;
        turn.cut = static_cast<uint32_t>(from / pieces);
        turn.begin = static_cast<uint32_t>(from % pieces), turn.end = turn.begin + static_cast<uint32_t>(to - from);
        tile = whole + turn.cut;
    }
    const uint32_t first = tile / (columns * BAND) * BAND, in_band = min(BAND, rows - first), of_band = tile - first * columns;
    turn.at = {of_band / in_band * (G::T::ROWS / TILE_N), (first + of_band % in_band) * G::T::TOKENS};
    turn.sums = turn.begin == 0;
    return true;
}

template <typename G>
__device__ __forceinline__ void gemm(const LinearParams& p) {
    extern __shared__ __align__(16) char smem[];
    if constexpr (G::FLOATS) {
        __shared__ Turn turn;
        for (uint32_t index = 0;; ++index) {
            bool more = true;
            if (threadIdx.x == 0) more = take_turn<G>(p, index, turn);
            if (!__syncthreads_and(more)) return;
            multiply_tile<G>(p, smem, turn);
            __syncthreads();  // the values are out of shared memory
        }
    } else {
        Turn turn;
        for (uint32_t index = 0; take_turn<G>(p, index, turn); ++index) {
            multiply_tile<G>(p, smem, turn);
            __syncthreads();
        }
    }
}

template <typename W, typename T, uint32_t BLOCK_K, bool FINE>
struct Kernel {
    using Plain = Gemm<W, T, BLOCK_K, FINE>;
    using Symmetric = Gemm<W, T, BLOCK_K, FINE, W::GROUPED && W::ZERO != 0 ? Offset::none : Offset::zero_point>;
    using WithOffsets = Gemm<W, T, BLOCK_K, FINE, W::GROUPED ? Offset::f16 : Offset::zero_point>;
    static constexpr uint32_t THREADS = T::THREADS;
    static constexpr uint32_t PLAIN = Plain::ALL_BYTES > Symmetric::ALL_BYTES ? Plain::ALL_BYTES : Symmetric::ALL_BYTES;
    static constexpr uint32_t SHARED = PLAIN > WithOffsets::ALL_BYTES ? PLAIN : WithOffsets::ALL_BYTES;

    static __device__ __forceinline__ void run(const LinearParams& p) {
        if constexpr (W::GROUPED) {
            if (p.offset_kind == Offset::f16) return gemm<WithOffsets>(p);
            if (W::ZERO != 0 && p.offset_kind == Offset::none) return gemm<Symmetric>(p);
        }
        gemm<Plain>(p);
    }
};

}  // namespace moray

// One block a multiprocessor is asked for, so that the compiler does not save registers for more.
#define MORAY_GEMM(name, Weight, Shape, BLOCK_K, FINE)                                                         \
    namespace moray {                                                                                          \
    using name##_of = Kernel<Weight, Shape, BLOCK_K, FINE>;                                                    \
    }                                                                                                          \
    MORAY_SHARED(name, (moray::name##_of::SHARED))                                                             \
    extern "C" __global__ void __launch_bounds__(moray::name##_of::THREADS, 1) name(const moray::LinearParams p) { \
        moray::name##_of::run(p);                                                                              \
    }
