// The next token of each row of logits: the largest logit, or a draw under temperature, top_p and min_p.
//
//   p_v = exp((logit_v − max logit) / temperature), w_v = ⌊2^39 · p_v⌋; kept are the first tokens by falling p, then rising v,
//   whose predecessors weigh less than top_p · Σ w, of those with p_v ≥ min_p; the token is the first whose running sum of kept w,
//   by rising v, is above random · Σ kept w. Sums are of integers, so their order does not matter.
//
// | argument    | type    | shape     | layout                                                                    |
// |-------------|---------|-----------|---------------------------------------------------------------------------|
// | logits      | f32     | [R, V]    | row-major                                                                 |
// | probability | f32     | [R, V]    | scratch for p                                                             |
// | samplers    | Sampler | [R]       | settings, and the state of the random numbers, which a draw moves on      |
// | token       | u32     | [R]       | 0xffffffff if a logit is NaN or +∞, or all are −∞; nothing is drawn then  |
// | rooms       | Room    | [R]       | what the blocks of a row tell each other; `arrived` is 0, and left so     |
//
// Grid: (blocks of a row, at most 256; R). Block: 512 threads. V up to 2^24. Blocks of a row wait for each other where it draws, so several of
// them need a cooperative launch. Bit for bit as `Sampler` on the CPU (src/llama/sampler.rs), in every step.
//
// A row's blocks share its vocabulary. They wait for the largest logit, and for top_p three times more, for the sums of the weights by 10
// bits of p each time, from its first; the last block that has weighed what is kept of its part draws.
// Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Wrapper: src/llama/cuda/raw/{argmax,sample}.rs.

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "params.cuh"

namespace moray {

constexpr uint32_t THREADS = 512, WARPS = THREADS / 32, NO_TOKEN = 0xffffffffu;

// What the blocks of a row tell each other.
struct Room {
    uint32_t arrived;  // 0 between launches
    uint32_t reserved;
    uint64_t best[256];
    uint64_t above[256];
    uint64_t ties[256];
    uint64_t sums[3][1024];
};
static_assert(sizeof(Room) == 8 * 3841);  // src/llama/cuda/raw/sample.rs

// Levels of sums by bits of p, and bits of each: p is at most 1, whose bits are below 2^30.
constexpr uint32_t LEVELS = sizeof(Room::sums) / sizeof(Room::sums[0]), BINS = sizeof(Room::sums[0]) / sizeof(uint64_t);
constexpr uint32_t BIN_BITS = 10;
static_assert(BINS == 1u << BIN_BITS && BINS == 2 * THREADS && LEVELS * BIN_BITS == 30);
constexpr uint32_t PARTS = sizeof(Room::best) / sizeof(uint64_t);
static_assert(PARTS <= THREADS);

// Of ranks: that there is a logit which is refused, and that there is none.
constexpr uint64_t BAD = ~0ull, NONE = 0;

struct Shared {
    uint64_t warps[WARPS];
    // Sums by bins, in two words.
    uint32_t low[BINS], high[BINS];
    // What parts of warps weigh.
    uint64_t above[WARPS], at_cut[WARPS];
    // What a thread has found for the others.
    uint64_t mass, ties;
    uint32_t found;
    bool last;
};

// A part of the vocabulary.
struct Part {
    uint32_t first, end;
};

// Part `at` of so many, each of whole groups of 32.
__device__ __forceinline__ Part part_of(Part whole, uint32_t parts, uint32_t at) {
    const uint32_t size = (whole.end - whole.first + parts * 32 - 1) / (parts * 32) * 32;
    return {min(whole.first + at * size, whole.end), min(whole.first + (at + 1) * size, whole.end)};
}

// Orders (logit, token) pairs in one integer: larger logit first, then the smaller token. Bits of a float order as integers
// once those of negative numbers are turned around.
__device__ __forceinline__ uint64_t rank(float logit, uint32_t token) {
    const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);  // −0 equals 0
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | (0xffffffffu - token);
}

__device__ __forceinline__ uint32_t token_of(uint64_t rank) {
    return rank == BAD || rank == NONE ? NO_TOKEN : 0xffffffffu - static_cast<uint32_t>(rank);
}

