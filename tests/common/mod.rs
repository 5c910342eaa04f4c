//! What the tests of several operations share: seeded data, the instruction sets of this machine, shape tables.
#![allow(dead_code)] // each test file uses its part

use moray::{Cpu, Isa};

/// A small generator with a fixed sequence for a seed (the finaliser of SplitMix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Roughly normal with the given standard deviation, and a heavier value now and then.
    pub fn weight(&mut self, sigma: f32) -> f32 {
        let sum: f32 = (0..6).map(|_| self.unit()).sum::<f32>() - 3.0;
        let tail = if self.below(64) == 0 { 4.0 } else { 1.0 };
        sum * sigma * tail * std::f32::consts::SQRT_2
    }

    pub fn weights(&mut self, len: usize, sigma: f32) -> Vec<f32> {
        (0..len).map(|_| self.weight(sigma)).collect()
    }
}

/// One handle for each instruction set of this machine, with two threads.
pub fn cpus() -> Vec<Cpu> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available()).map(|isa| Cpu::new(2, isa).unwrap()).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
