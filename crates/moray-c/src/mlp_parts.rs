//! The parts of the sparse MLP.

use crate::activations::{MorayActivations, unless_busy};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::cpu::MorayCpu;
use crate::mlp::{MorayMlp, MorayMlpWorkspace};
use crate::selection::MoraySelection;
use crate::status::{Fault, MorayStatus, guard};
use moray::sparse_mlp::{Activation, Gate, IndexList, Input, Shape, TokenMasks, down, gate_up, select};

/// The gate and the products of listed neurons. L is how many are listed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpGateUp {
    /// `sizeof(MorayMlpGateUp)`.
    pub struct_size: u32,
    /// 1 if `gate` is read, 0 if it is written.
    pub gate_is_given: u32,
    /// The weights.
    pub mlp: *const MorayMlp,
    /// f32 [tokens, d_model]; left out for 4-bit weights.
    pub x: MorayBytes,
    /// The inputs in int8 with one scale for each token, for 4-bit weights; else null.
    pub activations: *const MorayActivations,
    /// u32 [L], strictly increasing, below d_ff: the neurons of the whole call.
    pub list: MorayBytes,
    /// f32 [tokens, L]: act(gate * x), read or written; it may be left out where `hidden` is not and the gate is not given.
    pub gate: MorayBytesMut,
    /// f32 [tokens, L]: act(gate * x) * (up * x); left out for the gate alone.
    pub hidden: MorayBytesMut,
    /// The first position in the list that is computed, a multiple of 16.
    pub begin: usize,
    /// One past the last, a multiple of 16 or L; 0 stands for L.
    pub end: usize,
}

/// Computes act(gate * x) and its product with up * x for the neurons at the positions `begin` to `end` of a list: the first part of
/// `moray_mlp_forward`, with its bits. Other columns of `gate` and `hidden` are neither read nor written, and only the rows of these
/// neurons are read.
///
/// Several threads may share one call by ranges that do not overlap, each with the same buffers and a CPU device of one thread.
/// A selection by scores is: the gate of all neurons, `moray_mlp_select`, then `hidden` of the list that was chosen with the gate given.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` for positions inside a block of 16 and activations
/// of another K, `MORAY_STATUS_INDEX` for positions past L, `MORAY_STATUS_INDEX` and `MORAY_STATUS_NOT_INCREASING` for the list,
/// `MORAY_STATUS_UNSUPPORTED` for inputs that are not the weights' kind and where nothing would be written, `MORAY_STATUS_OVERLAP` if what
/// is written overlaps anything else, `MORAY_STATUS_BUSY` while another thread writes the activations.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_gate_up(cpu: *const MorayCpu, call: *const MorayMlpGateUp) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        let weights = unsafe { &borrow("mlp", call.mlp)?.0 };
        // SAFETY: the caller's.
        let (x, list) = unsafe { (call.x.optional("x")?, call.list.read("list")?) };
        let int8 = match call.activations.is_null() {
            true => None,
            // SAFETY: the caller's.
            false => Some(unsafe { borrow("activations", call.activations)? }.read("activations")?),
        };
        let input = match (x, &int8) {
            (Some(x), None) => Input::Floats(x),
            (None, Some(int8)) => Input::Int8(int8),
            (None, None) => return Err(Fault::Null { what: "x" }),
            (Some(_), Some(_)) => return Err(Fault::unsupported("x", "floats or activations", 2)),
        };
        let codes = int8.as_deref().map_or(MorayBytes::NONE, |int8| MorayBytes::of(int8.codes()));
        let read = [("x", call.x.range()), ("list", call.list.range()), ("activations", codes.range())];
        call.hidden.check_apart("hidden", &read)?;
        call.hidden.check_apart("hidden", &[("gate", call.gate.as_read().range())])?;
        let gate = match call.gate_is_given {
            // SAFETY: the caller's.
            1 => Gate::Given(unsafe { call.gate.as_read().read("gate")? }),
            0 if call.gate.is_none() => Gate::Computed(None),
            0 => {
                call.gate.check_apart("gate", &read)?;
                // SAFETY: the memory is the caller's, apart from what is read; other calls that share it write other columns.
                Gate::Computed(Some(unsafe { call.gate.shared("gate")? }))
            }
            other => return Err(Fault::unsupported("gate_is_given", "0 or 1", other)),
        };
        let hidden = match call.hidden.is_none() {
            true => None,
            // SAFETY: as for the gate.
            false => Some(unsafe { call.hidden.shared("hidden")? }),
        };
        let list = IndexList::new(list, weights.shape().d_ff)?;
        let positions = call.begin..if call.end == 0 { list.indices().len() } else { call.end };
        Ok(gate_up(cpu, weights, input, list, positions, gate, hidden)?)
    })
}

/// A choice among values, such as the gate of all neurons.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpSelect {
    /// `sizeof(MorayMlpSelect)`.
    pub struct_size: u32,
    /// By a threshold or top-k; what it says is scored is not looked at.
    pub selection: *const MoraySelection,
    /// Values of a token.
    pub n: usize,
    /// f32 [tokens, n].
    pub values: MorayBytes,
    /// u64 [tokens, ceil(n / 64)].
    pub masks: MorayBytesMut,
    /// u32 [n], of which the first are written: what any token keeps; or left out.
    pub list: MorayBytesMut,
}

