// Gate and up rows of the selected neurons times the activations of many tokens on the matrix units, and their product.
//
//   gate_values[t, i] = act(gate[j, :] . x[t, :] + gate_bias[j]),  j = list[i]
//   hidden[t, i]      = gate_values[t, i] * (up[j, :] . x[t, :] + up_bias[j]),  0 where token t's mask leaves j out
//
// | argument    | dtype               | shape             | layout                                                       |
// |-------------|---------------------|-------------------|--------------------------------------------------------------|
// | gate, up    | f16, bf16 or 4 bits | [d_ff, d_model]   | row-major, see MatrixView; either may be null                |
// | list, count | u32                 | [d_ff], [1]       | read on the device; null: all neurons                        |
// | masks       | u32                 | [tokens, words]   | bit per neuron; null: none                                   |
// | operand     | f16, bf16 or int8   | [tokens, d_model] | x, see operand.cuh                                           |
// | gate_values | f32                 | [tokens, stride]  | by position; read by neuron where gate is null               |
// | hidden      | f32                 | [tokens, stride]  | by position; positions past the count are left as they are   |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// Grid (ceil(d_ff / (16 WARPS)), ceil(tokens / TOKENS)); Block 32 WARPS: a warp the gate and up rows of 16 neurons;
// Smem dynamic, see Stage. Blocks past the count end at once.
//
// Weights are the A operand and tokens the N of 8, so every selected row is read once for TOKENS tokens, in whole sectors, and
// a lane's gate and up sums are those of the same neuron and token. 16-bit rows: f32 sums in the order of k; each part of x
// is a product of its own. 4-bit rows: integer sums of a group, f32 across groups in their order, by runs of K: the CPU's bits.
// Source: neuron-major gathers as in Deja Vu (ICML 2023), weights as the A operand as in kernels/w4a8/gemm.cu.
// Wrapper: src/sparse_mlp/cuda.
#include "common/shared.cuh"
#include "operand.cuh"
#include "product.cuh"
#include "w4a8/runs.cuh"

namespace moray::sparse_mlp {

constexpr uint32_t STAGES = 4, ROWS = 16;  // rows of a matrix that a warp multiplies
constexpr uint32_t SECTOR_DWORDS = 8;      // scales are read by whole sectors
constexpr uint32_t NIBBLES = 0x0f0f0f0fu;

template <int TOKENS>
constexpr uint32_t WARPS = TOKENS == 16 ? 2 : 4;

// One stage of k in shared memory, as byte offsets. 16 bits: PIECES of 64 bytes of a row; 4 bits: one, of 128 codes.
template <class Rows, int TOKENS>
struct Stage {
    static constexpr uint32_t SPANS = Rows::FOUR_BIT || TOKENS == 16 ? 2 : 1;  // of the operand
    static constexpr uint32_t K = SPANS * OperandOf<Rows>::SPAN;
    static constexpr uint32_t TILES = TOKENS / TILE_TOKENS;
    static constexpr uint32_t PIECES = Rows::FOUR_BIT ? 1 : SPANS;
    static constexpr uint32_t WARP_BYTES = 2 * ROWS * PIECES * 64;  // 16 bits: (matrix2, half2, piece, lane32, byte16)
                                                                    // 4 bits: (matrix2, row16, segment4 swizzled, byte16)
    static constexpr uint32_t X = WARPS<TOKENS> * WARP_BYTES;       // (part, tile, span, byte512)
    static constexpr uint32_t SUMS = X + OperandOf<Rows>::PARTS * TILES * SPANS * OPERAND_TILE_BYTES;
    static constexpr uint32_t SUM_ROWS = Rows::FOUR_BIT ? K / 32 + 1 : 0;  // (segment5, token): sums before each segment
    static constexpr uint32_t BYTES = SUMS + SUM_ROWS * TOKENS * 4;
    // 4 bits, behind the stages: (chunk4, warp, matrix2, row16, half2 ^ row / 4 % 2, dword4), so that eight rows touch all
    // banks once. A chunk lasts for at least two stages, so the four stages under way touch three.
    static constexpr uint32_t SCALES = STAGES * BYTES, CHUNKS = 4;
    static constexpr uint32_t ALL_BYTES = SCALES + (Rows::FOUR_BIT ? CHUNKS * WARPS<TOKENS> * 2 * ROWS * 32 : 0);
};

// What a warp works on: 16 positions from position0 on, of which a lane has rows lane / 4 and that + 8.
struct Work {
    uint32_t position0, count;
    uint32_t neuron[2];
    uint32_t scale_neuron;  // of row lane / 2, whose scales the lane copies
    uint32_t token0, tiles;

