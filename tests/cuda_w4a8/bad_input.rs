//! Calls that must be refused before any launch, after which the device goes on.

use crate::common::Random;
use crate::device::{device, metered};
use crate::weights::random_weight;
use moray::device::{Address, ElementKind, RawCall};
use moray::w4a8::cuda::raw::{self, Quantize, Source};
use moray::w4a8::cuda::{self, Activations, Epilogue, Variant, Weight, Workspace};
use moray::w4a8::{ActScales, Bits, Format, LAYOUT_VERSION, Offset, PackedWeight, Sections};
use moray::{Device, Error};

struct Operands {
    weight: Weight,
    activations: Activations,
    workspace: Workspace,
}

fn operands(device: &Device, m: usize, n: usize, k: usize) -> Operands {
    let packed = PackedWeight::pack(&random_weight(&mut Random::new(50), 0, n, k));
    let mut activations = Activations::with_capacity(device, m, k).unwrap();
    let x = device.upload(&vec![1.0f32; m * k]).unwrap();
    activations.quantize(device, &x.as_view(), m, k).unwrap();
    Operands {
        weight: Weight::upload(device, &packed).unwrap(),
        activations,
        workspace: Workspace::new(device).unwrap(),
    }
}

#[test]
fn buffers_of_another_length_are_typed_errors_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let (m, n, k) = (3, 32, 64);
    let mut o = operands(&device, m, n, k);
    let mut call = |y: usize, bias: usize, residual: usize| {
        let mut y = device.zeros::<f32>(y).unwrap();
        let (bias, residual) = (device.zeros(bias).unwrap(), device.zeros(residual).unwrap());
        let residual = residual.as_view();
        let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual) };
        let result = cuda::linear(&device, &o.weight, &o.activations, epilogue, &mut y.as_view_mut(), &mut o.workspace);
        result.and_then(|()| device.download(&y))
    };
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    assert_eq!(call(m * n - 1, n, m * n), length("y", m * n, m * n - 1));
    assert_eq!(call(m * n, n + 1, m * n), length("bias", n, n + 1));
    assert_eq!(call(m * n, n, n), length("residual", m * n, n));
    assert!(call(m * n, n, m * n).unwrap().iter().all(|v| v.is_finite()));
}

#[test]
fn activations_of_another_k_are_a_typed_error() {
    let Some(device) = device() else { return };
    let mut o = operands(&device, 2, 16, 64);
    let other = operands(&device, 2, 16, 96).activations;
    let mut y = device.zeros::<f32>(32).unwrap();
    let epilogue = Epilogue::default();
    let error = cuda::linear(&device, &o.weight, &other, epilogue, &mut y.as_view_mut(), &mut o.workspace);
    assert_eq!(error, Err(Error::Shape { what: "x", expected: "the weight's K", got: 96 }));
}

#[test]
fn variants_and_workspaces_that_do_not_fit_are_typed_errors() {
    let Some(device) = device() else { return };
    let (m, n, k) = (6, 32, 512);
    let mut o = operands(&device, m, n, k);
    let mut small = Workspace::with_words(&device, 64, 1).unwrap();
    let mut y = device.zeros::<f32>(m * n).unwrap();
    let mut call = |variant, small_one: bool| {
        let workspace = if small_one { &mut small } else { &mut o.workspace };
        let epilogue = Epilogue::default();
        cuda::linear_with(&device, variant, &o.weight, &o.activations, epilogue, &mut y.as_view_mut(), workspace)
    };
    let what = |result: Result<(), Error>| match result.unwrap_err() {
        Error::Shape { what, got, .. } | Error::Length { what, got, .. } => (what, got),
        error => panic!("{error}"),
    };
    assert_eq!(what(call(Variant::Gemv, false)), ("m", 6));
    assert_eq!(what(call(Variant::Gemm { tokens: 24, blocks: 1 }, false)), ("tokens", 24));
    assert_eq!(what(call(Variant::Gemm { tokens: 16, blocks: 0 }, false)), ("blocks", 0));
    assert_eq!(what(call(Variant::Gemm { tokens: 16, blocks: 2 }, true)), ("workspace", 64));
    assert_eq!(call(Variant::Gemm { tokens: 16, blocks: 2 }, false), Ok(()));
}

