//! Attributes of kernels.

use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::library::function_of;
use crate::driver::abi::{Out, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::kernel::Kernel;
use crate::driver::state::{Driver, driver};

/// Finds a kernel by handle and checks that its context lives. A library's kernel is meant in the current context.
pub(crate) fn find(handle: usize) -> Result<(&'static Driver, Arc<Kernel>)> {
    let driver = driver()?;
    let kernel = match driver.library_kernels.get(handle) {
        Ok(kernel) => driver.kernels.get(function_of(&kernel)?)?,
        Err(_) => driver.kernels.get(handle)?,
    };
    kernel.module.context.check()?;
    Ok((driver, kernel))
}

/// Tells one `CUfunction_attribute`.
pub(super) fn attribute(driver: &Driver, kernel: &Kernel, number: i32) -> Result<i32> {
    let function = &kernel.function;
    Ok(match number {
        0 => kernel.max_threads(&driver.device.options.arch.limits()) as i32,
        1 => function.static_shared_bytes as i32,
        2 => function.const_bytes as i32,
        3 => function.local_bytes as i32,
        4 => function.registers as i32,
        5 => kernel.ptx_version(),
        6 => driver.device.capability() as i32,
        7 => 0,
        8 => kernel.max_dynamic_shared_bytes.load(Relaxed),
        9 => kernel.carveout.load(Relaxed),
        10 => i32::from(function.cluster.is_some()),
        11..=13 => kernel.cluster[number as usize - 11].load(Relaxed),
        14 => kernel.non_portable_cluster.load(Relaxed),
        15 => 0,
        _ => return Err(Code::INVALID_VALUE.into()),
    })
}

pub(super) fn set_attribute(driver: &Driver, kernel: &Kernel, number: i32, value: i32) -> Result<()> {
    let most = driver.device.options.max_shared_bytes as i32 - kernel.function.static_shared_bytes as i32;
    let refused = |expected: String| Err(Code::INVALID_VALUE.because(format!("expected {expected}, got {value}")));
    match number {
        8 if !(0..=most).contains(&value) => return refused(format!("0 to {most} bytes of dynamic shared memory")),
        8 => kernel.max_dynamic_shared_bytes.store(value, Relaxed),
        9 if !(-1..=100).contains(&value) => return refused("-1 to 100 percent".to_owned()),
        9 => kernel.carveout.store(value, Relaxed),
        11..=13 if value < 0 || kernel.function.cluster.is_some() => {
            return refused("no cluster extent where the kernel declares one".to_owned());
        }
        11..=13 => kernel.cluster[number as usize - 11].store(value, Relaxed),
        14 => kernel.non_portable_cluster.store(i32::from(value != 0), Relaxed),
        15 => {}
        _ => return Err(Code::INVALID_VALUE.into()),
    }
    Ok(())
}

api! {
    fn cuFuncGetAttribute(out: Out<i32>, number: i32, function: usize) {
        let (driver, kernel) = find(function)?;
        out.set(attribute(driver, &kernel, number)?)
    }

    fn cuFuncSetAttribute(function: usize, number: i32, value: i32) {
        let (driver, kernel) = find(function)?;
        set_attribute(driver, &kernel, number, value)
    }

    fn cuFuncSetCacheConfig(function: usize, config: i32) {
        if !(0..=3).contains(&config) {
            return Err(Code::INVALID_VALUE.into());
        }
        find(function).map(drop)
    }

    fn cuFuncGetModule(out: Out<usize>, function: usize) {
        out.set(find(function)?.1.module_handle())
    }

    fn cuFuncGetName(out: Out<*const c_char>, function: usize) {
        // Lives as long as the module, as the caller may expect.
        out.set(find(function)?.1.name.as_ptr())
    }

    fn cuFuncGetParamInfo(function: usize, index: usize, offset: Out<usize>, size: Out<usize>) {
        let (_, kernel) = find(function)?;
        let param = kernel.function.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(param.offset_bytes)?;
        size.set_if_wanted(param.size_bytes);
        Ok(())
    }

    fn cuFuncGetParamCount(function: usize, count: Out<usize>) {
        count.set(find(function)?.1.function.params.len())
    }

    fn cuFuncIsLoaded(loaded: Out<i32>, function: usize) {
        find(function)?;
        loaded.set(1)
    }

    fn cuFuncLoad(function: usize) {
        find(function).map(drop)
    }
}
