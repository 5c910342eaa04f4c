// How a kernel states its dynamic shared memory: as the value of a variable, which `cargo xtask mirror` reads.
#pragma once

#include <cstdint>

#define MORAY_SHARED(kernel, bytes) \
    extern "C" {                    \
    __device__ uint32_t kernel##_shared_bytes = bytes; \
    }
