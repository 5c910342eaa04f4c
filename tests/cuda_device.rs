//! The CUDA device itself: its kernels, its memory, its errors.

#[path = "common/device.rs"]
mod device_of_test;

use device_of_test::{device, with_environment};
use moray::attention::cuda::{KvCache, KvFormat, KvLayout, Spans};
use moray::attention::{KvShape, Span};
use moray::device::cudarc::driver::{CudaContext, sys};
use moray::sparse_mlp::IndexList;
use moray::sparse_mlp::cuda::NeuronList;
use moray::w4a8::{Format, PackedWeight, cuda as w4a8, quantize};
use moray::{Device, Error};

#[test]
fn every_kernel_of_the_table_is_loaded_and_found() {
    let Some(device) = device() else { return };
    let kernels = device.kernels();
    assert!(kernels.len() >= 9, "{kernels:?}");
    device.load_kernels().unwrap();
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
    let uncountable = device.zeros::<f32>(1 << 62).unwrap_err();
    assert!(matches!(uncountable, Error::Shape { what: "len", .. }), "{uncountable}");
    let uncountable = w4a8::Activations::with_capacity(&device, 1 << 59, 32).unwrap_err();
    assert!(matches!(uncountable, Error::Shape { what: "m", .. }), "{uncountable}");
    let slice = device.upload(&[1.0f32, 2.0, 3.0]).unwrap();
    assert_eq!(device.download(&slice).unwrap(), [1.0, 2.0, 3.0]);
}

#[test]
fn operations_without_room_are_typed_errors_and_the_device_goes_on() {
    const NAME: &str = "operations_without_room_are_typed_errors_and_the_device_goes_on";
    with_environment(NAME, &[("SIMCUDA_MEMORY", Some("67108864"))], || {
        let device = Device::new(0).unwrap();
        let kv = KvShape { n_layers: 2, n_slots: 1, n_kv_heads: 2, head_dim: 64, capacity: 4096 };
        let cache = || KvCache::new(&device, kv, KvFormat::F16, KvLayout::Contiguous, false);
        let activations = || w4a8::Activations::with_capacity(&device, 512, 2048);
        let workspace = || w4a8::Workspace::new(&device);
        let mut ballast = Vec::new();
        let full = loop {
            match device.zeros::<u8>(64 << 10) {
                Ok(piece) => ballast.push(piece),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Error::OutOfMemory { bytes: 64 << 10 });
        for error in [cache().unwrap_err(), activations().unwrap_err(), workspace().unwrap_err()] {
            assert!(matches!(error, Error::OutOfMemory { .. }), "{error}");
        }
        drop(ballast);
        device.synchronize().unwrap();
        assert!(cache().is_ok() && activations().is_ok() && workspace().is_ok());
    });
}

#[test]
fn driver_that_is_absent_is_a_typed_error() {
    const NAME: &str = "driver_that_is_absent_is_a_typed_error";
    with_environment(NAME, &[("LD_LIBRARY_PATH", None)], || match Device::new(0) {
        Err(error) => {
            assert!(matches!(&error, Error::DriverAbsent { message } if message.contains("libcuda")), "{error}");
        }
        Ok(device) => println!("skipped: this machine has {}", device.name()),
    });
}

#[test]
fn driver_that_is_too_old_is_a_typed_error() {
    const NAME: &str = "driver_that_is_too_old_is_a_typed_error";
    with_environment(NAME, &[("SIMCUDA_DRIVER_VERSION", Some("11080"))], || {
        assert_eq!(Device::new(0).unwrap_err(), Error::DriverTooOld { expected: 12_000, got: 11_080 });
    });
}

#[test]
fn architecture_without_kernels_is_a_typed_error_and_its_context_goes_on() {
    const NAME: &str = "architecture_without_kernels_is_a_typed_error_and_its_context_goes_on";
    with_environment(NAME, &[("SIMCUDA_ARCH", Some("7.5"))], || {
        let expected = Error::UnsupportedArchitecture { expected: (8, 0), got: (7, 5) };
        assert_eq!(Device::new(0).unwrap_err(), expected);
        let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
        assert_eq!(Device::with_stream(stream.clone()).unwrap_err(), expected);
        let slice = stream.clone_htod(&[1u32, 2, 3]).unwrap();
        assert_eq!(stream.clone_dtoh(&slice).unwrap(), [1, 2, 3]);
    });
}

/// A device has one primary context; one that was reset leaves memory of another behind.
#[test]
fn memory_and_streams_of_another_context_are_typed_errors() {
    const NAME: &str = "memory_and_streams_of_another_context_are_typed_errors";
    with_environment(NAME, &[], || {
        let before = Device::new(0).unwrap();
        let activations = std::mem::ManuallyDrop::new(w4a8::Activations::with_capacity(&before, 1, 64).unwrap());
        let packed = PackedWeight::pack(&quantize(&[0.5; 16 * 64], 16, 64, Format::per_channel()).unwrap());
        let weight = std::mem::ManuallyDrop::new(w4a8::Weight::upload(&before, &packed).unwrap());
        let mut workspace = std::mem::ManuallyDrop::new(w4a8::Workspace::new(&before).unwrap());
        let x = std::mem::ManuallyDrop::new(before.zeros::<f32>(64).unwrap());
        let mut list = std::mem::ManuallyDrop::new(NeuronList::new(&before, 8).unwrap());
        let mut spans = std::mem::ManuallyDrop::new(Spans::new(&before, 1).unwrap());
        // SAFETY: nothing of the context is used on the device any more, and what is left is not dropped.
        assert_eq!(unsafe { sys::cuDevicePrimaryCtxReset_v2(0) }, sys::CUresult::CUDA_SUCCESS);
        let device = Device::new(0).unwrap();
        let another = |error: Error, name: &str| {
            assert!(matches!(&error, Error::Unsupported { what, .. } if *what == name), "{name}: {error}");
        };
        another(device.on_stream(before.stream().clone()).unwrap_err(), "stream");
        let mut fresh = w4a8::Activations::with_capacity(&device, 1, 64).unwrap();
        another(fresh.quantize(&device, &x.as_view(), 1, 64).unwrap_err(), "x");
        let x = device.zeros::<f32>(64).unwrap();
        let mut stale = std::mem::ManuallyDrop::into_inner(activations);
        another(stale.quantize(&device, &x.as_view(), 1, 64).unwrap_err(), "activations");
        another(list.set(&device, IndexList::new(&[1], 8).unwrap()).unwrap_err(), "list");
        another(spans.set(&device, &[Span { slot: 0, start: 0, len: 1 }]).unwrap_err(), "spans");
        std::mem::forget((stale, before));
        fresh.quantize(&device, &x.as_view(), 1, 64).unwrap();
        let mut y = device.zeros::<f32>(16).unwrap();
        let mut multiply = |weight: &w4a8::Weight, workspace: &mut w4a8::Workspace| {
            let epilogue = w4a8::Epilogue::default();
            w4a8::linear(&device, weight, &fresh, epilogue, &mut y.as_view_mut(), workspace)
        };
        let mut room = w4a8::Workspace::new(&device).unwrap();
        another(multiply(&weight, &mut room).unwrap_err(), "weight");
        let weight = w4a8::Weight::upload(&device, &packed).unwrap();
        another(multiply(&weight, &mut workspace).unwrap_err(), "workspace");
        multiply(&weight, &mut room).unwrap();
        device.synchronize().unwrap();
    });
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
