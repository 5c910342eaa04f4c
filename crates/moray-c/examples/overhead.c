/* What a call costs beside its work, in ns: cc -O2 overhead.c -I../include ../../../target/release/libmoray_c.a -lm -lpthread -ldl -lgcc_s */
#define _POSIX_C_SOURCE 199309L
#include <moray.h>
#include <stdio.h>
#include <time.h>

enum { CALLS = 200000, N = 16, K = 32 };

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

#define TRY(call) if ((call) != MORAY_STATUS_OK) { fprintf(stderr, "%s\n", moray_last_error()); return 1; }
#define MEASURE(name, call)                                       \
    do {                                                          \
        double start = now_ns();                                  \
        for (int i = 0; i < CALLS; i++) (void)(call);             \
        printf("%-44s %7.0f ns\n", name, (now_ns() - start) / CALLS); \
    } while (0)

int main(void) {
    static float w[N * K], x[K], y[N];
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_NONE};
    MorayCpu *cpu;
    MorayQuantized *plain;
    MorayWeight *weight;
    MorayActivations *a;
    MoraySectionBytes size;
    const MorayBytes none = {0};
    TRY(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    TRY(moray_quantize((MorayBytes){w, sizeof w}, MORAY_F32, N, K, &format, &plain));
    TRY(moray_weight_pack(plain, &weight));
    TRY(moray_activations_create(1, K, MORAY_ACT_SCALES_TOKEN, &a));
    TRY(moray_activations_quantize(cpu, a, (MorayBytes){x, sizeof x}, MORAY_F32, 1, K, none));
    MorayLinear call = {sizeof call, MORAY_F32, weight, a, none, none, {y, sizeof y}, 0, 0};
    TRY(moray_linear(cpu, &call));
    MEASURE("a query: moray_section_bytes", moray_section_bytes(&format, N, K, &size));
    MEASURE("a refusal: moray_linear of nothing", moray_linear(cpu, NULL));
    MEASURE("32 features: moray_activations_quantize", moray_activations_quantize(cpu, a, (MorayBytes){x, sizeof x}, MORAY_F32, 1, K, none));
    MEASURE("one token, 16 x 32: moray_linear", moray_linear(cpu, &call));
    moray_activations_destroy(a);
    moray_weight_destroy(weight);
    moray_quantized_destroy(plain);
    moray_cpu_destroy(cpu);
    return 0;
}
