"""The library's functions for TVM FFI against the package's own calls."""


import numpy as np
import pytest
from conftest import in_eight_threads, require

import moray
from moray import Format, InputSparse, Quantized, SparseMlp, Threshold, TopK, Weight

tvm_ffi = require("tvm_ffi")
LIBRARY = tvm_ffi.load_module(moray.library_path())
RNG = np.random.default_rng(2)
FORMATS = [Format.per_channel(), Format.w8(), Format.per_group(32, "f16"), Format.two_level(64), Format.qqq()]
PARTS = ("codes", "channel", "group", "offset")


def call(name, *arguments):
    """Numpy arrays go by DLPack, as they are."""
    lent = (tvm_ffi.from_dlpack(a) if isinstance(a, np.ndarray) else a for a in arguments)
    return LIBRARY[f"moray_{name}"](*lent)


def named(format):
    return format.bits, format.group_size, format.group_scale or "none", format.offset


def random(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def packed(w, format):
    sizes = np.zeros(4, np.int64)
    call("section_bytes", sizes, *w.shape, *named(format))
    assert dict(zip(PARTS, sizes.tolist())) == format.section_bytes(*w.shape)
    sections = [np.zeros(size, np.uint8) if size else None for size in sizes]
    call("pack", *sections, w, *named(format))
    return sections


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_packing_and_products_equal_the_packages(format):
    w, x, bias, residual = random(24, 256), random(3, 256), random(24), random(3, 24)
    sections = packed(w, format)
    weight = Weight(Quantized.quantize(w, format))
    for part, section in zip(PARTS, sections):
        assert (section is None) == (part not in weight.sections)
        assert section is None or np.array_equal(section, weight.sections[part])
    y = np.zeros((3, 24), np.float32)
    for scales in ("token", "fine"):
        call("linear", y, x, *sections, None, bias, residual, *named(format), scales, 0)
        assert np.array_equal(y, moray.linear(weight, x, bias=bias, residual=residual, act_scales=scales))
        call("linear", y, x, *sections, None, None, None, *named(format), scales, 1)
        assert np.array_equal(y, moray.linear(weight, x, act_scales=scales))


def test_the_order_of_columns_is_taken():
    w, x, order = random(16, 64), random(2, 64), RNG.permutation(64).astype(np.int32)
    format = Format.per_channel()
    y, expected = np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32)
    sections = packed(w, format)
    call("linear", y, x, *sections, order, None, None, *named(format), "token", 1)
    call("linear", expected, np.ascontiguousarray(x[:, order]), *sections, None, None, None, *named(format), "token", 1)
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("format", [None, Format.per_channel(), Format.per_group(32, "f16")], ids=str)
def test_sparse_mlps_equal_the_packages(format):
    gate, up, down, x = random(96, 64), random(96, 64), random(64, 96), random(3, 64)
    scale, indices, keep = RNG.random(96, dtype=np.float32), np.array([1, 5, 90], np.int32), RNG.random((3, 96)) < 0.4
    if format is None:
        number, mlp = call("sparse_mlp_create", gate, up, down, "silu"), SparseMlp(gate, up, down)
    else:
        number = call("sparse_mlp_create_quantized", gate, up, down, "silu", *named(format))
        mlp = SparseMlp(*(Quantized.quantize(w, format) for w in (gate, up, down)))
    padded = np.zeros((3, 128), bool)
    padded[:, :96] = keep
    masks, listed = np.packbits(padded, axis=1, bitorder="little").view(np.int64), moray.Indices(indices.view(np.uint32))
    cases = [
        (("all", 0.0, "hidden", None, None, None), None),
        (("indices", 0, "hidden", None, indices, None), listed),
        (("masks", 0, "hidden", None, None, masks), moray.Masks(keep)),
        (("union", 0, "hidden", None, indices, masks.view(np.uint64)), moray.Union(indices.view(np.uint32), keep)),
        (("threshold", 0.5, "gate", scale, None, None), Threshold(0.5, "gate", scale)),
        (("top_k", 7, "hidden", None, None, None), TopK(7)),
    ]
    for arguments, selection in cases:
        y = np.zeros((3, 64), np.float32)
        call("sparse_mlp", y, x, number, *arguments, 0)
        assert np.array_equal(y, mlp(x, selection))
    for wrong in (random(6, 32), random(3, 65), np.zeros((), np.float32)):
        with pytest.raises(ValueError, match="x: expected 64 features in its last dimension"):
            call("sparse_mlp", wrong.copy(), wrong, number, *cases[0][0], 0)
    before, row = y.copy(), np.zeros(96, np.float32)
    for text, attempt in [
        ("y: expected memory of its own", lambda: call("sparse_mlp", y, y, number, *cases[0][0], 0)),
        ("channel_scale", lambda: call("sparse_mlp", row[:64].reshape(1, 64), x[:1].copy(), number, "threshold", 0.5, "gate", row, None, None, 0)),
        ("indices: expected elements of u32 or i32", lambda: call("sparse_mlp", y, x, number, "indices", 0, "hidden", None, indices.astype(np.int64), None, 0)),
        ("masks: expected elements of u64 or i64", lambda: call("sparse_mlp", y, x, number, "masks", 0, "hidden", None, None, masks.view(np.int32), 0)),
        ("masks", lambda: call("sparse_mlp", y, x, number, "masks", 0, "hidden", None, None, masks[:2].copy(), 0)),
        ("masks", lambda: call("sparse_mlp", y, x, number, "masks", 0, "hidden", None, None, None, 0)),
        ("value: expected a whole number", lambda: call("sparse_mlp", y, x, number, "top_k", 1.5, "hidden", None, None, None, 0)),
        ("k: expected", lambda: call("sparse_mlp", y, x, number, "top_k", 97, "hidden", None, None, None, 0)),
        ("kind: expected one of all, indices, masks, union", lambda: call("sparse_mlp", y, x, number, "some", 0, "hidden", None, None, None, 0)),
        ("threads: expected an argument", lambda: call("sparse_mlp", y, x, number, *cases[0][0])),
        ("up: expected", lambda: call("sparse_mlp_create", gate, up[:95].copy(), down, "silu")),
        ("down: expected elements of f32", lambda: call("sparse_mlp_create", gate, up, down.astype(np.float16), "silu")),
        ("expected", lambda: call("sparse_mlp_create_quantized", gate, up, down, "silu", *named(Format.w8()))),
    ]:  # fmt: skip
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
    assert np.array_equal(y, before)
    call("sparse_mlp", y, x, number, *cases[-1][0], 0)
    assert np.array_equal(y, before)
    call("sparse_mlp_destroy", number)
    with pytest.raises(ValueError, match="mlp: expected the number of an MLP"):
        call("sparse_mlp", y, x, number, *cases[0][0], 0)


