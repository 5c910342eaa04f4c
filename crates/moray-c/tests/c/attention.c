/* Keys, values and attention from C: heads that run against a plain loop, caches of every type, pages of the caller's, and bad input. */
#include "check.h"
#include <math.h>

enum { Q_HEADS = 4, KV_HEADS = 2, DIM = 16, LEN = 70, SLOTS = 2 };

static float q[LEN * Q_HEADS * DIM], k[LEN * KV_HEADS * DIM], v[LEN * KV_HEADS * DIM], out[LEN * Q_HEADS * DIM];
static MorayCpu *cpu;
static MorayAttention *attention;
static const MoraySpan SPANS[] = {{1, 0, LEN}};

static int runs(const MorayAttend *call, uint32_t head) {
    const uint32_t *list = call->list.data;
    if (call->heads == MORAY_HEADS_ALL) return 1;
    if (call->heads == MORAY_HEADS_MASK) return list[0] >> head & 1;
    uint32_t wanted = call->heads == MORAY_HEADS_GROUPS ? head / (Q_HEADS / KV_HEADS) : head;
    for (uint32_t i = 0; i < *(const uint32_t *)call->counts.data; i++)
        if (list[i] == wanted) return 1;
    return 0;
}

/* Calls of one KV head after the other write what the whole call has written, and nothing beside. */
static void check_ranges(MorayAttend call) {
    static float parts[LEN * Q_HEADS * DIM];
    enum { GROUP = Q_HEADS / KV_HEADS * DIM };
    for (size_t i = 0; i < LEN * Q_HEADS * DIM; i++) parts[i] = 1e6f;
    call.span_end = 1;
    for (size_t head = 0; head < KV_HEADS; head++) {
        call.kv_head_begin = head, call.kv_head_end = head + 1;
        OK(moray_attend(cpu, &call, BYTES(q), BYTES_MUT(parts)));
        for (size_t i = 0; i < LEN * Q_HEADS * DIM; i++) CHECK(parts[i] == (i % (Q_HEADS * DIM) / GROUP <= head ? out[i] : 1e6f));
    }
    call.span_begin = 1;
    OK(moray_attend(cpu, &call, BYTES(q), BYTES_MUT(parts)));
    CHECK(memcmp(parts, out, sizeof out) == 0);
}

/* `tolerance`: how far a stored number may be from the one given, as a part of the largest of its row. */
static void check_call(MorayAttend *call, double tolerance) {
    OK(moray_write_kv(cpu, call, MORAY_KV_WRITE_ALL, BYTES(k), BYTES(v)));
    OK(moray_attend(cpu, call, BYTES(q), BYTES_MUT(out)));
    check_ranges(*call);
    for (size_t t = 0; t < LEN; t++)
        for (uint32_t h = 0; h < Q_HEADS; h++) {
            const float *query = q + (t * Q_HEADS + h) * DIM, *got = out + (t * Q_HEADS + h) * DIM;
            size_t kv = h / (Q_HEADS / KV_HEADS);
            double weight[LEN], total = 0, sum[DIM] = {0};
            for (size_t j = 0; j <= t; j++) {
                double score = 0;
                for (size_t i = 0; i < DIM; i++) score += (double)query[i] * k[(j * KV_HEADS + kv) * DIM + i];
                total += weight[j] = exp(score / sqrt(DIM));
            }
            for (size_t j = 0; j <= t; j++)
                for (size_t i = 0; i < DIM; i++) sum[i] += weight[j] / total * v[(j * KV_HEADS + kv) * DIM + i];
            /* with numbers up to 1/2 a score moves by 16 / 2 / 4 = 2 tolerances, a weight by 4 of its own, so the sum by 2, and 1 for
               the values; the next order and f32 are the rest */
            for (size_t i = 0; i < DIM; i++)
                CHECK(runs(call, h) ? fabs(got[i] - sum[i]) <= 3.1 * tolerance + 1e-5 : got[i] == 0);
        }
}

enum { PAGE = 16, MAX_PAGES = (LEN + 10 + PAGE - 1) / PAGE, PAGES = SLOTS * MAX_PAGES + 1, ROW = DIM + 8 };

