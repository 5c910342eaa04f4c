"""The kernel for the Hugging Face `kernels` library: its declarations against cffi's reading of the header, its results against the package's."""

import ast
import base64
import ctypes
import hashlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from conftest import in_eight_threads, require

import moray
from moray import Format, Indices, Quantized, Threshold, TopK, Weight
from moray._abi import ffi

HUB = Path(__file__).resolve().parents[1] / "hub"


def module(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


build = module("hub_build", HUB / "build.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The kernel around the library that the package has."""
    return build.build(Path(moray.library_path()), tmp_path_factory.mktemp("kernel"))


def is_struct(name):
    """Whether a type of the header is one whose fields are known."""
    try:
        return ffi.sizeof(name) > 0 and ffi.typeof(name).kind == "struct"
    except ffi.error:
        return False


def test_declarations_are_those_of_the_header(folder):
    abi = module("hub_abi", folder / "_abi.py")
    structs = {name for name, value in vars(abi).items() if isinstance(value, type) and issubclass(value, ctypes.Structure)}
    assert structs == {name for name in ffi.list_types()[0] if name.startswith("Moray") and is_struct(name)} and len(structs) > 30
    for name in structs:
        ours, fields = getattr(abi, name), ffi.typeof(name).fields
        assert ctypes.sizeof(ours) == ffi.sizeof(name), name
        assert [field for field, _ in ours._fields_] == [field for field, _ in fields]
        for field, kind in fields:
            at = getattr(ours, field)
            assert (at.offset, at.size) == (ffi.offsetof(name, field), ffi.sizeof(kind.type)), (name, field)
    library = moray._library.lib
    functions = {name: (result, parameters) for name, result, parameters in abi.FUNCTIONS}
    for name in dir(library):
        found = getattr(library, name)
        if isinstance(found, int):
            assert getattr(abi, name) == found, name
        else:
            result, parameters = functions.pop(name)
            kind = ffi.typeof(found)
            sizes = [ctypes.sizeof(parameter) for parameter in parameters]
            assert sizes == [ffi.sizeof(parameter) for parameter in kind.args], name
            assert (result is None) == (kind.result.kind == "void"), name
    assert not functions


def test_a_header_that_is_not_understood_is_refused():
    for header in ("int moray_x(void);\nunion A { int a; };", "void moray_x(unknown_t a);", "void moray_x(int);"):
        with pytest.raises(SystemExit, match="expected"):
            build.abi(header)


def test_the_folder_is_as_the_kernels_library_has_it(folder):
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["name"] == "moray" and metadata["backend"] == {"type": "cpu"} and metadata["python-depends"] == []
    assert metadata["id"].isidentifier() and f'NAMESPACE = "{metadata["id"]}"' in (folder / "_build.py").read_text()
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    del files["metadata.json"]
    digests = {name: base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode() for name, path in files.items()}
    assert metadata["digest"]["files"] == digests
    # only torch, the standard library and the kernel itself are imported
    for path in files.values():
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))):
                named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                named += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
                assert all(name.split(".")[0] in sys.stdlib_module_names | {"torch"} for name in named), path


def test_another_build_has_another_namespace(folder, tmp_path):
    library = tmp_path / Path(moray.library_path()).name
    library.write_bytes(Path(moray.library_path()).read_bytes() + b"\0")
    other = build.build(library, tmp_path / "other")
    read = [json.loads((path / "metadata.json").read_text())["id"] for path in (folder, other)]
    assert read[0] != read[1]
    again = build.build(Path(moray.library_path()), tmp_path / "again")
    assert json.loads((again / "metadata.json").read_text())["id"] == read[0]


def test_the_variant_for_cuda_is_named_by_its_version(tmp_path):
    made = build.build(Path(moray.library_path()), tmp_path, "12.6")
    assert made.name.startswith("torch-stable-abi24-cu126-")
    metadata = json.loads((made / "metadata.json").read_text())
    assert metadata["backend"] == {"type": "cuda"} and metadata["id"].startswith("_moray_cuda_")
    variants = pytest.importorskip("kernels.variants")
    assert variants.parse_variant(made.name).variant_str == made.name


def test_versions_of_glibc_are_read():
    assert build.glibc(b"..GLIBC_2.4\0GLIBC_2.17\0GLIBC_2.9\0") == (2, 17) and build.glibc(b"") == ()


FORMATS = [
    (Format.per_channel(), (4, 0, "none", "none")), (Format.w8(), (8, 0, "none", "none")), (Format.per_group(64, "f16"), (4, 64, "f16", "f16")),
    (Format.per_group(32), (4, 32, "f16", "none")), (Format.two_level(32), (4, 32, "integer", "none")),
]  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return require("torch")


@pytest.fixture(scope="module")
def kernel(torch, folder):
    """Loaded as the `kernels` library does, by it where it is installed."""
    try:
        from kernels import get_local_kernel
    except ImportError:
        metadata = json.loads((folder / "metadata.json").read_text())
        name = metadata["id"]
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]
    return get_local_kernel(folder.parent.parent, backend="cpu")


