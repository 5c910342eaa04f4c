/* The sparse MLP and products by input on a device: every selection, few tokens and many, graphs with other lists, bad input. */
#include "device.h"
#include <math.h>

enum { D_MODEL = 64, D_FF = 96, WORDS = 2, MOST = 10 };

static uint16_t gate[D_FF * D_MODEL], up[D_FF * D_MODEL], down[D_MODEL * D_FF];
static float x[MOST * D_MODEL], residual[MOST * D_MODEL];
static uint32_t list[D_FF];
static uint64_t masks[MOST * WORDS];
static MorayCpu *cpu;
static const MorayMlpShape SHAPE = {D_MODEL, D_FF, MORAY_ACTIVATION_RELU};

/* A whole number of -2 to 2, so that every sum is exact in whatever order, and its bits in bf16. */
static float whole(size_t i) { return floorf(noise(i) * 4.99f + 0.5f); }
static uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)(bits >> 16);
}

typedef struct {
    MorayMlp *mlp;
    MorayMlpWorkspace *workspace;
    MorayCudaMlpWeights weights;
    MorayBytesMut list, count, masks, kept, kept_count, x, residual, y;
} Problem;

static MorayCudaRows *matrix(MorayCudaMlpWeights *weights, int i) {
    return i == 0 ? &weights->gate : i == 1 ? &weights->up : &weights->down;
}

/* Writes the weights into memory of the process, and from there to the device. */
static void upload_weights(Problem *p) {
    MorayCudaMlpWeights host;
    OK(moray_cuda_mlp_sizes(p->mlp, &host));
    p->weights = host;
    for (int i = 0; i < 3; i++) {
        MorayBytesMut *parts[] = {&matrix(&host, i)->rows, &matrix(&host, i)->scales, &matrix(&host, i)->bias};
        for (int j = 0; j < 3; j++)
            if (parts[j]->bytes) parts[j]->data = malloc(parts[j]->bytes);
    }
    OK(moray_cuda_mlp_pack(p->mlp, &host));
    for (int i = 0; i < 3; i++) {
        MorayCudaRows *from = matrix(&host, i), *to = matrix(&p->weights, i);
        to->rows = upload(from->rows.data, from->rows.bytes);
        to->scales = upload(from->scales.data, from->scales.bytes);
        to->bias = upload(from->bias.data, from->bias.bytes);
        free(from->rows.data), free(from->scales.data), free(from->bias.data);
    }
}

static void open_problem(Problem *p) {
    OK(moray_mlp_workspace_create(p->mlp, MOST, &p->workspace));
    upload_weights(p);
    p->list = upload(list, sizeof list), p->count = upload(NULL, 4), p->masks = upload(masks, sizeof masks);
    p->kept = upload(NULL, 4 * D_FF), p->kept_count = upload(NULL, 4);
    p->x = upload(x, sizeof x), p->residual = upload(residual, sizeof residual), p->y = upload(NULL, sizeof x);
}

static void close_problem(Problem *p) {
    for (int i = 0; i < 3; i++) {
        MorayCudaRows *rows = matrix(&p->weights, i);
        release(rows->rows), release(rows->scales), release(rows->bias);
    }
    release(p->list), release(p->count), release(p->masks), release(p->kept), release(p->kept_count);
    release(p->x), release(p->residual), release(p->y);
    moray_mlp_workspace_destroy(p->workspace), moray_mlp_destroy(p->mlp);
}

static void run(void *call) { OK(moray_cuda_mlp(cuda, stream, call)); }

/* A call over the first `tokens` tokens; memory of all is longer, and the call says how much of it is its own. */
static MorayCudaMlp call_of(const Problem *p, MoraySelect kind, MorayScore score, size_t tokens) {
    const MorayCudaSelection selection = {kind, score, lent(p->list), lent(p->count), {p->masks.data, tokens * WORDS * 8}, NONE, 9, 17};
    const size_t bytes = tokens * D_MODEL * sizeof(float);
    MorayCudaMlp call = {sizeof call, MORAY_F32, MORAY_F32, p->weights, selection, tokens, MOST, {p->x.data, bytes},
                         {p->residual.data, bytes}, {p->y.data, bytes}, p->kept, p->kept_count, {NULL, 0}};
    size_t scratch;
    OK(moray_cuda_mlp_prepare(cuda, &call, &scratch));
    call.workspace = upload(NULL, scratch);
    return call;
}

