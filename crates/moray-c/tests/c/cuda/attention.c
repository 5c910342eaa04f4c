/* Keys, values and attention on a device, over pages that keys and values share: the CPU's results, graphs, bad input. */
#include "device.h"
#include <math.h>

enum { Q_HEADS = 4, KV_HEADS = 2, DIM = 16, LEN = 270, SLOTS = 2, PAGE = 16, CAPACITY = 320, MAX_PAGES = CAPACITY / PAGE, PAGES = 2 * MAX_PAGES };
enum { Q = Q_HEADS * DIM, KV = KV_HEADS * DIM };

static float q[LEN * Q], k[LEN * KV], v[LEN * KV];
static MorayCpu *cpu;
static MorayAttention *attention;

typedef struct {
    MorayKvCache *cache;
    MorayCudaWriteKv write;
    MorayCudaAttend attend;
    MorayBytesMut memory, scales, table, records, list, counts, k, v, q, out;
} Problem;

static size_t element_bytes(MorayDtype dtype) { return dtype == MORAY_F32 ? 4 : dtype == MORAY_INT8 ? 1 : 2; }

static MorayBytesMut part(MorayBytesMut memory, size_t begin, size_t bytes) {
    return (MorayBytesMut){past(memory.data, begin), bytes};
}

/* A page has PAGE keys and then PAGE values; a slot's pages are in no order. */
static MorayKvPages open_cache(Problem *p, MorayDtype dtype) {
    const size_t element = element_bytes(dtype), page = 2 * PAGE * KV, scales = sizeof(float) * PAGES * KV_HEADS * PAGE;
    uint32_t table[SLOTS * MAX_PAGES];
    for (uint32_t i = 0; i < SLOTS * MAX_PAGES; i++) table[i] = i * 7 % PAGES;
    p->memory = upload(NULL, PAGES * page * element);
    p->table = upload(table, sizeof table);
    p->scales = dtype == MORAY_INT8 ? upload(NULL, 2 * scales) : (MorayBytesMut){NULL, 0};
    MorayKvPages kv = {0};
    kv.dtype = dtype;
    kv.k = part(p->memory, 0, p->memory.bytes);
    kv.v = part(p->memory, PAGE * KV * element, p->memory.bytes - PAGE * KV * element);
    if (dtype == MORAY_INT8) kv.k_scale = part(p->scales, 0, scales), kv.v_scale = part(p->scales, scales, scales);
    kv.page_table = lent(p->table);
    kv.n_slots = SLOTS, kv.n_pages = PAGES, kv.page_size = PAGE, kv.max_pages = MAX_PAGES, kv.capacity = CAPACITY;
    kv.page_stride = page, kv.head_stride = DIM, kv.row_stride = KV;
    return kv;
}

static void open_problem(Problem *p, MorayDtype dtype) {
    const MorayKvShape shape = {1, SLOTS, KV_HEADS, DIM, CAPACITY};
    OK(moray_kv_cache_create(&shape, dtype, &p->cache));
    const uint32_t list[] = {0, 3}, count = 2;
    p->records = upload(NULL, sizeof(MorayCudaSpan)), p->list = upload(list, sizeof list), p->counts = upload(&count, 4);
    p->k = upload(k, sizeof k), p->v = upload(v, sizeof v), p->q = upload(q, sizeof q), p->out = upload(NULL, sizeof q);
    const MorayKvPages kv = open_cache(p, dtype);
    MorayCudaSpans spans = {0};
    spans.records = lent(p->records), spans.n_spans = 1;
    spans.n_q_heads = Q_HEADS, spans.n_kv_heads = KV_HEADS, spans.head_dim = DIM;
    p->write = (MorayCudaWriteKv){.struct_size = sizeof p->write, .kv = kv, .spans = spans, .kv_stride = KV};
    p->attend = (MorayCudaAttend){.struct_size = sizeof p->attend, .kv = kv, .spans = spans, .max_spans = SLOTS};
}

static void close_problem(Problem *p) {
    release(p->memory), release(p->scales), release(p->table), release(p->records), release(p->list), release(p->counts);
    release(p->k), release(p->v), release(p->q), release(p->out);
    moray_kv_cache_destroy(p->cache);
}

