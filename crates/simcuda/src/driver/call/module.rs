//! Modules and the kernels in them: loading, finding.

use std::sync::{Arc, Mutex};

use crate::driver::abi::{Bytes, In, Out, Text, api, write_host};
use crate::driver::codes::{Code, Error, Result};
use crate::driver::current::current;
use crate::driver::image::{self, Image};
use crate::driver::object::context::Context;
use crate::driver::object::kernel::{Kernel, LoadedModule};
use crate::driver::registry::{fresh_id, lock};
use crate::driver::settings;
use crate::driver::state::{Driver, driver};
use crate::machine::Module;

/// Returns the operands of the first `directive` at the start of a line.
fn directive<'a>(ptx: &'a str, directive: &str) -> Option<&'a str> {
    ptx.lines().find_map(|line| line.trim_start().strip_prefix(directive)).map(str::trim)
}

/// Reads `.version` and refuses one that is newer than a driver of version `driver`, as a driver does before it reads on.
fn check_version(ptx: &str, driver: i32) -> Result<(u32, u32)> {
    let text = directive(ptx, ".version").unwrap_or_default();
    let number = text.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap_or_default();
    let parsed = number.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let version: (u32, u32) =
        parsed.ok_or_else(|| Code::INVALID_PTX.because(format!("expected .version <major>.<minor>, got {text:?}")))?;
    // CUDA 13.n reads PTX up to 9.n, 12.n up to 8.n and 11.n up to 7.n
    let newest = (driver as u32 / 1000 - 4, driver as u32 % 1000 / 10);
    if version > newest {
        let message = format!("expected PTX up to {}.{}, got {}.{}", newest.0, newest.1, version.0, version.1);
        return Err(Code::UNSUPPORTED_PTX_VERSION.because(message));
    }
    Ok(version)
}

/// Refuses PTX for a newer device, or for one device only that is not this.
fn check_target(ptx: &str, capability: u32) -> Result<()> {
    let target = directive(ptx, ".target").and_then(|text| text.split(',').next()).unwrap_or_default().trim();
    let digits: String = target.chars().skip("sm_".len()).take_while(char::is_ascii_digit).collect();
    let wanted: u32 = match digits.parse() {
        Ok(wanted) if target.starts_with("sm_") => wanted,
        _ => return Err(Code::INVALID_PTX.because(format!("expected .target sm_<number>, got {target:?}"))),
    };
    let runs = match &target["sm_".len() + digits.len()..] {
        "" => wanted <= capability,
        "a" => wanted == capability,
        "f" => wanted / 10 == capability / 10 && wanted <= capability,
        _ => false,
    };
    if runs {
        Ok(())
    } else {
        Err(Code::INVALID_PTX.because(format!("expected a target up to sm_{capability}, got {target}")))
    }
}

/// Reads an image's text and places its variables: the module and its `.version`.
pub(super) fn compile(driver: &Driver, image: &Image, name: &str) -> Result<(Arc<Module>, (u32, u32))> {
    let Image { ptx, registers } = image;
    let ptx_version = check_version(ptx, settings::driver_version()?)?;
    check_target(ptx, driver.device.capability())?;
    let module = Module::load_compiled(&driver.device.memory, ptx, name, registers).map_err(|e| {
        let code = if e.out_of_memory { Code::OUT_OF_MEMORY } else { Code::INVALID_PTX };
        code.because(e)
    })?;
    Ok((module, ptx_version))
}

/// Adds a module to a context.
pub(super) fn add(driver: &Driver, context: Arc<Context>, module: Arc<Module>, ptx_version: (u32, u32)) -> usize {
    let handle = fresh_id();
    let kernels = Mutex::default();
    driver.modules.insert(handle, Arc::new(LoadedModule { context, handle, module, ptx_version, kernels }));
    handle
}

fn build(driver: &Driver, context: Arc<Context>, image: &Image, name: &str) -> Result<usize> {
    let (module, ptx_version) = compile(driver, image, name)?;
    Ok(add(driver, context, module, ptx_version))
}

/// Names a module that came without a file name.
pub(super) const UNNAMED: &str = "ptx";

fn load(out: &Out<usize>, image: Bytes) -> Result<()> {
    let (driver, context) = current()?;
    let image = image::read(image, driver.device.capability())?;
    out.set(build(driver, context, &image, UNNAMED)?)
}

/// The buffers for compiler messages among the options of cuModuleLoadDataEx: `CUjit_option` 5 and 6.
fn report_to_log(error: &Error, count: u32, options: &In<i32>, values: &In<usize>) -> Result<()> {
    let (mut buffer, mut bytes) = (0, 0);
    for i in 0..count as usize {
        match options.at(i)? {
            5 => buffer = values.at(i)?,
            6 => bytes = values.at(i)?,
            _ => {}
        }
    }
    if let (Some(message), true) = (&error.message, buffer != 0 && bytes > 0) {
        let kept = message.len().min(bytes - 1);
        write_host(buffer, &message.as_bytes()[..kept]);
        write_host(buffer + kept, &[0]);
    }
    Ok(())
}