/* What the CPU computes, with so many neurons of the list. */
static void on_cpu(const Problem *p, const MorayCudaMlp *call, uint32_t listed, float *y) {
    const MorayCudaSelection *s = &call->selection;
    const MoraySelection selection = {sizeof selection, s->kind, {list, 4 * listed}, {masks, s->masks.bytes}, s->score, s->threshold, s->k, NONE};
    MorayMlpForward forward = {sizeof forward, p->mlp, p->workspace, &selection, {x, call->x.bytes}, {residual, call->x.bytes}, {y, call->x.bytes}};
    OK(moray_mlp_forward(cpu, &forward));
}

/* The neurons that the call has listed are those that the CPU read. */
static void check_kept(const Problem *p) {
    uint32_t kept[D_FF], count;
    MorayBytes expected;
    download(kept, p->kept), download(&count, p->kept_count);
    OK(moray_mlp_kept(p->workspace, &expected));
    CHECK(expected.bytes == 4 * count && memcmp(kept, expected.data, expected.bytes) == 0);
}

static void check_selections(void) {
    static const struct {
        MoraySelect kind;
        MorayScore score;
    } CASES[] = {{MORAY_SELECT_ALL, 0}, {MORAY_SELECT_LIST, 0}, {MORAY_SELECT_MASKS, 0}, {MORAY_SELECT_UNION, 0},
                 {MORAY_SELECT_THRESHOLD, MORAY_SCORE_HIDDEN}, {MORAY_SELECT_TOP_K, MORAY_SCORE_GATE}, {MORAY_SELECT_TOP_K, MORAY_SCORE_INPUT}};
    Problem p;
    OK(moray_mlp_create(&SHAPE, MORAY_BF16, BYTES(gate), BYTES(up), BYTES(down), NULL, &p.mlp));
    open_problem(&p);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++)
        for (size_t tokens = 2; tokens <= MOST; tokens += MOST - 2) {
            MorayCudaMlp call = call_of(&p, CASES[i].kind, CASES[i].score, tokens);
            /* once as a call, once as a graph with another list than when it was captured */
            for (uint32_t listed = D_FF / 2; listed >= 7; listed -= D_FF / 2 - 7) {
                float expected[MOST * D_MODEL], y[MOST * D_MODEL];
                on_cpu(&p, &call, listed, expected);
                fill(p.count, &listed);
                if (listed == 7) replay(run, &call);
                else run(&call);
                download(y, call.y);
                for (size_t j = 0; j < tokens * D_MODEL; j++) CHECK(y[j] == expected[j]);
                if (call.selection.kind == MORAY_SELECT_MASKS || call.selection.kind == MORAY_SELECT_THRESHOLD) check_kept(&p);
                if (listed == 7) break;
            }
            release(call.workspace);
        }
    close_problem(&p);
}

/* 4 bits: within two steps of the int8 products of what the CPU has. */
static void check_four_bit(void) {
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    MorayQuantized *parts[3];
    static float numbers[3][D_FF * D_MODEL];
    OK(moray_quantize(BYTES(gate), MORAY_BF16, D_FF, D_MODEL, &format, &parts[0]));
    OK(moray_quantize(BYTES(up), MORAY_BF16, D_FF, D_MODEL, &format, &parts[1]));
    OK(moray_quantize(BYTES(down), MORAY_BF16, D_MODEL, D_FF, &format, &parts[2]));
    Problem p;
    OK(moray_mlp_create_quantized(&SHAPE, parts[0], parts[1], parts[2], NULL, &p.mlp));
    for (int i = 0; i < 3; i++) OK(moray_quantized_dequantize(parts[i], BYTES_MUT(numbers[i])));
    for (int i = 0; i < 3; i++) moray_quantized_destroy(parts[i]);
    open_problem(&p);
    MorayCudaMlp call = call_of(&p, MORAY_SELECT_ALL, 0, 2);
    float expected[MOST * D_MODEL], y[MOST * D_MODEL];
    on_cpu(&p, &call, 0, expected);
    run(&call);
    download(y, call.y);
    for (size_t t = 0; t < 2; t++) {
        double most = 0;
        for (size_t j = 0; j < D_FF; j++) {
            double g = 0, u = 0;
            for (size_t i = 0; i < D_MODEL; i++) {
                g += numbers[0][j * D_MODEL + i] * x[t * D_MODEL + i];
                u += numbers[1][j * D_MODEL + i] * x[t * D_MODEL + i];
            }
            most = fmax(most, fabs(g * u));
        }
        for (size_t n = 0; n < D_MODEL; n++) {
            double weights = 0;
            for (size_t j = 0; j < D_FF; j++) weights += fabs(numbers[2][n * D_FF + j]);
            /* a product of another order may round to the next code: of all of them a step is what that makes at most */
            CHECK(fabs(y[t * D_MODEL + n] - expected[t * D_MODEL + n]) <= 2 * most / 127 * weights / D_FF + 1e-4 * most);
        }
    }
    release(call.workspace), close_problem(&p);
}

