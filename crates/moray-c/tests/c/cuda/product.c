/* The whole product of activations in floating point on a device: the bits of the CPU, or of the calls of one step each; graphs, bad input. */
#include "device.h"

enum { N = 96, K = 192, MOST_M = 8 };

static float w[N * K], x[MOST_M * 2 * K], bias[N], residual[MOST_M * N], norm_weight[K];
static MorayCpu *cpu;

static const MorayFormat FORMATS[] = {
    {4, 0, 0, MORAY_OFFSET_NONE},
    {8, 0, 0, MORAY_OFFSET_NONE},
    {4, 64, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16},
    {4, 64, MORAY_GROUP_SCALE_INTEGER, MORAY_OFFSET_NONE},
};
enum { FORMAT_COUNT = sizeof FORMATS / sizeof FORMATS[0] };

/* A weight on the CPU and on the device, and memory that one product of any kind has room in. */
typedef struct {
    MorayQuantized *plain;
    MorayWeight *packed;
    MorayCudaWeight weight;
    MorayBytesMut sections[4], x, norm, bias, residual, y, workspace;
} Problem;

static MorayBytesMut part(MorayBytesMut memory, size_t bytes) { return (MorayBytesMut){memory.data, bytes}; }

static void open_problem(Problem *p, const MorayFormat *format) {
    MoraySections from;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, format, &p->plain));
    OK(moray_weight_pack(p->plain, &p->packed));
    OK(moray_weight_describe(p->packed, &p->weight.n, &p->weight.k, &p->weight.format, &from));
    const MorayBytes parts[4] = {from.codes, from.channel, from.group, from.offset};
    for (int i = 0; i < 4; i++) p->sections[i] = upload(parts[i].data, parts[i].bytes);
    p->weight.layout_version = MORAY_LAYOUT_VERSION;
    p->weight.sections = (MoraySections){lent(p->sections[0]), lent(p->sections[1]), lent(p->sections[2]), lent(p->sections[3])};
    p->x = upload(x, sizeof x), p->norm = upload(norm_weight, sizeof norm_weight);
    p->bias = upload(bias, sizeof bias), p->residual = upload(residual, sizeof residual), p->y = upload(NULL, sizeof residual);
}

static void close_problem(Problem *p) {
    for (int i = 0; i < 4; i++) release(p->sections[i]);
    release(p->x), release(p->norm), release(p->bias), release(p->residual), release(p->y), release(p->workspace);
    moray_weight_destroy(p->packed), moray_quantized_destroy(p->plain);
    memset(p, 0, sizeof *p);
}

/* A product with everything beside it, in f32, and room for it. */
static MorayCudaProduct product_of(Problem *p, size_t m, MorayActScales scales, MoraySource source) {
    const size_t wide = source == MORAY_SOURCE_GATED ? 2 * K : K;
    MorayCudaProduct call = {.struct_size = sizeof call, .source = source, .scales = scales, .activation = MORAY_ACTIVATION_SILU, .eps = 1e-5f,
                             .m = m, .weight = p->weight, .x = {p->x.data, m * wide * 4}, .bias = lent(p->bias),
                             .residual = lent(part(p->residual, m * N * 4)), .y = part(p->y, m * N * 4)};
    if (source == MORAY_SOURCE_RMS_NORM) call.norm_weight = lent(p->norm);
    size_t bytes;
    OK(moray_cuda_product_prepare(cuda, &call, &bytes));
    release(p->workspace);
    call.workspace = p->workspace = upload(NULL, bytes);
    return call;
}

static void clear(MorayBytesMut y) { DRIVER(cuMemsetD8((uintptr_t)y.data, 0xff, y.bytes)); }

static void run(void *call) { OK(moray_cuda_product(cuda, stream, call)); }

/* y by moray_cuda_quantize and moray_cuda_linear. */
static void one_by_one(const MorayCudaProduct *of, void *y) {
    size_t bytes;
    MorayCudaQuantize quantize = {sizeof quantize, of->source, of->x_dtype, of->activation, of->eps, of->x, of->norm_weight,
                                  {of->m, K, of->scales, {NULL, 0}}};
    OK(moray_cuda_quantize_prepare(cuda, &quantize, &bytes));
    MorayBytesMut tokens = quantize.out.memory = upload(NULL, bytes);
    MorayCudaLinear linear = {sizeof linear, of->dtype, of->weight, quantize.out, of->bias, of->residual, of->y, {NULL, 0}};
    OK(moray_cuda_linear_prepare(cuda, &linear, &bytes));
    MorayBytesMut workspace = linear.workspace = upload(NULL, bytes);
    clear(of->y);
    OK(moray_cuda_quantize(cuda, stream, &quantize));
    OK(moray_cuda_linear(cuda, stream, &linear));
    download(y, of->y);
    release(tokens), release(workspace);
}

