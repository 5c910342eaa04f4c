//! Every mode, and random tokens.

use moray::Cpu;
use moray::w4a8::{Activations, Mode};

use crate::common::Random;

pub const MODES: [Mode; 10] = [
    Mode::PerChannel,
    Mode::PerGroup { group_size: 32, offset: false },
    Mode::PerGroup { group_size: 64, offset: false },
    Mode::PerGroup { group_size: 128, offset: false },
    Mode::PerGroup { group_size: 32, offset: true },
    Mode::PerGroup { group_size: 64, offset: true },
    Mode::TwoLevel { group_size: 32 },
    Mode::TwoLevel { group_size: 64 },
    Mode::Qqq,
    Mode::W8,
];

pub fn group_of(mode: Mode) -> usize {
    match mode {
        Mode::PerGroup { group_size, .. } | Mode::TwoLevel { group_size } => group_size,
        Mode::Qqq => 128,
        Mode::PerChannel | Mode::W8 => 32,
    }
}

pub fn activations(cpu: &Cpu, random: &mut Random, m: usize, k: usize) -> (Vec<f32>, Activations) {
    let mut x = random.weights(m * k, 1.0);
    if m > 2 {
        x[k..2 * k].fill(0.0); // one token of zeros
    }
    let mut activations = Activations::default();
    activations.quantize(cpu, &x, m, k).unwrap();
    (x, activations)
}
