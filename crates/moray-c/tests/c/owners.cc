// The header and its owners from C++: a product in bf16, and a refusal as an exception.
#include <moray.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>

static float widen(uint16_t bits) {
    uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

int main() {
    const std::size_t m = 2, n = 32, k = 64;
    std::vector<float> w(n * k, 0.25f), x(m * k, 1.0f);
    std::vector<uint16_t> y(m * n);
    moray::check(moray_init(MORAY_ABI_VERSION));
    auto cpu = moray::make<MorayCpu>(moray_cpu_create, std::size_t{1}, MORAY_ARCH_PORTABLE);
    const MorayFormat format = {8, 0, 0, MORAY_OFFSET_NONE};
    auto plain = moray::make<MorayQuantized>(moray_quantize, moray::bytes(w), MORAY_F32, n, k, &format);
    auto weight = moray::make<MorayWeight>(moray_weight_pack, plain.get());
    auto a = moray::make<MorayActivations>(moray_activations_create, m, k, MORAY_ACT_SCALES_TOKEN);
    moray::check(moray_activations_quantize(cpu.get(), a.get(), moray::bytes(x), MORAY_F32, m, k, MorayBytes{}));
    MorayLinear call{};
    call.struct_size = sizeof call;
    call.dtype = MORAY_BF16;
    call.weight = weight.get();
    call.x = a.get();
    call.y = moray::bytes_mut(y);
    moray::check(moray_linear(cpu.get(), &call));
    // 64 * 0.25, which both types hold, and 8 bits of bf16
    for (uint16_t value : y)
        if (std::fabs(widen(value) - 16.0f) > 16.0f / 256) return 1;
    try {
        call.y.bytes = 2;
        moray::check(moray_linear(cpu.get(), &call));
        return 2;
    } catch (const moray::Error &error) {
        if (error.status != MORAY_STATUS_LENGTH || !std::strstr(error.what(), "y: expected 64 elements, got 1")) return 3;
    }
    std::puts("owners: ok");
}
