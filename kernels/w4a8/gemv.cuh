// The multiplying of a GEMV: one row of tiles times the quantized tokens of a call, by a team of 8 warps that share its K.
//
// Every warp takes 256 of each 2048 of K and keeps its next weights in registers while it multiplies, so about 2 KiB for each
// warp are on their way. Tokens are the N of 8 of mma.m16n8k32: multiplying costs the same for 1 and 4, and less than dp4a.
// The integers of a part, a group or what shares a fine scale, are left in shared memory and added in f32 in the parts' order, by runs of
// K: the CPU's bits.
#pragma once

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "w4a8/dequant.cuh"
#include "w4a8/runs.cuh"

namespace moray {

constexpr uint32_t WARPS = 8, TEAM = 32 * WARPS;  // of a team
constexpr uint32_t TOKENS = 4;
constexpr uint32_t UNIT_K = 256;  // of a warp at a time
constexpr uint32_t UNIT_STEPS = UNIT_K / 32;
constexpr uint32_t CHUNK_K = WARPS * UNIT_K;
constexpr uint32_t OUTPUTS = TILE_N * TOKENS;  // of a row of tiles: (token4, row16)

// K of a part, whose integers are scaled together.
template <typename W>
__device__ __forceinline__ uint32_t part_size(const LinearParams& p) {
    return W::GROUPED ? p.group_size : ACT_BLOCK;
}

// Parts that a chunk may have.
template <typename W>
constexpr uint32_t MAX_PARTS = CHUNK_K / (W::GROUPED ? 32 : ACT_BLOCK);

// The weights of one warp's unit, as they lie in the tiles.
template <typename W>
struct Unit {
    static constexpr uint32_t TILES = UNIT_STEPS / STEPS_PER_TILE<W::BITS>;
    uint4 tiles[TILES];

    // Loads unit number `index` of a row of tiles' K; zeros past its end.
    __device__ __forceinline__ void load(const LinearParams& p, uint32_t row, uint32_t index) {
        const uint32_t tiles_k = padded(p.k) / (32 * STEPS_PER_TILE<W::BITS>);
#pragma unroll
        for (uint32_t i = 0; i < TILES; ++i) {
            const uint32_t tile = index * TILES + i;
            const uint4* src = p.codes + (size_t(row) * tiles_k + tile) * 32 + threadIdx.x % 32;
            tiles[i] = tile < tiles_k ? load_streaming(src) : make_uint4(0, 0, 0, 0);
        }
    }

    // Brings a unit, if it is one, to the second-level cache.
    static __device__ __forceinline__ void prefetch(const LinearParams& p, uint32_t row, uint32_t index) {
        constexpr uint32_t LINE_BYTES = 128, LINES = TILES * TILE_BYTES / LINE_BYTES;
        const uint32_t tiles_k = padded(p.k) / (32 * STEPS_PER_TILE<W::BITS>), lane = threadIdx.x % 32;
        const uint32_t tile = index * TILES + lane / (TILE_BYTES / LINE_BYTES);
        if (lane >= LINES || tile >= tiles_k) return;
        const char* tiles = reinterpret_cast<const char*>(p.codes + (size_t(row) * tiles_k + index * TILES) * 32);
        prefetch_l2(tiles + lane * LINE_BYTES);
    }
};

// The group scales of a lane's two rows.
template <typename W>
__device__ __forceinline__ RowScales group_scales(const LinearParams& p, uint32_t row, uint32_t groups, uint32_t group) {
    const size_t at = (size_t(row) * groups + group) * TILE_N + threadIdx.x % 32 / 4;
    if constexpr (W::SCALE_BYTES == 1) {
        const uint8_t* scale = static_cast<const uint8_t*>(p.group_scale) + at;
        return {scale[0], scale[8]};
    } else {
        const uint16_t* scale = static_cast<const uint16_t*>(p.group_scale) + at;
        return {scale[0], scale[8]};
    }
}

// Where output (token4, row16) of a row of tiles lies: rows of tokens 2 and 3 are swapped by halves, so that the lanes of `put`, with
// 8 rows of tokens 0 and 2 or 1 and 3, touch different banks.
__device__ __forceinline__ uint32_t place(uint32_t token, uint32_t row) { return token * TILE_N + (row ^ token / 2 * 8); }

// Leaves a lane's integers, (row, token) as mma holds them, in their places.
__device__ __forceinline__ void put(int32_t* out_smem, const int32_t (&dots)[4]) {
    const uint32_t row = threadIdx.x % 32 / 4, token = 2 * (threadIdx.x % 4);
    if (token >= TOKENS) return;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) out_smem[place(token + i % 2, row + i / 2 * 8)] = dots[i];
}

