//! Random quantized weights for the tests of w4a8 on every device.

use crate::common::Random;
use half::f16;
use moray::w4a8::{Bits, Format, Offset, QuantizedWeight, Scales};

/// Random codes and scales of every kind, beyond what the quantizers make (zero points, 8-bit groups with offsets).
pub fn random_weight(random: &mut Random, kind: usize, n: usize, k: usize) -> QuantizedWeight {
    let group_size = [32, 64, 128].into_iter().filter(|g| k.is_multiple_of(*g)).nth(random.below(3)).unwrap_or(32);
    let groups = n * k / group_size;
    let scale16 = |random: &mut Random| (0..groups).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<_>>();
    let scale32 = |random: &mut Random| (0..n).map(|_| random.weight(0.01)).collect::<Vec<_>>();
    let (format, scales) = match kind {
        0 => (Format::per_channel(), Scales::per_channel(scale32(random))),
        1 => (Format::w8(), Scales::per_channel(scale32(random))),
        2 | 3 => (Format::per_group(group_size, Offset::None), Scales::per_group(scale16(random), None)),
        4 | 5 => {
            let offset = scale16(random).into();
            (Format::per_group(group_size, Offset::F16), Scales::per_group(scale16(random), Some(offset)))
        }
        6 => {
            let points: Vec<u8> = (0..groups).map(|_| random.below(16) as u8).collect();
            let scales = Scales::per_group(scale16(random), Some(points.into()));
            (Format::per_group(group_size, Offset::ZeroPoint), scales)
        }
        7 => {
            let group: Vec<u8> = (0..groups).map(|_| 1 + random.below(16) as u8).collect();
            (Format::two_level(group_size), Scales::over_channel(group, scale32(random)))
        }
        _ => {
            let group: Vec<f16> = (0..n * k / 128).map(|_| f16::from_f32(31.75 * random.unit() - 15.875)).collect();
            (Format::qqq(), Scales::over_channel(group, scale32(random)))
        }
    };
    let format = if [3, 5].contains(&kind) { format.with_bits(Bits::Eight) } else { format };
    let codes = (0..n * k)
        .map(|_| match format.bits {
            Bits::Four => random.below(16) as i8,
            Bits::Eight => random.below(256) as u8 as i8,
        })
        .collect();
    QuantizedWeight::new(n, k, format, codes, scales).unwrap()
}