@pytest.mark.parametrize(("format", "parts"), FORMATS, ids=str)
def test_products_have_the_packages_bits(torch, kernel, format, parts):
    torch.manual_seed(1)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        w, x, bias = torch.randn(48, 128, dtype=dtype), torch.randn(2, 3, 128, dtype=dtype), torch.randn(48)
        quantized = kernel.quantize(w, *parts)
        packed, plain = quantized.pack(), Quantized.quantize(w, format)
        assert (quantized.dequantize().numpy() == plain.dequantize()).all()
        for part, section in plain.pack().items():
            assert (getattr(packed, part).numpy() == section).all()
        for scales in ("token", "fine"):
            out = torch.empty(2, 3, 48, dtype=dtype)
            moray.linear(Weight(plain), x, bias=bias, out=out, act_scales=scales)
            assert torch.equal(kernel.w4a8_linear(x, packed, bias, scales), out)
        assert kernel.w4a8_linear(x[:0], packed).shape == (0, 3, 48)
        assert torch.equal(kernel.w4a8_linear(x.transpose(0, 1), packed), kernel.w4a8_linear(x, packed).transpose(0, 1))


@pytest.mark.parametrize("four_bit", [False, True])
def test_sparse_operators_have_the_packages_bits(torch, kernel, four_bit):
    torch.manual_seed(2)
    gate, up, down, x = torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96), torch.randn(3, 64)
    format = Format.per_group(32)
    theirs = [Quantized.quantize(w, format) if four_bit else w for w in (gate, up, down)]
    ours = [kernel.quantize(w, 4, 32) if four_bit else w for w in (gate, up, down)]
    biases = dict(zip(("gate_bias", "up_bias", "down_bias"), (torch.randn(96), torch.randn(96), torch.randn(64))))
    mlp, expected = kernel.SparseMlp(*ours, "relu", **biases), moray.SparseMlp(*theirs, activation="relu", **biases)
    scale, listed = torch.rand(96), torch.tensor([1, 5, 90], dtype=torch.int32)
    for arguments, selection in [
        (("all",), None),
        (("indices", 0, "hidden", None, listed), Indices([1, 5, 90])),
        (("threshold", 0.5, "gate", scale), Threshold(0.5, "gate", scale)),
        (("top_k", 7), TopK(7)),
    ]:
        assert torch.equal(kernel.sparse_mlp(x, mlp, *arguments), torch.from_numpy(expected(x, selection)))
    weight, bias = torch.randn(40, 64), torch.randn(40)
    held = kernel.InputSparse(kernel.quantize(weight, 4, 32) if four_bit else weight)
    plain = moray.InputSparse(Quantized.quantize(weight, format) if four_bit else weight)
    for tokens in (x[:1], x):
        assert torch.equal(kernel.by_input(tokens, held, 0.5, bias), torch.from_numpy(plain(tokens, 0.5, bias=bias)))


def model(torch, kernel):
    """A layer of each kind, prepared."""

    class Mlp(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gate_proj, self.up_proj = torch.nn.Linear(64, 96, bias=False), torch.nn.Linear(64, 96)
            self.down_proj, self.act_fn = torch.nn.Linear(96, 64), torch.nn.SiLU()

        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class Wide(torch.nn.Linear):
        def forward(self, input):
            return super().forward(input)

    return torch.nn.Sequential(torch.nn.Linear(64, 64), Mlp(), Wide(64, 48))


def test_layers_take_the_place_of_forward(torch, kernel):
    torch.manual_seed(3)
    whole, x = model(torch, kernel), torch.randn(5, 64)
    layers = [kernel.layers.W4A8Linear, kernel.layers.SparseMlp, kernel.layers.InputSparseLinear]
    plain = whole(x)
    for part, layer in zip(whole, layers):
        part.forward = layer.forward.__get__(part)
    # what has not been prepared is as before
    assert torch.equal(whole(x), plain)
    kernel.pack_linear(whole[0], bits=8, group_size=0, group_scale="none")
    kernel.hold_mlp(whole[1], "top_k", 90)
    kernel.hold_by_input(whole[2], 0.0)
    with torch.no_grad():
        assert 0 < (whole(x) - plain).abs().max() < 0.1 * plain.abs().max()
        compiled = torch.compile(whole, fullgraph=True, backend="aot_eager")
        for tokens in (1, 5):
            assert torch.equal(compiled(x[:tokens]), whole(x[:tokens]))


@pytest.mark.filterwarnings("ignore")
def test_operators_keep_torchs_contract(torch, kernel):
    ops, packed = kernel.ops, kernel.quantize(torch.randn(32, 64), 4, 32).pack()
    for x in (torch.randn(3, 64), torch.randn(2, 2, 64, dtype=torch.bfloat16)):
        torch.library.opcheck(ops.w4a8_linear.default, (x, *packed[:4], torch.randn(32), 32, 64, packed.format, "token"))
    mlp, held = kernel.SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96)), kernel.InputSparse(torch.randn(40, 64))
    for arguments in (("all", 0.0, "hidden", None, None), ("threshold", 0.5, "gate", torch.rand(96), None)):
        torch.library.opcheck(ops.sparse_mlp.default, (torch.randn(3, 64), mlp.number, *arguments))
    torch.library.opcheck(ops.by_input.default, (torch.randn(2, 3, 64), held.number, 40, 0.5, torch.randn(40)))


