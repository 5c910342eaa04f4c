//! Products that read only the weights of large inputs.

use crate::activations::unless_busy;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, check_memory, create, destroy, give, sized};
use crate::cpu::MorayCpu;
use crate::dtype::{MORAY_BF16, MORAY_F16, MorayDtype, with_dtype};
use crate::quantized::MorayQuantized;
use crate::status::{MorayStatus, Outcome, guard};
use moray::DenseType;
use moray::element::Element;
use moray::input_sparse::{Weight, Workspace, linear_rows};
use moray::w4a8::Epilogue;
use std::sync::Mutex;

/// Rows that are widened at a time.
const ROWS: usize = 64;

/// A matrix that is held by input, in memory of the library's: the weights of one input lie beside each other, so that those of an input
/// that no token keeps are not read. Never changes, so that any number of threads may use it.
#[derive(Debug)]
pub struct MorayInputWeight(pub(crate) Weight);

/// What products by input work in; it grows to the largest call that it has seen. One thread uses it at a time.
#[derive(Debug)]
pub struct MorayInputWorkspace(Mutex<Workspace>);

/// Copies a weight w[N, K], row-major in `dtype`.
///
/// Fails with `MORAY_STATUS_SHAPE` for a size of 0, `MORAY_STATUS_LENGTH` for memory of another size, `MORAY_STATUS_VALUE` for a weight
/// that is not finite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_input_weight_create(
    w: MorayBytes,
    dtype: MorayDtype,
    n: usize,
    k: usize,
    out: *mut *mut MorayInputWeight,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let make = || with_dtype!("dtype", dtype, E => by_input(unsafe { w.read::<E>("w")? }, dtype, n, k));
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

fn dense(dtype: MorayDtype) -> DenseType {
    match dtype {
        MORAY_F16 => DenseType::F16,
        MORAY_BF16 => DenseType::Bf16,
        _ => DenseType::F32,
    }
}

/// Holds elements by input, as they are.
pub(crate) fn by_input<E: Element>(w: &[E], dtype: MorayDtype, n: usize, k: usize) -> Outcome<MorayInputWeight> {
    // before memory is made for sizes that may be a mistake
    let expected = n.saturating_mul(k);
    if w.len() != expected {
        return Err(moray::Error::Length { what: "w", expected, got: w.len() }.into());
    }
    check_memory("w", size_of_val(w).checked_mul(2))?;
    let mut weight = Weight::zeros(n, k, dense(dtype))?;
    let mut wide = Vec::with_capacity(ROWS.min(n) * k);
    for (block, rows) in w.chunks(ROWS * k).enumerate() {
        wide.clear();
        wide.extend(rows.iter().map(|&w| Element::to_f32(w)));
        weight.set_rows(block * ROWS, &wide)?;
    }
    Ok(MorayInputWeight(weight))
}

/// Takes a 4-bit weight with the codes and scales it has. The plain weight is not needed any more then.
///
/// Fails with `MORAY_STATUS_UNSUPPORTED` for 8-bit codes, for scales other than of channels or f16 of groups and for columns in another
/// order (`moray_quantized_order`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_input_weight_create_quantized(
    weight: *const MorayQuantized,
    out: *mut *mut MorayInputWeight,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { borrow("weight", weight)? }.in_own_order("weight")?;
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayInputWeight(Weight::from_quantized(weight)?))) }
    })
}

/// Ends a weight; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_input_weight_destroy(weight: *mut MorayInputWeight) {
    // SAFETY: the caller's.
    unsafe { destroy(weight) }
}

/// Makes what products of up to `max_tokens` tokens work in, for this weight and others of no more inputs.
///
/// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` for 0 tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_input_workspace_create(
    weight: *const MorayInputWeight,
    max_tokens: usize,
    out: *mut *mut MorayInputWorkspace,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { &borrow("weight", weight)?.0 };
        if max_tokens == 0 {
            return Err(moray::Error::Shape { what: "max_tokens", expected: "at least 1", got: 0 }.into());
        }
        // floats of the kept inputs, their codes twice, sums and lists, with room to spare
        check_memory("workspace", max_tokens.checked_mul(16 * (weight.k() + 128)))?;
        let make = || Ok(MorayInputWorkspace(Mutex::new(Workspace::with_capacity(max_tokens, weight.k()))));
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

/// Ends a workspace; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_input_workspace_destroy(workspace: *mut MorayInputWorkspace) {
    // SAFETY: the caller's.
    unsafe { destroy(workspace) }
}

/// A product over the inputs above a threshold.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayByInput {
    /// `sizeof(MorayByInput)`.
    pub struct_size: u32,
    /// Finite, at least 0: inputs that are not larger count as zero, and their weights are not read.
    pub threshold: f32,
    /// w[N, K].
    pub weight: *const MorayInputWeight,
    /// What the call works in.
    pub workspace: *mut MorayInputWorkspace,
    /// f32 [M, K].
    pub x: MorayBytes,
    /// f32 [N], or left out.
    pub bias: MorayBytes,
    /// f32 [M, N], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// f32 [M, N].
    pub y: MorayBytesMut,
    /// The first output feature that is computed.
    pub row_begin: usize,
    /// One past the last; 0 stands for N.
    pub row_end: usize,
}

/// Computes y[m, n] = sum over k with |x[m, k]| > threshold of x[m, k] * w[n, k], + bias + residual, for the output features n from
/// `row_begin` to `row_end`; others of `y` are neither read nor written. Up to 8 tokens read the weights of the
/// inputs that any of them keeps; more read all. With 4-bit weights, x is int8 with one scale for each token over all of its inputs, and a threshold of
/// 0 gives the bits of `moray_linear`. The bits depend neither on threads nor on the instruction set nor on how tokens are split into calls.
///
/// Several threads may share one product by ranges that do not overlap (multiples of 64 waste nothing), each with the same `y`, a
/// workspace of its own and a CPU device of one thread. Each lists what is kept for itself.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_VALUE` for the threshold, `MORAY_STATUS_INDEX` for a range
/// past N, `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_by_input(cpu: *const MorayCpu, call: *const MorayByInput) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        let weight = unsafe { &borrow("weight", call.weight)?.0 };
        // SAFETY: the caller's.
        let workspace = unsafe { borrow("workspace", call.workspace.cast_const())? };
        let mut workspace = unless_busy("workspace", workspace.0.try_lock())?;
        // SAFETY: the caller's.
        let (x, bias, residual) =
            unsafe { (call.x.read("x")?, call.bias.optional("bias")?, call.residual.optional("residual")?) };
        let read = [("x", call.x), ("bias", call.bias), ("residual", call.residual)];
        call.y.check_apart("y", &read.map(|(what, bytes)| (what, bytes.range())))?;
        // SAFETY: the memory is the caller's, apart from what is read; other calls that share it write other columns.
        let y = unsafe { call.y.shared("y")? };
        let rows = call.row_begin..if call.row_end == 0 { weight.n() } else { call.row_end };
        let epilogue = Epilogue { bias, residual };
        Ok(linear_rows(cpu, weight, &[rows], x, call.threshold, epilogue, y, &mut workspace)?)
    })
}

/// Says which inputs a workspace's last call read: u32, strictly increasing, until the next call with it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_by_input_kept(
    workspace: *const MorayInputWorkspace,
    kept: *mut MorayBytes,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let workspace = unsafe { borrow("workspace", workspace)? };
        let workspace = unless_busy("workspace", workspace.0.try_lock())?;
        // SAFETY: the caller's.
        unsafe { give("kept", kept, MorayBytes::of(workspace.kept())) }
    })
}
