//! The parts of the sparse MLP on a device.

#[cfg(feature = "cuda-sparse-mlp")]
use super::call::{launch, prepare};
#[cfg(not(feature = "cuda-sparse-mlp"))]
use super::no_operation::{launch, prepare};
use super::{CUstream_st, MorayCuda, MorayCudaMlpWeights};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::dtype::MorayDtype;
use crate::status::{Fault, MorayStatus, guard};

/// The gate and the products of neurons. A row of them is d_ff rounded up to 32 values, the stride.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaMlpGateUp {
    /// `sizeof(MorayCudaMlpGateUp)`.
    pub struct_size: u32,
    /// Of x.
    pub x_dtype: MorayDtype,
    /// 1 if `gate` is read, 0 if it is written.
    pub gate_is_given: u32,
    /// The rows of every neuron; those of down are not looked at.
    pub weights: MorayCudaMlpWeights,
    /// u32 [d_ff], strictly increasing as far as `count` goes; left out, with it, for all neurons.
    pub list: MorayBytes,
    /// u32 [1].
    pub count: MorayBytes,
    /// u64 [tokens, ceil(d_ff / 64)]: which neurons each token keeps, others are 0 in `hidden`; or left out.
    pub masks: MorayBytes,
    /// Tokens.
    pub tokens: usize,
    /// Tokens of the calls that share the workspace at most, 1 to 512; results depend on it.
    pub max_tokens: usize,
    /// [tokens, d_model].
    pub x: MorayBytes,
    /// f32 [tokens, stride]: act(gate * x), written by position in the list, or read by neuron.
    pub gate: MorayBytesMut,
    /// f32 [tokens, stride]: act(gate * x) * (up * x) by position in the list; left out for the gate alone.
    pub hidden: MorayBytesMut,
    /// As many bytes as `moray_cuda_mlp_gate_up_prepare` says, or more: what `moray_cuda_mlp_down` reads besides `hidden` is left there.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
///
/// Fails as `moray_cuda_mlp_gate_up`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_gate_up_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaMlpGateUp,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Computes act(gate * x) and its product with up * x for the neurons of a list, or all: the first part of `moray_cuda_mlp`, with its bits. A
/// selection by scores is: the gate of all neurons, `moray_cuda_select`, `moray_cuda_union`, then `hidden` of that list and those masks with
/// the gate given.
///
/// Fails as `moray_cuda_mlp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_gate_up(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaMlpGateUp,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cuda, call) = unsafe { (borrow("cuda", cuda)?, sized("call", call)?) };
        if call.gate_is_given == 1 && call.hidden.is_none() {
            return Err(Fault::Null { what: "hidden" });
        }
        // SAFETY: the caller's.
        unsafe { launch(cuda, stream, call) }
    })
}

/// The sums over products of neurons.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaMlpDown {
    /// `sizeof(MorayCudaMlpDown)`.
    pub struct_size: u32,
    /// Of y and residual.
    pub y_dtype: MorayDtype,
    /// The rows of every neuron; those of gate and up are not looked at.
    pub weights: MorayCudaMlpWeights,
    /// u32 [d_ff]: the list of the call that made `hidden`, or left out as there.
    pub list: MorayBytes,
    /// u32 [1].
    pub count: MorayBytes,
    /// Tokens.
    pub tokens: usize,
    /// As of the call that made `hidden`.
    pub max_tokens: usize,
    /// f32 [tokens, stride] by position in the list, as `moray_cuda_mlp_gate_up` made it, or smaller in size, as by a mask; aligned to 16 bytes.
    pub hidden: MorayBytes,
    /// [tokens, d_model], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// [tokens, d_model].
    pub y: MorayBytesMut,
    /// That of the call that made `hidden`, which nothing else has used since.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
///
/// Fails as `moray_cuda_mlp_down`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_down_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaMlpDown,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Computes y = down(hidden) + residual over the neurons of a list, or all: the last part of `moray_cuda_mlp`, with its bits. Each call follows
/// one of `moray_cuda_mlp_gate_up` with `hidden`, which is followed by no other.
///
/// Fails as `moray_cuda_mlp`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_down(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaMlpDown,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
