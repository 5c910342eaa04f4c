// y[M,N] = act_scale[M] · (x[M,K] · w[N,K]ᵀ) + bias[N] + residual[M,N], x in int8, w in 4 or 8 bits, for M from 5 up.
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
// Grid: (⌈N/64⌉, ⌈M/TOKENS⌉, splits of K). Block: 128 threads, 4 warps of 16 rows × all tokens of the tile.
// Shared memory: 4 stages of K = 128, see `Stage`.
//
// Weights are the A operand of mma.m16n8k32 and tokens the N of 8, so a small M wastes little. The splits of K are added in
// their order by the block that arrives last, so the result is the same in every run: the CPU's bits in the modes that stay
// in integers, and in group modes and with fine scales as long as K is not split.
// Source: offline fragment order as in Marlin (arXiv 2408.11743), the integer pipeline of QQQ (arXiv 2406.09904), group
// scales inside int8 as in QServe (arXiv 2405.04532); written anew. Wrapper: src/w4a8/cuda/linear.rs.

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "w4a8/dequant.cuh"

namespace moray {

constexpr uint32_t WARPS = 4, THREADS = 32 * WARPS;
constexpr uint32_t ROWS = WARPS * TILE_N;
constexpr uint32_t STAGES = 4;
constexpr uint32_t MIN_BLOCKS = 4;  // of a multiprocessor with room for as many blocks' stages: at most 128 registers
constexpr uint32_t STAGE_K = ACT_BLOCK;  // so that a stage has one fine scale of each token
constexpr uint32_t STAGE_STEPS = STAGE_K / 32;
constexpr uint32_t MAX_GROUPS = STAGE_K / 32;  // groups that a stage may have
constexpr uint32_t OUT_STRIDE = ROWS + 4;      // words of a token's row: 4 tokens × 8 rows touch 32 banks

// The parts of one stage in shared memory, as byte offsets.
template <typename W, uint32_t TOKENS>
struct Stage {
    static constexpr uint32_t TILES = STAGE_STEPS / STEPS_PER_TILE<W::BITS>;     // along K
    static constexpr uint32_t WEIGHTS = 0;                                       // (tile row, tile, lane32, byte16)
    static constexpr uint32_t X = WEIGHTS + WARPS * TILES * TILE_BYTES;          // (token, chunk8 ^ token % 8, byte16)
    static constexpr uint32_t SCALES = X + TOKENS * STAGE_K;                     // (tile row, group, row16)
    static constexpr uint32_t SCALE_ROW = MAX_GROUPS * TILE_N * W::SCALE_BYTES;  // of one tile row
    static constexpr uint32_t OFFSETS = SCALES + WARPS * SCALE_ROW;              // (tile row, group, row16), f16 or u8
    static constexpr uint32_t SUMS = OFFSETS + (W::GROUPED ? WARPS * SCALE_ROW : 0);  // (group, token)
    static constexpr uint32_t BYTES = SUMS + (W::GROUPED ? MAX_GROUPS * TOKENS * 4 : 0);
    static_assert(BYTES % 16 == 0, "stages start where 16-byte copies may go");
    static constexpr uint32_t ALL_BYTES = STAGES * BYTES > TOKENS * OUT_STRIDE * 4 ? STAGES * BYTES : TOKENS * OUT_STRIDE * 4;
};

// What a block works on.
struct Block {
    uint32_t tile_row;  // of this warp
    uint32_t n0, m0;
    uint32_t groups;    // of all K
    uint32_t steps;     // of 32, in all K
};

// Copies one tile row's group values of a stage: `row_bytes` for each group of 16 rows, `groups` of them from g0 on.
__device__ __forceinline__ void load_group_rows(uint32_t dst_smem, const void* src_gmem, const Block& b, uint32_t tiles,
                                                uint32_t g0, uint32_t count, uint32_t row_bytes) {
    const uint32_t chunk = threadIdx.x % 32;
    if (chunk * 16 < count * row_bytes) {
        const uint32_t g = g0 + chunk * 16 / row_bytes;
        const bool valid = b.tile_row < tiles && g < b.groups;
        const char* src = static_cast<const char*>(src_gmem);
        const size_t at = (size_t(b.tile_row) * b.groups + g0) * row_bytes + chunk * 16;
        cp_async_16(dst_smem + chunk * 16, valid ? src + at : src, valid ? 16 : 0);
    }
}

// Starts the copies of stage number `index` of K into its slot.
template <typename W, uint32_t TOKENS>
__device__ __forceinline__ void load_stage(const LinearParams& p, const Block& b, uint32_t stage_smem, uint32_t index) {
    using S = Stage<W, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, k0 = index * STAGE_K, pad_k = padded(p.k);
    const uint32_t tiles = tiles_n(p.n), tiles_k = pad_k / (32 * STEPS_PER_TILE<W::BITS>);
#pragma unroll
    for (uint32_t i = 0; i < S::TILES; ++i) {
        const uint32_t tile = index * S::TILES + i;
        const bool valid = b.tile_row < tiles && tile < tiles_k;
        const uint4* src = p.codes + (size_t(b.tile_row) * tiles_k + tile) * 32 + lane;
        cp_async_16(stage_smem + S::WEIGHTS + ((warp * S::TILES + i) * 32 + lane) * 16, valid ? src : p.codes, valid ? 16 : 0);
    }
#pragma unroll
    for (uint32_t i = 0; i < TOKENS * 8 / THREADS; ++i) {
        const uint32_t token = (i * THREADS + threadIdx.x) / 8, chunk = threadIdx.x % 8, k = k0 + chunk * 16;
        const bool valid = b.m0 + token < p.m && k < pad_k;
        const int8_t* src = p.x + size_t(b.m0 + token) * pad_k + k;
        cp_async_16(stage_smem + S::X + token * STAGE_K + (chunk ^ token % 8) * 16, valid ? src : p.x, valid ? 16 : 0);
    }
    if constexpr (W::SCALE_BYTES > 0) {
        const uint32_t count = STAGE_K / p.group_size, g0 = index * count;
        load_group_rows(stage_smem + S::SCALES + warp * S::SCALE_ROW, p.group_scale, b, tiles, g0, count, TILE_N * W::SCALE_BYTES);
        if constexpr (W::GROUPED) {
            if (p.offset_kind != Offset::none) {
                const uint32_t row_bytes = TILE_N * (p.offset_kind == Offset::f16 ? 2 : 1);
                load_group_rows(stage_smem + S::OFFSETS + warp * S::SCALE_ROW, p.offset, b, tiles, g0, count, row_bytes);
            }
            for (uint32_t i = threadIdx.x; i < count * TOKENS; i += THREADS) {
                const uint32_t g = g0 + i / TOKENS, m = b.m0 + i % TOKENS;
                const bool valid = g < b.groups && m < p.m;
                cp_async_4(stage_smem + S::SUMS + i * 4, valid ? p.sums + size_t(g) * p.m + m : p.sums, valid ? 4 : 0);
            }
        }
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

// The value of a stage's 128 of K for token j of a lane's pair t, [⌈K/128⌉][M] in global memory. Read where it is used: held over
// a stage, the pairs' values would cost registers that blocks are resident by.
template <uint32_t TOKENS, typename T>
__device__ __forceinline__ T token_value(const LinearParams& p, const T* values, uint32_t index, uint32_t t, uint32_t j) {
    const uint32_t m = blockIdx.y * TOKENS + 8 * t + 2 * (threadIdx.x % 4) + j;
    return m < p.m ? __ldg(values + size_t(index) * p.m + m) : T(0);
}

// Adds the integers of a finished stage to the f32 sums and clears them, in modes that have no groups in f32.
template <typename W, uint32_t TOKENS>
__device__ __forceinline__ void add_blocks(const LinearParams& p, uint32_t index, int32_t (&dots)[TOKENS / 8][4],
                                           float (&sums)[TOKENS / 8][4]) {
#pragma unroll
    for (uint32_t t = 0; t < TOKENS / 8; ++t)
#pragma unroll
        for (uint32_t j = 0; j < 2; ++j) {
            const float act_scale = token_value<TOKENS>(p, p.act_scale, index, t, j);
            const int32_t sum = W::ZERO != 0 ? token_value<TOKENS>(p, p.sums, index, t, j) : 0;
#pragma unroll
            for (uint32_t i = j; i < 4; i += 2) {
                sums[t][i] = add_block<W>(sums[t][i], dots[t][i], sum, act_scale);
                dots[t][i] = 0;
            }
        }
}

// Adds the integers of a finished group to the f32 sums and clears them.
template <typename W, uint32_t TOKENS, bool FINE>
__device__ __forceinline__ void add_groups(const LinearParams& p, const char* stage, uint32_t index, uint32_t group,
                                           int32_t (&dots)[TOKENS / 8][4], float (&sums)[TOKENS / 8][4]) {
    using S = Stage<W, TOKENS>;
    const uint32_t warp = threadIdx.x / 32, pair = 2 * (threadIdx.x % 4);
    const RowScales scale = row_values<2>(stage + S::SCALES + warp * S::SCALE_ROW + group * TILE_N * 2);
    RowScales offset = {0, 0};
    const char* offsets = stage + S::OFFSETS + warp * S::SCALE_ROW;
    if (p.offset_kind == Offset::f16) offset = row_values<2>(offsets + group * TILE_N * 2);
    if (p.offset_kind == Offset::zero_point) offset = row_values<1>(offsets + group * TILE_N);
    const float scales[2] = {half_bits(scale.low), half_bits(scale.high)};
    const float added[2] = {half_bits(offset.low), half_bits(offset.high)};
    const int32_t zeros[2] = {group_zero<W>(p.offset_kind, offset.low), group_zero<W>(p.offset_kind, offset.high)};
    const int2* token_sums = reinterpret_cast<const int2*>(stage + S::SUMS + (group * TOKENS + pair) * 4);
#pragma unroll
    for (uint32_t t = 0; t < TOKENS / 8; ++t) {
        const int2 two = token_sums[4 * t];
        float act_scales[2] = {};
        if constexpr (FINE) {
#pragma unroll
            for (uint32_t j = 0; j < 2; ++j) act_scales[j] = token_value<TOKENS>(p, p.act_scale, index, t, j);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int32_t sum = i % 2 == 0 ? two.x : two.y;
            sums[t][i] = add_group<FINE>(sums[t][i], dots[t][i], zeros[i / 2], sum, act_scales[i % 2], scales[i / 2],
                                         added[i / 2], p.offset_kind);
            dots[t][i] = 0;
        }
    }
}

// Multiplies stage number `index` of K: at most `steps` k-steps of 32.
template <typename W, uint32_t TOKENS, bool FINE>
__device__ __forceinline__ void multiply(const LinearParams& p, const char* stage, uint32_t stage_smem, uint32_t index,
                                         uint32_t steps, int32_t (&dots)[TOKENS / 8][4], float (&sums)[TOKENS / 8][4]) {
    using S = Stage<W, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    // rows of ldmatrix: lanes 0–7 and 8–15 two chunks of tokens 0–7, 16–31 the same of tokens 8–15
    const uint32_t token = lane % 8 + lane / 16 * 8, odd = lane / 8 % 2;
    const uint32_t group_steps = W::SCALE_BYTES > 0 ? p.group_size / 32 : 1;
    uint4 tile;
    RowScales scales = {0, 0};
#pragma unroll
    for (uint32_t step = 0; step < STAGE_STEPS; ++step) {
        if (step >= steps) break;
        constexpr uint32_t PER_TILE = STEPS_PER_TILE<W::BITS>;
        if (step % PER_TILE == 0) {
            const uint32_t at = ((warp * S::TILES + step / PER_TILE) * 32 + lane) * 16;
            tile = *reinterpret_cast<const uint4*>(stage + S::WEIGHTS + at);
        }
        if constexpr (W::SCALE_BYTES > 0 && !W::GROUPED) {
            const uint32_t at = warp * S::SCALE_ROW + step / group_steps * TILE_N * W::SCALE_BYTES;
            if (step % group_steps == 0) scales = row_values<W::SCALE_BYTES>(stage + S::SCALES + at);
        }
        uint32_t a[4];
        W::fragment(a, tile, step % PER_TILE, scales);
#pragma unroll
        for (uint32_t t = 0; t < TOKENS / 8; t += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, stage_smem + S::X + (t * 8 + token) * STAGE_K + ((2 * step + odd) ^ token % 8) * 16);
            mma_s8(dots[t], a, b[0], b[1]);
            mma_s8(dots[t + 1], a, b[2], b[3]);
        }
        if constexpr (W::GROUPED) {
            if ((step + 1) % group_steps == 0) add_groups<W, TOKENS, FINE>(p, stage, index, step / group_steps, dots, sums);
        }
    }
    if constexpr (FINE && !W::GROUPED) add_blocks<W, TOKENS>(p, index, dots, sums);
}

// Adds the splits of K: every block leaves its values, and the last to arrive adds them all in order. Says whether this block
// is the last.
template <typename W, uint32_t TOKENS>
__device__ __forceinline__ bool add_splits(const LinearParams& p, int32_t (&dots)[TOKENS / 8][4], float (&sums)[TOKENS / 8][4]) {
    __shared__ uint32_t last_smem;
    const uint32_t block = blockIdx.y * gridDim.x + blockIdx.x, blocks = gridDim.x * gridDim.y;
    constexpr uint32_t VALUES = ROWS * TOKENS;  // of a block: (value, thread128)
    const bool floats = W::GROUPED || p.fine;
    uint32_t* mine = p.partial + (size_t(blockIdx.z) * blocks + block) * VALUES + threadIdx.x;
#pragma unroll
    for (uint32_t i = 0; i < TOKENS / 2; ++i)
        mine[i * THREADS] = floats ? __float_as_uint(sums[i / 4][i % 4]) : static_cast<uint32_t>(dots[i / 4][i % 4]);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        const uint32_t before = atomicAdd(p.arrived + block, 1);
        last_smem = before == p.splits - 1;
        if (last_smem) p.arrived[block] = 0;  // for the next launch
    }
    __syncthreads();
    if (!last_smem) return false;
    __threadfence();
#pragma unroll
    for (uint32_t i = 0; i < TOKENS / 2; ++i) {
        float sum = 0.0f;
        int32_t dot = 0;
        for (uint32_t split = 0; split < p.splits; ++split) {
            const uint32_t value = __ldcg(p.partial + (size_t(split) * blocks + block) * VALUES + i * THREADS + threadIdx.x);
            if (floats) sum = __fadd_rn(sum, __uint_as_float(value));
            else dot += static_cast<int32_t>(value);
        }
        sums[i / 4][i % 4] = sum;
        dots[i / 4][i % 4] = dot;
    }
    return true;
}

// Brings the values through shared memory into the order of y, scales them and writes them.
template <typename W, uint32_t TOKENS>
__device__ __forceinline__ void write_back(const LinearParams& p, const Block& b, uint32_t* out, int32_t (&dots)[TOKENS / 8][4],
                                           float (&sums)[TOKENS / 8][4]) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool floats = W::GROUPED || p.fine;
#pragma unroll
    for (uint32_t t = 0; t < TOKENS / 8; ++t)
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
            const uint32_t token = t * 8 + 2 * (lane % 4) + i % 2, row = warp * TILE_N + lane / 4 + i / 2 * 8;
            out[token * OUT_STRIDE + row] = floats ? __float_as_uint(sums[t][i]) : static_cast<uint32_t>(dots[t][i]);
        }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < TOKENS * ROWS; i += THREADS) {
        const uint32_t m = b.m0 + i / ROWS, n = b.n0 + i % ROWS;
        if (m >= p.m) break;
        if (n >= p.n) continue;
        const uint32_t value = out[i / ROWS * OUT_STRIDE + i % ROWS];
        float sum = __uint_as_float(value);
        if constexpr (!W::GROUPED) {
            if (!p.fine) sum = __int2float_rn(static_cast<int32_t>(value) - (W::ZERO != 0 ? W::ZERO * p.sums[m] : 0));
            sum = __fmul_rn(sum, p.scale[n]);
        }
        write_output(p, m, n, sum);
    }
}

