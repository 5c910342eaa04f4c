//! A call on a device: filled in, checked, put on a stream.

use super::lent::Lent;
use super::{CUstream_st, MorayCuda};
use crate::cpu::{MORAY_ARCH_CUDA, MorayArch};
use crate::status::Outcome;
use crate::supports::{MORAY_OP_ATTENTION, MORAY_OP_LINEAR, MORAY_OP_SPARSE_MLP, MorayOp};
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
    let call = arguments.fill(&cuda.0, &mut lent)?;
    lent.check(&cuda.0, &call)?;
    // SAFETY: the caller's; every buffer of the call lies in memory that was lent for what is done with it.
    unsafe { call.launch(&cuda.0, stream.cast())? };
    Ok(())
}

/// Loads the kernels of a call, whose addresses are not looked at, and says how many bytes it needs besides its operands.
pub(crate) fn prepare<C: Fill>(cuda: &MorayCuda, arguments: &C) -> Outcome<usize> {
    let call = arguments.fill(&cuda.0, &mut Lent::default())?;
    call.prepare(&cuda.0)?;
    Ok(C::bytes(&call, &cuda.0))
}

/// Which code runs an operation on an architecture, or why none.
pub(crate) fn place(op: MorayOp, arch: MorayArch) -> Result<String, String> {
    let (built, precision) = match op {
        MORAY_OP_LINEAR => (cfg!(feature = "cuda-w4a8"), "with the bits of a CPU"),
        MORAY_OP_SPARSE_MLP => (cfg!(feature = "cuda-sparse-mlp"), "with an order of sums of their own"),
        MORAY_OP_ATTENTION => (cfg!(feature = "cuda-attention"), "with an order of sums of their own"),
        _ => (false, ""),
    };
    if !built {
        return Err("arch: expected a CPU, as this library is built without the operation's CUDA kernels".into());
    }
    if let Err(Error::KernelsNotBuilt { hint }) = Device::probe() {
        return Err(format!("arch: expected a CPU, as this library has no CUDA kernels ({hint})"));
    }
    let capability = arch - MORAY_ARCH_CUDA;
    let (major, minor) = (capability / 10, capability % 10);
    match capability < 80 {
        true => Err(format!("arch: expected compute capability 8.0 or later, got {major}.{minor}")),
        false => Ok(format!("CUDA kernels for {major}.{minor}, {precision}")),
    }
}