/* A cache of the caller's: pages of PAGE keys, then PAGE values, in no order; rows are padded. What lies between is never written. */
typedef struct {
    MorayKvPages pages;
    uint32_t table[SLOTS * MAX_PAGES];
    float scales[2][PAGES * KV_HEADS * PAGE];
    unsigned char memory[PAGES * 2 * PAGE * KV_HEADS * ROW * 4];
} Pages;

static void open_pages(Pages *p, MorayDtype dtype) {
    const size_t element = dtype == MORAY_F32 ? 4 : dtype == MORAY_INT8 ? 1 : 2, half = PAGE * KV_HEADS * ROW;
    memset(p, 0, sizeof *p);
    memset(p->memory, 0xa5, sizeof p->memory);
    for (uint32_t i = 0; i < SLOTS * MAX_PAGES; i++) p->table[i] = (i * 7 + 2) % PAGES;
    MorayKvPages *kv = &p->pages;
    kv->dtype = dtype;
    kv->k = (MorayBytesMut){p->memory, PAGES * 2 * half * element};
    kv->v = (MorayBytesMut){p->memory + half * element, (PAGES * 2 - 1) * half * element};
    if (dtype == MORAY_INT8) kv->k_scale = BYTES_MUT(p->scales[0]), kv->v_scale = BYTES_MUT(p->scales[1]);
    kv->page_table = BYTES(p->table);
    kv->n_slots = SLOTS, kv->n_pages = PAGES, kv->page_size = PAGE, kv->max_pages = MAX_PAGES, kv->capacity = LEN + 10;
    kv->page_stride = 2 * half, kv->head_stride = ROW, kv->row_stride = KV_HEADS * ROW;
}

/* What `call` has written into the library's cache and computed there has the same bits over pages. */
static void check_pages(MorayAttend call, MorayDtype dtype) {
    static Pages pages;
    static float over_pages[LEN * Q_HEADS * DIM];
    open_pages(&pages, dtype);
    call.cache = NULL, call.pages = &pages.pages, call.layer = 5;
    OK(moray_write_kv(cpu, &call, MORAY_KV_WRITE_ALL, BYTES(k), BYTES(v)));
    OK(moray_attend(cpu, &call, BYTES(q), BYTES_MUT(over_pages)));
    CHECK(memcmp(over_pages, out, sizeof out) == 0);
    const size_t element = dtype == MORAY_F32 ? 4 : dtype == MORAY_INT8 ? 1 : 2;
    size_t untouched = 0;
    for (size_t i = 0; i < sizeof pages.memory; i++) untouched += pages.memory[i] == 0xa5;
    /* some of what is written may be that byte too */
    const size_t written = 2 * LEN * KV_HEADS * DIM * element;
    CHECK(untouched >= sizeof pages.memory - written && untouched < sizeof pages.memory - written * 9 / 10);
    for (size_t i = 0; i < PAGES * 2 * PAGE * KV_HEADS; i++)
        for (size_t j = DIM * element; j < ROW * element; j++) CHECK(pages.memory[i * ROW * element + j] == 0xa5);
}

