"""torch's operators, modules and conversion against the library's own calls and against eager torch."""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import require

import moray
from moray import Format, Indices, Masks, Quantized, Threshold, TopK, Weight

torch = require("torch")
from moray.torch import InputSparseLinear, SparseMlp, W4A8Linear, convert  # noqa: E402

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FORMATS = [Format.per_channel(), Format.w8(), Format.per_group(64, "f16"), Format.two_level(32)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_of_torch_are_read_and_written_where_they_are(dtype):
    weight = Weight(Quantized.quantize(torch.randn(32, 64, dtype=dtype), Format.per_group(32)))
    x, out = torch.randn(3, 64, dtype=dtype), torch.zeros(3, 32, dtype=dtype)
    assert moray.linear(weight, x, out=out) is out
    expected = torch.from_numpy(moray.linear(weight, x.float().numpy()))
    assert torch.equal(out, expected.to(dtype))
    with pytest.raises(moray.LayoutError, match="x: expected elements one after another"):
        moray.linear(weight, torch.randn(64, 3, dtype=dtype).T, out=out)
    with pytest.raises(moray.LayoutError, match="requires? grad"):
        moray.linear(weight, x.requires_grad_(), out=out)
    with pytest.raises(moray.DeviceError, match="x: expected memory of the CPU"):
        moray.linear(weight, FakeGpu(), out=out)


class FakeGpu:
    """What a tensor of a GPU says of itself."""

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self):
        raise AssertionError("memory of another device was asked for")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_layer_equals_the_librarys_call(format, dtype):
    plain = torch.nn.Linear(128, 48).to(dtype)
    layer = W4A8Linear.from_linear(plain, format)
    x = torch.randn(2, 3, 128, dtype=dtype)
    out = torch.empty(2, 3, 48, dtype=dtype)
    weight = Weight(Quantized.quantize(plain.weight.detach(), format))
    expected = moray.linear(weight, x, bias=plain.bias.detach().float(), out=out)
    assert torch.equal(layer(x), expected) and layer(x).dtype == dtype
    assert torch.equal(layer(x.transpose(0, 1)), expected.transpose(0, 1))
    assert layer(x[:0]).shape == (0, 3, 48)


# no function of torch's stands between, whose bits a code generator may change
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_equals_eager_without_a_graph_break(backend):
    model = torch.nn.Sequential(
        W4A8Linear.from_linear(torch.nn.Linear(64, 96), Format.per_group(32, "f16")),
        W4A8Linear.from_linear(torch.nn.Linear(96, 64, bias=False), Format.per_channel(), "fine"),
        SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96), TopK(11)),
        SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96), Indices([1, 5, 90])),
        InputSparseLinear.from_linear(torch.nn.Linear(64, 48), 0.5),
    )
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for tokens in (1, 5, 6):
        x = torch.randn(tokens, 64)
        assert torch.equal(compiled(x), model(x))


@pytest.mark.filterwarnings("ignore")
def test_operators_keep_torchs_contract():
    layer = W4A8Linear.from_linear(torch.nn.Linear(64, 32), Format.per_group(32, "f16"))
    for x in (torch.randn(3, 64), torch.randn(2, 2, 64, dtype=torch.bfloat16)):
        arguments = (x, layer.codes, None, layer.group, layer.offset, None, layer.bias, 32, 64, layer._numbers, "token")
        torch.library.opcheck(torch.ops.moray.w4a8_linear.default, arguments)
    mlp = SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96))
    scale = torch.rand(96)
    for arguments in (("all", 0.0, "hidden", None, None), ("threshold", 0.5, "gate", scale, None)):
        torch.library.opcheck(torch.ops.moray.sparse_mlp.default, (torch.randn(3, 64), mlp.number, *arguments))
    sparse = InputSparseLinear(torch.randn(40, 64), 0.5)
    for bias in (None, torch.randn(40)):
        torch.library.opcheck(torch.ops.moray.by_input.default, (torch.randn(2, 3, 64), sparse.number, 40, 0.5, bias))


