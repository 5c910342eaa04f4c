/* The sparse MLP from C: every selection against a plain loop, in 16 bits and in 4, and bad input. */
#include "check.h"
#include <math.h>

enum { TOKENS = 2, D_MODEL = 64, D_FF = 96, WORDS = 2 };

static float gate[D_FF * D_MODEL], up[D_FF * D_MODEL], down[D_MODEL * D_FF], x[TOKENS * D_MODEL], residual[TOKENS * D_MODEL];
static uint32_t list[D_FF / 2];
static uint64_t masks[TOKENS * WORDS];
static MorayCpu *cpu;
static const MorayMlpShape SHAPE = {D_MODEL, D_FF, MORAY_ACTIVATION_SILU};

static double dot(const float *a, const float *b) {
    double sum = 0;
    for (size_t i = 0; i < D_MODEL; i++) sum += (double)a[i] * b[i];
    return sum;
}

/* The product of every neuron and whether a token keeps it, by the definition. */
static void reference(const MoraySelection *selection, size_t token, double *hidden, int *kept) {
    double score[D_FF];
    for (size_t j = 0; j < D_FF; j++) {
        double g = dot(gate + j * D_MODEL, x + token * D_MODEL);
        double a = g / (1 + exp(-g));
        hidden[j] = a * dot(up + j * D_MODEL, x + token * D_MODEL);
        score[j] = selection->score == MORAY_SCORE_GATE ? fabs(a) : fabs(hidden[j]);
    }
    for (size_t j = 0; j < D_FF; j++) {
        int masked = (int)(masks[token * WORDS + j / 64] >> (j % 64) & 1), listed = j % 2 == 0;
        size_t above = 0;
        for (size_t i = 0; i < D_FF; i++) above += score[i] > score[j];
        switch (selection->kind) {
            case MORAY_SELECT_ALL: kept[j] = 1; break;
            case MORAY_SELECT_LIST: kept[j] = listed; break;
            case MORAY_SELECT_MASKS: kept[j] = masked; break;
            case MORAY_SELECT_UNION: kept[j] = masked && listed; break;
            case MORAY_SELECT_THRESHOLD: kept[j] = score[j] > selection->threshold; break;
            default: kept[j] = above < selection->k;
        }
    }
}

static void check_selection(const MorayMlp *mlp, MorayMlpWorkspace *workspace, const MoraySelection *selection) {
    float y[TOKENS * D_MODEL];
    MorayMlpForward call = {sizeof call, mlp, workspace, selection, BYTES(x), BYTES(residual), BYTES_MUT(y)};
    OK(moray_mlp_forward(cpu, &call));
    int any[D_FF] = {0};
    for (size_t t = 0; t < TOKENS; t++) {
        double hidden[D_FF];
        int kept[D_FF];
        reference(selection, t, hidden, kept);
        for (size_t n = 0; n < D_MODEL; n++) {
            double sum = residual[t * D_MODEL + n], size = 1;
            for (size_t j = 0; j < D_FF; j++)
                if (kept[j]) sum += hidden[j] * down[n * D_FF + j], size += fabs(hidden[j] * down[n * D_FF + j]);
            /* three sums of up to D_FF roundings of at most `size` */
            CHECK(fabs(sum - y[t * D_MODEL + n]) < 3 * D_FF * 6e-8 * size);
        }
        for (size_t j = 0; j < D_FF; j++) any[j] |= kept[j];
    }
    MorayBytes neurons;
    OK(moray_mlp_kept(workspace, &neurons));
    size_t count = 0;
    for (uint32_t j = 0; j < D_FF; j++)
        if (selection->kind == MORAY_SELECT_LIST || selection->kind == MORAY_SELECT_UNION ? j % 2 == 0 : any[j])
            CHECK(count < neurons.bytes / 4 && ((const uint32_t *)neurons.data)[count++] == j);
    CHECK(neurons.bytes == 4 * count);
}

static MoraySelection select_by(MoraySelect kind, MorayScore score) {
    MoraySelection selection = {0};
    selection.struct_size = sizeof selection;
    selection.kind = kind;
    selection.list = BYTES(list);
    selection.masks = BYTES(masks);
    selection.score = score;
    selection.threshold = 0.2f;
    selection.k = 17;
    return selection;
}