static void refuse_pages(void) {
    static Pages good, bad;
    static uint32_t present[SLOTS * KV_HEADS * 4];
    open_pages(&good, MORAY_INT8);
    MorayAttend call = {sizeof call, MORAY_HEADS_ALL, attention, NULL, 0, SPANS, 1, NONE, NONE, 0, 0, 0, 0, &bad.pages};
    const size_t reach = good.pages.k.bytes;
#define BAD(...) (bad.pages = good.pages, (__VA_ARGS__), &call)
#define WRITE(...) moray_write_kv(cpu, BAD(__VA_ARGS__), MORAY_KV_WRITE_ALL, BYTES(k), BYTES(v))
#define ATTEND(...) moray_attend(cpu, BAD(__VA_ARGS__), BYTES(q), BYTES_MUT(out))
    REFUSED(MORAY_STATUS_UNSUPPORTED, "pages.dtype: expected", ATTEND(bad.pages.dtype = 9));
    REFUSED(MORAY_STATUS_NULL, "pages.k: expected", ATTEND(bad.pages.k.data = NULL));
    REFUSED(MORAY_STATUS_LENGTH, "k cache: expected", ATTEND(bad.pages.k.bytes = reach / 2));
    REFUSED(MORAY_STATUS_LENGTH, "v cache: expected", WRITE((bad.pages.v.data = NULL, bad.pages.v.bytes = 0)));
    REFUSED(MORAY_STATUS_LENGTH, "k_scale: expected", ATTEND(bad.pages.k_scale = (MorayBytesMut){NULL, 0}));
    REFUSED(MORAY_STATUS_MISALIGNED, "pages.v_scale: expected", WRITE((bad.pages.v_scale.data = (char *)good.scales[1] + 2, bad.pages.v_scale.bytes -= 4)));
    REFUSED(MORAY_STATUS_SHAPE, "row_stride: expected", ATTEND(bad.pages.row_stride = DIM - 1));
    REFUSED(MORAY_STATUS_SHAPE, "page_stride: expected", ATTEND(bad.pages.page_stride = SIZE_MAX / 2));
    REFUSED(MORAY_STATUS_SHAPE, "page_size: expected", ATTEND(bad.pages.page_table = NONE));
    REFUSED(MORAY_STATUS_SHAPE, "max_pages: expected", WRITE(bad.pages.max_pages = 1));
    REFUSED(MORAY_STATUS_SHAPE, "n_slots: expected", WRITE(bad.pages.n_slots = 0));
    REFUSED(MORAY_STATUS_LENGTH, "present: expected", WRITE((bad.pages.present = BYTES_MUT(present), bad.pages.present.bytes = 4)));
    REFUSED(MORAY_STATUS_OVERLAP, "pages.k_scale: expected", WRITE(bad.pages.k_scale = bad.pages.v_scale));
    REFUSED(MORAY_STATUS_OVERLAP, "pages.k: expected", WRITE(bad.pages.v = bad.pages.k));
    REFUSED(MORAY_STATUS_SHAPE, "v cache: expected rows that do not lie over those of the k cache",
            WRITE((bad.pages.v = bad.pages.k, bad.pages.v.data = (char *)bad.pages.k.data + DIM / 2, bad.pages.v.bytes -= DIM / 2)));
    for (size_t *count = &bad.pages.n_slots; count <= &bad.pages.capacity; count++) {
        const MorayStatus status = ATTEND(*count = SIZE_MAX);
        CHECK(status == MORAY_STATUS_SHAPE || status == MORAY_STATUS_LENGTH);
    }
    REFUSED(MORAY_STATUS_OVERLAP, "pages.present: expected", WRITE(bad.pages.present = (MorayBytesMut){good.table, sizeof good.table}));
    REFUSED(MORAY_STATUS_OVERLAP, "pages.v_scale: expected", WRITE(bad.pages.v_scale = (MorayBytesMut){k, sizeof good.scales[1]}));
    bad.pages = good.pages;
    REFUSED(MORAY_STATUS_OVERLAP, "out: expected",
            moray_attend(cpu, &call, BYTES(q), (MorayBytesMut){good.memory, sizeof q}));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "kv policy: expected", moray_write_kv(cpu, &call, MORAY_KV_HOLE, BYTES(k), BYTES(v)));
    good.table[MAX_PAGES] = PAGES;
    REFUSED(MORAY_STATUS_INDEX, "page_table: expected an index below", ATTEND((void)0));
    good.table[MAX_PAGES] = 0;
    MorayKvCache *cache;
    const MorayKvShape shape = {1, SLOTS, KV_HEADS, DIM, LEN};
    OK(moray_kv_cache_create(&shape, MORAY_F16, &cache));
    call.cache = cache;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "pages: expected null beside a cache", ATTEND((void)0));
    moray_kv_cache_destroy(cache);
    call.cache = NULL, call.pages = (const MorayKvPages *)((const char *)&bad.pages + 1);
    REFUSED(MORAY_STATUS_MISALIGNED, "pages: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    for (size_t i = 0; i < sizeof good.memory; i++) CHECK(good.memory[i] == 0xa5);
    call.pages = &bad.pages;
    OK(WRITE((void)0));
    OK(ATTEND((void)0));
}

