// y[m, n] = sum of x[m, k] w[k, n] over the k with |x[m, k]| above a threshold, + bias[n] + residual[m, n], in f32.
//
// | argument | type           | shape       | layout                                                            |
// |----------|----------------|-------------|-------------------------------------------------------------------|
// | w        | f32, f16, bf16 | [k, stride] | by input; rows begin at multiples of 16 bytes, have whole 16 bytes |
// | x        | f32            | [m, k]      | row-major                                                         |
// | bias     | f32            | [n]         | or null                                                           |
// | residual | f32            | [m, n]      | row-major, or null                                                |
// | y        | f32            | [m, n]      | row-major                                                         |
//
// Requires: stride at least n. Grid: (ceil(n / 32), ceil(m / TOKENS)). Block: 128 threads. Shared memory: see Warp.
//
// The inputs are cut into four runs, [r k / 4, (r + 1) k / 4). An output is the chain of fused multiply-adds over each run's kept
// inputs in their order, and then ((run 0 + run 1) + run 2) + run 3: the CPU's definition and its bits. So a warp takes a run, a lane
// a column, and nothing that several threads write is needed: no atomics, no list made before, sizes that a graph can replay.
//
// A warp looks its run's inputs through, 96 at a time with the next 96 on their way (of several tokens 64), and puts those that a token of the tile keeps
// into a queue. Rows of the queue's inputs are copied ahead of their use into a ring of 8 KiB, 32 columns of each: 30 KiB of a block
// are on their way, where a busy memory of 4.3 TB/s needs 33 on each of 132 multiprocessors; memory is what binds. What one block leaves
// of a row its neighbours read at about the same time, since all go through the inputs in the same order. Up to 8 tokens read the
// union of what they keep, with 0 for what a token drops; more go by tiles of 8.
// Source: TEAL (arXiv 2408.14690), whose kernel combines columns with atomics. Wrapper: src/input_sparse/cuda.
#include "common/memory.cuh"
#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "common/shared.cuh"
#include "params.cuh"

namespace moray::input_sparse {

constexpr uint32_t RUNS = 4, THREADS = 32 * RUNS;
constexpr uint32_t COLUMNS = 32;         // of a tile
constexpr uint32_t GROUP = 8;            // rows that are copied, and used, together
constexpr uint32_t RING_BYTES = 8192;    // of a warp

// Inputs of a lane that are looked at together: their values are in registers while they are on their way.
template <uint32_t TOKENS>
constexpr uint32_t LOOK = TOKENS == 1 ? 3 : 2;

// What a warp has in shared memory.
template <typename T, uint32_t TOKENS>
struct Warp {
    static constexpr uint32_t ROW_BYTES = COLUMNS * sizeof(T), STAGES = RING_BYTES / (GROUP * ROW_BYTES);
    static constexpr uint32_t QUEUE = 256;  // a power of 2
    static_assert(QUEUE >= GROUP * (STAGES + 1) + 32 * LOOK<TOKENS>, "a group that is used, those under way, and what a look adds");

    T ring[STAGES][GROUP][COLUMNS];
    uint32_t input[QUEUE];
    float x[QUEUE][TOKENS];
};

template <typename T, uint32_t TOKENS>
constexpr uint32_t SHARED_BYTES = RUNS * sizeof(Warp<T, TOKENS>);

__device__ __forceinline__ bool is_kept(float x, float threshold) { return !(fabsf(x) <= threshold); }

// A run on its way through a warp.
template <typename T, uint32_t TOKENS>
struct Run {
    using Room = Warp<T, TOKENS>;
    const ByInputParams& p;
    Room& room;
    uint32_t token0, column0;
    uint32_t next, end;   // inputs that are not looked at yet
    uint32_t queued = 0;  // inputs that are kept so far
    float ahead[TOKENS][LOOK<TOKENS>];

    __device__ __forceinline__ Run(const ByInputParams& p, Room& room) : p(p), room(room) {
        const uint64_t run = threadIdx.x / 32;
        token0 = blockIdx.y * TOKENS, column0 = blockIdx.x * COLUMNS;
        next = static_cast<uint32_t>(run * p.k / RUNS), end = static_cast<uint32_t>((run + 1) * p.k / RUNS);
        fetch();
    }

    // Has the values of the inputs from `next` on on their way: those past the end and of tokens that are not there are zeros.
    __device__ __forceinline__ void fetch() {
#pragma unroll
        for (uint32_t t = 0; t < TOKENS; t++) {
#pragma unroll
            for (uint32_t i = 0; i < LOOK<TOKENS>; i++) {
                const uint32_t input = next + 32 * i + threadIdx.x % 32;
                const bool there = input < end && token0 + t < p.m;
                ahead[t][i] = there ? p.x[size_t(token0 + t) * p.k + input] : 0.0f;
            }
        }
    }

    // Puts what is kept of the next inputs into the queue, and zeros after the last of all.
    __device__ __forceinline__ void look() {
        const uint32_t lane = threadIdx.x % 32;
#pragma unroll
        for (uint32_t i = 0; i < LOOK<TOKENS>; i++) {
            const uint32_t input = next + 32 * i + lane;
            bool any = false;
#pragma unroll
            for (uint32_t t = 0; t < TOKENS; t++) {
                const bool kept = is_kept(ahead[t][i], p.threshold);
                ahead[t][i] = kept ? ahead[t][i] : 0.0f;
                any = any || (kept && token0 + t < p.m);
            }
            any = any && input < end;
            const uint32_t mask = __ballot_sync(FULL_WARP, any);
            if (any) {
                const uint32_t slot = (queued + __popc(mask & ((1u << lane) - 1))) % Room::QUEUE;
                room.input[slot] = input;
#pragma unroll
                for (uint32_t t = 0; t < TOKENS; t++) room.x[slot][t] = ahead[t][i];
            }
            queued += __popc(mask);
        }
        next = min(next + 32 * LOOK<TOKENS>, end);
        if (next < end) {
            fetch();
        } else if (lane < GROUP) {
#pragma unroll
            for (uint32_t t = 0; t < TOKENS; t++) room.x[(queued + lane) % Room::QUEUE][t] = 0.0f;
        }
        __syncwarp();
    }