/* The parts of a call, with a choice by the gate between them or without. */
typedef struct {
    MorayCudaMlpGateUp gate, products;
    MorayCudaSelect select;
    MorayCudaUnion all;
    MorayCudaMlpDown down;
    int by_gate;
} Parts;

static void run_parts(void *of) {
    const Parts *parts = of;
    if (parts->by_gate) {
        OK(moray_cuda_mlp_gate_up(cuda, stream, &parts->gate));
        OK(moray_cuda_select(cuda, stream, &parts->select));
        OK(moray_cuda_union(cuda, stream, &parts->all));
    }
    OK(moray_cuda_mlp_gate_up(cuda, stream, &parts->products));
    OK(moray_cuda_mlp_down(cuda, stream, &parts->down));
}

static Parts parts_of(const Problem *p, const MorayCudaMlp *call, MorayBytesMut gate_there, MorayBytesMut hidden_there) {
    const size_t tokens = call->tokens, bytes = tokens * D_FF * sizeof(float);
    const MorayBytesMut values = {gate_there.data, bytes}, products = {hidden_there.data, bytes};
    const MoraySelect kind = call->selection.kind;
    const int listed = kind == MORAY_SELECT_LIST || kind == MORAY_SELECT_UNION, by_gate = kind == MORAY_SELECT_TOP_K;
    Parts parts = {.by_gate = by_gate};
    parts.gate = (MorayCudaMlpGateUp){.struct_size = sizeof parts.gate, .x_dtype = MORAY_F32, .weights = p->weights, .tokens = tokens,
                                      .max_tokens = MOST, .x = call->x, .gate = values};
    size_t scratch, again;
    OK(moray_cuda_mlp_gate_up_prepare(cuda, &parts.gate, &scratch));
    parts.gate.workspace = upload(NULL, scratch);
    parts.products = parts.gate, parts.products.hidden = products, parts.products.gate_is_given = (uint32_t)by_gate;
    if (listed) parts.products.list = lent(p->list), parts.products.count = lent(p->count);
    if (by_gate) parts.products.list = lent(p->kept), parts.products.count = lent(p->kept_count);
    if (by_gate || kind == MORAY_SELECT_UNION) parts.products.masks = (MorayBytes){p->masks.data, tokens * WORDS * 8};
    parts.select = (MorayCudaSelect){.struct_size = sizeof parts.select, .kind = MORAY_SELECT_TOP_K, .k = call->selection.k, .tokens = tokens, .n = D_FF,
                                     .values = lent(values), .stride = D_FF, .masks = {p->masks.data, tokens * WORDS * 8}};
    parts.all = (MorayCudaUnion){sizeof parts.all, tokens, D_FF, {p->masks.data, tokens * WORDS * 8}, p->kept, p->kept_count};
    parts.down = (MorayCudaMlpDown){.struct_size = sizeof parts.down, .y_dtype = MORAY_F32, .weights = p->weights, .list = parts.products.list,
                                    .count = parts.products.count, .tokens = tokens, .max_tokens = MOST, .hidden = lent(products),
                                    .residual = call->residual, .y = call->y};
    OK(moray_cuda_mlp_down_prepare(cuda, &parts.down, &again));
    CHECK(scratch == again);
    parts.down.workspace = parts.gate.workspace;
    OK(moray_cuda_select_prepare(cuda, &parts.select));
    OK(moray_cuda_union_prepare(cuda, &parts.all));
    return parts;
}

