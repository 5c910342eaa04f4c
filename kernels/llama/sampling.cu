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
//
// Grid: R. Block: 512 threads. V up to 2^24. Bit for bit as `Sampler` on the CPU (src/llama/sampler.rs), in every step.
// Source: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). Wrapper: src/llama/cuda/raw/{argmax,sample}.rs.

#include "common/reduce.cuh"
#include "params.cuh"

namespace moray {

constexpr uint32_t THREADS = 512, WARPS = THREADS / 32, NO_TOKEN = 0xffffffffu;

// Orders (logit, token) pairs in one integer: larger logit first, then the smaller token. Bits of a float order as integers
// once those of negative numbers are turned around.
__device__ __forceinline__ uint64_t rank(float logit, uint32_t token) {
    const uint32_t bits = __float_as_uint(logit == 0.0f ? 0.0f : logit);  // −0 equals 0
    const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return uint64_t(ordered) << 32 | (0xffffffffu - token);
}

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint64_t other = __shfl_xor_sync(FULL_WARP, v, distance);
        v = other > v ? other : v;
    }
    return v;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(FULL_WARP, v, distance);
    return v;
}

__device__ __forceinline__ uint64_t sum_of_warps(const uint64_t* scratch_smem) {
    return warp_sum(threadIdx.x % 32 < WARPS ? scratch_smem[threadIdx.x % 32] : 0);
}

// Sum over the block, in every thread. `scratch` is used by no other call before the block's next barrier but one.
__device__ inline uint64_t block_sum(uint64_t v, uint64_t* scratch_smem) {
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) scratch_smem[threadIdx.x / 32] = v;
    __syncthreads();
    return sum_of_warps(scratch_smem);
}