/* The call of a list by parts, each by ranges, which write what the whole call does and nothing beside. */
static void check_parts(const MorayMlp *mlp, MorayMlpWorkspace *workspace, const MorayActivations *activations) {
    enum { L = D_FF / 2 };
    static const size_t POSITIONS[] = {0, 16, L}, COLUMNS[] = {0, 5, 32, D_MODEL};
    float whole[TOKENS * D_MODEL], y[TOKENS * D_MODEL], a[TOKENS * L], hidden[TOKENS * L], again[TOKENS * L];
    MoraySelection listed = select_by(MORAY_SELECT_LIST, 0);
    MorayMlpForward call = {sizeof call, mlp, workspace, &listed, BYTES(x), BYTES(residual), BYTES_MUT(whole)};
    OK(moray_mlp_forward(cpu, &call));
    const MorayBytes floats = activations ? NONE : BYTES(x);
    for (size_t i = 0; i < TOKENS * L; i++) a[i] = hidden[i] = again[i] = 1e6f;
    for (size_t i = 2; i-- > 0;) {
        MorayMlpGateUp part = {sizeof part, 0, mlp, floats, activations, BYTES(list), BYTES_MUT(a), BYTES_MUT(hidden), POSITIONS[i], POSITIONS[i + 1]};
        OK(moray_mlp_gate_up(cpu, &part));
        for (size_t at = 0; at < TOKENS * L; at++) CHECK((hidden[at] == 1e6f) == (at % L < POSITIONS[i]) && (a[at] == 1e6f) == (at % L < POSITIONS[i]));
        /* the gate is given, and so the products are the same */
        part.gate_is_given = 1, part.hidden = BYTES_MUT(again);
        OK(moray_mlp_gate_up(cpu, &part));
    }
    CHECK(memcmp(hidden, again, sizeof hidden) == 0);
    for (size_t i = 0; i < TOKENS * D_MODEL; i++) y[i] = 1e6f;
    for (size_t i = 3; i-- > 0;) {
        MorayMlpDown part = {sizeof part, mlp, workspace, BYTES(list), BYTES(hidden), BYTES(residual), BYTES_MUT(y), COLUMNS[i], COLUMNS[i + 1]};
        OK(moray_mlp_down(cpu, &part));
        for (size_t at = 0; at < TOKENS * D_MODEL; at++) CHECK(y[at] == (at % D_MODEL < COLUMNS[i] ? 1e6f : whole[at]));
    }
    CHECK(memcmp(y, whole, sizeof y) == 0);
}