static void check_against_cpu(MorayCudaProduct *call, const Problem *p) {
    static float expected[MOST_M * N], y[MOST_M * N];
    MorayActivations *activations;
    OK(moray_activations_create(call->m, K, call->scales, &activations));
    OK(moray_activations_quantize(cpu, activations, (MorayBytes){x, call->m * K * 4}, MORAY_F32, call->m, K, NONE));
    MorayLinear linear = {sizeof linear, MORAY_F32, p->packed, activations, BYTES(bias), {residual, call->m * N * 4}, {expected, call->m * N * 4}, 0, 0};
    OK(moray_linear(cpu, &linear));
    moray_activations_destroy(activations);
    /* as a call, and twice as a graph, with the workspace as each has left it */
    for (int i = 0; i < 3; i++) {
        clear(call->y);
        i == 0 ? run(call) : replay(run, call);
        download(y, call->y);
        CHECK(memcmp(y, expected, call->m * N * 4) == 0);
    }
}

static void check_products(void) {
    static char one[MOST_M * N * 4], two[MOST_M * N * 4];
    for (int i = 0; i < FORMAT_COUNT; i++) {
        static Problem p;
        open_problem(&p, &FORMATS[i]);
        for (size_t m = 1; m <= MOST_M; m++) {
            const MorayActScales scales = (m + i) % 2 ? MORAY_ACT_SCALES_FINE : MORAY_ACT_SCALES_TOKEN;
            MorayCudaProduct call = product_of(&p, m, scales, MORAY_SOURCE_PLAIN);
            check_against_cpu(&call, &p);
            for (MoraySource source = MORAY_SOURCE_RMS_NORM; source <= MORAY_SOURCE_GATED; source++) {
                call = product_of(&p, m, scales, source);
                clear(call.y), run(&call), download(one, call.y);
                one_by_one(&call, two);
                CHECK(memcmp(one, two, call.y.bytes) == 0);
            }
            /* other types: numbers from 1 to 2 as f16, smaller ones as bf16, of either sign */
            call = product_of(&p, m, scales, MORAY_SOURCE_RMS_NORM);
            call.dtype = m % 2 ? MORAY_F16 : MORAY_BF16, call.x_dtype = m % 2 ? MORAY_BF16 : MORAY_F16;
            static uint16_t x16[MOST_M * K], residual16[MOST_M * N];
            for (size_t j = 0; j < m * K; j++) x16[j] = (uint16_t)((j * 2654435761u >> 16 & 0x83ff) | 0x3c00);
            for (size_t j = 0; j < m * N; j++) residual16[j] = (uint16_t)((j * 2246822519u >> 16 & 0x83ff) | 0x3c00);
            MorayBytesMut x_there = upload(x16, m * K * 2), residual_there = upload(residual16, m * N * 2);
            call.x = lent(x_there), call.residual = lent(residual_there), call.y.bytes = m * N * 2;
            clear(call.y), run(&call), download(one, call.y);
            one_by_one(&call, two);
            CHECK(memcmp(one, two, call.y.bytes) == 0);
            release(x_there), release(residual_there);
        }
        close_problem(&p);
    }
}

/* Gated outputs against those that are not: act(g) * u of them, max(g, 0) * u exactly. */
static void check_gated(void) {
    float plain[4 * N], gated[4 * N / 2];
    for (int i = 0; i < FORMAT_COUNT; i++) {
        static Problem p;
        open_problem(&p, &FORMATS[i]);
        for (size_t m = 1; m <= 4; m++) {
            const MorayActScales scales = m % 2 ? MORAY_ACT_SCALES_TOKEN : MORAY_ACT_SCALES_FINE;
            MorayCudaProduct call = product_of(&p, m, scales, m < 3 ? MORAY_SOURCE_RMS_NORM : MORAY_SOURCE_PLAIN);
            call.residual = NONE;
            clear(call.y), run(&call), download(plain, call.y);
            call.gated = 1, call.activation = MORAY_ACTIVATION_RELU, call.y.bytes /= 2, call.workspace = (MorayBytesMut){NULL, 0};
            size_t bytes = 1;
            OK(moray_cuda_product_prepare(cuda, &call, &bytes));
            CHECK(bytes == 0);
            clear(call.y), replay(run, &call), download(gated, call.y);
            for (size_t t = 0; t < m; t++)
                for (size_t n = 0; n < N / 2; n++) {
                    const float gate = plain[t * N + n];
                    const float expected = (gate > 0 ? gate : 0) * plain[t * N + N / 2 + n];
                    CHECK(gated[t * (N / 2) + n] == expected);
                }
        }
        close_problem(&p);
    }
}