static void check_type(MorayDtype dtype, double tolerance) {
    const MorayKvShape shape = {1, SLOTS, KV_HEADS, DIM, LEN + 10};
    MorayKvCache *cache;
    OK(moray_kv_cache_create(&shape, dtype, &cache));
    MorayAttend call = {sizeof call, MORAY_HEADS_ALL, attention, cache, 0, SPANS, 1, NONE, NONE, 0, 0, 0, 0, NULL};
    check_call(&call, tolerance);
    check_pages(call, dtype);
    uint32_t list[] = {0, 3}, counts[] = {2}, group[] = {1}, one[] = {1}, mask[] = {6};
    call.heads = MORAY_HEADS_LIST, call.list = BYTES(list), call.counts = BYTES(counts);
    check_call(&call, tolerance);
    call.heads = MORAY_HEADS_GROUPS, call.list = BYTES(group), call.counts = BYTES(one);
    check_call(&call, tolerance);
    call.heads = MORAY_HEADS_MASK, call.list = BYTES(mask), call.counts = NONE;
    check_call(&call, tolerance);
    check_pages(call, dtype);

    float key[DIM], value[DIM];
    uint32_t held = 7;
    MorayKvRow row = {0, 1, 1, LEN - 1};
    OK(moray_kv_cache_read(cache, &row, BYTES_MUT(key), BYTES_MUT(value), &held));
    CHECK(held == 1);
    for (size_t i = 0; i < DIM; i++) CHECK(fabs(key[i] - k[((LEN - 1) * KV_HEADS + 1) * DIM + i]) <= tolerance);
    OK(moray_kv_cache_truncate(cache, 1, LEN - 1));
    OK(moray_kv_cache_read(cache, &row, BYTES_MUT(key), BYTES_MUT(value), &held));
    CHECK(held == 0 && key[0] == 0);
    call.list = BYTES(one);
    OK(moray_write_kv(cpu, &call, MORAY_KV_HOLE, BYTES(k), BYTES(v)));
    OK(moray_kv_cache_read(cache, &row, BYTES_MUT(key), BYTES_MUT(value), &held));
    CHECK(held == 0);
    moray_kv_cache_destroy(cache);
}

