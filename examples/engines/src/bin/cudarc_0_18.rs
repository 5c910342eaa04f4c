//! An engine on another version of cudarc than moray's own.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr};
use moray::device::{Address, Device, ElementKind, RawCall};
use moray::w4a8::cuda::raw::Product;

fn at<T>(stream: &Arc<CudaStream>, memory: &CudaSlice<T>) -> Address {
    Address::new(memory.device_ptr(stream).0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    Device::probe()?; // where there is no driver cudarc panics
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let ((m, n, _), (packed, x)) = (engines::SHAPE, engines::problem()?);
    // memory of no bytes is none
    let upload = |bytes: &[u8]| (!bytes.is_empty()).then(|| stream.clone_htod(bytes)).transpose();
    let weight = packed.view().sections().try_map(upload)?;
    let (x_there, y) = (stream.clone_htod(&x)?, stream.alloc_zeros::<f32>(m * n)?);

    // SAFETY: the context and its stream outlive the device.
    let device = unsafe { Device::from_raw(context.cu_ctx().cast(), stream.cu_stream().cast())? };
    let sections =
        weight.as_ref().map(|section| section.as_ref().map_or(Address::NULL, |section| at(&stream, section)));
    let mut call = Product::new(m, &packed, sections, at(&stream, &x_there), at(&stream, &y), ElementKind::F32);
    call.workspace_bytes = call.workspace_bytes(&device);
    let workspace = stream.alloc_zeros::<u8>(call.workspace_bytes)?;
    call.workspace = at(&stream, &workspace);
    // SAFETY: the memory is as large as the call says, and lives until the stream has been waited for.
    unsafe { call.launch(&device, stream.cu_stream().cast())? };
    assert_eq!(stream.clone_dtoh(&y)?, engines::on_cpu(&packed, &x)?);
    Ok(())
}
