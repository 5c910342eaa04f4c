/* Weights out of checkpoints from C: codes placed by the layouts' own formulas come back as numbers. */
#include "check.h"
#include <math.h>

enum { N = 16, K = 64, GROUP = 32, GROUPS = K / GROUP };

static uint32_t code_at(size_t n, size_t k) { return (uint32_t)(n * 7 + k * 3 + n * k) % 16; }
static uint32_t zero_at(size_t n, size_t g) { return (uint32_t)(n * 5 + g * 11) % 16; }
static float scale_at(size_t n, size_t g) { return (n + g) % 3 ? 0.25f : -0.5f; }

static const size_t AWQ_ORDER[] = {0, 2, 4, 6, 1, 3, 5, 7};

static uint32_t codes[N * K / 8], zeros[N * GROUPS / 8];
static float scales[N * GROUPS];

static void put(uint32_t *words, size_t word, size_t place, uint32_t code) { words[word] |= (code & 15) << (4 * place); }

/* Fills the arrays as a layout has them; `shuffle` puts input k into group k % GROUPS. */
static void fill(MorayExporter layout) {
    memset(codes, 0, sizeof codes), memset(zeros, 0, sizeof zeros);
    for (size_t n = 0; n < N; n++) {
        size_t awq = 0;
        while (AWQ_ORDER[awq] != n % 8) awq++;
        for (size_t k = 0; k < K; k++) switch (layout) {
                case MORAY_LAYOUT_AWQ: put(codes, k * (N / 8) + n / 8, awq, code_at(n, k)); break;
                case MORAY_LAYOUT_COMPRESSED_TENSORS: put(codes, n * (K / 8) + k / 8, k % 8, code_at(n, k)); break;
                default: put(codes, k / 8 * N + n, k % 8, code_at(n, k));
            }
        for (size_t g = 0; g < GROUPS; g++) {
            int by_n = layout == MORAY_LAYOUT_COMPRESSED_TENSORS;
            scales[by_n ? n * GROUPS + g : g * N + n] = scale_at(n, g);
            size_t word = by_n ? n / 8 * GROUPS + g : g * (N / 8) + n / 8;
            put(zeros, word, layout == MORAY_LAYOUT_AWQ ? awq : n % 8, zero_at(n, g) - (layout == MORAY_LAYOUT_GPTQ));
        }
    }
    if (layout == MORAY_LAYOUT_GPTQ_BY_WORD)
        for (size_t i = 0; i < N * GROUPS / 8; i++) zeros[i] -= 0x11111111u;
}

static MorayExported arrays(MorayExporter layout) {
    fill(layout);
    return (MorayExported){sizeof(MorayExported), layout, 4, MORAY_F32, N, K, BYTES(codes), BYTES(scales), BYTES(zeros), NONE};
}

static void check_layout(MorayExporter layout) {
    MorayExported from = arrays(layout);
    MorayQuantized *weight;
    MorayBytes order;
    OK(moray_import_exported(&from, &weight));
    OK(moray_quantized_order(weight, &order));
    CHECK(order.data == NULL);
    float w[N * K];
    OK(moray_quantized_dequantize(weight, BYTES_MUT(w)));
    for (size_t n = 0; n < N; n++)
        for (size_t k = 0; k < K; k++)
            CHECK(w[n * K + k] == scale_at(n, k / GROUP) * ((float)code_at(n, k) - (float)zero_at(n, k / GROUP)));
    moray_quantized_destroy(weight);
}