/* The calls of so many tokens from a position on. */
static void aim(Problem *p, uint32_t start, uint32_t len, MorayHeads heads) {
    const MorayCudaSpan record = {1, start, len, 0};
    fill(p->records, &record);
    MorayCudaSpans *both[] = {&p->write.spans, &p->attend.spans};
    for (int i = 0; i < 2; i++) {
        both[i]->longest = both[i]->rows = len, both[i]->heads = heads, both[i]->width = 2;
        both[i]->list = heads == MORAY_HEADS_LIST ? lent(p->list) : NONE;
        both[i]->counts = heads == MORAY_HEADS_LIST ? lent(p->counts) : NONE;
    }
    p->write.k = lent(part(p->k, start * KV * 4, len * KV * 4));
    p->write.v = lent(part(p->v, start * KV * 4, len * KV * 4));
    p->attend.q = lent(part(p->q, start * Q * 4, len * Q * 4));
    p->attend.out = part(p->out, start * Q * 4, len * Q * 4);
    size_t bytes;
    OK(moray_cuda_write_kv_prepare(cuda, &p->write));
    OK(moray_cuda_attend_prepare(cuda, &p->attend, &bytes));
    p->attend.workspace = upload(NULL, bytes);
}

static void run(void *problem) {
    const Problem *p = problem;
    OK(moray_cuda_write_kv(cuda, stream, &p->write));
    OK(moray_cuda_attend(cuda, stream, &p->attend));
}

static void check_step(Problem *p, size_t start, size_t len, MorayHeads heads) {
    const MoraySpan span = {1, start, len};
    const uint32_t list[] = {0, 3}, counts[] = {2};
    MorayAttend call = {sizeof call, heads, attention, p->cache, 0, &span, 1, NONE, NONE, 0, 0, 0, 0, NULL};
    if (heads == MORAY_HEADS_LIST) call.list = BYTES(list), call.counts = BYTES(counts);
    static float expected[LEN * Q], got[LEN * Q];
    const size_t kv_bytes = len * KV * 4, q_bytes = len * Q * 4;
    OK(moray_write_kv(cpu, &call, MORAY_KV_WRITE_ALL, (MorayBytes){k + start * KV, kv_bytes}, (MorayBytes){v + start * KV, kv_bytes}));
    OK(moray_attend(cpu, &call, (MorayBytes){q + start * Q, q_bytes}, (MorayBytesMut){expected, q_bytes}));
    download(got, p->attend.out);
    /* the same stored numbers; q and weights have 11 bits on the matrix units: with numbers up to 1/2 a score moves by 16 / 4 / 4 of 2^-12,
       a weight by twice that of its own and once for its rounding, and f32 adds less than as much again */
    for (size_t i = 0; i < len * Q; i++) CHECK(fabs(got[i] - expected[i]) <= 0.5 * 4 / 4096);
    int skipped = 0;
    for (size_t i = DIM; i < 2 * DIM; i++) skipped += got[i] == 0;
    CHECK((skipped == DIM) == (heads == MORAY_HEADS_LIST));
    release(p->attend.workspace);
}

/* The value of an f16. */
static double widen(uint16_t half) {
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    const double size = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half >> 15 ? -size : size;
}

/* Keys and values are where pages and strides say, rounded as the CPU's cache has them. */
static void check_rows(const Problem *p) {
    static uint16_t memory[PAGES * 2 * PAGE * KV];
    download(memory, p->memory);
    for (size_t position = 0; position < LEN; position += 23) {
        const size_t page = (MAX_PAGES + position / PAGE) * 7 % PAGES, kv_head = position % KV_HEADS;
        const size_t row = page * 2 * PAGE * KV + position % PAGE * KV + kv_head * DIM;
        float key[DIM], value[DIM];
        uint32_t held;
        MorayKvRow at = {0, 1, kv_head, position};
        OK(moray_kv_cache_read(p->cache, &at, BYTES_MUT(key), BYTES_MUT(value), &held));
        for (size_t i = 0; i < DIM; i++) {
            CHECK(widen(memory[row + i]) == key[i]);
            CHECK(widen(memory[row + PAGE * KV + i]) == value[i]);
        }
    }
}

