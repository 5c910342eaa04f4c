/* Every buffer of every call on a device, wrong in each way: left null, short, misaligned, of the process, past its memory's end, over another.
   The call says which buffer it is, has written nothing, and goes on. */
#include "device.h"
#include <stddef.h>

enum { M = 4, N = 96, K = 192, D_MODEL = 64, D_FF = 96, STRIDE = 96, WORDS = 2, TOKENS = 2, MOST = 10 };
enum { SLOTS = 2, KV_HEADS = 2, Q_HEADS = 4, DIM = 16, PAGE = 16, PAGES = 64, MAX_PAGES = 32, CAPACITY = 512 };

/* What a buffer is to a call. ROWS may lie between others. */
enum { READ = 0, WRITTEN = 1, ROWS = 2 };

typedef struct {
    const char *name;
    size_t at;
    int is;
} Field;

typedef MorayStatus (*Launch)(const MorayCuda *, CUstream, const void *);

/* A call that is right, and where its buffers are in it. */
typedef struct {
    const char *name;
    Launch launch;
    void *call;
    size_t size;
    const Field *fields;
    size_t count;
} Call;

/* MorayBytes and MorayBytesMut are a pointer and a size. */
static MorayBytesMut *buffer(void *call, const Field *field) { return (MorayBytesMut *)((char *)call + field->at); }

/* Memory of a multiple of 256 bytes, so that what shifts it by less stays aligned. */
static union {
    char bytes[1 << 17];
    long double aligned;
} of_the_process;

static void *host(void) { return (void *)(((uintptr_t)of_the_process.bytes + 255) / 256 * 256); }

/* Memory of the device, and what is behind it; nothing, where the driver has put them apart. */
enum { LAST = 256 };
static MorayBytesMut last, behind;

static void open_last(void) {
    last = upload(NULL, LAST), behind = upload(NULL, sizeof of_the_process);
    const uintptr_t before = (uintptr_t)last.data, after = (uintptr_t)behind.data;
    if (before < after && after - before <= 16 * LAST) return;
    release(last), release(behind);
    last = behind = (MorayBytesMut){NULL, 0};
}

static void refused(const Call *of, const Field *field, const char *how, const void *call, MorayStatus expected, const char *words) {
    const MorayStatus status = of->launch(cuda, stream, call);
    if (status == expected && strstr(moray_last_error(), field->name) && strstr(moray_last_error(), words)) return;
    fprintf(stderr, "%s, %s %s: expected status %d with \"%s\" and \"%s\", got %d: %s\n", of->name, field->name, how, (int)expected, field->name, words,
            (int)status, moray_last_error());
    exit(1);
}

/* A buffer by itself. */
static void check_field(const Call *of, const Field *field) {
    char *call = malloc(of->size);
    MorayBytesMut *wrong = buffer(call, field);
    const MorayBytesMut good = *buffer(of->call, field);
    CHECK(good.data && good.bytes);
    memcpy(call, of->call, of->size);
    wrong->data = NULL;
    refused(of, field, "null", call, MORAY_STATUS_NULL, "expected an address, got null");
    *wrong = good, wrong->bytes -= 4;
    refused(of, field, "short", call, MORAY_STATUS_LENGTH, "elements, got ");
    *wrong = good, wrong->data = past(good.data, 1);
    refused(of, field, "misaligned", call, MORAY_STATUS_MISALIGNED, "expected an address that is a multiple of");
    *wrong = good, wrong->data = host();
    refused(of, field, "of the process", call, MORAY_STATUS_DEVICE, "got an address that the driver does not know");
    if (last.data && good.bytes < behind.bytes) {
        DRIVER(cuMemFree((uintptr_t)behind.data));
        *wrong = good, wrong->data = past(last.data, good.bytes > LAST ? 0 : LAST);
        refused(of, field, "past its memory's end", call, MORAY_STATUS_DEVICE, "expected memory that kernels of the context reach");
        behind = upload(NULL, sizeof of_the_process);
    }
    free(call);
}

