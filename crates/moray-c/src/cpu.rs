//! The CPU as a device.

use crate::arguments::{borrow, create, destroy, give};
use crate::openmp::OpenMp;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::{Cpu, Isa};
use std::ffi::c_void;

/// An instruction set of a CPU or the compute capability of a CUDA device: one of the `MORAY_ARCH_..` constants, or
/// `MORAY_ARCH_CUDA + 10 * major + minor`.
pub type MorayArch = u32;

/// The best instruction set of this machine.
pub const MORAY_ARCH_NATIVE: MorayArch = 0;
/// No vector instructions.
pub const MORAY_ARCH_PORTABLE: MorayArch = 1;
/// AVX2 with FMA and F16C.
pub const MORAY_ARCH_AVX2: MorayArch = 2;
/// AVX2 with the 256-bit dot-product instructions (AVX-VNNI).
pub const MORAY_ARCH_AVX_VNNI: MorayArch = 3;
/// AVX-512 F, BW, DQ, VL with VNNI.
pub const MORAY_ARCH_AVX512_VNNI: MorayArch = 4;
/// What the compute capability of a CUDA device is added to, as 10 times its first number and its second.
pub const MORAY_ARCH_CUDA: MorayArch = 1000;

/// The CPU: threads and an instruction set. Any number of threads may use one at once; calls that use more than one thread take turns.
#[derive(Debug)]
pub struct MorayCpu(pub(crate) Cpu);

/// The instruction set that a constant names.
pub(crate) fn isa(arch: MorayArch) -> Outcome<Isa> {
    match arch {
        MORAY_ARCH_NATIVE => Ok(Isa::detect()),
        MORAY_ARCH_PORTABLE => Ok(Isa::Portable),
        MORAY_ARCH_AVX2 => Ok(Isa::Avx2),
        MORAY_ARCH_AVX_VNNI => Ok(Isa::AvxVnni),
        MORAY_ARCH_AVX512_VNNI => Ok(Isa::Avx512Vnni),
        other => Err(Fault::unsupported("arch", "a MORAY_ARCH_ constant of a CPU", other)),
    }
}

/// Makes a CPU device of so many threads (0: as many as there are cores for this process), the calling one among them.
///
/// With 1 thread, every call runs on the thread that makes it and takes no lock, so that an engine's own threads can share the work
/// of a call by its rows, see `moray_linear`.
///
/// Fails with `MORAY_STATUS_SHAPE` for more threads than 4096 or than the system starts, `MORAY_STATUS_UNSUPPORTED` for an instruction
/// set that the machine does not have.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cpu_create(threads: usize, arch: MorayArch, out: *mut *mut MorayCpu) -> MorayStatus {
    guard(|| {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { available() } else { threads };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayCpu(Cpu::new(threads, isa(arch)?)?))) }
    })
}

/// Makes a CPU device of so many threads (0: as many as there are cores for this process) of an OpenMP runtime that the process has, in place of
/// threads of the library's own: between two of the program's parallel regions on the same thread no others wait for the cores.
///
/// `gomp_parallel` is the address of the runtime's function `GOMP_parallel`, which libgomp, libomp and libiomp5 have; the runtime stays loaded as long
/// as the device. Fewer threads may come than are asked for, and results have the same bits. Fails as `moray_cpu_create`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cpu_create_openmp(
    threads: usize,
    gomp_parallel: *const c_void,
    arch: MorayArch,
    out: *mut *mut MorayCpu,
) -> MorayStatus {
    guard(|| {
        let available = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { available() } else { threads };
        // SAFETY: the caller's.
        let pool = unsafe { OpenMp::new(threads, gomp_parallel)? };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayCpu(Cpu::on(pool, isa(arch)?)?))) }
    })
}

/// Ends a CPU device and its threads; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cpu_destroy(cpu: *mut MorayCpu) {
    // SAFETY: the caller's.
    unsafe { destroy(cpu) }
}

/// Says how many threads a CPU device has and which instruction set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cpu_describe(
    cpu: *const MorayCpu,
    threads: *mut usize,
    arch: *mut MorayArch,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let cpu = unsafe { borrow("cpu", cpu)? };
        let isa = match cpu.0.isa() {
            Isa::Avx2 => MORAY_ARCH_AVX2,
            Isa::AvxVnni => MORAY_ARCH_AVX_VNNI,
            Isa::Avx512Vnni => MORAY_ARCH_AVX512_VNNI,
            _ => MORAY_ARCH_PORTABLE,
        };
        // SAFETY: the caller's.
        unsafe { give("threads", threads, cpu.0.threads()).and_then(|()| give("arch", arch, isa)) }
    })
}