// Quantized tokens in device memory, as quantize.cu leaves them.
struct DeviceTokens {
    static constexpr uint32_t STEPS = 4;  // whose inputs are loaded together

    const uint32_t* x;  // of this lane: (k 4·(lane mod 4).., token ⌊lane/4⌋)
    const float* scales;
    const int32_t* all_sums;
    uint32_t m;

    __device__ explicit DeviceTokens(const LinearParams& p)
        : x(reinterpret_cast<const uint32_t*>(p.x + size_t(threadIdx.x % 32 / 4) * padded(p.k)) + threadIdx.x % 4),
          scales(p.act_scale),
          all_sums(p.sums),
          m(p.m) {}

    // A lane's inputs of a few steps, on their way together: those of its place in a step, and the same 16 further.
    __device__ __forceinline__ void load(uint32_t (&b)[STEPS][2], uint32_t step, uint32_t end) const {
#pragma unroll
        for (uint32_t i = 0; i < STEPS; ++i) {
            const bool there = step + i < end;
            b[i][0] = there ? x[8 * (step + i)] : 0, b[i][1] = there ? x[8 * (step + i) + 4] : 0;
        }
    }
    // The scale of a token, or of a block of its K; its sum over a part or over all.
    __device__ __forceinline__ float scale(uint32_t token, uint32_t block = 0) const { return scales[size_t(block) * m + token]; }
    __device__ __forceinline__ int32_t sum(uint32_t token, uint32_t part = 0) const { return all_sums[size_t(part) * m + token]; }
};