static void check_bad_parts(const Parts *parts) {
#define FIRST(code, words, ...)                                       \
    do {                                                              \
        MorayCudaMlpGateUp call = parts->products;                    \
        __VA_ARGS__;                                                  \
        REFUSED(code, words, moray_cuda_mlp_gate_up(cuda, stream, &call)); \
    } while (0)
#define LAST(code, words, ...)                                        \
    do {                                                              \
        MorayCudaMlpDown call = parts->down;                          \
        __VA_ARGS__;                                                  \
        REFUSED(code, words, moray_cuda_mlp_down(cuda, stream, &call)); \
    } while (0)
    FIRST(MORAY_STATUS_VERSION, "struct_size", call.struct_size = 1);
    FIRST(MORAY_STATUS_UNSUPPORTED, "gate_is_given: expected 0 or 1, got 2", call.gate_is_given = 2);
    FIRST(MORAY_STATUS_NULL, "hidden", call.gate_is_given = 1, call.hidden = (MorayBytesMut){NULL, 0});
    FIRST(MORAY_STATUS_LENGTH, "hidden: expected", call.hidden.bytes -= 4);
    FIRST(MORAY_STATUS_LENGTH, "gate: expected", call.gate.bytes -= 4);
    FIRST(MORAY_STATUS_LENGTH, "list: expected 96 elements, got 95", call.list.bytes -= 4);
    FIRST(MORAY_STATUS_NULL, "count", call.count = NONE);
    FIRST(MORAY_STATUS_LENGTH, "workspace", call.workspace.bytes -= 256);
    FIRST(MORAY_STATUS_SHAPE, "tokens", call.tokens = MOST + 1);
    FIRST(MORAY_STATUS_SHAPE, "max_tokens", call.max_tokens = 0);
    FIRST(MORAY_STATUS_SHAPE, "d_ff", call.weights.shape.d_ff = (size_t)1 << 62);
    FIRST(MORAY_STATUS_OVERLAP, "hidden", call.hidden.data = call.gate.data);
    FIRST(MORAY_STATUS_OVERLAP, "gate", call.gate.data = (void *)call.x.data);
    LAST(MORAY_STATUS_VERSION, "struct_size", call.struct_size = 1);
    LAST(MORAY_STATUS_LENGTH, "hidden: expected", call.hidden.bytes -= 4);
    LAST(MORAY_STATUS_NULL, "hidden", call.hidden.data = NULL);
    LAST(MORAY_STATUS_LENGTH, "y: expected", call.y.bytes -= 4);
    LAST(MORAY_STATUS_LENGTH, "workspace", call.workspace.bytes = 8);
    LAST(MORAY_STATUS_UNSUPPORTED, "weights.format", call.weights.format = 9);
    LAST(MORAY_STATUS_UNSUPPORTED, "dtype", call.y_dtype = 9);
    LAST(MORAY_STATUS_OVERLAP, "y", call.y.data = (void *)call.residual.data);
}

/* The parts have the bits of the whole call, few tokens and many, once as calls and once as a graph with another list. */
static void check_parts_of(MorayMlp *mlp) {
    static const MoraySelect KINDS[] = {MORAY_SELECT_ALL, MORAY_SELECT_LIST, MORAY_SELECT_UNION, MORAY_SELECT_TOP_K};
    Problem p = {.mlp = mlp};
    open_problem(&p);
    MorayBytesMut gate_there = upload(NULL, MOST * D_FF * sizeof(float)), hidden_there = upload(NULL, MOST * D_FF * sizeof(float));
    for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++)
        for (size_t tokens = 2; tokens <= MOST; tokens += MOST - 2) {
            MorayCudaMlp call = call_of(&p, KINDS[i], MORAY_SCORE_GATE, tokens);
            Parts parts = parts_of(&p, &call, gate_there, hidden_there);
            for (uint32_t listed = D_FF / 2; listed >= 7; listed -= D_FF / 2 - 7) {
                float expected[MOST * D_MODEL], y[MOST * D_MODEL];
                static const float nothing[MOST * D_MODEL];
                fill(p.count, &listed), fill(p.masks, masks);
                run(&call), download(expected, call.y);
                fill(call.y, nothing);
                if (listed == 7) replay(run_parts, &parts);
                else run_parts(&parts);
                download(y, call.y);
                CHECK(memcmp(y, expected, call.y.bytes) == 0);
                if (listed == 7) break;
            }
            if (KINDS[i] == MORAY_SELECT_LIST) check_bad_parts(&parts);
            release(call.workspace), release(parts.gate.workspace);
        }
    release(gate_there), release(hidden_there);
    close_problem(&p);
}