__device__ __forceinline__ float logit_of(uint64_t rank) {
    const uint32_t ordered = static_cast<uint32_t>(rank >> 32);
    return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint64_t other = __shfl_xor_sync(FULL_WARP, v, distance);
        v = other > v ? other : v;
    }
    return v;
}

// Maximum over the block, in every thread.
__device__ __forceinline__ uint64_t block_max(uint64_t v, Shared& shared) {
    const uint32_t lane = threadIdx.x % 32;
    v = warp_max(v);
    __syncthreads();  // what was there has been read
    if (lane == 0) shared.warps[threadIdx.x / 32] = v;
    __syncthreads();
    return warp_max(lane < WARPS ? shared.warps[lane] : NONE);
}

// Sum over the lanes up to this one.
__device__ __forceinline__ uint64_t warp_scan(uint64_t v) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint64_t other = __shfl_up_sync(FULL_WARP, v, distance);
        if (threadIdx.x % 32 >= distance) v += other;
    }
    return v;
}

// Sums over the threads before this one, and over all.
struct Scan {
    uint64_t before, total;
};

__device__ __forceinline__ Scan block_scan(uint64_t v, Shared& shared) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint64_t sum = warp_scan(v);
    __syncthreads();  // what was there has been read
    if (lane == 31) shared.warps[warp] = sum;
    __syncthreads();
    const uint64_t warps = warp_scan(lane < WARPS ? shared.warps[lane] : 0);
    const uint64_t before = __shfl_sync(FULL_WARP, warps, (warp + WARPS - 1) % WARPS);
    return {sum - v + (warp > 0 ? before : 0), __shfl_sync(FULL_WARP, warps, WARPS - 1)};
}

// Waits for the row's blocks, for the time `waits` of a launch counted from 1: what they have written before can be read then.
__device__ __forceinline__ void wait_for_row(Room& room, uint32_t waits) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(&room.arrived, 1);
        while (load_acquire(&room.arrived) < waits * gridDim.x) __nanosleep(20);
    }
    __syncthreads();
}

// Whether this is the last of the row's blocks to come here, which have waited for each other so often before: what they have written can be
// read then, and `arrived` is 0 again.
__device__ __forceinline__ bool is_last(Room& room, uint32_t waits, Shared& shared) {
    if (gridDim.x == 1) return true;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        shared.last = atomicAdd(&room.arrived, 1) + 1 == (waits + 1) * gridDim.x;
        __threadfence();
        if (shared.last) room.arrived = 0;
    }
    __syncthreads();
    return shared.last;
}

// The rank of a part's largest logit, the first of equals, in every thread.
__device__ __forceinline__ uint64_t largest(const float* logits, Part part, Shared& shared) {
    const float infinity = __int_as_float(0x7f800000);
    uint64_t best = NONE;
#pragma unroll 4
    for (uint32_t v = part.first + threadIdx.x; v < part.end; v += THREADS) {
        const float logit = logits[v];
        const uint64_t mine = logit < infinity ? rank(logit, v) : BAD;
        if (!(logit == -infinity) && mine > best) best = mine;
    }
    return block_max(best, shared);
}

// The row's, once its blocks have left theirs.
__device__ __forceinline__ uint64_t largest_of_row(const Room& room, Shared& shared) {
    return block_max(threadIdx.x < gridDim.x ? room.best[threadIdx.x] : NONE, shared);
}

// e^z for z ≤ 0, at most 1, and 1 for 0; 0 below 2^-126. Every operation is rounded by itself, as on the CPU.
__device__ __forceinline__ float exp_to_one(float z) {
    const float t = __fmul_rn(z, 1.44269504f);
    if (!(t >= -126.0f)) return 0.0f;
    const float n = __fsub_rn(__fadd_rn(t, 12582912.0f), 12582912.0f);  // to the nearest integer
    const float f = __fsub_rn(t, n);
    const float coefficients[6] = {0.00133988750f, 0.00961843700f, 0.0555033240f, 0.240226480f, 0.693147182f, 1.0f};
    float p = 0.000153533620f;
#pragma unroll
    for (int i = 0; i < 6; ++i) p = __fadd_rn(__fmul_rn(p, f), coefficients[i]);
    return __fmul_rn(p, __int_as_float((static_cast<int32_t>(n) + 127) << 23));
}

