// y[m, n] = act_scale[m] * sum over groups of K of scale * (sum of (code - zero) a) (+ offset * sum of a), + bias[n] + residual[m, n],
// a being the int8 codes of x[m], 0 for those of inputs with |x[m, k]| at most a threshold.
//
// | argument  | type       | shape          | layout                                                             |
// |-----------|------------|----------------|--------------------------------------------------------------------|
// | rows      | 4 bits     | [k, d]         | by input, see FourBitParams; aligned to 16 bytes                    |
// | scales    | f32 or u16 | [d] or by group | see FourBitParams                                                  |
// | x         | f32        | [m, k]         | row-major, aligned to 16 bytes                                      |
// | bias      | f32        | [n]            | or null                                                            |
// | residual  | f32        | [m, n]         | row-major, or null                                                 |
// | y         | f32        | [m, n]         | row-major                                                          |
// | act_scale | f32        | [m]            | max|x[m]| / 127, NaN where one is not finite; not for one token     |
// | partial   | u32        | [shares, m, n] | sums of a run each, where blocks share K                            |
// | arrived   | u32        | [tiles]        | zeros, and left so                                                 |
//
// Requires: k a multiple of 32 and of group_size, d of 32.
// input_sparse_four_bit_scales: Grid: m blocks. Block: 256 threads.
// input_sparse_four_bit_*: Grid: (ceil(n / 128), shares, ceil(m / TOKENS)), one in z where blocks share K. Block: 256 threads, 8 warps that take a group of K
// each at a time. Shared memory: see Room.
//
// A warp looks a group's inputs through and lists those that a token of the tile keeps, with their codes, in steps of 32, zeros past the last. The
// 64 bytes that a listed row has in the tile are copied into a ring; up to three steps are on their way, 6 KiB a warp. The codes of four
// rows are turned into four of a column for mma.m16n8k32, whose columns are the tokens: one costs as much as eight. The integers of a
// group are left in shared memory and added in f32 in the groups' order, by runs of K. Of up to 8 tokens each run has a block, and the
// block of a tile that comes last adds the runs in order: the CPU's bits, whatever K, the tokens and the device.
// Source: TEAL (arXiv 2408.14690); int8 activations as in QQQ (arXiv 2406.09904). Wrapper: src/input_sparse/cuda.
#include "common/memory.cuh"
#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "params.cuh"
#include "sparse_mlp/quantize.cuh"
#include "w4a8/runs.cuh"

namespace moray::input_sparse {

using sparse_mlp::code_of;
using sparse_mlp::inverse_of;
using sparse_mlp::Quantizer;
using sparse_mlp::size_bits;

constexpr uint32_t WARPS = 8, THREADS = 32 * WARPS;
constexpr uint32_t COLUMNS = 128, ROW_BYTES = COLUMNS / 2;  // of a tile
constexpr uint32_t SLOTS = 32;                              // of a step
constexpr uint32_t LOOKS = 4;                               // inputs of a group that a lane looks at
constexpr uint32_t NONE = 0xffffffffu;
constexpr uint32_t NIBBLES = 0x0f0f0f0fu;

// Steps of the ring.
template <uint32_t TOKENS>
constexpr uint32_t STAGES = TOKENS == 1 ? 4 : 2;

// Steps that a warp has listed at most, a power of 2: those of the group at hand, and so many past them that copies go on.
template <uint32_t TOKENS>
constexpr uint32_t STEPS = TOKENS == 1 ? 16 : 8;

constexpr uint32_t ROUNDS = 8;  // whose numbers of steps are kept

// Inputs of one group that are multiplied together: NONE past the last, with codes of 0. Slot s is k 4 (s mod 4) + s mod 16 / 4 of half
// s / 16 of the matrix unit's 32: byte 16 (s / 16) + 4 (s mod 4) + s mod 16 / 4 of a token's codes.
template <uint32_t TOKENS>
struct Step {
    uint32_t input[SLOTS];
    uint32_t codes[TOKENS][SLOTS / 4];
};

// What a warp has in shared memory.
template <uint32_t TOKENS>
struct Lists {
    // (stage, slot32, piece4 of 16 bytes), the pieces of slots 2 and 3 of every four swapped by halves: the eight rows of 32 bytes that
    // half a warp reads touch all banks once
    uint4 ring[STAGES<TOKENS>][SLOTS][ROW_BYTES / 16];
    Step<TOKENS> steps[STEPS<TOKENS>];
    int32_t sums[ROUNDS][TOKENS];  // of a group's codes, by the warp's rounds
    static_assert(STEPS<TOKENS> >= 2 * LOOKS + STAGES<TOKENS> - 2, "a group, and one that is listed where less is left than is copied ahead");
};

// What a block has.
template <uint32_t TOKENS>
struct Room {
    // of one token words from one to the next: its lanes that write touch few banks twice
    static constexpr uint32_t STRIDE = COLUMNS + 4;