def test_refusals_name_the_argument(torch, kernel):
    packed = kernel.quantize(torch.randn(32, 64), 4, 32).pack()
    mlp = kernel.SparseMlp(torch.randn(96, 64), torch.randn(96, 64), torch.randn(64, 96))
    x, number = torch.randn(2, 64), mlp.number
    del mlp
    for text, attempt in [
        ("x: expected 64 features", lambda: kernel.w4a8_linear(torch.randn(2, 63), packed)),
        ("x: expected elements of f32", lambda: kernel.w4a8_linear(x.to(torch.int32), packed)),
        ("codes: expected elements of torch.uint8", lambda: kernel.w4a8_linear(x, packed._replace(codes=packed.codes.float()))),
        ("codes", lambda: kernel.w4a8_linear(x, packed._replace(codes=packed.codes[:-1]))),
        ("bias", lambda: kernel.w4a8_linear(x, packed, torch.randn(31))),
        ("act_scales: expected one of", lambda: kernel.w4a8_linear(x, packed, None, "row")),
        ("mlp: expected the number", lambda: kernel.ops.sparse_mlp(x, number, "all", 0.0, "hidden", None, None)),
        ("threshold", lambda: kernel.by_input(x, kernel.InputSparse(torch.randn(40, 64)), -1.0)),
        ("weight: expected two dimensions", lambda: kernel.quantize(x[0])),
        ("group_scale: expected one of", lambda: kernel.quantize(x, 4, 32, "f8")),
        ("weight", lambda: kernel.InputSparse(torch.full((4, 4), float("nan")))),
    ]:
        with pytest.raises(kernel.MorayError, match=text):
            attempt()


def test_calls_of_several_threads_and_of_a_forked_process(torch, kernel):
    packed, held = kernel.quantize(torch.randn(48, 256)).pack(), kernel.InputSparse(torch.randn(48, 256))

    def work(i):
        x = torch.randn(1 + i % 3, 256)
        first = kernel.w4a8_linear(x, packed), kernel.by_input(x, held, 0.5)
        calls = ((kernel.w4a8_linear(x, packed), kernel.by_input(x, held, 0.5)) for _ in range(200))
        return all(torch.equal(a, b) for both in calls for a, b in zip(both, first))

    assert not in_eight_threads(work)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            status = 0 if work(1) else 1
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_calls_work_on_the_threads_of_torchs_runtime(torch, kernel):
    runtime = importlib.import_module(f"{kernel.__name__}._openmp")
    packed, x, wide = kernel.quantize(torch.randn(256, 512)).pack(), torch.randn(8, 512), torch.randn(1 << 20)
    before, tasks = torch.get_num_threads(), Path("/proc/self/task")
    try:
        torch.set_num_threads(1)
        expected = kernel.w4a8_linear(x, packed)
        torch.set_num_threads(3)
        wide.exp()  # starts torch's threads
        started = len(list(tasks.iterdir())) if tasks.exists() else None
        assert torch.equal(kernel.w4a8_linear(x, packed), expected)
        if runtime.parallel() is not None:
            assert len(list(tasks.iterdir())) == started
    finally:
        torch.set_num_threads(before)
    if sys.platform == "linux" and "ATen parallel backend: OpenMP" in torch.__config__.parallel_info():
        assert runtime.parallel() is not None


def test_the_kernels_library_takes_it(torch, folder, kernel):
    kernels = require("kernels")
    assert kernel is kernels.get_local_kernel(folder.parent.parent, backend="cpu")
    read = kernels.get_loaded_kernels()[-1].metadata
    assert read.name.python_name == "moray" and read.id == kernel.__name__
    whole, x = model(torch, kernel), torch.randn(3, 64)
    kernels.replace_kernel_forward_from_hub(torch.nn.Linear, "W4A8Linear")
    kernels.replace_kernel_forward_from_hub(type(whole[1]), "SparseMlp")
    kernels.replace_kernel_forward_from_hub(type(whole[2]), "InputSparseLinear")
    kernel.pack_linear(whole[0])
    kernel.hold_mlp(whole[1], "threshold", 0.1)
    kernel.hold_by_input(whole[2], 0.5)
    names = ("W4A8Linear", "SparseMlp", "InputSparseLinear")
    mapping = {name: {"cpu": kernels.LocalLayerRepository(folder, layer_name=name)} for name in names}
    plain = whole(x)
    with kernels.use_kernel_mapping(mapping, inherit_mapping=False), torch.no_grad():
        kernels.kernelize(whole, mode=kernels.Mode.INFERENCE | kernels.Mode.TORCH_COMPILE, device="cpu", use_fallback=False)
        first = kernel.w4a8_linear(x, kernel.quantize(whole[0].weight).pack(), whole[0].bias.detach())
        assert torch.equal(whole[0](x), first) and not torch.equal(whole(x), plain)
        assert torch.equal(torch.compile(whole, fullgraph=True, backend="aot_eager")(x), whole(x))
