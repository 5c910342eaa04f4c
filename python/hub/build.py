"""Writes a kernel of the Hugging Face `kernels` library: `build.py LIBRARY OUT [CUDA]` makes OUT/build/<variant> around a shared library of moray-c,
for the CPU or, with the version of CUDA that it has been compiled by (as 12.6), for CUDA devices too.

The ABI is read from `moray.h`, so that no structure, constant or signature of it stands a second time in Python.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEADER = ROOT / "crates/moray-c/include/moray.h"
#: What the package and the kernel both find torch's threads by.
OPENMP = ROOT / "python/moray/torch/openmp.py"
#: The first torch that has what the operators are registered with. Nothing here is compiled against torch, so every later one will do.
TORCH = (2, 4)
#: The newest glibc that the `kernels` library allows a kernel to need.
GLIBC = (2, 28)

SCALARS = {
    "void": "None", "char": "ctypes.c_char", "float": "ctypes.c_float", "double": "ctypes.c_double", "size_t": "ctypes.c_size_t",
    **{f"{sign}int{bits}_t": f"ctypes.c_{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")},
}  # fmt: skip
DIRECTIVES = re.compile(r'^\s*#\s*(?!define MORAY_\w+ -?\d).*$|^extern "C" \{$|^\}  // extern "C"$', re.MULTILINE)
DECLARATION = re.compile(
    r"#define (?P<constant>\w+) (?P<number>-?\d+)"
    r"|typedef enum \{(?P<enumerators>[^}]*)\} (?P<enum>\w+);"
    r"|typedef struct \{(?P<fields>[^}]*)\} (?P<struct>\w+);"
    r"|typedef struct (?P<opaque>\w+) (?P=opaque);"
    r"|typedef (?P<of>\w+) (?P<alias>\w+);"
    r"|(?P<result>[\w ]+?[ *]+)(?P<function>moray_\w+)\((?P<parameters>[^)]*)\);"
)


class Types:
    """The header's types in terms of ctypes."""

    def __init__(self) -> None:
        self.plain, self.opaque = dict(SCALARS), set()

    def of(self, words: str) -> str:
        """The type that a declaration has before its name."""
        stars = words.count("*")
        name = words.replace("*", " ").replace("const ", " ").strip()
        if name in self.opaque or (name == "void" and stars):
            found, stars = "ctypes.c_void_p", stars - 1
        elif name == "char" and stars:
            found, stars = "ctypes.c_char_p", stars - 1
        elif name in self.plain:
            found = self.plain[name]
        else:
            raise SystemExit(f"expected a type that the header declares, got {words!r}")
        for _ in range(stars):
            found = f"ctypes.POINTER({found})"
        return found

    def split(self, declaration: str) -> tuple[str, str]:
        """The type and the name of a field or a parameter."""
        match = re.fullmatch(r"\s*(.*[ *])(\w+)\s*", declaration, re.DOTALL)
        if not match:
            raise SystemExit(f"expected a type and a name, got {declaration!r}")
        return self.of(re.sub(r"\s+", " ", match[1])), match[2]


