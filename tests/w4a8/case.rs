//! Every format, and random tokens.

use moray::Cpu;
use moray::w4a8::{ActScales, Activations, Format, Offset};

use crate::common::Random;

pub const FORMATS: [Format; 10] = [
    Format::per_channel(),
    Format::per_group(32, Offset::None),
    Format::per_group(64, Offset::None),
    Format::per_group(128, Offset::None),
    Format::per_group(32, Offset::F16),
    Format::per_group(64, Offset::F16),
    Format::two_level(32),
    Format::two_level(64),
    Format::qqq(),
    Format::w8(),
];

pub fn group_of(format: Format) -> usize {
    format.group_size().unwrap_or(32)
}

pub const SCALES: [ActScales; 2] = [ActScales::Token, ActScales::Fine];

/// Random tokens, one of them of zeros.
pub fn activations(cpu: &Cpu, random: &mut Random, scales: ActScales, m: usize, k: usize) -> (Vec<f32>, Activations) {
    let mut x = random.weights(m * k, 1.0);
    if m > 2 {
        x[k..2 * k].fill(0.0); // one token of zeros
    }
    let mut activations = Activations::default();
    activations.set_scales(scales);
    activations.quantize(cpu, &x, m, k).unwrap();
    (x, activations)
}
