/* Quantization, multiplication and RMSNorm on a device: the CPU's bits, graphs, bad input. */
#include "device.h"
#include <math.h>
#include <pthread.h>

enum { N = 80, K = 192, MOST_M = 20 };

static float w[N * K], x[MOST_M * 2 * K], bias[N], residual[MOST_M * N], norm_weight[K];
static MorayCpu *cpu;

static const MorayFormat FORMATS[] = {
    {4, 0, 0, MORAY_OFFSET_NONE},
    {8, 0, 0, MORAY_OFFSET_NONE},
    {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_NONE},
    {4, 64, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16},
    {4, 64, MORAY_GROUP_SCALE_INTEGER, MORAY_OFFSET_NONE},
};
enum { FORMAT_COUNT = sizeof FORMATS / sizeof FORMATS[0] };

/* One multiplication, on the CPU and on the device. */
typedef struct {
    size_t m;
    MorayQuantized *plain;
    MorayWeight *weight;
    MorayActivations *activations;
    MorayBytesMut sections[4], x, bias, residual, y;
    MorayCudaQuantize quantize;
    MorayCudaLinear linear;
    float expected[MOST_M * N];
} Problem;

/* A weight's sections, copied as they are. */
static MorayCudaWeight upload_weight(Problem *p, const MorayFormat *format) {
    MorayCudaWeight weight = {0};
    MoraySections from;
    OK(moray_weight_describe(p->weight, &weight.n, &weight.k, &weight.format, &from));
    CHECK(memcmp(&weight.format, format, sizeof *format) == 0);
    const MorayBytes parts[4] = {from.codes, from.channel, from.group, from.offset};
    for (int i = 0; i < 4; i++) p->sections[i] = upload(parts[i].data, parts[i].bytes);
    weight.layout_version = MORAY_LAYOUT_VERSION;
    weight.sections = (MoraySections){lent(p->sections[0]), lent(p->sections[1]), lent(p->sections[2]), lent(p->sections[3])};
    return weight;
}

static void on_cpu(Problem *p, MorayActScales scales) {
    const MorayBytes x_bytes = {x, p->m * K * sizeof(float)};
    OK(moray_activations_create(p->m, K, scales, &p->activations));
    OK(moray_activations_quantize(cpu, p->activations, x_bytes, MORAY_F32, p->m, K, NONE));
    MorayLinear call = {sizeof call, MORAY_F32, p->weight, p->activations, BYTES(bias), {residual, p->m * N * sizeof(float)},
                        {p->expected, p->m * N * sizeof(float)}, 0, 0};
    OK(moray_linear(cpu, &call));
}

static void open_problem(Problem *p, const MorayFormat *format, size_t m, MorayActScales scales) {
    p->m = m;
    OK(moray_quantize(BYTES(w), MORAY_F32, N, K, format, &p->plain));
    OK(moray_weight_pack(p->plain, &p->weight));
    on_cpu(p, scales);
    p->x = upload(x, m * K * sizeof(float));
    p->bias = upload(bias, sizeof bias);
    p->residual = upload(residual, m * N * sizeof(float));
    p->y = upload(NULL, m * N * sizeof(float));

    MorayCudaActivations tokens = {m, K, scales, {NULL, 0}};
    p->quantize = (MorayCudaQuantize){sizeof p->quantize, MORAY_SOURCE_PLAIN, MORAY_F32, 0, 0, lent(p->x), NONE, tokens};
    size_t bytes;
    OK(moray_cuda_quantize_prepare(cuda, &p->quantize, &bytes));
    tokens.memory = p->quantize.out.memory = upload(NULL, bytes);

    p->linear = (MorayCudaLinear){sizeof p->linear, MORAY_F32, upload_weight(p, format), tokens,
                                  lent(p->bias), lent(p->residual), p->y, {NULL, 0}};
    OK(moray_cuda_linear_prepare(cuda, &p->linear, &bytes));
    p->linear.workspace = upload(NULL, bytes);
}

static void close_problem(Problem *p) {
    for (int i = 0; i < 4; i++) release(p->sections[i]);
    release(p->x), release(p->bias), release(p->residual), release(p->y);
    release(p->quantize.out.memory), release(p->linear.workspace);
    moray_activations_destroy(p->activations), moray_weight_destroy(p->weight), moray_quantized_destroy(p->plain);
}

static void run(void *problem) {
    const Problem *p = problem;
    OK(moray_cuda_quantize(cuda, stream, &p->quantize));
    OK(moray_cuda_linear(cuda, stream, &p->linear));
}

