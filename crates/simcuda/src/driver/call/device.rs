//! Devices: there is one, of the capability that `SIMCUDA_ARCH` names.

use std::ffi::{CStr, c_char};

use crate::driver::abi::{Out, Text, api};
use crate::driver::codes::{Code, Result};
use crate::driver::object::attributes;
use crate::driver::settings;
use crate::driver::state::{driver, of_device, start};

const UUID: [u8; 16] = *b"simcuda device 0";
const PCI_BUS_ID: &CStr = c"0000:00:00.0";

/// Copies a terminated string into the caller's buffer, cut to its length.
fn put_text(out: &Out<c_char>, capacity: i32, text: &[u8]) -> Result<()> {
    let capacity = usize::try_from(capacity).ok().filter(|&n| n > 0).ok_or(Code::INVALID_VALUE)?;
    if out.is_null() {
        return Err(Code::INVALID_VALUE.into());
    }
    let kept = &text[..text.len().min(capacity - 1)];
    out.set_array(kept.iter().map(|&byte| byte as c_char).chain([0]), capacity);
    Ok(())
}

api! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(Code::INVALID_VALUE.into());
        }
        start()
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(settings::driver_version()?)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        of_device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        driver()?;
        count.set(1)
    }

    fn cuDeviceGetName(name: Out<c_char>, length: i32, device: i32) {
        let (major, minor) = of_device(device)?.device.options.arch.compute_capability();
        put_text(&name, length, format!("simcuda {major}.{minor}").as_bytes())
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        of_device(device)?;
        uuid.set(UUID)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        of_device(device)?;
        uuid.set(UUID)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(of_device(device)?.device.memory.info().1)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: i32, device: i32) {
        value.set(attributes::device_attribute(&of_device(device)?.device.options, attribute)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let capability = of_device(device)?.device.options.arch.compute_capability();
        major.set(capability.0 as i32)?;
        minor.set(capability.1 as i32)
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, length: i32, device: i32) {
        of_device(device)?;
        put_text(&id, length, PCI_BUS_ID.to_bytes())
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) {
        driver()?;
        if id.get()?.as_bytes() != PCI_BUS_ID.to_bytes() {
            return Err(Code::INVALID_DEVICE.into());
        }
        device.set(0)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        of_device(device)?;
        of_device(peer)?;
        can.set(0)
    }

    fn cuGetErrorName(code: i32, name: Out<*const c_char>) {
        put_description(&name, Code(code).name())
    }

    fn cuGetErrorString(code: i32, text: Out<*const c_char>) {
        put_description(&text, Code(code).description())
    }
}

/// Points the caller at a static string, or at null with an error for a number that is no code.
fn put_description(out: &Out<*const c_char>, text: Option<&'static CStr>) -> Result<()> {
    out.set(text.map_or(std::ptr::null(), CStr::as_ptr))?;
    if text.is_some() { Ok(()) } else { Err(Code::INVALID_VALUE.into()) }
}