/* A prompt, then one token more: as a call, and as a graph. */
static void check_type(MorayDtype dtype) {
    Problem p;
    open_problem(&p, dtype);
    aim(&p, 0, LEN - 2, MORAY_HEADS_ALL), run(&p), check_step(&p, 0, LEN - 2, MORAY_HEADS_ALL);
    aim(&p, LEN - 2, 1, MORAY_HEADS_LIST), run(&p), check_step(&p, LEN - 2, 1, MORAY_HEADS_LIST);
    aim(&p, LEN - 1, 1, MORAY_HEADS_ALL), replay(run, &p), check_step(&p, LEN - 1, 1, MORAY_HEADS_ALL);
    if (dtype == MORAY_F16) check_rows(&p);
    close_problem(&p);
}

/* The call that is both of `run`, of these keys and values and queries in f32. */
static MorayCudaWriteAttend both_of(const Problem *p) {
    const MorayCudaWriteKv *write = &p->write;
    MorayCudaWriteAttend call = {.struct_size = sizeof call, .policy = write->policy, .kv = write->kv, .spans = write->spans,
                                 .max_spans = p->attend.max_spans, .q = p->attend.q, .q_stride = Q, .k = write->k, .v = write->v,
                                 .kv_stride = KV, .out = p->attend.out};
    return call;
}

static void run_both(void *call) { OK(moray_cuda_write_attend(cuda, stream, call)); }

/* Steps together have the output and the cache of the two calls, bit for bit: in one launch that merges, with a launch that does, in two. */
static void check_together(MorayDtype dtype, size_t len) {
    static float expected[LEN * Q], got[LEN * Q], turned[LEN * Q];
    static char cache[2][PAGES * 2 * PAGE * KV * 4];
    float rope[CAPACITY * DIM];
    for (size_t position = 0; position < CAPACITY; position++)
        for (size_t i = 0; i < DIM / 2; i++) {
            rope[position * DIM + i] = (float)cos((double)position / (1 + i));
            rope[position * DIM + DIM / 2 + i] = (float)sin((double)position / (1 + i));
        }
    MorayBytesMut table = upload(rope, sizeof rope), q_out = upload(turned, sizeof turned);
    Problem two, one;
    open_problem(&two, dtype), open_problem(&one, dtype);
    Problem *each[] = {&two, &one};
    uint32_t zeros[SLOTS * KV_HEADS] = {0}, left[SLOTS * KV_HEADS];
    MorayBytesMut counters = upload(zeros, sizeof zeros);
    const size_t before = LEN - 3 * len;
    for (int i = 0; i < 2; i++) {
        aim(each[i], 0, before, MORAY_HEADS_ALL), run(each[i]);
        DRIVER(cuStreamSynchronize(stream));
        release(each[i]->attend.workspace);
    }
    for (size_t step = 0; step < 3; step++) {
        const size_t start = before + step * len, q_bytes = len * Q * 4;
        const MorayHeads heads = step == 1 ? MORAY_HEADS_LIST : MORAY_HEADS_ALL;
        for (int i = 0; i < 2; i++) aim(each[i], start, len, heads);
        two.write.rope = lent(table), two.write.context = CAPACITY;
        two.write.q = two.attend.q, two.write.q_stride = Q;
        two.write.q_out = part(q_out, 0, q_bytes), two.attend.q = lent(two.write.q_out);
        run(&two), download(expected, two.attend.out);
        MorayCudaWriteAttend call = both_of(&one);
        call.rope = lent(table), call.context = CAPACITY;
        if (step != 2) call.counters = counters;
        size_t bytes = 0;
        OK(moray_cuda_write_attend_prepare(cuda, &call, &bytes));
        MorayBytesMut workspace = call.workspace = upload(NULL, bytes);
        DRIVER(cuMemsetD8((uintptr_t)call.out.data, 0xff, call.out.bytes));
        step == 1 ? replay(run_both, &call) : run_both(&call);
        download(got, call.out);
        CHECK(memcmp(got, expected, q_bytes) == 0);
        download(left, counters);
        CHECK(memcmp(left, zeros, sizeof zeros) == 0);
        for (int i = 0; i < 2; i++) download(cache[i], each[i]->memory), release(each[i]->attend.workspace);
        CHECK(memcmp(cache[0], cache[1], one.memory.bytes) == 0);
        release(workspace);
    }
    release(table), release(q_out), release(counters);
    close_problem(&two), close_problem(&one);
}

