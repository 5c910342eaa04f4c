//! Quantization and multiplication of few tokens in one launch: check, select, launch.

use super::raw::{self, Source};
use super::variant::Architecture;
use super::{Epilogue, Weight};
use crate::activation::Activation;
use crate::device::{Address, Arguments, Device, DeviceElement};
use crate::error::{Result, check_len, product};
use crate::w4a8::{ActScales, LAYOUT_VERSION};
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// Tokens that are quantized where they are multiplied.
#[derive(Debug, Clone, Copy)]
pub struct FewTokens<'a, E> {
    /// \[M, K\] row-major.
    pub x: &'a CudaView<'a, E>,
    /// M, 1 to 4.
    pub m: usize,
    /// f32 \[K\] and eps: x / √(mean(x²) + eps) ⊙ weight is quantized; None: x as it is.
    pub norm: Option<(&'a CudaSlice<f32>, f32)>,
    /// How finely tokens are scaled.
    pub scales: ActScales,
}

/// What comes of the outputs.
enum Outputs<'a, E> {
    Added(Epilogue<'a, E>),
    Gated(Option<&'a CudaSlice<f32>>, Activation),
}

/// Whether M tokens are multiplied faster by [`linear_few`] than by a quantization and [`super::linear`]: see [`raw::Gemv::is_for`].
pub fn is_few(device: &Device, weight: &Weight, scales: ActScales, m: usize) -> bool {
    raw::Gemv::is_for(Architecture::of(device), weight.format(), scales, m, weight.n(), weight.k())
}

/// Quantizes and multiplies in one launch: y = x' · wᵀ + bias + residual, x' being x or its RMSNorm in int8. The numbers of
/// [`super::Activations`] and [`super::linear`], bit for bit.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | packed |
/// | `tokens.x` | \[M, K\] | f32, f16 or bf16 |
/// | `epilogue` | as of [`super::linear`] | |
/// | `y` | \[M, N\] row-major | f32, f16 or bf16 |
///
/// # Errors
/// As [`super::linear`]; [`crate::Error::Shape`] for more than 4 tokens, or more than 16384 features of all of them together.
pub fn linear_few<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    weight: &Weight,
    tokens: FewTokens<'_, X>,
    epilogue: Epilogue<'_, E>,
    y: &mut CudaViewMut<'_, E>,
) -> Result<()> {
    run(device, weight, tokens, Outputs::Added(epilogue), y)
}

/// Quantizes and multiplies in one launch as [`linear_few`], with outputs that are gated: y \[M, N/2\] = act(g) ⊙ u, g the first and u
/// the second half of x' · wᵀ + bias. g and u stay in f32.
///
/// # Errors
/// As [`linear_few`]; [`crate::Error::Shape`] unless N is a multiple of 32.
pub fn gated_few<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    weight: &Weight,
    tokens: FewTokens<'_, X>,
    bias: Option<&CudaSlice<f32>>,
    activation: Activation,
    y: &mut CudaViewMut<'_, E>,
) -> Result<()> {
    run(device, weight, tokens, Outputs::Gated(bias, activation), y)
}

fn run<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    weight: &Weight,
    tokens: FewTokens<'_, X>,
    outputs: Outputs<'_, E>,
    y: &mut CudaViewMut<'_, E>,
) -> Result<()> {
    let (m, n, k, format) = (tokens.m, weight.n(), weight.k(), weight.format());
    let (bias, residual, gate) = match outputs {
        Outputs::Added(Epilogue { bias, residual }) => (bias, residual, None),
        Outputs::Gated(bias, activation) => (bias, None, Some(activation)),
    };
    let wide = if gate.is_some() { n / 2 } else { n };
    check_len("x", product("m", &[m, k])?, tokens.x.len())?;
    tokens.norm.map_or(Ok(()), |(norm, _)| check_len("norm", k, norm.len()))?;
    bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    residual.map_or(Ok(()), |residual| check_len("residual", m * n, residual.len()))?;
    check_len("y", product("m", &[m, wide])?, y.len())?;
    let mut arguments = Arguments::new(device);
    let source = match tokens.norm {
        Some((norm, eps)) => Source::RmsNorm { weight: arguments.read("norm", norm)?, eps },
        None => Source::Plain,
    };
    let call = raw::Gemv {
        format,
        m,
        n,
        k,
        layout: LAYOUT_VERSION,
        weight: weight.arguments(&mut arguments)?,
        source,
        x: arguments.read("x", tokens.x)?.cast(),
        x_element: X::KIND,
        act_scales: tokens.scales,
        bias: bias.map(|bias| arguments.read("bias", bias)).transpose()?,
        residual: residual.map(|r| arguments.read("residual", r)).transpose()?.map(Address::cast),
        gate,
        y: arguments.write("y", y)?.cast(),
        element: E::KIND,
    };
    arguments.launch(&call)
}
