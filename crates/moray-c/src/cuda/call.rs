//! A call on a device: filled in, checked, put on a stream.

use super::lent::Lent;
use super::{CUstream_st, MorayCuda};
use crate::cpu::MORAY_ARCH_CUDA;
use crate::dtype::MORAY_F32;
use crate::status::Outcome;
use crate::supports::{MORAY_OP_ATTENTION, MORAY_OP_BY_INPUT, MORAY_OP_LINEAR, MORAY_OP_SPARSE_MLP, MorayQuery};
use moray::Error;
use moray::device::{Device, RawCall};

/// Arguments of C that are a raw call of the library's.
pub(crate) trait Fill {
    /// The call.
    type Call: RawCall;

    /// The call, over memory that is entered in `lent` under the names that C has for it.
    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<Self::Call>;

    /// Bytes that the caller provides for the call besides its operands.
    fn bytes(_: &Self::Call, _: &Device) -> usize {
        0
    }
}

/// Puts a call on a stream.
///
/// # Safety
/// As [`RawCall::launch`], for the memory that the arguments name.
pub(crate) unsafe fn launch<C: Fill>(cuda: &MorayCuda, stream: *mut CUstream_st, arguments: &C) -> Outcome {
    let mut lent = Lent::default();
    let call = arguments.fill(&cuda.device, &mut lent)?;
    lent.check(&cuda.device, &call)?;
    if cuda.is_memory_checked() {
        lent.check_reach(&cuda.device)?;
    }
    // SAFETY: the caller's; every buffer of the call lies in memory that was lent for what is done with it.
    unsafe { call.launch(&cuda.device, stream.cast())? };
    Ok(())
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes it needs besides its operands.
pub(crate) fn prepare<C: Fill>(cuda: &MorayCuda, arguments: &C) -> Outcome<usize> {
    let call = arguments.fill(&cuda.device, &mut Lent::default())?;
    call.prepare(&cuda.device)?;
    Ok(C::bytes(&call, &cuda.device))
}

/// Which code answers a question about an architecture of CUDA's, or why none.
pub(crate) fn place(query: &MorayQuery) -> Result<String, String> {
    let (built, precision) = match query.op {
        MORAY_OP_LINEAR => (cfg!(feature = "cuda-w4a8"), "with the bits of a CPU"),
        MORAY_OP_SPARSE_MLP => (cfg!(feature = "cuda-sparse-mlp"), "with an order of sums of their own"),
        MORAY_OP_ATTENTION => (cfg!(feature = "cuda-attention"), "with an order of sums of their own"),
        MORAY_OP_BY_INPUT => (cfg!(feature = "cuda-input-sparse"), "with the bits of a CPU"),
        _ => (false, ""),
    };
    if !built {
        return Err("arch: expected a CPU, as this library is built without the operation's CUDA kernels".into());
    }
    if let Err(Error::KernelsNotBuilt { hint }) = Device::probe() {
        return Err(format!("arch: expected a CPU, as this library has no CUDA kernels ({hint})"));
    }
    if query.op == MORAY_OP_SPARSE_MLP && query.format.bits == 0 && query.dtype == MORAY_F32 {
        return Err("dtype: expected f16, bf16 or 4-bit weights on a CUDA device, got f32".into());
    }
    let capability = query.arch - MORAY_ARCH_CUDA;
    let (major, minor) = (capability / 10, capability % 10);
    match Device::has_kernels_for((major, minor)) {
        true => Ok(format!("CUDA kernels for {major}.{minor}, {precision}")),
        false => {
            Err(format!("arch: expected a compute capability that this library has kernels for, got {major}.{minor}"))
        }
    }
}