/* Every argument that is wrong is named, and y stays as it was. */
static void check_bad_input(void) {
    static Problem p;
    static unsigned char y[MOST_M * N * 4];
    open_problem(&p, &FORMATS[2]);
    MorayCudaProduct good = product_of(&p, 4, MORAY_ACT_SCALES_TOKEN, MORAY_SOURCE_RMS_NORM);
    clear(p.y);
#define WRONG(code, words, ...)                                      \
    do {                                                               \
        MorayCudaProduct call = good;                                  \
        __VA_ARGS__;                                                   \
        REFUSED(code, words, moray_cuda_product(cuda, stream, &call)); \
    } while (0)
    WRONG(MORAY_STATUS_NULL, "norm_weight", call.norm_weight = NONE);
    WRONG(MORAY_STATUS_LENGTH, "norm_weight: expected 192 elements", call.norm_weight.bytes -= 4);
    WRONG(MORAY_STATUS_NULL, "x: expected an address", call.x.data = NULL);
    WRONG(MORAY_STATUS_LENGTH, "x: expected 768 elements, got 767", call.x.bytes -= 4);
    WRONG(MORAY_STATUS_LENGTH, "x: expected 1536 elements, got 768", call.source = MORAY_SOURCE_GATED);
    WRONG(MORAY_STATUS_LENGTH, "x: expected 768 elements, got 1536", call.x_dtype = MORAY_F16);
    WRONG(MORAY_STATUS_MISALIGNED, "x", call.x.data = past(call.x.data, 4));
    WRONG(MORAY_STATUS_NULL, "y: expected an address", call.y.data = NULL);
    WRONG(MORAY_STATUS_LENGTH, "y: expected 384 elements, got 383", call.y.bytes -= 4);
    WRONG(MORAY_STATUS_LENGTH, "y: expected 192 elements, got 384", (call.gated = 1, call.residual = NONE));
    WRONG(MORAY_STATUS_MISALIGNED, "y", call.y.data = past(call.y.data, 4));
    WRONG(MORAY_STATUS_OVERLAP, "y: expected memory of its own, got memory that overlaps residual", call.y.data = p.residual.data);
    WRONG(MORAY_STATUS_LENGTH, "bias: expected 96 elements", call.bias.bytes += 4);
    WRONG(MORAY_STATUS_LENGTH, "workspace", call.workspace.bytes -= 4);
    WRONG(MORAY_STATUS_NULL, "group", call.weight.sections.group = NONE);
    WRONG(MORAY_STATUS_LENGTH, "codes", call.weight.sections.codes.bytes /= 2);
    WRONG(MORAY_STATUS_UNSUPPORTED, "dtype", call.dtype = 99);
    WRONG(MORAY_STATUS_UNSUPPORTED, "dtype", call.x_dtype = MORAY_INT8);
    WRONG(MORAY_STATUS_UNSUPPORTED, "scales", call.scales = 7);
    WRONG(MORAY_STATUS_UNSUPPORTED, "source", call.source = 7);
    WRONG(MORAY_STATUS_UNSUPPORTED, "gated", call.gated = 2);
    WRONG(MORAY_STATUS_UNSUPPORTED, "activation", (call.gated = 1, call.activation = 9));
    WRONG(MORAY_STATUS_UNSUPPORTED, "residual", call.gated = 1);
    WRONG(MORAY_STATUS_UNSUPPORTED, "source", (call.gated = 1, call.residual = NONE, call.source = MORAY_SOURCE_GATED));
    WRONG(MORAY_STATUS_SHAPE, "m", (call.gated = 1, call.residual = NONE, call.m = 5));
    WRONG(MORAY_STATUS_SHAPE, "n", (call.gated = 1, call.residual = NONE, call.weight.n = 80));
    WRONG(MORAY_STATUS_SHAPE, "m", call.m = 0);
    WRONG(MORAY_STATUS_SHAPE, "", call.weight.k = (size_t)-32);
    WRONG(MORAY_STATUS_UNSUPPORTED, "layout", call.weight.layout_version = 77);
    WRONG(MORAY_STATUS_VERSION, "struct_size", call.struct_size = 8);
    REFUSED(MORAY_STATUS_NULL, "cuda", moray_cuda_product(NULL, stream, &good));
    REFUSED(MORAY_STATUS_NULL, "call", moray_cuda_product(cuda, stream, NULL));
    REFUSED(MORAY_STATUS_NULL, "bytes", moray_cuda_product_prepare(cuda, &good, NULL));
    download(y, p.y);
    for (size_t i = 0; i < sizeof y; i++) CHECK(y[i] == 0xff);
    close_problem(&p);
}

int main(void) {
    for (size_t i = 0; i < N * K; i++) w[i] = noise(i);
    for (size_t i = 0; i < MOST_M * 2 * K; i++) x[i] = 4 * noise(i + 1000003);
    for (size_t i = 0; i < N; i++) bias[i] = noise(i + 7);
    for (size_t i = 0; i < MOST_M * N; i++) residual[i] = noise(i + 77);
    for (size_t i = 0; i < K; i++) norm_weight[i] = 1 + noise(i + 777);
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    open_device();
    check_products();
    check_gated();
    check_bad_input();
    close_device();
    moray_cpu_destroy(cpu);
    puts("cuda product: ok");
    return 0;
}