@pytest.mark.parametrize("kind", ["f32", "f16", "4 bits", "groups"])
def test_products_by_input_equal_the_formula_and_the_packages(kind):
    w, x, bias, residual = random(40, 96), random(2, 5, 96), random(40), random(2, 5, 40)
    formats = {"4 bits": Format.per_channel(), "groups": Format.per_group(32, "f16")}
    if format := formats.get(kind):
        number, weight = call("by_input_create_quantized", w, *named(format)), InputSparse(Quantized.quantize(w, format))
    else:
        w = w.astype({"f32": np.float32, "f16": np.float16}[kind])
        number, weight = call("by_input_create", w), InputSparse(w)
    for threshold, threads in ((0.0, 1), (0.7, 2), (0, 0), (99.0, 1)):
        y = np.zeros((2, 5, 40), np.float32)
        call("by_input", y, x, number, threshold, bias, residual, threads)
        assert np.array_equal(y, weight(x, threshold, bias=bias, residual=residual))
        call("by_input", y, x, number, threshold, None, None, threads)
        assert np.array_equal(y, weight(x, threshold))
        if format is None:
            kept, wide = np.where(np.abs(x) > threshold, x, 0).astype(np.float64), w.astype(np.float64)
            assert (np.abs(y - kept @ wide.T) <= (np.abs(kept) @ np.abs(wide.T)) * 100 * 2.0**-24).all()
    other = call("by_input_create", w)
    assert other != number
    empty = np.zeros((0, 40), np.float32)
    call("by_input", empty, random(0, 96), number, 0.5, None, None, 1)
    call("by_input_destroy", number)
    with pytest.raises(ValueError, match="weight: expected the number of a weight by input"):
        call("by_input", y, x, number, 0.0, None, None, 1)
    with pytest.raises(ValueError, match="weight: expected the number of a weight by input"):
        call("by_input_destroy", number)
    call("by_input_destroy", other)


