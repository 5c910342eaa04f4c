// Gate and up rows of the selected neurons times the activations, and their product: what gather.cu and whole.cu make kernels of.
#pragma once

#include "product.cuh"
#include "quantize.cuh"
#include "rows.cuh"

namespace moray::sparse_mlp {

// Warps of a block: the registers of 8 tokens leave room for half as many.
template <int T>
constexpr int WARPS = T == 1 ? 16 : 8;
constexpr int LOADS = 8;  // 16-byte loads of a lane that are on their way together

// Neurons of a warp: two share what they read of x where there are several tokens.
template <int T>
constexpr int NEURONS = T == 1 ? 1 : 2;

// Elements of x in shared memory at a time.
template <class Rows, int T>
constexpr int PIECE = (Rows::FOUR_BIT ? 4 : 1) * (T == 1 ? 8192 : 1024);

// Elements of 16 bytes of a row.
template <class Rows>
constexpr uint32_t CHUNK = Rows::FOUR_BIT ? 32 : 8;

// Whether a block quantizes x itself.
template <class Rows, int T>
constexpr bool QUANTIZES = Rows::FOUR_BIT && T == 1;

// x of the block's tokens, zeros from the end of a row to a whole turn of a warp. A lane's 32 bytes of x lie in two planes of 16, so
// that neighbouring lanes read neighbouring 16 bytes; the second plane begins 64 bytes off the first's banks, so that the two
// halves of four chunks are written at once.
template <class Rows, int T>
struct Inputs {
    static constexpr int CHUNKS = PIECE<Rows, T> / CHUNK<Rows>;
    uint4 plane[2][T * CHUNKS + 4];  // (half, token x CHUNKS + lane's chunk)
    int32_t sums[T][Rows::FOUR_BIT ? CHUNKS : 1];
    float scale[T];  // of codes
};

// Chunks of a piece that begins at k0.
template <class Rows, int T>
__device__ __forceinline__ uint32_t chunks_of(const GateUpParams& p, uint32_t k0) {
    return min(static_cast<uint32_t>(PIECE<Rows, T>), p.d_model - k0) / CHUNK<Rows>;
}

// The largest size_bits of x of one token, in every thread of the block.
__device__ __forceinline__ uint32_t largest_input(const GateUpParams& p) {
    __shared__ uint32_t scratch_smem[32];
    uint32_t largest = 0;
    for (uint32_t k = 4 * threadIdx.x; k < p.d_model; k += 4 * blockDim.x) {
        float x[4];
        load_4(x, p.x, k, p.x_dtype);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            largest = max(largest, size_bits(x[i]));
        }
    }
    return block_max(largest, scratch_smem);
}

// Quantizes `chunks` chunks of one token's x from k0 on; zeros up to `padded`, a multiple of 256.
template <int T>
__device__ __forceinline__ void quantize_inputs(Inputs<FourBitRows, T>& inputs, const GateUpParams& p, float inverse, uint32_t k0,
                                                uint32_t chunks, uint32_t padded) {
    for (uint32_t i = threadIdx.x; i < 8 * padded; i += 32 * WARPS<T>) {
        const uint32_t chunk = i / 8, word = i % 8;
        uint32_t codes = 0;
        if (chunk < chunks) {
            float x[4];
            load_4(x, p.x, k0 + 4 * i, p.x_dtype);
            codes = codes_of(x, inverse);
        }
        reinterpret_cast<uint32_t*>(&inputs.plane[word / 4][chunk])[word % 4] = codes;
        const int32_t sum = warp_sum<8>(__dp4a(static_cast<int>(codes), 0x01010101, 0));
        if (word == 0) {
            inputs.sums[0][chunk] = sum;
        }
    }
}

// Four floats, or sixteen codes.
template <class Rows>
__device__ __forceinline__ uint4 load_words(const GateUpParams& p, size_t index) {
    if constexpr (Rows::FOUR_BIT) {
        return *reinterpret_cast<const uint4*>(p.x_int8.codes + index);
    } else {
        float x[4];
        load_4(x, p.x, index, p.x_dtype);
        return {__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]), __float_as_uint(x[3])};
    }
}

