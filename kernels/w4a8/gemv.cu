// y[M,N] = act_scale[M] · (x[M,K] · w[N,K]ᵀ) + bias[N] + residual[M,N], act_scale perhaps finer, for M from 1 to 4: the weights' bytes are all that counts.
//
// Arguments, types and layouts as in gemm.cu; `splits`, `partial` and `arrived` are not used.
//
// Requires: as gemm.cu. Grid: ⌈N/16⌉. Block: 256 threads, 8 warps that share the K of one row of tiles.
// Shared memory: 32 KiB in group modes, 8 KiB in the others.
//
// Every warp takes 256 of each 2048 of K and keeps its next weights in registers while it multiplies, so about 2 KiB for each
// warp are on their way. Tokens are the N of 8 of mma.m16n8k32: multiplying costs the same for 1 and 4, and less than dp4a.
// The integers of a part, a group or what shares a fine scale, are left in shared memory and added in f32 in the parts' order, by runs of
// K: the CPU's bits.
// Source: as gemm.cu. Wrapper: src/w4a8/cuda/linear.rs.

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "w4a8/dequant.cuh"
#include "w4a8/runs.cuh"

namespace moray {

constexpr uint32_t WARPS = 8, THREADS = 32 * WARPS;
constexpr uint32_t TOKENS = 4;
constexpr uint32_t UNIT_K = 256;  // of a warp at a time
constexpr uint32_t UNIT_STEPS = UNIT_K / 32;
constexpr uint32_t X_STEPS = 4;  // whose inputs are loaded together
constexpr uint32_t CHUNK_K = WARPS * UNIT_K;
constexpr uint32_t OUTPUTS = TILE_N * TOKENS;  // of a block: (token4, row16)

// K of a part, whose integers are scaled together.
template <typename W>
__device__ __forceinline__ uint32_t part_size(const LinearParams& p) {
    return W::GROUPED ? p.group_size : ACT_BLOCK;
}

// Parts that a chunk may have.
template <typename W>
constexpr uint32_t MAX_PARTS = CHUNK_K / (W::GROUPED ? 32 : ACT_BLOCK);

// Blocks of a multiprocessor: what shared memory and the registers of its tiles leave room for.
template <typename W>
constexpr uint32_t MIN_BLOCKS = W::GROUPED || W::BITS == 8 ? 2 : W::SCALE_BYTES == 0 ? 4 : 3;

// The weights of one warp's unit, as they lie in the tiles.
template <typename W>
struct Unit {
    static constexpr uint32_t TILES = UNIT_STEPS / STEPS_PER_TILE<W::BITS>;
    uint4 tiles[TILES];

    // Loads unit number `index` of K; zeros past its end.
    __device__ __forceinline__ void load(const LinearParams& p, uint32_t index) {
        const uint32_t tiles_k = padded(p.k) / (32 * STEPS_PER_TILE<W::BITS>);
#pragma unroll
        for (uint32_t i = 0; i < TILES; ++i) {
            const uint32_t tile = index * TILES + i;
            const uint4* src = p.codes + (size_t(blockIdx.x) * tiles_k + tile) * 32 + threadIdx.x % 32;
            tiles[i] = tile < tiles_k ? load_streaming(src) : make_uint4(0, 0, 0, 0);
        }
    }
};

// The group scales of a lane's two rows.
template <typename W>
__device__ __forceinline__ RowScales group_scales(const LinearParams& p, uint32_t groups, uint32_t group) {
    const size_t at = (size_t(blockIdx.x) * groups + group) * TILE_N + threadIdx.x % 32 / 4;
    if constexpr (W::SCALE_BYTES == 1) {
        const uint8_t* scale = static_cast<const uint8_t*>(p.group_scale) + at;
        return {scale[0], scale[8]};
    } else {
        const uint16_t* scale = static_cast<const uint16_t*>(p.group_scale) + at;
        return {scale[0], scale[8]};
    }
}

// Where output (token4, row16) of a block lies: rows of tokens 2 and 3 are swapped by halves, so that the lanes of `put`, with
// 8 rows of tokens 0 and 2 or 1 and 3, touch different banks.
__device__ __forceinline__ uint32_t place(uint32_t token, uint32_t row) { return token * TILE_N + (row ^ token / 2 * 8); }

// Leaves a lane's integers, (row, token) as mma holds them, in their places.
__device__ __forceinline__ void put(int32_t* out_smem, const int32_t (&dots)[4]) {
    const uint32_t row = threadIdx.x % 32 / 4, token = 2 * (threadIdx.x % 4);
    if (token >= TOKENS) return;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) out_smem[place(token + i % 2, row + i / 2 * 8)] = dots[i];
}