    __device__ __forceinline__ bool has(uint32_t row) const { return position0 + row < count; }
};

// The bits of a lane's sums: [matrix][token tile], as mma leaves them.
template <int TOKENS>
struct Sums {
    float total[2][TOKENS / TILE_TOKENS][4];   // 4 bits: of the runs of K before the one at hand
    float chain[2][TOKENS / TILE_TOKENS][4];   // 4 bits: of that
    int32_t dots[2][TOKENS / TILE_TOKENS][4];  // 4 bits: of the group under way

    __device__ __forceinline__ void end_run() {
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
#pragma unroll
            for (uint32_t t = 0; t < TOKENS / TILE_TOKENS; t++) {
#pragma unroll
                for (uint32_t i = 0; i < 4; i++) {
                    total[m][t][i] = __fadd_rn(total[m][t][i], chain[m][t][i]);
                    chain[m][t][i] = 0.0f;
                }
            }
        }
    }
};

// Starts the copies of the sector of scales that a stage is the first to need, if it is.
template <int TOKENS>
__device__ __forceinline__ void load_scales(uint32_t smem, const MatrixView& matrix, uint32_t which, const Work& w, uint32_t stage) {
    using S = Stage<FourBitRows, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 2, half = lane % 2;
    const uint32_t groups = matrix.offset == Offset::none ? 2 * SECTOR_DWORDS : SECTOR_DWORDS;  // of a sector
    const uint32_t stages = groups * matrix.segments_per_group / 4, chunk = stage / stages;
    if (matrix.group_scale == GroupScale::none || stage % stages != 0) {
        return;
    }
    const uint32_t* src = matrix.scales + size_t(w.scale_neuron) * matrix.scale_stride + chunk * SECTOR_DWORDS + half * 4;
    const uint32_t at = ((chunk % S::CHUNKS * WARPS<TOKENS> + warp) * 2 + which) * ROWS + row;
    cp_async_16(smem + S::SCALES + (at * 2 + (half ^ row / 4 % 2)) * 16, w.has(row) ? src : matrix.scales, w.has(row) ? 16 : 0);
}

// Starts the copies of one matrix's part of a stage: 8 rows of 64 bytes at a time.
template <class Rows, int TOKENS>
__device__ __forceinline__ void load_rows(uint32_t stage_smem, const MatrixView& matrix, uint32_t which, const GateUpParams& p,
                                          const Work& w, uint32_t stage) {
    using S = Stage<Rows, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto* rows = static_cast<const char*>(matrix.rows);
    const uint32_t row_bytes = Rows::FOUR_BIT ? p.d_model / 2 : p.d_model * 2;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        const uint32_t row = lane / 4 + 8 * half;
#pragma unroll
        for (uint32_t piece = 0; piece < S::PIECES; piece++) {
            const uint32_t byte = (stage * S::PIECES + piece) * 64 + lane % 4 * 16;
            const bool valid = w.has(row) && byte < row_bytes;
            const uint32_t at = Rows::FOUR_BIT ? (which * ROWS + row) * 4 + (lane % 4 ^ (row / 2 & 3))
                                               : ((which * 2 + half) * S::PIECES + piece) * 32 + lane;
            const char* src = rows + size_t(w.neuron[half]) * row_bytes + byte;
            cp_async_16(stage_smem + warp * S::WARP_BYTES + at * 16, valid ? src : rows, valid ? 16 : 0);
        }
    }
}