def test_refusals_name_the_argument():
    layer = W4A8Linear.from_linear(torch.nn.Linear(64, 32), Format.per_channel())
    with pytest.raises(moray.LengthError, match="x: expected 64 features"):
        layer(torch.randn(2, 63))
    with pytest.raises(moray.DtypeError, match="x: expected elements of f32"):
        layer(torch.zeros(2, 64, dtype=torch.int32))
    layer.codes = layer.codes[:-1]
    with pytest.raises(moray.LengthError, match="codes"):
        layer(torch.randn(2, 64))
    mlp = SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96))
    number = mlp.number
    del mlp
    with pytest.raises(moray.NullError, match="mlp: expected the number"):
        torch.ops.moray.sparse_mlp(torch.randn(1, 64), number, "all", 0.0, "hidden", None, None)
    with pytest.raises(moray.NullError, match="weight: expected the number"):
        torch.ops.moray.by_input(torch.randn(1, 64), number, 40, 0.5, None)
    with pytest.raises(moray.UnsupportedError, match="selection"):
        SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96), Masks(np.ones((1, 96), bool)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_by_input_equals_the_librarys_call(dtype):
    plain = torch.nn.Linear(64, 40).to(dtype)
    layer, x = InputSparseLinear.from_linear(plain, 0.5), torch.randn(2, 3, 64, dtype=dtype)
    weight = moray.InputSparse(plain.weight.detach())
    for threshold in (0.5, 0.0):
        layer.threshold = threshold
        expected = weight(x.float(), threshold, bias=plain.bias.detach().float())
        assert torch.equal(layer(x), torch.from_numpy(expected).to(dtype)) and layer(x).dtype == dtype
    assert layer(x[:0]).shape == (0, 3, 40)
    kept = torch.where(x.float().abs() > 0.5, x.float(), 0.0)
    layer.threshold = 0.5
    assert torch.allclose(layer(x).float(), torch.nn.functional.linear(kept, plain.weight.float(), plain.bias.float()), rtol=2e-2, atol=2e-2)
    other = copy.deepcopy(layer)
    other.threshold = 9.0
    assert torch.equal(other(x), plain.bias.detach().expand(2, 3, 40)) and layer.threshold == 0.5


@pytest.mark.parametrize("selection", [None, Threshold(0.5), TopK(9), Indices([0, 7])], ids=str)
def test_an_mlp_equals_the_librarys_call(selection):
    gate, up, down, x = torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96), torch.randn(2, 3, 64)
    expected = moray.SparseMlp(gate, up, down)(x, selection)
    module = SparseMlp(gate, up, down, selection)
    assert np.array_equal(module(x).numpy(), expected)
    assert torch.equal(copy.deepcopy(module)(x), module(x))
    assert module(x.bfloat16()).dtype == torch.bfloat16


def test_state_survives_saving_and_other_types():
    layer = W4A8Linear.from_linear(torch.nn.Linear(64, 32), Format.per_group(32, "f16"))
    x = torch.randn(2, 64)
    expected = layer(x)
    other = W4A8Linear.from_linear(torch.nn.Linear(64, 32), Format.per_group(32, "f16"))
    assert not torch.equal(other(x), expected)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), expected)
    halved = copy.deepcopy(layer).bfloat16()
    assert torch.equal(halved.codes, layer.codes) and torch.equal(halved.group, layer.group)
    assert halved(x.bfloat16()).dtype == torch.bfloat16


