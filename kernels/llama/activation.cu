// hidden[m,i] = act(gate_up[m,i]) · gate_up[m,F+i]: the gate and up rows of an MLP that is computed whole.
//
// | argument | type | shape   | layout    |
// |----------|------|---------|-----------|
// | gate_up  | f32  | [M, 2F] | row-major |
// | hidden   | f32  | [M, F]  | row-major |
//
// Grid: (⌈F/256⌉, M). Block: 256 threads. The CPU's bits. Source: SwiGLU (arXiv 2002.05202).
// Wrapper: src/llama/cuda/raw/activate.rs.

#include "common/activation.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) llama_activate(const moray::ActivateParams p) {
    using namespace moray;
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.features) return;
    const float* row = p.gate_up + size_t(blockIdx.y) * 2 * p.features;
    p.hidden[size_t(blockIdx.y) * p.features + i] = __fmul_rn(activate(Activation(p.activation), row[i]), row[p.features + i]);
}
