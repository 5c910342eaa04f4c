// What the host passes to the kernels of sparse_mlp. `cargo xtask mirror` writes src/sparse_mlp/cuda/mirror.rs from it.
#pragma once

#include "common/kinds.cuh"
#include "w4a8/format.cuh"

namespace moray::sparse_mlp {

// gate or up, [d_ff, d_model] row-major: f16 or bf16, or codes of 4 bits (16 bytes for each 32: byte i holds value i low and
// value i + 16 high) with the scales of a row apart.
struct MatrixView {
    const void* rows;        // null: not computed
    const uint32_t* scales;  // 4 bits: [d_ff, scale_stride]: an f32; f16 scales; or (f16 scale, f16 offset or u16 zero point)
    const float* bias;       // f32 [d_ff] or null
    GroupScale group_scale;  // none: a scale of the row; or f16
    uint32_t segments_per_group;  // 32 codes each
    uint32_t scale_stride;   // dwords
    Offset offset;           // of a group
};
static_assert(sizeof(MatrixView) == 40);

// Which neurons: positions 0 .. count of a list, all of them without one; per token those in its mask.
struct Neurons {
    const uint32_t* list;   // strictly increasing; null: neuron = position
    const uint32_t* count;  // one number; null: d_ff
    const uint32_t* masks;  // bit per neuron [tokens, mask_words]; null: no masks
    uint32_t mask_words;    // u32 words of a token: an even number
    uint32_t limit;         // d_ff
};
static_assert(sizeof(Neurons) == 32);

// int8 activations: x = scale * code.
struct Codes {
    const int8_t* codes;  // [tokens, stride]
    const int32_t* sums;  // [tokens, stride / 32] of 32 codes each
    const float* scale;   // [tokens]
};
static_assert(sizeof(Codes) == 24);

// Activations of many tokens for the matrix units, see operand.cuh.
struct Operand {
    const uint4* tiles;    // [parts][token tiles][spans of k][lane32]
    const int32_t* sums;   // 4 bits: [k / 32 + 1, token_tiles * 8], running sums of a token's codes; null where not needed
    const float* scale;    // [tokens]
    uint32_t token_tiles;  // of 8 tokens
    uint32_t spans;        // of k that there is room for: 32 values of 16 bits, 64 of int8
};
static_assert(sizeof(Operand) == 32);

// What brings them into that form.
struct OperandParams {
    const float* x;         // [tokens, stride]
    const uint32_t* count;  // values of each token; null: n
    uint4* tiles;
    int32_t* sums;
    float* scale;
    uint32_t n;
    uint32_t stride;
    uint32_t token_tiles;
    uint32_t spans;
};
static_assert(sizeof(OperandParams) == 56);

struct GateUpParams {
    MatrixView gate;
    MatrixView up;
    Neurons neurons;
    const void* x;   // x_dtype [tokens, d_model], for 16-bit rows and for one token
    Codes x_int8;    // of several tokens, for 4-bit rows
    Operand operand;  // of x, for many tokens
    float* gate_values;  // f32 [tokens, stride]: act(gate x) by position, written where gate is computed, read where not (by neuron)
    float* hidden;       // f32 [tokens, stride] by position: act(gate x) * (up x), 0 where masked; written where up is computed
    uint32_t* maxima;    // [tokens, blocks]: the bits of the largest |hidden| of each block's positions; null: not wanted
    uint32_t* arrived;   // [n_arrived] of down, which it finds cleared; null: none. Not for many tokens
    uint32_t n_arrived;
    Element x_dtype;
    uint32_t tokens;
    uint32_t d_model;
    uint32_t stride;
    Activation activation;
};
static_assert(sizeof(GateUpParams) == 232);

// What is made of the sums of down.
struct Output {
    const float* bias;     // f32 [d_model] or null
    const void* residual;  // dtype [tokens, d_model] or null
    void* y;               // dtype [tokens, d_model]
    Element dtype;
    uint32_t reserved;
};
static_assert(sizeof(Output) == 32);

struct DownParams {
    const void* rows;        // [d_ff, d_model]: f16, bf16, or codes as in MatrixView with features instead of inputs
    const void* scales;      // 4 bits: f32 [d_model], or u16 [blocks of group_size neurons, 1 or 2, d_model]: f16 scales, then
                             // f16 offsets or u16 zero points
    Neurons neurons;         // masks unused: hidden is 0 there
    const float* hidden;     // f32 [tokens, stride] by position
    const uint32_t* maxima;  // [tokens, n_maxima], the largest of which are the bits of max|hidden| of a token: for 4-bit rows
    Operand operand;         // of hidden by position, for many tokens
    float* partial;          // f32 [splits, tokens, d_model]
    uint32_t* arrived;       // [blocks of columns and tokens]: how many of the splits are there, 0 before; not for many tokens
    Output output;           // not for many tokens
    uint32_t n_maxima;
    uint32_t tokens;
    uint32_t d_model;
    uint32_t stride;
    GroupScale group_scale;  // none: a scale of the column; or f16
    uint32_t group_size;     // neurons
    Offset offset;           // of a group
    uint32_t reserved;
};
static_assert(sizeof(DownParams) == 176);

struct WholeParams {
    GateUpParams gate_up;  // of one token, with gate and up
    DownParams down;       // of its neurons and hidden
    uint32_t* arrived;     // [2], zeros between launches
    uint32_t splits;       // of the list for down
    uint32_t reserved;
};
static_assert(sizeof(WholeParams) == 424);

struct CombineParams {
    const float* partial;    // f32 [splits, tokens, d_model]
    const float* act_scale;  // f32 [tokens] or null
    Output output;
    uint32_t n_splits;
    uint32_t tokens;
    uint32_t d_model;
    uint32_t reserved;
};
static_assert(sizeof(CombineParams) == 64);

struct MaskParams {
    const void* values;          // f32 [tokens, stride], or f64 [n]
    const float* channel_scale;  // f32 [n] or null
    uint32_t* masks;             // u32 [tokens, words]
    double threshold;            // where k is 0; exact for f32 scores
    double tokens_seen;          // of a statistic: score = sqrt(square / tokens_seen)
    uint32_t n;
    uint32_t stride;
    uint32_t words;
    uint32_t k;
};
static_assert(sizeof(MaskParams) == 56);

struct UnionParams {
    const uint32_t* masks;  // u32 [tokens, words]
    uint32_t* list;         // u32 [limit]
    uint32_t* count;        // u32 [1]
    uint32_t tokens;
    uint32_t words;
};
static_assert(sizeof(UnionParams) == 32);

struct KeepParams {
    Neurons neurons;
    const void* values;  // dtype [tokens, stride]
    float* out;          // f32 [tokens, stride] by position
    uint32_t* maxima;    // [tokens, blocks]: the bits of the largest |out| of each block's positions; null: not wanted
    uint32_t stride;
    Element dtype;
};
static_assert(sizeof(KeepParams) == 64);

struct QuantizeParams {
    const float* x;         // f32 [tokens, stride]
    int8_t* codes;          // [tokens, stride]
    int32_t* sums;          // [tokens, stride / 32] of 32 codes each
    float* scales;          // [tokens]
    uint32_t n;
    uint32_t stride;
};
static_assert(sizeof(QuantizeParams) == 40);

struct StatisticParams {
    const float* hidden;  // f32 [tokens, stride]
    double* norms;        // f64 [tokens]
    double* squares;      // f64 [n]
    uint32_t n;
    uint32_t stride;
    uint32_t tokens;
    uint32_t reserved;
};
static_assert(sizeof(StatisticParams) == 40);

}  // namespace moray::sparse_mlp
