//! The sparse MLP over tensors of a CUDA device.

use super::{CUDA, NONE, bytes, rows, stream};
use crate::arguments::MorayBytes;
#[cfg(feature = "cuda-sparse-mlp")]
use crate::cuda::call::{launch, prepare};
#[cfg(not(feature = "cuda-sparse-mlp"))]
use crate::cuda::no_operation::{launch, prepare};
use crate::cuda::of_number;
use crate::mlp::MorayMlpShape;
use crate::status::{Fault, Outcome};
use crate::tvm_ffi::call::Arguments;
use crate::tvm_ffi::functions::Returned;
use crate::tvm_ffi::sparse_mlp::{KINDS, PARTS, SCORES, bound, nonlinearity};
use crate::tvm_ffi::tensor::{F32, Rows, U8};
use crate::{
    MORAY_F32, MORAY_ROWS_BF16, MORAY_ROWS_F16, MORAY_ROWS_FOUR_BIT, MorayCudaMlp, MorayCudaMlpWeights, MorayCudaRows,
    MorayCudaSelection,
};

/// How an MLP is stored, without addresses: `activation, d_ff, format, group_size, offset`.
///
/// # Safety
/// As [`Arguments::name`].
unsafe fn stored(arguments: &mut Arguments<'_>, d_model: usize) -> Outcome<MorayCudaMlpWeights> {
    // SAFETY: the caller's.
    let activation = unsafe { nonlinearity(arguments)? };
    let d_ff = arguments.size("d_ff")?;
    let formats = [("f16", MORAY_ROWS_F16), ("bf16", MORAY_ROWS_BF16), ("four_bit", MORAY_ROWS_FOUR_BIT)];
    // SAFETY: the caller's.
    let format = unsafe { arguments.name("format", &formats)? };
    let group_size = arguments.size("group_size")?;
    let narrow = u32::try_from(group_size);
    let group_size = narrow.map_err(|_| Fault::unsupported("group_size", "a small number", group_size))?;
    // SAFETY: the caller's.
    let offset = unsafe { arguments.offset()? };
    let matrix = MorayCudaRows { rows: NONE, scales: NONE, bias: NONE, group_size, offset };
    let shape = MorayMlpShape { d_model, d_ff, activation };
    Ok(MorayCudaMlpWeights { shape, format, gate: matrix, up: matrix, down: matrix })
}

/// A call in f32 without addresses.
fn call(weights: MorayCudaMlpWeights, tokens: usize, max_tokens: usize) -> MorayCudaMlp {
    MorayCudaMlp {
        struct_size: size_of::<MorayCudaMlp>() as u32,
        x_dtype: MORAY_F32,
        y_dtype: MORAY_F32,
        weights,
        selection: MorayCudaSelection {
            kind: 0,
            score: 0,
            list: MorayBytes::NONE,
            count: MorayBytes::NONE,
            masks: MorayBytes::NONE,
            channel_scale: MorayBytes::NONE,
            threshold: 0.0,
            k: 0,
        },
        tokens,
        max_tokens,
        x: MorayBytes::NONE,
        residual: MorayBytes::NONE,
        y: NONE,
        kept: NONE,
        kept_count: NONE,
        workspace: NONE,
    }
}

/// Kind, threshold or k, and score of a selection: `kind, value, score`.
///
/// # Safety
/// As [`Arguments::name`].
unsafe fn kept(arguments: &mut Arguments<'_>, none: MorayCudaSelection) -> Outcome<MorayCudaSelection> {
    // SAFETY: the caller's.
    let kind = unsafe { arguments.name("kind", &KINDS)? };
    let (threshold, k) = bound(kind, arguments.number("value")?)?;
    // SAFETY: the caller's.
    let score = unsafe { arguments.name("score", &SCORES)? };
    Ok(MorayCudaSelection { kind, score, threshold, k, ..none })
}

