//! Runs an [`Op`] on the instruction set that a CPU handle names (x86-64).

use super::simd::Op;
use super::simd_avx2::Avx2;
use super::simd_avx512::Avx512;
use super::simd_portable::Portable;
use crate::Isa;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
fn run_avx512<O: Op>(op: O) -> O::Output {
    // SAFETY: this function is compiled for, and only reached on, that instruction set.
    unsafe { op.run::<Avx512, 4>() }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run_avx2<O: Op>(op: O) -> O::Output {
    // SAFETY: this function is compiled for, and only reached on, that instruction set.
    unsafe { op.run::<Avx2, 1>() }
}

/// Runs `op`; an instruction set this machine lacks falls back to the portable code.
pub(super) fn run<O: Op>(isa: Isa, op: O) -> O::Output {
    match isa {
        // SAFETY: the machine has been asked.
        Isa::Avx512Vnni if isa.is_available() => unsafe { run_avx512(op) },
        // SAFETY: the machine has been asked.
        Isa::Avx2 | Isa::AvxVnni if isa.is_available() => unsafe { run_avx2(op) },
        // SAFETY: the portable lanes need no instruction set.
        _ => unsafe { op.run::<Portable, 1>() },
    }
}
