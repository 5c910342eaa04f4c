// W4A8 products whose sums are integers to the end: see gemm.cuh.
//
// | kernel | tile      | warps            | a stage of K = 128 in 4 bits, 64 in 8 | under way         | registers hold |
// |--------|-----------|------------------|---------------------------------------|-------------------|----------------|
// | _16    | 256 × 16  | 8 of 32 × 16     | 18 KiB                                | 4 stages, 72 KiB  | 16 sums        |
// | _64    | 256 × 64  | 4 × 2 of 64 × 32 | 24 KiB                                | 3 stages, 72 KiB  | 64 sums        |
// | _128   | 256 × 128 | 4 × 2 of 64 × 64 | 32 KiB                                | 2 stages, 64 KiB  | 128 sums       |
//
// One block a multiprocessor. Up to 64 tokens memory binds, from 128 on the matrix units: a stage of 256 × 128 is 128 products for
// each byte from the second-level cache, and 768 passes over shared memory where `mma.sync` needs 2048 cycles on 8.0.
#include "w4a8/gemm.cuh"

namespace moray {
using Few = Tile<8, 1, 32, 16, 128, 5>;
using Some = Tile<4, 2, 64, 32, 128, 4>;
using Many = Tile<4, 2, 64, 64, 128, 4>;
}  // namespace moray

#define MORAY_GEMMS(name, Weight)                             \
    MORAY_GEMM(w4a8_gemm_##name##_16, Weight, Few, 0, false)  \
    MORAY_GEMM(w4a8_gemm_##name##_64, Weight, Some, 0, false) \
    MORAY_GEMM(w4a8_gemm_##name##_128, Weight, Many, 0, false)

MORAY_INTEGER_WEIGHTS(MORAY_GEMMS)
