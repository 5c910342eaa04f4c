/* Weights and the multiplication from C: results against a plain loop, bad input, threads. */
#include "check.h"
#include <math.h>
#include <pthread.h>

enum { M = 3, N = 40, K = 128, PADDED_N = 48 };

static float w[N * K], x[M * K], bias[N], residual[M * N];
static MorayCpu *cpu;

static const MorayFormat FORMATS[] = {
    {4, 0, 0, MORAY_OFFSET_NONE},
    {8, 0, 0, MORAY_OFFSET_NONE},
    {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_NONE},
    {4, 64, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16},
    {4, 128, MORAY_GROUP_SCALE_INTEGER, MORAY_OFFSET_NONE},
    {4, 128, MORAY_GROUP_SCALE_QQQ, MORAY_OFFSET_NONE},
};
enum { FORMAT_COUNT = sizeof FORMATS / sizeof FORMATS[0] };

static MorayLinear linear_call(const MorayWeight *weight, const MorayActivations *a, float *y) {
    MorayLinear call = {0};
    call.struct_size = sizeof call;
    call.dtype = MORAY_F32;
    call.weight = weight;
    call.x = a;
    call.y = (MorayBytesMut){y, sizeof(float) * M * N};
    return call;
}

/* y against the product of the numbers that codes and scales stand for, in double. */
static void check_product(const MorayQuantized *plain, const MorayActivations *a, const float *y) {
    static float numbers[N * K];
    OK(moray_quantized_dequantize(plain, BYTES_MUT(numbers)));
    MorayActivationsView view;
    OK(moray_activations_describe(a, &view));
    CHECK(view.m == M && view.k == K && view.codes.bytes == M * K && view.scale.bytes == M * sizeof(float));
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            double exact = 0, size = 0;
            for (size_t k = 0; k < K; k++) {
                double product = ((const float *)view.scale.data)[m] * (double)((const int8_t *)view.codes.data)[m * K + k] * numbers[n * K + k];
                exact += product;
                size += fabs(product);
            }
            exact += bias[n] + residual[m * N + n];
            /* K/32 groups, each rounded twice, the scales, bias and residual: 16 roundings of what is at most `size` + 1 */
            CHECK(fabs(y[m * N + n] - exact) <= 16 * 6e-8 * (size + 1));
        }
}

/* Packs into memory of its own and of ours, computes with both, whole and by ranges, and unpacks again. */
static void check_format(const MorayFormat *format) {
    MorayQuantized *plain;
    MorayWeight *own, *lent;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, format, &plain));
    OK(moray_weight_pack(plain, &own));

    MoraySectionBytes size;
    OK(moray_section_bytes(format, N, K, &size));
    size_t sizes[] = {size.codes, size.channel, size.group, size.offset};
    MorayBytesMut memory[4];
    for (int i = 0; i < 4; i++) memory[i] = (MorayBytesMut){sizes[i] ? aligned_alloc(64, (sizes[i] + 63) / 64 * 64) : NULL, sizes[i]};
    MoraySectionsMut to = {memory[0], memory[1], memory[2], memory[3]};
    OK(moray_pack(plain, &to));
    MoraySections from;
    memcpy(&from, &to, sizeof from);
    OK(moray_weight_borrow(&from, N, K, format, &lent));

    MorayActivations *a;
    OK(moray_activations_create(M, K, MORAY_ACT_SCALES_TOKEN, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, K, NONE));
    static float y[2][M * N];
    for (int i = 0; i < 2; i++) {
        MorayLinear call = linear_call(i ? lent : own, a, y[i]);
        call.bias = BYTES(bias);
        call.residual = BYTES(residual);
        for (size_t row = 0; i && row < N; row += 16) {
            call.row_begin = row;
            call.row_end = row + 16 < N ? row + 16 : N;
            OK(moray_linear(cpu, &call));
        }
        if (!i) OK(moray_linear(cpu, &call));
    }
    check_product(plain, a, y[0]);
    CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0);

    MorayQuantized *again;
    OK(moray_weight_unpack(lent, &again));
    size_t n[2], k[2];
    MorayFormat formats[2];
    MoraySections parts[2];
    OK(moray_quantized_describe(plain, &n[0], &k[0], &formats[0], &parts[0]));
    OK(moray_quantized_describe(again, &n[1], &k[1], &formats[1], &parts[1]));
    CHECK(n[1] == N && k[1] == K && memcmp(&formats[1], format, sizeof *format) == 0);
    CHECK(parts[0].codes.bytes == N * K && memcmp(parts[0].codes.data, parts[1].codes.data, N * K) == 0);
    MorayQuantized *copy;
    OK(moray_quantized_create(&parts[0], N, K, format, &copy));
    float row[K], numbers[N * K];
    OK(moray_quantized_dequantize(copy, BYTES_MUT(numbers)));
    OK(moray_weight_row(lent, N - 1, BYTES_MUT(row)));
    CHECK(memcmp(row, numbers + (N - 1) * K, sizeof row) == 0);

    moray_quantized_destroy(copy);
    moray_quantized_destroy(again);
    moray_quantized_destroy(plain);
    moray_weight_destroy(own);
    moray_weight_destroy(lent);
    moray_activations_destroy(a);
    for (int i = 0; i < 4; i++) free(memory[i].data);
}