__device__ __forceinline__ uint64_t weight(float probability) { return __float2ull_rz(__fmul_rn(probability, 549755813888.0f)); }

// Which tokens top_p keeps: those above `bits`, and the first `ties` of those at it.
struct Cut {
    uint32_t bits;
    uint64_t ties;
};

// Adds to the sum of a bin, whose words carry.
__device__ __forceinline__ void add_to_bin(Shared& shared, uint32_t bin, uint64_t w) {
    const uint32_t low = static_cast<uint32_t>(w), before = atomicAdd(&shared.low[bin], low);
    const uint32_t high = static_cast<uint32_t>(w >> 32) + (before + low < low);
    if (high != 0) atomicAdd(&shared.high[bin], high);
}

__device__ __forceinline__ uint64_t bin_sum(const Shared& shared, uint32_t bin) {
    return uint64_t(shared.high[bin]) << 32 | shared.low[bin];
}

// Sums the weights of a part's tokens whose p begins with `bits`, by their next bits.
__device__ __forceinline__ void sum_by_bins(uint32_t bits, uint32_t shift, const float* probability, Part part, Shared& shared) {
    shared.low[threadIdx.x] = shared.low[threadIdx.x + THREADS] = 0;
    shared.high[threadIdx.x] = shared.high[threadIdx.x + THREADS] = 0;
    __syncthreads();
#pragma unroll 4
    for (uint32_t v = part.first + threadIdx.x; v < part.end; v += THREADS) {
        const float p = probability[v];
        const uint32_t mine = __float_as_uint(p) >> shift;
        const uint64_t w = weight(p);
        if (mine / BINS == bits && w != 0) add_to_bin(shared, mine % BINS, w);
    }
    __syncthreads();
}

// Finds the largest bits at which the tokens of the row from there up weigh top_p of all or more; waits `LEVELS` times from `waits` on.
__device__ __forceinline__ Cut find_cut(uint64_t top_p, const float* probability, Part part, Room& room, uint32_t waits, Shared& shared) {
    uint64_t wanted = 0, above = 0;
    uint32_t bits = 0;
    if (threadIdx.x == 0) shared.found = 0, shared.mass = 0;
#pragma unroll 1
    for (uint32_t level = 0; level < LEVELS; ++level) {
        sum_by_bins(bits, (LEVELS - 1 - level) * BIN_BITS, probability, part, shared);
        uint64_t* sums = room.sums[level];
        if (gridDim.x > 1) {
            for (uint32_t bin = threadIdx.x; bin < BINS; bin += THREADS) {
                const uint64_t sum = bin_sum(shared, bin);
                if (sum != 0) atomicAdd(reinterpret_cast<unsigned long long*>(sums + bin), sum);
            }
            wait_for_row(room, waits + level);
        }
        // two bins a thread, from the last
        const uint32_t bin = BINS - 1 - 2 * threadIdx.x;
        const uint64_t upper = gridDim.x > 1 ? sums[bin] : bin_sum(shared, bin);
        const uint64_t lower = gridDim.x > 1 ? sums[bin - 1] : bin_sum(shared, bin - 1);
        const Scan scan = block_scan(upper + lower, shared);
        if (level == 0) wanted = __umul64hi(scan.total, top_p) + (scan.total * top_p != 0);
        const uint64_t mass = above + scan.before;
        if (mass < wanted && mass + upper + lower >= wanted) {
            const bool is_upper = mass + upper >= wanted;
            shared.found = is_upper ? bin : bin - 1, shared.mass = is_upper ? mass : mass + upper;
        }
        __syncthreads();
        bits = bits * BINS + shared.found, above = shared.mass;
    }
    const uint64_t each = weight(__uint_as_float(bits));
    return {bits, (wanted - above + each - 1) / each};
}

