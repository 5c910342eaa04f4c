// W4A8 products in groups of 32 with scales in f16: see gemm.cuh.
#include "w4a8/gemm_blocks.cuh"

#define MORAY_GEMMS(name, Weight)                          \
    MORAY_BLOCK_GEMMS(name##_g32, Weight, 32, false) \
    MORAY_BLOCK_GEMMS(fine_##name##_g32, Weight, 32, true)

MORAY_GROUP_WEIGHTS(MORAY_GEMMS)