template <typename W, uint32_t TOKENS>
__device__ __forceinline__ void gemm(const LinearParams& p) {
    using S = Stage<W, TOKENS>;
    extern __shared__ __align__(16) char smem[];
    const uint32_t base = shared_address(smem);
    const uint32_t n0 = blockIdx.x * ROWS;
    const Block b = {n0 / TILE_N + threadIdx.x / 32, n0, blockIdx.y * TOKENS, W::SCALE_BYTES > 0 ? p.k / p.group_size : 0, p.k / 32};

    // stages of this split: as even as can be, the same in every launch
    const uint32_t all = (p.k + STAGE_K - 1) / STAGE_K;
    const uint32_t first = blockIdx.z * all / p.splits, end = (blockIdx.z + 1) * all / p.splits;

    int32_t dots[TOKENS / 8][4] = {};
    float sums[TOKENS / 8][4] = {};
#pragma unroll
    for (uint32_t i = 0; i < STAGES - 1; ++i) {
        if (first + i < end) load_stage<W, TOKENS>(p, b, base + i * S::BYTES, first + i);
        cp_async_commit();
    }
    uint32_t slot = 0;
    for (uint32_t index = first; index < end; ++index) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage is there for all, and all are done with the one before it, whose slot is next
        const uint32_t next = index + STAGES - 1, free = slot == 0 ? STAGES - 1 : slot - 1;
        if (next < end) load_stage<W, TOKENS>(p, b, base + free * S::BYTES, next);
        cp_async_commit();
        const uint32_t at = slot * S::BYTES, steps = b.steps - index * STAGE_STEPS;
        if (p.fine) multiply<W, TOKENS, true>(p, smem + at, base + at, index, steps, dots, sums);
        else multiply<W, TOKENS, false>(p, smem + at, base + at, index, steps, dots, sums);
        slot = slot + 1 == STAGES ? 0 : slot + 1;
    }
    cp_async_wait<0>();
    if (p.splits > 1 && !add_splits<W, TOKENS>(p, dots, sums)) return;
    __syncthreads();  // the stages are free
    write_back<W, TOKENS>(p, b, reinterpret_cast<uint32_t*>(smem), dots, sums);
}

}  // namespace moray

#define MORAY_GEMM(name, Weight, TOKENS)                                                                                \
    MORAY_SHARED(name, (moray::Stage<moray::Weight, TOKENS>::ALL_BYTES))                                                \
    extern "C" __global__ void __launch_bounds__(moray::THREADS, moray::MIN_BLOCKS) name(const moray::LinearParams p) { \
        moray::gemm<moray::Weight, TOKENS>(p);                                                                          \
    }

#define MORAY_GEMMS(name, Weight)                 \
    MORAY_GEMM(w4a8_gemm_##name##_16, Weight, 16) \
    MORAY_GEMM(w4a8_gemm_##name##_64, Weight, 64)

MORAY_WEIGHTS(MORAY_GEMMS)
