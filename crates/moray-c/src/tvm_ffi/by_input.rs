//! Products that read only the weights of large inputs, over tensors of the CPU.

use super::call::Arguments;
use super::functions::{Returned, cpu, quantized};
use super::numbered::Numbered;
use super::tensor::{F32, I64, Rows, U8};
use crate::arguments::MorayBytes;
use crate::by_input::MorayInputWeight;
use crate::cuda::{MorayCudaInputRows, input_rows_pack, input_rows_sizes};
use crate::dtype::with_dtype;
use crate::status::{Fault, Outcome};
use moray::input_sparse::{Weight, Workspace, linear};
use moray::w4a8::Epilogue;
use std::sync::{Mutex, PoisonError};

static WEIGHTS: Numbered<Held> = Numbered::new("weight", "the number of a weight by input");

struct Held {
    weight: MorayInputWeight,
    /// What no call works in at the moment.
    free: Mutex<Vec<Workspace>>,
}

fn hold(weight: MorayInputWeight) -> i64 {
    WEIGHTS.add(Held { weight, free: Mutex::default() })
}

/// `(w) -> int`
pub(super) unsafe fn by_input_create(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let w = unsafe { arguments.tensor("w")? };
    arguments.end()?;
    let ([n, k], dtype) = (w.matrix("w")?, w.float("w")?);
    let made = with_dtype!("w", dtype, E => {
        // SAFETY: the caller's.
        let values = unsafe { w.read().read::<E>("w")? };
        crate::by_input::by_input(values, dtype, n, k)?
    });
    Ok(Some(hold(made)))
}

/// `(w, format..) -> int`
pub(super) unsafe fn by_input_create_quantized(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let quantized = unsafe { quantized(arguments)? };
    Ok(Some(hold(MorayInputWeight(Weight::from_quantized(&quantized)?))))
}

/// `(weight)`
pub(super) unsafe fn by_input_destroy(arguments: &mut Arguments<'_>) -> Returned {
    let number = arguments.size("weight")?;
    arguments.end()?;
    WEIGHTS.remove(number).map(|()| None)
}

/// `(y, x, weight, threshold, bias, residual, threads)`
pub(super) unsafe fn by_input(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?.of("y", F32)?, arguments.tensor("x")?.of("x", F32)?) };
    let held = WEIGHTS.get(arguments.size("weight")?)?;
    let (n, k) = (held.weight.0.n(), held.weight.0.k());
    let threshold = arguments.number("threshold")? as f32;
    let Some((&last, tokens)) = x.shape.split_last().filter(|(last, _)| **last == k) else {
        let expected = format!("{k} features in its last dimension");
        return Err(Fault::Argument { what: "x", expected, got: format!("shape {:?}", x.shape) });
    };
    let products = [tokens, &[n]].concat();
    let y = y.shaped("y", &products)?;
    let mut added = |what, shape: &[usize]| -> Outcome<MorayBytes> {
        // SAFETY: the caller's.
        let found = unsafe { arguments.optional(what)? };
        let checked = found.map(|rows: Rows| rows.of(what, F32)?.shaped(what, shape)).transpose()?;
        Ok(checked.map_or(MorayBytes::NONE, |rows| rows.read()))
    };
    let (bias, residual) = (added("bias", &[n])?, added("residual", &products)?);
    let cpu = cpu(arguments.size("threads")?)?;
    arguments.end()?;
    let read = [("x", x.read()), ("bias", bias), ("residual", residual)];
    y.write().check_apart("y", &read.map(|(what, bytes)| (what, bytes.range())))?;
    // SAFETY: the caller's; y is apart from what is read.
    let (x, y) = unsafe { (x.read().read::<f32>("x")?, y.write().write("y")?) };
    // SAFETY: the caller's.
    let epilogue = unsafe { Epilogue { bias: bias.optional("bias")?, residual: residual.optional("residual")? } };
    let free = || held.free.lock().unwrap_or_else(PoisonError::into_inner);
    let found = free().pop();
    let mut workspace = found.unwrap_or_else(|| Workspace::with_capacity((x.len() / last).max(1), k));
    let computed = linear(&cpu, &held.weight.0, x, threshold, epilogue, y, &mut workspace);
    free().push(workspace);
    Ok(computed.map(|()| None)?)
}

/// `(sizes: i64 [2], weight)`
pub(super) unsafe fn by_input_rows_sizes(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let out = unsafe { arguments.tensor("sizes")? }.of("sizes", I64)?.shaped("sizes", &[2])?;
    let held = WEIGHTS.get(arguments.size("weight")?)?;
    arguments.end()?;
    let MorayCudaInputRows { rows, scales, .. } = input_rows_sizes(&held.weight)?;
    // SAFETY: the caller's.
    unsafe { out.write().write::<i64>("sizes")? }.copy_from_slice(&[rows, scales].map(|part| part.bytes as i64));
    Ok(None)
}

/// `(rows, scales, weight)`
pub(super) unsafe fn by_input_rows(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (rows, scales) =
        unsafe { (arguments.tensor("rows")?.of("rows", U8)?, arguments.tensor("scales")?.of("scales", U8)?) };
    let held = WEIGHTS.get(arguments.size("weight")?)?;
    arguments.end()?;
    rows.write().check_apart("rows", &[("scales", scales.read().range())])?;
    let memory = MorayCudaInputRows { rows: rows.write(), scales: scales.write(), ..input_rows_sizes(&held.weight)? };
    // SAFETY: the caller's; the two are apart.
    unsafe { input_rows_pack(&held.weight, &memory) }.map(|()| None)
}