// Starts the copies of stage number `stage` of k into its slot.
template <class Rows, int TOKENS>
__device__ __forceinline__ void load_stage(uint32_t smem, const GateUpParams& p, const Work& w, uint32_t stage) {
    using S = Stage<Rows, TOKENS>;
    const uint32_t stage_smem = smem + stage % STAGES * S::BYTES;
    const MatrixView* matrices[2] = {&p.gate, &p.up};
#pragma unroll
    for (uint32_t m = 0; m < 2; m++) {
        if (matrices[m]->rows != nullptr) {
            load_rows<Rows, TOKENS>(stage_smem, *matrices[m], m, p, w, stage);
            if constexpr (Rows::FOUR_BIT) {
                load_scales<TOKENS>(smem, *matrices[m], m, w, stage);
            }
        }
    }
    load_operand<Rows, S::TILES, S::SPANS>(stage_smem + S::X, p.operand, w.token0, w.tiles, stage * S::SPANS);
    if constexpr (Rows::FOUR_BIT) {
        const uint32_t fours = w.tiles * 2, padded = p.operand.token_tiles * TILE_TOKENS;
        for (uint32_t i = threadIdx.x; i < S::SUM_ROWS * fours; i += 32 * WARPS<TOKENS>) {
            const uint32_t row = i / fours, four = i % fours, segment = stage * (S::K / 32) + row;
            const bool valid = segment <= p.d_model / 32;
            const int32_t* src = p.operand.sums + size_t(segment) * padded + w.token0 + four * 4;
            cp_async_16(stage_smem + S::SUMS + (row * TOKENS + four * 4) * 4, valid ? src : p.operand.sums, valid ? 16 : 0);
        }
    }
}

// Multiplies a stage of 16-bit rows: a lane's 16 bytes are its part of two steps.
template <class Rows, int TOKENS>
__device__ __forceinline__ void multiply(Sums<TOKENS>& sums, const char* stage, const GateUpParams& p, const Work& w) {
    using S = Stage<Rows, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto* rows = reinterpret_cast<const uint4*>(stage + warp * S::WARP_BYTES);
    const auto* x = reinterpret_cast<const uint4*>(stage + S::X);
#pragma unroll
    for (uint32_t piece = 0; piece < S::PIECES; piece++) {
        uint4 near[2] = {}, far[2] = {};
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            if ((m == 0 ? p.gate : p.up).rows == nullptr) {
                continue;
            }
            near[m] = rows[(2 * m * S::PIECES + piece) * 32 + lane];
            far[m] = rows[((2 * m + 1) * S::PIECES + piece) * 32 + lane];
        }
#pragma unroll
        for (uint32_t t = 0; t < S::TILES; t++) {
            if (t >= w.tiles) {
                break;
            }
#pragma unroll
            for (uint32_t part = 0; part < OperandOf<Rows>::PARTS; part++) {
                const uint4 b = x[((part * S::TILES + t) * S::SPANS + piece) * 32 + lane];
#pragma unroll
                for (uint32_t m = 0; m < 2; m++) {
                    if ((m == 0 ? p.gate : p.up).rows != nullptr) {
                        const uint32_t first[4] = {near[m].x, far[m].x, near[m].y, far[m].y};
                        const uint32_t second[4] = {near[m].z, far[m].z, near[m].w, far[m].w};
                        OperandOf<Rows>::multiply(sums.total[m][t], first, b.x, b.y);
                        OperandOf<Rows>::multiply(sums.total[m][t], second, b.z, b.w);
                    }
                }
            }
        }
    }
}

// The scale of a group of the lane's row `half`.
template <int TOKENS>
__device__ __forceinline__ Scale scale_of(const char* smem, const MatrixView& matrix, uint32_t which, const Work& w, uint32_t half,
                                          uint32_t group) {
    using S = Stage<FourBitRows, TOKENS>;
    if (matrix.group_scale == GroupScale::none) {
        return load_scale(matrix, w.neuron[half], 0);
    }
    const uint32_t groups = matrix.offset == Offset::none ? 2 * SECTOR_DWORDS : SECTOR_DWORDS, chunk = group / groups % S::CHUNKS;
    const uint32_t row = threadIdx.x % 32 / 4 + 8 * half;
    const uint32_t at = ((chunk * WARPS<TOKENS> + threadIdx.x / 32) * 2 + which) * ROWS + row;
    return unpack_scale(matrix.group_scale, matrix.offset, smem + S::SCALES + at * 32, group % groups ^ row / 4 % 2 * (groups / 2));
}

