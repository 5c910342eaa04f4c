// How codes become numbers: `Format` of src/w4a8/format.rs in the words that kernels are given.
#pragma once

#include <cstdint>

namespace moray {

// The scale of a group, and so where it acts.
enum class GroupScale : uint32_t {
    none = 0,     // no groups: an f32 for each channel
    f16 = 1,      // and none for the channel
    integer = 2,  // 1..16 in u8, over the channel's f32
    qqq = 3,      // f16 that takes the code to an int8, over the channel's f32
};

// How a group's codes are moved besides its scale.
enum class Offset : uint32_t {
    none = 0,        // w = scale · (code − 8), 8 bits: scale · code
    f16 = 1,         // w = scale · code + offset
    zero_point = 2,  // w = scale · (code − zero_point)
};

}  // namespace moray