// The next number of a SplitMix64 sequence.
__device__ __forceinline__ uint64_t next_random(uint64_t& state) {
    state += 0x9E3779B97F4A7C15ull;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// What a part weighs above the cut, and how many tokens are at it.
struct Mass {
    uint64_t above, ties;
};

// Where a draw falls: a part, what of the draw is left in it, and the tokens at the cut before it.
struct Draw {
    uint32_t part;
    uint64_t left, ties_before;
};

// The part that a draw falls into, of those of the threads one after another. `draw` says how much is left of it, of the mass of all parts.
template <class Left>
__device__ __forceinline__ Draw choose_part(Mass mine, uint64_t ties_before, const Cut& cut, const Left& left_of, Shared& shared) {
    const uint64_t before = ties_before + block_scan(mine.ties, shared).before;
    const uint64_t kept = mine.above + min(mine.ties, before < cut.ties ? cut.ties - before : 0) * weight(__uint_as_float(cut.bits));
    const Scan scan = block_scan(kept, shared);
    const uint64_t left = left_of(scan.total);
    if (threadIdx.x == 0) shared.found = 0, shared.mass = left, shared.ties = before;
    __syncthreads();
    if (scan.before <= left && left - scan.before < kept) {
        shared.found = threadIdx.x, shared.mass = left - scan.before, shared.ties = before;
    }
    __syncthreads();
    return {shared.found, shared.mass, shared.ties};
}

// The token that the draw falls on, in the part's warp.
__device__ inline uint32_t find_token(const Draw& draw, const Cut& cut, float min_p, const float* probability, Part part) {
    const uint32_t lane = threadIdx.x % 32;
    uint64_t left = draw.left, before = draw.ties_before;
    for (uint32_t base = part.first; base < part.end; base += 32) {
        const float p = base + lane < part.end ? probability[base + lane] : -1.0f;
        const bool candidate = p >= min_p, tie = candidate && __float_as_uint(p) == cut.bits;
        const uint32_t ties = __ballot_sync(FULL_WARP, tie);
        const bool kept = candidate && (__float_as_uint(p) > cut.bits ||
                                        (tie && before + __popc(ties & ((1u << lane) - 1)) < cut.ties));
        const uint64_t sum = warp_scan(kept ? weight(p) : 0);
        const uint32_t passed = __ballot_sync(FULL_WARP, sum > left);
        if (passed != 0) return base + __ffs(passed) - 1;
        left -= __shfl_sync(FULL_WARP, sum, 31);
        before += __popc(ties);
    }
    return NO_TOKEN;  // not reached: the draw is below the part's mass
}

// Weighs what a warp's lanes see of a part, `step` tokens from one to the next of a lane.
__device__ __forceinline__ Mass weigh(const Cut& cut, float min_p, const float* probability, uint32_t first, uint32_t end, uint32_t step) {
    Mass mass = {0, 0};
#pragma unroll 4
    for (uint32_t v = first; v < end; v += step) {
        const float p = probability[v];
        if (p >= min_p) {
            mass.above += __float_as_uint(p) > cut.bits ? weight(p) : 0;
            mass.ties += __float_as_uint(p) == cut.bits;
        }
    }
    return mass;
}

// Draws a token of the row, in the last of its blocks, which have left what their parts weigh; writes it.
__device__ __forceinline__ void draw(const Cut& cut, float min_p, const float* probability, uint32_t vocab, const Room& room, Sampler& sampler,
                                     uint32_t* token, Shared& shared) {
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool is_part = threadIdx.x < gridDim.x;
    const Mass of_block = is_part ? Mass{room.above[threadIdx.x], room.ties[threadIdx.x]} : Mass{0, 0};
    const uint64_t state = sampler.state;
    const Draw block = choose_part(of_block, 0, cut, [&](uint64_t total) {
        uint64_t next = state;
        const uint64_t left = __umul64hi(next_random(next), total);
        if (threadIdx.x == 0) sampler.state = next;
        return left;
    }, shared);
    // of the block's part a part for each warp, which the first threads have
    const Part part = part_of({0, vocab}, gridDim.x, block.part), mine = part_of(part, WARPS, warp);
    const Mass seen = weigh(cut, min_p, probability, mine.first + lane, mine.end, 32);
    const uint64_t above = warp_scan(seen.above), ties = warp_scan(seen.ties);
    if (lane == 31) shared.above[warp] = above, shared.at_cut[warp] = ties;
    __syncthreads();
    const Mass of_warp = threadIdx.x < WARPS ? Mass{shared.above[threadIdx.x], shared.at_cut[threadIdx.x]} : Mass{0, 0};
    const Draw chosen = choose_part(of_warp, block.ties_before, cut, [&](uint64_t) { return block.left; }, shared);
    if (warp != chosen.part) return;
    const uint32_t found = find_token(chosen, cut, min_p, probability, mine);
    if (lane == 0) *token = found;
}

}  // namespace moray