def test_products_by_input_refuse_bad_input_and_go_on():
    w, x, y = random(40, 96), random(3, 96), np.zeros((3, 40), np.float32)
    number, end = call("by_input_create", w), (None, None, 1)
    call("by_input", y, x, number, 0.3, *end)
    expected, memory, same = y.copy(), np.zeros(3 * 96 + 60, np.float32), np.zeros((3, 40), np.float32)
    refused = [
        ("x: expected 96 features in its last dimension", lambda: call("by_input", y, random(6, 48), number, 0.3, *end)),
        ("x: expected 96 features in its last dimension", lambda: call("by_input", y, np.zeros((), np.float32), number, 0.3, *end)),
        ("y: expected shape [3, 40], got [2, 40]", lambda: call("by_input", y[:2], x, number, 0.3, *end)),
        ("y: expected elements of f32, got f16", lambda: call("by_input", y.astype(np.float16), x, number, 0.3, *end)),
        ("x: expected elements of f32, got f64", lambda: call("by_input", y, x.astype(np.float64), number, 0.3, *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, float("nan"), *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, -1.0, *end)),
        ("threshold: expected", lambda: call("by_input", y, x, number, 1e300, *end)),
        ("threshold: expected a number, got a string", lambda: call("by_input", y, x, number, "0.3", *end)),
        ("weight: expected a size from 0, got -1", lambda: call("by_input", y, x, -1, 0.3, *end)),
        ("weight: expected the number of a weight by input", lambda: call("by_input", y, x, 0, 0.3, *end)),
        ("bias: expected shape [40], got [39]", lambda: call("by_input", y, x, number, 0.3, random(39), None, 1)),
        ("residual: expected shape [3, 40], got [40, 3]", lambda: call("by_input", y, x, number, 0.3, None, random(40, 3), 1)),
        ("y: expected memory of its own", lambda: call("by_input", same, x, number, 0.3, None, same, 1)),
        ("y: expected memory of its own", lambda: call(
            "by_input", memory[288 - 60 : 288 + 60].reshape(3, 40), memory[:288].reshape(3, 96), number, 0.3, *end)),
        ("expected 7 arguments, got 8", lambda: call("by_input", y, x, number, 0.3, *end, 1)),
        ("threads: expected an argument", lambda: call("by_input", y, x, number, 0.3, None, None)),
        ("w: expected 2 dimensions", lambda: call("by_input_create", random(96))),
        ("w: expected elements of f32, f16 or bf16", lambda: call("by_input_create", w.astype(np.float64))),
        ("finite", lambda: call("by_input_create", np.full((2, 32), np.inf, np.float32))),
        ("4-bit", lambda: call("by_input_create_quantized", w, *named(Format.w8()))),
    ]  # fmt: skip
    for text, attempt in refused:
        with pytest.raises(ValueError) as raised:
            attempt()
        assert text in str(raised.value)
        assert np.array_equal(y, expected)
    call("by_input", y, x, number, 0.3, *end)
    assert np.array_equal(y, expected)
    call("by_input_destroy", number)