/// `(tokens, max_tokens, d_model, activation, d_ff, format, group_size, offset, kind, value, score, device) -> int`
pub(in crate::tvm_ffi) unsafe fn cuda_sparse_mlp_scratch(arguments: &mut Arguments<'_>) -> Returned {
    let (tokens, max_tokens) = (arguments.size("tokens")?, arguments.size("max_tokens")?);
    let d_model = arguments.size("d_model")?;
    // SAFETY: the caller's.
    let none = call(unsafe { stored(arguments, d_model)? }, tokens, max_tokens);
    // SAFETY: the caller's.
    let selection = unsafe { kept(arguments, none.selection)? };
    let cuda = of_number(arguments.size("device")?)?;
    arguments.end()?;
    Ok(Some(prepare(cuda, &MorayCudaMlp { selection, ..none })? as i64))
}

/// Words, or none.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn words(arguments: &mut Arguments<'_>, what: &'static str) -> Outcome<Option<Rows>> {
    // SAFETY: the caller's.
    unsafe { arguments.optional(what)? }.map(|rows| rows.words(what)).transpose()
}

/// `(y, x, gate_rows, gate_scales, up_rows, up_scales, down_rows, down_scales, activation, d_ff, format, group_size, offset,
/// kind, value, score, channel_scale, list, count, masks, residual, kept, kept_count, workspace, max_tokens)`
pub(in crate::tvm_ffi) unsafe fn cuda_sparse_mlp(arguments: &mut Arguments<'_>) -> Returned {
    arguments.expect_device(CUDA);
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?, arguments.tensor("x")?) };
    let Some((&d_model, tokens)) = x.shape.split_last() else {
        return Err(Fault::unsupported("x", "1 dimension or more", "none"));
    };
    let (y, tokens) = (y.shaped("y", &x.shape)?, tokens.iter().product());
    let mut given = [NONE; 6];
    for (given, what) in given.iter_mut().zip(PARTS) {
        // SAFETY: the caller's.
        *given = unsafe { bytes(arguments, what)? };
    }
    // SAFETY: the caller's.
    let mut weights = unsafe { stored(arguments, d_model)? };
    // scales are of 4-bit rows alone
    let is_needed = |i: usize| i % 2 == 0 || weights.format == MORAY_ROWS_FOUR_BIT;
    if let Some(i) = (0..6).find(|&i| is_needed(i) && given[i].is_none()) {
        return Err(Fault::Null { what: PARTS[i] });
    }
    let matrices = [&mut weights.gate, &mut weights.up, &mut weights.down];
    for (matrix, part) in matrices.into_iter().zip(given.chunks_exact(2)) {
        (matrix.rows, matrix.scales) = (part[0], part[1]);
    }
    let none = call(weights, tokens, 0);
    // SAFETY: the caller's.
    let selection = unsafe { kept(arguments, none.selection)? };
    // SAFETY: the caller's.
    let (scale, list, count, masks) = unsafe {
        let scale = arguments.optional("channel_scale")?.map(|rows| rows.of("channel_scale", F32)).transpose()?;
        let (list, count) = (words(arguments, "list")?, words(arguments, "count")?);
        (scale, list, count, arguments.optional("masks")?.map(|masks| masks.long_words("masks")).transpose()?)
    };
    // SAFETY: the caller's.
    let residual = unsafe { rows(arguments, "residual", y.dtype, &y.shape)? };
    // SAFETY: the caller's.
    let (kept, kept_count) = unsafe { (words(arguments, "kept")?, words(arguments, "kept_count")?) };
    // SAFETY: the caller's.
    let workspace = unsafe { arguments.tensor("workspace")? }.of("workspace", U8)?;
    let max_tokens = arguments.size("max_tokens")?;
    arguments.end()?;
    if tokens == 0 {
        return Ok(None);
    }
    let read = |rows: Option<Rows>| rows.map_or(MorayBytes::NONE, |rows| rows.read());
    let write = |rows: Option<Rows>| rows.map_or(NONE, |rows| rows.write());
    let selection = MorayCudaSelection {
        list: read(list),
        count: read(count),
        masks: read(masks),
        channel_scale: read(scale),
        ..selection
    };
    let call = MorayCudaMlp {
        x_dtype: x.float("x")?,
        y_dtype: y.float("y")?,
        selection,
        max_tokens,
        x: x.read(),
        residual,
        y: y.write(),
        kept: write(kept),
        kept_count: write(kept_count),
        workspace: workspace.write(),
        ..none
    };
    // SAFETY: the caller's.
    unsafe { launch(of_number(y.device_id)?, stream(y.device_id), &call)? };
    Ok(None)
}