// Copies `chunks` chunks of x from k0 on; zeros up to `padded`.
template <class Rows, int T>
__device__ __forceinline__ void copy_inputs(Inputs<Rows, T>& inputs, const GateUpParams& p, uint32_t token0, uint32_t k0, uint32_t chunks,
                                            uint32_t padded) {
    constexpr uint32_t CHUNKS = Inputs<Rows, T>::CHUNKS;
    for (uint32_t i = threadIdx.x; i < T * 2 * padded; i += 32 * WARPS<T>) {
        const uint32_t token = i / (2 * padded), chunk = i % (2 * padded) / 2, half = i % 2;
        uint4 words = {0, 0, 0, 0};
        if (token0 + token < p.tokens && chunk < chunks) {
            const size_t row = static_cast<size_t>(token0 + token) * p.d_model + k0;
            words = load_words<Rows>(p, row + (2 * chunk + half) * (CHUNK<Rows> / 2));
        }
        inputs.plane[half][token * CHUNKS + chunk] = words;
    }
    if constexpr (Rows::FOUR_BIT) {
        for (uint32_t i = threadIdx.x; i < T * padded; i += 32 * WARPS<T>) {
            const uint32_t token = i / padded, chunk = i % padded;
            const bool valid = token0 + token < p.tokens && chunk < chunks;
            inputs.sums[token][chunk] =
                valid ? p.x_int8.sums[static_cast<size_t>(token0 + token) * (p.d_model / 32) + k0 / 32 + chunk] : 0;
        }
    }
}

__device__ __forceinline__ float groups_of_segment(const MatrixView& matrix) {
    return __fdiv_rn(1.0f, static_cast<float>(matrix.segments_per_group));
}

// Where a row's scales lie and what they are, so that a loop has no branch for it.
struct ScaleForm {
    float groups;     // of a segment of 32 codes: 0 where a row has one scale
    uint32_t halves;  // 1: a word has the f16 scales of two groups
    bool is_float, has_offset;
    uint32_t zero, zero_mask;  // zero point = word's upper half & zero_mask | zero

    __device__ __forceinline__ explicit ScaleForm(const MatrixView& matrix)
        : groups(matrix.group_scale == GroupScale::none ? 0.0f : groups_of_segment(matrix)),
          halves(matrix.group_scale != GroupScale::none && matrix.offset == Offset::none),
          is_float(matrix.group_scale == GroupScale::none),
          has_offset(!is_float && matrix.offset == Offset::f16),
          zero(is_float || matrix.offset == Offset::none ? 8 : 0),
          zero_mask(is_float || matrix.offset != Offset::zero_point ? 0 : 0xffffu) {}

    // The scale of a segment in its row's scales, with what else a word has. Half a segment is more than the product's error below
    // 2^22 segments.
    __device__ __forceinline__ uint32_t load(const uint32_t* row, uint32_t segment) const {
        const uint32_t group = __float2uint_rz(__fmul_rn(__fadd_rn(static_cast<float>(segment), 0.5f), groups));
        return row[group >> halves] >> (16 * (group & halves));
    }

    __device__ __forceinline__ Scale unpack(uint32_t word) const {
        const float scale = __half2float(__ushort_as_half(static_cast<uint16_t>(word)));
        const float offset = __half2float(__ushort_as_half(static_cast<uint16_t>(word >> 16)));
        return {is_float ? __uint_as_float(word) : scale, has_offset ? offset : 0.0f, static_cast<int>(word >> 16 & zero_mask | zero)};
    }
};

// acc[t] += the lane's 8 elements of a row times x.
template <class Rows, int T>
__device__ __forceinline__ void multiply(float (&acc)[T], const uint4& words, const Inputs<Rows, T>& inputs, uint32_t chunk) {
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int t = 0; t < T; t++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const uint4 x = inputs.plane[half][t * Inputs<Rows, T>::CHUNKS + chunk];
            const float2 low = Rows::widen(word[2 * half]), high = Rows::widen(word[2 * half + 1]);
            acc[t] = __fmaf_rn(low.x, __uint_as_float(x.x), acc[t]);
            acc[t] = __fmaf_rn(low.y, __uint_as_float(x.y), acc[t]);
            acc[t] = __fmaf_rn(high.x, __uint_as_float(x.z), acc[t]);
            acc[t] = __fmaf_rn(high.y, __uint_as_float(x.w), acc[t]);
        }
    }
}

// acc[t] += the lane's 32 codes of a row times x, exact in integers, times their group's scale.
template <int T>
__device__ __forceinline__ void multiply_codes(float (&acc)[T], const uint4& words, const Scale& scale,
                                               const Inputs<FourBitRows, T>& inputs, uint32_t chunk) {
    const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int t = 0; t < T; t++) {
        const uint32_t at = t * Inputs<FourBitRows, T>::CHUNKS + chunk;
        const uint4 low = inputs.plane[0][at], high = inputs.plane[1][at];
        const uint32_t lows[4] = {low.x, low.y, low.z, low.w}, highs[4] = {high.x, high.y, high.z, high.w};
        int32_t dot = 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            dot = __dp4a(static_cast<int>(word[i] & 0x0f0f0f0fu), static_cast<int>(lows[i]), dot);
            dot = __dp4a(static_cast<int>(word[i] >> 4 & 0x0f0f0f0fu), static_cast<int>(highs[i]), dot);
        }
        acc[t] = add_group(scale, dot, inputs.sums[t][chunk], acc[t]);
    }
}