def test_products_by_input_take_torchs_tensors():
    torch = require("torch")
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w, x, y = torch.randn(16, 64, dtype=dtype), torch.randn(3, 64), torch.zeros(3, 16)
        number = LIBRARY["moray_by_input_create"](w)
        LIBRARY["moray_by_input"](y, x, number, 0.4, None, None, 1)
        assert np.array_equal(y.numpy(), InputSparse(w)(x.numpy(), 0.4))
        LIBRARY["moray_by_input_destroy"](number)


def test_eight_threads_share_a_weight_by_input():
    w = random(40, 96)
    number, weight = call("by_input_create", w), InputSparse(w)

    def work(i):
        x, y = random(1 + i % 3, 96), np.zeros((1 + i % 3, 40), np.float32)
        expected = weight(x, 0.4)
        for _ in range(200):
            call("by_input", y, x, number, 0.4, None, None, 1 + i % 2)
            if not np.array_equal(y, expected):
                return False
        return True

    assert not in_eight_threads(work)
    call("by_input_destroy", number)


Q_HEADS, KV_HEADS, DIM, CAPACITY, PAGE, PAGES = 4, 2, 16, 40, 8, 24
KINDS = {"f32": np.float32, "f16": np.float16, "int8": np.int8}
LIST, COUNTS = np.array([[0, 3], [2, 0]], np.int32), np.array([2, 1], np.int32)
MASK = np.array([[0b1001], [0b0100]], np.uint32)
HEADS = [
    (("all", None, None), None, lambda span, head: True),
    (("list", LIST, COUNTS), moray.HeadLists([[0, 3], [2]]), lambda span, head: head in ([0, 3], [2])[span]),
    (
        ("groups", np.array([[1, 0], [0, 1]], np.uint32), np.array([1, 2], np.uint32)),
        moray.HeadLists([[1], [0, 1]], groups=True),
        lambda span, head: head // 2 in ([1], [0, 1])[span],
    ),
    (("mask", MASK, None), moray.HeadMask(MASK), lambda span, head: bool(MASK[span, 0] >> head & 1)),
]


def cache(kind, layout, holes=True):
    """A paged cache whose K and V share an array, and the arguments that are it."""
    sides = (PAGE, KV_HEADS) if layout == "NHD" else (KV_HEADS, PAGE)
    memory = np.zeros((PAGES, 2, *sides, DIM + 8), KINDS[kind])
    table = RNG.permutation(PAGES)[:15].astype(np.uint32).reshape(3, 5)
    scales = [np.zeros((PAGES, KV_HEADS, PAGE), np.float32) if kind == "int8" else None for _ in range(2)]
    present = np.zeros((3, KV_HEADS, 2), np.uint32) if holes else None
    return [memory[:, 0, ..., :DIM], memory[:, 1, ..., :DIM], layout, CAPACITY, table, *scales, present]


def created(threads=1, rows=16):
    return call("attention_create", Q_HEADS, KV_HEADS, DIM, rows, 2, CAPACITY, threads)


@pytest.mark.parametrize("layout", ["NHD", "HND"])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_the_packages(kind, layout):
    mine, theirs, number = cache(kind, layout), cache(kind, layout), created(2)
    names = ("k", "v", "layout", "capacity", "page_table", "k_scale", "v_scale", "present")
    pages = moray.KvPages(**dict(zip(names, theirs)))
    attention = moray.Attention(Q_HEADS, KV_HEADS, DIM, max_rows=16, max_spans=2, capacity=CAPACITY)
    first = 0
    for (heads, of_the_package, _), count in zip([*HEADS, HEADS[0]], (5, 4, 1, 7, 1)):
        spans = np.array([[2, first, count], [0, first, 1]])
        q, k, v = (random(count + 1, n, DIM) for n in (Q_HEADS, KV_HEADS, KV_HEADS))
        call("write_kv", k, v, number, spans, "hole", *heads, *mine)
        out, expected = np.empty_like(q), [moray.Span(*map(int, span)) for span in spans]
        call("attend", out, q, number, spans, *heads, *mine)
        attention.write_kv(pages, 0, expected, k, v, heads=of_the_package, policy="hole")
        assert np.array_equal(out, attention.attend(pages, 0, expected, q, heads=of_the_package))
        first += count
    assert np.array_equal(mine[7], theirs[7]) and mine[7].any()
    call("attention_destroy", number)