    Lists<TOKENS> lists[WARPS];
    alignas(16) int32_t parts[TOKENS == 1 ? 2 : 1][WARPS][TOKENS][STRIDE];  // integers of a group: (slot, group of the round, token, column)
    int32_t sums[TOKENS == 1 ? 2 : 1][WARPS][TOKENS];
    float scale[TOKENS], inverse[TOKENS];
    uint32_t scratch[32];
    bool last;
};

__device__ __forceinline__ bool is_kept(float x, float threshold) { return !(fabsf(x) <= threshold); }

// The bits of the largest size in a token, in every thread.
__device__ __forceinline__ uint32_t largest_of(const FourBitParams& p, uint32_t token, uint32_t* scratch_smem) {
    const float* x = p.x + size_t(token) * p.k;
    uint32_t largest = 0;
#pragma unroll 4
    for (uint32_t k = 4 * threadIdx.x; k < p.k; k += 4 * THREADS) {
        float v[4];
        load_4(v, x + k);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) largest = max(largest, size_bits(v[i]));
    }
    return block_max(largest, scratch_smem);
}

// Bytes [row][column] of four rows' words as bytes [column][row].
__device__ __forceinline__ void transpose(uint32_t (&columns)[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
    const uint32_t ab_high = __byte_perm(a, b, 0x7362), cd_high = __byte_perm(c, d, 0x7362);
    columns[0] = __byte_perm(ab, cd, 0x5410), columns[1] = __byte_perm(ab, cd, 0x7632);
    columns[2] = __byte_perm(ab_high, cd_high, 0x5410), columns[3] = __byte_perm(ab_high, cd_high, 0x7632);
}

// The groups of a run of K, of which a warp takes every eighth, on their way through it.
template <uint32_t TOKENS>
struct Run {
    const FourBitParams& p;
    Room<TOKENS>& room;
    Lists<TOKENS>& lists;
    uint32_t token0, column0;
    uint32_t next, end;        // the first input of the group that is listed next, and where the run ends
    uint32_t listed = 0;       // steps
    uint32_t copied = 0, used = 0;
    uint32_t rounds = 0;       // groups that are listed
    uint32_t counts = 0;       // the steps of each, four bits by its number modulo 8
    float ahead[LOOKS];        // of one token: the values of the group that is listed next

    __device__ __forceinline__ Run(const FourBitParams& p, Room<TOKENS>& room, uint32_t begin, uint32_t end)
        : p(p), room(room), lists(room.lists[threadIdx.x / 32]), end(end) {
        token0 = blockIdx.z * TOKENS, column0 = blockIdx.x * COLUMNS;
        next = begin + threadIdx.x / 32 * p.group_size;
        if constexpr (TOKENS == 1) fetch();
    }

    // The value of the lane's input number `look` of the group that is listed next: 0 past the end and for tokens that are not there.
    __device__ __forceinline__ float value(uint32_t t, uint32_t look) const {
        const uint32_t within = 32 * look + threadIdx.x % 32, input = next + within;
        const bool there = within < p.group_size && input < end && token0 + t < p.m;
        return there ? p.x[size_t(token0 + t) * p.k + input] : 0.0f;
    }

    __device__ __forceinline__ void fetch() {
        const uint32_t lane = threadIdx.x % 32, there = next < end ? min(p.group_size, end - next) : 0;
        const float* from = p.x + (size_t(token0) * p.k + next + lane);
#pragma unroll
        for (uint32_t i = 0; i < LOOKS; i++) ahead[i] = lane + 32 * i < there ? from[32 * i] : 0.0f;
    }

    // Lists the next group: at least one step, perhaps of nothing.
    __device__ __forceinline__ void list() {
        const uint32_t lane = threadIdx.x % 32;
        uint32_t count = 0;
        int32_t sum[TOKENS] = {};
#pragma unroll(TOKENS == 1 ? LOOKS : 1)
        for (uint32_t i = 0; i < LOOKS; i++) {
            int32_t codes[TOKENS];
            bool any = false;
#pragma unroll
            for (uint32_t t = 0; t < TOKENS; t++) {
                const float x = TOKENS == 1 ? ahead[i] : value(t, i);
                codes[t] = is_kept(x, p.threshold) ? code_of(x, room.inverse[t]) : 0;
                sum[t] += codes[t];
                any = any || codes[t] != 0;
            }
            const uint32_t mask = __ballot_sync(FULL_WARP, any);
            if (any) {
                const uint32_t slot = count + __popc(mask & ((1u << lane) - 1));
                put(slot, next + 32 * i + lane, codes);
            }
            count += __popc(mask);
        }
        const uint32_t steps = max((count + SLOTS - 1) / SLOTS, 1u);
        if (count + lane < steps * SLOTS) {
            const int32_t nothing[TOKENS] = {};
            put(count + lane, NONE, nothing);
        }
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++) {
            const int32_t all = __reduce_add_sync(FULL_WARP, sum[t]);
            if (lane == 0) lists.sums[rounds % ROUNDS][t] = all;
        }
        const uint32_t shift = 4 * (rounds % ROUNDS);
        counts = (counts & ~(15u << shift)) | steps << shift;
        listed += steps, rounds++, next += WARPS * p.group_size;
        if constexpr (TOKENS == 1) {
            if (next < end) fetch();
        }
        __syncwarp();
    }

    // Puts an input into slot `slot` from the next step's first on.
    __device__ __forceinline__ void put(uint32_t slot, uint32_t input, const int32_t (&codes)[TOKENS]) {
        Step<TOKENS>& step = lists.steps[(listed + slot / SLOTS) % STEPS<TOKENS>];
        const uint32_t within = slot % SLOTS, at = within / 16 * 16 + within % 4 * 4 + within % 16 / 4;
        step.input[within] = input;
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++) reinterpret_cast<int8_t*>(step.codes[t])[at] = static_cast<int8_t>(codes[t]);
    }

    // Lists groups until so many steps are listed.
    __device__ __forceinline__ void list_until(uint32_t steps) {
#pragma unroll 1
        while (listed < steps && next < end) list();
    }

    // Starts the copies of the next step, if there is one that is listed.
    __device__ __forceinline__ void copy() {
        if (copied < listed) {
            const Step<TOKENS>& step = lists.steps[copied % STEPS<TOKENS>];
            uint4(&rows)[SLOTS][ROW_BYTES / 16] = lists.ring[copied % STAGES<TOKENS>];
            const uint32_t piece = threadIdx.x % 4, byte = column0 / 2 + 16 * piece, row_bytes = p.d / 2;
#pragma unroll
            for (uint32_t i = 0; i < SLOTS / 8; i++) {
                const uint32_t slot = 8 * i + threadIdx.x % 32 / 4, input = step.input[slot];
                const bool there = input != NONE && byte < row_bytes;
                const auto* from = static_cast<const char*>(p.rows);
                if (there) from += size_t(input) * row_bytes + byte;
                cp_async_16(shared_address(&rows[slot][piece ^ slot % 4 / 2 * 2]), from, there ? 16 : 0);
            }
        }
        copied++;
        cp_async_commit();
    }

    // Adds a step's products to the lane's columns: (word2, byte4) and of each low (0, 1) and high (2, 3), as the matrix unit holds them.
    __device__ __forceinline__ void multiply(int32_t (&dots)[2][4][4]) {
        const uint32_t lane = threadIdx.x % 32, word = lane / 4, j = lane % 4;
        const Step<TOKENS>& step = lists.steps[used % STEPS<TOKENS>];
        const auto* rows = reinterpret_cast<const char*>(lists.ring[used % STAGES<TOKENS>]);
        const uint32_t b0 = word < TOKENS ? step.codes[word % TOKENS][j] : 0, b1 = word < TOKENS ? step.codes[word % TOKENS][4 + j] : 0;
        const char* mine = rows + j * ROW_BYTES + ((word / 2 ^ j / 2 * 2) * 16 + word % 2 * 8);
        uint2 words[2][4];  // (half, row of four)
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) words[i / 4][i % 4] = *reinterpret_cast<const uint2*>(mine + i * 4 * ROW_BYTES);
#pragma unroll
        for (uint32_t w = 0; w < 2; w++) {
            uint32_t near[4], far[4];
            const auto of = [w](const uint2& two) { return w == 0 ? two.x : two.y; };
            transpose(near, of(words[0][0]), of(words[0][1]), of(words[0][2]), of(words[0][3]));
            transpose(far, of(words[1][0]), of(words[1][1]), of(words[1][2]), of(words[1][3]));
#pragma unroll
            for (uint32_t c = 0; c < 4; c++) {
                const uint32_t a[4] = {near[c] & NIBBLES, near[c] >> 4 & NIBBLES, far[c] & NIBBLES, far[c] >> 4 & NIBBLES};
                mma_s8(dots[w][c], a, b0, b1);
            }
        }
        used++;
    }

    // Multiplies the group of round `round` and leaves its integers and its sums of codes in a slot.
    __device__ __forceinline__ void multiply_group(uint32_t round, uint32_t slot) {
        int32_t dots[2][4][4] = {};
        const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, steps = counts >> (4 * (round % ROUNDS)) & 15;
        list_until(used + steps + STAGES<TOKENS> - 1);
#pragma unroll 1
        for (uint32_t i = 0; i < steps; i++) {
            cp_async_wait<STAGES<TOKENS> - 2>();
            __syncwarp();
            copy();  // into the place of the step before this one
            multiply(dots);
        }
        // lane 4 g + j has columns 32 ⌊g / 2⌋ + 8 (g mod 2) + 4 w + c, 16 further the high ones, of tokens 2 j and 2 j + 1
        const uint32_t word = lane / 4, token = 2 * (lane % 4), column = word / 2 * 32 + word % 2 * 8;
#pragma unroll
        for (uint32_t i = 0; i < 2; i++) {
            if (token + i >= TOKENS) continue;
#pragma unroll
            for (uint32_t w = 0; w < 2; w++) {
#pragma unroll
                for (uint32_t high = 0; high < 2; high++) {
                    uint32_t four[4];
#pragma unroll
                    for (uint32_t c = 0; c < 4; c++) four[c] = static_cast<uint32_t>(dots[w][c][2 * high + i]);
                    store_shared_16(shared_address(&room.parts[slot][warp][token + i][column + 4 * w + 16 * high]), four);
                }
            }
        }
        if (lane < TOKENS) room.sums[slot][warp][lane] = lists.sums[round % ROUNDS][lane];
        __syncwarp();
    }
};