pub(super) fn find_kernel(module: usize, name: &str) -> Result<usize> {
    let driver = driver()?;
    let module = driver.modules.get(module)?;
    module.context.check()?;
    let mut kernels = lock(&module.kernels);
    if let Some(&handle) = kernels.get(name) {
        return Ok(handle);
    }
    let function = module
        .module
        .function(name)
        .ok_or_else(|| Code::NOT_FOUND.because(format!("the module has no entry {name:?}")))?;
    let handle = fresh_id();
    driver.kernels.insert(handle, Arc::new(Kernel::new(&module, function, name)?));
    kernels.insert(name.to_owned(), handle);
    Ok(handle)
}

/// Drops a module and its kernels.
pub(super) fn unload(module: usize) -> Result<()> {
    let driver = driver()?;
    driver.modules.get(module)?.context.check()?;
    // Its kernels may still be waiting in streams.
    driver.drain();
    let module = driver.modules.remove(module)?;
    driver.kernels.retain(|kernel| kernel.module.handle != module.handle);
    module.context.check()
}

/// Reads an image from a file.
pub(super) fn read_path(driver: &Driver, path: &str) -> Result<Image> {
    let bytes = std::fs::read(path).map_err(|e| Code::FILE_NOT_FOUND.because(format!("{path}: {e}")))?;
    image::read_file(&bytes, driver.device.capability())
}

api! {
    fn cuModuleLoad(out: Out<usize>, path: Text) {
        let (driver, context) = current()?;
        let path = path.get()?;
        let image = read_path(driver, &path)?;
        out.set(build(driver, context, &image, &path)?)
    }

    fn cuModuleLoadData(out: Out<usize>, image: Bytes) {
        load(&out, image)
    }

    fn cuModuleLoadDataEx(out: Out<usize>, image: Bytes, count: u32, options: In<i32>, values: In<usize>) {
        load(&out, image).or_else(|error| {
            report_to_log(&error, count, &options, &values)?;
            Err(error)
        })
    }

    fn cuModuleLoadFatBinary(out: Out<usize>, image: Bytes) {
        load(&out, image)
    }

    fn cuModuleUnload(module: usize) {
        unload(module)
    }

    fn cuModuleGetFunctionCount(count: Out<u32>, module: usize) {
        count.set(driver()?.modules.get(module)?.module.functions().len() as u32)
    }

    fn cuModuleEnumerateFunctions(functions: Out<usize>, count: u32, module: usize) {
        let loaded = driver()?.modules.get(module)?;
        let names = loaded.module.functions().iter().take(count as usize);
        let handles = names.map(|f| find_kernel(module, &f.name)).collect::<Result<Vec<_>>>()?;
        functions.set_array(handles, count as usize);
        Ok(())
    }

    fn cuModuleGetFunction(out: Out<usize>, module: usize, name: Text) {
        out.set(find_kernel(module, &name.get()?)?)
    }

    fn cuModuleGetGlobal_v2(ptr: Out<u64>, bytes: Out<usize>, module: usize, name: Text) {
        let module = driver()?.modules.get(module)?;
        module.context.check()?;
        let name = name.get()?;
        let global = module.module.global(&name);
        let (address, size) =
            global.ok_or_else(|| Code::NOT_FOUND.because(format!("the module has no variable {name:?}")))?;
        ptr.set_if_wanted(address);
        bytes.set_if_wanted(size);
        Ok(())
    }

    fn cuModuleGetLoadingMode(mode: Out<i32>) {
        driver()?;
        mode.set(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_check_matches_the_newest_known() {
        let check = |text, driver| check_version(text, driver).map_err(|e| e.code);
        assert_eq!(check("// text\n.version 9.5\n", 13050), Ok((9, 5)));
        assert_eq!(check(".version 8.0 // c", 13050), Ok((8, 0)));
        assert_eq!(check(".version 9.6", 13050), Err(Code::UNSUPPORTED_PTX_VERSION));
        assert_eq!(check(".version 10.0", 13050), Err(Code::UNSUPPORTED_PTX_VERSION));
        assert_eq!(check(".version nine", 13050), Err(Code::INVALID_PTX));
        assert_eq!(check(".version 7.8", 11080), Ok((7, 8)));
        assert_eq!(check(".version 8.0", 11080), Err(Code::UNSUPPORTED_PTX_VERSION));
    }

    #[test]
    fn target_check_matches_forward_compatibility() {
        for (target, capability, runs) in [
            ("sm_75", 80, true),
            ("sm_80", 80, true),
            ("sm_80, debug", 90, true),
            ("sm_90", 80, false),
            ("sm_90a", 90, true),
            ("sm_80a", 90, false),
            ("sm_80f", 86, true),
            ("sm_80f", 90, false),
            ("sm_x", 90, false),
            ("tpu_4", 90, false),
        ] {
            assert_eq!(
                check_target(&format!(".target {target}"), capability).is_ok(),
                runs,
                "{target} on {capability}"
            );
        }
    }
}
