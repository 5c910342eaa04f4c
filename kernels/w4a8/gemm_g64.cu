// W4A8 products in groups of 64 with scales in f16: see gemm.cuh.
#include "w4a8/gemm_blocks.cuh"

#define MORAY_GEMMS(name, Weight)                          \
    MORAY_BLOCK_GEMMS(name##_g64, Weight, 64, false) \
    MORAY_BLOCK_GEMMS(fine_##name##_g64, Weight, 64, true)

MORAY_GROUP_WEIGHTS(MORAY_GEMMS)
