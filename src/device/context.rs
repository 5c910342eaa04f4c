//! What a CUDA context has once, whoever opened it.

use super::kernels::MODULES;
use super::{Module, call};
use crate::error::{Error, Result};
use cudarc::driver::result::ctx;
use cudarc::driver::sys::{
    self, CUdevice_attribute as Attribute, CUfunction_attribute_enum, CUpointer_attribute, CUresult,
};
use cudarc::driver::{CudaContext, CudaFunction, DriverError};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// The oldest architecture with kernels.
const OLDEST_CAPABILITY: (u32, u32) = (8, 0);

/// Shared memory that a kernel may use without asking.
const PLAIN_SHARED_BYTES: u32 = 48 * 1024;

/// The functions of a module, by symbol.
type Functions = HashMap<&'static str, CudaFunction>;

/// The properties of a context's device, and the kernels that were loaded in it.
pub(super) struct Context {
    pub(super) name: String,
    pub(super) capability: (u32, u32),
    pub(super) multiprocessors: u32,
    /// Shared memory that a block may ask for.
    pub(super) shared_bytes: u32,
    /// Whether it takes cooperative launches.
    #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-w4a8"))]
    pub(super) launches_together: bool,
    /// Every module of the crate, from when it was first asked for.
    modules: HashMap<&'static str, OnceLock<Functions>>,
    /// Held while a module is loaded, so that none is loaded twice.
    loading: Mutex<Arc<CudaContext>>,
}

impl Context {
    /// The context's properties and kernels: those of the devices that have it open, or new ones.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] for a GPU that is too old for the kernels, [`Error::Driver`] for any other refusal.
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Arc<Self>> {
        static OPEN: Mutex<Vec<(u64, Weak<Context>)>> = Mutex::new(Vec::new());
        let id = id(context)?;
        let mut open = lock(&OPEN);
        open.retain(|(_, context)| context.strong_count() > 0);
        if let Some(shared) = open.iter().find(|(open, _)| *open == id).and_then(|(_, context)| context.upgrade()) {
            return Ok(shared);
        }
        let new = Arc::new(Self::new(context)?);
        open.push((id, Arc::downgrade(&new)));
        Ok(new)
    }

    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let attribute = |attribute| context.attribute(attribute).map(|v| v as u32).map_err(call("read an attribute"));
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability < OLDEST_CAPABILITY {
            return Err(unsupported(capability));
        }
        Ok(Context {
            name: context.name().map_err(call("read the device's name"))?,
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            #[cfg(any(feature = "cuda-sparse-mlp", feature = "cuda-w4a8"))]
            launches_together: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
            modules: MODULES.iter().copied().flatten().map(|module| (module.name, OnceLock::new())).collect(),
            loading: Mutex::new(context.clone()),
        })
    }

    /// Loads what of `modules` is not loaded yet.
    ///
    /// # Errors
    /// [`Error::UnsupportedArchitecture`] if the kernels were not built for the device, [`Error::Driver`] for any other
    /// refusal.
    pub(super) fn prepare(&self, modules: &[&Module]) -> Result<()> {
        modules.iter().try_for_each(|module| self.module(module.name).map(drop))
    }

    /// Finds a kernel, whose module it loads if nothing has asked for it before.
    ///
    /// # Errors
    /// As [`Context::prepare`]; [`Error::Unsupported`] for a name that is in no table of kernels.
    pub(super) fn function(&self, module: &'static str, symbol: &'static str) -> Result<&CudaFunction> {
        self.module(module)?.get(symbol).ok_or_else(|| unknown(format!("{module}: {symbol}")))
    }

    fn module(&self, module: &'static str) -> Result<&Functions> {
        let slot = self.modules.get(module).ok_or_else(|| unknown(module.into()))?;
        if let Some(functions) = slot.get() {
            return Ok(functions);
        }
        let context = lock(&self.loading);
        if let Some(functions) = slot.get() {
            return Ok(functions);
        }
        let functions = load(&context, module, self.capability)?;
        Ok(slot.get_or_init(|| functions))
    }
}

/// The number that no other context of the process ever has.
pub(super) fn id(context: &CudaContext) -> Result<u64> {
    // SAFETY: the owner is alive.
    unsafe { id_of(context.cu_ctx()) }
}

/// # Safety
/// `context` is a context.
unsafe fn id_of(context: sys::CUcontext) -> Result<u64> {
    let mut id = 0;
    // SAFETY: the caller's; one number is written.
    let code = unsafe { sys::cuCtxGetId(context, &mut id) };
    code.result().map_err(call("read the context's number")).map(|()| id)
}

