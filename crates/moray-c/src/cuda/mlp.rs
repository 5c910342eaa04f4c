//! The sparse MLP on a device.

#[cfg(feature = "cuda-sparse-mlp")]
use super::call::{launch, prepare};
#[cfg(feature = "cuda-sparse-mlp")]
pub(crate) use super::fill::mlp::{pack as mlp_pack, sizes as mlp_sizes};
#[cfg(not(feature = "cuda-sparse-mlp"))]
use super::no_operation::{launch, prepare};
#[cfg(not(feature = "cuda-sparse-mlp"))]
pub(crate) use super::no_operation::{pack as mlp_pack, sizes as mlp_sizes};
use super::{CUstream_st, MorayCuda, MorayCudaSelection};
use crate::arguments::{MorayBytes, MorayBytesMut, borrow, give, sized};
use crate::dtype::MorayDtype;
use crate::format::MorayOffset;
use crate::mlp::{MorayMlp, MorayMlpShape};
use crate::status::{MorayStatus, guard};

/// What the rows of neurons are stored as: one of the `MORAY_ROWS_..` constants.
pub type MorayRows = u32;

/// IEEE half precision.
pub const MORAY_ROWS_F16: MorayRows = 1;
/// bfloat16.
pub const MORAY_ROWS_BF16: MorayRows = 2;
/// Codes of 4 bits with scales.
pub const MORAY_ROWS_FOUR_BIT: MorayRows = 3;

/// One matrix of an MLP, a neuron a row.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaRows {
    /// [d_ff, d_model], down transposed; aligned to 16 bytes.
    pub rows: MorayBytesMut,
    /// Of 4 bits, aligned to 32 bytes; else left out.
    pub scales: MorayBytesMut,
    /// f32 [d_ff], or [d_model] of down; or left out.
    pub bias: MorayBytesMut,
    /// Values that share a scale of f16; 0 for scales of rows, or features, and for 16 bits.
    pub group_size: u32,
    /// What a group has besides its scale.
    pub offset: MorayOffset,
}

/// The weights of a gated MLP in memory of the caller's, as devices read them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaMlpWeights {
    /// The sizes and the nonlinearity.
    pub shape: MorayMlpShape,
    /// What rows are stored as.
    pub format: MorayRows,
    /// Its rows are activated.
    pub gate: MorayCudaRows,
    /// Its rows are multiplied with the activated ones.
    pub up: MorayCudaRows,
    /// What the products are multiplied with.
    pub down: MorayCudaRows,
}

/// Says how an MLP is stored for devices: everything of `MorayCudaMlpWeights` but addresses, which are null.
///
/// Fails with `MORAY_STATUS_UNSUPPORTED` for f32 weights, `MORAY_STATUS_SHAPE` unless d_model is a multiple of 8,
/// `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without the operation's CUDA kernels.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_sizes(mlp: *const MorayMlp, out: *mut MorayCudaMlpWeights) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("out", out, mlp_sizes(borrow("mlp", mlp)?)?) }
    })
}

/// Writes an MLP as devices read it into memory of the process, whose sizes `moray_cuda_mlp_sizes` says: to be copied to a device.
///
/// Fails as `moray_cuda_mlp_sizes`, with `MORAY_STATUS_LENGTH` for memory of another size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_pack(mlp: *const MorayMlp, memory: *const MorayCudaMlpWeights) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { mlp_pack(borrow("mlp", mlp)?, borrow("memory", memory)?) }
    })
}

/// A call of the sparse MLP.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayCudaMlp {
    /// `sizeof(MorayCudaMlp)`.
    pub struct_size: u32,
    /// Of x.
    pub x_dtype: MorayDtype,
    /// Of y and residual.
    pub y_dtype: MorayDtype,
    /// The rows of every neuron.
    pub weights: MorayCudaMlpWeights,
    /// Which neurons.
    pub selection: MorayCudaSelection,
    /// Tokens.
    pub tokens: usize,
    /// Tokens of the calls that share the workspace at most, 1 to 512; results depend on it.
    pub max_tokens: usize,
    /// [tokens, d_model].
    pub x: MorayBytes,
    /// [tokens, d_model], or left out; apart from `y`.
    pub residual: MorayBytes,
    /// [tokens, d_model].
    pub y: MorayBytesMut,
    /// u32 [d_ff]: where the call lists the neurons that any token keeps, after masks and after scores on the gate or the product; may be left
    /// out otherwise.
    pub kept: MorayBytesMut,
    /// u32 [1]: how many they are.
    pub kept_count: MorayBytesMut,
    /// As many bytes as `moray_cuda_mlp_prepare` says, or more. Calls that may run at once have one each.
    pub workspace: MorayBytesMut,
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes `workspace` needs.
///
/// Fails as `moray_cuda_mlp`, and as `moray_cuda_load_kernels`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp_prepare(
    cuda: *const MorayCuda,
    call: *const MorayCudaMlp,
    bytes: *mut usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { give("bytes", bytes, prepare(borrow("cuda", cuda)?, sized("call", call)?)?) }
    })
}

/// Computes y = down(act(gate * x) * (up * x)) + residual over the neurons that the selection keeps of each token. Lists, counts and masks are
/// read when the kernels run, so that a graph replays with others; kernels stay inside the weights whatever they hold. Selections
/// have the CPU's bits for the same values; sums have an order of their own, see docs/sparse-mlp.md.
///
/// Fails with `MORAY_STATUS_SHAPE` for sizes, `MORAY_STATUS_VALUE` for a threshold, `MORAY_STATUS_UNSUPPORTED` for rows and scales of
/// other kinds, `MORAY_STATUS_LENGTH`, `MORAY_STATUS_NULL`, `MORAY_STATUS_MISALIGNED` and `MORAY_STATUS_OVERLAP` for memory,
/// `MORAY_STATUS_LAUNCH` if the driver does not start a kernel.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_mlp(
    cuda: *const MorayCuda,
    stream: *mut CUstream_st,
    call: *const MorayCudaMlp,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        unsafe { launch(borrow("cuda", cuda)?, stream, sized("call", call)?) }
    })
}