static void check_parts(void) {
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    MorayQuantized *parts[3];
    MorayMlp *plain, *four_bit;
    OK(moray_mlp_create(&SHAPE, MORAY_BF16, BYTES(gate), BYTES(up), BYTES(down), NULL, &plain));
    check_parts_of(plain);
    OK(moray_quantize(BYTES(gate), MORAY_BF16, D_FF, D_MODEL, &format, &parts[0]));
    OK(moray_quantize(BYTES(up), MORAY_BF16, D_FF, D_MODEL, &format, &parts[1]));
    OK(moray_quantize(BYTES(down), MORAY_BF16, D_MODEL, D_FF, &format, &parts[2]));
    OK(moray_mlp_create_quantized(&SHAPE, parts[0], parts[1], parts[2], NULL, &four_bit));
    for (int i = 0; i < 3; i++) moray_quantized_destroy(parts[i]);
    check_parts_of(four_bit);
}

static void check_bad_input(void) {
    Problem p;
    OK(moray_mlp_create(&SHAPE, MORAY_BF16, BYTES(gate), BYTES(up), BYTES(down), NULL, &p.mlp));
    open_problem(&p);
    const MorayCudaMlp good = call_of(&p, MORAY_SELECT_MASKS, MORAY_SCORE_GATE, 2);
#define WRONG(code, words, ...)                              \
    do {                                                        \
        MorayCudaMlp call = good;                               \
        __VA_ARGS__;                                             \
        REFUSED(code, words, moray_cuda_mlp(cuda, stream, &call)); \
    } while (0)
    WRONG(MORAY_STATUS_LENGTH, "gate.rows: expected 12288 elements, got 12286", call.weights.gate.rows.bytes -= 2);
    WRONG(MORAY_STATUS_LENGTH, "selection.masks: expected 8 elements, got 4", call.selection.masks.bytes /= 2);
    WRONG(MORAY_STATUS_LENGTH, "workspace", call.workspace.bytes /= 2);
    WRONG(MORAY_STATUS_LENGTH, "x: expected 128 elements, got 64", call.x.bytes /= 2);
    WRONG(MORAY_STATUS_NULL, "expected an address, got null", call.kept = (MorayBytesMut){NULL, 0});
    WRONG(MORAY_STATUS_NULL, "workspace", call.workspace.data = NULL);
    WRONG(MORAY_STATUS_MISALIGNED, "x", call.x.data = past(call.x.data, 4));
    WRONG(MORAY_STATUS_OVERLAP, "y: expected memory of its own, got memory that overlaps x", call.y.data = p.x.data);
    WRONG(MORAY_STATUS_SHAPE, "tokens", call.tokens = MOST + 1);
    WRONG(MORAY_STATUS_SHAPE, "max_tokens", call.max_tokens = 513);
    WRONG(MORAY_STATUS_SHAPE, "d_model", call.weights.shape.d_model = 12);
    WRONG(MORAY_STATUS_UNSUPPORTED, "weights.format", call.weights.format = 9);
    WRONG(MORAY_STATUS_UNSUPPORTED, "selection.kind", call.selection.kind = 9);
    WRONG(MORAY_STATUS_UNSUPPORTED, "shape.activation", call.weights.shape.activation = 9);
    WRONG(MORAY_STATUS_VALUE, "threshold", call.selection.kind = MORAY_SELECT_THRESHOLD, call.selection.threshold = -1);
    WRONG(MORAY_STATUS_SHAPE, "k: expected", call.selection.kind = MORAY_SELECT_TOP_K, call.selection.k = D_FF + 1);
    WRONG(MORAY_STATUS_VERSION, "struct_size", call.struct_size = 1);
    MorayCudaMlp call = good;
    float y[MOST * D_MODEL];
    on_cpu(&p, &call, 0, y);
    run(&call), check_kept(&p);
    release(call.workspace), close_problem(&p);
    MorayMlp *wide;
    static float floats[3][D_FF * D_MODEL];
    MorayCudaMlpWeights sizes;
    OK(moray_mlp_create(&SHAPE, MORAY_F32, BYTES(floats[0]), BYTES(floats[1]), BYTES(floats[2]), NULL, &wide));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "f16, bf16 or 4 bits", moray_cuda_mlp_sizes(wide, &sizes));
    moray_mlp_destroy(wide);
}

