//! The smallest way to link moray: quantize one weight matrix once, then multiply tokens with it.

use moray::Cpu;
use moray::w4a8::{Activations, Epilogue, Format, Offset, PackedWeight, linear, quantize};

fn main() -> moray::Result<()> {
    let (m, n, k) = (3, 256, 512);
    let numbers =
        |len: usize, step: usize| (0..len).map(|i| (i * step % 199) as f32 / 99.0 - 1.0).collect::<Vec<f32>>();
    let (w, x) = (numbers(n * k, 37), numbers(m * k, 53));

    // once, when the model is loaded
    let cpu = Cpu::detect();
    let weight = PackedWeight::pack(&quantize(&w, n, k, Format::per_group(64, Offset::F16))?);

    // for every batch of tokens; the buffers are used again
    let mut activations = Activations::with_capacity(m, k);
    let mut y = vec![0.0f32; m * n];
    activations.quantize(&cpu, &x, m, k)?;
    linear(&cpu, &weight, &activations, Epilogue::default(), &mut y)?;

    let exact: f32 = (0..k).map(|i| x[i] * w[i]).sum();
    println!("y[0, 0] = {:.3}, in f32 {exact:.3}; {} bytes for {} weights", y[0], weight.bytes(), n * k);
    Ok(())
}
