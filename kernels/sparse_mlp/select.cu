// Selections made on the device: masks from scores, the union of masks as a list, and what follows from a mask.
//
//   mask:      bit i of token t = (s > threshold), or s is among the k highest of t; s[t, i] = |v[t, i]| (* channel_scale[i])
//   union:     list = neurons that any token keeps, increasing; count = how many
//   keep:      out[t, i] = bit j of token t ? v[t, j] : 0,  j = list[i] or i, and the largest |out| of each block
//   quantize:  code = x / scale to nearest even, scale = max|x| / 127, and the sums of every 32 codes
//   norms:     norm[t] = sum_j a[t, j]^2 in f64, in the order of j
//   observe:   squares[j] += a[t, j]^2 / norm[t] in f64, in the order of t (the prompt statistic of GRIFFIN and TDA)
//
// | argument      | dtype  | shape             | layout                                                                  |
// |---------------|--------|-------------------|-------------------------------------------------------------------------|
// | values        | f32    | [tokens, stride]  | the first n of each token; or f64 squares [n] for a statistic; keep: any |
// | channel_scale | f32    | [n]               | null: none                                                              |
// | masks         | u32    | [tokens, words]   | bit i % 32 of word i / 32; words even, bits past n are 0                |
// | list, count   | u32    | [n], [1]          | left on the device                                                      |
//
// A score that is NaN is never kept. Of equal scores the lower index is kept first: exactly k, as on the CPU, unless fewer
// are numbers. Everything is integer counting or sums in a stated order, so results have the CPU's bits.
// Requires n <= 2^24, channel_scale >= 0.
// mask*: Grid (tokens); Block 1024. union: Grid 1; Block 1024. keep: Grid (ceil(n / 256), tokens); Block 256.
// quantize: Grid (tokens); Block 1024. norms: Grid (ceil(tokens / 32)); Block 32. observe: Grid (ceil(n / 256)); Block 256.
// Source: radix selection of the k-th key; GRIFFIN; TDA (arXiv 2408.11393). Wrapper: src/sparse_mlp/cuda.
#include "common/memory.cuh"
#include "common/reduce.cuh"
#include "neurons.cuh"
#include "quantize.cuh"

namespace moray::sparse_mlp {

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr int DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS;

// A score as a number whose order is that of its bits; 0 in `valid` for NaN.
struct Scores32 {
    using Key = uint32_t;
    static constexpr int BITS = 31;
    const float* values;
    const float* scale;
    __device__ __forceinline__ Scores32(const MaskParams& p, uint32_t token)
        : values(static_cast<const float*>(p.values) + static_cast<size_t>(token) * p.stride), scale(p.channel_scale) {}
    __device__ __forceinline__ float score(uint32_t i) const {
        const float size = fabsf(values[i]);
        return scale == nullptr ? size : __fmul_rn(size, scale[i]);
    }
    __device__ __forceinline__ bool above(uint32_t i, double threshold) const {
        return score(i) > static_cast<float>(threshold);
    }
    // Keys of numbers are 1 more than their bits; NaN has 0.
    __device__ __forceinline__ Key key(uint32_t i) const {
        const float s = score(i);
        return isnan(s) ? 0 : __float_as_uint(s) + 1;
    }
};

struct Scores64 {
    using Key = unsigned long long;
    static constexpr int BITS = 63;
    const double* squares;
    double tokens;
    __device__ __forceinline__ Scores64(const MaskParams& p, uint32_t)
        : squares(static_cast<const double*>(p.values)), tokens(p.tokens_seen) {}
    __device__ __forceinline__ double score(uint32_t i) const { return __dsqrt_rn(__ddiv_rn(squares[i], tokens)); }
    __device__ __forceinline__ bool above(uint32_t i, double threshold) const { return score(i) > threshold; }
    __device__ __forceinline__ Key key(uint32_t i) const {
        const double s = score(i);
        return isnan(s) ? 0 : static_cast<Key>(__double_as_longlong(s)) + 1;
    }
};

// The prefix sums of a block's threads and, in `total`, the sum. `scratch` is free again after the next barrier.
__device__ __forceinline__ uint32_t block_prefix(uint32_t value, uint32_t* scratch_smem, uint32_t& total) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t inclusive = value;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t before = __shfl_up_sync(FULL_WARP, inclusive, distance);
        inclusive += lane >= distance ? before : 0;
    }
    if (lane == 31) {
        scratch_smem[warp] = inclusive;
    }
    __syncthreads();
    uint32_t offset = 0;
    total = 0;
    for (int w = 0; w < WARPS; w++) {
        offset += w < warp ? scratch_smem[w] : 0;
        total += scratch_smem[w];
    }
    return offset + inclusive - value;
}