// A thread's outputs: one column of some tokens, TOKENS_OF apart by threads of a column.
template <uint32_t TOKENS>
struct Outputs {
    static constexpr uint32_t SHARED_BY = TOKENS == 1 ? 1 : THREADS / COLUMNS, EACH = TOKENS / SHARED_BY;
    const FourBitParams& p;
    uint32_t column, within, first;  // of p.n, of the tile, and the thread's first token of the tile
    bool there;
    float chain[EACH] = {}, total[EACH] = {};
    int32_t whole[EACH] = {};  // of channels' scales
    uint32_t scale[WARPS] = {}, second[WARPS] = {};

    __device__ __forceinline__ explicit Outputs(const FourBitParams& p) : p(p) {
        within = threadIdx.x % COLUMNS, first = threadIdx.x / COLUMNS * EACH;
        column = blockIdx.x * COLUMNS + within;
        there = column < p.n && first < TOKENS;
    }

    // Loads the scales of a round's groups, from group `group` on.
    __device__ __forceinline__ void fetch(uint32_t group, uint32_t count) {
        if (!there || p.group_scale == GroupScale::none) return;
        const uint32_t parts = p.offset == Offset::none ? 1 : 2;
        const size_t stride = size_t(parts) * p.d;
        const uint16_t* row = static_cast<const uint16_t*>(p.scales) + group * stride + column;
#pragma unroll
        for (uint32_t i = 0; i < WARPS; i++, row += stride) {
            if (i >= count) break;
            scale[i] = row[0];
            if (parts == 2) second[i] = row[p.d];
        }
    }

