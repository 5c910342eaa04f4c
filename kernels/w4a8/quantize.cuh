// The quantization of one token by a block: the scale of all its values or of each 128 of them, codes, and the codes' sums.
#pragma once

#include "common/reduce.cuh"
#include "w4a8/layout.cuh"

namespace moray {

// The largest magnitude's bits of four values, which order as the numbers do; those of infinities and NaN are above all others.
__device__ __forceinline__ uint32_t largest_bits(const float (&v)[4]) {
    uint32_t largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(v[i]) & 0x7fffffffu);
    return largest;
}

// Four codes in one word, the first in the lowest byte.
__device__ __forceinline__ uint32_t pack_codes(const float (&v)[4], float inverse) {
    uint32_t word = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float scaled = fminf(fmaxf(__fmul_rn(v[i], inverse), -127.0f), 127.0f);
        word |= (static_cast<uint32_t>(__float2int_rn(scaled)) & 0xffu) << (8 * i);
    }
    return word;
}

// What shares a scale is multiplied with the scale's inverse.
struct Scale {
    float scale, inverse;
    bool finite;

    // Of the largest magnitude's bits.
    __device__ explicit Scale(uint32_t largest) : finite(largest < 0x7f800000u) {
        scale = finite ? __fdiv_rn(__uint_as_float(largest), 127.0f) : __int_as_float(0x7fffffff);
        // a scale below the normal range loses the bits that keep |v|/scale ≤ 127, hence the clamp in pack_codes
        inverse = scale > 0.0f ? __fdiv_rn(1.0f, scale) : 0.0f;
        inverse = inverse < __int_as_float(0x7f800000) ? inverse : 0.0f;
    }
};

// Loads the first values of a token, of each thread so many times four: (thread, i4) -> k 4·thread + i of each 4·THREADS values.
template <uint32_t THREADS, uint32_t KEPT, typename Values>
__device__ __forceinline__ void load_kept(float (&kept)[KEPT][4], const Values& values, uint32_t k_end) {
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT; ++piece) {
        const uint32_t k = piece * 4 * THREADS + 4 * threadIdx.x;
        if (k < k_end) values.load(kept[piece], k);
        else kept[piece][0] = kept[piece][1] = kept[piece][2] = kept[piece][3] = 0.0f;
    }
}

// Quantizes a token of `k_end` values, of which the first are in `kept` and `values` loads the others, twice; `out` takes what comes of it.
// `total_smem` is 0 for the thread that has made it so, the first.
template <uint32_t THREADS, uint32_t KEPT, typename Values, typename Out>
__device__ __forceinline__ void quantize_token(const float (&kept)[KEPT][4], const Values& values, uint32_t k_end, bool fine, const Out& out,
                                               uint32_t* scratch_smem, int32_t* total_smem) {
    constexpr uint32_t STRIDE = 4 * THREADS;
    uint32_t largest = 0;
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT; ++piece) largest = max(largest, largest_bits(kept[piece]));
    if (fine) __syncthreads();  // the total is 0 for all, as it is after a maximum
    else {
        for (uint32_t k = KEPT * STRIDE + 4 * threadIdx.x; k < k_end; k += STRIDE) {
            float v[4];
            values.load(v, k);
            largest = max(largest, largest_bits(v));
        }
    }
    Scale scale(fine ? 0 : block_max(largest, scratch_smem));

    const uint32_t padded_k = padded(k_end), lane = threadIdx.x % 32;
    // A warp takes 128 values at a time, a block of a fine scale: 8 lanes share a sum of the finest level.
    const auto put = [&](uint32_t k, const float (&v)[4]) {
        if (fine) {
            scale = Scale(__reduce_max_sync(FULL_WARP, largest_bits(v)));
            if (lane == 0) out.scale(scale.scale, k / ACT_BLOCK);
        }
        const uint32_t word = scale.finite ? pack_codes(v, scale.inverse) : 0;
        if (k < padded_k) out.codes(k, word);
        int32_t sum = __dp4a(static_cast<int32_t>(word), 0x01010101, 0);
        sum = warp_sum<8>(sum);
        if (lane % 8 == 0 && k < padded_k) out.sum(0, k / 32, sum);
        sum += __shfl_xor_sync(FULL_WARP, sum, 8);
        if (lane % 16 == 0 && k < padded_k) out.sum(1, k / 64, sum);
        sum += __shfl_xor_sync(FULL_WARP, sum, 16);
        if (lane == 0) {
            out.sum(2, k / 128, sum);
            atomicAdd(total_smem, sum);  // integers: the order does not matter
        }
    };
    uint32_t start = ACT_BLOCK * (threadIdx.x / 32);
#pragma unroll
    for (uint32_t piece = 0; piece < KEPT; ++piece, start += STRIDE) {
        if (start < padded_k) put(start + 4 * lane, kept[piece]);
    }
    for (; start < padded_k; start += STRIDE) {
        float v[4] = {};
        if (start + 4 * lane < k_end) values.load(v, start + 4 * lane);
        put(start + 4 * lane, v);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        if (!fine) out.scale(scale.scale, 0);
        out.total(*total_smem);
    }
}

}  // namespace moray
