//! An engine on cust 0.3: its context, its stream, its buffers.

use cust::memory::{CopyDestination, DeviceBuffer, DeviceCopy};
use cust::stream::{Stream, StreamFlags};
use moray::device::{Address, Device, ElementKind, RawCall};
use moray::w4a8::cuda::raw::Product;

fn at<T: DeviceCopy>(buffer: &DeviceBuffer<T>) -> Address {
    Address::new(buffer.as_device_ptr().as_raw())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let context = cust::quick_init()?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    let ((m, n, _), (packed, x)) = (engines::SHAPE, engines::problem()?);
    let weight = packed.view().sections().try_map(DeviceBuffer::from_slice)?;
    let (x_there, y) = (DeviceBuffer::from_slice(&x)?, DeviceBuffer::<f32>::zeroed(m * n)?);

    // SAFETY: the context and its stream outlive the device.
    let device = unsafe { Device::from_raw(context.as_raw().cast(), stream.as_inner().cast())? };
    let mut call = Product::new(m, &packed, weight.as_ref().map(at), at(&x_there), at(&y), ElementKind::F32);
    call.workspace_bytes = call.workspace_bytes(&device);
    let workspace = DeviceBuffer::<u8>::zeroed(call.workspace_bytes)?;
    call.workspace = at(&workspace);
    // SAFETY: the buffers are as large as the call says, and live until the stream has been waited for.
    unsafe { call.launch(&device, stream.as_inner().cast())? };
    stream.synchronize()?;
    let mut host = vec![0.0f32; m * n];
    y.copy_to(&mut host[..])?;
    assert_eq!(host, engines::on_cpu(&packed, &x)?);
    Ok(())
}
