"""Builds the wheel: compiles the C ABI's library with cargo, and reads its header for Python. An sdist carries the library's sources."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from cffi import FFI
from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
# The crates that the library is compiled from, as cargo packs them: in an sdist, whose folder is no repository.
PACKED = HERE / "rust"
ROOT = PACKED if PACKED.is_dir() else HERE.parent
HEADER = ROOT / ("moray-c" if PACKED.is_dir() else "crates/moray-c") / "include/moray.h"
MANIFEST = ROOT / ("moray/Cargo.toml" if PACKED.is_dir() else "Cargo.toml")
README = HERE / "README.md" if PACKED.is_dir() else ROOT / "docs/python.md"
CRATES = ("moray", "moray-c")
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
    header = HEADER.read_text(encoding="utf-8")
    return "\n".join(line for line in header.splitlines() if not DIRECTIVES.match(line))


def write_abi(path: Path) -> None:
    """Writes what the header declares as a module, so that nothing of it stands a second time in Python."""
    ffi = FFI()
    ffi.cdef(declarations() + DLPACK)
    ffi.set_source("moray._abi", None)
    ffi.emit_python_code(str(path))


def cargo(folder: Path, *arguments: str) -> str:
    """What cargo prints in a folder."""
    try:
        run = subprocess.run(("cargo", *arguments), cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("expected cargo on the path, got none: the wheel compiles its library with Rust") from None
    if run.returncode:
        raise SystemExit(f"expected cargo {' '.join(arguments)} to succeed, got status {run.returncode}")
    return run.stdout


def build_library() -> Path:
    """Compiles the shared library and says where it is: where `MORAY_LIBRARY` says, if that names one."""
    if ready := os.environ.get("MORAY_LIBRARY"):
        return Path(ready)
    command = ["rustc", "--release", "--locked", "--package", "moray-c", "--crate-type", "cdylib"]
    # of moray-c, as cuda, which needs nvcc
    command += ["--features", os.environ.get("MORAY_FEATURES", "")]
    command += ["--message-format", "json-render-diagnostics", "--", "-C", "strip=symbols"]
    messages = (json.loads(line) for line in cargo(ROOT, *command).splitlines())
    ours = (m for m in messages if m["reason"] == "compiler-artifact" and m["target"]["name"] == "moray_c")
    return next(Path(file) for m in ours for file in m["filenames"] if file.endswith((".so", ".dylib", ".dll")))


def section(file: str, name: str) -> str:
    """A section of one of the repository's settings of cargo."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.search(rf"^\[{re.escape(name)}\]\n(?:[^\[\n].*\n)*", text, re.MULTILINE)[0]


def pack(folder: Path) -> None:
    """Puts the crates into a folder, a workspace of the packages alone with the versions and settings of the repository."""
    with tempfile.TemporaryDirectory() as target:
        names = [word for name in CRATES for word in ("--package", name)]
        cargo(ROOT, "package", *names, "--no-verify", "--allow-dirty", "--locked", "--quiet", "--target-dir", target)
        for name in CRATES:
            with tarfile.open(Path(target) / f"package/{name}-{version()}.crate") as package:
                package.extractall(folder, filter="data")
            (folder / f"{name}-{version()}").rename(folder / name)
    members = ", ".join(f'"{name}"' for name in CRATES)
    manifest = f'[workspace]\nmembers = [{members}]\nresolver = "3"\n\n[patch.crates-io]\nmoray = {{ path = "moray" }}\n\n'
    (folder / "Cargo.toml").write_text(manifest + section("Cargo.toml", "profile.release"), encoding="utf-8")
    (folder / ".cargo").mkdir()
    (folder / ".cargo/config.toml").write_text(section(".cargo/config.toml", "env"), encoding="utf-8")
    shutil.copy2(ROOT / "Cargo.lock", folder)
    # takes out of the lock file what these crates do without
    cargo(folder, "metadata", "--format-version", "1", "--offline", "--quiet")


class Source(sdist):
    """Adds the crates and what is read of the repository's documents, so that a wheel can be built from the sdist alone."""

    def make_release_tree(self, base_dir, files):
        super().make_release_tree(base_dir, files)
        folder = Path(base_dir)
        if ROOT == PACKED:
            shutil.copytree(PACKED, folder / PACKED.name)
        else:
            pack(folder / PACKED.name)
        shutil.copy2(README, folder / "README.md")


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
    """The crates' version."""
    manifest = MANIFEST.read_text(encoding="utf-8")
    return re.search(r'^version = "(.+)"$', manifest, re.MULTILINE)[1]


setup(
    version=version(),
    long_description=README.read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    cmdclass={"build_py": Build, "bdist_wheel": PlatformWheel, "sdist": Source},
)