/* What is written over something else. */
static void check_pair(const Call *of, const Field *written, const Field *other) {
    char *call = malloc(of->size);
    const MorayBytesMut there = *buffer(of->call, other);
    memcpy(call, of->call, of->size);
    /* not from its beginning: some calls may write what they read */
    buffer(call, written)->data = past(there.data, there.bytes > 256 ? 256 : there.bytes > 32 ? 32 : 0);
    const MorayStatus status = of->launch(cuda, stream, call);
    const int both_rows = written->is & other->is & ROWS;
    if (status != (both_rows ? MORAY_STATUS_SHAPE : MORAY_STATUS_OVERLAP) || !strstr(moray_last_error(), both_rows ? "v cache" : written->name)) {
        fprintf(stderr, "%s, %s over %s: got %d: %s\n", of->name, written->name, other->name, (int)status, moray_last_error());
        exit(1);
    }
    free(call);
}

static void check_call(const Call *of) {
    for (size_t i = 0; i < of->count; i++) {
        check_field(of, &of->fields[i]);
        for (size_t j = 0; j < of->count; j++)
            if (i != j && of->fields[i].is & WRITTEN) check_pair(of, &of->fields[i], &of->fields[j]);
    }
    const Field itself = {"cuda", 0, READ}, arguments = {"call", 0, READ};
    CHECK(of->launch(NULL, stream, of->call) == MORAY_STATUS_NULL && strstr(moray_last_error(), itself.name));
    refused(of, &arguments, "null", NULL, MORAY_STATUS_NULL, "expected an address, got null");
    refused(of, &arguments, "misaligned", past(of->call, 2), MORAY_STATUS_MISALIGNED, "expected an address that is a multiple of");
    /* nothing has been written */
    DRIVER(cuStreamSynchronize(stream));
    for (size_t i = 0; i < of->count; i++) {
        const MorayBytesMut there = *buffer(of->call, &of->fields[i]);
        if (!(of->fields[i].is & WRITTEN)) continue;
        char *found = malloc(there.bytes);
        download(found, there);
        for (size_t j = 0; j < there.bytes; j++) CHECK(found[j] == 0);
        free(found);
    }
    CHECK(of->launch(cuda, stream, of->call) == MORAY_STATUS_OK);
    DRIVER(cuStreamSynchronize(stream));
    /* whose memory it is is asked only where it is to be */
    OK(moray_cuda_check_memory(cuda, 0));
    CHECK(of->launch(cuda, stream, of->call) == MORAY_STATUS_OK);
    OK(moray_cuda_check_memory(cuda, 1));
    DRIVER(cuStreamSynchronize(stream));
    for (size_t i = 0; i < of->count; i++) release(*buffer(of->call, &of->fields[i]));
}

static MorayBytes zeros(size_t bytes) { return lent(upload(NULL, bytes)); }