static void check_y(const Problem *p) {
    float y[MOST_M * N];
    download(y, p->y);
    CHECK(memcmp(y, p->expected, p->m * N * sizeof(float)) == 0);
}

static void check_products(void) {
    static const size_t TOKENS[] = {1, 5, MOST_M};
    for (int i = 0; i < FORMAT_COUNT; i++)
        for (int j = 0; j < 3; j++) {
            static Problem p;
            open_problem(&p, &FORMATS[i], TOKENS[j], j == 1 ? MORAY_ACT_SCALES_FINE : MORAY_ACT_SCALES_TOKEN);
            run(&p);
            check_y(&p);
            /* once more as a graph, with the workspace as the first run has left it */
            DRIVER(cuMemsetD8((uintptr_t)p.y.data, 0xff, p.y.bytes));
            replay(run, &p);
            check_y(&p);
            close_problem(&p);
        }
}

/* y in bf16 is the f32 one, rounded. */
static void check_bf16(void) {
    static Problem p;
    static uint16_t y[MOST_M * N], residual16[MOST_M * N];
    open_problem(&p, &FORMATS[0], 5, MORAY_ACT_SCALES_TOKEN);
    memset(residual, 0, sizeof residual);
    moray_activations_destroy(p.activations), on_cpu(&p, MORAY_ACT_SCALES_TOKEN);
    p.linear.dtype = MORAY_BF16;
    MorayBytesMut out = upload(NULL, p.m * N * 2), zeros = upload(residual16, p.m * N * 2);
    p.linear.residual = lent(zeros);
    p.linear.y = out;
    run(&p);
    download(y, out);
    for (size_t i = 0; i < p.m * N; i++) {
        uint32_t bits;
        memcpy(&bits, &p.expected[i], 4);
        bits += 0x7fff + ((bits >> 16) & 1);
        CHECK(y[i] == bits >> 16);
    }
    release(out), release(zeros), close_problem(&p);
}

/* RMSNorm against doubles, in place too; fused with the quantization it is the same as before it, and so is a gated product. */
static void check_norm(void) {
    enum { M = 5 };
    float y[M * K], gated[M * K];
    for (size_t m = 0; m < M; m++)
        for (size_t k = 0; k < K; k++) {
            float gate = x[m * 2 * K + k];
            gated[m * K + k] = (gate > 0 ? gate : 0) * x[m * 2 * K + K + k];
        }
    MorayBytesMut there = upload(x, sizeof(float) * M * 2 * K), weight = upload(norm_weight, sizeof norm_weight);
    const MorayBytes first = {there.data, sizeof(float) * M * K};
    MorayBytesMut normed = upload(x, first.bytes);
    MorayCudaRmsNorm norm = {sizeof norm, 1e-5f, M, 1, K, lent(normed), K, lent(weight), normed, K};
    OK(moray_cuda_rms_norm_prepare(cuda, &norm));
    OK(moray_cuda_rms_norm(cuda, stream, &norm));
    download(y, normed);
    for (size_t m = 0; m < M; m++) {
        double squares = 0;
        for (size_t k = 0; k < K; k++) squares += (double)x[m * K + k] * x[m * K + k];
        for (size_t k = 0; k < K; k++) {
            double exact = x[m * K + k] / sqrt(squares / K + 1e-5f) * norm_weight[k];
            CHECK(fabs(y[m * K + k] - exact) <= 8 * 6e-8 * fabs(exact));
        }
    }
    MorayBytesMut gated_there = upload(gated, sizeof gated);
    const struct {
        MoraySource source;
        MorayBytes x, before;
    } cases[] = {{MORAY_SOURCE_RMS_NORM, first, lent(normed)}, {MORAY_SOURCE_GATED, lent(there), lent(gated_there)}};
    for (int i = 0; i < 2; i++) {
        MorayCudaQuantize call = {sizeof call, MORAY_SOURCE_PLAIN, MORAY_F32, MORAY_ACTIVATION_RELU, 1e-5f, cases[i].before, NONE,
                                  {M, K, MORAY_ACT_SCALES_TOKEN, {NULL, 0}}};
        size_t bytes;
        OK(moray_cuda_quantize_prepare(cuda, &call, &bytes));
        MorayBytesMut memory[2] = {upload(NULL, bytes), upload(NULL, bytes)};
        call.out.memory = memory[0];
        OK(moray_cuda_quantize(cuda, stream, &call));
        call.source = cases[i].source, call.x = cases[i].x, call.out.memory = memory[1];
        if (i == 0) call.norm_weight = lent(weight);
        OK(moray_cuda_quantize(cuda, stream, &call));
        char *parts[2] = {malloc(bytes), malloc(bytes)};
        for (int j = 0; j < 2; j++) download(parts[j], memory[j]);
        CHECK(memcmp(parts[0], parts[1], bytes) == 0);
        for (int j = 0; j < 2; j++) free(parts[j]), release(memory[j]);
    }
    release(there), release(weight), release(normed), release(gated_there);
}