@pytest.mark.parametrize("case", range(len(HEADS)))
def test_attention_matches_softmax_in_f64_over_the_heads_that_run(case):
    heads, _, runs = HEADS[case]
    spans, number = np.array([[0, 0, 3], [2, 0, 2]]), created()
    for kind, layout, table in (("f32", "NHD", True), ("f32", "HND", False)):
        q, k, v = random(5, Q_HEADS, DIM), random(5, KV_HEADS, DIM), random(5, KV_HEADS, DIM)
        mine = cache(kind, layout, holes=False)
        if not table:
            mine[:2], mine[4] = (np.zeros((3, KV_HEADS, CAPACITY, DIM), np.float32) for _ in range(2)), None
        call("write_kv", k, v, number, spans, "write_all", *heads, *mine)
        out = np.full(q.shape, 9, np.float32)
        call("attend", out, q, number, spans, *heads, *mine)
        first = 0
        for span, (_, _, length) in enumerate(spans):
            for t, head in np.ndindex(length, Q_HEADS):
                expected = np.zeros(DIM)
                if runs(span, head):
                    keys, values = (a[first : first + t + 1, head // 2].astype(np.float64) for a in (k, v))
                    scores = keys @ q[first + t, head] / np.sqrt(DIM)
                    weights = np.exp(scores - scores.max())
                    expected = weights @ values / weights.sum()
                assert np.abs(out[first + t, head] - expected).max() < 1e-5
            first += length


def test_attention_takes_torchs_tensors():
    torch = require("torch")
    number, spans = LIBRARY["moray_attention_create"](Q_HEADS, KV_HEADS, DIM, 8, 2, CAPACITY, 1), torch.tensor([[1, 0, 5]])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        both = torch.zeros(3, 2, CAPACITY, KV_HEADS, DIM, dtype=dtype)
        where = (both[:, 0], both[:, 1], "NHD", CAPACITY, None, None, None, None)
        q, k, v = torch.randn(5, Q_HEADS, DIM), torch.randn(5, KV_HEADS, DIM), torch.randn(5, KV_HEADS, DIM)
        out = torch.zeros_like(q)
        LIBRARY["moray_write_kv"](k, v, number, spans, "write_all", "all", None, None, *where)
        LIBRARY["moray_attend"](out, q, number, spans, "all", None, None, *where)
        assert torch.equal(both[1, 0, :5], k.to(dtype)) and torch.equal(both[1, 1, :5], v.to(dtype)) and not both[[0, 2]].any()
        attention = moray.Attention(Q_HEADS, KV_HEADS, DIM, max_rows=8, max_spans=2, capacity=CAPACITY)
        pages = moray.KvPages(both[:, 0], both[:, 1], capacity=CAPACITY)
        assert np.array_equal(out.numpy(), attention.attend(pages, 0, [moray.Span(1, 0, 5)], q))


def test_attention_refuses_bad_input_and_goes_on():
    mine, number, spans, heads = cache("f32", "NHD"), created(), np.array([[0, 0, 3], [2, 0, 2]]), ("all", None, None)
    q, k, v, out = random(5, Q_HEADS, DIM), random(5, KV_HEADS, DIM), random(5, KV_HEADS, DIM), np.zeros((5, Q_HEADS, DIM), np.float32)
    call("write_kv", k, v, number, spans, "write_all", *heads, *mine)
    call("attend", out, q, number, spans, *heads, *mine)
    expected, memory = out.copy(), mine[0].base.copy()

    def attend(out=out, q=q, number=number, spans=spans, heads=heads, **changed):
        names = ("k", "v", "layout", "capacity", "table", "k_scale", "v_scale", "present")
        call("attend", out, q, number, spans, *heads, *(changed.get(name, value) for name, value in zip(names, mine)))

    def write(k=k, v=v, spans=spans, policy="write_all", where=mine):
        call("write_kv", k, v, number, spans, policy, *heads, *where)

    far = mine[4].copy()
    far[0, 0] = PAGES
    wide = np.lib.stride_tricks.as_strided(mine[0], (2**31, PAGE, KV_HEADS, DIM), (2**33, 4, 4, 4))
    calls = [
        (ValueError, "out: expected shape [5, 4, 16], got [4, 4, 16]", lambda: attend(out=out[:4])),
        (ValueError, "q: expected shape [5, 4, 16], got [5, 2, 16]", lambda: attend(q=k)),
        (ValueError, "q: expected elements of f32, got f64", lambda: attend(q=q.astype(np.float64))),
        (ValueError, "attention: expected the number of an attention, got 0", lambda: attend(number=0)),
        (ValueError, "spans: expected elements of i64, got i32", lambda: attend(spans=spans.astype(np.int32))),
        (ValueError, "spans: expected shape [2, 3], got [2, 2]", lambda: attend(spans=np.zeros((2, 2), np.int64))),
        (ValueError, "spans: expected numbers from 0, got -1", lambda: attend(spans=np.array([[0, -1, 3], [2, 0, 2]]))),
        (ValueError, "q: expected 192 elements, got 320", lambda: attend(spans=spans[:1])),
        (IndexError, "span position: expected an index below 40", lambda: attend(spans=np.array([[0, 0, 2**62], [2, 0, 2**62]]))),
        (IndexError, "slot", lambda: attend(spans=np.array([[0, 0, 3], [3, 0, 2]]))),
        (IndexError, "position", lambda: attend(spans=np.array([[0, 38, 3], [2, 0, 2]]))),
        (ValueError, "heads: expected one of all, list, groups, mask, got some", lambda: attend(heads=("some", None, None))),
        (ValueError, "list: expected elements of u32 or i32, got i64", lambda: attend(heads=("list", LIST.astype(np.int64), COUNTS))),
        (ValueError, "head counts: expected 2 elements, got 0", lambda: attend(heads=("list", LIST, None))),
        (ValueError, "increasing", lambda: attend(heads=("list", np.array([[1, 1], [0, 0]], np.int32), COUNTS))),
        (IndexError, "head", lambda: attend(heads=("list", np.array([[0, 4], [0, 0]], np.int32), COUNTS))),
        (ValueError, "layout: expected one of NHD, HND, got DHN", lambda: attend(layout="DHN")),
        (ValueError, "pages.k: expected 4 dimensions, of them 2 KV heads and 16 elements", lambda: attend(layout="HND")),
        (ValueError, "pages.k: expected 4 dimensions", lambda: attend(k=mine[0][0])),
        (ValueError, "pages.k: expected 4 dimensions", lambda: attend(k=np.zeros((), np.float32))),
        (ValueError, "pages.k: expected elements of f32, f16, bf16 or i8, got u8", lambda: attend(k=np.zeros(mine[0].shape, np.uint8), v=np.zeros(mine[0].shape, np.uint8))),
        (ValueError, "pages.v: expected shape", lambda: attend(v=mine[1].copy())),
        (ValueError, "pages.k: expected elements of the last dimension one after another", lambda: attend(k=mine[0][::-1], v=mine[1][::-1])),
        (ValueError, "pages.k: expected bytes that can be counted", lambda: attend(k=wide, v=wide)),
        (ValueError, "pages.k_scale", lambda: attend(k_scale=np.zeros((PAGES, PAGE, KV_HEADS), np.float32))),
        (ValueError, "pages.present: expected shape [3, 2, 2], got [3, 2, 1]", lambda: attend(present=np.zeros((3, 2, 1), np.uint32))),
        (ValueError, "max_pages", lambda: attend(capacity=48)),
        (ValueError, "pages.present", lambda: attend(capacity=2**63 - 1)),
        (IndexError, "page_table: expected an index below 24, got 24", lambda: attend(table=far)),
        (ValueError, "out: expected memory of its own", lambda: attend(out=q)),
        (ValueError, "k: expected shape [5, 2, 16], got [5, 4, 16]", lambda: write(k=q)),
        (ValueError, "policy: expected one of write_all, hole, zero, got drop", lambda: write(policy="drop")),
        (ValueError, "kv policy", lambda: write(policy="hole", where=[*mine[:7], None])),
        (ValueError, "expected memory of its own", lambda: write(where=[*mine[:7], mine[4].reshape(-1)[:12].reshape(3, 2, 2)])),
        (ValueError, "n_q_heads", lambda: call("attention_create", 3, 2, 16, 8, 2, CAPACITY, 1)),
        (ValueError, "max_rows", lambda: call("attention_create", 4, 2, 16, 2**62, 2, CAPACITY, 1)),
        (ValueError, "expected 7 arguments, got 8", lambda: call("attention_create", 4, 2, 16, 8, 2, CAPACITY, 1, 1)),
        (ValueError, "pages.present: expected an argument", lambda: call("attend", out, q, number, spans, *heads, *mine[:7])),
        (ValueError, "attention: expected the number of an attention", lambda: call("attention_destroy", number + 999)),
    ]  # fmt: skip
    for error, text, attempt in calls:
        with pytest.raises(error) as raised:
            attempt()
        assert text in str(raised.value)
        assert np.array_equal(out, expected) and np.array_equal(mine[0].base, memory)
    attend()
    assert np.array_equal(out, expected)


def test_eight_threads_share_an_attention():
    mine, number, spans = cache("f16", "HND"), created(), np.array([[0, 0, 16]])
    call("write_kv", random(16, KV_HEADS, DIM), random(16, KV_HEADS, DIM), number, spans, "write_all", "all", None, None, *mine)

    def work(i):
        q, one = random(1, Q_HEADS, DIM), np.array([[0, 15 - i, 1]])
        out, expected = np.zeros_like(q), np.zeros_like(q)
        call("attend", expected, q, number, one, "all", None, None, *mine)
        for _ in range(200):
            call("attend", out, q, number, one, "all", None, None, *mine)
            if not np.array_equal(out, expected):
                return False
        return out.any()

    assert not in_eight_threads(work)


def refused():
    format, w, x, y = Format.per_channel(), random(16, 64), random(2, 64), np.zeros((2, 16), np.float32)
    sections, end = packed(w, format), (None, None, None, *named(format), "token", 1)
    both = np.zeros((2, 64), np.float32)
    codes, channel = sections[0].copy(), sections[1].copy()
    within = codes[: 2 * 16 * 4].view(np.float32).reshape(2, 16)
    return [
        (ValueError, "y: expected a tensor, got an integer", lambda: call("linear", 1, x, *sections, *end)),
        (ValueError, "y: expected an argument, got 0 arguments to moray_linear", lambda: call("linear")),
        (ValueError, "expected 15 arguments, got 16", lambda: call("linear", y, x, *sections, *end, 1)),
        (ValueError, "bits: expected an integer, got a string", lambda: call("linear", y, x, *sections, *end[:3], "4", *end[4:])),
        (ValueError, "act_scales: expected one of token, fine, got row", lambda: call("linear", y, x, *sections, *end[:-2], "row", 1)),
        (ValueError, "x: expected elements of f32, f16 or bf16, got i64", lambda: call("linear", y, x.astype(np.int64), *sections, *end)),
        (ValueError, "x: expected 2 dimensions", lambda: call("linear", y, x[0], *sections, *end)),
        (ValueError, "x: expected elements one after another", lambda: call("linear", y, random(64, 2).T, *sections, *end)),
        (ValueError, "bias: expected shape [16], got [15]", lambda: call("linear", y, x, *sections, None, random(15), *end[2:])),
        (ValueError, "codes: expected elements of u8, got f32", lambda: call("linear", y, x, x, *sections[1:], *end)),
        (ValueError, "codes", lambda: call("linear", y, x, sections[0][:-1], *sections[1:], *end)),
        (ValueError, "y: expected memory of its own", lambda: call("linear", both.reshape(-1)[:32].reshape(2, 16), both, *sections, *end)),
        (ValueError, "y: expected memory of its own, got memory that overlaps residual", lambda: call("linear", y, x, *sections, None, None, y, *end[3:])),
        (ValueError, "y: expected memory of its own, got memory that overlaps bias", lambda: call("linear", y, x, *sections, None, y.reshape(-1)[:16], *end[2:])),
        (ValueError, "y: expected memory of its own, got memory that overlaps codes", lambda: call("linear", within, x, codes, *sections[1:], *end)),
        (ValueError, "overlaps w", lambda: call("pack", codes, channel, None, None, codes.view(np.float32).reshape(-1, 32), *named(format))),
        (ValueError, "channel: expected memory of its own, got memory that overlaps codes", lambda: call("pack", codes, codes[:64], None, None, w, *named(format))),
        (ValueError, "n: expected", lambda: call("section_bytes", np.zeros(4, np.int64), 2**62, 64, *named(format))),
        (ValueError, "n: expected a size from 0, got -1", lambda: call("section_bytes", np.zeros(4, np.int64), -1, 64, *named(format))),
        (IndexError, "order", lambda: call("linear", y, x, *sections, np.full(64, 64, np.int32), *end[1:])),
    ]  # fmt: skip


def test_refusals_are_exceptions_that_name_the_argument():
    for error, text, attempt in refused():
        with pytest.raises(error) as raised:
            attempt()
        assert text in str(raised.value)
    # and the next call works
    packed(random(16, 64), Format.per_channel())


def test_tensors_of_torch_go_as_they_are():
    torch = require("torch")
    format = Format.per_group(32)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w, x = torch.randn(16, 64, dtype=dtype), torch.randn(3, 64, dtype=dtype)
        sizes = torch.zeros(4, dtype=torch.int64)
        LIBRARY["moray_section_bytes"](sizes, 16, 64, *named(format))
        sections = [torch.zeros(size, dtype=torch.uint8) if size else None for size in sizes.tolist()]
        LIBRARY["moray_pack"](*sections, w, *named(format))
        y, expected = torch.zeros(3, 16, dtype=dtype), torch.zeros(3, 16, dtype=dtype)
        LIBRARY["moray_linear"](y, x, *sections, None, None, None, *named(format), "token", 0)
        moray.linear(Weight(Quantized.quantize(w, format)), x, out=expected)
        assert torch.equal(y, expected)


def test_eight_threads_call_at_once():
    format, w = Format.per_group(64), random(48, 256)
    sections, weight = packed(w, format), Weight(Quantized.quantize(w, format))

    def work(i):
        x, y = random(1 + i % 3, 256), np.zeros((1 + i % 3, 48), np.float32)
        expected = moray.linear(weight, x)
        for _ in range(1250):
            call("linear", y, x, *sections, None, None, None, *named(format), "token", 1 + i % 2)
            if not np.array_equal(y, expected):
                return False
        return True

    assert not in_eight_threads(work)
