"""The programs in the documentation run as they stand."""

import re
from pathlib import Path

import pytest
from conftest import require

TEXT = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_programs_run_as_they_stand(number):
    program = PROGRAMS[number]
    assert len(program.splitlines()) <= 30
    for package in re.findall(r"^import (torch|tvm_ffi)$", program, re.MULTILINE):
        require(package)
    exec(compile(program, "docs/python.md", "exec"), {"__name__": "__main__"})
