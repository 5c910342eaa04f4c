//! The CUDA device itself: its kernels, its memory, its errors.

#[path = "common/device.rs"]
mod device_of_test;

use device_of_test::device;
use moray::Error;

#[test]
fn every_kernel_of_the_table_is_loaded_and_found() {
    let Some(device) = device() else { return };
    let kernels = device.kernels();
    assert!(kernels.len() >= 9, "{kernels:?}");
    for (module, symbol) in kernels {
        let function = device.function(module, symbol).unwrap();
        assert!(function.max_threads_per_block().unwrap() >= 32, "{module}: {symbol}");
    }
}

#[test]
fn unknown_kernel_is_a_typed_error() {
    let Some(device) = device() else { return };
    let error = device.function("w4a8/quantize", "no_such_kernel").unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "kernel", .. }), "{error}");
}

#[test]
fn memory_that_does_not_fit_is_a_typed_error_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let bytes = 1usize << 50;
    assert_eq!(device.zeros::<u8>(bytes).unwrap_err(), Error::OutOfMemory { bytes });
    let slice = device.upload(&[1.0f32, 2.0, 3.0]).unwrap();
    assert_eq!(device.download(&slice).unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn device_that_is_not_there_is_a_typed_error() {
    if device().is_none() {
        return;
    }
    let error = moray::Device::new(4096).unwrap_err();
    assert!(matches!(&error, Error::Driver { call: "open the device", .. }), "{error}");
}

#[test]
fn host_buffer_of_another_length_is_a_typed_error() {
    let Some(device) = device() else { return };
    let slice = device.upload(&[1u8, 2, 3]).unwrap();
    let error = device.download_into(&slice, &mut [0u8; 2]).unwrap_err();
    assert_eq!(error, Error::Length { what: "host", expected: 3, got: 2 });
}