static void check_supports(void) {
    for (int i = 0; i < FORMAT_COUNT; i++) {
        MorayQuery query = {sizeof query, MORAY_OP_LINEAR, FORMATS[i], MORAY_BF16, MORAY_ARCH_NATIVE};
        MoraySupport support;
        OK(moray_supports(&query, &support));
        CHECK(support.supported == 1 && strstr(support.words, "int8 activations") != NULL);
        query.arch = MORAY_ARCH_CUDA + 70;
        OK(moray_supports(&query, &support));
        CHECK(support.supported == 0 && strstr(support.words, "arch: expected") != NULL);
        query.arch = MORAY_ARCH_PORTABLE;
        query.format.bits = 8;
        query.format.offset = MORAY_OFFSET_ZERO_POINT;
        if (query.format.group_size) {
            OK(moray_supports(&query, &support));
            CHECK(support.supported == 0 && strstr(support.words, "format: expected") != NULL);
        }
    }
    MorayQuery query = {sizeof query, MORAY_OP_SPARSE_MLP, FORMATS[5], MORAY_F32, MORAY_ARCH_NATIVE};
    MoraySupport support;
    OK(moray_supports(&query, &support));
    CHECK(support.supported == 0 && strstr(support.words, "format: expected 4-bit codes") != NULL);
    query.format = (MorayFormat){0, 0, 0, 0};
    OK(moray_supports(&query, &support));
    CHECK(support.supported == 1 && strstr(support.words, "weights in f32") != NULL);
    query.op = MORAY_OP_ATTENTION, query.dtype = MORAY_INT8;
    OK(moray_supports(&query, &support));
    CHECK(support.supported == 1 && strstr(support.words, "int8") != NULL);
    query.op = MORAY_OP_LINEAR;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "dtype: expected", moray_supports(&query, &support));
    query.op = 99;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "op: expected", moray_supports(&query, &support));
}

typedef struct {
    void (*work)(void *);
    void *data;
} Part;

static int regions, comers;

static void *come(void *part) {
    ((Part *)part)->work(((Part *)part)->data);
    return NULL;
}

/* As an OpenMP runtime's: the calling thread and others, here `comers` of them. */
static void fake_parallel(void (*work)(void *), void *data, unsigned threads, unsigned flags) {
    pthread_t others[8];
    Part part = {work, data};
    CHECK(threads == 3 && flags == 0);
    regions++;
    for (int i = 0; i < comers; i++) CHECK(pthread_create(&others[i], NULL, come, &part) == 0);
    work(data);
    for (int i = 0; i < comers; i++) CHECK(pthread_join(others[i], NULL) == 0);
}