def llama(**options):
    transformers = require("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, vocab_size=50, **options,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(("layers", "count"), [("all", 14), ("mlp", 6), ("gate_up", 4), (lambda name: name.endswith("o_proj"), 2)])
def test_convert_replaces_the_layers_that_are_meant(layers, count):
    model, ids = llama(), torch.arange(12)[None]
    plain = model(ids).logits
    convert(model, Format.w8(), layers)
    replaced = [name for name, module in model.named_modules() if isinstance(module, W4A8Linear)]
    assert len(replaced) == count and "lm_head" not in replaced
    # weights and activations of 8 bits move logits by some percent at most
    moved = (model(ids).logits - plain).abs().max() / plain.abs().max()
    assert 0 < moved < 0.05


def test_convert_makes_mlps_sparse_and_keeps_their_numbers_where_all_is_kept():
    model, ids = llama(), torch.arange(12)[None]
    plain = model(ids).logits
    convert(model, layers=lambda name: False, selection=TopK(96))
    assert sum(isinstance(module, SparseMlp) for module in model.modules()) == 2
    assert torch.allclose(model(ids).logits, plain, rtol=1e-4, atol=1e-5)
    sparse = convert(llama(), Format.per_group(32), selection=TopK(48))
    assert sum(isinstance(module, W4A8Linear) for module in sparse.modules()) == 8
    assert sparse.generate(ids, max_new_tokens=3, do_sample=False).shape == (1, 15)


def test_convert_refuses_what_it_does_not_know():
    with pytest.raises(moray.UnsupportedError, match="layers: expected 'all'"):
        convert(llama(), layers="attention")
    with pytest.raises(moray.UnsupportedError, match="expected to find linear layers"):
        convert(torch.nn.ReLU())
    with pytest.raises(moray.ShapeError, match="0: "):
        convert(torch.nn.Sequential(torch.nn.Linear(33, 16)))
    with pytest.raises(moray.UnsupportedError, match="act_fn: expected SiLU or ReLU"):
        convert(llama(hidden_act="gelu"), selection=TopK(1))
    with pytest.raises(moray.UnsupportedError, match="expected weights of shape"):
        convert(llama(), weights=lambda name: Quantized.quantize(np.zeros((16, 32), np.float32), Format.per_channel()))


@pytest.mark.parametrize("selection", [None, TopK(48)])
def test_a_model_that_cannot_be_converted_whole_is_left_as_it_was(selection):
    model, ids, asked = llama(), torch.arange(12)[None], []
    plain, modules = model(ids).logits, dict(model.named_modules())

    def weights(name):
        asked.append(name)
        if len(asked) == 9:
            raise KeyError(name)

    with pytest.raises(KeyError):
        convert(model, Format.per_group(32), selection=selection, weights=weights)
    assert len(asked) == 9, "eight layers had been replaced"
    after = dict(model.named_modules())
    assert after.keys() == modules.keys() and all(after[name] is modules[name] for name in modules)
    assert torch.equal(model(ids).logits, plain)


def test_a_converted_llama_compiles_whole():
    model = convert(llama(), Format.per_group(32, "f16"))
    ids = torch.arange(9)[None]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


def test_operators_work_on_the_threads_of_torchs_runtime():
    from moray.torch import threads

    layer, x = W4A8Linear.from_linear(torch.nn.Linear(512, 256), Format.per_group(64)), torch.randn(8, 512)
    before, wide = torch.get_num_threads(), torch.randn(1 << 20)
    tasks = Path("/proc/self/task")
    try:
        torch.set_num_threads(1)
        expected = layer(x)
        for count in (2, 3):
            torch.set_num_threads(count)
            wide.exp()  # starts torch's threads
            started = len(list(tasks.iterdir())) if tasks.exists() else None
            assert torch.equal(layer(x), expected) and threads.cpu().threads == count
            if threads.parallel() is not None:
                assert len(list(tasks.iterdir())) == started
    finally:
        torch.set_num_threads(before)
    if sys.platform == "linux" and "ATen parallel backend: OpenMP" in torch.__config__.parallel_info():
        assert threads.parallel() is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_waits_for_no_thread_of_the_runtime():
    layer, x = W4A8Linear.from_linear(torch.nn.Linear(512, 256), Format.per_group(64)), torch.randn(8, 512)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = layer(x).numpy().tobytes()
        child = os.fork()
        if child == 0:
            same = all(layer(x).numpy().tobytes() == expected for _ in range(3))
            torch.set_num_threads(3)
            os._exit(0 if same and layer(x).numpy().tobytes() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(before)


def test_a_backward_pass_is_refused_and_not_left_out():
    gate, up, down = (torch.randn(shape) for shape in ((96, 64), (96, 64), (64, 96)))
    linear = torch.nn.Linear(64, 40)
    for name, module in [
        ("w4a8_linear", W4A8Linear.from_linear(linear, Format.per_group(64))),
        ("by_input", InputSparseLinear.from_linear(linear, 0.5)),
        ("sparse_mlp", SparseMlp(gate, up, down, TopK(8))),
    ]:
        x = torch.randn(3, 64)
        expected = module(x)
        for layer in (module, torch.compile(module, fullgraph=True)):
            # a forward pass is one whether a gradient is asked for or not
            learned = x.clone().requires_grad_()
            y = layer(learned)
            assert torch.equal(y.detach(), expected)
            with pytest.raises(moray.UnsupportedError, match=f"^moray::{name}: expected a forward pass alone"):
                y.sum().backward()
            with torch.no_grad():
                assert torch.equal(layer(learned), expected)


def test_a_fraction_of_a_neuron_is_refused():
    gate, up, down = (torch.randn(shape) for shape in ((96, 64), (96, 64), (64, 96)))
    with pytest.raises(moray.DtypeError, match="^k: expected a whole number"):
        SparseMlp(gate, up, down, TopK(1.5))
