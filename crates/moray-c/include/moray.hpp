/* Owners of moray's handles for C++17, and refusals as exceptions; the calls are those of moray.h.
   SPDX-License-Identifier: MIT OR Apache-2.0 */
#ifndef MORAY_HPP
#define MORAY_HPP

#include "moray.h"

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

namespace moray {

/* A call that was refused, with the sentence that says why. */
struct Error : std::runtime_error {
    explicit Error(MorayStatus code) : std::runtime_error(moray_last_error()), status(code) {}
    MorayStatus status;
};

/* Throws unless a call did what it is for. */
inline void check(MorayStatus status) {
    if (status != MORAY_STATUS_OK) throw Error(status);
}

/* Ends a handle of each kind. */
struct Destroy {
    void operator()(MorayCpu *handle) const { moray_cpu_destroy(handle); }
    void operator()(MorayQuantized *handle) const { moray_quantized_destroy(handle); }
    void operator()(MorayWeight *handle) const { moray_weight_destroy(handle); }
    void operator()(MorayActivations *handle) const { moray_activations_destroy(handle); }
    void operator()(MorayMlp *handle) const { moray_mlp_destroy(handle); }
    void operator()(MorayMlpWorkspace *handle) const { moray_mlp_workspace_destroy(handle); }
    void operator()(MorayInputWeight *handle) const { moray_input_weight_destroy(handle); }
    void operator()(MorayInputWorkspace *handle) const { moray_input_workspace_destroy(handle); }
    void operator()(MorayKvCache *handle) const { moray_kv_cache_destroy(handle); }
    void operator()(MorayAttention *handle) const { moray_attention_destroy(handle); }
    void operator()(MorayCuda *handle) const { moray_cuda_destroy(handle); }
};

/* A handle that ends with its owner. */
template <class T>
using Handle = std::unique_ptr<T, Destroy>;

/* Makes a handle: make<MorayCpu>(moray_cpu_create, 4, MORAY_ARCH_NATIVE). */
template <class T, class Create, class... Arguments>
Handle<T> make(Create create, Arguments &&...arguments) {
    T *handle = nullptr;
    check(create(std::forward<Arguments>(arguments)..., &handle));
    return Handle<T>(handle);
}

/* The memory of a vector. */
template <class T>
MorayBytes bytes(const std::vector<T> &values) {
    return {values.data(), values.size() * sizeof(T)};
}

template <class T>
MorayBytesMut bytes_mut(std::vector<T> &values) {
    return {values.data(), values.size() * sizeof(T)};
}

}  // namespace moray

#endif
