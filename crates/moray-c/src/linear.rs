//! The multiplication.

use crate::activations::MorayActivations;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, sized};
use crate::cpu::MorayCpu;
use crate::dtype::{MorayDtype, with_dtype};
use crate::status::{MorayStatus, Outcome, guard};
use crate::weight::MorayWeight;
use moray::Cpu;
use moray::element::Element;
use moray::w4a8::{Epilogue, TILE_N, linear_rows};
use std::ops::Range;

/// A multiplication y = x * w^T + bias + residual.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayLinear {
    /// `sizeof(MorayLinear)`.
    pub struct_size: u32,
    /// Of `y` and `residual`.
    pub dtype: MorayDtype,
    /// w[N, K].
    pub weight: *const MorayWeight,
    /// x[M, K].
    pub x: *const MorayActivations,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// [M, N], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// [M, N], row-major.
    pub y: MorayBytesMut,
    /// The first output feature that is computed, a multiple of 16.
    pub row_begin: usize,
    /// One past the last, a multiple of 16 or N; 0 stands for N.
    pub row_end: usize,
}

/// Computes y[m, n] = act_scale * (codes * w^T) + bias[n] + residual[m, n] for the output features n from `row_begin` to `row_end`;
/// others of `y` are neither read nor written. Products and sums are exact integers inside a group, groups are added in f32 in
/// a fixed order: the bits depend neither on threads nor on M, on ranges or on the instruction set.
///
/// Several threads may share one multiplication by ranges that do not overlap, each with the same `y` and a CPU device of one thread.
/// A thread's first call makes its scratch of 16 * K bytes.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` if `x` and `weight` differ in K,
/// `MORAY_STATUS_INDEX` for a range past N, `MORAY_STATUS_OVERLAP` if `y` overlaps what is read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_linear(cpu: *const MorayCpu, call: *const MorayLinear) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        with_dtype!("dtype", call.dtype, E => unsafe { linear::<E>(cpu, call) })
    })
}

/// # Safety
/// As [`moray_linear`].
unsafe fn linear<E: Element>(cpu: &Cpu, call: &MorayLinear) -> Outcome {
    // SAFETY: the caller's.
    let weight = unsafe { borrow("weight", call.weight)? }.view();
    // SAFETY: the caller's.
    let x = unsafe { borrow("x", call.x)? }.read("x")?;
    // SAFETY: the caller's.
    let (bias, residual) = unsafe { (call.bias.optional("bias")?, call.residual.optional::<E>("residual")?) };
    let read = |what, bytes: MorayBytes| (what, bytes.range());
    let [codes, channel, group, offset] =
        weight.sections().into_array().map(|bytes| read("weight", MorayBytes::of(bytes)));
    let others = [read("bias", call.bias), read("residual", call.residual), read("x", MorayBytes::of(x.codes()))];
    call.y.check_apart("y", &[codes, channel, group, offset])?;
    call.y.check_apart("y", &others)?;
    let rows = rows(call, weight.n())?;
    // SAFETY: the memory is the caller's, apart from what is read; other calls that share it write other columns.
    let y = unsafe { call.y.shared::<E>("y")? };
    Ok(linear_rows(cpu, weight, &[rows], &x, Epilogue { bias, residual }, y)?)
}

/// The output features of a call, which are whole blocks: another thread may have the next.
fn rows(call: &MorayLinear, n: usize) -> Outcome<Range<usize>> {
    let end = if call.row_end == 0 { n } else { call.row_end };
    for (what, got) in [("row_begin", call.row_begin), ("row_end", end)] {
        if got % TILE_N != 0 && got != n {
            return Err(moray::Error::Shape { what, expected: "a multiple of 16, or N", got }.into());
        }
    }
    Ok(call.row_begin..end)
}
