"""Builds the wheel: compiles the C ABI's library with cargo, and reads its header for Python."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from cffi import FFI
from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Lines of the header that a C compiler reads and that say nothing of the ABI.
DIRECTIVES = re.compile(r'\s*#\s*(if|ifdef|ifndef|endif|include)\b|#define MORAY_H$|extern "C" \{|\}  // extern "C"')


# The part of DLPack's public header that says where a tensor is.
DLPACK = """
typedef struct { int32_t device_type; int32_t device_id; } DLDevice;
typedef struct { uint8_t code; uint8_t bits; uint16_t lanes; } DLDataType;
typedef struct {
    void *data; DLDevice device; int32_t ndim; DLDataType dtype; int64_t *shape; int64_t *strides; uint64_t byte_offset;
} DLTensor;
"""


def declarations() -> str:
    """The header's types, constants and functions."""
    header = (ROOT / "crates/moray-c/include/moray.h").read_text(encoding="utf-8")
    return "\n".join(line for line in header.splitlines() if not DIRECTIVES.match(line))


def write_abi(path: Path) -> None:
    """Writes what the header declares as a module, so that nothing of it stands a second time in Python."""
    ffi = FFI()
    ffi.cdef(declarations() + DLPACK)
    ffi.set_source("moray._abi", None)
    ffi.emit_python_code(str(path))


def build_library() -> Path:
    """Compiles the shared library and says where it is: where `MORAY_LIBRARY` says, if that names one."""
    if ready := os.environ.get("MORAY_LIBRARY"):
        return Path(ready)
    command = ["cargo", "rustc", "--release", "--locked", "--package", "moray-c", "--crate-type", "cdylib"]
    # of moray-c, as cuda, which needs nvcc
    command += ["--features", os.environ.get("MORAY_FEATURES", "")]
    command += ["--message-format", "json-render-diagnostics", "--", "-C", "strip=symbols"]
    try:
        built = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("expected cargo on the path, got none: the wheel compiles its library with Rust") from None
    if built.returncode:
        raise SystemExit(f"expected {' '.join(command)} to succeed, got status {built.returncode}")
    messages = (json.loads(line) for line in built.stdout.splitlines())
    ours = (m for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "moray_c")
    return next(Path(file) for m in ours for file in m["filenames"] if file.endswith((".so", ".dylib", ".dll")))


class Build(build_py):
    """Adds the library and its declarations to the package."""

    def run(self):
        super().run()
        package = HERE / "moray" if self.editable_mode else Path(self.build_lib) / "moray"
        library = build_library()
        shutil.copy2(library, package / f"libmoray_c{library.suffix}")
        write_abi(package / "_abi.py")


class PlatformWheel(bdist_wheel):
    """A wheel of this platform's library, for any Python 3: nothing in it is compiled against an interpreter."""

    def finalize_options(self):
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


def version() -> str:
    """The workspace's version."""
    manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)[1]


setup(
    version=version(),
    long_description=(ROOT / "docs/python.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    cmdclass={"build_py": Build, "bdist_wheel": PlatformWheel},
)