/* Inputs of a group apart: the weight in its order, with activations in that order, gives the products of the original. */
static void check_order(void) {
    MorayExported from = arrays(MORAY_LAYOUT_GPTQ);
    uint32_t group_of[K];
    for (uint32_t k = 0; k < K; k++) group_of[k] = k % GROUPS;
    from.group_of = BYTES(group_of);
    MorayQuantized *plain;
    MorayBytes order;
    OK(moray_import_exported(&from, &plain));
    OK(moray_quantized_order(plain, &order));
    CHECK(order.bytes == sizeof group_of);
    MorayCpu *cpu;
    MorayWeight *weight;
    MorayActivations *a;
    float x[K], y[N];
    for (size_t k = 0; k < K; k++) x[k] = (float)((int)(k * 29 % 255) - 127); /* whole numbers up to 127, which codes hold */
    x[0] = 127;
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    OK(moray_weight_pack(plain, &weight));
    OK(moray_activations_create(1, K, MORAY_ACT_SCALES_TOKEN, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, 1, K, order));
    MorayLinear call = {sizeof call, MORAY_F32, weight, a, NONE, NONE, BYTES_MUT(y), 0, 0};
    OK(moray_linear(cpu, &call));
    for (size_t n = 0; n < N; n++) {
        double exact = 0;
        for (size_t k = 0; k < K; k++)
            exact += x[k] * scale_at(n, k % GROUPS) * ((double)code_at(n, k) - zero_at(n, k % GROUPS));
        CHECK(fabs(y[n] - exact) < 1e-2);
    }
    moray_activations_destroy(a), moray_weight_destroy(weight), moray_quantized_destroy(plain), moray_cpu_destroy(cpu);
}

static void check_bad_input(void) {
    MorayQuantized *none = NULL;
    const MorayExported good = arrays(MORAY_LAYOUT_GPTQ);
    MorayExported from = good;
    from.layout = 9;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "layout: expected", moray_import_exported(&from, &none));
    from = good, from.bits = 3;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "bits: expected 4 or 8, got 3", moray_import_exported(&from, &none));
    from = good, from.struct_size = 0;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_import_exported(&from, &none));
    from = good, from.codes.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "codes: expected 128 elements, got 127", moray_import_exported(&from, &none));
    from = good, from.codes.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "codes: expected", moray_import_exported(&from, &none));
    from = good, from.scales.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "scales: expected", moray_import_exported(&from, &none));
    from = good, from.scales = NONE;
    REFUSED(MORAY_STATUS_LENGTH, "scales: expected", moray_import_exported(&from, &none));
    from = good, from.zeros.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "zeros: expected 4 elements, got 3", moray_import_exported(&from, &none));
    uint32_t beyond[K] = {GROUPS}, uneven[K] = {1};
    from = good, from.group_of = BYTES(beyond);
    REFUSED(MORAY_STATUS_INDEX, "g_idx: expected an index below 2, got 2", moray_import_exported(&from, &none));
    from = good, from.group_of = BYTES(uneven);
    REFUSED(MORAY_STATUS_UNSUPPORTED, "g_idx: expected", moray_import_exported(&from, &none));
    from = good, from.n = 0;
    REFUSED(MORAY_STATUS_SHAPE, "n: expected", moray_import_exported(&from, &none));
    for (int layout = 0; layout < 3; layout++) {
        from = good, from.layout = layout ? layout == 1 ? MORAY_LAYOUT_AWQ : MORAY_LAYOUT_COMPRESSED_TENSORS : MORAY_LAYOUT_GPTQ;
        from.n = WRAPS(N, K / 8);
        UNCOUNTED("expected", moray_import_exported(&from, &none));
        from.n = WRAPS(N, 4 * K), from.zeros = NONE;
        UNCOUNTED("expected", moray_import_exported(&from, &none));
        from.n = N, from.k = WRAPS(K, N);
        UNCOUNTED("expected", moray_import_exported(&from, &none));
    }
    from = good, from.scales.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "scales: expected", moray_import_exported(&from, &none));
    from = good, from.zeros.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "zeros: expected", moray_import_exported(&from, &none));
    from = good, from.group_of = (MorayBytes){NULL, sizeof beyond};
    REFUSED(MORAY_STATUS_NULL, "group_of: expected", moray_import_exported(&from, &none));
    REFUSED(MORAY_STATUS_NULL, "arrays: expected", moray_import_exported(NULL, &none));
    CHECK(none == NULL);
}

enum { QQQ_N = 64, QQQ_K = 128 };

