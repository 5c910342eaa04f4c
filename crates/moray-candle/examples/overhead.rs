//! Prints what a call of the smallest shape costs from candle, in ns: next to nothing of it is the work.
//!
//! `cargo run --release --example overhead`

use std::time::Instant;

use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::{Linear, Module};
use moray_candle::moray::w4a8::{Format, Offset};
use moray_candle::moray::{Cpu, Isa};
use moray_candle::{QuantizedLinear, Runtime};

const CALLS: u32 = 5000;
const ROUNDS: usize = 7;

/// Prints the fastest of some rounds.
fn measure(operation: &str, name: &str, mut call: impl FnMut() -> Result<Tensor>) -> Result<()> {
    let mut fastest = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..CALLS {
            call()?;
        }
        fastest = fastest.min(start.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    println!("{operation} | {name} | {fastest:.0} ns");
    Ok(())
}

fn main() -> Result<()> {
    let w = Tensor::ones((16, 32), DType::F32, &Device::Cpu)?;
    let x = Tensor::ones((1, 32), DType::F32, &Device::Cpu)?;
    let plain = Linear::new(w.clone(), None);
    let runtime = Runtime::new(Cpu::new(1, Isa::detect()).map_err(Error::wrap)?);
    let linear = QuantizedLinear::quantize(&runtime, &w, Format::per_group(32, Offset::None))?;
    measure("linear_of_floats", "candle: its own `Linear` in f32", || plain.forward(&x))?;
    measure("linear_of_floats", "candle: `QuantizedLinear`", || linear.forward(&x))
}
