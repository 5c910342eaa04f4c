// Activations of many tokens as the matrix units take them: the B operand, 8 tokens as its columns, in the lanes' own order.
//
//   f16 rows:   x = scale (high + low) to 2^-23 of |x|: high = f16(x / scale), low = f16 of the rest; scale = 2^n of the token
//   bf16 rows:  x = high + middle + low, exactly: 8 bits of the mantissa each
//   4-bit rows: x = scale code
//
// A tile is 8 tokens x SPAN values of k in 512 bytes; a lane's are of token lane / 4 and, with j = lane % 4:
//   16 bits: (lane32, element8) -> k = 8 j + element of 32; elements 0..3 are a lane's part of one m16n8k16, 4..7 of the next
//   int8:    (step2, lane32, half2, byte4) -> k = 32 step + 16 half + 4 j + byte of 64; a step is one m16n8k32
// Order: [parts][token tiles][spans of k][512 bytes]. k is padded with zeros to whole spans.
#pragma once

#include "common/ptx.cuh"
#include "common/reduce.cuh"
#include "rows.cuh"

namespace moray::sparse_mlp {

// How rows of a form meet the operand.
template <class Rows>
struct OperandOf;
template <>
struct OperandOf<F16Rows> {
    static constexpr uint32_t PARTS = 2, SPAN = 32;
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_f16(acc, a, b0, b1);
    }
};
template <>
struct OperandOf<Bf16Rows> {
    static constexpr uint32_t PARTS = 3, SPAN = 32;
    __device__ __forceinline__ static void multiply(float (&acc)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
        mma_bf16(acc, a, b0, b1);
    }
};
template <>
struct OperandOf<FourBitRows> {
    static constexpr uint32_t PARTS = 1, SPAN = 64;
};

constexpr uint32_t TILE_TOKENS = 8, OPERAND_TILE_BYTES = 512;

// The token tiles of a block that hold tokens.
__device__ __forceinline__ uint32_t tiles_in_use(uint32_t tokens, uint32_t token0, uint32_t most) {
    return min((tokens - token0 + TILE_TOKENS - 1) / TILE_TOKENS, most);
}

// Starts the copies of `Spans` spans of k from `first` on, for all parts and `tiles` token tiles, to
// (part, tile, span, byte512) in shared memory, by all threads of the block.
template <class Rows, uint32_t Tiles, uint32_t Spans>
__device__ __forceinline__ void load_operand(uint32_t dst_smem, const Operand& operand, uint32_t token0, uint32_t tiles,
                                             uint32_t first) {
    constexpr uint32_t PARTS = OperandOf<Rows>::PARTS;
    for (uint32_t i = threadIdx.x; i < PARTS * tiles * Spans * 32; i += blockDim.x) {
        const uint32_t lane = i % 32, span = i / 32 % Spans, row = i / (32 * Spans), part = row / tiles, tile = row % tiles;
        const bool valid = first + span < operand.spans;
        const size_t from = (size_t(part) * operand.token_tiles + token0 / TILE_TOKENS + tile) * operand.spans + first + span;
        const uint4* src = valid ? operand.tiles + from * 32 + lane : operand.tiles;
        cp_async_16(dst_smem + (((part * Tiles + tile) * Spans + span) * 32 + lane) * 16, src, valid ? 16 : 0);
    }
}

}  // namespace moray::sparse_mlp
