/* Products by input from C: floats and 4 bits against a plain loop and the dense product, and bad input. */
#include "check.h"
#include <math.h>

enum { M = 3, N = 40, K = 96 };

static float w[N * K], x[M * K], bias[N], residual[M * N];
static MorayCpu *cpu;

static float wide(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Calls of ranges write what the whole call writes, and nothing beside. */
static void check_ranges(MorayByInput call, const float *whole) {
    static const size_t CUTS[] = {0, 16, 21, 32, N};
    float y[M * N], before[M * N];
    for (size_t i = 0; i < M * N; i++) before[i] = y[i] = 1e6f + (float)i;
    call.y = BYTES_MUT(y);
    for (size_t i = 4; i-- > 0;) {
        call.row_begin = CUTS[i], call.row_end = CUTS[i + 1];
        OK(moray_by_input(cpu, &call));
        for (size_t at = 0; at < M * N; at++) CHECK(y[at] == (at % N < CUTS[i] ? before : whole)[at]);
    }
    CHECK(memcmp(y, whole, sizeof y) == 0);
}

/* y by the definition; the kept inputs are those that any token keeps. */
static void check_floats(MorayDtype dtype, MorayBytes weights, float threshold) {
    float y[M * N];
    MorayInputWeight *weight;
    MorayInputWorkspace *workspace;
    OK(moray_input_weight_create(weights, dtype, N, K, &weight));
    OK(moray_input_workspace_create(weight, M, &workspace));
    MorayByInput call = {sizeof call, threshold, weight, workspace, BYTES(x), BYTES(bias), BYTES(residual), BYTES_MUT(y), 0, 0};
    OK(moray_by_input(cpu, &call));
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double sum = bias[n] + residual[m * N + n], size = 1;
            for (size_t k = 0; k < K; k++)
                if (fabsf(x[m * K + k]) > threshold) sum += (double)x[m * K + k] * w[n * K + k], size += fabs(x[m * K + k] * w[n * K + k]);
            CHECK(fabs(sum - y[m * N + n]) < (K + 4) * 6e-8 * size);
        }
    MorayBytes kept;
    OK(moray_by_input_kept(workspace, &kept));
    size_t count = 0;
    for (uint32_t k = 0; k < K; k++) {
        int any = 0;
        for (size_t m = 0; m < M; m++) any |= fabsf(x[m * K + k]) > threshold;
        if (any) CHECK(count < kept.bytes / 4 && ((const uint32_t *)kept.data)[count++] == k);
    }
    CHECK(kept.bytes == 4 * count);
    check_ranges(call, y);
    /* a token alone has the same bits, with a workspace of more */
    float alone[N];
    call.x = (MorayBytes){x + K, K * sizeof *x}, call.residual = (MorayBytes){residual + N, N * sizeof *residual}, call.y = BYTES_MUT(alone);
    OK(moray_by_input(cpu, &call));
    CHECK(memcmp(alone, y + N, sizeof alone) == 0);
    moray_input_workspace_destroy(workspace);
    moray_input_weight_destroy(weight);
}

/* In 4 bits a threshold of 0 is the dense product bit for bit, and a larger one that of inputs set to 0 in codes. */
static void check_four_bits(void) {
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    float y[M * N], dense[M * N];
    MorayQuantized *plain;
    MorayInputWeight *weight;
    MorayInputWorkspace *workspace;
    MorayWeight *packed;
    MorayActivations *a;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, &format, &plain));
    OK(moray_input_weight_create_quantized(plain, &weight));
    OK(moray_weight_pack(plain, &packed));
    moray_quantized_destroy(plain);
    OK(moray_input_workspace_create(weight, 1, &workspace)); /* grows */
    OK(moray_activations_create(M, K, MORAY_ACT_SCALES_TOKEN, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, K, NONE));
    MorayLinear linear = {sizeof linear, MORAY_F32, packed, a, BYTES(bias), BYTES(residual), BYTES_MUT(dense), 0, 0};
    OK(moray_linear(cpu, &linear));
    MorayByInput call = {sizeof call, 0, weight, workspace, BYTES(x), BYTES(bias), BYTES(residual), BYTES_MUT(y), 0, 0};
    OK(moray_by_input(cpu, &call));
    CHECK(memcmp(y, dense, sizeof y) == 0);
    call.threshold = 0.5f;
    OK(moray_by_input(cpu, &call));
    CHECK(memcmp(y, dense, sizeof y) != 0);
    check_ranges(call, y);
    moray_activations_destroy(a);
    moray_weight_destroy(packed);
    moray_input_workspace_destroy(workspace);
    moray_input_weight_destroy(weight);
}