/* The same bits on the threads of a runtime, however many come. */
static void check_openmp(void) {
    MorayCpu *there = NULL;
    REFUSED(MORAY_STATUS_NULL, "gomp_parallel: expected an address", moray_cpu_create_openmp(3, NULL, MORAY_ARCH_NATIVE, &there));
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = fake_parallel;
    const void *address;
    memcpy(&address, &parallel, sizeof address);
    REFUSED(MORAY_STATUS_SHAPE, "threads: expected 1 to 4096, got 5000", moray_cpu_create_openmp(5000, address, MORAY_ARCH_NATIVE, &there));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "arch: expected", moray_cpu_create_openmp(3, address, 77, &there));
    REFUSED(MORAY_STATUS_NULL, "out: expected an address", moray_cpu_create_openmp(3, address, MORAY_ARCH_NATIVE, NULL));
    CHECK(there == NULL);
    OK(moray_cpu_create_openmp(3, address, MORAY_ARCH_NATIVE, &there));
    size_t threads;
    MorayArch arch;
    OK(moray_cpu_describe(there, &threads, &arch));
    CHECK(threads == 3);
    enum { WIDE_N = 2048, WIDE_K = 512 }; /* work for several threads */
    static float wide[WIDE_N * WIDE_K], tokens[M * WIDE_K], y[M * WIDE_N], expected[M * WIDE_N];
    for (size_t i = 0; i < WIDE_N * WIDE_K; i++) wide[i] = noise(i);
    for (size_t i = 0; i < M * WIDE_K; i++) tokens[i] = noise(i + 77);
    MorayQuantized *plain;
    MorayWeight *weight;
    MorayActivations *a;
    OK(moray_quantize(BYTES(wide), MORAY_F32, WIDE_N, WIDE_K, &FORMATS[2], &plain));
    OK(moray_weight_pack(plain, &weight));
    OK(moray_activations_create(M, WIDE_K, MORAY_ACT_SCALES_TOKEN, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(tokens), MORAY_F32, M, WIDE_K, NONE));
    MorayLinear call = {.struct_size = sizeof call, .dtype = MORAY_F32, .weight = weight, .x = a, .y = BYTES_MUT(expected)};
    OK(moray_linear(cpu, &call));
    call.y = BYTES_MUT(y);
    for (comers = 0; comers < 5; comers++) {
        memset(y, 0xff, sizeof y), regions = 0;
        OK(moray_activations_quantize(there, a, BYTES(tokens), MORAY_F32, M, WIDE_K, NONE));
        OK(moray_linear(there, &call));
        CHECK(memcmp(y, expected, sizeof y) == 0 && regions > 0);
    }
    moray_activations_destroy(a), moray_weight_destroy(weight), moray_quantized_destroy(plain), moray_cpu_destroy(there);
}