// The k-th largest key, digit by digit from the top; `missing` says how many keys equal to it are among the k. The first warp
// looks the histogram through from its largest digit.
template <class Scores>
__device__ __forceinline__ typename Scores::Key kth_key(const Scores& scores, uint32_t n, uint32_t k, uint32_t* histogram_smem,
                                                       uint32_t* found_smem, uint32_t& missing) {
    using Key = typename Scores::Key;
    Key prefix = 0;
    missing = k;
    for (int high = Scores::BITS; high > 0;) {
        const int width = min(high, DIGIT_BITS), shift = high - width;
        for (uint32_t digit = threadIdx.x; digit < DIGITS; digit += THREADS) {
            histogram_smem[digit] = 0;
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
            const Key key = scores.key(i);
            if (key >> high == prefix) {
                atomicAdd(&histogram_smem[static_cast<uint32_t>(key >> shift) & ((1u << width) - 1)], 1u);
            }
        }
        __syncthreads();
        if (threadIdx.x < 32) {
            constexpr int PER_LANE = DIGITS / 32;
            const uint32_t lane = threadIdx.x, top = DIGITS - 1 - lane * PER_LANE;  // lane 0 has the largest digits
            uint32_t sum = 0;
            for (int i = 0; i < PER_LANE; i++) {
                sum += histogram_smem[top - i];
            }
            uint32_t above = sum;
            for (int distance = 1; distance < 32; distance *= 2) {
                const uint32_t before = __shfl_up_sync(FULL_WARP, above, distance);
                above += lane >= distance ? before : 0;
            }
            above -= sum;
            if (above < missing && above + sum >= missing) {
                uint32_t digit = top;
                while (above + histogram_smem[digit] < missing) {
                    above += histogram_smem[digit--];
                }
                found_smem[0] = digit;
                found_smem[1] = missing - above;
            }
        }
        __syncthreads();
        prefix = prefix << width | found_smem[0];
        missing = found_smem[1];
        high = shift;
        __syncthreads();
    }
    return prefix;
}

template <class Scores>
__device__ __forceinline__ void write_mask(const MaskParams& p) {
    __shared__ uint32_t histogram_smem[DIGITS], found_smem[2], scratch_smem[2][WARPS];
    const Scores scores(p, blockIdx.x);
    uint32_t missing = 0;
    typename Scores::Key kth = 0;
    if (p.k > 0) {
        kth = kth_key(scores, p.n, p.k, histogram_smem, found_smem, missing);
    }
    uint32_t equal_before = 0, turn = 0;
    for (uint32_t first = 0; first < p.words * 32; first += THREADS, turn ^= 1) {
        const uint32_t i = first + threadIdx.x;
        bool keep = false;
        if (p.k == 0) {
            keep = i < p.n && scores.above(i, p.threshold);
        } else {
            const typename Scores::Key key = i < p.n ? scores.key(i) : 0;
            const bool equal = key == kth && key != 0;
            uint32_t equals;
            const uint32_t rank = equal_before + block_prefix(equal, scratch_smem[turn], equals);
            keep = key > kth || (equal && rank < missing);
            equal_before += equals;
        }
        const uint32_t word = __ballot_sync(FULL_WARP, keep);
        if (threadIdx.x % 32 == 0 && i / 32 < p.words) {
            p.masks[static_cast<size_t>(blockIdx.x) * p.words + i / 32] = word;
        }
    }
}

}  // namespace moray::sparse_mlp

using namespace moray;
using namespace moray::sparse_mlp;

extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_mask(const __grid_constant__ MaskParams p) {
    write_mask<Scores32>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS) sparse_mlp_mask_statistic(const __grid_constant__ MaskParams p) {
    write_mask<Scores64>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS)
sparse_mlp_union(const __grid_constant__ UnionParams p) {
    __shared__ uint32_t scratch_smem[2][WARPS];
    uint32_t base = 0, turn = 0;
    for (uint32_t first = 0; first < p.words; first += THREADS, turn ^= 1) {
        const uint32_t at = first + threadIdx.x;
        uint32_t bits = 0;
        for (uint32_t token = 0; token < p.tokens && at < p.words; token++) {
            bits |= p.masks[static_cast<size_t>(token) * p.words + at];
        }
        uint32_t kept;
        uint32_t place = base + block_prefix(__popc(bits), scratch_smem[turn], kept);
        for (; bits != 0; bits &= bits - 1) {
            p.list[place++] = at * 32 + __ffs(bits) - 1;
        }
        base += kept;
    }
    if (threadIdx.x == 0) {
        *p.count = base;
    }
}

extern "C" __global__ void __launch_bounds__(256)
sparse_mlp_keep(const __grid_constant__ KeepParams p) {
    const uint32_t position = blockIdx.x * 256 + threadIdx.x, token = blockIdx.y;
    float out = 0.0f;
    if (position < count_of(p.neurons)) {
        const uint32_t neuron = neuron_of(p.neurons, position);
        const size_t row = static_cast<size_t>(token) * p.stride;
        out = keeps(p.neurons, token, neuron) ? load_element(p.values, row + neuron, p.dtype) : 0.0f;
        p.out[row + position] = out;
    }
    if (p.maxima != nullptr) {
        __shared__ uint32_t scratch_smem[32];
        const uint32_t largest = block_max(size_bits(out), scratch_smem);
        if (threadIdx.x == 0) {
            p.maxima[static_cast<size_t>(token) * gridDim.x + blockIdx.x] = largest;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
sparse_mlp_quantize(const __grid_constant__ QuantizeParams p) {
    __shared__ uint32_t scratch_smem[32];
    const size_t row = static_cast<size_t>(blockIdx.x) * p.stride;
    uint32_t largest = 0;
    for (uint32_t i = threadIdx.x; i < p.n; i += THREADS) {
        largest = max(largest, size_bits(p.x[row + i]));
    }
    const Quantizer quantizer(block_max(largest, scratch_smem));
    if (threadIdx.x == 0) {
        p.scales[blockIdx.x] = quantizer.scale;
    }
    for (uint32_t first = 0; first < p.n; first += THREADS) {
        const uint32_t i = first + threadIdx.x;
        int32_t code = 0;
        if (i < p.n) {
            code = code_of(p.x[row + i], quantizer.inverse);
            p.codes[row + i] = static_cast<int8_t>(code);
        }
        const int32_t sum = warp_sum(code);
        if (threadIdx.x % 32 == 0 && i < p.n) {
            p.sums[(row + i) / 32] = sum;
        }
    }
}

extern "C" __global__ void __launch_bounds__(32)
sparse_mlp_norms(const __grid_constant__ StatisticParams p) {
    const uint32_t token = blockIdx.x * 32 + threadIdx.x;
    if (token < p.tokens) {
        const float* row = p.hidden + static_cast<size_t>(token) * p.stride;
        double norm = 0.0;
        for (uint32_t j = 0; j < p.n; j++) {
            norm = __dadd_rn(norm, __dmul_rn(row[j], row[j]));
        }
        p.norms[token] = norm;
    }
}

extern "C" __global__ void __launch_bounds__(256)
sparse_mlp_observe(const __grid_constant__ StatisticParams p) {
    const uint32_t j = blockIdx.x * 256 + threadIdx.x;
    if (j < p.n) {
        double square = p.squares[j];
        for (uint32_t token = 0; token < p.tokens; token++) {
            if (p.norms[token] > 0.0) {
                const double a = p.hidden[static_cast<size_t>(token) * p.stride + j];
                square = __dadd_rn(square, __ddiv_rn(__dmul_rn(a, a), p.norms[token]));
            }
        }
        p.squares[j] = square;
    }
}