/// Takes a context that someone else owns. What cudarc makes of it would destroy it, so that lives as long as the process: one
/// for each context.
///
/// # Safety
/// `context` is a context, and stays one while what is returned is used.
pub(super) unsafe fn borrow(context: sys::CUcontext) -> Result<Arc<CudaContext>> {
    static BORROWED: Mutex<Vec<(u64, Arc<CudaContext>)>> = Mutex::new(Vec::new());
    let mut borrowed = lock(&BORROWED);
    // SAFETY: the caller's.
    let id = unsafe { id_of(context)? };
    if let Some((_, known)) = borrowed.iter().find(|(known, _)| *known == id) {
        return Ok(known.clone());
    }
    let mut device = 0;
    // SAFETY: the context is put on the thread for one question, and taken from it again.
    let code = unsafe {
        match sys::cuCtxPushCurrent_v2(context) {
            CUresult::CUDA_SUCCESS => {
                let code = sys::cuCtxGetDevice(&mut device);
                let _ = sys::cuCtxPopCurrent_v2(&mut std::ptr::null_mut());
                code
            }
            code => code,
        }
    };
    code.result().map_err(call("ask for a context's device"))?;
    // SAFETY: a context with its device; the list keeps the owner that it is given to from ever being dropped.
    let taken = unsafe { CudaContext::from_raw_context(device as usize, device, context) };
    let taken = taken.map_err(call("take a context"))?;
    borrowed.push((id, taken.clone()));
    Ok(taken)
}

/// Runs `work`, and leaves the thread the context that was current before. What is done with a device makes its context current; raw
/// calls put the engine's back by themselves.
///
/// There is a driver: a device exists, or [`super::Device::probe`] has found one.
pub fn keeping_current<R>(work: impl FnOnce() -> R) -> R {
    let before = ctx::get_current();
    let result = work();
    if let (Ok(before), Ok(now)) = (before, ctx::get_current())
        && before != now
    {
        // SAFETY: it was current, and nothing here destroys a context. A driver that refuses leaves the other one.
        let _ = unsafe { ctx::set_current(before.unwrap_or(std::ptr::null_mut())) };
    }
    result
}

/// Where kernels of the current context reach what is at an address; `CUDA_ERROR_INVALID_VALUE` where they do not.
pub(super) fn address_for_kernels(address: u64) -> std::result::Result<sys::CUdeviceptr, DriverError> {
    // SAFETY: an address of the device is what the attribute is.
    unsafe { attribute_of(CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER, address) }
}

/// The driver's number of the kind of memory that is at an address.
pub(super) fn kind_of_memory(address: u64) -> std::result::Result<u32, DriverError> {
    // SAFETY: an unsigned number is what the attribute is.
    unsafe { attribute_of(CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE, address) }
}

/// The number of the device whose memory is at an address.
pub(super) fn ordinal_of_memory(address: u64) -> std::result::Result<i32, DriverError> {
    // SAFETY: a signed number is what the attribute is.
    unsafe { attribute_of(CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address) }
}

/// What the driver says of an address, which it only looks for among those that it knows.
///
/// # Safety
/// `T` is what the attribute is.
unsafe fn attribute_of<T: Default>(
    attribute: CUpointer_attribute,
    address: u64,
) -> std::result::Result<T, DriverError> {
    let mut value = T::default();
    // SAFETY: the caller's; one value is written.
    let code = unsafe { sys::cuPointerGetAttribute((&raw mut value).cast(), attribute, address) };
    code.result().map(|()| value)
}

/// A panic while a lock is held leaves whole entries behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unknown(got: String) -> Error {
    Error::Unsupported { what: "kernel", expected: "a kernel of this crate", got }
}

fn unsupported(capability: (u32, u32)) -> Error {
    Error::UnsupportedArchitecture { expected: OLDEST_CAPABILITY, got: capability }
}

/// Loads a module and finds its kernels.
fn load(context: &Arc<CudaContext>, name: &'static str, capability: (u32, u32)) -> Result<Functions> {
    let module = MODULES.iter().copied().flatten().find(|module| module.name == name);
    let module = module.ok_or_else(|| unknown(name.into()))?;
    let loaded = context.load_module(Ptx::from_binary(module.image.to_vec())).map_err(|error| match error.0 {
        CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            unsupported(capability)
        }
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes: module.image.len() },
        _ => call("load a module")(error),
    })?;
    let symbols = module.symbols.iter();
    symbols
        .map(|&symbol| {
            let function = loaded.load_function(symbol).map_err(call(symbol))?;
            allow_shared_memory(context, &function)?;
            Ok((symbol, function))
        })
        .collect()
}

/// Lets a kernel use all the shared memory that its static part leaves of a block's.
fn allow_shared_memory(context: &CudaContext, function: &CudaFunction) -> Result<()> {
    let limit = context
        .attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)
        .map_err(call("read an attribute"))?;
    let fixed = function.shared_size_bytes().map_err(call("read a kernel's shared memory"))?;
    let dynamic = limit - fixed;
    if dynamic <= PLAIN_SHARED_BYTES as i32 {
        return Ok(());
    }
    let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function.set_attribute(attribute, dynamic).map_err(call("allow shared memory"))
}