/* Every argument that is wrong is named, nothing is put on the stream, and the device goes on. */
static void check_bad_input(void) {
    static Problem p;
    open_problem(&p, &FORMATS[3], 5, MORAY_ACT_SCALES_TOKEN);
    run(&p), check_y(&p);
    DRIVER(cuMemsetD8((uintptr_t)p.y.data, 0, p.y.bytes));
#define WRONG(code, words, ...)                              \
    do {                                                        \
        MorayCudaLinear call = p.linear;                        \
        __VA_ARGS__;                                             \
        REFUSED(code, words, moray_cuda_linear(cuda, stream, &call)); \
    } while (0)
    WRONG(MORAY_STATUS_LENGTH, "y: expected 400 elements, got 399", call.y.bytes -= 4);
    WRONG(MORAY_STATUS_LENGTH, "bias: expected 80 elements, got 160", call.bias.bytes *= 2);
    WRONG(MORAY_STATUS_LENGTH, "expected 400 elements, got 800", call.dtype = MORAY_F16);
    WRONG(MORAY_STATUS_LENGTH, "codes", call.weight.sections.codes.bytes /= 2);
    WRONG(MORAY_STATUS_LENGTH, "x.memory", call.x.memory.bytes /= 2);
    WRONG(MORAY_STATUS_LENGTH, "channel: expected 0 elements", call.weight.sections.channel = call.bias);
    WRONG(MORAY_STATUS_NULL, "y: expected an address, got null", call.y.data = NULL);
    WRONG(MORAY_STATUS_NULL, "group: expected an address, got null", call.weight.sections.group = NONE);
    WRONG(MORAY_STATUS_NULL, "x.memory", call.x.memory.data = NULL);
    WRONG(MORAY_STATUS_MISALIGNED, "y", call.y.data = past(call.y.data, 4));
    WRONG(MORAY_STATUS_OVERLAP, "y: expected memory of its own, got memory that overlaps residual", call.y.data = p.residual.data);
    WRONG(MORAY_STATUS_SHAPE, "x.k: expected the weight's K, got 160", call.x.k = 160);
    WRONG(MORAY_STATUS_SHAPE, "m", call.x.m = 0);
    WRONG(MORAY_STATUS_UNSUPPORTED, "dtype", call.dtype = 99);
    WRONG(MORAY_STATUS_UNSUPPORTED, "scales", call.x.scales = 7);
    WRONG(MORAY_STATUS_UNSUPPORTED, "layout", call.weight.layout_version = 77);
    WRONG(MORAY_STATUS_UNSUPPORTED, "format.bits", call.weight.format.bits = 5);
    WRONG(MORAY_STATUS_VERSION, "struct_size", call.struct_size = 8);
    WRONG(MORAY_STATUS_SHAPE, "", call.weight.k = call.x.k = (size_t)-32);
    MorayCudaQuantize quantize = p.quantize;
    quantize.source = 9;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "source", moray_cuda_quantize(cuda, stream, &quantize));
    quantize.source = MORAY_SOURCE_RMS_NORM;
    REFUSED(MORAY_STATUS_NULL, "weight", moray_cuda_quantize(cuda, stream, &quantize));
    REFUSED(MORAY_STATUS_NULL, "cuda", moray_cuda_linear(NULL, stream, &p.linear));
    REFUSED(MORAY_STATUS_NULL, "call", moray_cuda_linear(cuda, stream, NULL));
    REFUSED(MORAY_STATUS_NULL, "bytes", moray_cuda_linear_prepare(cuda, &p.linear, NULL));
    float y[MOST_M * N];
    download(y, p.y);
    for (size_t i = 0; i < p.m * N; i++) CHECK(y[i] == 0);
    run(&p), check_y(&p);
    close_problem(&p);
}

enum { THREADS = 8, ROUNDS = 50, RECORDED = 200 };

/* A thread with a stream and memory of its own, in whose context nothing is current between its calls. */
typedef struct {
    MorayCuda *cuda;
    size_t number;
} Worker;

