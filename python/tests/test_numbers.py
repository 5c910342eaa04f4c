"""Numbers and lists of numbers, as callers may have them: each is taken as it is, or refused by its name."""

import numpy as np
import pytest

import moray
import moray.cuda
from moray import Attention, Cpu, Format, HeadLists, HeadMask, Indices, KvCache, KvPages, MorayError, Quantized, Span, TopK, Weight

RNG = np.random.default_rng(5)
W = RNG.standard_normal((40, 64), np.float32)
X = RNG.standard_normal((3, 64), np.float32)
FORMAT = Format.per_group(32)
KV = {"n_layers": 1, "n_slots": 2, "n_kv_heads": 2, "head_dim": 16, "capacity": 64}
HEADS = {"n_q_heads": 4, "n_kv_heads": 2, "head_dim": 16, "max_rows": 8, "max_spans": 2, "capacity": 64}


def _calls():
    """Calls with one number left open, by the name that it is refused by."""
    weight, mlp = Weight(Quantized.quantize(W, FORMAT)), moray.SparseMlp(W, W, W.T.copy())
    attention, cache = Attention(**HEADS), KvCache(**KV)
    pages, rows = np.zeros((4, 16, 2, 16), np.float32), np.ones((1, 2, 16), np.float32)
    queries = np.ones((1, 4, 16), np.float32)
    yield "threads", lambda n: Cpu(n)
    yield "format.bits", lambda n: Format(bits=n).section_bytes(16, 64)
    yield "format.group_size", lambda n: Format(4, n, "f16").section_bytes(16, 64)
    yield "n", lambda n: FORMAT.section_bytes(n, 64)
    yield "k", lambda n: FORMAT.section_bytes(16, n)
    yield "n", lambda n: Quantized.from_blocks("q4_0", np.zeros(18, np.uint8), n, 32)
    yield "k", lambda n: Quantized.from_blocks("q4_0", np.zeros(18, np.uint8), 1, n)
    yield "n", lambda n: Weight.borrow(weight.sections, n, 64, FORMAT)
    yield "k", lambda n: Weight.borrow(weight.sections, 40, n, FORMAT)
    yield "row", weight.row
    yield "max_m", lambda n: moray.Activations(n, 64)
    yield "max_k", lambda n: moray.Activations(1, n)
    yield "k", lambda n: mlp(X, TopK(n))
    yield "k", lambda n: moray.select(X, TopK(n))
    for name in KV:
        yield name, lambda n, name=name: KvCache(**{**KV, name: n})
    for name in HEADS:
        yield name, lambda n, name=name: Attention(**{**HEADS, name: n})
    yield "slot", lambda n: cache.truncate(n, 0)
    yield "len", lambda n: cache.truncate(0, n)
    for name, at in zip(("layer", "slot", "kv_head", "position"), range(4)):
        yield name, lambda n, at=at: cache.read(*(n if i == at else 0 for i in range(4)))
    yield "capacity", lambda n: KvPages(pages, pages.copy(), capacity=n)
    yield "layer", lambda n: attention.write_kv(cache, n, [Span(0, 0, 1)], rows, rows)
    for name in Span._fields:
        yield f"spans.{name}", lambda n, name=name: moray.cuda.span_records([Span(0, 0, 1)._replace(**{name: n})])
        yield f"spans.{name}", lambda n, name=name: attention.attend(cache, 0, [Span(0, 0, 1)._replace(**{name: n})], queries)


@pytest.mark.parametrize("wrong", [-1, -(2**70), 2**64, 2**70, 1.5, "1", None, [1]], ids=repr)
def test_a_number_that_c_does_not_take_is_refused_by_its_name(wrong):
    for name, call in _calls():
        with pytest.raises(MorayError, match=f"^{name}: expected"):
            call(wrong)


@pytest.mark.parametrize("wrong", [(-1, 16), (0, 0), (16, 0), (40, 2**64), (0.0, 16.0), ("0", 16), (0,), (0, 16, 32), 16, None], ids=repr)
def test_a_range_that_is_none_is_refused_by_its_name(wrong):
    weight, mlp = Weight(Quantized.quantize(W, FORMAT)), moray.SparseMlp(W, W, W.T.copy())
    attention, cache = Attention(**HEADS), KvCache(**KV)
    queries = np.ones((1, 4, 16), np.float32)
    part = {"spans": (0, 1), "kv_heads": (0, 2)}
    out = np.empty((3, 40), np.float32)
    for name, call in [
        ("rows", lambda: moray.linear(weight, X, out=out, rows=wrong)),
        ("rows", lambda: moray.InputSparse(W)(X, 0.0, out=out, rows=wrong)),
        ("positions", lambda: mlp.gate(X, out=out, positions=wrong)),
        ("columns", lambda: mlp.down(out, out=X.copy(), columns=wrong)),
        ("spans", lambda: attention.attend(cache, 0, [Span(0, 0, 1)], queries, out=queries.copy(), part=moray.Part(**{**part, "spans": wrong}))),
        ("kv_heads", lambda: attention.attend(cache, 0, [Span(0, 0, 1)], queries, out=queries.copy(), part=moray.Part(**{**part, "kv_heads": wrong}))),
    ]:  # fmt: skip
        if wrong is None and name in ("rows", "positions", "columns"):
            continue
        with pytest.raises(MorayError, match=f"^{name}: expected"):
            call()


