//! The multiplication on the device: check, select, launch.

use super::raw;
use super::variant::{Architecture, Variant, sum_group};
use super::{Activations, Weight};
use crate::device::{Address, Arguments, Device, DeviceElement};
use crate::error::{Error, Result, check_len, product};
use crate::w4a8::LAYOUT_VERSION;
use cudarc::driver::{CudaSlice, CudaView, CudaViewMut};

/// What is added to the product before it is rounded to the output's type.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a, E> {
    /// f32 \[N\].
    pub bias: Option<&'a CudaSlice<f32>>,
    /// \[M, N\] row-major.
    pub residual: Option<&'a CudaView<'a, E>>,
}

impl<E> Default for Epilogue<'_, E> {
    fn default() -> Self {
        Epilogue { bias: None, residual: None }
    }
}

/// Where blocks that share an output add their parts, and where those are counted that have come: enough for every variant that [`Variant::choose`] gives, and so
/// for every weight. Calls on one stream can share it.
#[derive(Debug)]
pub struct Workspace {
    partial: CudaSlice<u32>,
    arrived: CudaSlice<u32>,
}

impl Workspace {
    /// Allocates for a device: 384 KiB for each multiprocessor.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit.
    pub fn new(device: &Device) -> Result<Self> {
        let (partial, arrived) = Variant::most_workspace_words(Architecture::of(device));
        Self::with_words(device, partial, arrived)
    }

    /// Allocates for a variant of one's own, see [`Variant::workspace_words`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit.
    pub fn with_words(device: &Device, partial: usize, arrived: usize) -> Result<Self> {
        Ok(Workspace { partial: device.zeros(partial)?, arrived: device.zeros(arrived)? })
    }

    /// What blocks that share an output, or wait for each other, count in: zeros between calls, for whoever keeps a copy of the memory.
    pub fn counters(&self) -> CudaView<'_, u32> {
        self.arrived.as_view()
    }

    /// Holds the counters for a call: zeros, which it leaves so.
    pub(super) fn arrivals<'a>(&'a mut self, arguments: &mut Arguments<'a>) -> Result<Address<u32>> {
        arguments.write("workspace", &mut self.arrived)
    }
}

/// Multiplies quantized activations with a packed weight, as [`crate::w4a8::linear`] does:
/// y = act_scale · (codes · wᵀ) + bias + residual, with fine scales y = Σ_b act_scale\[b\] · (codes\[b\] · w\[b\]ᵀ) + bias + residual.
///
/// | argument | shape | type |
/// |---|---|---|
/// | `weight` | \[N, K\] | packed |
/// | `x` | \[M, K\] | int8 with f32 act_scale \[M\] or \[⌈K/128⌉, M\] |
/// | `epilogue.bias` | \[N\] | f32 |
/// | `epilogue.residual` | \[M, N\] | as `y` |
/// | `y` | \[M, N\] row-major | f32, f16 or bf16 |
///
/// # Errors
/// [`Error::Shape`] if `x` and `weight` differ in K, [`Error::Length`] for a buffer of another size, [`Error::Misaligned`] for
/// one that does not start at a multiple of 16 bytes, [`Error::Unsupported`] for memory of another context,
/// [`Error::Launch`] if the driver refuses.
pub fn linear<E: DeviceElement>(
    device: &Device,
    weight: &Weight,
    x: &Activations,
    epilogue: Epilogue<'_, E>,
    y: &mut CudaViewMut<'_, E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let (m, n, k) = (x.m(), weight.n(), weight.k());
    let variant = Variant::choose(Architecture::of(device), weight.format(), x.scales(), m, n, k);
    linear_with(device, variant, weight, x, epilogue, y, workspace)
}

/// Multiplies as [`linear`] with a kernel of one's choice.
///
/// # Errors
/// As [`linear`]; [`Error::Shape`] for a variant that does not take the shape, [`Error::Length`] for too small a workspace.
pub fn linear_with<E: DeviceElement>(
    device: &Device,
    variant: Variant,
    weight: &Weight,
    x: &Activations,
    epilogue: Epilogue<'_, E>,
    y: &mut CudaViewMut<'_, E>,
    workspace: &mut Workspace,
) -> Result<()> {
    let (m, n, k, format) = (x.m(), weight.n(), weight.k(), weight.format());
    if x.k() != k {
        return Err(Error::Shape { what: "x", expected: "the weight's K", got: x.k() });
    }
    variant.check(m)?;
    let (partial, arrived) = variant.workspace_words(format, x.scales(), m, n, k);
    for (expected, got) in [(partial, workspace.partial.len()), (arrived, workspace.arrived.len())] {
        if got < expected {
            return Err(Error::Length { what: "workspace", expected, got });
        }
    }
    let outputs = product("m", &[m, n])?;
    epilogue.bias.map_or(Ok(()), |bias| check_len("bias", n, bias.len()))?;
    epilogue.residual.map_or(Ok(()), |residual| check_len("residual", outputs, residual.len()))?;
    check_len("y", outputs, y.len())?;
    let mut arguments = Arguments::new(device);
    let weight = weight.arguments(&mut arguments)?;
    let act_scales = x.scales();
    let (x, act_scale, sums) = x.arguments(&mut arguments, sum_group(format, act_scales))?;
    let call = raw::Linear {
        format,
        variant,
        m,
        n,
        k,
        layout: LAYOUT_VERSION,
        weight,
        x,
        act_scales,
        act_scale,
        sums,
        bias: epilogue.bias.map(|bias| arguments.read("bias", bias)).transpose()?,
        residual: epilogue.residual.map(|r| arguments.read("residual", r)).transpose()?.map(Address::cast),
        y: arguments.write("y", y)?.cast(),
        element: E::KIND,
        partial: arguments.write("workspace", &mut workspace.partial)?,
        arrived: arguments.write("workspace", &mut workspace.arrived)?,
    };
    arguments.launch(&call)
}
