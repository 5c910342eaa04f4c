//! The sparse MLP over tensors of the CPU.

use super::call::Arguments;
use super::functions::{Returned, cpu, rounded};
use super::numbered::Numbered;
use super::tensor::{F32, I64, Rows, U8};
use crate::arguments::{MorayBytes, MorayBytesMut};
use crate::cuda::{MorayCudaMlpWeights, mlp_pack, mlp_sizes};
use crate::dtype::with_dtype;
use crate::mlp::{MORAY_ACTIVATION_RELU, MORAY_ACTIVATION_SILU, MorayActivation, MorayMlp, activation};
use crate::selection::*;
use crate::status::{Fault, Outcome};
use moray::sparse_mlp::{Shape, Weights, Workspace, forward};
use std::sync::{Mutex, PoisonError};

/// MLPs by the numbers that callers have of them.
static MLPS: Numbered<Mlp> = Numbered::new("mlp", "the number of an MLP");

struct Mlp {
    weights: MorayMlp,
    /// What no call works in at the moment, and for how many tokens it was made.
    free: Mutex<Vec<(usize, Workspace)>>,
}

impl Mlp {
    /// A workspace for so many tokens that no other call has.
    fn take(&self, tokens: usize) -> Outcome<(usize, Workspace)> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match free {
            Some(found) if found.0 >= tokens => Ok(found),
            _ => Ok((tokens, Workspace::new(&self.weights.0, tokens)?)),
        }
    }

    fn give(&self, workspace: (usize, Workspace)) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(workspace);
    }
}

fn hold(weights: Weights) -> i64 {
    MLPS.add(Mlp { weights: MorayMlp(weights), free: Mutex::default() })
}

/// Gate, up and down, whose sizes go together.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn matrices(arguments: &mut Arguments<'_>) -> Outcome<[Rows; 3]> {
    // SAFETY: the caller's.
    let [gate, up, down] = unsafe { [arguments.tensor("gate")?, arguments.tensor("up")?, arguments.tensor("down")?] };
    let [d_ff, d_model] = gate.matrix("gate")?;
    let (up, down) = (up.shaped("up", &[d_ff, d_model])?, down.shaped("down", &[d_model, d_ff])?);
    let (up, down) = (up.of("up", gate.dtype)?, down.of("down", gate.dtype)?);
    Ok([gate, up, down])
}

fn shape(gate: &Rows, named: MorayActivation) -> Outcome<Shape> {
    let [d_ff, d_model] = gate.matrix("gate")?;
    Ok(Shape { d_model, d_ff, activation: activation("activation", named)? })
}

/// The nonlinearity of the gate: "silu" or "relu".
///
/// # Safety
/// As [`Arguments::name`].
pub(super) unsafe fn nonlinearity(arguments: &mut Arguments<'_>) -> Outcome<MorayActivation> {
    // SAFETY: the caller's.
    unsafe { arguments.name("activation", &[("silu", MORAY_ACTIVATION_SILU), ("relu", MORAY_ACTIVATION_RELU)]) }
}

/// `(gate, up, down, activation) -> int`
pub(super) unsafe fn sparse_mlp_create(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let ([gate, up, down], named) = unsafe { (matrices(arguments)?, nonlinearity(arguments)?) };
    arguments.end()?;
    let shape = shape(&gate, named)?;
    let weights = with_dtype!("gate", gate.float("gate")?, E => {
        // SAFETY: the caller's.
        unsafe { Weights::new(shape, gate.read().read::<E>("gate")?, up.read().read("up")?, down.read().read("down")?)? }
    });
    Ok(Some(hold(weights)))
}

/// `(gate, up, down, activation, format..) -> int`
pub(super) unsafe fn sparse_mlp_create_quantized(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let ([gate, up, down], named) = unsafe { (matrices(arguments)?, nonlinearity(arguments)?) };
    // SAFETY: the caller's.
    let format = unsafe { arguments.format()? }.read()?;
    arguments.end()?;
    let shape = shape(&gate, named)?;
    // SAFETY: the caller's.
    let [gate, up, down] =
        unsafe { [rounded("gate", &gate, format)?, rounded("up", &up, format)?, rounded("down", &down, format)?] };
    Ok(Some(hold(Weights::from_quantized(shape, &gate, &up, &down)?)))
}

/// `(mlp)`
pub(super) unsafe fn sparse_mlp_destroy(arguments: &mut Arguments<'_>) -> Returned {
    let number = arguments.size("mlp")?;
    arguments.end()?;
    MLPS.remove(number).map(|()| None)
}

/// What kinds of selections are called.
pub(super) const KINDS: [(&str, MoraySelect); 6] = [
    ("all", MORAY_SELECT_ALL),
    ("indices", MORAY_SELECT_LIST),
    ("masks", MORAY_SELECT_MASKS),
    ("union", MORAY_SELECT_UNION),
    ("threshold", MORAY_SELECT_THRESHOLD),
    ("top_k", MORAY_SELECT_TOP_K),
];

/// What scores are of.
pub(super) const SCORES: [(&str, MorayScore); 3] =
    [("input", MORAY_SCORE_INPUT), ("gate", MORAY_SCORE_GATE), ("hidden", MORAY_SCORE_HIDDEN)];

