//! The sparse MLP.

use crate::activations::unless_busy;
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, check_memory, create, destroy, give, sized};
use crate::cpu::MorayCpu;
use crate::dtype::{MorayDtype, with_dtype};
use crate::quantized::MorayQuantized;
use crate::selection::MoraySelection;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::sparse_mlp::{Activation, Selection, Shape, Weights, Workspace, forward};
use std::sync::Mutex;

/// The gate's nonlinearity: one of the `MORAY_ACTIVATION_..` constants.
pub type MorayActivation = u32;

/// x / (1 + exp(-x)).
pub const MORAY_ACTIVATION_SILU: MorayActivation = 0;
/// max(x, 0).
pub const MORAY_ACTIVATION_RELU: MorayActivation = 1;

/// The weights of a gated MLP, neuron by neuron, in memory of the library's. Never changes, so that any number of threads may use it.
#[derive(Debug)]
pub struct MorayMlp(pub(crate) Weights);

/// What a call of the sparse MLP works in, made once. One thread uses it at a time.
#[derive(Debug)]
pub struct MorayMlpWorkspace(pub(crate) Mutex<Workspace>);

/// The sizes and the nonlinearity of an MLP.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpShape {
    /// Features of x and y.
    pub d_model: usize,
    /// Neurons.
    pub d_ff: usize,
    /// The nonlinearity of the gate.
    pub activation: MorayActivation,
}

impl MorayMlpShape {
    pub(crate) fn read(self) -> Outcome<Shape> {
        let activation = activation("shape.activation", self.activation)?;
        Ok(Shape { d_model: self.d_model, d_ff: self.d_ff, activation })
    }
}

/// The nonlinearity that a constant names.
pub(crate) fn activation(what: &'static str, activation: MorayActivation) -> Outcome<Activation> {
    match activation {
        MORAY_ACTIVATION_SILU => Ok(Activation::Silu),
        MORAY_ACTIVATION_RELU => Ok(Activation::Relu),
        other => Err(Fault::unsupported(what, "a MORAY_ACTIVATION_ constant", other)),
    }
}

/// f32 biases of an MLP; those that are left out are absent.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpBiases {
    /// f32 [d_ff].
    pub gate: MorayBytes,
    /// f32 [d_ff].
    pub up: MorayBytes,
    /// f32 [d_model].
    pub down: MorayBytes,
}

/// Adds the biases that there are.
///
/// # Safety
/// As [`MorayBytes::read`], for each.
unsafe fn with_biases(weights: Weights, biases: *const MorayMlpBiases) -> Outcome<MorayMlp> {
    if biases.is_null() {
        return Ok(MorayMlp(weights));
    }
    // SAFETY: the caller's.
    let MorayMlpBiases { gate, up, down } = *unsafe { borrow("biases", biases)? };
    // SAFETY: the caller's.
    let (gate, up, down) = unsafe { (gate.read("biases.gate")?, up.read("biases.up")?, down.read("biases.down")?) };
    Ok(MorayMlp(weights.with_biases(gate, up, down)?))
}

/// Copies weights in `dtype`: gate and up [d_ff, d_model], down [d_model, d_ff], row-major; `biases` or null.
///
/// Fails with `MORAY_STATUS_SHAPE` for a size of 0, `MORAY_STATUS_LENGTH` for a matrix of another size, `MORAY_STATUS_VALUE` for a
/// weight that is not finite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_create(
    shape: *const MorayMlpShape,
    dtype: MorayDtype,
    gate: MorayBytes,
    up: MorayBytes,
    down: MorayBytes,
    biases: *const MorayMlpBiases,
    out: *mut *mut MorayMlp,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let shape = unsafe { borrow("shape", shape)? }.read()?;
        let make = || {
            let weights = with_dtype!("dtype", dtype, E => {
                // SAFETY: the caller's.
                let (gate, up, down) = unsafe { (gate.read::<E>("gate")?, up.read("up")?, down.read("down")?) };
                Weights::new(shape, gate, up, down)?
            });
            // SAFETY: the caller's.
            unsafe { with_biases(weights, biases) }
        };
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

