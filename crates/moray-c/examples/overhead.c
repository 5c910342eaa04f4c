/* What a call of the smallest shape costs from C, in ns: cc -O2 overhead.c -I../include ../../../target/release/libmoray_c.a -lm -lpthread -ldl -lgcc_s */
#define _POSIX_C_SOURCE 199309L
#include <moray.h>
#include <stdio.h>
#include <time.h>

enum { CALLS = 20000, ROUNDS = 7, N = 16, K = 32, DIM = 8 };

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

#define BYTES(array) ((MorayBytes){(array), sizeof(array)})
#define BYTES_MUT(array) ((MorayBytesMut){(array), sizeof(array)})
#define TRY(call) if ((call) != MORAY_STATUS_OK) { fprintf(stderr, "%s\n", moray_last_error()); return 1; }
/* The fastest of some rounds. */
#define MEASURE(operation, name, call)                                          \
    do {                                                                        \
        double fastest = 1e18;                                                  \
        for (int round = 0; round < ROUNDS; round++) {                          \
            double start = now_ns();                                            \
            for (int i = 0; i < CALLS; i++) (void)(call);                       \
            double took = (now_ns() - start) / CALLS;                           \
            fastest = took < fastest ? took : fastest;                          \
        }                                                                       \
        printf("%s | %s | %.0f ns\n", operation, name, fastest);                \
    } while (0)

int main(void) {
    static float w[N * K], x[K], y[N], hidden[K], out[DIM];
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_NONE};
    const MorayBytes none = {0};
    MorayCpu *cpu;
    MorayQuantized *plain;
    MorayWeight *weight;
    MorayActivations *a;
    MoraySectionBytes size;
    for (int i = 0; i < K; i++) x[i] = 1;
    TRY(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    TRY(moray_quantize(BYTES(w), MORAY_F32, N, K, &format, &plain));
    TRY(moray_weight_pack(plain, &weight));
    TRY(moray_activations_create(1, K, MORAY_ACT_SCALES_TOKEN, &a));
    TRY(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, 1, K, none));
    const MorayLinear linear = {sizeof linear, MORAY_F32, weight, a, none, none, BYTES_MUT(y), 0, 0};
    TRY(moray_linear(cpu, &linear));
    MEASURE("query", "`moray_section_bytes`", moray_section_bytes(&format, N, K, &size));
    MEASURE("refusal", "`moray_linear` of nothing", moray_linear(cpu, NULL));
    MEASURE("quantize", "`moray_activations_quantize`", moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, 1, K, none));
    MEASURE("linear", "`moray_linear`", moray_linear(cpu, &linear));

    MorayInputWeight *held;
    MorayInputWorkspace *work;
    TRY(moray_input_weight_create(BYTES(w), MORAY_F32, N, K, &held));
    TRY(moray_input_workspace_create(held, 1, &work));
    const MorayByInput by_input = {sizeof by_input, 0.5f, held, work, BYTES(x), none, none, BYTES_MUT(y), 0, 0};
    TRY(moray_by_input(cpu, &by_input));
    MEASURE("by_input", "`moray_by_input`", moray_by_input(cpu, &by_input));

    const MorayMlpShape mlp_shape = {K, N, MORAY_ACTIVATION_SILU};
    MorayMlp *mlp;
    MorayMlpWorkspace *mlp_work;
    TRY(moray_mlp_create(&mlp_shape, MORAY_F32, BYTES(w), BYTES(w), BYTES(w), NULL, &mlp));
    TRY(moray_mlp_workspace_create(mlp, 1, &mlp_work));
    const MorayMlpForward forward = {sizeof forward, mlp, mlp_work, NULL, BYTES(x), none, BYTES_MUT(hidden)};
    TRY(moray_mlp_forward(cpu, &forward));
    MEASURE("sparse_mlp", "`moray_mlp_forward`", moray_mlp_forward(cpu, &forward));

    const MorayKvShape kv_shape = {1, 1, 1, DIM, 64};
    const MorayAttentionShape shape = {1, 1, DIM, 1, 1, 64};
    const MoraySpan span = {0, 0, 1};
    const MorayBytes row = {x, sizeof out};
    MorayKvCache *cache;
    MorayAttention *attention;
    TRY(moray_kv_cache_create(&kv_shape, MORAY_F16, &cache));
    TRY(moray_attention_create(cpu, &shape, &attention));
    const MorayAttend attend = {sizeof attend, MORAY_HEADS_ALL, attention, cache, 0, &span, 1, none, none, 0, 0, 0, 0, NULL};
    TRY(moray_write_kv(cpu, &attend, MORAY_KV_WRITE_ALL, row, row));
    TRY(moray_attend(cpu, &attend, row, BYTES_MUT(out)));
    MEASURE("write_kv", "`moray_write_kv`", moray_write_kv(cpu, &attend, MORAY_KV_WRITE_ALL, row, row));
    MEASURE("attend", "`moray_attend`", moray_attend(cpu, &attend, row, BYTES_MUT(out)));
    moray_attention_destroy(attention);
    moray_kv_cache_destroy(cache);
    moray_mlp_workspace_destroy(mlp_work);
    moray_mlp_destroy(mlp);
    moray_input_workspace_destroy(work);
    moray_input_weight_destroy(held);
    moray_activations_destroy(a);
    moray_weight_destroy(weight);
    moray_quantized_destroy(plain);
    moray_cpu_destroy(cpu);
    return 0;
}