// A matrix as rows of 16 bytes, and the form of its scales.
struct Matrix {
    const MatrixView& view;
    ScaleForm form;
    __device__ __forceinline__ explicit Matrix(const MatrixView& view) : view(view), form(view) {}
};

// What a turn of a warp takes: R rows, by turns of the first matrix and the second; of which those past `there` are not read.
template <class Rows, int R>
struct Turn {
    static constexpr int CHUNKS = LOADS / R;
    const uint4* row[R];
    const uint32_t* scales[R];
    uint32_t there;
    uint4 words[CHUNKS][R];
    uint32_t scale[CHUNKS][R];

    __device__ __forceinline__ Turn(const Matrix (&matrices)[2], const GateUpParams& p, const uint32_t (&neuron)[R], uint32_t there)
        : there(there) {
        const size_t bytes = Rows::FOUR_BIT ? p.d_model / 2 : size_t(p.d_model) * 2;
#pragma unroll
        for (int r = 0; r < R; r++) {
            const MatrixView& view = matrices[r % 2].view;
            row[r] = reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(view.rows) + neuron[r] * bytes);
            scales[r] = view.scales + static_cast<size_t>(neuron[r]) * view.scale_stride;
        }
    }

    // Has the lane's chunks from `first` on on their way; zeros past the end.
    __device__ __forceinline__ void load(const Matrix (&matrices)[2], uint32_t first, uint32_t end) {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
            for (int r = 0; r < R; r++) {
                const uint32_t chunk = first + 32 * c;
                const bool reads = chunk < end && r < there;
                words[c][r] = reads ? load_streaming(row[r] + chunk) : make_uint4(0, 0, 0, 0);
                if constexpr (Rows::FOUR_BIT) {
                    scale[c][r] = reads ? matrices[r % 2].form.load(scales[r], chunk) : 0;
                }
            }
        }
    }

    template <int T>
    __device__ __forceinline__ void multiply_all(float (&acc)[R][T], const Matrix (&matrices)[2], const Inputs<Rows, T>& inputs,
                                                 uint32_t first) const {
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
            for (int r = 0; r < R; r++) {
                if constexpr (Rows::FOUR_BIT) {
                    multiply_codes<T>(acc[r], words[c][r], matrices[r % 2].form.unpack(scale[c][r]), inputs, first + 32 * c);
                } else {
                    multiply<Rows, T>(acc[r], words[c][r], inputs, first + 32 * c);
                }
            }
        }
    }
};

template <class Rows, int T>
__device__ __forceinline__ void load_inputs(Inputs<Rows, T>& inputs, const GateUpParams& p, float inverse, uint32_t token0, uint32_t k0) {
    constexpr uint32_t TURN = 32 * LOADS, CHUNKS = Inputs<Rows, T>::CHUNKS;
    const uint32_t chunks = chunks_of<Rows, T>(p, k0), padded = min((chunks + TURN - 1) / TURN * TURN, CHUNKS);
    if constexpr (QUANTIZES<Rows, T>) {
        quantize_inputs(inputs, p, inverse, k0, chunks, padded);
    } else {
        copy_inputs<Rows, T>(inputs, p, token0, k0, chunks, padded);
    }
}

// Has the scales of codes in `inputs`. Gives what quantizes them where the block does.
template <class Rows, int T>
__device__ __forceinline__ float find_scales(Inputs<Rows, T>& inputs, const GateUpParams& p, uint32_t token0) {
    if constexpr (QUANTIZES<Rows, T>) {
        const Quantizer quantizer(largest_input(p));
        if (threadIdx.x == 0) {
            inputs.scale[0] = quantizer.scale;
        }
        return quantizer.inverse;
    } else if constexpr (Rows::FOUR_BIT) {
        if (threadIdx.x < T && token0 + threadIdx.x < p.tokens) {
            inputs.scale[threadIdx.x] = p.x_int8.scale[token0 + threadIdx.x];
        }
    }
    return 0.0f;
}

