// Gate and up rows of the selected neurons times the activations, and their product.
//
//   gate_values[t, i] = act(gate[j, :] . x[t, :] + gate_bias[j]),  j = list[i]
//   hidden[t, i]      = gate_values[t, i] * (up[j, :] . x[t, :] + up_bias[j]),  0 where token t's mask leaves j out
//
// | argument    | dtype               | shape             | layout                                                       |
// |-------------|---------------------|-------------------|--------------------------------------------------------------|
// | gate, up    | f16, bf16 or 4 bits | [d_ff, d_model]   | row-major, see MatrixView; either may be null                |
// | list, count | u32                 | [d_ff], [1]       | read on the device; null: all neurons                        |
// | masks       | u32                 | [tokens, words]   | bit per neuron; null: none                                   |
// | x           | f32, f16 or bf16    | [tokens, d_model] | for 16-bit rows, and for 4-bit rows where there is one token |
// | x_int8      | int8, i32, f32      | [tokens, d_model] | codes, sums of 32, scale per token: 4-bit rows, more tokens  |
// | gate_values | f32                 | [tokens, stride]  | by position; read by neuron where gate is null               |
// | hidden      | f32                 | [tokens, stride]  | by position; positions past the count are left as they are   |
// | maxima      | u32                 | [tokens, blocks]  | bits of a block's largest |hidden|, for 4-bit rows; or null  |
// | arrived     | u32                 | [n_arrived]       | cleared: what down counts in                                 |
//
// Requires d_model % 8 == 0 (4 bits: % 32), rows aligned to 16 bytes, list strictly increasing.
// Grid (blocks, ceil(tokens / T)): one block a multiprocessor, which takes positions by turns; Block 512: a warp one neuron; where
// T is 8, 256: a warp two; Smem static: x of T tokens, a piece of d_model at a time, whole up to 8192 for one token.
//
// A lane takes 16 bytes of a row, a warp 512 neighbouring ones, so a gathered row is read in whole sectors and once for T
// tokens. Eight such loads of a lane are on their way together: 64 KiB a multiprocessor, where a busy memory of 4.3 TB/s needs 33;
// memory is what binds. The next neuron's number is there before it is needed. 16-bit rows: f32 sums per lane in the order of k.
// 4-bit rows: integer sums of 32 products, f32 across. Lanes are added by the fixed tree of warp_sum: a result depends on nothing
// but its row and its token. x of one token is quantized for 4-bit rows by every block, which takes less time than a launch before
// this one.
// Source: neuron-major gathers as in Deja Vu (ICML 2023) and CATS (arXiv 2404.08763). Wrapper: src/sparse_mlp/cuda.
#include "gather.cuh"

using namespace moray::sparse_mlp;

#define MORAY_GATE_UP(name, Rows, T)                                                                                         \
    extern "C" __global__ void __launch_bounds__(32 * WARPS<T>, 1) sparse_mlp_gate_up_##name(const __grid_constant__ GateUpParams p) { \
        __shared__ Inputs<Rows, T> inputs;                                                                                   \
        gate_up<Rows, T>(p, inputs);                                                                                         \
    }

MORAY_GATE_UP(f16_1, F16Rows, 1)
MORAY_GATE_UP(f16_8, F16Rows, 8)
MORAY_GATE_UP(bf16_1, Bf16Rows, 1)
MORAY_GATE_UP(bf16_8, Bf16Rows, 8)
MORAY_GATE_UP(int4_1, FourBitRows, 1)
MORAY_GATE_UP(int4_8, FourBitRows, 8)