static void check_bad_input(void) {
    float y[M * N];
    MorayInputWeight *weight = NULL;
    MorayInputWorkspace *workspace = NULL;
    REFUSED(MORAY_STATUS_LENGTH, "w: expected 3880 elements, got 3840", moray_input_weight_create(BYTES(w), MORAY_F32, N, K + 1, &weight));
    REFUSED(MORAY_STATUS_LENGTH, "w: expected", moray_input_weight_create(BYTES(w), MORAY_F32, (size_t)1 << 60, 64, &weight));
    UNCOUNTED("w: expected", moray_input_weight_create((MorayBytes){w, 32 * N * sizeof *w}, MORAY_F32, WRAPS(N, 32), 32, &weight));
    UNCOUNTED("w: expected", moray_input_weight_create((MorayBytes){w, 32 * N * sizeof *w}, MORAY_F32, WRAPS(N, 32 * 4), 32, &weight));
    REFUSED(MORAY_STATUS_SHAPE, "n: expected", moray_input_weight_create(NONE, MORAY_F32, 0, K, &weight));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "dtype: expected", moray_input_weight_create(BYTES(w), 9, N, K, &weight));
    REFUSED(MORAY_STATUS_NULL, "weight", moray_input_weight_create_quantized(NULL, &weight));
    const float kept = w[5];
    w[5] = INFINITY;
    REFUSED(MORAY_STATUS_VALUE, "finite", moray_input_weight_create(BYTES(w), MORAY_F32, N, K, &weight));
    w[5] = kept;
    const MorayFormat eight = {8, 0, 0, 0};
    MorayQuantized *plain;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, &eight, &plain));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "4-bit", moray_input_weight_create_quantized(plain, &weight));
    moray_quantized_destroy(plain);
    CHECK(weight == NULL);
    OK(moray_input_weight_create(BYTES(w), MORAY_F32, N, K, &weight));
    REFUSED(MORAY_STATUS_SHAPE, "max_tokens: expected at least 1, got 0", moray_input_workspace_create(weight, 0, &workspace));
    REFUSED(MORAY_STATUS_OUT_OF_MEMORY, "workspace", moray_input_workspace_create(weight, (size_t)1 << 60, &workspace));
    OK(moray_input_workspace_create(weight, M, &workspace));
    const MorayByInput good = {sizeof good, 0.25f, weight, workspace, BYTES(x), NONE, NONE, BYTES_MUT(y), 0, 0};
    MorayByInput call = good;
    call.threshold = NAN;
    REFUSED(MORAY_STATUS_VALUE, "threshold: expected", moray_by_input(cpu, &call));
    call = good, call.threshold = -1;
    REFUSED(MORAY_STATUS_VALUE, "threshold: expected", moray_by_input(cpu, &call));
    call = good, call.x.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "x: expected", moray_by_input(cpu, &call));
    call = good, call.y.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "y: expected 120 elements, got 119", moray_by_input(cpu, &call));
    call = good, call.bias = BYTES(x);
    REFUSED(MORAY_STATUS_LENGTH, "bias: expected", moray_by_input(cpu, &call));
    call = good, call.bias = (MorayBytes){NULL, sizeof bias};
    REFUSED(MORAY_STATUS_NULL, "bias: expected", moray_by_input(cpu, &call));
    call = good, call.workspace = NULL;
    REFUSED(MORAY_STATUS_NULL, "workspace: expected", moray_by_input(cpu, &call));
    call = good, call.residual = (MorayBytes){y, sizeof y};
    REFUSED(MORAY_STATUS_OVERLAP, "y", moray_by_input(cpu, &call));
    call = good, call.weight = NULL;
    REFUSED(MORAY_STATUS_NULL, "weight", moray_by_input(cpu, &call));
    call = good, call.row_begin = 8, call.row_end = N + 1;
    REFUSED(MORAY_STATUS_INDEX, "rows: expected an index below 41, got 41", moray_by_input(cpu, &call));
    call = good, call.row_begin = 9, call.row_end = 8;
    REFUSED(MORAY_STATUS_NOT_INCREASING, "rows: expected", moray_by_input(cpu, &call));
    call = good, call.struct_size = 4;
    REFUSED(MORAY_STATUS_VERSION, "struct_size", moray_by_input(cpu, &call));
    OK(moray_by_input(cpu, &good));
    moray_input_workspace_destroy(workspace);
    moray_input_weight_destroy(weight);
    moray_input_workspace_destroy(NULL);
    moray_input_weight_destroy(NULL);
}

int main(void) {
    static uint16_t halves[N * K];
    OK(moray_cpu_create(2, MORAY_ARCH_NATIVE, &cpu));
    for (size_t i = 0; i < N * K; i++) w[i] = wide(halves[i] = (uint16_t)(0x3e00 + (i * 2654435761u >> 7) % 0x200 + (i % 3 ? 0x8000 : 0)));
    for (size_t i = 0; i < M * K; i++) x[i] = (float)((i * 7919 + i / 5) % 200) / 100 - 1;
    for (size_t i = 0; i < N; i++) bias[i] = (float)i / 16;
    for (size_t i = 0; i < M * N; i++) residual[i] = (float)(i % 11);
    const float thresholds[] = {0, 0.3f, 0.9f, 10};
    for (int i = 0; i < 4; i++) {
        check_floats(MORAY_F32, BYTES(w), thresholds[i]);
        check_floats(MORAY_BF16, BYTES(halves), thresholds[i]);
    }
    check_four_bits();
    check_bad_input();
    moray_cpu_destroy(cpu);
    puts("products by input: ok");
    return 0;
}
