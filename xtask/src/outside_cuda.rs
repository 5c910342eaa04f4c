//! A program that links moray and multiplies on a device what it multiplies on the CPU.

use moray::w4a8::{self, Format, PackedWeight, cuda, quantize};
use moray::{Cpu, Device};

fn main() -> moray::Result<()> {
    let (m, n, k) = (3, 64, 128);
    let numbers =
        |len: usize, step: usize| (0..len).map(|i| (i * step % 199) as f32 / 99.0 - 1.0).collect::<Vec<f32>>();
    let (cpu, x) = (Cpu::detect(), numbers(m * k, 53));
    let weight = PackedWeight::pack(&quantize(&numbers(n * k, 37), n, k, Format::per_channel())?);
    let (mut activations, mut expected) = (w4a8::Activations::default(), vec![0.0f32; m * n]);
    activations.quantize(&cpu, &x, m, k)?;
    w4a8::linear(&cpu, &weight, &activations, w4a8::Epilogue::default(), &mut expected)?;

    let device = Device::new(0)?;
    let weight = cuda::Weight::upload(&device, &weight)?;
    let mut activations = cuda::Activations::with_capacity(&device, m, k)?;
    activations.quantize(&device, &device.upload(&x)?.as_view(), m, k)?;
    let (mut y, mut workspace) = (device.zeros::<f32>(m * n)?, cuda::Workspace::new(&device)?);
    let mut out = y.as_view_mut();
    cuda::linear(&device, &weight, &activations, cuda::Epilogue::default(), &mut out, &mut workspace)?;
    assert_eq!(device.download(&y)?, expected);
    println!("y[0, 0] = {:.3} on the device and on the CPU", expected[0]);
    Ok(())
}
