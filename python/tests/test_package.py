"""What is asked of the package as a whole."""

import importlib.metadata
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from conftest import in_eight_threads

import moray
from moray import Cpu, Format, Quantized, Weight, linear


def test_the_support_table_matches_what_calls_do():
    for operation, format, _, supported, words in moray.support_table():
        assert words and "\n" not in words
        if operation == "linear":
            try:
                format.section_bytes(16, 128)
            except moray.UnsupportedError:
                assert not supported
            else:
                assert supported
    assert not moray.supports("sparse_mlp", Format.w8())
    assert moray.supports("attention", dtype="int8").words.startswith("keys and values stored in int8")
    with pytest.raises(moray.UnsupportedError, match="operation: expected one of"):
        moray.supports("convolution")


def test_the_command_prints_the_table():
    said = subprocess.run([sys.executable, "-m", "moray"], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"moray {moray.__version__}, packed layout {moray.LAYOUT_VERSION}") and "sparse_mlp" in said


def test_everything_public_is_documented():
    for name in moray.__all__:
        thing = getattr(moray, name)
        assert not callable(thing) or thing is moray.Selection or thing.__doc__, name


def test_the_wheel_is_for_any_python_and_has_what_it_should():
    try:
        wheel = importlib.metadata.distribution("moray")
    except importlib.metadata.PackageNotFoundError:
        wheel = None
    if wheel is None or wheel.read_text("WHEEL") is None:
        pytest.skip("skipped: the package is not installed from its wheel")
    assert wheel.version == moray.__version__
    tags = [line for line in wheel.read_text("WHEEL").splitlines() if line.startswith("Tag: ")]
    assert len(tags) == 1 and tags[0].startswith("Tag: py3-none-") and not tags[0].endswith("-any")
    names = {path.name for path in wheel.files}
    assert {"LICENSE-MIT", "LICENSE-APACHE", "py.typed", "_abi.py", os.path.basename(moray.library_path())} <= names


def call(cpu=None):
    quantized = Quantized.quantize(np.ones((32, 64), np.float32), Format.per_group(32))
    weight = Weight.borrow(quantized.pack(), 32, 64, quantized.format)
    assert linear(weight, np.ones((2, 64), np.float32), cpu=cpu)[0, 0] == pytest.approx(64, rel=0.02)
    with pytest.raises(moray.MorayError):
        linear(weight, np.ones((2, 32), np.float32))


def test_many_objects_and_calls_leak_nothing():
    for _ in range(200):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3000):
        call()
    # a weight's memory alone would be megabytes more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024


@pytest.mark.parametrize("own", [False, True], ids=["one handle", "a handle each"])
def test_ten_thousand_calls_of_eight_threads_are_right_and_leak_nothing(own):
    rng = np.random.default_rng(4)
    plain, x = Quantized.quantize(rng.standard_normal((32, 64), np.float32), Format.per_group(32)), rng.standard_normal((3, 64), np.float32)
    shared = Weight(plain)
    expected, short = linear(shared, x), np.zeros((3, 32), np.float32)

    def work(_):
        weight, cpu, y = (Weight(plain) if own else shared), Cpu(1), np.empty_like(expected)
        for i in range(10_000 // 8):
            linear(weight, x, out=y, cpu=cpu)
            if not np.array_equal(y, expected):
                return False
            if i % 100 == 0:
                try:
                    linear(weight, short, cpu=cpu)
                    return False
                except moray.LengthError as error:
                    if not str(error).startswith("x: expected 64 features"):
                        return False
        return True

    assert not in_eight_threads(work)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not in_eight_threads(work)
    # of 10,000 calls a hundred bytes each would be as much
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_process_has_threads_of_its_own():
    cpu = Cpu(2)
    call(), call(cpu)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            call(), call(cpu)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
