//! The handle of a CUDA device.

#[cfg(not(feature = "cuda-device"))]
use super::no_device::{Device, keeping_current};
use crate::arguments::{borrow, check_out, create, destroy, give};
use crate::cpu::{MORAY_ARCH_CUDA, MorayArch};
use crate::status::{Fault, MorayStatus, Outcome, guard};
#[cfg(feature = "cuda-device")]
use moray::device::{Device, keeping_current};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// The driver's context: a `CUcontext` is a pointer to one.
#[allow(non_camel_case_types)] // cuda.h's name
#[derive(Debug)]
pub struct CUctx_st {
    _opaque: [u8; 0],
}

/// The driver's stream: a `CUstream`, and a `cudaStream_t`, is a pointer to one.
#[allow(non_camel_case_types)] // cuda.h's name
#[derive(Debug)]
pub struct CUstream_st {
    _opaque: [u8; 0],
}

/// A CUDA device as an engine's context has it, with the kernels that were loaded in it. Any number of threads may use one at once.
///
/// Calls on it take addresses of memory of that context where others take memory of the process, and a stream of it, or null for its
/// default stream. They allocate nothing, wait for nothing, are done when the stream has passed them, and can be captured in a graph.
/// Addresses are multiples of 16 where nothing else is said. Sizes are compared with what the call needs, and the driver is asked whether kernels of
/// the context reach the memory, unless `moray_cuda_check_memory` says not to; that the bytes between the first and the last are all there, and the
/// caller's, is the caller's word.
/// The context that is current to the thread stays so.
#[derive(Debug)]
pub struct MorayCuda {
    pub(crate) device: Device,
    /// Whether calls ask the driver whose memory they are given.
    checks_memory: AtomicBool,
}

impl MorayCuda {
    fn of(device: Device) -> Self {
        MorayCuda { device, checks_memory: AtomicBool::new(true) }
    }

    #[cfg_attr(not(feature = "cuda-device"), allow(dead_code))] // calls of a device ask
    pub(crate) fn is_memory_checked(&self) -> bool {
        self.checks_memory.load(Ordering::Relaxed)
    }
}

/// Takes a context, which stays the caller's: it is there for as long as the handle, and not destroyed with it.
///
/// Fails with `MORAY_STATUS_KERNELS_NOT_BUILT` in a library without CUDA, `MORAY_STATUS_DRIVER_ABSENT`,
/// `MORAY_STATUS_DRIVER_TOO_OLD`, `MORAY_STATUS_UNSUPPORTED_ARCHITECTURE` for a device below compute capability 8.0, and
/// `MORAY_STATUS_DRIVER` where the driver refuses the context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_create(context: *mut CUctx_st, out: *mut *mut MorayCuda) -> MorayStatus {
    guard(|| {
        check_out("out", out)?;
        Device::probe()?;
        if context.is_null() {
            return Err(Fault::Null { what: "context" });
        }
        // SAFETY: the caller's; calls name their stream themselves.
        let make = || Ok(MorayCuda::of(unsafe { Device::from_raw(context.cast(), std::ptr::null_mut())? }));
        // SAFETY: the caller's.
        keeping_current(|| unsafe { create(out, make) })
    })
}

/// The device of a number, in its primary context, which the process keeps from then on.
#[cfg_attr(not(unix), allow(dead_code))] // TVM FFI's functions are not exported elsewhere
pub(crate) fn of_number(number: usize) -> Outcome<&'static MorayCuda> {
    static OPEN: Mutex<BTreeMap<usize, &'static MorayCuda>> = Mutex::new(BTreeMap::new());
    Device::probe()?;
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(&found) = open.get(&number) {
        return Ok(found);
    }
    let made: &'static MorayCuda = Box::leak(Box::new(MorayCuda::of(keeping_current(|| Device::new(number))?)));
    open.insert(number, made);
    Ok(made)
}

/// Ends a device, and unloads its kernels if no other handle has the context; the context is still there. Null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_destroy(cuda: *mut MorayCuda) {
    if !cuda.is_null() {
        // SAFETY: the caller's.
        keeping_current(|| unsafe { destroy(cuda) })
    }
}

/// Says which architecture a device has, as `moray_supports` takes it, and how many multiprocessors.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_describe(
    cuda: *const MorayCuda,
    arch: *mut MorayArch,
    multiprocessors: *mut u32,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let device = unsafe { &borrow("cuda", cuda)?.device };
        let (major, minor) = device.capability();
        // SAFETY: the caller's.
        unsafe {
            give("arch", arch, MORAY_ARCH_CUDA + 10 * major + minor)?;
            give("multiprocessors", multiprocessors, device.multiprocessors())
        }
    })
}

/// Says whether calls ask the driver if kernels of the context reach each buffer's first and last byte, and refuse those that they do not with
/// `MORAY_STATUS_DEVICE`: 1, as it is at first, or 0, which spares the questions where addresses are known to be good. A kernel that is given others leaves
/// a context in which no call succeeds.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_check_memory(cuda: *const MorayCuda, checked: u32) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let cuda = unsafe { borrow("cuda", cuda)? };
        if checked > 1 {
            return Err(Fault::unsupported("checked", "0 or 1", checked));
        }
        cuda.checks_memory.store(checked == 1, Ordering::Relaxed);
        Ok(())
    })
}

/// Loads every kernel of the library, which a capture could not. The `prepare` of a call loads those of the call alone.
///
/// Fails with `MORAY_STATUS_UNSUPPORTED_ARCHITECTURE` if kernels were not built for the device, `MORAY_STATUS_DRIVER` if the driver
/// does not load them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_cuda_load_kernels(cuda: *const MorayCuda) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let device = unsafe { &borrow("cuda", cuda)?.device };
        Ok(keeping_current(|| device.load_kernels())?)
    })
}
