// What the host passes to the kernels of llama. `cargo xtask mirror` writes src/llama/cuda/mirror.rs from it.
#pragma once

#include "common/kinds.cuh"

namespace moray {

struct ActivateParams {
    const float* gate_up;
    float* hidden;
    uint32_t features;
    uint32_t activation;
};
static_assert(sizeof(ActivateParams) == 24);

struct DenseParams {
    const void* w;
    const float* x;
    const float* bias;
    const float* residual;
    float* y;
    uint32_t m;
    uint32_t n;
    uint32_t k;
    uint32_t reserved;
};
static_assert(sizeof(DenseParams) == 56);

struct EmbedParams {
    const uint32_t* tokens;
    const void* table;
    float* x;
    uint32_t k;
    uint32_t reserved;
};
static_assert(sizeof(EmbedParams) == 32);

struct NormParams {
    const float* x;
    const float* weight;
    const uint32_t* rows;
    float* y;
    uint32_t k;
    float eps;
    uint32_t x_stride;  // elements
    uint32_t y_stride;  // elements
};
static_assert(sizeof(NormParams) == 48);

struct MoveParams {
    const void* x;
    void* y;
    const uint32_t* from;
    const uint32_t* to;
    uint32_t k;
    Element x_type;
    Element y_type;
    uint32_t reserved;
};
static_assert(sizeof(MoveParams) == 48);

struct ArgmaxParams {
    const float* logits;
    uint32_t* token;
    uint64_t* rooms;
    uint32_t vocab;
    uint32_t reserved;
};
static_assert(sizeof(ArgmaxParams) == 32);

struct Sampler {
    uint64_t state;
    uint64_t top_p;      // in units of 2^-64; 0: keeps all
    float temperature;   // 0: the largest logit
    float min_p;
};
static_assert(sizeof(Sampler) == 24);

struct SampleParams {
    const float* logits;
    float* probability;
    Sampler* samplers;
    uint32_t* token;
    uint64_t* rooms;
    uint32_t vocab;
    uint32_t reserved;
};
static_assert(sizeof(SampleParams) == 48);

}  // namespace moray