/* Masks from scores and the list of their union, as a graph: a predictor's choice without the CPU. */
typedef struct {
    MorayCudaSelect select;
    MorayCudaUnion all;
} Choice;

static void choose(void *choice) {
    const Choice *c = choice;
    OK(moray_cuda_select(cuda, stream, &c->select));
    OK(moray_cuda_union(cuda, stream, &c->all));
}

static void check_choice(void) {
    enum { TOKENS = 3, STRIDE = 100 };
    float values[TOKENS * STRIDE], scale[D_FF];
    for (size_t i = 0; i < TOKENS * STRIDE; i++) values[i] = noise(i);
    for (size_t i = 0; i < D_FF; i++) scale[i] = 1 + noise(i + 9);
    MorayBytesMut values_there = upload(values, sizeof values), scale_there = upload(scale, sizeof scale);
    MorayBytesMut masks_there = upload(NULL, TOKENS * WORDS * 8), list_there = upload(NULL, 4 * D_FF), count_there = upload(NULL, 4);
    Choice c = {{sizeof c.select, MORAY_SELECT_TOP_K, 0.3f, 11, TOKENS, D_FF, lent(values_there), STRIDE, lent(scale_there), masks_there},
                {sizeof c.all, TOKENS, D_FF, lent(masks_there), list_there, count_there}};
    OK(moray_cuda_select_prepare(cuda, &c.select));
    OK(moray_cuda_union_prepare(cuda, &c.all));
    for (int by_threshold = 0; by_threshold < 2; by_threshold++) {
        uint64_t got[TOKENS * WORDS];
        uint32_t got_list[D_FF], got_count, count = 0;
        c.select.kind = by_threshold ? MORAY_SELECT_THRESHOLD : MORAY_SELECT_TOP_K;
        replay(choose, &c);
        download(got, masks_there), download(got_list, list_there), download(&got_count, count_there);
        for (uint32_t j = 0; j < D_FF; j++) {
            int any = 0;
            for (size_t t = 0; t < TOKENS; t++) {
                const float score = fabsf(values[t * STRIDE + j]) * scale[j];
                size_t above = 0;
                for (size_t i = 0; i < D_FF; i++) above += fabsf(values[t * STRIDE + i]) * scale[i] > score;
                const int kept = by_threshold ? score > 0.3f : above < 11;
                CHECK((int)(got[t * WORDS + j / 64] >> j % 64 & 1) == kept);
                any |= kept;
            }
            if (any) CHECK(count < got_count && got_list[count++] == j);
        }
        CHECK(count == got_count);
    }
    c.select.kind = MORAY_SELECT_LIST;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "kind", moray_cuda_select(cuda, stream, &c.select));
    c.select.kind = MORAY_SELECT_TOP_K, c.select.k = 0;
    REFUSED(MORAY_STATUS_SHAPE, "k: expected", moray_cuda_select(cuda, stream, &c.select));
    c.select.k = 11, c.select.stride = D_FF - 1;
    REFUSED(MORAY_STATUS_SHAPE, "stride", moray_cuda_select(cuda, stream, &c.select));
    c.select.stride = STRIDE, c.select.masks.bytes -= 8;
    REFUSED(MORAY_STATUS_LENGTH, "masks: expected 12 elements, got 10", moray_cuda_select(cuda, stream, &c.select));
    c.all.list.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "list: expected 96 elements, got 95", moray_cuda_union(cuda, stream, &c.all));
    c.all.list.bytes += 4, c.all.count.data = list_there.data;
    REFUSED(MORAY_STATUS_OVERLAP, "list", moray_cuda_union(cuda, stream, &c.all));
    release(values_there), release(scale_there), release(masks_there), release(list_there), release(count_there);
}

