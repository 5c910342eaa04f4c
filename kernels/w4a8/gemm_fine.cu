// W4A8 products of integer modes with a scale for each 128 of a token's K: see gemm.cuh.
#include "w4a8/gemm_blocks.cuh"

#define MORAY_GEMMS(name, Weight) MORAY_BLOCK_GEMMS(fine_##name, Weight, moray::ACT_BLOCK, true)

MORAY_INTEGER_WEIGHTS(MORAY_GEMMS)
