//! Quantization and multiplication of few tokens in one launch: check, select, launch.

use super::raw::{self, Source};
use super::variant::Architecture;
use super::{Epilogue, Weight, Workspace};
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

/// A whole MLP of few tokens in one launch, the first matrix's outputs gated as [`gated_few`] does and the second's input: y \[M, N\] = h · downᵀ +
/// bias + residual, h \[M, K\] = act(g) ⊙ u, g, u the halves of x' · gate_upᵀ + bias. The numbers of the two calls, bit for bit. `hidden` \[M, K\]
/// is worked in; it holds h afterwards.
///
/// All blocks wait for each other between the products, so at most one is on each multiprocessor, and the launch is a cooperative one.
///
/// # Errors
/// As the two calls; [`crate::Error::Unsupported`] where [`is_pair`] says no.
pub fn mlp_few<E: DeviceElement>(
    device: &Device,
    (gate_up, tokens, gate_up_bias): (&Weight, FewTokens<'_, f32>, Option<&CudaSlice<f32>>),
    activation: Activation,
    hidden: &mut CudaViewMut<'_, f32>,
    (down, down_scales, epilogue): (&Weight, ActScales, Epilogue<'_, E>),
    y: &mut CudaViewMut<'_, E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let m = tokens.m;
    let mut arguments = Arguments::new(device);
    let first = fill(&mut arguments, gate_up, tokens, Outputs::Gated::<f32>(gate_up_bias, activation), hidden)?;
    check_len("x", product("m", &[m, down.k()])?, product("m", &[m, gate_up.n() / 2])?)?;
    let second = raw::Gemv {
        source: Source::Plain,
        x: first.y,
        x_element: f32::KIND,
        ..outputs(&mut arguments, down, (m, down_scales), Outputs::Added(epilogue), y)?
    };
    let arrived = workspace.arrivals(&mut arguments)?;
    arguments.launch(&raw::GemvPair { first, second, arrived })
}

/// Whether [`mlp_few`] takes the weights, for each of which [`is_few`] holds.
pub fn is_pair(device: &Device, gate_up: &Weight, down: &Weight) -> bool {
    raw::GemvPair::is_for(device, gate_up.format(), down.format())
}

fn run<X: DeviceElement, E: DeviceElement>(
    device: &Device,
    weight: &Weight,
    tokens: FewTokens<'_, X>,
    outputs: Outputs<'_, E>,
    y: &mut CudaViewMut<'_, E>,
) -> Result<()> {
    let mut arguments = Arguments::new(device);
    let call = fill(&mut arguments, weight, tokens, outputs, y)?;
    arguments.launch(&call)
}

/// Holds the buffers of a product.
fn fill<'a, X: DeviceElement, E: DeviceElement>(
    arguments: &mut Arguments<'a>,
    weight: &'a Weight,
    tokens: FewTokens<'a, X>,
    of: Outputs<'a, E>,
    y: &'a mut CudaViewMut<'_, E>,
) -> Result<raw::Gemv> {
    let k = weight.k();
    check_len("x", product("m", &[tokens.m, k])?, tokens.x.len())?;
    tokens.norm.map_or(Ok(()), |(norm, _)| check_len("norm", k, norm.len()))?;
    let call = outputs(arguments, weight, (tokens.m, tokens.scales), of, y)?;
    let source = match tokens.norm {
        Some((norm, eps)) => Source::RmsNorm { weight: arguments.read("norm", norm)?, eps },
        None => Source::Plain,
    };
    Ok(raw::Gemv { source, x: arguments.read("x", tokens.x)?.cast(), x_element: X::KIND, ..call })
}

/// Holds the buffers of a product but for its inputs.
fn outputs<'a, E: DeviceElement>(
    arguments: &mut Arguments<'a>,
    weight: &'a Weight,
    (m, act_scales): (usize, ActScales),
    outputs: Outputs<'a, E>,
    y: &'a mut CudaViewMut<'_, E>,
) -> Result<raw::Gemv> {
    let (n, k, format) = (weight.n(), weight.k(), weight.format());
    let (bias, residual, gate) = match outputs {
        Outputs::Added(Epilogue { bias, residual }) => (bias, residual, None),
        Outputs::Gated(bias, activation) => (bias, None, Some(activation)),
    };
    let wide = if gate.is_some() { n / 2 } else { n };
    bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    residual.map_or(Ok(()), |residual| check_len("residual", m * n, residual.len()))?;
    check_len("y", product("m", &[m, wide])?, y.len())?;
    Ok(raw::Gemv {
        format,
        m,
        n,
        k,
        layout: LAYOUT_VERSION,
        weight: weight.arguments(arguments)?,
        source: Source::Plain,
        x: Address::NULL,
        x_element: E::KIND,
        act_scales,
        bias: bias.map(|bias| arguments.read("bias", bias)).transpose()?,
        residual: residual.map(|r| arguments.read("residual", r)).transpose()?.map(Address::cast),
        gate,
        y: arguments.write("y", y)?.cast(),
        element: E::KIND,
    })
}