// Loads a lane's inputs of a few steps, on their way together: (k 4·(lane mod 4).., token ⌊lane/4⌋) and the same 16 further.
__device__ __forceinline__ void load_x(uint32_t (&b)[X_STEPS][2], const uint32_t* x, uint32_t step, uint32_t end) {
#pragma unroll
    for (uint32_t i = 0; i < X_STEPS; ++i) {
        const bool there = step + i < end;
        b[i][0] = there ? x[8 * (step + i)] : 0, b[i][1] = there ? x[8 * (step + i) + 4] : 0;
    }
}

// Multiplies a unit. With parts, leaves each one's integers in `parts_smem`, from the unit's first on, and clears them.
template <typename W, bool PARTS>
__device__ __forceinline__ void multiply(const LinearParams& p, const Unit<W>& unit, uint32_t index, int32_t (&dots)[4],
                                         int32_t* parts_smem) {
    const uint32_t lane = threadIdx.x % 32, token = lane / 4, steps = p.k / 32, pad_k = padded(p.k);
    const uint32_t group_steps = W::SCALE_BYTES > 0 ? p.group_size / 32 : 1, groups = steps / group_steps;
    const uint32_t* x = reinterpret_cast<const uint32_t*>(p.x + size_t(token) * pad_k) + lane % 4;
    const uint32_t part_steps = part_size<W>(p) / 32;
    RowScales scales = {0, 0};
    uint32_t b[X_STEPS][2];
#pragma unroll
    for (uint32_t i = 0; i < UNIT_STEPS; ++i) {
        const uint32_t step = index * UNIT_STEPS + i;
        if (step >= steps) break;
        if (i % X_STEPS == 0) load_x(b, x, step, token < p.m ? steps : 0);
        if constexpr (W::SCALE_BYTES > 0 && !W::GROUPED) {
            if (i == 0 || step % group_steps == 0) scales = group_scales<W>(p, groups, step / group_steps);
        }
        uint32_t a[4];
        W::fragment(a, unit.tiles[i / STEPS_PER_TILE<W::BITS>], i % STEPS_PER_TILE<W::BITS>, scales);
        mma_s8(dots, a, b[i % X_STEPS][0], b[i % X_STEPS][1]);
        if constexpr (PARTS) {
            // only a fine scale's last part may be short
            if ((i + 1) % part_steps == 0 || step + 1 == steps) {
                put(parts_smem + i / part_steps * OUTPUTS, dots);
                dots[0] = dots[1] = dots[2] = dots[3] = 0;
            }
        }
    }
}

// An output of a thread: the chain of the run at hand, and those before it.
struct Sum {
    float chain, total;
    uint32_t end;  // of the run

    __device__ __forceinline__ void end_run(uint32_t k) { total = __fadd_rn(total, chain), chain = 0.0f, end = moray::run_end(k, end); }
};

// Adds parts `first` to `end`, of one run and of a chunk of K that begins with part `origin`, to a thread's output, in order.
template <typename W, bool FINE>
__device__ __forceinline__ float add_parts(const LinearParams& p, uint32_t origin, uint32_t first, uint32_t end,
                                           const int32_t* parts_smem, float acc) {
    const uint32_t token = threadIdx.x / TILE_N, row = threadIdx.x % TILE_N, size = part_size<W>(p), groups = (p.k + size - 1) / size;
    const __half* scales = static_cast<const __half*>(p.group_scale);
#pragma unroll (FINE && !W::GROUPED ? 2 : 4)
    for (uint32_t g = first; g < end; ++g) {
        const int32_t dot = parts_smem[(g - origin) * OUTPUTS + place(token, row)];
        const int32_t sum = W::GROUPED || W::ZERO != 0 ? p.sums[size_t(g) * p.m + token] : 0;
        const float act_scale = FINE ? p.act_scale[size_t(g * size / ACT_BLOCK) * p.m + token] : 1.0f;
        if constexpr (!W::GROUPED) {
            acc = add_block(acc, dot - W::ZERO * sum, act_scale);
            continue;
        }
        const size_t at = (size_t(blockIdx.x) * groups + g) * TILE_N + row;
        float offset = 0.0f;
        uint32_t point = 0;
        if (p.offset_kind == Offset::f16) offset = __half2float(static_cast<const __half*>(p.offset)[at]);
        if (p.offset_kind == Offset::zero_point) point = static_cast<const uint8_t*>(p.offset)[at];
        const int32_t zero = group_zero<W>(p.offset_kind, point);
        acc = add_group<FINE>(acc, dot - zero * sum, act_scale, __half2float(scales[at]));
        if (p.offset_kind == Offset::f16) acc = add_group<FINE>(acc, sum, act_scale, offset);
    }
    return acc;
}

