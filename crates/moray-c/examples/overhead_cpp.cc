// What a call of the smallest shape costs from C++, in ns: c++ -std=c++17 -O2 overhead_cpp.cc -I../include ../../../target/release/libmoray_c.a
// -lm -lpthread -ldl -lgcc_s
#include <moray.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>

// Prints the fastest of some rounds.
template <class Call>
static void measure(const char *operation, const char *name, Call call) {
    const int calls = 20000, rounds = 7;
    double fastest = 1e18;
    for (int round = 0; round < rounds; round++) {
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < calls; i++) moray::check(call());
        const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
        fastest = std::min(fastest, took.count() / calls);
    }
    std::printf("%s | %s | %.0f ns\n", operation, name, fastest);
}

int main() {
    const std::size_t n = 16, k = 32;
    std::vector<float> w(n * k, 1.0f), x(k, 1.0f), y(n);
    auto cpu = moray::make<MorayCpu>(moray_cpu_create, std::size_t{1}, MORAY_ARCH_NATIVE);
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_NONE};
    auto plain = moray::make<MorayQuantized>(moray_quantize, moray::bytes(w), MORAY_F32, n, k, &format);
    auto weight = moray::make<MorayWeight>(moray_weight_pack, plain.get());
    auto a = moray::make<MorayActivations>(moray_activations_create, std::size_t{1}, k, MORAY_ACT_SCALES_TOKEN);
    measure("quantize", "`moray_activations_quantize`, checked", [&] {
        return moray_activations_quantize(cpu.get(), a.get(), moray::bytes(x), MORAY_F32, 1, k, MorayBytes{});
    });
    measure("linear", "`moray_linear`, filled in and checked", [&] {
        MorayLinear call{};
        call.struct_size = sizeof call;
        call.weight = weight.get();
        call.x = a.get();
        call.y = moray::bytes_mut(y);
        return moray_linear(cpu.get(), &call);
    });
    auto held = moray::make<MorayInputWeight>(moray_input_weight_create, moray::bytes(w), MORAY_F32, n, k);
    auto work = moray::make<MorayInputWorkspace>(moray_input_workspace_create, held.get(), std::size_t{1});
    measure("by_input", "`moray_by_input`, filled in and checked", [&] {
        MorayByInput call{};
        call.struct_size = sizeof call;
        call.threshold = 0.5f;
        call.weight = held.get();
        call.workspace = work.get();
        call.x = moray::bytes(x);
        call.y = moray::bytes_mut(y);
        return moray_by_input(cpu.get(), &call);
    });
    return 0;
}