static void check_bad_input(void) {
    const MorayKvShape shape = {1, SLOTS, KV_HEADS, DIM, LEN}, odd = {1, 1, 1, 12, 8}, huge = {1 << 20, 1 << 20, 8, 512, 1 << 20};
    MorayKvCache *cache = NULL;
    MorayAttention *none = NULL;
    REFUSED(MORAY_STATUS_SHAPE, "head_dim: expected", moray_kv_cache_create(&odd, MORAY_F16, &cache));
    REFUSED(MORAY_STATUS_SHAPE, "kv cache", moray_kv_cache_create(&huge, MORAY_F16, &cache));
    const MorayKvShape around = {1, WRAPS(SLOTS, 64), KV_HEADS, DIM, LEN};
    UNCOUNTED("expected", moray_kv_cache_create(&around, MORAY_INT8, &cache));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "dtype: expected", moray_kv_cache_create(&shape, 9, &cache));
    REFUSED(MORAY_STATUS_NULL, "shape: expected", moray_kv_cache_create(NULL, MORAY_F16, &cache));
    const MorayAttentionShape three = {3, 2, DIM, LEN, 1, LEN};
    REFUSED(MORAY_STATUS_SHAPE, "n_q_heads: expected", moray_attention_create(cpu, &three, &none));
    CHECK(cache == NULL && none == NULL);
    OK(moray_kv_cache_create(&shape, MORAY_F16, &cache));
    const MorayAttend good = {sizeof good, MORAY_HEADS_ALL, attention, cache, 0, SPANS, 1, NONE, NONE, 0, 0, 0, 0, NULL};
    MorayAttend call = good;
    call.layer = 1;
    REFUSED(MORAY_STATUS_INDEX, "layer: expected an index below 1", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    MoraySpan beyond[] = {{0, 1, LEN}}, twice[] = {{0, 0, 1}, {0, 1, 1}}, slot[] = {{SLOTS, 0, 1}};
    call = good, call.spans = beyond;
    REFUSED(MORAY_STATUS_INDEX, "span position: expected", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    call = good, call.spans = twice, call.n_spans = 2;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "spans: expected", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    call = good, call.spans = slot;
    REFUSED(MORAY_STATUS_INDEX, "span slot: expected", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    call = good, call.spans = NULL;
    REFUSED(MORAY_STATUS_NULL, "spans: expected", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    call = good, call.cache = NULL;
    REFUSED(MORAY_STATUS_NULL, "cache: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    call = good, call.attention = NULL;
    REFUSED(MORAY_STATUS_NULL, "attention: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    call = good, call.struct_size = 8;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_write_kv(cpu, &call, 0, BYTES(k), BYTES(v)));
    call = good, call.heads = MORAY_HEADS_MASK, call.list = (MorayBytes){NULL, 4};
    REFUSED(MORAY_STATUS_NULL, "list: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    REFUSED(MORAY_STATUS_NULL, "k: expected", moray_write_kv(cpu, &good, 0, (MorayBytes){NULL, sizeof k}, BYTES(v)));
    REFUSED(MORAY_STATUS_NULL, "q: expected", moray_attend(cpu, &good, (MorayBytes){NULL, sizeof q}, BYTES_MUT(out)));
    call = good, call.heads = 9;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "heads: expected", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    call = good, call.heads = MORAY_HEADS_LIST;
    REFUSED(MORAY_STATUS_LENGTH, "head counts: expected 1 elements, got 0", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    call = good, call.span_end = 2;
    REFUSED(MORAY_STATUS_INDEX, "spans: expected an index below 2, got 2", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    call = good, call.kv_head_begin = 2, call.kv_head_end = 1;
    REFUSED(MORAY_STATUS_INDEX, "kv_heads: expected an index below 3, got 2", moray_attend(cpu, &call, BYTES(q), BYTES_MUT(out)));
    REFUSED(MORAY_STATUS_LENGTH, "k: expected", moray_write_kv(cpu, &good, 0, (MorayBytes){k, 4}, BYTES(v)));
    REFUSED(MORAY_STATUS_UNSUPPORTED, "policy: expected", moray_write_kv(cpu, &good, 9, BYTES(k), BYTES(v)));
    REFUSED(MORAY_STATUS_OVERLAP, "out: expected", moray_attend(cpu, &good, BYTES(q), BYTES_MUT(q)));
    REFUSED(MORAY_STATUS_LENGTH, "out: expected", moray_attend(cpu, &good, BYTES(q), (MorayBytesMut){out, 4}));
    REFUSED(MORAY_STATUS_INDEX, "slot: expected", moray_kv_cache_truncate(cache, SLOTS, 0));
    OK(moray_write_kv(cpu, &good, MORAY_KV_WRITE_ALL, BYTES(k), BYTES(v)));
    OK(moray_attend(cpu, &good, BYTES(q), BYTES_MUT(out)));
    moray_kv_cache_destroy(cache);
    moray_kv_cache_destroy(NULL);
    moray_attention_destroy(NULL);
}

int main(void) {
    OK(moray_cpu_create(2, MORAY_ARCH_NATIVE, &cpu));
    const MorayAttentionShape shape = {Q_HEADS, KV_HEADS, DIM, LEN, 2, LEN + 10};
    OK(moray_attention_create(cpu, &shape, &attention));
    for (size_t i = 0; i < LEN * Q_HEADS * DIM; i++) q[i] = noise(i);
    for (size_t i = 0; i < LEN * KV_HEADS * DIM; i++) k[i] = noise(i + 9000), v[i] = noise(i + 18000);
    /* of numbers up to 1/2: half a last bit, or half a step of 1/254 */
    check_type(MORAY_F32, 3e-8);
    check_type(MORAY_F16, 1.0 / 4096);
    check_type(MORAY_BF16, 1.0 / 512);
    check_type(MORAY_INT8, 1.0 / 508);
    check_bad_input();
    refuse_pages();
    moray_attention_destroy(attention);
    moray_cpu_destroy(cpu);
    puts("attention: ok");
    return 0;
}