/* The two calls of a problem on a stream, with no context current. */
static void call_alone(const Worker *of, CUstream own, const Problem *p) {
    CUcontext now = context;
    DRIVER(cuCtxSetCurrent(NULL));
    OK(moray_cuda_quantize(of->cuda, own, &p->quantize));
    OK(moray_cuda_linear(of->cuda, own, &p->linear));
    DRIVER(cuCtxGetCurrent(&now));
    CHECK(now == NULL);
    DRIVER(cuCtxSetCurrent(context));
}

/* In each round many products that only a graph records, by which the library does all that it does in a call while the simulated device, which is
   slow, runs nothing; and one that runs. */
static void *worker(void *argument) {
    const Worker *of = argument;
    Problem *p = malloc(sizeof *p);
    DRIVER(cuCtxSetCurrent(context));
    open_problem(p, &FORMATS[of->number % FORMAT_COUNT], 1 + of->number % 5, MORAY_ACT_SCALES_TOKEN);
    CUstream own;
    DRIVER(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    for (size_t round = 0; round < ROUNDS; round++) {
        CUgraph graph;
        DRIVER(cuStreamBeginCapture(own, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
        for (size_t i = 0; i < RECORDED; i++) call_alone(of, own, p);
        DRIVER(cuStreamEndCapture(own, &graph));
        DRIVER(cuGraphDestroy(graph));
        call_alone(of, own, p);
        DRIVER(cuStreamSynchronize(own));
        check_y(p);
        DRIVER(cuMemsetD8((uintptr_t)p->y.data, 0, p->y.bytes));
    }
    DRIVER(cuStreamDestroy(own));
    close_problem(p);
    free(p);
    return NULL;
}

static size_t free_bytes(void) {
    size_t now, all;
    DRIVER(cuMemGetInfo(&now, &all));
    return now;
}

/* On one handle, or on one each; the device's memory is afterwards what it was. */
static void check_threads(int own_handles) {
    pthread_t threads[THREADS];
    Worker workers[THREADS];
    const size_t before = free_bytes();
    for (size_t i = 0; i < THREADS; i++) {
        workers[i] = (Worker){cuda, i};
        if (own_handles) OK(moray_cuda_create(context, &workers[i].cuda));
        CHECK(pthread_create(&threads[i], NULL, worker, &workers[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        if (own_handles) moray_cuda_destroy(workers[i].cuda);
    }
    CHECK(free_bytes() == before);
}

static void check_device(void) {
    MorayCuda *other;
    REFUSED(MORAY_STATUS_NULL, "context: expected an address, got null", moray_cuda_create(NULL, &other));
    REFUSED(MORAY_STATUS_NULL, "out", moray_cuda_create(context, NULL));
    OK(moray_cuda_create(context, &other));
    MorayArch arch;
    uint32_t multiprocessors;
    OK(moray_cuda_describe(other, &arch, &multiprocessors));
    CHECK(arch >= MORAY_ARCH_CUDA + 80 && multiprocessors > 0);
    moray_cuda_destroy(other);
    MorayQuery query = {sizeof query, MORAY_OP_LINEAR, FORMATS[3], MORAY_BF16, arch};
    MoraySupport answer;
    OK(moray_supports(&query, &answer));
    CHECK(answer.supported == 1 && strstr(answer.words, "CUDA kernels"));
    const MorayFormat none = {0, 0, 0, 0};
    for (MorayDtype dtype = MORAY_F32; dtype <= MORAY_BF16; dtype++) {
        const MorayQuery asked = {sizeof asked, MORAY_OP_SPARSE_MLP, none, dtype, arch};
        OK(moray_supports(&asked, &answer));
        CHECK(answer.supported == (dtype != MORAY_F32));
    }
    query.arch = MORAY_ARCH_CUDA + 75;
    OK(moray_supports(&query, &answer));
    CHECK(answer.supported == 0 && strstr(answer.words, "7.5"));
}

int main(void) {
    for (size_t i = 0; i < N * K; i++) w[i] = noise(i);
    for (size_t i = 0; i < MOST_M * 2 * K; i++) x[i] = 4 * noise(i + 1000003);
    for (size_t i = 0; i < N; i++) bias[i] = noise(i + 7);
    for (size_t i = 0; i < MOST_M * N; i++) residual[i] = noise(i + 77);
    for (size_t i = 0; i < K; i++) norm_weight[i] = 1 + noise(i + 777);
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    open_device();
    check_device();
    check_products();
    check_norm();
    check_bad_input();
    check_threads(0);
    check_threads(1);
    check_bf16();
    close_device();
    moray_cpu_destroy(cpu);
    puts("cuda linear: ok");
    return 0;
}