#[test]
fn activations_that_do_not_fit_are_typed_errors() {
    let Some(device) = device() else { return };
    let mut activations = Activations::with_capacity(&device, 2, 64).unwrap();
    let x = device.zeros::<f32>(3 * 64 + 1).unwrap();
    let shape = |got| Err(Error::Shape { what: "m", expected: "1 token or more, within the capacity", got });
    assert_eq!(activations.quantize(&device, &x.slice(..192), 3, 64), shape(3));
    assert_eq!(activations.quantize(&device, &x.slice(..0), 0, 64), shape(0));
    let length = Err(Error::Length { what: "x", expected: 128, got: 127 });
    assert_eq!(activations.quantize(&device, &x.slice(..127), 2, 64), length);
    let error = activations.quantize(&device, &x.slice(1..129), 2, 64).unwrap_err();
    assert!(matches!(error, Error::Misaligned { what: "x", expected: 16, .. }), "{error}");
    assert_eq!(activations.quantize(&device, &x.slice(..128), 2, 64), Ok(()));
}

#[test]
fn raw_calls_with_bad_formats_and_pointers_are_typed_errors() {
    let Some(device) = device() else { return };
    let memory = device.zeros::<u8>(1 << 16).unwrap();
    let base = {
        use moray::device::cudarc::driver::DevicePtr;
        memory.device_ptr(device.stream()).0
    };
    fn at<T>(base: u64, bytes: u64) -> Address<T> {
        Address::new(base + bytes)
    }
    let (codes, group, offset) = (at(base, 0), at(base, 1024), at(base, 2048));
    let good = raw::Linear {
        format: Format::per_group(64, Offset::F16),
        variant: Variant::Gemv,
        m: 1,
        n: 16,
        k: 64,
        layout: LAYOUT_VERSION,
        weight: Sections { codes, channel: Address::NULL, group, offset },
        x: at(base, 3072),
        act_scales: ActScales::Token,
        act_scale: at(base, 4096),
        sums: at(base, 4352),
        bias: None,
        residual: None,
        y: at(base, 8192),
        element: ElementKind::F32,
        partial: Address::NULL,
        arrived: Address::NULL,
    };
    let refused = [
        raw::Linear { format: Format::per_group(48, Offset::F16), ..good },
        raw::Linear { format: Format::per_group(128, Offset::F16), ..good },
        raw::Linear { format: Format::per_group(64, Offset::ZeroPoint).with_bits(Bits::Eight), ..good },
        raw::Linear { k: 65, ..good },
        raw::Linear { n: 0, ..good },
        raw::Linear { m: 0, ..good },
        raw::Linear { weight: Sections { offset: Address::NULL, ..good.weight }, ..good },
        raw::Linear { y: at(base, 8193), ..good },
        raw::Linear { act_scales: ActScales::Fine, act_scale: Address::NULL, ..good },
        raw::Linear { variant: Variant::Gemm { tokens: 24, blocks: 2 }, ..good },
    ];
    let stream = device.raw_stream();
    for (i, bad) in refused.into_iter().enumerate() {
        // SAFETY: every address lies in `memory` with more room than these sizes need.
        let launched = unsafe { bad.launch(&device, stream) };
        assert!(launched.is_err() && bad.check(&device) == launched, "call {i}");
    }
    let layout = raw::Linear { layout: LAYOUT_VERSION + 1, ..good }.check(&device).unwrap_err();
    assert!(matches!(layout, Error::Unsupported { what: "packed layout", .. }), "{layout}");
    // SAFETY: as above.
    assert_eq!(unsafe { good.launch(&device, stream) }, Ok(()));
    let quantize = Quantize {
        source: Source::RmsNorm { weight: Address::NULL, eps: 1e-5 },
        m: 1,
        k: 64,
        x: at(base, 0),
        element: ElementKind::F32,
        codes: at(base, 1024),
        scales: ActScales::Token,
        scale: at(base, 2048),
        sums: [at(base, 3072), at(base, 4096), at(base, 5120)],
        totals: at(base, 6144),
    };
    assert_eq!(quantize.check(&device), Err(Error::Misaligned { what: "weight", expected: 16, got: 0 }));
    device.synchronize().unwrap();
}

/// The launches are those that prepare the calls, and of the calls that show that the device goes on.
#[test]
fn refused_calls_launch_nothing() {
    let Some(all) = metered("bad_input::refused_calls_launch_nothing", |_| {
        buffers_of_another_length_are_typed_errors_and_the_device_goes_on();
        activations_of_another_k_are_a_typed_error();
        variants_and_workspaces_that_do_not_fit_are_typed_errors();
        activations_that_do_not_fit_are_typed_errors();
        raw_calls_with_bad_formats_and_pointers_are_typed_errors();
    }) else {
        return;
    };
    let count = |name: &str| all.iter().filter(|launch| launch.kernel().contains(name)).count();
    // which of the two multiplies few tokens depends on the device
    assert_eq!((count("w4a8_quantize"), count("w4a8_gem"), all.len()), (5, 3, 8), "{all:?}");
}
