//! Calls that do not fit are refused before any launch.

use moray::device::{Address, ElementKind, RawCall};
use moray::input_sparse::cuda::raw::{FourBit, Linear};
use moray::input_sparse::cuda::{Weight, Workspace, linear};
use moray::input_sparse::{self as host};
use moray::w4a8::{Format, Group, GroupScale, Offset, quantize};
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
    let mut room = Workspace::with_capacity(&device, 2, 3, 4).unwrap();
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
        let error =
            linear(&device, &weight, &x, threshold, Some(&bias), Some(&residual), &mut y, &mut room).unwrap_err();
        assert_eq!(what(&error), name, "{error}");
    }
}

#[test]
fn four_bits_refuse_too_small_a_workspace_and_x_off_16_bytes() {
    let Some(device) = device() else { return };
    let (n, k) = (32, 1056);
    let codes = quantize(&vec![0.5; n * k], n, k, Format::per_channel()).unwrap();
    let weight = Weight::upload(&device, &host::Weight::from_quantized(&codes).unwrap()).unwrap();
    let (x, mut y) = (device.zeros::<f32>(2 * k + 1).unwrap(), device.zeros::<f32>(2 * n).unwrap());
    for (name, from, m) in [("workspace", 0, 1), ("x", 1, 2)] {
        let mut room = Workspace::with_capacity(&device, m, n, k).unwrap();
        let (x, mut y) = (x.slice(from..from + 2 * k), y.as_view_mut());
        let error = linear(&device, &weight, &x, 0.5, None, None, &mut y, &mut room).unwrap_err();
        assert_eq!(what(&error), name, "{error}");
    }
}

#[test]
fn raw_call_of_four_bits_refuses_bad_addresses_and_sizes() {
    let Some(device) = device() else { return };
    let group = Group { size: 64, scale: GroupScale::F16, offset: Offset::ZeroPoint };
    let good = FourBit {
        rows: Address::new(1 << 20),
        scales: Address::new(1 << 21),
        group: Some(group),
        x: Address::new(1 << 22),
        threshold: 0.5,
        bias: None,
        residual: Some(Address::new(1 << 23)),
        y: Address::new(1 << 24),
        m: 2,
        n: 33,
        k: 2048,
        workspace: Address::new(1 << 25),
        counters: Address::new(1 << 26),
    };
    good.check(&device).unwrap();
    let bytes = |what| good.buffers(&device).iter().find(|buffer| buffer.what == what).unwrap().bytes();
    assert_eq!((bytes("rows"), bytes("scales")), (2048 * 32, 2048 / 64 * 2 * 64 * 2));
    // two scales in 16 bytes, and 33 sums of two tokens in each of two runs
    assert_eq!((good.workspace_bytes(), good.counter_bytes()), (16 + 2 * 2 * 33 * 4, 4));
    let alone = FourBit { m: 1, k: 1024, workspace: Address::NULL, counters: Address::NULL, ..good };
    assert_eq!((alone.workspace_bytes(), alone.counter_bytes(), alone.check(&device)), (0, 0, Ok(())));
    let spoiled: [(&str, fn(&mut FourBit)); 13] = [
        ("rows", |call| call.rows = Address::new(8)),
        ("scales", |call| call.scales = Address::NULL),
        ("x", |call| call.x = Address::new(4)),
        ("y", |call| call.y = Address::NULL),
        ("residual", |call| call.residual = Some(Address::NULL)),
        ("workspace", |call| call.workspace = Address::NULL),
        ("counters", |call| call.counters = Address::new(2)),
        ("n", |call| call.n = 0),
        ("k", |call| call.k = 2064),
        ("k", |call| call.k = 1 << 20),
        ("group_size", |call| call.k = 2080),
        ("group", |call| call.group = Some(Group { size: 64, scale: GroupScale::Integer, offset: Offset::None })),
        ("threshold", |call| call.threshold = f32::NAN),
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
