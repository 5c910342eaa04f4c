"""Compiles kernels with NVRTC and ptxas for one architecture: oldest.py <folder of the packages> <kernels> <sm_80> <share> <shares>.

NVRTC brings no host headers, so <cstdint> and what nvcc takes from <cmath> stand here.
"""

import ctypes
import pathlib
import subprocess
import sys
import tempfile

HOST_HEADERS = {
    "cstdint": """#pragma once
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long uint64_t;
#define INFINITY __int_as_float(0x7f800000)
#define NAN __int_as_float(0x7fffffff)
"""
}


def compile_to_ptx(nvrtc, source, options):
    """Returns the PTX of a source, or exits with the compiler's log."""
    program = ctypes.c_void_p()
    names = [name.encode() for name in HOST_HEADERS]
    texts = [text.encode() for text in HOST_HEADERS.values()]
    count = len(names)
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program),
        source.read_bytes(),
        str(source).encode(),
        count,
        (ctypes.c_char_p * count)(*texts),
        (ctypes.c_char_p * count)(*names),
    )
    assert created == 0, f"nvrtcCreateProgram: {created}"
    words = [option.encode() for option in options]
    failed = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
    answer = "ProgramLog" if failed else "PTX"
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{answer}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{answer}")(program, buffer)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        sys.exit(f"{source}: expected NVRTC to compile it, got:\n{buffer.value.decode()}")
    return buffer.value


def main():
    packages, kernels, architecture = pathlib.Path(sys.argv[1]) / "nvidia", pathlib.Path(sys.argv[2]), sys.argv[3]
    library = packages / "cuda_nvrtc/lib"
    for builtins in library.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(library / "libnvrtc.so.12"))
    ptxas = packages / "cuda_nvcc/bin/ptxas"
    ptxas.chmod(0o755)
    share, shares = int(sys.argv[4]), int(sys.argv[5])
    sources = sorted(kernels.glob("*/*.cu"))[share::shares]
    with tempfile.TemporaryDirectory() as folder:
        text = pathlib.Path(folder) / "kernel.ptx"
        for source in sources:
            text.write_bytes(
                compile_to_ptx(
                    nvrtc,
                    source,
                    [
                        f"--gpu-architecture={architecture.replace('sm_', 'compute_')}",
                        "--std=c++17",
                        "--fmad=false",
                        f"-I{kernels}",
                        f"-I{source.parent}",
                        f"-I{packages / 'cuda_runtime/include'}",
                    ],
                )
            )
            # what assembles at all assembles without optimization
            run = [ptxas, "-O0", f"-arch={architecture}", text, "-o", text.with_suffix(".cubin")]
            answer = subprocess.run(run, capture_output=True, text=True)
            if answer.returncode != 0:
                sys.exit(f"{source}: expected ptxas to assemble it, got:\n{answer.stderr}")
    print(f"sources that compile: {len(sources)}")


main()