/// The threshold or k of a selection, where its kind has one.
pub(super) fn bound(kind: MoraySelect, value: f64) -> Outcome<(f32, usize)> {
    match kind {
        MORAY_SELECT_TOP_K if value.fract() != 0.0 || value < 0.0 => {
            Err(Fault::unsupported("value", "a whole number of neurons", value))
        }
        // what is too large stays so, and is refused with the other sizes
        _ => Ok((value as f32, value as usize)),
    }
}

/// `(y, x, mlp, kind, value, score, channel_scale, indices, masks, threads)`
pub(super) unsafe fn sparse_mlp(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?.of("y", F32)?, arguments.tensor("x")?.of("x", F32)?) };
    let mlp = MLPS.get(arguments.size("mlp")?)?;
    let shape = mlp.weights.0.shape();
    let Some((_, tokens)) = x.shape.split_last().filter(|(last, _)| **last == shape.d_model) else {
        let expected = format!("{} features in its last dimension", shape.d_model);
        return Err(Fault::Argument { what: "x", expected, got: format!("shape {:?}", x.shape) });
    };
    let (y, tokens) = (y.shaped("y", &x.shape)?, tokens.iter().product());
    // SAFETY: the caller's.
    let kind = unsafe { arguments.name("kind", &KINDS)? };
    let (threshold, k) = bound(kind, arguments.number("value")?)?;
    // SAFETY: the caller's.
    let score = unsafe { arguments.name("score", &SCORES)? };
    // SAFETY: the caller's.
    let (scale, list, masks) =
        unsafe { (arguments.optional("channel_scale")?, arguments.optional("indices")?, arguments.optional("masks")?) };
    let cpu = cpu(arguments.size("threads")?)?;
    arguments.end()?;
    let read = |rows: Option<Rows>| rows.map_or(MorayBytes::NONE, |rows| rows.read());
    let selection = MoraySelection {
        struct_size: size_of::<MoraySelection>() as u32,
        kind,
        list: read(list.map(|list| list.words("indices")).transpose()?),
        masks: read(masks.map(|masks| masks.long_words("masks")).transpose()?),
        score,
        threshold,
        k,
        channel_scale: read(scale.map(|scale| scale.of("channel_scale", F32)).transpose()?),
    };
    let MoraySelection { list, masks, channel_scale, .. } = selection;
    let parts = [("x", x.read()), ("indices", list), ("masks", masks), ("channel_scale", channel_scale)];
    y.write().check_apart("y", &parts.map(|(what, bytes)| (what, bytes.range())))?;
    // SAFETY: the caller's.
    let selection = unsafe { selection.read(tokens, shape)? };
    // SAFETY: the caller's; y is apart from what is read.
    let (x, y) = unsafe { (x.read().read::<f32>("x")?, y.write().write("y")?) };
    let mut workspace = mlp.take(tokens.max(1))?;
    let computed = forward(&cpu, &mlp.weights.0, x, &selection, None, y, &mut workspace.1);
    mlp.give(workspace);
    Ok(computed.map(|()| None)?)
}

/// Their names.
pub(super) const PARTS: [&str; 6] = ["gate_rows", "gate_scales", "up_rows", "up_scales", "down_rows", "down_scales"];

/// Rows and scales of gate, up and down: what an MLP that is made here has on a device.
fn parts(weights: &mut MorayCudaMlpWeights) -> [[&mut MorayBytesMut; 2]; 3] {
    let MorayCudaMlpWeights { gate, up, down, .. } = weights;
    [gate, up, down].map(|matrix| [&mut matrix.rows, &mut matrix.scales])
}

/// `(sizes: i64 [6], mlp)`
pub(super) unsafe fn sparse_mlp_rows_sizes(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let out = unsafe { arguments.tensor("sizes")? }.of("sizes", I64)?.shaped("sizes", &[6])?;
    let mlp = MLPS.get(arguments.size("mlp")?)?;
    arguments.end()?;
    let mut sizes = mlp_sizes(&mlp.weights)?;
    // SAFETY: the caller's.
    let out = unsafe { out.write().write::<i64>("sizes")? };
    for (out, part) in out.iter_mut().zip(parts(&mut sizes).into_iter().flatten()) {
        *out = part.bytes as i64;
    }
    Ok(None)
}

/// `(gate_rows, gate_scales, up_rows, up_scales, down_rows, down_scales, mlp)`
pub(super) unsafe fn sparse_mlp_rows(arguments: &mut Arguments<'_>) -> Returned {
    let mut given = Vec::with_capacity(6);
    for what in PARTS {
        // SAFETY: the caller's.
        let found = unsafe { arguments.optional(what)? }.map(|rows| rows.of(what, U8)).transpose()?;
        given.push((what, found.map_or(super::cuda::NONE, |rows| rows.write())));
    }
    let mlp = MLPS.get(arguments.size("mlp")?)?;
    arguments.end()?;
    let mut memory = mlp_sizes(&mlp.weights)?;
    for (&(what, found), place) in given.iter().zip(parts(&mut memory).into_iter().flatten()) {
        if place.bytes != found.bytes {
            let (expected, got) = (format!("{} bytes", place.bytes), format!("{} bytes", found.bytes));
            return Err(Fault::Argument { what, expected, got });
        }
        *place = found;
    }
    for (i, (what, written)) in given.iter().enumerate() {
        let others = given[i + 1..].iter().map(|(what, bytes)| (*what, bytes.as_read().range()));
        written.check_apart(what, &others.collect::<Vec<_>>())?;
    }
    // SAFETY: the caller's; each is apart from the others.
    unsafe { mlp_pack(&mlp.weights, &memory) }.map(|()| None)
}