// Adds the integers of a finished group, which ends before segment `end`, to the sums and clears them.
template <int TOKENS>
__device__ __forceinline__ void add_groups(Sums<TOKENS>& sums, const char* smem, const char* stage, const MatrixView& matrix,
                                           uint32_t which, const Work& w, uint32_t first, uint32_t end) {
    using S = Stage<FourBitRows, TOKENS>;
    const uint32_t begin = end - matrix.segments_per_group, group = begin / matrix.segments_per_group;
    const Scale scale[2] = {scale_of<TOKENS>(smem, matrix, which, w, 0, group), scale_of<TOKENS>(smem, matrix, which, w, 1, group)};
    const auto* before = reinterpret_cast<const int32_t*>(stage + S::SUMS);
#pragma unroll
    for (uint32_t t = 0; t < S::TILES; t++) {
        if (t >= w.tiles) {
            break;
        }
        const uint32_t token = t * TILE_TOKENS + 2 * (threadIdx.x % 4);
        int2 sum = *reinterpret_cast<const int2*>(before + (end - first) * TOKENS + token);
        if (matrix.group_scale != GroupScale::none) {  // a channel begins where sums are 0; groups lie within a stage
            const int2 less = *reinterpret_cast<const int2*>(before + (begin - first) * TOKENS + token);
            sum.x -= less.x, sum.y -= less.y;
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            sums.chain[which][t][i] =
                add_group(scale[i / 2], sums.dots[which][t][i], i % 2 == 0 ? sum.x : sum.y, sums.chain[which][t][i]);
            sums.dots[which][t][i] = 0;
        }
    }
}

// Multiplies a stage of codes: each segment of 32 is one step.
template <int TOKENS>
__device__ __forceinline__ void multiply_codes(Sums<TOKENS>& sums, const char* smem, const char* stage, const GateUpParams& p,
                                               const Work& w, uint32_t index) {
    using S = Stage<FourBitRows, TOKENS>;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = lane / 4;
    const uint32_t first = index * (S::K / 32), segments = p.d_model / 32;
    const auto* rows = reinterpret_cast<const uint32_t*>(stage + warp * S::WARP_BYTES);
    const auto* x = reinterpret_cast<const uint2*>(stage + S::X);
    const MatrixView* matrices[2] = {&p.gate, &p.up};
#pragma unroll
    for (uint32_t s = 0; s < S::K / 32; s++) {
        if (first + s >= segments) {
            break;
        }
        uint32_t a[2][4] = {};
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            if (matrices[m]->rows == nullptr) {
                continue;
            }
            const uint32_t at = ((m * ROWS + row) * 4 + (s ^ (row / 2 & 3))) * 4 + lane % 4;
            const uint32_t near = rows[at], far = rows[at + 8 * 16];  // 8 rows on, whose swizzle is the same
            a[m][0] = near & NIBBLES, a[m][1] = far & NIBBLES;
            a[m][2] = near >> 4 & NIBBLES, a[m][3] = far >> 4 & NIBBLES;
        }
#pragma unroll
        for (uint32_t t = 0; t < S::TILES; t++) {
            if (t >= w.tiles) {
                break;
            }
            const uint2 b = x[((t * S::SPANS + s / 2) * 2 + s % 2) * 32 + lane];
#pragma unroll
            for (uint32_t m = 0; m < 2; m++) {
                if (matrices[m]->rows != nullptr) {
                    mma_s8(sums.dots[m][t], a[m], b.x, b.y);
                }
            }
        }
#pragma unroll
        for (uint32_t m = 0; m < 2; m++) {
            const uint32_t end = first + s + 1, per_group = matrices[m]->segments_per_group;
            if (matrices[m]->rows != nullptr && end % per_group == 0) {
                add_groups<TOKENS>(sums, smem, stage, *matrices[m], m, w, first, end);
            }
        }
    }
}