/* y over the inputs above a threshold: 9 tokens against the definition, and each alone, bit for bit. */
static void check_by_input(void) {
    enum { M = 9, N = 40, K = 70, ROW = 96 };
    static uint16_t w[K * ROW / 2];
    static float in[M * K], bias[N], y[M * N], one[N];
    for (size_t i = 0; i < K * ROW / 2; i++) w[i] = narrow(noise(i + 5));
    for (size_t i = 0; i < M * K; i++) in[i] = noise(i + 55);
    for (size_t i = 0; i < N; i++) bias[i] = noise(i + 555);
    MorayBytesMut w_there = upload(w, sizeof w), x_there = upload(in, sizeof in), bias_there = upload(bias, sizeof bias), y_there = upload(NULL, sizeof y);
    MorayCudaByInput call = {sizeof call, MORAY_BF16, 0.2f, M, N, K, lent(w_there), ROW, lent(x_there), lent(bias_there), NONE, y_there};
    OK(moray_cuda_by_input_prepare(cuda, &call));
    OK(moray_cuda_by_input(cuda, stream, &call));
    download(y, y_there);
    for (size_t m = 0; m < M; m++) {
        for (size_t n = 0; n < N; n++) {
            double sum = bias[n], size = 1;
            for (size_t k = 0; k < K; k++) {
                uint32_t bits = (uint32_t)w[k * ROW / 2 + n] << 16;
                float weight;
                memcpy(&weight, &bits, 4);
                if (fabsf(in[m * K + k]) > 0.2f) sum += in[m * K + k] * weight, size += fabs(in[m * K + k] * weight);
            }
            /* K + 1 roundings of at most `size` */
            CHECK(fabs(sum - y[m * N + n]) <= (K + 1) * 6e-8 * size);
        }
        call.m = 1;
        call.x = (MorayBytes){past(x_there.data, m * K * 4), K * 4};
        call.y = (MorayBytesMut){y_there.data, sizeof one};
        OK(moray_cuda_by_input(cuda, stream, &call));
        download(one, call.y);
        CHECK(memcmp(one, y + m * N, sizeof one) == 0);
    }
    call.row_bytes = 88;
    REFUSED(MORAY_STATUS_SHAPE, "row_bytes", moray_cuda_by_input(cuda, stream, &call));
    call.row_bytes = ROW, call.w.bytes -= 32;
    REFUSED(MORAY_STATUS_LENGTH, "w: expected", moray_cuda_by_input(cuda, stream, &call));
    call.w.bytes += 32, call.threshold = NAN;
    REFUSED(MORAY_STATUS_VALUE, "threshold", moray_cuda_by_input(cuda, stream, &call));
    release(w_there), release(x_there), release(bias_there), release(y_there);
}