extern "C" __global__ void __launch_bounds__(512) llama_argmax(const __grid_constant__ moray::ArgmaxParams p) {
    using namespace moray;
    __shared__ Shared shared;
    Room& room = reinterpret_cast<Room*>(p.rooms)[blockIdx.y];
    const uint64_t best = largest(p.logits + size_t(blockIdx.y) * p.vocab, part_of({0, p.vocab}, gridDim.x, blockIdx.x), shared);
    if (threadIdx.x == 0) room.best[blockIdx.x] = best;
    if (!is_last(room, 0, shared)) return;
    const uint32_t token = token_of(gridDim.x > 1 ? largest_of_row(room, shared) : best);
    if (threadIdx.x == 0) p.token[blockIdx.y] = token;
}

extern "C" __global__ void __launch_bounds__(512, 1) llama_sample(const __grid_constant__ moray::SampleParams p) {
    using namespace moray;
    __shared__ Shared shared;
    const float* logits = p.logits + size_t(blockIdx.y) * p.vocab;
    float* probability = p.probability + size_t(blockIdx.y) * p.vocab;
    Sampler& sampler = p.samplers[blockIdx.y];
    Room& room = reinterpret_cast<Room*>(p.rooms)[blockIdx.y];
    const float temperature = sampler.temperature, min_p = sampler.min_p;
    const uint64_t top_p = sampler.top_p;
    const Part part = part_of({0, p.vocab}, gridDim.x, blockIdx.x);
    uint64_t best = largest(logits, part, shared);
    if (threadIdx.x == 0) room.best[blockIdx.x] = best;
    if (top_p != 0 && temperature != 0.0f) {
        const uint32_t at = blockIdx.x * THREADS + threadIdx.x;
        for (uint32_t bin = at; bin < LEVELS * BINS; bin += gridDim.x * THREADS) room.sums[bin / BINS][bin % BINS] = 0;
    }
    uint32_t waits = 0;
    if (temperature != 0.0f && gridDim.x > 1) {
        wait_for_row(room, ++waits);
        best = largest_of_row(room, shared);
    }
    Cut cut = {0, ~0ull};
    const bool draws = temperature != 0.0f && token_of(best) != NO_TOKEN;
    if (draws) {
        const float most = logit_of(best);
#pragma unroll 4
        for (uint32_t v = part.first + threadIdx.x; v < part.end; v += THREADS) {
            probability[v] = exp_to_one(__fdiv_rn(__fsub_rn(logits[v], most), temperature));
        }
        if (top_p != 0) {
            cut = find_cut(top_p, probability, part, room, waits + 1, shared);
            waits += gridDim.x > 1 ? LEVELS : 0;
        }
        const Mass seen = weigh(cut, min_p, probability, part.first + threadIdx.x, part.end, THREADS);
        const uint64_t above = block_scan(seen.above, shared).total, ties = block_scan(seen.ties, shared).total;
        if (threadIdx.x == 0) room.above[blockIdx.x] = above, room.ties[blockIdx.x] = ties;
    }
    if (!is_last(room, waits, shared)) return;
    if (draws) {
        __syncthreads();  // one block alone has left its mass and its p
        return draw(cut, min_p, probability, p.vocab, room, sampler, p.token + blockIdx.y, shared);
    }
    if (gridDim.x > 1) best = largest_of_row(room, shared);
    if (threadIdx.x == 0) p.token[blockIdx.y] = token_of(best);
}