template <class Rows, int TOKENS>
__device__ __forceinline__ void gate_up(const GateUpParams& p) {
    using S = Stage<Rows, TOKENS>;
    extern __shared__ __align__(16) char smem[];
    const uint32_t base = shared_address(smem), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    Work w;
    w.count = count_of(p.neurons), w.position0 = (blockIdx.x * WARPS<TOKENS> + warp) * ROWS, w.token0 = blockIdx.y * TOKENS;
    if (blockIdx.x * WARPS<TOKENS> * ROWS >= w.count) {
        return;
    }
    const uint32_t last = w.count - 1;
    w.neuron[0] = neuron_of(p.neurons, min(w.position0 + lane / 4, last));
    w.neuron[1] = neuron_of(p.neurons, min(w.position0 + lane / 4 + 8, last));
    w.scale_neuron = Rows::FOUR_BIT ? neuron_of(p.neurons, min(w.position0 + lane / 2, last)) : 0;
    w.tiles = tiles_in_use(p.tokens, w.token0, S::TILES);

    Sums<TOKENS> sums = {};
    uint32_t run = run_end(p.d_model, 0);  // where it ends
    const uint32_t stages = (p.d_model + S::K - 1) / S::K;
#pragma unroll
    for (uint32_t i = 0; i < STAGES - 1; i++) {
        if (i < stages) {
            load_stage<Rows, TOKENS>(base, p, w, i);
        }
        cp_async_commit();
    }
    for (uint32_t index = 0; index < stages; index++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the stage is there for all, and all are done with the one before it, whose slot is next
        if (index + STAGES - 1 < stages) {
            load_stage<Rows, TOKENS>(base, p, w, index + STAGES - 1);
        }
        cp_async_commit();
        if (!w.has(0)) {
            continue;
        }
        const char* stage = smem + index % STAGES * S::BYTES;
        if constexpr (Rows::FOUR_BIT) {
            multiply_codes<TOKENS>(sums, smem, stage, p, w, index);
            static_assert(RUN_STEP % S::K == 0, "no stage is of two runs");
            if ((index + 1) * S::K >= run) {
                sums.end_run();
                run = run_end(p.d_model, run);
            }
        } else {
            multiply<Rows, TOKENS>(sums, stage, p, w);
        }
    }
    cp_async_wait<0>();
#pragma unroll
    for (uint32_t t = 0; t < S::TILES; t++) {
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            const uint32_t token = w.token0 + t * TILE_TOKENS + 2 * (lane % 4) + i;
            if (token >= p.tokens) {
                break;
            }
            const float scale = p.operand.scale[token];
#pragma unroll
            for (uint32_t half = 0; half < 2; half++) {
                const uint32_t row = lane / 4 + half * 8, at = 2 * half + i;
                if (w.has(row)) {
                    const float gate = sums.total[0][t][at] * scale, up = sums.total[1][t][at] * scale;
                    write_back(p, token, w.position0 + row, w.neuron[half], gate, up);
                }
            }
        }
    }
}

}  // namespace moray::sparse_mlp

using namespace moray::sparse_mlp;

#define MORAY_GATE_UP(name, Rows, TOKENS)                                   \
    MORAY_SHARED(sparse_mlp_gate_up_tiles_##name, (Stage<Rows, TOKENS>::ALL_BYTES)) \
    extern "C" __global__ void __launch_bounds__(32 * WARPS<TOKENS>)        \
    sparse_mlp_gate_up_tiles_##name(const __grid_constant__ GateUpParams p) { \
        gate_up<Rows, TOKENS>(p);                                           \
    }

MORAY_GATE_UP(f16_16, F16Rows, 16)
MORAY_GATE_UP(f16_64, F16Rows, 64)
MORAY_GATE_UP(bf16_16, Bf16Rows, 16)
MORAY_GATE_UP(bf16_64, Bf16Rows, 64)
MORAY_GATE_UP(int4_16, FourBitRows, 16)
MORAY_GATE_UP(int4_64, FourBitRows, 64)
