// What becomes of the sums of a gate and an up row.
#pragma once

#include "common/activation.cuh"
#include "neurons.cuh"

namespace moray::sparse_mlp {

// The sums of one neuron and token are complete: nonlinearity, product, mask. Gives what it writes to `hidden`, 0 without.
__device__ __forceinline__ float write_back(const GateUpParams& p, uint32_t token, uint32_t position, uint32_t neuron, float gate,
                                            float up) {
    const size_t row = static_cast<size_t>(token) * p.stride;
    float activated;
    if (p.gate.rows != nullptr) {
        gate = p.gate.bias == nullptr ? gate : gate + p.gate.bias[neuron];
        activated = activate(p.activation, gate);
        if (p.gate_values != nullptr) {
            p.gate_values[row + position] = activated;
        }
    } else {
        activated = p.gate_values[row + neuron];
    }
    float hidden = 0.0f;
    if (p.up.rows != nullptr) {
        up = p.up.bias == nullptr ? up : up + p.up.bias[neuron];
        hidden = keeps(p.neurons, token, neuron) ? activated * up : 0.0f;
        p.hidden[row + position] = hidden;
    }
    return hidden;
}

}  // namespace moray::sparse_mlp
