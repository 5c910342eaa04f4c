"""The programs in the documentation run as they stand."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_programs_run_as_they_stand():
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert programs
    for program in programs:
        assert len(program.splitlines()) <= 30
        exec(compile(program, "docs/python.md", "exec"), {"__name__": "__main__"})