/// Takes 4-bit weights with the codes and scales they have: gate and up [d_ff, d_model], down [d_model, d_ff]. The plain weights are
/// not needed any more then.
///
/// Fails with `MORAY_STATUS_SHAPE` for matrices of other sizes, `MORAY_STATUS_UNSUPPORTED` for 8-bit codes, for scales other than
/// of channels or f16 of groups and for columns in another order (`moray_quantized_order`).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_create_quantized(
    shape: *const MorayMlpShape,
    gate: *const MorayQuantized,
    up: *const MorayQuantized,
    down: *const MorayQuantized,
    biases: *const MorayMlpBiases,
    out: *mut *mut MorayMlp,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let shape = unsafe { borrow("shape", shape)? }.read()?;
        // SAFETY: the caller's.
        let [gate, up, down] = unsafe { [borrow("gate", gate)?, borrow("up", up)?, borrow("down", down)?] };
        let (gate, up, down) = (gate.in_own_order("gate")?, up.in_own_order("up")?, down.in_own_order("down")?);
        // SAFETY: the caller's.
        let make = || unsafe { with_biases(Weights::from_quantized(shape, gate, up, down)?, biases) };
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

/// Ends an MLP; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_destroy(mlp: *mut MorayMlp) {
    // SAFETY: the caller's.
    unsafe { destroy(mlp) }
}

/// Makes what calls of up to `max_tokens` tokens work in, for this MLP and others of its shape and kind of weights.
///
/// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` for 0 tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_workspace_create(
    mlp: *const MorayMlp,
    max_tokens: usize,
    out: *mut *mut MorayMlpWorkspace,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weights = unsafe { &borrow("mlp", mlp)?.0 };
        let Shape { d_model, d_ff, .. } = weights.shape();
        // floats of gate, product and inputs, their codes, masks and sums, with room to spare
        check_memory("workspace", max_tokens.checked_mul(16 * (d_model + d_ff + 128)))?;
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayMlpWorkspace(Mutex::new(Workspace::new(weights, max_tokens)?)))) }
    })
}

/// Ends a workspace; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_workspace_destroy(workspace: *mut MorayMlpWorkspace) {
    // SAFETY: the caller's.
    unsafe { destroy(workspace) }
}

/// A call of the sparse MLP.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpForward {
    /// `sizeof(MorayMlpForward)`.
    pub struct_size: u32,
    /// The weights.
    pub mlp: *const MorayMlp,
    /// What the call works in.
    pub workspace: *mut MorayMlpWorkspace,
    /// Which neurons; null for all.
    pub selection: *const MoraySelection,
    /// f32 [tokens, d_model].
    pub x: MorayBytes,
    /// f32 [tokens, d_model], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// f32 [tokens, d_model].
    pub y: MorayBytesMut,
}

/// Computes y = down(act(gate * x) * (up * x)) + residual over the neurons that the selection keeps of each token. Only the rows of
/// neurons that a token keeps are read. With 4-bit weights, x and the product are int8 with one scale for each token. The bits depend
/// neither on threads nor on the instruction set nor on how tokens are split into calls.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer or selection of another size, `MORAY_STATUS_SHAPE` for more tokens than the workspace
/// was made for, `MORAY_STATUS_INDEX`, `MORAY_STATUS_NOT_INCREASING` and `MORAY_STATUS_VALUE` for a selection,
/// `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_forward(cpu: *const MorayCpu, call: *const MorayMlpForward) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        let weights = unsafe { &borrow("mlp", call.mlp)?.0 };
        // SAFETY: the caller's.
        let workspace = unsafe { borrow("workspace", call.workspace.cast_const())? };
        let mut workspace = unless_busy("workspace", workspace.0.try_lock())?;
        // SAFETY: the caller's.
        let x = unsafe { call.x.read::<f32>("x")? };
        // SAFETY: the caller's.
        let residual = unsafe { call.residual.optional("residual")? };
        let selection = match call.selection.is_null() {
            true => Selection::All,
            false => {
                let tokens = x.len() / weights.shape().d_model;
                // SAFETY: the caller's.
                unsafe { sized("selection", call.selection)?.read(tokens, weights.shape())? }
            }
        };
        call.y.check_apart("y", &[("x", call.x.range()), ("residual", call.residual.range())])?;
        // SAFETY: the caller's.
        let y = unsafe { call.y.write("y")? };
        Ok(forward(cpu, weights, x, &selection, residual, y, &mut workspace)?)
    })
}

/// Says which neurons any token of a workspace's last call kept: u32, strictly increasing, until the next call with it. They are the
/// rows of down that were read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_kept(workspace: *const MorayMlpWorkspace, kept: *mut MorayBytes) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let workspace = unsafe { borrow("workspace", workspace)? };
        let workspace = unless_busy("workspace", workspace.0.try_lock())?;
        // SAFETY: the caller's.
        unsafe { give("kept", kept, MorayBytes::of(workspace.kept())) }
    })
}
