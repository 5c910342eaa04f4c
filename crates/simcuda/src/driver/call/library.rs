//! Calls on libraries and their kernels, which belong to no context until one uses them.

use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex};

use super::function;
use super::module;
use crate::driver::abi::{Bytes, In, Out, Text, api};
use crate::driver::codes::{Code, Result};
use crate::driver::current::current;
use crate::driver::image::{self, Image};
use crate::driver::object::kernel::Kernel;
use crate::driver::object::library::{Library, LibraryKernel};
use crate::driver::registry::{fresh_id, lock};
use crate::driver::state::{Driver, driver, of_device};

fn load(out: &Out<usize>, driver: &Driver, image: &Image, name: &str) -> Result<()> {
    let (module, ptx_version) = module::compile(driver, image, name)?;
    let handle = fresh_id();
    let library = Library { handle, module, ptx_version, modules: Mutex::default(), kernels: Mutex::default() };
    driver.libraries.insert(handle, Arc::new(library));
    out.set(handle)
}

/// The library's module in the current context.
fn module_of(library: &Arc<Library>) -> Result<usize> {
    let (driver, context) = current()?;
    let mut modules = lock(&library.modules);
    let known = modules.get(&context.handle).copied().filter(|&handle| driver.modules.get(handle).is_ok());
    Ok(known.unwrap_or_else(|| {
        let handle = module::add(driver, context.clone(), library.module.clone(), library.ptx_version);
        modules.insert(context.handle, handle);
        handle
    }))
}

/// A library's kernel in the current context: a function.
pub(super) fn function_of(kernel: &Arc<LibraryKernel>) -> Result<usize> {
    module::find_kernel(module_of(&kernel.library)?, &kernel.function.name)
}

/// Finds or makes the handle of a kernel by its name.
fn find_kernel(library: &Arc<Library>, name: &str) -> Result<usize> {
    let mut kernels = lock(&library.kernels);
    if let Some(&handle) = kernels.get(name) {
        return Ok(handle);
    }
    let function = library.module.function(name);
    let function = function.ok_or_else(|| Code::NOT_FOUND.because(format!("the library has no kernel {name:?}")))?;
    let (handle, text) = (fresh_id(), CString::new(name).map_err(|_| Code::INVALID_VALUE)?);
    let kernel = LibraryKernel { library: library.clone(), name: text, function };
    driver()?.library_kernels.insert(handle, Arc::new(kernel));
    kernels.insert(name.to_owned(), handle);
    Ok(handle)
}

/// Finds a library's kernel as it is in the current context.
fn in_context(kernel: usize, device: i32) -> Result<(&'static Driver, Arc<Kernel>)> {
    let driver = of_device(device)?;
    function::find(function_of(&driver.library_kernels.get(kernel)?)?)
}

api! {
    fn cuLibraryLoadData(
        out: Out<usize>, code: Bytes, _options: In<i32>, _values: In<usize>, _count: u32, _library_options: In<i32>,
        _library_values: In<usize>, _library_count: u32
    ) {
        let driver = driver()?;
        let image = image::read(code, driver.device.capability())?;
        load(&out, driver, &image, module::UNNAMED)
    }

    fn cuLibraryLoadFromFile(
        out: Out<usize>, path: Text, _options: In<i32>, _values: In<usize>, _count: u32, _library_options: In<i32>,
        _library_values: In<usize>, _library_count: u32
    ) {
        let (driver, path) = (driver()?, path.get()?);
        load(&out, driver, &module::read_path(driver, &path)?, &path)
    }

    fn cuLibraryUnload(library: usize) {
        let driver = driver()?;
        let library = driver.libraries.remove(library)?;
        driver.library_kernels.retain(|kernel| kernel.library.handle != library.handle);
        let modules: Vec<usize> = lock(&library.modules).values().copied().collect();
        // Those of contexts that have ended are gone already.
        modules.into_iter().filter(|&module| driver.modules.get(module).is_ok()).try_for_each(module::unload)
    }

    fn cuLibraryGetKernel(out: Out<usize>, library: usize, name: Text) {
        out.set(find_kernel(&driver()?.libraries.get(library)?, &name.get()?)?)
    }

    fn cuLibraryGetKernelCount(count: Out<u32>, library: usize) {
        count.set(driver()?.libraries.get(library)?.module.functions().len() as u32)
    }

    fn cuLibraryEnumerateKernels(kernels: Out<usize>, count: u32, library: usize) {
        let library = driver()?.libraries.get(library)?;
        let functions = library.module.functions().iter().take(count as usize);
        let handles = functions.map(|f| find_kernel(&library, &f.name)).collect::<Result<Vec<_>>>()?;
        kernels.set_array(handles, count as usize);
        Ok(())
    }

    fn cuLibraryGetModule(out: Out<usize>, library: usize) {
        out.set(module_of(&driver()?.libraries.get(library)?)?)
    }

    fn cuLibraryGetGlobal(ptr: Out<u64>, bytes: Out<usize>, library: usize, name: Text) {
        let (library, name) = (driver()?.libraries.get(library)?, name.get()?);
        let global = library.module.global(&name);
        let (address, size) =
            global.ok_or_else(|| Code::NOT_FOUND.because(format!("the library has no variable {name:?}")))?;
        ptr.set_if_wanted(address);
        bytes.set_if_wanted(size);
        Ok(())
    }

    fn cuKernelGetFunction(out: Out<usize>, kernel: usize) {
        out.set(function_of(&driver()?.library_kernels.get(kernel)?)?)
    }

    fn cuKernelGetLibrary(out: Out<usize>, kernel: usize) {
        out.set(driver()?.library_kernels.get(kernel)?.library.handle)
    }

    fn cuKernelGetName(out: Out<*const c_char>, kernel: usize) {
        // Lives as long as the library, as the caller may expect.
        out.set(driver()?.library_kernels.get(kernel)?.name.as_ptr())
    }

    fn cuKernelGetParamInfo(kernel: usize, index: usize, offset: Out<usize>, size: Out<usize>) {
        let kernel = driver()?.library_kernels.get(kernel)?;
        let param = kernel.function.params.get(index).ok_or(Code::INVALID_VALUE)?;
        offset.set(param.offset_bytes)?;
        size.set_if_wanted(param.size_bytes);
        Ok(())
    }

    fn cuKernelGetParamCount(kernel: usize, count: Out<usize>) {
        count.set(driver()?.library_kernels.get(kernel)?.function.params.len())
    }

    fn cuKernelGetAttribute(out: Out<i32>, number: i32, kernel: usize, device: i32) {
        let (driver, kernel) = in_context(kernel, device)?;
        out.set(function::attribute(driver, &kernel, number)?)
    }

    fn cuKernelSetAttribute(number: i32, value: i32, kernel: usize, device: i32) {
        let (driver, kernel) = in_context(kernel, device)?;
        function::set_attribute(driver, &kernel, number, value)
    }

    fn cuKernelSetCacheConfig(kernel: usize, config: i32, device: i32) {
        if !(0..=3).contains(&config) {
            return Err(Code::INVALID_VALUE.into());
        }
        in_context(kernel, device).map(drop)
    }
}