// Adds the parts of one chunk of K, run by run.
template <typename W, bool FINE>
__device__ __forceinline__ void add_chunk(const LinearParams& p, uint32_t chunk, const int32_t* parts_smem, Sum& sum) {
    const uint32_t size = part_size<W>(p), begin = chunk * CHUNK_K, end = min(begin + CHUNK_K, p.k);
    for (uint32_t k = begin; k < end;) {
        const uint32_t until = min(end, sum.end);
        sum.chain = add_parts<W, FINE>(p, begin / size, k / size, (until + size - 1) / size, parts_smem, sum.chain);
        if (until == sum.end) sum.end_run(p.k);
        k = until;
    }
}

template <typename W, bool FINE>
__device__ __forceinline__ void gemv(const LinearParams& p, int32_t* smem) {
    constexpr bool PARTS = W::GROUPED || FINE;
    const uint32_t warp = threadIdx.x / 32, chunks = (p.k + CHUNK_K - 1) / CHUNK_K;
    const bool writes = threadIdx.x < TILE_N * p.m;  // (token, row16)
    int32_t dots[4] = {};
    Sum sum = {0.0f, 0.0f, run_end(p.k, 0)};
    Unit<W> unit;
    unit.load(p, warp);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
        const Unit<W> current = unit;
        if (chunk + 1 < chunks) unit.load(p, (chunk + 1) * WARPS + warp);
        int32_t* parts_smem = smem + chunk % 2 * MAX_PARTS<W> * OUTPUTS;
        int32_t* mine = parts_smem + warp * (UNIT_K / part_size<W>(p)) * OUTPUTS;
        multiply<W, PARTS>(p, current, chunk * WARPS + warp, dots, mine);
        if constexpr (PARTS) {
            // with two slots, one barrier: a slot is written again only after the next chunk's
            __syncthreads();
            if (writes) add_chunk<W, FINE>(p, chunk, parts_smem, sum);
        }
    }
    float acc = sum.total;
    if constexpr (!PARTS) {
        put(smem + warp * OUTPUTS, dots);
        __syncthreads();
        if (writes) {
            int32_t dot = 0;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; ++w) dot += smem[w * OUTPUTS + place(threadIdx.x / TILE_N, threadIdx.x % TILE_N)];
            if (W::ZERO != 0) dot -= W::ZERO * p.sums[threadIdx.x / TILE_N];
            acc = __int2float_rn(dot);
        }
    }
    if (!W::GROUPED && writes) acc = __fmul_rn(acc, p.scale[blockIdx.x * TILE_N + threadIdx.x % TILE_N]);
    const uint32_t n = blockIdx.x * TILE_N + threadIdx.x % TILE_N;
    if (writes && n < p.n) write_output(p, threadIdx.x / TILE_N, n, acc);
}

template <typename W>
__device__ __forceinline__ void gemv(const LinearParams& p) {
    // parts: (slot2, part, token4, row16); without: (warp8, token4, row16)
    __shared__ int32_t smem[2 * MAX_PARTS<W> * OUTPUTS];
    static_assert(2 * MAX_PARTS<W> >= WARPS, "the warps' sums have room too");
    if (p.fine) gemv<W, true>(p, smem);
    else gemv<W, false>(p, smem);
}

}  // namespace moray

#define MORAY_GEMV(name, Weight)                                                                   \
    extern "C" __global__ void __launch_bounds__(moray::THREADS, moray::MIN_BLOCKS<moray::Weight>) \
    w4a8_gemv_##name(const moray::LinearParams p) { moray::gemv<moray::Weight>(p); }

MORAY_INTEGER_WEIGHTS(MORAY_GEMV)
MORAY_GROUP_WEIGHTS(MORAY_GEMV)