/* 4 bits: 9 tokens with the bits of the CPU, and each alone. */
static void check_by_input_four_bit(void) {
    enum { M = 9, N = 40, K = 1056 };
    static float w[N * K], in[M * K], bias[N], added[M * N], y[M * N], one[N], expected[M * N];
    for (size_t i = 0; i < N * K; i++) w[i] = noise(i + 7);
    for (size_t i = 0; i < M * K; i++) in[i] = noise(i + 77);
    for (size_t i = 0; i < N; i++) bias[i] = noise(i + 777);
    for (size_t i = 0; i < M * N; i++) added[i] = noise(i + 7777);
    MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    MorayQuantized *plain;
    MorayInputWeight *weight, *floats;
    MorayInputWorkspace *room;
    OK(moray_quantize((MorayBytes){w, sizeof w}, MORAY_F32, N, K, &format, &plain));
    OK(moray_input_weight_create_quantized(plain, &weight));
    OK(moray_input_weight_create((MorayBytes){w, sizeof w}, MORAY_F32, N, K, &floats));
    OK(moray_input_workspace_create(weight, M, &room));
    MorayByInput host = {sizeof host, 0.2f, weight, room, {in, sizeof in}, {bias, sizeof bias}, {added, sizeof added}, {expected, sizeof expected}, 0, 0};
    OK(moray_by_input(cpu, &host));
    MorayCudaInputRows sizes;
    OK(moray_cuda_input_rows_sizes(weight, &sizes));
    CHECK(sizes.n == N && sizes.k == K && sizes.group_size == 32 && sizes.offset == MORAY_OFFSET_F16);
    CHECK(sizes.rows.bytes == K * 64 / 2 && sizes.scales.bytes == K / 32 * 2 * 64 * 2);
    MorayCudaInputRows packed = sizes;
    packed.rows.data = malloc(sizes.rows.bytes), packed.scales.data = malloc(sizes.scales.bytes);
    OK(moray_cuda_input_rows_pack(weight, &packed));
    MorayCudaInputRows there = sizes;
    there.rows = upload(packed.rows.data, packed.rows.bytes), there.scales = upload(packed.scales.data, packed.scales.bytes);
    MorayBytesMut x_there = upload(in, sizeof in), bias_there = upload(bias, sizeof bias), added_there = upload(added, sizeof added), y_there = upload(NULL, sizeof y);
    MorayCudaByInputFourBit call = {sizeof call, 0.2f, M, there, lent(x_there), lent(bias_there), lent(added_there), y_there, {NULL, 0}, upload(NULL, 4)};
    size_t bytes, least;
    OK(moray_cuda_by_input_four_bit_prepare(cuda, &call, &least));
    call.m = 8;
    OK(moray_cuda_by_input_four_bit_prepare(cuda, &call, &bytes));
    call.m = M;
    CHECK(least > 0 && bytes > least);
    call.workspace = upload(NULL, bytes);
    OK(moray_cuda_by_input_four_bit(cuda, stream, &call));
    download(y, y_there);
    CHECK(memcmp(y, expected, sizeof y) == 0);
    for (size_t m = 0; m < M; m++) {
        call.m = 1;
        call.x = (MorayBytes){past(x_there.data, m * K * 4), K * 4};
        call.residual = (MorayBytes){past(added_there.data, m * N * 4), N * 4};
        call.y = (MorayBytesMut){y_there.data, sizeof one};
        OK(moray_cuda_by_input_four_bit_prepare(cuda, &call, &bytes));
        OK(moray_cuda_by_input_four_bit(cuda, stream, &call));
        download(one, call.y);
        CHECK(memcmp(one, expected + m * N, sizeof one) == 0);
    }
    call.weight.offset = 9;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "offset", moray_cuda_by_input_four_bit(cuda, stream, &call));
    call.weight.offset = there.offset, call.weight.group_size = 96;
    REFUSED(MORAY_STATUS_SHAPE, "group_size", moray_cuda_by_input_four_bit(cuda, stream, &call));
    size_t whole = call.workspace.bytes;
    call.weight.group_size = there.group_size, call.workspace.bytes = 8;
    REFUSED(MORAY_STATUS_LENGTH, "workspace", moray_cuda_by_input_four_bit(cuda, stream, &call));
    call.workspace.bytes = whole, call.weight.rows.bytes -= 16;
    REFUSED(MORAY_STATUS_LENGTH, "rows", moray_cuda_by_input_four_bit(cuda, stream, &call));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "weight: expected one of 4 bits", moray_cuda_input_rows_sizes(floats, &sizes));
    packed.rows.bytes -= 1;
    REFUSED(MORAY_STATUS_LENGTH, "rows", moray_cuda_input_rows_pack(weight, &packed));
    release(there.rows), release(there.scales), release(x_there), release(bias_there), release(added_there), release(y_there);
    release(call.workspace), release(call.counters);
    free(packed.rows.data), free(packed.scales.data);
    moray_input_workspace_destroy(room);
    moray_input_weight_destroy(weight), moray_input_weight_destroy(floats);
    moray_quantized_destroy(plain);
}

int main(void) {
    for (size_t i = 0; i < D_FF * D_MODEL; i++) {
        gate[i] = narrow(whole(i)), up[i] = narrow(whole(i + 100000)), down[i] = narrow(whole(i + 200000));
    }
    for (size_t i = 0; i < MOST * D_MODEL; i++) x[i] = whole(i + 300000), residual[i] = whole(i + 400000);
    for (uint32_t i = 0; i < D_FF; i++) list[i] = 2 * i % D_FF;
    for (size_t i = 0; i < MOST * WORDS; i++) masks[i] = (0x9249249249249249u << i % 3) & (i % WORDS ? 0xffffffffu : ~(uint64_t)0);
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    open_device();
    check_selections();
    check_four_bit();
    check_parts();
    check_bad_input();
    check_choice();
    check_by_input();
    check_by_input_four_bit();
    close_device();
    moray_cpu_destroy(cpu);
    puts("cuda mlp: ok");
    return 0;
}