static void check_together_refused(void) {
    static float out[Q];
    Problem p;
    open_problem(&p, MORAY_F16);
    aim(&p, 0, 1, MORAY_HEADS_ALL);
    MorayCudaWriteAttend good = both_of(&p);
    size_t bytes = 0;
    OK(moray_cuda_write_attend_prepare(cuda, &good, &bytes));
    CHECK(bytes >= Q * 4);
    MorayBytesMut workspace = good.workspace = upload(NULL, bytes), counters = good.counters = upload(NULL, KV_HEADS * 4);
#define BOTH(code, words, ...)                                               \
    do {                                                                       \
        MorayCudaWriteAttend wrong = good;                                     \
        __VA_ARGS__;                                                           \
        REFUSED(code, words, moray_cuda_write_attend(cuda, stream, &wrong)); \
    } while (0)
    BOTH(MORAY_STATUS_NULL, "q", wrong.q = NONE);
    BOTH(MORAY_STATUS_LENGTH, "q: expected 64 elements", wrong.q.bytes -= 4);
    BOTH(MORAY_STATUS_LENGTH, "k: expected 32 elements", wrong.k.bytes -= 4);
    BOTH(MORAY_STATUS_LENGTH, "out: expected 64 elements, got 63", wrong.out.bytes -= 4);
    BOTH(MORAY_STATUS_MISALIGNED, "out", wrong.out.data = past(wrong.out.data, 4));
    BOTH(MORAY_STATUS_LENGTH, "workspace", wrong.workspace.bytes -= 4);
    BOTH(MORAY_STATUS_NULL, "workspace", wrong.workspace.data = NULL);
    BOTH(MORAY_STATUS_LENGTH, "counters", wrong.counters.bytes -= 4);
    BOTH(MORAY_STATUS_NULL, "kv.v", wrong.kv.v.data = NULL);
    BOTH(MORAY_STATUS_OVERLAP, "out", wrong.out.data = (void *)wrong.q.data);
    BOTH(MORAY_STATUS_OVERLAP, "workspace", wrong.workspace.data = wrong.kv.k.data);
    BOTH(MORAY_STATUS_SHAPE, "stride", wrong.q_stride = 3);
    BOTH(MORAY_STATUS_UNSUPPORTED, "policy: expected a MORAY_KV_ constant", wrong.policy = 9);
    BOTH(MORAY_STATUS_UNSUPPORTED, "kv policy", wrong.policy = MORAY_KV_HOLE);
    BOTH(MORAY_STATUS_UNSUPPORTED, "dtype", wrong.dtype = MORAY_INT8);
    BOTH(MORAY_STATUS_UNSUPPORTED, "dtype", wrong.out_dtype = 99);
    BOTH(MORAY_STATUS_UNSUPPORTED, "spans.heads", wrong.spans.heads = 9);
    BOTH(MORAY_STATUS_VERSION, "struct_size", wrong.struct_size += 8);
    REFUSED(MORAY_STATUS_NULL, "call", moray_cuda_write_attend(cuda, stream, NULL));
    download(out, good.out);
    for (size_t i = 0; i < Q; i++) CHECK(out[i] == 0);
    release(workspace), release(counters), release(p.attend.workspace);
    close_problem(&p);
}