/// Writes which values each token keeps, those whose size times the channel's scale is above the threshold or the k highest, and lists
/// what any token keeps: what `moray_mlp_forward` does between its parts. `count` is how many are listed; null with no list.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_VALUE` and `MORAY_STATUS_SHAPE` for threshold, scales and k,
/// `MORAY_STATUS_UNSUPPORTED` for other selections, `MORAY_STATUS_OVERLAP` if what is written overlaps anything else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_select(
    cpu: *const MorayCpu,
    call: *const MorayMlpSelect,
    count: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        let (selection, values) = unsafe { (sized("selection", call.selection)?, call.values.read::<f32>("values")?) };
        let read = [("values", call.values.range()), ("selection.channel_scale", selection.channel_scale.range())];
        call.masks.check_apart("masks", &read)?;
        call.list.check_apart("list", &read)?;
        call.list.check_apart("list", &[("masks", call.masks.as_read().range())])?;
        let shape = Shape { d_model: call.n, d_ff: call.n, activation: Activation::Silu };
        let tokens = values.len().checked_div(call.n).unwrap_or(0);
        // SAFETY: the caller's.
        let (selection, masks) = unsafe { (selection.read(tokens, shape)?, call.masks.write("masks")?) };
        if call.list.is_none() {
            return Ok(select(cpu, values, call.n, &selection, masks)?);
        }
        // SAFETY: the caller's.
        let list = unsafe { call.list.write::<u32>("list")? };
        if list.len() != call.n {
            return Err(moray::Error::Length { what: "list", expected: call.n, got: list.len() }.into());
        }
        select(cpu, values, call.n, &selection, masks)?;
        let kept = TokenMasks::new(masks, tokens, call.n)?.union();
        list[..kept.indices().len()].copy_from_slice(kept.indices());
        // SAFETY: the caller's.
        unsafe { give("count", count, kept.indices().len()) }
    })
}

/// The down projection of products that have been computed. L is how many neurons are listed.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayMlpDown {
    /// `sizeof(MorayMlpDown)`.
    pub struct_size: u32,
    /// The weights.
    pub mlp: *const MorayMlp,
    /// What the call works in.
    pub workspace: *mut MorayMlpWorkspace,
    /// u32 [L], strictly increasing, below d_ff.
    pub list: MorayBytes,
    /// f32 [tokens, L], 0 for neurons that a token does not keep.
    pub hidden: MorayBytes,
    /// f32 [tokens, d_model], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// f32 [tokens, d_model].
    pub y: MorayBytesMut,
    /// The first column of y that is computed.
    pub column_begin: usize,
    /// One past the last; 0 stands for d_model.
    pub column_end: usize,
}

/// Computes y = down * hidden (+ its bias) + residual for the columns from `column_begin` to `column_end`: the last part of
/// `moray_mlp_forward`, with its bits. Other columns of `y` are neither read nor written. Of a token whose inputs are not finite the parts give
/// what the sums give, where `moray_mlp_forward` makes all of y NaN.
///
/// Several threads may share one call by ranges that do not overlap, each with the same `y`, a workspace of its own and a CPU device of
/// one thread. With 4-bit weights each quantizes all of `hidden` for itself.
///
/// Fails with `MORAY_STATUS_LENGTH` for a buffer of another size, `MORAY_STATUS_SHAPE` for more tokens than the workspace was made for,
/// `MORAY_STATUS_INDEX` for columns past d_model, `MORAY_STATUS_INDEX` and `MORAY_STATUS_NOT_INCREASING` for the list,
/// `MORAY_STATUS_OVERLAP` if `y` overlaps what is read, `MORAY_STATUS_BUSY` if another thread is using the workspace.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_mlp_down(cpu: *const MorayCpu, call: *const MorayMlpDown) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, call) = unsafe { (&borrow("cpu", cpu)?.0, sized("call", call)?) };
        // SAFETY: the caller's.
        let weights = unsafe { &borrow("mlp", call.mlp)?.0 };
        // SAFETY: the caller's.
        let workspace = unsafe { borrow("workspace", call.workspace.cast_const())? };
        let mut workspace = unless_busy("workspace", workspace.0.try_lock())?;
        // SAFETY: the caller's.
        let (list, hidden) = unsafe { (call.list.read("list")?, call.hidden.read("hidden")?) };
        // SAFETY: the caller's.
        let residual = unsafe { call.residual.optional("residual")? };
        let read = [("list", call.list), ("hidden", call.hidden), ("residual", call.residual)];
        call.y.check_apart("y", &read.map(|(what, bytes)| (what, bytes.range())))?;
        // SAFETY: the memory is the caller's, apart from what is read; other calls that share it write other columns.
        let y = unsafe { call.y.shared("y")? };
        let Shape { d_model, d_ff, .. } = weights.shape();
        let columns = call.column_begin..if call.column_end == 0 { d_model } else { call.column_end };
        let list = IndexList::new(list, d_ff)?;
        Ok(down(cpu, weights, list, hidden, columns, residual, y, &mut workspace)?)
    })
}
