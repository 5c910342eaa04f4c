// What the host names by a number.
#pragma once

#include <cstdint>

namespace moray {

// The element type of a buffer that a kernel takes in any of three, as `ElementKind` in src/device/element.rs.
enum class Element : uint32_t { f32 = 0, f16 = 1, bf16 = 2 };

// The gate's nonlinearity.
enum class Activation : uint32_t { silu = 0, relu = 1 };

}  // namespace moray