def abi(header: str) -> str:
    """A module of ctypes that declares what a header does."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", DIRECTIVES.sub("", header), flags=re.DOTALL)
    types, out, functions = Types(), [], []
    end = 0
    for found in DECLARATION.finditer(text):
        if text[end : found.start()].strip():
            break
        end = found.end()
        if found["constant"]:
            out.append(f"{found['constant']} = {found['number']}")
        elif found["enum"]:
            out += [f"{name} = {number}" for name, number in re.findall(r"(\w+) = (\d+)", found["enumerators"])]
            types.plain[found["enum"]] = "ctypes.c_uint32"
        elif found["struct"]:
            fields = [types.split(field) for field in found["fields"].split(";") if field.strip()]
            lines = "".join(f'\n        ("{name}", {kind}),' for kind, name in fields)
            out.append(f"\n\nclass {found['struct']}(ctypes.Structure):\n    _fields_ = [{lines}\n    ]\n\n")
            types.plain[found["struct"]] = found["struct"]
        elif found["opaque"]:
            types.opaque.add(found["opaque"])
        elif found["alias"]:
            types.plain[found["alias"]] = types.of(found["of"])
        else:
            parameters = found["parameters"].strip()
            kinds = [types.split(parameter)[0] for parameter in parameters.split(",")] if parameters != "void" else []
            functions.append(f'    ("{found["function"]}", {types.of(found["result"])}, [{", ".join(kinds)}]),')
    if text[end:].strip():
        raise SystemExit(f"expected declarations that are known, got {text[end:].strip()[:80]!r}")
    lines = "\n".join(functions)
    return f'''"""What moray.h declares. Made by python/hub/build.py; do not edit."""

import ctypes

{chr(10).join(out)}
FUNCTIONS = [
{lines}
]


def declare(library):
    """Says what the functions of a library take and return."""
    for name, result, parameters in FUNCTIONS:
        function = getattr(library, name)
        function.restype, function.argtypes = result, parameters
    return library
'''


def variant(cuda: str | None = None) -> str:
    """The name of the build variant of this machine, as the `kernels` library reads it."""
    backend = "cpu" if cuda is None else f"cu{cuda.replace('.', '')}"
    machine = {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    return f"torch-stable-abi{TORCH[0]}{TORCH[1]}-{backend}-{machine}-{platform.system().lower()}"


def glibc(library: bytes) -> tuple[int, ...]:
    """The newest version of glibc's symbols that a library asks for."""
    return max((tuple(map(int, found)) for found in re.findall(rb"GLIBC_(\d+)\.(\d+)", library)), default=())


COMPATIBLE = '''"""For versions of the `kernels` library that look for the kernel in a folder of its name: the module of the folder above."""

import importlib.util
import sys
from pathlib import Path

_NAME = "{id}"

if _NAME not in sys.modules:
    _spec = importlib.util.spec_from_file_location(_NAME, Path(__file__).parent.parent / "__init__.py")
    sys.modules[_NAME] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_NAME])
globals().update({{name: value for name, value in vars(sys.modules[_NAME]).items() if not name.startswith("__") or name == "__all__"}})
'''


def build(library: Path, out: Path, cuda: str | None = None) -> Path:
    """Writes the kernel around a library into a folder, and returns that of the variant, which is made anew."""
    folder = out / "build" / variant(cuda)
    if folder.exists():
        shutil.rmtree(folder)
    files = {path.name: path.read_bytes() for path in sorted((HERE / "kernel").glob("*.py"))}
    files["_openmp.py"] = OPENMP.read_bytes()
    files["_abi.py"] = abi(HEADER.read_text(encoding="utf-8")).encode()
    files[f"libmoray_c{library.suffix}"] = library.read_bytes()
    # what a build consists of, and nothing else, makes its namespace: two builds never share one
    content = hashlib.sha256()
    for name, data in files.items():
        content.update(f"{name} {len(data)}\n".encode() + data)
    backend = "cpu" if cuda is None else "cuda"
    identity = f"_moray_{backend}_{content.hexdigest()[:12]}"
    files["_build.py"] = f'"""Made by python/hub/build.py; do not edit."""\n\nNAMESPACE = "{identity}"\n'.encode()
    files["moray/__init__.py"] = COMPATIBLE.format(id=identity).encode()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    digests = {name: base64.b64encode(hashlib.sha256(data).digest()).decode() for name, data in sorted(files.items())}
    metadata = {
        "name": "moray", "id": identity, "version": 0, "license": "apache-2.0", "python-depends": [], "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": digests},
    }  # fmt: skip
    (folder / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    for name in ("LICENSE-MIT", "LICENSE-APACHE"):
        shutil.copy2(ROOT / name, out / name)
    shutil.copy2(HERE / "CARD.md", out / "README.md")
    return folder


def main() -> None:
    if len(sys.argv) not in (3, 4):
        raise SystemExit("usage: build.py LIBRARY OUT [CUDA]")
    cuda = sys.argv[3] if len(sys.argv) == 4 else None
    if cuda is not None and not re.fullmatch(r"\d+\.\d", cuda):
        raise SystemExit(f"CUDA: expected a version as 12.6, got {cuda}")
    library = Path(sys.argv[1])
    needed = glibc(library.read_bytes())
    print(build(library, Path(sys.argv[2]), cuda))
    if needed > GLIBC:
        has, may = (".".join(map(str, version)) for version in (needed, GLIBC))
        print(f"note: the library needs glibc {has}; one to be published may need {may}: build it where that is the newest (manylinux_2_28)")


if __name__ == "__main__":
    main()