// The neurons of the positions of a block, with R / NEURONS<T> matrices. Gives lane t the largest size_bits of what its warp leaves in
// `hidden` of token t.
template <class Rows, int T, int R>
__device__ __forceinline__ uint32_t multiply_neurons(const GateUpParams& p, const MatrixView& even, const MatrixView& odd,
                                                     Inputs<Rows, T>& inputs) {
    constexpr int N = NEURONS<T>, MATRICES = R / N, STEP = 32 * Turn<Rows, R>::CHUNKS;
    const uint32_t count = count_of(p.neurons), lane = threadIdx.x % 32, token0 = blockIdx.y * T;
    // neighbours in the list go to different multiprocessors
    const uint32_t stride = gridDim.x * WARPS<T> * N, mine = (threadIdx.x / 32 * gridDim.x + blockIdx.x) * N;
    uint32_t largest = 0;
    if (blockIdx.x * N >= count) {
        return largest;
    }
    const float inverse = find_scales(inputs, p, token0);
    const Matrix matrices[2] = {Matrix(even), Matrix(odd)};
    uint32_t next[N];
#pragma unroll
    for (int n = 0; n < N; n++) {
        next[n] = neuron_of(p.neurons, min(mine + n, count - 1));
    }
    for (uint32_t round = 0; round + blockIdx.x * N < count; round += stride) {
        const uint32_t position = round + mine;
        uint32_t neuron[N], of_row[R];
#pragma unroll
        for (int n = 0; n < N; n++) {
            neuron[n] = next[n];
            next[n] = neuron_of(p.neurons, min(position + stride + n, count - 1));
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            of_row[r] = neuron[r / MATRICES];
        }
        Turn<Rows, R> turn(matrices, p, of_row, position < count ? min(count - position, uint32_t(N)) * MATRICES : 0);
        float acc[R][T] = {};
        for (uint32_t k0 = 0; k0 < p.d_model; k0 += PIECE<Rows, T>) {
            if (round == 0 || p.d_model > PIECE<Rows, T>) {
                __syncthreads();
                load_inputs<Rows, T>(inputs, p, inverse, token0, k0);
                __syncthreads();
            }
            const uint32_t chunk0 = k0 / CHUNK<Rows>, chunks = chunks_of<Rows, T>(p, k0);
            for (uint32_t first = lane; turn.there > 0 && first < chunks; first += STEP) {
                turn.load(matrices, chunk0 + first, chunk0 + chunks);
                turn.template multiply_all<T>(acc, matrices, inputs, first);
            }
        }
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int t = 0; t < T; t++) {
                float gate = warp_sum(acc[n * MATRICES][t]), up = warp_sum(acc[n * MATRICES + MATRICES - 1][t]);
                if (lane == t && position + n < count && token0 + t < p.tokens) {
                    if constexpr (Rows::FOUR_BIT) {
                        gate *= inputs.scale[t];
                        up *= inputs.scale[t];
                    }
                    largest = max(largest, size_bits(write_back(p, token0 + t, position + n, neuron[n], gate, up)));
                }
            }
        }
    }
    return largest;
}

// Writes the maxima of a block's tokens, of which lane t of every warp has a part.
template <int T>
__device__ __forceinline__ void write_maxima(const GateUpParams& p, uint32_t largest) {
    __shared__ uint32_t largest_smem[WARPS<T>][T];
    const uint32_t lane = threadIdx.x % 32, token = blockIdx.y * T + threadIdx.x;
    if (lane < T) {
        largest_smem[threadIdx.x / 32][lane] = largest;
    }
    __syncthreads();
    if (threadIdx.x < T && token < p.tokens) {
#pragma unroll
        for (int warp = 1; warp < WARPS<T>; warp++) {
            largest = max(largest, largest_smem[warp][threadIdx.x]);
        }
        p.maxima[token * gridDim.x + blockIdx.x] = largest;
    }
}

template <class Rows, int T>
__device__ __forceinline__ void gate_up(const GateUpParams& p, Inputs<Rows, T>& inputs) {
    if (blockIdx.x == 0 && blockIdx.y == 0) {
        for (uint32_t i = threadIdx.x; i < p.n_arrived; i += blockDim.x) {
            p.arrived[i] = 0;
        }
    }
    uint32_t largest;
    if (p.gate.rows != nullptr && p.up.rows != nullptr) {
        largest = multiply_neurons<Rows, T, 2 * NEURONS<T>>(p, p.gate, p.up, inputs);
    } else {
        const MatrixView& only = p.gate.rows != nullptr ? p.gate : p.up;
        largest = multiply_neurons<Rows, T, NEURONS<T>>(p, only, only, inputs);
    }
    if (Rows::FOUR_BIT && p.maxima != nullptr) {
        write_maxima<T>(p, largest);
    }
}

}  // namespace moray::sparse_mlp
