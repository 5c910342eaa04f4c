// Tiles where blocks of K are combined in f32. Sums of a run of K are in registers; those of the runs before it too where they are few, else
// in local memory, where they are asked for once a run. Whatever tiles are left after one for each block is shared by runs.
//
// | kernel | tile      | warps            | a stage, bytes in 4 bits without group values | under way        | registers hold                |
// |--------|-----------|------------------|-----------------------------------------------|------------------|-------------------------------|
// | _16    | 64 × 16   | 4 of 16 × 16     | K = 256: 12 KiB                               | 5 stages, 60 KiB | 2 · 8 sums, 16 operands A     |
// | _64    | 256 × 64  | 8 of 32 × 64     | K = 128: 24 KiB                               | 2 stages, 48 KiB | 64 sums, 32 operands A        |
// | _128   | 128 × 128 | 4 × 2 of 32 × 64 | K = 128: 24 KiB                               | 2 stages, 48 KiB | 64 sums, 32 operands A        |
//
// Operands A are those of a whole block of K (at 128), which are multiplied with one pair of token tiles after the other. With few
// tokens a turn's waits bind, so that it has two blocks of K of 128; with many the instructions that bring integers into f32, and
// the matrix units. The two large tiles move as many bytes for an output.
#pragma once

#include "w4a8/gemm.cuh"

namespace moray {
using Few = Tile<4, 1, 16, 16, 256, 6>;
using Some = Tile<8, 1, 32, 64, 128, 3>;
using Many = Tile<4, 2, 32, 64, 128, 3>;
}  // namespace moray

#define MORAY_BLOCK_GEMMS(name, Weight, BLOCK_K, FINE)             \
    MORAY_GEMM(w4a8_gemm_##name##_16, Weight, Few, BLOCK_K, FINE)  \
    MORAY_GEMM(w4a8_gemm_##name##_64, Weight, Some, BLOCK_K, FINE) \
    MORAY_GEMM(w4a8_gemm_##name##_128, Weight, Many, BLOCK_K, FINE)
