// y[to[i]] = x[from[i]]: rows of k elements, from one floating-point type to another.
//
// | argument | type           | shape     | layout    |
// |----------|----------------|-----------|-----------|
// | x        | f32, f16, bf16 | [*, k]    | row-major |
// | y        | f32, f16, bf16 | [*, k]    | row-major |
// | from, to | u32            | [R]       | rows      |
//
// Grid: (ceil(k / 256), R). Block: 256 threads. Rows of `to` differ. Wrapper: src/llama/cuda/raw/move_rows.rs.

#include "common/memory.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) llama_move_rows(const __grid_constant__ moray::MoveParams p) {
    using namespace moray;
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i >= p.k) return;
    const float v = load_element(p.x, size_t(p.from[blockIdx.y]) * p.k + i, p.x_type);
    store_element(p.y, size_t(p.to[blockIdx.y]) * p.k + i, p.y_type, v);
}
