/* Keys, values and attention from C: heads that run against a plain loop, caches of every type, and bad input. */
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

static void check_type(MorayDtype dtype, double tolerance) {
    const MorayKvShape shape = {1, SLOTS, KV_HEADS, DIM, LEN + 10};
    MorayKvCache *cache;
    OK(moray_kv_cache_create(&shape, dtype, &cache));
    MorayAttend call = {sizeof call, MORAY_HEADS_ALL, attention, cache, 0, SPANS, 1, NONE, NONE, 0, 0, 0, 0};
    check_call(&call, tolerance);
    uint32_t list[] = {0, 3}, counts[] = {2}, group[] = {1}, one[] = {1}, mask[] = {6};
    call.heads = MORAY_HEADS_LIST, call.list = BYTES(list), call.counts = BYTES(counts);
    check_call(&call, tolerance);
    call.heads = MORAY_HEADS_GROUPS, call.list = BYTES(group), call.counts = BYTES(one);
    check_call(&call, tolerance);
    call.heads = MORAY_HEADS_MASK, call.list = BYTES(mask), call.counts = NONE;
    check_call(&call, tolerance);

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
    REFUSED(MORAY_STATUS_UNSUPPORTED, "dtype: expected", moray_kv_cache_create(&shape, 9, &cache));
    REFUSED(MORAY_STATUS_NULL, "shape: expected", moray_kv_cache_create(NULL, MORAY_F16, &cache));
    const MorayAttentionShape three = {3, 2, DIM, LEN, 1, LEN};
    REFUSED(MORAY_STATUS_SHAPE, "n_q_heads: expected", moray_attention_create(cpu, &three, &none));
    CHECK(cache == NULL && none == NULL);
    OK(moray_kv_cache_create(&shape, MORAY_F16, &cache));
    const MorayAttend good = {sizeof good, MORAY_HEADS_ALL, attention, cache, 0, SPANS, 1, NONE, NONE, 0, 0, 0, 0};
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
    moray_attention_destroy(attention);
    moray_cpu_destroy(cpu);
    puts("attention: ok");
    return 0;
}