def test_numbers_of_numpy_are_numbers():
    assert Cpu(np.int64(1)).threads == 1
    assert moray.SparseMlp(W, W, W.T.copy())(X, TopK(np.uint8(3))).shape == X.shape
    cache = KvCache(**{name: np.int32(size) for name, size in KV.items()})
    cache.truncate(np.int16(1), np.uint64(0))


@pytest.mark.parametrize("wrong", [[1.5], [0.0], [True, False], ["a"], [[1, 2]], [-1], [2**32], [2**70], [None]], ids=repr)
def test_a_list_of_other_than_indices_is_refused(wrong):
    mlp = moray.SparseMlp(W, W, W.T.copy())
    attention, cache = Attention(**HEADS), KvCache(**KV)
    spans, rows = [Span(0, 0, 1)], np.ones((1, 2, 16), np.float32)
    attention.write_kv(cache, 0, spans, rows, rows)
    with pytest.raises(MorayError, match="^list: expected"):
        mlp(X, Indices(wrong))
    with pytest.raises(MorayError, match="^neurons: expected"):
        mlp.gate(X, wrong)
    with pytest.raises(MorayError, match="^heads: expected"):
        attention.attend(cache, 0, spans, np.ones((1, 4, 16), np.float32), heads=HeadLists([wrong]))


def test_lists_of_any_whole_numbers_are_taken():
    mlp = moray.SparseMlp(W, W, W.T.copy())
    expected = mlp(X, Indices(np.array([1, 7, 39], np.uint32)))
    for listed in ([1, 7, 39], (1, 7, 39), [np.int64(1), np.int64(7), np.int64(39)], [np.uint8(1), 7, 39]):
        assert np.array_equal(mlp(X, Indices(listed)), expected)
    assert np.array_equal(mlp(X, Indices(range(40))), mlp(X)) and not mlp(X, Indices([])).any()


@pytest.mark.parametrize("wide", [1, 39, 41, 64, 65])
def test_truth_values_of_another_number_of_neurons_are_refused(wide):
    mlp = moray.SparseMlp(W, W, W.T.copy())
    for selection in (moray.Masks(np.ones((3, wide), bool)), moray.Union(range(40), np.ones((3, wide), bool))):
        with pytest.raises(moray.LengthError, match=r"^masks: expected shape \[any, 40\]"):
            mlp(X, selection)
    assert np.array_equal(mlp(X, moray.Masks(np.ones((3, 40), bool))), mlp(X))


@pytest.mark.parametrize("wide", [1, 3, 5, 32, 33])
def test_truth_values_of_another_number_of_heads_are_refused(wide):
    attention, cache = Attention(**HEADS), KvCache(**KV)
    rows, queries = np.ones((1, 2, 16), np.float32), np.ones((1, 4, 16), np.float32)
    for call in (
        lambda heads: attention.write_kv(cache, 0, [Span(0, 0, 1)], rows, rows, heads=heads),
        lambda heads: attention.attend(cache, 0, [Span(0, 0, 1)], queries, heads=heads),
    ):
        call(HeadMask(np.ones((1, 4), bool)))
        with pytest.raises(moray.LengthError, match=r"^heads: expected shape \[any, 4\]"):
            call(HeadMask(np.ones((1, wide), bool)))


def test_no_tokens_give_no_results():
    weight = Weight(Quantized.quantize(W, FORMAT))
    for shape in ((0, 64), (2, 0, 64)):
        for dtype in (np.float32, np.float16):
            y = moray.linear(weight, np.zeros(shape, dtype), bias=np.ones(40, np.float32))
            assert y.shape == (*shape[:-1], 40) and y.dtype == dtype
        out = np.empty((*shape[:-1], 40), np.float32)
        assert moray.linear(weight, np.zeros(shape, np.float32), out=out) is out
        assert moray.InputSparse(W)(np.zeros(shape, np.float32), 0.0).shape == out.shape
        assert moray.SparseMlp(W, W, W.T.copy())(np.zeros(shape, np.float32)).shape == shape
    with pytest.raises(moray.LengthError):
        moray.linear(weight, np.zeros((0, 64), np.float32), bias=np.ones(39, np.float32))
    with pytest.raises(moray.LengthError):
        moray.linear(weight, np.zeros((0, 64), np.float32), out=np.empty((1, 40), np.float32))
