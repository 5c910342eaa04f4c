//! An engine with no binding at all: the driver's library, loaded by hand.

use std::ffi::c_void;

use libloading::Library;
use moray::device::{Address, Device, ElementKind, RawCall};
use moray::w4a8::cuda::raw::Product;

/// Calls a function of the driver whose arguments have these types.
macro_rules! driver {
    ($library:ident.$name:ident($($argument:expr => $type:ty),*)) => {{
        // SAFETY: the types are those of the driver's header, and what is written to is there.
        let code = unsafe {
            let function = $library.get::<unsafe extern "C" fn($($type),*) -> i32>(stringify!($name).as_bytes())?;
            function($($argument),*)
        };
        if code != 0 {
            return Err(format!("{}: expected 0, got {code}", stringify!($name)).into());
        }
    }};
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Memory that begins with these bytes.
fn upload(cuda: &Library, bytes: &[u8]) -> Result<Address> {
    let mut address = 0u64;
    if !bytes.is_empty() {
        driver!(cuda.cuMemAlloc_v2(&mut address => *mut u64, bytes.len() => usize));
        driver!(cuda.cuMemcpyHtoD_v2(address => u64, bytes.as_ptr().cast() => *const c_void, bytes.len() => usize));
    }
    Ok(Address::new(address))
}

fn main() -> Result<()> {
    // SAFETY: the driver's own initialisers are all that runs.
    let cuda = &unsafe { Library::new("libcuda.so.1")? };
    let (mut gpu, mut context, mut stream) = (0i32, std::ptr::null_mut(), std::ptr::null_mut());
    driver!(cuda.cuInit(0 => u32));
    driver!(cuda.cuDeviceGet(&mut gpu => *mut i32, 0 => i32));
    driver!(cuda.cuDevicePrimaryCtxRetain(&mut context => *mut *mut c_void, gpu => i32));
    driver!(cuda.cuCtxSetCurrent(context => *mut c_void));
    driver!(cuda.cuStreamCreate(&mut stream => *mut *mut c_void, 1 => u32));

    let ((m, n, _), (packed, x)) = (engines::SHAPE, engines::problem()?);
    let x_bytes: Vec<u8> = x.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let weight = packed.view().sections().try_map(|bytes| upload(cuda, bytes))?;
    let (x_there, y) = (upload(cuda, &x_bytes)?, upload(cuda, &vec![0; 4 * m * n])?);

    // SAFETY: the context and its stream outlive the device.
    let device = unsafe { Device::from_raw(context, stream)? };
    let mut call = Product::new(m, &packed, weight, x_there, y, ElementKind::F32);
    call.workspace_bytes = call.workspace_bytes(&device);
    call.workspace = upload(cuda, &vec![0; call.workspace_bytes])?;
    // SAFETY: the memory is as large as the call says, and is never freed.
    unsafe { call.launch(&device, stream)? };
    driver!(cuda.cuStreamSynchronize(stream => *mut c_void));

    let mut host = vec![0.0f32; m * n];
    driver!(cuda.cuMemcpyDtoH_v2(host.as_mut_ptr().cast() => *mut c_void, y.get() => u64, 4 * m * n => usize));
    assert_eq!(host, engines::on_cpu(&packed, &x)?);
    Ok(())
}
