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
