"""The examples run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import require

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"


def run(example, *arguments):
    command = [sys.executable, ROOT / "python/examples" / example, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_overhead_prints_a_line_for_each_door():
    said = run("overhead.py")
    assert said.count(" ns\n") >= 6 and "`moray.linear` of Activations" in said


def test_a_real_model_runs_in_transformers_with_the_blocks_of_its_file():
    for package in ("accelerate", "gguf", "torch", "transformers"):
        require(package)
    if not MODEL.exists():
        if os.environ.get("MORAY_REQUIRE_MODEL"):
            raise AssertionError("expected the model (cargo xtask fetch), got none")
        pytest.skip("skipped: no model (cargo xtask fetch obtains it)")
    said = run("smollm2.py", str(MODEL), "--tokens", "10", "--rounds", "1")
    plain, *_, converted = (line.partition(": ")[2] for line in said.splitlines() if "tok/s" in line)
    # digits that follow one another, which no rounding moves
    assert plain == converted and "7, 8, 9" in converted
