// Which neuron a position of a call is.
#pragma once

#include "params.cuh"

namespace moray::sparse_mlp {

// Positions in use.
__device__ __forceinline__ uint32_t count_of(const Neurons& neurons) {
    return neurons.count == nullptr ? neurons.limit : min(*neurons.count, neurons.limit);
}

// The neuron of a position; a bad list cannot lead outside the weights.
__device__ __forceinline__ uint32_t neuron_of(const Neurons& neurons, uint32_t position) {
    return neurons.list == nullptr ? position : min(neurons.list[position], neurons.limit - 1);
}

__device__ __forceinline__ bool keeps(const Neurons& neurons, uint32_t token, uint32_t neuron) {
    return neurons.masks == nullptr ||
           (neurons.masks[static_cast<size_t>(token) * neurons.mask_words + neuron / 32] >> (neuron % 32) & 1);
}

}  // namespace moray::sparse_mlp