static void check_bad_input(void) {
    Problem p;
    open_problem(&p, MORAY_INT8);
    aim(&p, 0, LEN, MORAY_HEADS_LIST);
#define WRONG(call, good, code, words, ...)         \
    do {                                               \
        __typeof__(good) wrong = good;                 \
        __VA_ARGS__;                                      \
        REFUSED(code, words, call(cuda, stream, &wrong)); \
    } while (0)
#define WRITE(code, words, ...) WRONG(moray_cuda_write_kv, p.write, code, words, __VA_ARGS__)
#define ATTEND(code, words, ...) WRONG(moray_cuda_attend, p.attend, code, words, __VA_ARGS__)
    WRITE(MORAY_STATUS_LENGTH, "kv.k: expected", wrong.kv.k.bytes /= 2);
    WRITE(MORAY_STATUS_LENGTH, "k: expected 8640 elements", wrong.k.bytes -= 4);
    WRITE(MORAY_STATUS_LENGTH, "kv.page_table: expected 40 elements, got 39", wrong.kv.page_table.bytes -= 4);
    WRITE(MORAY_STATUS_LENGTH, "spans.counts", wrong.spans.counts.bytes += 4);
    WRITE(MORAY_STATUS_OVERLAP, "", wrong.k = (MorayBytes){wrong.kv.k.data, wrong.k.bytes});
    WRITE(MORAY_STATUS_MISALIGNED, "k_scale", wrong.kv.k_scale.data = past(wrong.kv.k_scale.data, 2));
    WRITE(MORAY_STATUS_UNSUPPORTED, "kv policy", wrong.policy = MORAY_KV_HOLE);
    WRITE(MORAY_STATUS_UNSUPPORTED, "policy: expected a MORAY_KV_ constant", wrong.policy = 9);
    WRITE(MORAY_STATUS_SHAPE, "page_size", wrong.kv.page_size = 15);
    WRITE(MORAY_STATUS_SHAPE, "stride", wrong.kv_stride = 3);
    WRITE(MORAY_STATUS_UNSUPPORTED, "dtype", wrong.dtype = MORAY_INT8);
    ATTEND(MORAY_STATUS_LENGTH, "out: expected 17280 elements, got 17279", wrong.out.bytes -= 4);
    ATTEND(MORAY_STATUS_LENGTH, "out: expected 17280 elements, got 34560", wrong.out_dtype = MORAY_BF16);
    ATTEND(MORAY_STATUS_OVERLAP, "out: expected memory of its own, got memory that overlaps q", wrong.out.data = p.q.data);
    ATTEND(MORAY_STATUS_NULL, "kv.v", wrong.kv.v.data = NULL);
    ATTEND(MORAY_STATUS_NULL, "head list", wrong.spans.list = NONE);
    ATTEND(MORAY_STATUS_UNSUPPORTED, "spans.heads", wrong.spans.heads = 9);
    ATTEND(MORAY_STATUS_UNSUPPORTED, "kv.dtype", wrong.kv.dtype = 9);
    ATTEND(MORAY_STATUS_SHAPE, "n_q_heads", wrong.spans.n_q_heads = 3);
    ATTEND(MORAY_STATUS_VERSION, "struct_size", wrong.struct_size += 8);
    run(&p), check_step(&p, 0, LEN, MORAY_HEADS_LIST);
    close_problem(&p);
}

int main(void) {
    OK(moray_cpu_create(1, MORAY_ARCH_NATIVE, &cpu));
    const MorayAttentionShape shape = {Q_HEADS, KV_HEADS, DIM, LEN, 2, CAPACITY};
    OK(moray_attention_create(cpu, &shape, &attention));
    for (size_t i = 0; i < LEN * Q; i++) q[i] = noise(i);
    for (size_t i = 0; i < LEN * KV; i++) k[i] = noise(i + 9000), v[i] = noise(i + 18000);
    open_device();
    check_type(MORAY_F16);
    check_type(MORAY_INT8);
    check_together(MORAY_F16, 1);
    check_together(MORAY_INT8, 3);
    check_together(MORAY_F32, 12); /* 12 tokens of 2 heads: more rows than one launch takes */
    check_together_refused();
    check_bad_input();
    close_device();
    moray_attention_destroy(attention);
    moray_cpu_destroy(cpu);
    puts("cuda attention: ok");
    return 0;
}