#define FIELD(type, name, field, is) {name, offsetof(type, field), is}
#define CALL(type, of, function)                                                                                                \
    static MorayStatus function##_of(const MorayCuda *on, CUstream in, const void *call) { return function(on, in, call); } \
    static void of(type *call, const Field *fields, size_t count) {                                                          \
        call->struct_size = sizeof *call;                                                                                    \
        const Call right = {#function, function##_of, call, sizeof *call, fields, count};                                    \
        check_call(&right);                                                                                                  \
    }
#define CHECKED(of, call, fields) of(&(call), fields, sizeof fields / sizeof fields[0])

CALL(MorayCudaQuantize, quantize_is, moray_cuda_quantize)
CALL(MorayCudaLinear, linear_is, moray_cuda_linear)
CALL(MorayCudaProduct, product_is, moray_cuda_product)
CALL(MorayCudaRmsNorm, rms_norm_is, moray_cuda_rms_norm)
CALL(MorayCudaSelect, select_is, moray_cuda_select)
CALL(MorayCudaUnion, union_is, moray_cuda_union)
CALL(MorayCudaMlp, mlp_is, moray_cuda_mlp)
CALL(MorayCudaMlpGateUp, gate_up_is, moray_cuda_mlp_gate_up)
CALL(MorayCudaMlpDown, down_is, moray_cuda_mlp_down)
CALL(MorayCudaByInput, by_input_is, moray_cuda_by_input)
CALL(MorayCudaByInputFourBit, four_bit_is, moray_cuda_by_input_four_bit)
CALL(MorayCudaWriteKv, write_kv_is, moray_cuda_write_kv)
CALL(MorayCudaAttend, attend_is, moray_cuda_attend)
CALL(MorayCudaWriteAttend, write_attend_is, moray_cuda_write_attend)

static const MorayFormat FORMAT = {4, 64, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};

static MorayCudaWeight weight(void) {
    MoraySectionBytes bytes;
    OK(moray_section_bytes(&FORMAT, N, K, &bytes));
    return (MorayCudaWeight){N, K, FORMAT, MORAY_LAYOUT_VERSION, {zeros(bytes.codes), NONE, zeros(bytes.group), zeros(bytes.offset)}};
}

static void check_products(void) {
    static const Field QUANTIZE[] = {
        FIELD(MorayCudaQuantize, "x", x, READ),
        FIELD(MorayCudaQuantize, "norm_weight", norm_weight, READ),
        FIELD(MorayCudaQuantize, "out.memory", out.memory, WRITTEN),
    };
    static const Field LINEAR[] = {
        FIELD(MorayCudaLinear, "codes", weight.sections.codes, READ),
        FIELD(MorayCudaLinear, "group", weight.sections.group, READ),
        FIELD(MorayCudaLinear, "offset", weight.sections.offset, READ),
        FIELD(MorayCudaLinear, "x.memory", x.memory, READ),
        FIELD(MorayCudaLinear, "bias", bias, READ),
        FIELD(MorayCudaLinear, "residual", residual, READ),
        FIELD(MorayCudaLinear, "y", y, WRITTEN),
        FIELD(MorayCudaLinear, "workspace", workspace, WRITTEN),
    };
    static const Field PRODUCT[] = {
        FIELD(MorayCudaProduct, "codes", weight.sections.codes, READ),
        FIELD(MorayCudaProduct, "group", weight.sections.group, READ),
        FIELD(MorayCudaProduct, "offset", weight.sections.offset, READ),
        FIELD(MorayCudaProduct, "x", x, READ),
        FIELD(MorayCudaProduct, "norm_weight", norm_weight, READ),
        FIELD(MorayCudaProduct, "bias", bias, READ),
        FIELD(MorayCudaProduct, "residual", residual, READ),
        FIELD(MorayCudaProduct, "y", y, WRITTEN),
        FIELD(MorayCudaProduct, "workspace", workspace, WRITTEN),
    };
    static const Field NORM[] = {
        FIELD(MorayCudaRmsNorm, "x", x, READ),
        FIELD(MorayCudaRmsNorm, "weight", weight, READ),
        FIELD(MorayCudaRmsNorm, "y", y, WRITTEN),
    };
    size_t bytes;
    MorayCudaQuantize quantize = {.struct_size = sizeof quantize, .source = MORAY_SOURCE_RMS_NORM, .x = zeros(4 * M * K), .norm_weight = zeros(4 * K),
                                  .out = {M, K, MORAY_ACT_SCALES_TOKEN, {NULL, 0}}};
    OK(moray_cuda_quantize_prepare(cuda, &quantize, &bytes));
    quantize.out.memory = upload(NULL, bytes);
    CHECKED(quantize_is, quantize, QUANTIZE);
    MorayCudaLinear linear = {.struct_size = sizeof linear, .weight = weight(), .x = {M, K, MORAY_ACT_SCALES_TOKEN, upload(NULL, bytes)},
                              .bias = zeros(4 * N), .residual = zeros(4 * M * N), .y = upload(NULL, 4 * M * N)};
    OK(moray_cuda_linear_prepare(cuda, &linear, &bytes));
    linear.workspace = upload(NULL, bytes);
    /* not every size has a workspace */
    linear_is(&linear, LINEAR, sizeof LINEAR / sizeof LINEAR[0] - (bytes == 0));
    MorayCudaProduct product = {.struct_size = sizeof product, .source = MORAY_SOURCE_RMS_NORM, .m = 5, .weight = weight(), .x = zeros(4 * 5 * K),
                                .norm_weight = zeros(4 * K), .bias = zeros(4 * N), .residual = zeros(4 * 5 * N), .y = upload(NULL, 4 * 5 * N)};
    OK(moray_cuda_product_prepare(cuda, &product, &bytes));
    product.workspace = upload(NULL, bytes);
    CHECKED(product_is, product, PRODUCT);
    MorayCudaRmsNorm norm = {.eps = 1e-5f, .m = M, .heads = 1, .k = K, .x = zeros(4 * M * K), .x_stride = K, .weight = zeros(4 * K),
                             .y = upload(NULL, 4 * M * K), .y_stride = K};
    norm.struct_size = sizeof norm;
    OK(moray_cuda_rms_norm_prepare(cuda, &norm));
    CHECKED(rms_norm_is, norm, NORM);
}

/* An MLP of zeros with biases, as devices read it. */
static MorayCudaMlpWeights mlp_weights(int four_bit) {
    static const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    static const MorayMlpShape shape = {D_MODEL, D_FF, MORAY_ACTIVATION_RELU};
    static const float numbers[D_FF * D_MODEL];
    const MorayBytes matrix = BYTES(numbers);
    const MorayMlpBiases biases = {{numbers, 4 * D_FF}, {numbers, 4 * D_FF}, {numbers, 4 * D_MODEL}};
    MorayMlp *mlp;
    if (four_bit) {
        MorayQuantized *rows, *columns;
        OK(moray_quantize(matrix, MORAY_F32, D_FF, D_MODEL, &format, &rows));
        OK(moray_quantize(matrix, MORAY_F32, D_MODEL, D_FF, &format, &columns));
        OK(moray_mlp_create_quantized(&shape, rows, rows, columns, &biases, &mlp));
        moray_quantized_destroy(rows), moray_quantized_destroy(columns);
    } else {
        static const uint16_t halves[D_FF * D_MODEL];
        OK(moray_mlp_create(&shape, MORAY_F16, BYTES(halves), BYTES(halves), BYTES(halves), &biases, &mlp));
    }
    MorayCudaMlpWeights weights;
    OK(moray_cuda_mlp_sizes(mlp, &weights));
    moray_mlp_destroy(mlp);
    MorayCudaRows *each[] = {&weights.gate, &weights.up, &weights.down};
    for (int i = 0; i < 3; i++) {
        each[i]->rows = upload(NULL, each[i]->rows.bytes), each[i]->scales = upload(NULL, each[i]->scales.bytes);
        each[i]->bias = upload(NULL, each[i]->bias.bytes);
    }
    return weights;
}

#define MATRIX(type, of) FIELD(type, #of ".rows", weights.of.rows, READ), FIELD(type, #of ".bias", weights.of.bias, READ)
#define SCALES(type, of) FIELD(type, #of ".scales", weights.of.scales, READ)

static void check_mlp(void) {
    static const Field WHOLE[] = {
        MATRIX(MorayCudaMlp, gate), MATRIX(MorayCudaMlp, up), MATRIX(MorayCudaMlp, down),
        FIELD(MorayCudaMlp, "selection.masks", selection.masks, READ),
        FIELD(MorayCudaMlp, "x", x, READ),
        FIELD(MorayCudaMlp, "residual", residual, READ),
        FIELD(MorayCudaMlp, "y", y, WRITTEN),
        FIELD(MorayCudaMlp, "kept", kept, WRITTEN),
        FIELD(MorayCudaMlp, "kept_count", kept_count, WRITTEN),
        FIELD(MorayCudaMlp, "workspace", workspace, WRITTEN),
    };
    static const Field UNION[] = {
        MATRIX(MorayCudaMlp, gate), MATRIX(MorayCudaMlp, up), MATRIX(MorayCudaMlp, down),
        SCALES(MorayCudaMlp, gate), SCALES(MorayCudaMlp, up), SCALES(MorayCudaMlp, down),
        FIELD(MorayCudaMlp, "selection.list", selection.list, READ),
        FIELD(MorayCudaMlp, "selection.count", selection.count, READ),
        FIELD(MorayCudaMlp, "selection.masks", selection.masks, READ),
        FIELD(MorayCudaMlp, "x", x, READ),
        FIELD(MorayCudaMlp, "y", y, WRITTEN),
        FIELD(MorayCudaMlp, "workspace", workspace, WRITTEN),
    };
    static const Field GATE_UP[] = {
        MATRIX(MorayCudaMlpGateUp, gate), MATRIX(MorayCudaMlpGateUp, up),
        FIELD(MorayCudaMlpGateUp, "list", list, READ),
        FIELD(MorayCudaMlpGateUp, "count", count, READ),
        FIELD(MorayCudaMlpGateUp, "masks", masks, READ),
        FIELD(MorayCudaMlpGateUp, "x", x, READ),
        FIELD(MorayCudaMlpGateUp, "gate", gate, WRITTEN),
        FIELD(MorayCudaMlpGateUp, "hidden", hidden, WRITTEN),
        FIELD(MorayCudaMlpGateUp, "workspace", workspace, WRITTEN),
    };
    static const Field DOWN[] = {
        MATRIX(MorayCudaMlpDown, down),
        FIELD(MorayCudaMlpDown, "list", list, READ),
        FIELD(MorayCudaMlpDown, "count", count, READ),
        FIELD(MorayCudaMlpDown, "hidden", hidden, READ),
        FIELD(MorayCudaMlpDown, "residual", residual, READ),
        FIELD(MorayCudaMlpDown, "y", y, WRITTEN),
        FIELD(MorayCudaMlpDown, "workspace", workspace, WRITTEN),
    };
    static const size_t X = 4 * TOKENS * D_MODEL, HIDDEN = 4 * TOKENS * STRIDE;
    size_t bytes;
    MorayCudaMlp whole = {.weights = mlp_weights(0), .selection = {.kind = MORAY_SELECT_MASKS, .masks = zeros(8 * TOKENS * WORDS)}, .tokens = TOKENS,
                          .max_tokens = MOST, .x = zeros(X), .residual = zeros(X), .y = upload(NULL, X), .kept = upload(NULL, 4 * D_FF),
                          .kept_count = upload(NULL, 4)};
    whole.struct_size = sizeof whole;
    OK(moray_cuda_mlp_prepare(cuda, &whole, &bytes));
    whole.workspace = upload(NULL, bytes);
    CHECKED(mlp_is, whole, WHOLE);
    MorayCudaMlp joined = {.weights = mlp_weights(1),
                           .selection = {.kind = MORAY_SELECT_UNION, .list = zeros(4 * D_FF), .count = zeros(4), .masks = zeros(8 * TOKENS * WORDS)},
                           .tokens = TOKENS, .max_tokens = MOST, .x = zeros(X), .y = upload(NULL, X)};
    joined.struct_size = sizeof joined;
    OK(moray_cuda_mlp_prepare(cuda, &joined, &bytes));
    joined.workspace = upload(NULL, bytes);
    CHECKED(mlp_is, joined, UNION);
    MorayCudaMlpGateUp first = {.weights = mlp_weights(0), .list = zeros(4 * D_FF), .count = zeros(4), .masks = zeros(8 * TOKENS * WORDS), .tokens = TOKENS,
                                .max_tokens = MOST, .x = zeros(X), .gate = upload(NULL, HIDDEN), .hidden = upload(NULL, HIDDEN)};
    first.struct_size = sizeof first;
    OK(moray_cuda_mlp_gate_up_prepare(cuda, &first, &bytes));
    first.workspace = upload(NULL, bytes);
    CHECKED(gate_up_is, first, GATE_UP);
    MorayCudaMlpDown last = {.weights = mlp_weights(0), .list = zeros(4 * D_FF), .count = zeros(4), .tokens = TOKENS, .max_tokens = MOST,
                             .hidden = zeros(HIDDEN), .residual = zeros(X), .y = upload(NULL, X), .workspace = upload(NULL, bytes)};
    last.struct_size = sizeof last;
    OK(moray_cuda_mlp_down_prepare(cuda, &last, &bytes));
    CHECKED(down_is, last, DOWN);
}

static void check_selections(void) {
    static const Field SELECT[] = {
        FIELD(MorayCudaSelect, "values", values, READ),
        FIELD(MorayCudaSelect, "channel_scale", channel_scale, READ),
        FIELD(MorayCudaSelect, "masks", masks, WRITTEN),
    };
    static const Field UNION[] = {
        FIELD(MorayCudaUnion, "masks", masks, READ),
        FIELD(MorayCudaUnion, "list", list, WRITTEN),
        FIELD(MorayCudaUnion, "count", count, WRITTEN),
    };
    MorayCudaSelect select = {.kind = MORAY_SELECT_TOP_K, .k = 7, .tokens = TOKENS, .n = D_FF, .values = zeros(4 * TOKENS * D_FF), .stride = D_FF,
                              .channel_scale = zeros(4 * D_FF), .masks = upload(NULL, 8 * TOKENS * WORDS)};
    CHECKED(select_is, select, SELECT);
    MorayCudaUnion all = {.tokens = TOKENS, .n = D_FF, .masks = zeros(8 * TOKENS * WORDS), .list = upload(NULL, 4 * D_FF), .count = upload(NULL, 4)};
    CHECKED(union_is, all, UNION);
}

static void check_by_input(void) {
    enum { K = 1056 }; /* which blocks share */
    static const Field FLOATS[] = {
        FIELD(MorayCudaByInput, "w", w, READ),
        FIELD(MorayCudaByInput, "x", x, READ),
        FIELD(MorayCudaByInput, "bias", bias, READ),
        FIELD(MorayCudaByInput, "residual", residual, READ),
        FIELD(MorayCudaByInput, "y", y, WRITTEN),
    };
    static const Field FOUR_BIT[] = {
        FIELD(MorayCudaByInputFourBit, "rows", weight.rows, READ),
        FIELD(MorayCudaByInputFourBit, "scales", weight.scales, READ),
        FIELD(MorayCudaByInputFourBit, "x", x, READ),
        FIELD(MorayCudaByInputFourBit, "bias", bias, READ),
        FIELD(MorayCudaByInputFourBit, "residual", residual, READ),
        FIELD(MorayCudaByInputFourBit, "y", y, WRITTEN),
        FIELD(MorayCudaByInputFourBit, "workspace", workspace, WRITTEN),
        FIELD(MorayCudaByInputFourBit, "counters", counters, WRITTEN),
    };
    MorayCudaByInput floats = {.dtype = MORAY_F16, .threshold = 0.5f, .m = M, .n = N, .k = K, .w = zeros(2 * N * K), .row_bytes = 2 * N,
                               .x = zeros(4 * M * K), .bias = zeros(4 * N), .residual = zeros(4 * M * N), .y = upload(NULL, 4 * M * N)};
    CHECKED(by_input_is, floats, FLOATS);
    MorayCudaByInputFourBit call = {.threshold = 0.5f, .m = M,
                                    .weight = {N, K, upload(NULL, K * N / 2), upload(NULL, K / 32 * 2 * N * 2), 32, MORAY_OFFSET_F16},
                                    .x = zeros(4 * M * K), .bias = zeros(4 * N), .residual = zeros(4 * M * N), .y = upload(NULL, 4 * M * N),
                                    .counters = upload(NULL, 4)};
    size_t bytes;
    call.struct_size = sizeof call;
    OK(moray_cuda_by_input_four_bit_prepare(cuda, &call, &bytes));
    call.workspace = upload(NULL, bytes);
    CHECKED(four_bit_is, call, FOUR_BIT);
}

#define CACHE(type, is)                                                                                                     \
    FIELD(type, "kv.k", kv.k, is | ROWS), FIELD(type, "kv.v", kv.v, is | ROWS), FIELD(type, "kv.k_scale", kv.k_scale, is),  \
        FIELD(type, "kv.v_scale", kv.v_scale, is), FIELD(type, "kv.present", kv.present, is),                               \
        FIELD(type, "kv.page_table", kv.page_table, READ)
#define SPANS(type)                                                                                                     \
    FIELD(type, "spans.records", spans.records, READ), FIELD(type, "spans.list", spans.list, READ),                     \
        FIELD(type, "spans.counts", spans.counts, READ)

static MorayKvPages pages(void) {
    enum { ROWS_OF_ALL = PAGES * KV_HEADS * PAGE, PRESENT = 4 * SLOTS * KV_HEADS * 2 * CAPACITY / 64 };
    return (MorayKvPages){.dtype = MORAY_INT8, .k = upload(NULL, ROWS_OF_ALL * DIM), .v = upload(NULL, ROWS_OF_ALL * DIM),
                          .k_scale = upload(NULL, 4 * ROWS_OF_ALL), .v_scale = upload(NULL, 4 * ROWS_OF_ALL), .present = upload(NULL, PRESENT),
                          .page_table = zeros(4 * SLOTS * MAX_PAGES), .n_slots = SLOTS, .n_pages = PAGES, .page_size = PAGE, .max_pages = MAX_PAGES,
                          .page_stride = KV_HEADS * PAGE * DIM, .head_stride = PAGE * DIM, .row_stride = DIM, .capacity = CAPACITY};
}

static MorayCudaSpans spans(void) {
    const MorayCudaSpan record = {0, 0, TOKENS, 0};
    return (MorayCudaSpans){.records = lent(upload(&record, sizeof record)), .n_spans = 1, .longest = TOKENS, .rows = TOKENS, .heads = MORAY_HEADS_LIST,
                            .list = zeros(4 * 2), .counts = zeros(4), .width = 2, .n_q_heads = Q_HEADS, .n_kv_heads = KV_HEADS, .head_dim = DIM};
}

static void check_attention(void) {
    static const Field WRITE[] = {
        CACHE(MorayCudaWriteKv, WRITTEN),
        SPANS(MorayCudaWriteKv),
        FIELD(MorayCudaWriteKv, "k", k, READ),
        FIELD(MorayCudaWriteKv, "v", v, READ),
        FIELD(MorayCudaWriteKv, "q", q, READ),
        FIELD(MorayCudaWriteKv, "q_out", q_out, WRITTEN),
        FIELD(MorayCudaWriteKv, "rope", rope, READ),
    };
    static const Field ATTEND[] = {
        CACHE(MorayCudaAttend, READ),
        SPANS(MorayCudaAttend),
        FIELD(MorayCudaAttend, "q", q, READ),
        FIELD(MorayCudaAttend, "out", out, WRITTEN),
        FIELD(MorayCudaAttend, "workspace", workspace, WRITTEN),
    };
    static const Field BOTH[] = {
        CACHE(MorayCudaWriteAttend, WRITTEN),
        SPANS(MorayCudaWriteAttend),
        FIELD(MorayCudaWriteAttend, "q", q, READ),
        FIELD(MorayCudaWriteAttend, "k", k, READ),
        FIELD(MorayCudaWriteAttend, "v", v, READ),
        FIELD(MorayCudaWriteAttend, "rope", rope, READ),
        FIELD(MorayCudaWriteAttend, "out", out, WRITTEN),
        FIELD(MorayCudaWriteAttend, "workspace", workspace, WRITTEN),
        FIELD(MorayCudaWriteAttend, "counters", counters, WRITTEN),
    };
    static const size_t Q = 4 * TOKENS * Q_HEADS * DIM, KV = 4 * TOKENS * KV_HEADS * DIM, ROPE = 4 * CAPACITY * DIM;
    size_t bytes;
    MorayCudaWriteKv write = {.policy = MORAY_KV_HOLE, .kv = pages(), .spans = spans(), .k = zeros(KV), .v = zeros(KV), .kv_stride = KV_HEADS * DIM,
                              .q = zeros(Q), .q_stride = Q_HEADS * DIM, .q_out = upload(NULL, Q), .rope = zeros(ROPE), .context = CAPACITY};
    CHECKED(write_kv_is, write, WRITE);
    MorayCudaAttend attend = {.kv = pages(), .spans = spans(), .max_spans = SLOTS, .q = zeros(Q), .out = upload(NULL, Q)};
    attend.struct_size = sizeof attend;
    OK(moray_cuda_attend_prepare(cuda, &attend, &bytes));
    attend.workspace = upload(NULL, bytes);
    attend_is(&attend, ATTEND, sizeof ATTEND / sizeof ATTEND[0] - (bytes == 0));
    MorayCudaWriteAttend both = {.policy = MORAY_KV_HOLE, .kv = pages(), .spans = spans(), .max_spans = SLOTS, .q = zeros(Q), .q_stride = Q_HEADS * DIM,
                                 .k = zeros(KV), .v = zeros(KV), .kv_stride = KV_HEADS * DIM, .rope = zeros(ROPE), .context = CAPACITY,
                                 .out = upload(NULL, Q), .counters = upload(NULL, 4 * KV_HEADS)};
    both.struct_size = sizeof both;
    OK(moray_cuda_write_attend_prepare(cuda, &both, &bytes));
    both.workspace = upload(NULL, bytes);
    CHECKED(write_attend_is, both, BOTH);
}

int main(void) {
    open_device();
    open_last();
    check_products();
    check_selections();
    check_mlp();
    check_by_input();
    check_attention();
    release(last), release(behind);
    close_device();
    puts("cuda bad input: ok");
    return 0;
}