    // Adds the groups of a round, in order.
    __device__ __forceinline__ void add(const Room<TOKENS>& room, uint32_t slot, uint32_t count) {
        if (!there) return;
#pragma unroll
        for (uint32_t i = 0; i < WARPS; i++) {
            if (i >= count) break;
            const float of = __half2float(__ushort_as_half(static_cast<uint16_t>(scale[i])));
            const float offset = __half2float(__ushort_as_half(static_cast<uint16_t>(second[i])));
            const int32_t zero = p.offset == Offset::none ? 8 : p.offset == Offset::f16 ? 0 : static_cast<int32_t>(second[i]);
#pragma unroll
            for (uint32_t t = 0; t < EACH; t++) {
                const int32_t dot = room.parts[slot][i][first + t][within], sum = room.sums[slot][i][first + t];
                if (p.group_scale == GroupScale::none) {
                    whole[t] += dot - 8 * sum;
                    continue;
                }
                chain[t] = __fmaf_rn(__int2float_rn(dot - zero * sum), of, chain[t]);
                if (p.offset == Offset::f16) chain[t] = __fmaf_rn(__int2float_rn(sum), offset, chain[t]);
            }
        }
    }

    __device__ __forceinline__ void end_run() {
#pragma unroll
        for (uint32_t t = 0; t < EACH; t++) total[t] = __fadd_rn(total[t], chain[t]), chain[t] = 0.0f;
    }