static void check_bad_input(void) {
    MorayQuantized *plain = NULL;
    MorayWeight *weight = NULL;
    MorayActivations *a = NULL;
    MorayCpu *other = NULL;
    const MorayFormat *format = &FORMATS[2];
    REFUSED(MORAY_STATUS_VERSION, "abi_version: expected 1, got 7", moray_init(7));
    REFUSED(MORAY_STATUS_NULL, "out: expected an address", moray_cpu_create(1, MORAY_ARCH_NATIVE, NULL));
    REFUSED(MORAY_STATUS_SHAPE, "threads: expected 1 to 4096, got 5000", moray_cpu_create(5000, MORAY_ARCH_NATIVE, &other));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "arch: expected", moray_cpu_create(1, 77, &other));
    REFUSED(MORAY_STATUS_NULL, "w: expected an address", moray_quantize((MorayBytes){NULL, sizeof w}, MORAY_F32, N, K, format, &plain));
    REFUSED(MORAY_STATUS_LENGTH, "w: expected 5120 elements, got 0", moray_quantize(NONE, MORAY_F32, N, K, format, &plain));
    REFUSED(MORAY_STATUS_LENGTH, "w: expected 5120 elements, got 10240", moray_quantize(BYTES(w), MORAY_F16, N, K, format, &plain));
    REFUSED(MORAY_STATUS_MISALIGNED, "w: expected an address that is a multiple of 4",
            moray_quantize((MorayBytes){(char *)w + 2, sizeof w - 4}, MORAY_F32, N, K, format, &plain));
    REFUSED(MORAY_STATUS_SHAPE, "w: expected a size in bytes", moray_quantize((MorayBytes){w, sizeof w - 1}, MORAY_F32, N, K, format, &plain));
    REFUSED(MORAY_STATUS_SHAPE, "k: expected", moray_quantize(BYTES(w), MORAY_F32, N, K + 1, format, &plain));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "dtype: expected", moray_quantize(BYTES(w), 9, N, K, format, &plain));
    REFUSED(MORAY_STATUS_NULL, "format: expected", moray_quantize(BYTES(w), MORAY_F32, N, K, NULL, &plain));
    MorayFormat odd = {5, 0, 0, 0};
    REFUSED(MORAY_STATUS_UNSUPPORTED, "format.bits: expected 4 or 8, got 5", moray_quantize(BYTES(w), MORAY_F32, N, K, &odd, &plain));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "block: expected", moray_import_blocks(99, BYTES(w), N, K, &plain));
    REFUSED(MORAY_STATUS_LENGTH, "bytes: expected", moray_import_blocks(MORAY_BLOCK_Q4_0, BYTES(w), N, K, &plain));
    float nan_w[32] = {NAN};
    REFUSED(MORAY_STATUS_VALUE, "w: expected finite weights", moray_quantize(BYTES(nan_w), MORAY_F32, 1, 32, format, &plain));
    MoraySectionBytes size;
    UNCOUNTED("n: expected", moray_section_bytes(format, WRAPS(N, K), K, &size));
    UNCOUNTED("n: expected", moray_section_bytes(format, SIZE_MAX, K, &size));
    UNCOUNTED("expected", moray_quantize(BYTES(w), MORAY_F32, WRAPS(N, K), K, format, &plain));
    UNCOUNTED("expected", moray_quantize(BYTES(w), MORAY_F32, WRAPS(N, 4 * K), K, format, &plain));
    static uint8_t blocks[N * K / 32 * 18];
    UNCOUNTED("expected", moray_import_blocks(MORAY_BLOCK_Q4_0, BYTES(blocks), WRAPS(N, K / 32 * 2), K, &plain));
    static int8_t codes[N * K];
    static uint16_t group[N * K / 32];
    MoraySections parts = {BYTES(codes), NONE, BYTES(group), NONE};
    UNCOUNTED("expected", moray_quantized_create(&parts, WRAPS(N, K), K, format, &plain));
    UNCOUNTED("expected", moray_weight_borrow(&parts, WRAPS(N, K), K, format, &weight));
    parts.codes.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "codes: expected", moray_quantized_create(&parts, N, K, format, &plain));
    parts.codes.data = codes, parts.group.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "group: expected", moray_quantized_create(&parts, N, K, format, &plain));
    CHECK(plain == NULL && other == NULL && weight == NULL);

    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, format, &plain));
    MoraySections missing = {0};
    REFUSED(MORAY_STATUS_LENGTH, "codes: expected", moray_weight_borrow(&missing, N, K, format, &weight));
    MoraySectionsMut short_memory = {0};
    REFUSED(MORAY_STATUS_LENGTH, "codes: expected", moray_pack(plain, &short_memory));
    REFUSED(MORAY_STATUS_NULL, "weight: expected", moray_weight_pack(NULL, &weight));
    MoraySectionsMut near_end = {{(void *)(UINTPTR_MAX - 63), 128}, {NULL, 0}, {(void *)(UINTPTR_MAX - 31), 64}, {NULL, 0}};
    REFUSED(MORAY_STATUS_OVERLAP, "group: expected memory of its own", moray_pack(plain, &near_end));
    OK(moray_weight_pack(plain, &weight));
    float row[K];
    REFUSED(MORAY_STATUS_INDEX, "n: expected an index below 40, got 40", moray_weight_row(weight, N, BYTES_MUT(row)));

    REFUSED(MORAY_STATUS_OUT_OF_MEMORY, "activations: expected", moray_activations_create((size_t)1 << 45, 1 << 15, 0, &a));
    REFUSED(MORAY_STATUS_SHAPE, "max_m: expected at least 1", moray_activations_create(0, K, 0, &a));
    OK(moray_activations_create(M, K, MORAY_ACT_SCALES_TOKEN, &a));
    REFUSED(MORAY_STATUS_SHAPE, "m: expected at most", moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M + 1, K, NONE));
    uint32_t order[K] = {K};
    REFUSED(MORAY_STATUS_INDEX, "order: expected an index below 128, got 128",
            moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, K, BYTES(order)));
    UNCOUNTED("m: expected", moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, WRAPS(M, K), K, NONE));
    UNCOUNTED("expected", moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, WRAPS(K, 4), NONE));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, K, NONE));

    float y[M * N];
    MorayLinear good = linear_call(weight, a, y), call = good;
    call.struct_size = 8;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_linear(cpu, &call));
    REFUSED(MORAY_STATUS_NULL, "cpu: expected", moray_linear(NULL, &good));
    REFUSED(MORAY_STATUS_NULL, "call: expected", moray_linear(cpu, NULL));
    call = good, call.weight = NULL;
    REFUSED(MORAY_STATUS_NULL, "weight: expected", moray_linear(cpu, &call));
    call = good, call.x = NULL;
    REFUSED(MORAY_STATUS_NULL, "x: expected", moray_linear(cpu, &call));
    call = good, call.y.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "y: expected 120 elements, got 119", moray_linear(cpu, &call));
    call = good, call.dtype = MORAY_F16;
    REFUSED(MORAY_STATUS_LENGTH, "y: expected 120 elements, got 240", moray_linear(cpu, &call));
    call = good, call.bias = (MorayBytes){bias, 4};
    REFUSED(MORAY_STATUS_LENGTH, "bias: expected 40 elements, got 1", moray_linear(cpu, &call));
    call = good, call.residual = (MorayBytes){y, sizeof y};
    REFUSED(MORAY_STATUS_OVERLAP, "y: expected memory of its own, got memory that overlaps residual", moray_linear(cpu, &call));
    call = good, call.row_begin = 8;
    REFUSED(MORAY_STATUS_SHAPE, "row_begin: expected a multiple of 16", moray_linear(cpu, &call));
    call = good, call.row_begin = 32, call.row_end = 48;
    REFUSED(MORAY_STATUS_INDEX, "rows: expected an index below 41, got 48", moray_linear(cpu, &call));
    call = good, call.row_begin = 32, call.row_end = 16;
    REFUSED(MORAY_STATUS_NOT_INCREASING, "rows: expected", moray_linear(cpu, &call));
    OK(moray_linear(cpu, &good));

    moray_quantized_destroy(plain);
    moray_quantized_destroy(NULL);
    moray_weight_destroy(weight);
    moray_weight_destroy(NULL);
    moray_activations_destroy(a);
    moray_activations_destroy(NULL);
    moray_cpu_destroy(NULL);
}