/* Places a matrix by QQQ's tables, with groups and without, and reads its numbers. */
static void check_qqq(int grouped) {
    static const size_t CHANNELS[] = {0, 1, 8, 9, 16, 17, 24, 25};
    static uint32_t words[QQQ_K / 16 * 2 * QQQ_N];
    static float channel[QQQ_N], w[QQQ_N * QQQ_K];
    static uint16_t group[QQQ_N]; /* f16: 1 + n / 64 */
    for (size_t at = 0; at < QQQ_K / 16 * 2 * QQQ_N; at++) {
        size_t lane = at % 128 / 4, j = at % 4;
        words[at] = 0;
        for (size_t i = 0; i < 8; i++) {
            size_t b = grouped ? i / 2 % 2 : 1 - i % 2, dk = grouped ? 4 * (lane % 4) + 2 * (i % 2) + i / 4 : 4 * (lane % 4) + i / 2;
            uint32_t code = code_at(16 * j + 8 * b + lane / 4, at / 128 * 16 + dk);
            put(words, at, i, grouped ? code : code - 8);
        }
    }
    for (size_t p = 0; p < QQQ_N; p++) {
        size_t c = p / 32 * 32 + 2 * (p % 32 / 8) + CHANNELS[p % 8], g = p / 8 + 8 * (p % 8);
        channel[p] = (1.0f + (float)c) / (grouped ? 1 : 16), group[p] = (uint16_t)(0x3c00 + 16 * g);
    }
    MorayQuantized *weight;
    OK(moray_import_qqq(BYTES(words), BYTES(channel), grouped ? BYTES(group) : NONE, QQQ_N, QQQ_K, &weight));
    OK(moray_quantized_dequantize(weight, BYTES_MUT(w)));
    for (size_t n = 0; n < QQQ_N; n++)
        for (size_t k = 0; k < QQQ_K; k++) {
            float code = (float)code_at(n, k) - 8;
            CHECK(w[n * QQQ_K + k] == (1.0f + (float)n) * (grouped ? rintf(code * (1 + (float)n / 64)) : code));
        }
    moray_quantized_destroy(weight);

    MorayQuantized *none = NULL;
    MorayBytes short_codes = {words, sizeof words - 4}, short_channel = {channel, sizeof channel - 4}, short_group = {group, sizeof group - 2};
    REFUSED(MORAY_STATUS_LENGTH, "codes: expected", moray_import_qqq(short_codes, BYTES(channel), NONE, QQQ_N, QQQ_K, &none));
    REFUSED(MORAY_STATUS_LENGTH, "channel scales: expected 64 elements, got 63", moray_import_qqq(BYTES(words), short_channel, NONE, QQQ_N, QQQ_K, &none));
    REFUSED(MORAY_STATUS_LENGTH, "group scales: expected 64 elements, got 63", moray_import_qqq(BYTES(words), BYTES(channel), short_group, QQQ_N, QQQ_K, &none));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "qqq layout: expected N and K that are multiples of 64, got [32, 128]", moray_import_qqq(BYTES(words), BYTES(channel), NONE, 32, QQQ_K, &none));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "qqq layout: expected", moray_import_qqq(BYTES(words), BYTES(channel), NONE, 0, 0, &none));
    UNCOUNTED("expected", moray_import_qqq(BYTES(words), BYTES(channel), NONE, WRAPS(QQQ_N, QQQ_K), QQQ_K, &none));
    UNCOUNTED("expected", moray_import_qqq(BYTES(words), BYTES(channel), BYTES(group), WRAPS(QQQ_N, QQQ_K / 8), QQQ_K, &none));
    REFUSED(MORAY_STATUS_NULL, "channel_scale: expected", moray_import_qqq(BYTES(words), (MorayBytes){NULL, sizeof channel}, NONE, QQQ_N, QQQ_K, &none));
    REFUSED(MORAY_STATUS_NULL, "codes: expected", moray_import_qqq((MorayBytes){NULL, sizeof words}, BYTES(channel), NONE, QQQ_N, QQQ_K, &none));
    CHECK(none == NULL);
}

int main(void) {
    for (MorayExporter layout = MORAY_LAYOUT_GPTQ; layout <= MORAY_LAYOUT_COMPRESSED_TENSORS; layout++) check_layout(layout);
    check_order();
    check_bad_input();
    check_qqq(0);
    check_qqq(1);
    puts("import: ok");
    return 0;
}
