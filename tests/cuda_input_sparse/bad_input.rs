//! Calls that do not fit are refused before any launch.

use moray::device::{Address, ElementKind, RawCall};
use moray::input_sparse::cuda::raw::Linear;
use moray::input_sparse::cuda::{Weight, linear};
use moray::input_sparse::{self as host};
use moray::w4a8::{Format, quantize};
use moray::{DenseType, Error};

use crate::device::device;

fn what(error: &Error) -> &'static str {
    match error {
        Error::Shape { what, .. }
        | Error::Misaligned { what, .. }
        | Error::Length { what, .. }
        | Error::Unsupported { what, .. }
        | Error::Value { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[test]
fn calls_that_do_not_fit_are_refused() {
    let Some(device) = device() else { return };
    let weight = host::Weight::from_f32(&[1.0; 12], 3, 4, DenseType::F16).unwrap();
    let weight = Weight::upload(&device, &weight).unwrap();
    let buffer = |len| device.zeros::<f32>(len).unwrap();
    for (name, x, y, bias, residual, threshold) in [
        ("x", 9, 6, 3, 6, 0.5),
        ("y", 8, 5, 3, 6, 0.5),
        ("bias", 8, 6, 2, 6, 0.5),
        ("residual", 8, 6, 3, 3, 0.5),
        ("threshold", 8, 6, 3, 6, -1.0),
        ("threshold", 8, 6, 3, 6, f32::NAN),
    ] {
        let (x, mut y, bias, residual) = (buffer(x), buffer(y), buffer(bias), buffer(residual));
        let (bias, residual) = (bias.as_view(), residual.as_view());
        let (x, mut y) = (x.as_view(), y.as_view_mut());
        let error = linear(&device, &weight, &x, threshold, Some(&bias), Some(&residual), &mut y).unwrap_err();
        assert_eq!(what(&error), name, "{error}");
    }
    let codes = quantize(&[0.5; 32 * 32], 32, 32, Format::per_channel()).unwrap();
    let four_bit = host::Weight::from_quantized(&codes).unwrap();
    assert_eq!(what(&Weight::upload(&device, &four_bit).unwrap_err()), "weights");
}

#[test]
fn raw_call_refuses_bad_addresses_and_sizes() {
    let Some(device) = device() else { return };
    let good = Linear {
        w: Address::new(1 << 20),
        element: ElementKind::Bf16,
        row_bytes: 80,
        x: Address::new(1 << 22),
        threshold: 0.5,
        bias: Some(Address::new(1 << 23)),
        residual: None,
        y: Address::new(1 << 24),
        m: 2,
        n: 33,
        k: 7,
    };
    good.check(&device).unwrap();
    let bytes = good.buffers(&device).iter().find(|buffer| buffer.what == "w").unwrap().bytes();
    assert_eq!(bytes, 6 * 80 + 80, "a row's copies end at whole 16 bytes");
    let spoiled: [(&str, fn(&mut Linear)); 10] = [
        ("w", |call| call.w = Address::new(8)),
        ("w", |call| call.w = Address::NULL),
        ("row_bytes", |call| call.row_bytes = 64),
        ("row_bytes", |call| call.row_bytes = 72),
        ("x", |call| call.x = Address::new(2)),
        ("y", |call| call.y = Address::NULL),
        ("bias", |call| call.bias = Some(Address::NULL)),
        ("n", |call| call.n = 0),
        ("k", |call| call.k = (1 << 30) + 1),
        ("threshold", |call| call.threshold = f32::INFINITY),
    ];
    for (name, spoil) in spoiled {
        let mut call = good;
        spoil(&mut call);
        let error = call.check(&device).unwrap_err();
        assert_eq!(what(&error), name, "{error}");
        // SAFETY: nothing is launched.
        let launched = unsafe { call.launch(&device, device.raw_stream()) };
        assert_eq!(launched.unwrap_err().to_string(), error.to_string());
    }
}