/* Threads on one weight and one set of activations: each computes all of y on `device`, and its own rows of `shared`. */
typedef struct {
    MorayCpu *device, *alone;
    const MorayWeight *weight;
    const MorayActivations *a;
    const float *expected;
    float *shared;
    size_t index;
} Job;

enum { THREADS = 8, CALLS = 10000 };

static void *work(void *argument) {
    Job *job = argument;
    float y[M * N];
    for (int i = 0; i < CALLS / THREADS; i++) {
        memset(y, 0, sizeof y);
        MorayLinear call = linear_call(job->weight, job->a, y);
        OK(moray_linear(job->device, &call));
        CHECK(memcmp(y, job->expected, sizeof y) == 0);
        if (job->index < PADDED_N / 16) {
            call = linear_call(job->weight, job->a, job->shared);
            call.row_begin = job->index * 16;
            call.row_end = job->index * 16 + 16 < N ? job->index * 16 + 16 : N;
            OK(moray_linear(job->alone, &call));
        }
        CHECK(moray_linear(job->device, NULL) == MORAY_STATUS_NULL);
    }
    return NULL;
}

static void check_threads(int own_devices) {
    MorayQuantized *plain;
    MorayWeight *weight;
    MorayActivations *a;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, &FORMATS[2], &plain));
    OK(moray_weight_pack(plain, &weight));
    moray_quantized_destroy(plain);
    OK(moray_activations_create(M, K, MORAY_ACT_SCALES_FINE, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, M, K, NONE));
    static float expected[M * N], shared[M * N];
    MorayLinear call = linear_call(weight, a, expected);
    OK(moray_linear(cpu, &call));
    pthread_t threads[THREADS];
    Job jobs[THREADS];
    MorayCpu *alone;
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &alone));
    for (size_t i = 0; i < THREADS; i++) {
        jobs[i] = (Job){cpu, alone, weight, a, expected, shared, i};
        if (own_devices) OK(moray_cpu_create(2, MORAY_ARCH_PORTABLE, &jobs[i].device));
        CHECK(pthread_create(&threads[i], NULL, work, &jobs[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        if (own_devices) moray_cpu_destroy(jobs[i].device);
    }
    CHECK(memcmp(shared, expected, sizeof shared) == 0);
    moray_cpu_destroy(alone);
    moray_weight_destroy(weight);
    moray_activations_destroy(a);
}

int main(void) {
    OK(moray_init(MORAY_ABI_VERSION));
    CHECK(moray_abi_version() == MORAY_ABI_VERSION && strlen(moray_version()) >= 5);
    CHECK(strcmp(moray_last_error(), "") == 0);
    OK(moray_cpu_create(2, MORAY_ARCH_NATIVE, &cpu));
    size_t threads;
    MorayArch arch;
    OK(moray_cpu_describe(cpu, &threads, &arch));
    CHECK(threads == 2 && arch >= MORAY_ARCH_PORTABLE && arch <= MORAY_ARCH_AVX512_VNNI);
    for (size_t i = 0; i < N * K; i++) w[i] = noise(i);
    for (size_t i = 0; i < M * K; i++) x[i] = noise(i + 77777);
    for (size_t i = 0; i < N; i++) bias[i] = noise(i + 99);
    for (size_t i = 0; i < M * N; i++) residual[i] = noise(i + 555);
    for (int i = 0; i < FORMAT_COUNT; i++) check_format(&FORMATS[i]);
    check_supports();
    check_bad_input();
    check_openmp();
    check_threads(0);
    check_threads(1);
    moray_cpu_destroy(cpu);
    puts("linear: ok");
    return 0;
}
