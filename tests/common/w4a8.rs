//! Random quantized weights for the tests of w4a8 on every device.

use crate::common::Random;
use half::f16;
use moray::w4a8::{Bits, GroupOffset, QuantizedWeight, Scales};

/// Random codes and scales of every kind, beyond what the quantizers make (zero points, 8-bit groups with offsets).
pub fn random_weight(random: &mut Random, kind: usize, n: usize, k: usize) -> QuantizedWeight {
    let group_size = [32, 64, 128].into_iter().filter(|g| k.is_multiple_of(*g)).nth(random.below(3)).unwrap_or(32);
    let groups = n * k / group_size;
    let scale16 = |random: &mut Random| (0..groups).map(|_| f16::from_f32(random.weight(0.01))).collect::<Vec<_>>();
    let scale32 = |random: &mut Random| (0..n).map(|_| random.weight(0.01)).collect::<Vec<_>>();
    let (bits, scales) = match kind {
        0 => (Bits::Four, Scales::PerChannel { scale: scale32(random) }),
        1 => (Bits::Eight, Scales::PerChannel { scale: scale32(random) }),
        2 | 3 => (
            if kind == 2 { Bits::Four } else { Bits::Eight },
            Scales::PerGroup { group_size, scale: scale16(random), offset: GroupOffset::Symmetric },
        ),
        4 | 5 => {
            let offset = GroupOffset::F16(scale16(random));
            let bits = if kind == 4 { Bits::Four } else { Bits::Eight };
            (bits, Scales::PerGroup { group_size, scale: scale16(random), offset })
        }
        6 => {
            let offset = GroupOffset::ZeroPoint((0..groups).map(|_| random.below(16) as u8).collect());
            (Bits::Four, Scales::PerGroup { group_size, scale: scale16(random), offset })
        }
        7 => {
            let group_scale = (0..groups).map(|_| 1 + random.below(16) as u8).collect();
            (Bits::Four, Scales::TwoLevel { group_size, group_scale, scale: scale32(random) })
        }
        _ => {
            let group_scale = (0..n * k / 128).map(|_| f16::from_f32(31.75 * random.unit() - 15.875)).collect();
            (Bits::Four, Scales::Qqq { group_scale, scale: scale32(random) })
        }
    };
    let codes = (0..n * k)
        .map(|_| match bits {
            Bits::Four => random.below(16) as i8,
            Bits::Eight => random.below(256) as u8 as i8,
        })
        .collect();
    QuantizedWeight::new(n, k, bits, codes, scales).unwrap()
}