/* A selection by the gate's size, made of the parts, has the whole call's bits. */
static void check_select(const MorayMlp *mlp, MorayMlpWorkspace *workspace) {
    uint32_t all[D_FF], kept[D_FF];
    uint64_t chosen[TOKENS * WORDS];
    float a[TOKENS * D_FF], of_kept[TOKENS * D_FF], hidden[TOKENS * D_FF], y[TOKENS * D_MODEL], whole[TOKENS * D_MODEL];
    for (uint32_t j = 0; j < D_FF; j++) all[j] = j;
    MoraySelection selection = select_by(MORAY_SELECT_TOP_K, MORAY_SCORE_GATE);
    MorayMlpForward call = {sizeof call, mlp, workspace, &selection, BYTES(x), NONE, BYTES_MUT(whole)};
    OK(moray_mlp_forward(cpu, &call));
    MorayMlpGateUp gate_call = {sizeof gate_call, 0, mlp, BYTES(x), NULL, BYTES(all), BYTES_MUT(a), {NULL, 0}, 0, 0};
    OK(moray_mlp_gate_up(cpu, &gate_call));
    MorayMlpSelect choice = {sizeof choice, &selection, D_FF, BYTES(a), BYTES_MUT(chosen), BYTES_MUT(kept)};
    size_t count = 0;
    OK(moray_mlp_select(cpu, &choice, &count));
    CHECK(count >= selection.k && count < D_FF);
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t i = 0; i < count; i++) of_kept[t * count + i] = a[t * D_FF + kept[i]];
    const MorayBytes ours = {kept, count * sizeof *kept}, products = {hidden, TOKENS * count * sizeof *hidden};
    MorayMlpGateUp up_call = {sizeof up_call, 1, mlp, BYTES(x), NULL, ours, {of_kept, products.bytes}, {hidden, products.bytes}, 0, 0};
    OK(moray_mlp_gate_up(cpu, &up_call));
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t i = 0; i < count; i++)
            if (!(chosen[t * WORDS + kept[i] / 64] >> (kept[i] % 64) & 1)) hidden[t * count + i] = 0;
    MorayMlpDown last = {sizeof last, mlp, workspace, ours, products, NONE, BYTES_MUT(y), 0, 0};
    OK(moray_mlp_down(cpu, &last));
    CHECK(memcmp(y, whole, sizeof y) == 0);

    REFUSED(MORAY_STATUS_NULL, "count", moray_mlp_select(cpu, &choice, NULL));
    MorayMlpSelect bad = choice;
    bad.masks.bytes -= 8;
    REFUSED(MORAY_STATUS_LENGTH, "masks: expected 4 elements, got 3", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.list.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "list: expected 96 elements, got 95", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.n = D_FF - 1, bad.list = (MorayBytesMut){NULL, 0};
    REFUSED(MORAY_STATUS_SHAPE, "values: expected a multiple of n", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.list = (MorayBytesMut){a, D_FF * sizeof *kept};
    REFUSED(MORAY_STATUS_OVERLAP, "list: expected", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.struct_size = 8;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.values = (MorayBytes){NULL, bad.values.bytes};
    REFUSED(MORAY_STATUS_NULL, "values: expected", moray_mlp_select(cpu, &bad, &count));
    bad = choice, bad.selection = NULL;
    REFUSED(MORAY_STATUS_NULL, "selection: expected", moray_mlp_select(cpu, &bad, &count));
    MoraySelection listed = select_by(MORAY_SELECT_ALL, 0);
    bad = choice, bad.selection = &listed;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "selection: expected a threshold", moray_mlp_select(cpu, &bad, &count));

    MorayMlpGateUp part = gate_call;
    part.gate = (MorayBytesMut){NULL, 0};
    REFUSED(MORAY_STATUS_UNSUPPORTED, "outputs: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.gate = (MorayBytesMut){x, sizeof a};
    REFUSED(MORAY_STATUS_OVERLAP, "gate: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.hidden = BYTES_MUT(a);
    REFUSED(MORAY_STATUS_OVERLAP, "hidden: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.gate.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "gate: expected 192 elements, got 191", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.x = NONE;
    REFUSED(MORAY_STATUS_NULL, "x: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.gate_is_given = 2;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "gate_is_given: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.begin = 8;
    REFUSED(MORAY_STATUS_SHAPE, "positions: expected multiples of 16", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.end = D_FF + 16;
    REFUSED(MORAY_STATUS_INDEX, "positions: expected an index below 97, got 112", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.mlp = NULL;
    REFUSED(MORAY_STATUS_NULL, "mlp: expected", moray_mlp_gate_up(cpu, &part));
    part = gate_call, part.struct_size = 8;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_mlp_gate_up(cpu, &part));

    MorayMlpDown end = last;
    end.column_end = D_MODEL + 1;
    REFUSED(MORAY_STATUS_INDEX, "columns: expected an index below 65, got 65", moray_mlp_down(cpu, &end));
    end = last, end.y = (MorayBytesMut){hidden, sizeof y};
    REFUSED(MORAY_STATUS_OVERLAP, "y: expected", moray_mlp_down(cpu, &end));
    end = last, end.hidden.bytes -= 4;
    REFUSED(MORAY_STATUS_LENGTH, "hidden: expected", moray_mlp_down(cpu, &end));
    end = last, end.y.bytes -= 4;
    REFUSED(MORAY_STATUS_SHAPE, "y: expected a multiple of d_model", moray_mlp_down(cpu, &end));
    end = last, end.workspace = NULL;
    REFUSED(MORAY_STATUS_NULL, "workspace: expected", moray_mlp_down(cpu, &end));
    end = last, end.struct_size = 8;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_mlp_down(cpu, &end));
}

/* 4-bit weights: the whole selection is near the 16-bit result, a list is the masked whole bit for bit. */
static void check_four_bit(void) {
    const MorayFormat format = {4, 32, MORAY_GROUP_SCALE_F16, MORAY_OFFSET_F16};
    MorayQuantized *parts[3];
    OK(moray_quantize(BYTES(gate), MORAY_F32, D_FF, D_MODEL, &format, &parts[0]));
    OK(moray_quantize(BYTES(up), MORAY_F32, D_FF, D_MODEL, &format, &parts[1]));
    OK(moray_quantize(BYTES(down), MORAY_F32, D_MODEL, D_FF, &format, &parts[2]));
    MorayMlp *mlp;
    MorayMlpWorkspace *workspace;
    REFUSED(MORAY_STATUS_SHAPE, "expected", moray_mlp_create_quantized(&SHAPE, parts[2], parts[1], parts[2], NULL, &mlp));
    OK(moray_mlp_create_quantized(&SHAPE, parts[0], parts[1], parts[2], NULL, &mlp));
    for (int i = 0; i < 3; i++) moray_quantized_destroy(parts[i]);
    OK(moray_mlp_workspace_create(mlp, TOKENS, &workspace));
    float y[2][TOKENS * D_MODEL];
    uint64_t even[TOKENS * WORDS];
    for (int i = 0; i < TOKENS * WORDS; i++) even[i] = 0x5555555555555555u & (i % WORDS ? 0xffffffffu : ~(uint64_t)0);
    MoraySelection by[2] = {select_by(MORAY_SELECT_LIST, 0), select_by(MORAY_SELECT_MASKS, 0)};
    by[1].masks = BYTES(even);
    for (int i = 0; i < 2; i++) {
        MorayMlpForward call = {sizeof call, mlp, workspace, &by[i], BYTES(x), NONE, BYTES_MUT(y[i])};
        OK(moray_mlp_forward(cpu, &call));
    }
    CHECK(memcmp(y[0], y[1], sizeof y[0]) == 0 && y[0][0] != 0);
    MorayActivations *a;
    OK(moray_activations_create(TOKENS, D_MODEL, MORAY_ACT_SCALES_TOKEN, &a));
    OK(moray_activations_quantize(cpu, a, BYTES(x), MORAY_F32, TOKENS, D_MODEL, NONE));
    check_parts(mlp, workspace, a);
    moray_activations_destroy(a);
    moray_mlp_workspace_destroy(workspace);
    moray_mlp_destroy(mlp);
}

static void check_bad_input(const MorayMlp *mlp, MorayMlpWorkspace *workspace) {
    float y[TOKENS * D_MODEL];
    MorayMlp *none = NULL;
    MorayMlpWorkspace *no_workspace = NULL;
    MorayMlpShape odd = SHAPE;
    odd.activation = 9;
    REFUSED(MORAY_STATUS_UNSUPPORTED, "shape.activation: expected",
            moray_mlp_create(&odd, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), NULL, &none));
    REFUSED(MORAY_STATUS_LENGTH, "down: expected 6144 elements, got 128",
            moray_mlp_create(&SHAPE, MORAY_F32, BYTES(gate), BYTES(up), BYTES(x), NULL, &none));
    MorayMlpBiases biases = {BYTES(x), NONE, NONE};
    REFUSED(MORAY_STATUS_LENGTH, "gate bias: expected 96 elements, got 128",
            moray_mlp_create(&SHAPE, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), &biases, &none));
    REFUSED(MORAY_STATUS_OUT_OF_MEMORY, "workspace: expected", moray_mlp_workspace_create(mlp, (size_t)1 << 50, &no_workspace));
    REFUSED(MORAY_STATUS_SHAPE, "max_tokens: expected", moray_mlp_workspace_create(mlp, 0, &no_workspace));
    MorayMlpShape far = {D_MODEL, WRAPS(D_FF, D_MODEL), MORAY_ACTIVATION_SILU};
    UNCOUNTED("expected", moray_mlp_create(&far, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), NULL, &none));
    far.d_ff = WRAPS(D_FF, 4 * D_MODEL);
    UNCOUNTED("expected", moray_mlp_create(&far, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), NULL, &none));
    far = SHAPE, far.d_model = WRAPS(D_MODEL, 32);
    UNCOUNTED("expected", moray_mlp_create(&far, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), NULL, &none));
    REFUSED(MORAY_STATUS_NULL, "up: expected",
            moray_mlp_create(&SHAPE, MORAY_F32, BYTES(gate), (MorayBytes){NULL, sizeof up}, BYTES(down), NULL, &none));
    biases.gate = (MorayBytes){NULL, D_FF * sizeof(float)};
    REFUSED(MORAY_STATUS_NULL, "biases.gate: expected",
            moray_mlp_create(&SHAPE, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), &biases, &none));
    CHECK(none == NULL && no_workspace == NULL);

    MoraySelection selection = select_by(MORAY_SELECT_LIST, 0);
    const MorayMlpForward good = {sizeof good, mlp, workspace, &selection, BYTES(x), NONE, BYTES_MUT(y)};
    MorayMlpForward call = good;
    call.mlp = NULL;
    REFUSED(MORAY_STATUS_NULL, "mlp: expected", moray_mlp_forward(cpu, &call));
    call = good, call.workspace = NULL;
    REFUSED(MORAY_STATUS_NULL, "workspace: expected", moray_mlp_forward(cpu, &call));
    call = good, call.struct_size = 1;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_mlp_forward(cpu, &call));
    call = good, call.y = BYTES_MUT(x);
    REFUSED(MORAY_STATUS_OVERLAP, "overlaps x", moray_mlp_forward(cpu, &call));
    call = good, call.y.bytes = 4;
    REFUSED(MORAY_STATUS_LENGTH, "y: expected 128 elements, got 1", moray_mlp_forward(cpu, &call));
    call = good, call.x.bytes = 4;
    REFUSED(MORAY_STATUS_SHAPE, "x: expected a multiple of d_model", moray_mlp_forward(cpu, &call));
    uint32_t twice[] = {3, 3}, beyond[] = {D_FF};
    selection.list = BYTES(twice);
    REFUSED(MORAY_STATUS_NOT_INCREASING, "list: expected", moray_mlp_forward(cpu, &good));
    selection.list = BYTES(beyond);
    REFUSED(MORAY_STATUS_INDEX, "list: expected an index below 96, got 96", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_MASKS, 0), selection.masks.bytes -= 8;
    REFUSED(MORAY_STATUS_LENGTH, "masks: expected 4 elements, got 3", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_THRESHOLD, MORAY_SCORE_GATE), selection.threshold = -1;
    REFUSED(MORAY_STATUS_VALUE, "threshold: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_TOP_K, MORAY_SCORE_GATE), selection.k = 0;
    REFUSED(MORAY_STATUS_SHAPE, "k: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_TOP_K, 8);
    REFUSED(MORAY_STATUS_UNSUPPORTED, "selection.score: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_LIST, 0), selection.struct_size = 4;
    REFUSED(MORAY_STATUS_VERSION, "struct_size: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_LIST, 0), selection.list.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "list: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_MASKS, 0), selection.masks.data = NULL;
    REFUSED(MORAY_STATUS_NULL, "masks: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(MORAY_SELECT_TOP_K, MORAY_SCORE_GATE), selection.channel_scale = (MorayBytes){NULL, D_FF * sizeof(float)};
    REFUSED(MORAY_STATUS_NULL, "channel_scale: expected", moray_mlp_forward(cpu, &good));
    selection = select_by(77, 0);
    REFUSED(MORAY_STATUS_UNSUPPORTED, "selection.kind: expected", moray_mlp_forward(cpu, &good));
    call = good, call.selection = NULL;
    OK(moray_mlp_forward(cpu, &call));
}

int main(void) {
    OK(moray_cpu_create(2, MORAY_ARCH_NATIVE, &cpu));
    for (size_t i = 0; i < D_FF * D_MODEL; i++) gate[i] = noise(i), up[i] = noise(i + 7000), down[i] = noise(i + 14000);
    for (size_t i = 0; i < TOKENS * D_MODEL; i++) x[i] = noise(i + 21000), residual[i] = noise(i + 28000);
    for (uint32_t i = 0; i < D_FF / 2; i++) list[i] = 2 * i;
    for (size_t i = 0; i < TOKENS * WORDS; i++) masks[i] = (0x9249249249249249u << (i / WORDS)) & (i % WORDS ? 0xffffffffu : ~(uint64_t)0);
    MorayMlp *mlp;
    MorayMlpWorkspace *workspace;
    OK(moray_mlp_create(&SHAPE, MORAY_F32, BYTES(gate), BYTES(up), BYTES(down), NULL, &mlp));
    OK(moray_mlp_workspace_create(mlp, TOKENS, &workspace));
    const MoraySelection selections[] = {
        select_by(MORAY_SELECT_ALL, 0),           select_by(MORAY_SELECT_LIST, 0),
        select_by(MORAY_SELECT_MASKS, 0),         select_by(MORAY_SELECT_UNION, 0),
        select_by(MORAY_SELECT_THRESHOLD, MORAY_SCORE_GATE), select_by(MORAY_SELECT_THRESHOLD, MORAY_SCORE_HIDDEN),
        select_by(MORAY_SELECT_TOP_K, MORAY_SCORE_GATE),     select_by(MORAY_SELECT_TOP_K, MORAY_SCORE_HIDDEN),
    };
    for (size_t i = 0; i < sizeof selections / sizeof selections[0]; i++) check_selection(mlp, workspace, &selections[i]);
    check_parts(mlp, workspace, NULL);
    check_select(mlp, workspace);
    check_bad_input(mlp, workspace);
    check_four_bit();
    moray_mlp_workspace_destroy(workspace);
    moray_mlp_destroy(mlp);
    moray_mlp_destroy(NULL);
    moray_mlp_workspace_destroy(NULL);
    moray_cpu_destroy(cpu);
    puts("mlp: ok");
    return 0;
}
