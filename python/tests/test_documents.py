"""The programs in the documentation run as they stand."""

import importlib.util
import re
from pathlib import Path

import pytest
from conftest import require

import moray

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("python", "torch", "tvm-ffi", "vllm", "hub")
PROGRAMS = [
    (f"docs/{page}.md", number, program)
    for page in PAGES
    for number, program in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(encoding="utf-8"), re.DOTALL))
]


def test_every_page_has_a_program():
    assert {page for page, _, _ in PROGRAMS} == {f"docs/{page}.md" for page in PAGES}


@pytest.mark.parametrize(("page", "number", "program"), PROGRAMS, ids=[f"{page} {number}" for page, number, _ in PROGRAMS])
def test_programs_run_as_they_stand(page, number, program, tmp_path, monkeypatch):
    assert len(program.splitlines()) <= 30
    for package in re.findall(r"^(?:import|from) (torch|tvm_ffi|kernels|vllm)\b", program, re.MULTILINE):
        require(package, "MORAY_REQUIRE_VLLM" if package == "vllm" else "MORAY_REQUIRE_TORCH")
    if "target/hub-kernel" in program:
        monkeypatch.chdir(tmp_path)
        spec = importlib.util.spec_from_file_location("hub_build", ROOT / "python/hub/build.py")
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)
        build.build(Path(moray.library_path()), tmp_path / "target/hub-kernel")
    exec(compile(program, page, "exec"), {"__name__": "__main__"})