// The token of the largest logit, the first of equals, in every thread; NO_TOKEN where there is none.
__device__ inline uint32_t largest(const float* logits, uint32_t vocab, uint64_t* scratch_smem) {
    const float infinity = __int_as_float(0x7f800000);
    uint64_t best = 0;  // below every rank
    bool bad = false;
    for (uint32_t v = threadIdx.x; v < vocab; v += THREADS) {
        const float logit = logits[v];
        bad |= !(logit < infinity);
        const uint64_t mine = rank(logit, v);
        if (logit > -infinity && mine > best) best = mine;
    }
    best = warp_max(best);
    if (threadIdx.x % 32 == 0) scratch_smem[threadIdx.x / 32] = best;
    bad = __syncthreads_or(bad);
    best = warp_max(threadIdx.x % 32 < WARPS ? scratch_smem[threadIdx.x % 32] : 0);
    return bad || best == 0 ? NO_TOKEN : 0xffffffffu - uint32_t(best);
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

// Sums of the weights of tokens whose p has at least the bits at[i].
__device__ inline void masses(uint64_t (&mass)[3], const uint32_t (&at)[3], const float* probability, uint32_t vocab,
                              uint64_t (&scratch_smem)[3][WARPS]) {
    mass[0] = mass[1] = mass[2] = 0;
    for (uint32_t v = threadIdx.x; v < vocab; v += THREADS) {
        const float p = probability[v];
        const uint64_t w = weight(p);
#pragma unroll
        for (int i = 0; i < 3; ++i) mass[i] += __float_as_uint(p) >= at[i] ? w : 0;
    }
    __syncthreads();  // the last sums have been read
#pragma unroll
    for (int i = 0; i < 3; ++i) {
        mass[i] = warp_sum(mass[i]);
        if (threadIdx.x % 32 == 0) scratch_smem[i][threadIdx.x / 32] = mass[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 3; ++i) mass[i] = sum_of_warps(scratch_smem[i]);
}

// Finds the largest bits at which the tokens from there up weigh `wanted` or more, by quartering; p is in [0, 1].
__device__ inline Cut find_cut(uint64_t wanted, const float* probability, uint32_t vocab, uint64_t (&scratch_smem)[3][WARPS]) {
    uint32_t low = 0, high = 0x3f800001;  // enough, too little
    uint64_t above = 0;                   // mass from `high` up
    while (high - low > 1) {
        const uint32_t step = max((high - low) / 4, 1u), at[3] = {low + step, low + 2 * step, low + 3 * step};
        uint64_t mass[3];
        masses(mass, at, probability, vocab, scratch_smem);
#pragma unroll
        for (int i = 2; i >= 0; --i) {
            if (mass[i] < wanted && at[i] < high) high = at[i], above = mass[i];
        }
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            if (mass[i] >= wanted) low = at[i];
        }
    }
    const uint64_t each = weight(__uint_as_float(low));
    return {low, (wanted - above + each - 1) / each};
}

// The next number of a SplitMix64 sequence.
__device__ __forceinline__ uint64_t next_random(uint64_t& state) {
    state += 0x9E3779B97F4A7C15ull;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// What the warps' parts of the vocabulary, one after another, weigh; and where the draw falls.
struct Draw {
    uint64_t above[WARPS];
    uint32_t ties[WARPS];
    uint64_t left;         // of the draw within the part
    uint64_t ties_before;  // the part
    uint32_t part;
};

// Draws, and finds the part that the draw falls into. One thread.
__device__ inline void choose_part(Draw& draw, const Cut& cut, Sampler& sampler) {
    const uint64_t each = weight(__uint_as_float(cut.bits));
    const auto kept = [&](uint32_t part, uint64_t before) {
        const uint64_t room = before < cut.ties ? cut.ties - before : 0;
        return draw.above[part] + min(uint64_t(draw.ties[part]), room) * each;
    };
    uint64_t total = 0, before = 0;
    for (uint32_t part = 0; part < WARPS; before += draw.ties[part], ++part) total += kept(part, before);
    uint64_t left = __umul64hi(next_random(sampler.state), total);
    before = 0;
    uint32_t part = 0;
    for (; part < WARPS - 1; before += draw.ties[part], ++part) {
        const uint64_t mass = kept(part, before);
        if (left < mass) break;
        left -= mass;
    }
    draw.left = left, draw.ties_before = before, draw.part = part;
}

// The token that the draw falls on, in the part's warp.
__device__ inline uint32_t find_token(const Draw& draw, const Cut& cut, float min_p, const float* probability, uint32_t first,
                                      uint32_t end) {
    const uint32_t lane = threadIdx.x % 32;
    uint64_t left = draw.left, before = draw.ties_before;
    for (uint32_t base = first; base < end; base += 32) {
        const float p = base + lane < end ? probability[base + lane] : -1.0f;
        const bool candidate = p >= min_p, tie = candidate && __float_as_uint(p) == cut.bits;
        const uint32_t ties = __ballot_sync(FULL_WARP, tie);
        const bool kept = candidate && (__float_as_uint(p) > cut.bits ||
                                        (tie && before + __popc(ties & ((1u << lane) - 1)) < cut.ties));
        uint64_t sum = kept ? weight(p) : 0;
#pragma unroll
        for (int distance = 1; distance < 32; distance *= 2) {
            const uint64_t other = __shfl_up_sync(FULL_WARP, sum, distance);
            if (lane >= distance) sum += other;
        }
        const uint32_t passed = __ballot_sync(FULL_WARP, sum > left);
        if (passed != 0) return base + __ffs(passed) - 1;
        left -= __shfl_sync(FULL_WARP, sum, 31);
        before += __popc(ties);
    }
    return NO_TOKEN;  // not reached: the draw is below the part's mass
}

// Weighs the part of a warp.
__device__ inline void weigh_part(Draw& draw, const Cut& cut, float min_p, const float* probability, uint32_t first,
                                  uint32_t end) {
    uint64_t above = 0;
    int32_t ties = 0;
    for (uint32_t v = first + threadIdx.x % 32; v < end; v += 32) {
        const float p = probability[v];
        if (p >= min_p) {
            above += __float_as_uint(p) > cut.bits ? weight(p) : 0;
            ties += __float_as_uint(p) == cut.bits;
        }
    }
    above = warp_sum(above);
    ties = warp_sum(ties);
    if (threadIdx.x % 32 == 0) draw.above[threadIdx.x / 32] = above, draw.ties[threadIdx.x / 32] = ties;
}

}  // namespace moray

extern "C" __global__ void __launch_bounds__(512) llama_argmax(const __grid_constant__ moray::ArgmaxParams p) {
    using namespace moray;
    __shared__ uint64_t scratch_smem[WARPS];
    const uint32_t token = largest(p.logits + size_t(blockIdx.x) * p.vocab, p.vocab, scratch_smem);
    if (threadIdx.x == 0) p.token[blockIdx.x] = token;
}

extern "C" __global__ void __launch_bounds__(512) llama_sample(const __grid_constant__ moray::SampleParams p) {
    using namespace moray;
    __shared__ uint64_t scratch_smem[3][WARPS];
    __shared__ Draw draw;
    const float* logits = p.logits + size_t(blockIdx.x) * p.vocab;
    float* probability = p.probability + size_t(blockIdx.x) * p.vocab;
    Sampler& sampler = p.samplers[blockIdx.x];
    const float temperature = sampler.temperature, min_p = sampler.min_p;
    const uint64_t top_p = sampler.top_p;
    const uint32_t best = largest(logits, p.vocab, scratch_smem[0]);
    if (best == NO_TOKEN || temperature == 0.0f) {
        if (threadIdx.x == 0) p.token[blockIdx.x] = best;
        return;
    }
    uint64_t total = 0;
    for (uint32_t v = threadIdx.x; v < p.vocab; v += THREADS) {
        const float e = exp_to_one(__fdiv_rn(__fsub_rn(logits[v], logits[best]), temperature));
        probability[v] = e;
        total += weight(e);
    }
    Cut cut = {0, ~0ull};
    if (top_p != 0) {
        total = block_sum(total, scratch_smem[1]);
        const uint64_t wanted = __umul64hi(total, top_p) + (total * top_p != 0);
        cut = find_cut(wanted, probability, p.vocab, scratch_smem);
    }
    __syncthreads();  // probabilities are written
    const uint32_t warp = threadIdx.x / 32, part = (p.vocab + WARPS * 32 - 1) / (WARPS * 32) * 32;
    const uint32_t first = min(warp * part, p.vocab), end = min(first + part, p.vocab);
    weigh_part(draw, cut, min_p, probability, first, end);
    __syncthreads();
    if (threadIdx.x == 0) choose_part(draw, cut, sampler);
    __syncthreads();
    if (warp == draw.part) {
        const uint32_t token = find_token(draw, cut, min_p, probability, first, end);
        if (threadIdx.x % 32 == 0) p.token[blockIdx.x] = token;
    }
}