    // Leaves the sums of a run for the block that comes last.
    __device__ __forceinline__ void leave() const {
#pragma unroll
        for (uint32_t t = 0; t < EACH; t++) {
            if (!there || first + t >= p.m) continue;
            const uint32_t bits = p.group_scale == GroupScale::none ? static_cast<uint32_t>(whole[t]) : __float_as_uint(chain[t]);
            p.partial[(size_t(blockIdx.y) * p.m + first + t) * p.n + column] = bits;
        }
    }

    // Adds what the blocks of all runs have left, in order.
    __device__ __forceinline__ void add_runs() {
#pragma unroll
        for (uint32_t t = 0; t < EACH; t++) {
            if (!there || first + t >= p.m) continue;
            const uint32_t* from = p.partial + size_t(first + t) * p.n + column;
            whole[t] = 0, total[t] = 0.0f;
#pragma unroll 4
            for (uint32_t run = 0; run < p.shares; run++) {
                const uint32_t bits = __ldcg(from + size_t(run) * p.m * p.n);
                whole[t] += static_cast<int32_t>(bits);
                total[t] = __fadd_rn(total[t], __uint_as_float(bits));
            }
        }
    }

    __device__ __forceinline__ void write(const Room<TOKENS>& room) const {
        const bool channels = p.group_scale == GroupScale::none;
        const float of_channel = channels && there ? static_cast<const float*>(p.scales)[column] : 0.0f;
#pragma unroll
        for (uint32_t t = 0; t < EACH; t++) {
            const uint32_t token = blockIdx.z * TOKENS + first + t;
            if (!there || token >= p.m) continue;
            const float sum = channels ? __fmul_rn(__int2float_rn(whole[t]), of_channel) : total[t];
            const size_t at = size_t(token) * p.n + column;
            float y = __fmul_rn(sum, room.scale[first + t]);
            if (p.bias) y = __fadd_rn(y, p.bias[column]);
            if (p.residual) y = __fadd_rn(y, p.residual[at]);
            p.y[at] = y;
        }
    }
};