    // Starts the copies of group `group` of the queue, looking as far as that takes; zeros past the last row.
    __device__ __forceinline__ void copy(uint32_t group) {
        constexpr uint32_t PARTS = Room::ROW_BYTES / 16;
        while (queued < (group + 1) * GROUP && next < end) look();
#pragma unroll
        for (uint32_t i = threadIdx.x % 32; i < GROUP * PARTS; i += 32) {
            const uint32_t row = i / PARTS, part = i % PARTS, place = group * GROUP + row, column = column0 + part * (16 / sizeof(T));
            const bool there = place < queued && column < p.n;
            const auto* from = static_cast<const char*>(p.w);
            if (there) from += size_t(room.input[place % Room::QUEUE]) * p.row_bytes + column * sizeof(T);
            cp_async_16(shared_address(&room.ring[group % Room::STAGES][row]) + part * 16, from, there ? 16 : 0);
        }
        cp_async_commit();
    }

    // Adds group `group` to the lane's column, row after row.
    __device__ __forceinline__ void add(float (&sum)[TOKENS], uint32_t group) const {
        const T(&rows)[GROUP][COLUMNS] = room.ring[group % Room::STAGES];
        const float(&x)[GROUP][TOKENS] = *reinterpret_cast<const float(*)[GROUP][TOKENS]>(&room.x[group * GROUP % Room::QUEUE]);
        constexpr uint32_t ROWS = TOKENS == 1 ? 4 : 1;  // whose values lie together
        float w[GROUP];
#pragma unroll
        for (uint32_t i = 0; i < GROUP; i++) w[i] = to_float(rows[i][threadIdx.x % 32]);
#pragma unroll
        for (uint32_t i = 0; i < GROUP; i += ROWS) {
            float values[ROWS * TOKENS];
#pragma unroll
            for (uint32_t j = 0; j < ROWS * TOKENS; j += 4) {
                const float4 four = *reinterpret_cast<const float4*>(&x[i][0] + j);
                values[j] = four.x, values[j + 1] = four.y, values[j + 2] = four.z, values[j + 3] = four.w;
            }
#pragma unroll
            for (uint32_t j = 0; j < ROWS; j++) {
#pragma unroll
                for (uint32_t t = 0; t < TOKENS; t++) sum[t] = __fmaf_rn(w[i + j], values[j * TOKENS + t], sum[t]);
            }
        }
    }

    __device__ __forceinline__ void multiply(float (&sum)[TOKENS]) {
        constexpr uint32_t AHEAD = Room::STAGES - 1;
#pragma unroll 1
        for (uint32_t group = 0; group < AHEAD; group++) copy(group);
        // whoever has copied a group has looked through what it takes
#pragma unroll 1
        for (uint32_t group = 0; group * GROUP < queued; group++) {
            cp_async_wait<AHEAD - 1>();
            __syncwarp();
            copy(group + AHEAD);  // into the place of the group before this one
            add(sum, group);
            __syncwarp();
        }
        cp_async_wait<0>();
    }
};

template <typename T, uint32_t TOKENS>
__device__ __forceinline__ void multiply_by_input(const ByInputParams& p) {
    extern __shared__ __align__(16) char smem[];
    auto* rooms = reinterpret_cast<Warp<T, TOKENS>*>(smem);
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum[TOKENS] = {};
    Run<T, TOKENS>(p, rooms[warp]).multiply(sum);
    __syncthreads();
    auto* sums = reinterpret_cast<float*>(smem);  // (run4, token, column32)
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++) sums[(warp * TOKENS + t) * COLUMNS + lane] = sum[t];
    __syncthreads();
    const uint32_t n = blockIdx.x * COLUMNS + lane;
    for (uint32_t t = warp; t < TOKENS; t += RUNS) {
        const uint32_t m = blockIdx.y * TOKENS + t;
        if (m >= p.m || n >= p.n) continue;
        float of = sums[t * COLUMNS + lane];
#pragma unroll
        for (uint32_t run = 1; run < RUNS; run++) of = __fadd_rn(of, sums[(run * TOKENS + t) * COLUMNS + lane]);
        const size_t at = size_t(m) * p.n + n;
        of = __fadd_rn(of, p.bias ? p.bias[n] : 0.0f);
        p.y[at] = __fadd_rn(of, p.residual ? p.residual[at] : 0.0f);
    }
}

}  // namespace moray::input_sparse

using namespace moray::input_sparse;

#define MORAY_LINEAR(name, T, TOKENS)                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) name(const __grid_constant__ ByInputParams p) {       \
        multiply_by_input<T, TOKENS>(p);                                                                                    \
    }                                                                                                              \
    MORAY_SHARED(name, (SHARED_BYTES<T, TOKENS>))

MORAY_LINEAR(input_sparse_linear_f32_1, float, 1)
MORAY_LINEAR(input_sparse_linear_f32_8, float, 8)
MORAY_LINEAR(input_sparse_linear_f16_1, __half, 1)
MORAY_LINEAR(input_sparse_linear_f16_8, __half, 8)
MORAY_LINEAR(input_sparse_linear_bf16_1, __nv_bfloat16, 1)
MORAY_LINEAR(input_sparse_linear_bf16_8, __nv_bfloat16, 8)
