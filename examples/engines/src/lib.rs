//! What the engines multiply: a weight in 4 bits, and the same product on the CPU, whose bits a device has too.

use moray::Cpu;
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};

/// Tokens, output features, input features.
pub const SHAPE: (usize, usize, usize) = (3, 80, 512);

/// A packed weight [N, K] and x [M, K].
pub fn problem() -> moray::Result<(PackedWeight, Vec<f32>)> {
    let numbers =
        |len: usize, step: usize| (0..len).map(|i| (i * step % 199) as f32 / 99.0 - 1.0).collect::<Vec<f32>>();
    let (m, n, k) = SHAPE;
    let quantized = quantize(&numbers(n * k, 37), n, k, Format::per_group(64, Offset::F16))?;
    Ok((PackedWeight::pack(&quantized), numbers(m * k, 53)))
}

/// y [M, N] on the CPU.
pub fn on_cpu(weight: &PackedWeight, x: &[f32]) -> moray::Result<Vec<f32>> {
    let (m, n, k) = SHAPE;
    let (cpu, mut activations, mut y) = (Cpu::detect(), Activations::default(), vec![0.0; m * n]);
    activations.quantize(&cpu, x, m, k)?;
    linear(&cpu, weight, &activations, Epilogue::default(), &mut y)?;
    Ok(y)
}