// Multiplies a unit. With parts, leaves each one's integers in `parts_smem`, from the unit's first on, and clears them.
template <typename W, bool PARTS, typename Tokens>
__device__ __forceinline__ void multiply(const LinearParams& p, const Tokens& tokens, uint32_t row, const Unit<W>& unit, uint32_t index,
                                         int32_t (&dots)[4], int32_t* parts_smem) {
    const uint32_t token = threadIdx.x % 32 / 4, steps = p.k / 32;
    const uint32_t group_steps = W::SCALE_BYTES > 0 ? p.group_size / 32 : 1, groups = steps / group_steps;
    const uint32_t part_steps = part_size<W>(p) / 32;
    RowScales scales = {0, 0};
    uint32_t b[Tokens::STEPS][2];
#pragma unroll
    for (uint32_t i = 0; i < UNIT_STEPS; ++i) {
        const uint32_t step = index * UNIT_STEPS + i;
        if (step >= steps) break;
        if (i % Tokens::STEPS == 0) tokens.load(b, step, token < p.m ? steps : 0);
        if constexpr (W::SCALE_BYTES > 0 && !W::GROUPED) {
            if (i == 0 || step % group_steps == 0) scales = group_scales<W>(p, row, groups, step / group_steps);
        }
        uint32_t a[4];
        W::fragment(a, unit.tiles[i / STEPS_PER_TILE<W::BITS>], i % STEPS_PER_TILE<W::BITS>, scales);
        mma_s8(dots, a, b[i % Tokens::STEPS][0], b[i % Tokens::STEPS][1]);
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
template <typename W, bool FINE, typename Tokens>
__device__ __forceinline__ float add_parts(const LinearParams& p, const Tokens& tokens, uint32_t tile_row, uint32_t origin,
                                           uint32_t first, uint32_t end, const int32_t* parts_smem, float acc) {
    const uint32_t token = threadIdx.x % TEAM / TILE_N, row = threadIdx.x % TILE_N, size = part_size<W>(p), groups = (p.k + size - 1) / size;
    const __half* scales = static_cast<const __half*>(p.group_scale);
#pragma unroll (FINE && !W::GROUPED ? 2 : 4)
    for (uint32_t g = first; g < end; ++g) {
        const int32_t dot = parts_smem[(g - origin) * OUTPUTS + place(token, row)];
        const int32_t sum = W::GROUPED || W::ZERO != 0 ? tokens.sum(token, g) : 0;
        const float act_scale = FINE ? tokens.scale(token, g * size / ACT_BLOCK) : 1.0f;
        if constexpr (!W::GROUPED) {
            acc = add_block(acc, __int2float_rn(dot - W::ZERO * sum), act_scale);
            continue;
        }
        const size_t at = (size_t(tile_row) * groups + g) * TILE_N + row;
        float offset = 0.0f;
        uint32_t point = 0;
        if (p.offset_kind == Offset::f16) offset = __half2float(static_cast<const __half*>(p.offset)[at]);
        if (p.offset_kind == Offset::zero_point) point = static_cast<const uint8_t*>(p.offset)[at];
        const int32_t zero = group_zero<W>(p.offset_kind, point);
        acc = add_group<FINE>(acc, __int2float_rn(dot - zero * sum), act_scale, __half2float(scales[at]));
        if (p.offset_kind == Offset::f16) acc = add_group<FINE>(acc, __int2float_rn(sum), act_scale, offset);
    }
    return acc;
}

// Adds the parts of one chunk of K, run by run.
template <typename W, bool FINE, typename Tokens>
__device__ __forceinline__ void add_chunk(const LinearParams& p, const Tokens& tokens, uint32_t row, uint32_t chunk, const int32_t* parts_smem, Sum& sum) {
    const uint32_t size = part_size<W>(p), begin = chunk * CHUNK_K, end = min(begin + CHUNK_K, p.k);
    for (uint32_t k = begin; k < end;) {
        const uint32_t until = min(end, sum.end);
        sum.chain = add_parts<W, FINE>(p, tokens, row, begin / size, k / size, (until + size - 1) / size, parts_smem, sum.chain);
        if (until == sum.end) sum.end_run(p.k);
        k = until;
    }
}

// Waits for the threads of a team, of which a block has so many.
template <uint32_t TEAMS>
__device__ __forceinline__ void sync_team() {
    if constexpr (TEAMS == 1) __syncthreads();
    else barrier_sync<TEAM>(1 + threadIdx.x / TEAM);
}

// Shared memory of a team: parts (slot2, part, token4, row16), or without them (slot2, warp8, token4, row16). With two slots one barrier is
// enough: a slot is written again only after the next one's.
template <typename W>
constexpr uint32_t TEAM_WORDS = 2 * MAX_PARTS<W> * OUTPUTS;

// The output of a thread of a team, (token, row16), of a row of tiles, before the token's scale; `slot` counts the uses of shared memory.
template <typename W, bool FINE, uint32_t TEAMS, typename Tokens>
__device__ __forceinline__ float row_output(const LinearParams& p, const Tokens& tokens, uint32_t row, int32_t* team_smem,
                                            uint32_t& slot) {
    constexpr bool PARTS = W::GROUPED || FINE;
    static_assert(MAX_PARTS<W> >= WARPS, "the warps' sums have room too");
    const uint32_t thread = threadIdx.x % TEAM, warp = thread / 32, chunks = (p.k + CHUNK_K - 1) / CHUNK_K;
    const bool writes = thread < TILE_N * p.m;
    int32_t dots[4] = {};
    Sum sum = {0.0f, 0.0f, run_end(p.k, 0)};
    Unit<W> unit;
    unit.load(p, row, warp);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
        const Unit<W> current = unit;
        if (chunk + 1 < chunks) unit.load(p, row, (chunk + 1) * WARPS + warp);
        int32_t* parts_smem = team_smem + slot % 2 * MAX_PARTS<W> * OUTPUTS;
        int32_t* mine = parts_smem + warp * (UNIT_K / part_size<W>(p)) * OUTPUTS;
        multiply<W, PARTS>(p, tokens, row, current, chunk * WARPS + warp, dots, mine);
        if constexpr (PARTS) {
            sync_team<TEAMS>();
            if (writes) add_chunk<W, FINE>(p, tokens, row, chunk, parts_smem, sum);
            ++slot;
        }
    }
    float acc = sum.total;
    if constexpr (!PARTS) {
        int32_t* warps_smem = team_smem + slot % 2 * WARPS * OUTPUTS;
        put(warps_smem + warp * OUTPUTS, dots);
        sync_team<TEAMS>();
        if (writes) {
            int32_t dot = 0;
#pragma unroll
            for (uint32_t w = 0; w < WARPS; ++w) dot += warps_smem[w * OUTPUTS + place(thread / TILE_N, thread % TILE_N)];
            if (W::ZERO != 0) dot -= W::ZERO * tokens.sum(thread / TILE_N);
            acc = __int2float_rn(dot);
        }
        ++slot;
    }
    if (!W::GROUPED && writes) acc = __fmul_rn(acc, p.scale[row * TILE_N + thread % TILE_N]);
    return acc;
}

}  // namespace moray
