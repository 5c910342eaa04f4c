//! The multiplication where integers are largest: all that one group or fine block can sum is exact, up to codes that no quantizer makes.

use crate::device::device;
use half::f16;
use moray::Device;
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Address, ElementKind, RawCall};
use moray::w4a8::cuda::{Variant, raw};
use moray::w4a8::{ActScales, Bits, Format, LAYOUT_VERSION, Offset, PackedWeight, QuantizedWeight, Scales};

const M: usize = 4;
const N: usize = 36;
/// Of the weights that have them, by row; the last is no code, and a kernel takes it all the same.
const POINTS: [u8; 3] = [0, 15, 255];
const OFFSET: f32 = -8.0;

fn at<T, U>(device: &Device, memory: &CudaSlice<T>) -> Address<U> {
    Address::new(memory.device_ptr(device.stream()).0)
}

/// Rows of the lowest, of the highest, of both by turns.
fn alternate([low, high]: [i8; 2], row: usize, k: usize) -> i8 {
    match row % 4 {
        0 => low,
        1 => high,
        2 => [low, high][k % 2],
        _ => [low, high][usize::from(k % 8 < 3)],
    }
}

fn code(bits: Bits, n: usize, k: usize) -> i8 {
    alternate(if bits == Bits::Four { [0, 15] } else { [-128, 127] }, n, k)
}

/// Weights whose scales are 1, or in a group nearly the largest where the product is an integer.
fn weight(format: Format, k: usize) -> PackedWeight {
    let ones = vec![f16::ONE; N];
    let scales = match (format.group_size(), format.offset()) {
        (None, _) => Scales::per_channel(vec![1.0; N]),
        _ if format == Format::qqq() => Scales::over_channel(vec![f16::from_f32(15.0); N], vec![1.0; N]),
        _ if format.stays_integer() => Scales::over_channel(vec![16u8; N], vec![1.0; N]),
        (_, Offset::None) => Scales::per_group(ones, None),
        (_, Offset::ZeroPoint) => Scales::per_group(ones, Some(vec![0u8; N].into())),
        (_, Offset::F16) => Scales::per_group(ones, Some(vec![f16::from_f32(OFFSET); N].into())),
    };
    let codes = (0..N * k).map(|i| code(format.bits, i / k, i % k)).collect();
    PackedWeight::pack(&QuantizedWeight::new(N, k, format, codes, scales).unwrap())
}

/// A weight by the definition.
fn value(format: Format, n: usize, k: usize) -> i64 {
    let code = i64::from(code(format.bits, n, k));
    let centred = if format.bits == Bits::Four { code - 8 } else { code };
    match format.offset() {
        Offset::ZeroPoint => code - i64::from(POINTS[n % 3]),
        Offset::F16 => code + OFFSET as i64,
        Offset::None if format == Format::qqq() => 15 * centred,
        Offset::None if format.group_size().is_some() && format.stays_integer() => 16 * centred,
        Offset::None => centred,
    }
}

/// Multiplies K features, which are one group, by tokens of −128 and 127.
fn check(device: &Device, format: Format, k: usize, act_scales: ActScales, variant: Variant) {
    let packed = weight(format, k);
    let upload = |bytes: &[u8]| (!bytes.is_empty()).then(|| device.upload(bytes).unwrap());
    let mut sections = packed.view().sections().map(upload);
    if format.offset() == Offset::ZeroPoint {
        let points: Vec<u8> = (0..N.next_multiple_of(16)).map(|n| POINTS[n % 3]).collect();
        sections.offset = upload(&points);
    }
    let x = |m: usize, k: usize| alternate([-128, 127], m, k);
    let padded = k.next_multiple_of(64);
    let codes: Vec<i8> = (0..M * padded).map(|i| if i % padded < k { x(i / padded, i % padded) } else { 0 }).collect();
    let sum = |m: usize| (0..k).map(|k| i32::from(x(m, k))).sum::<i32>();
    // [groups of the padded K, M], of which the first is all of K
    let mut sums: Vec<i32> = (0..M).map(sum).collect();
    sums.resize(M * padded.div_ceil(k), 0);
    let (codes, sums, scale) =
        (device.upload(&codes).unwrap(), device.upload(&sums).unwrap(), device.upload(&[1.0f32; M]).unwrap());
    let y = device.upload(&[f32::NAN; M * N]).unwrap();
    let call = raw::Linear {
        format,
        variant,
        m: M,
        n: N,
        k,
        layout: LAYOUT_VERSION,
        weight: sections.as_ref().map(|section| section.as_ref().map_or(Address::NULL, |section| at(device, section))),
        x: at(device, &codes),
        act_scales,
        act_scale: at(device, &scale),
        sums: at(device, &sums),
        bias: None,
        residual: None,
        y: at(device, &y),
        element: ElementKind::F32,
        partial: Address::NULL,
        arrived: Address::NULL,
    };
    assert_eq!((call.workspace_bytes(), call.counter_bytes()), (0, 0));
    // SAFETY: the memory is as large as the fields say, and is there until the stream has been waited for below.
    unsafe { call.launch(device, device.raw_stream()).unwrap() };
    let expected: Vec<f32> = (0..M * N)
        .map(|i| (0..k).map(|k| i64::from(x(i / N, k)) * value(format, i % N, k)).sum::<i64>() as f32)
        .collect();
    assert!(expected.iter().all(|y| y.abs() < (1 << 24) as f32), "the sums are exact in f32");
    assert!(
        format.offset() != Offset::ZeroPoint || expected.contains(&((255 * 128 * k) as f32)),
        "the bound is reached"
    );
    assert_eq!(device.download(&y).unwrap(), expected, "{format:?}, K {k}, {act_scales:?}, {variant:?}");
}

fn variants() -> impl Iterator<Item = Variant> {
    [16, 64, 128].into_iter().map(|tokens| Variant::Gemm { tokens, blocks: 1 }).chain([Variant::Gemv])
}

#[test]
fn largest_sums_of_a_group_are_exact() {
    let Some(device) = device() else { return };
    for k in [32, 64, 128] {
        let formats = [Offset::None, Offset::ZeroPoint, Offset::F16].map(|offset| Format::per_group(k, offset));
        let eight = [Offset::None, Offset::F16].map(|offset| Format::per_group(k, offset).with_bits(Bits::Eight));
        let scales = [ActScales::Token, ActScales::Fine];
        for (format, scales) in
            formats.into_iter().chain(eight).flat_map(|format| scales.map(|scales| (format, scales)))
        {
            variants().for_each(|variant| check(&device, format, k, scales, variant));
        }
    }
}

#[test]
fn largest_sums_of_a_fine_block_are_exact() {
    let Some(device) = device() else { return };
    for format in [Format::per_channel(), Format::w8(), Format::two_level(128), Format::qqq()] {
        variants().for_each(|variant| check(&device, format, 128, ActScales::Fine, variant));
    }
}