// Multiplies the inputs from `begin` to `end`, a run of K.
template <uint32_t TOKENS>
__device__ __forceinline__ void multiply_run(const FourBitParams& p, Room<TOKENS>& room, Outputs<TOKENS>& outputs, uint32_t begin,
                                             uint32_t end) {
    constexpr uint32_t PLACES = TOKENS == 1 ? 2 : 1;  // of parts
    const uint32_t warp = threadIdx.x / 32, groups = (end - begin + p.group_size - 1) / p.group_size;
    Run<TOKENS> run(p, room, begin, end);
    run.list_until(STAGES<TOKENS> - 1);
#pragma unroll 1
    for (uint32_t i = 0; i < STAGES<TOKENS> - 1; i++) run.copy();
#pragma unroll 1
    for (uint32_t first = 0; first < groups; first += WARPS) {
        const uint32_t round = first / WARPS, slot = round % PLACES, count = min(groups - first, WARPS);
        outputs.fetch(begin / p.group_size + first, count);
        if (warp < count) run.multiply_group(round, slot);
        // with two places, one barrier: a place is written again only after the next round's
        __syncthreads();
        outputs.add(room, slot, count);
        if constexpr (PLACES == 1) __syncthreads();
    }
    cp_async_wait<0>();
    __syncthreads();
}

template <uint32_t TOKENS>
__device__ __forceinline__ void multiply_by_input(const FourBitParams& p) {
    extern __shared__ __align__(16) char smem[];
    Room<TOKENS>& room = *reinterpret_cast<Room<TOKENS>*>(smem);
    if constexpr (TOKENS == 1) {
        const Quantizer of(largest_of(p, blockIdx.z, room.scratch));
        if (threadIdx.x == 0) room.scale[0] = of.scale, room.inverse[0] = of.inverse;
    } else if (threadIdx.x < TOKENS) {
        const uint32_t token = blockIdx.z * TOKENS + threadIdx.x;
        const float scale = token < p.m ? p.act_scale[token] : 0.0f;
        room.scale[threadIdx.x] = scale, room.inverse[threadIdx.x] = inverse_of(scale);
    }
    __syncthreads();
    Outputs<TOKENS> outputs(p);
    if (p.shares > 1) {
        multiply_run(p, room, outputs, run_start(p.k, blockIdx.y), run_start(p.k, blockIdx.y + 1));
        outputs.leave();
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) room.last = atomicAdd(p.arrived + blockIdx.x, 1) + 1 == p.shares;
        __syncthreads();
        if (!room.last) return;
        __threadfence();
        if (threadIdx.x == 0) p.arrived[blockIdx.x] = 0;
        outputs.add_runs();
    } else {
#pragma unroll 1
        for (uint32_t r = 0; r < runs_of(p.k); r++) {
            multiply_run(p, room, outputs, run_start(p.k, r), run_start(p.k, r + 1));
            outputs.end_run();
        }
    }
    outputs.write(room);
}

}  // namespace moray::input_sparse

using namespace moray::input_sparse;

#define MORAY_FOUR_BIT(name, TOKENS)                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name(const __grid_constant__ FourBitParams p) {  \
        multiply_by_input<TOKENS>(p);                                                                         \
    }                                                                                                         \
    MORAY_SHARED(name, sizeof(Room<TOKENS>))

MORAY_FOUR_BIT(input_sparse_four_bit_1, 1)
MORAY_FOUR_BIT(input_sparse_four_bit_8, 8)

// act_scale[m] of several tokens.
extern "C" __global__ void __launch_bounds__(THREADS) input_sparse_four_bit_scales(const __grid_constant__ FourBitParams p) {
    __shared__ uint32_t scratch_smem[32];
    const Quantizer of(largest_of(p, blockIdx.x, scratch_smem));
    if (threadIdx.x == 0) p.act_scale[blockIdx.x] = of.scale;
}
