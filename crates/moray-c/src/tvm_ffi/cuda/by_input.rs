//! Products that read only the weights of large inputs, over tensors of a CUDA device.

use super::{CUDA, NONE, bytes, rows, stream};
use crate::arguments::MorayBytes;
#[cfg(feature = "cuda-input-sparse")]
use crate::cuda::call::{launch, prepare};
#[cfg(not(feature = "cuda-input-sparse"))]
use crate::cuda::no_operation::{launch, prepare};
use crate::cuda::of_number;
use crate::status::{Fault, Outcome};
use crate::tvm_ffi::call::Arguments;
use crate::tvm_ffi::functions::Returned;
use crate::tvm_ffi::tensor::{F32, I64, Rows, U8};
use crate::{MorayCudaByInput, MorayCudaByInputFourBit, MorayCudaInputRows};

/// What both products begin with: y [.., N] and x [.., K] of as many tokens.
struct Operands {
    y: Rows,
    x: Rows,
    m: usize,
    n: usize,
    k: usize,
}

impl Operands {
    /// # Safety
    /// As [`Arguments::tensor`].
    unsafe fn of(arguments: &mut Arguments<'_>) -> Outcome<Self> {
        arguments.expect_device(CUDA);
        // SAFETY: the caller's.
        let (y, x) = unsafe { (arguments.tensor("y")?.of("y", F32)?, arguments.tensor("x")?.of("x", F32)?) };
        let (Some((&n, tokens)), Some((&k, of_x))) = (y.shape.split_last(), x.shape.split_last()) else {
            let got = format!("shapes {:?} and {:?}", y.shape, x.shape);
            return Err(Fault::unsupported("y", "1 dimension or more, as x", got));
        };
        if tokens != of_x {
            return Err(Fault::Sizes { what: "y", expected: [of_x, &[n]].concat(), got: y.shape });
        }
        Ok(Operands { m: tokens.iter().product(), n, k, y, x })
    }

    /// Bias and residual.
    ///
    /// # Safety
    /// As [`Arguments::tensor`].
    unsafe fn added(&self, arguments: &mut Arguments<'_>) -> Outcome<(MorayBytes, MorayBytes)> {
        // SAFETY: the caller's.
        unsafe { Ok((rows(arguments, "bias", F32, &[self.n])?, rows(arguments, "residual", F32, &self.y.shape)?)) }
    }
}

/// `(y, x, columns, threshold, bias, residual)`
pub(in crate::tvm_ffi) unsafe fn cuda_by_input(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let operands = unsafe { Operands::of(arguments)? };
    // SAFETY: the caller's.
    let columns = unsafe { arguments.tensor("columns")? };
    let [inputs, width] = columns.matrix("columns")?;
    if inputs != operands.k || width < operands.n {
        let expected = format!("{} rows of {} outputs or more", operands.k, operands.n);
        return Err(Fault::Argument { what: "columns", expected, got: format!("shape {:?}", columns.shape) });
    }
    let threshold = arguments.number("threshold")? as f32;
    // SAFETY: the caller's.
    let (bias, residual) = unsafe { operands.added(arguments)? };
    arguments.end()?;
    if operands.m == 0 {
        return Ok(None);
    }
    let Operands { y, x, m, n, k } = operands;
    let call = MorayCudaByInput {
        struct_size: size_of::<MorayCudaByInput>() as u32,
        dtype: columns.float("columns")?,
        threshold,
        m,
        n,
        k,
        w: columns.read(),
        row_bytes: width * columns.element_bytes(),
        x: x.read(),
        bias,
        residual,
        y: y.write(),
    };
    // SAFETY: the caller's.
    unsafe { launch(of_number(y.device_id)?, stream(y.device_id), &call)? };
    Ok(None)
}

/// Group size and offset of a weight of 4 bits.
///
/// # Safety
/// As [`Arguments::name`].
unsafe fn groups(arguments: &mut Arguments<'_>, n: usize, k: usize) -> Outcome<MorayCudaInputRows> {
    let group_size = arguments.size("group_size")?;
    let narrow = u32::try_from(group_size);
    let group_size = narrow.map_err(|_| Fault::unsupported("group_size", "a small number", group_size))?;
    // SAFETY: the caller's.
    let offset = unsafe { arguments.offset()? };
    Ok(MorayCudaInputRows { n, k, rows: NONE, scales: NONE, group_size, offset })
}

fn product(m: usize, weight: MorayCudaInputRows) -> MorayCudaByInputFourBit {
    MorayCudaByInputFourBit {
        struct_size: size_of::<MorayCudaByInputFourBit>() as u32,
        threshold: 0.0,
        m,
        weight,
        x: MorayBytes::NONE,
        bias: MorayBytes::NONE,
        residual: MorayBytes::NONE,
        y: NONE,
        workspace: NONE,
        counters: NONE,
    }
}

/// `(sizes: i64 [2] of the CPU, m, n, k, group_size, offset, device)`
pub(in crate::tvm_ffi) unsafe fn cuda_by_input_four_bit_scratch(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let out = unsafe { arguments.tensor("sizes")? }.of("sizes", I64)?.shaped("sizes", &[2])?;
    let (m, n, k) = (arguments.size("m")?, arguments.size("n")?, arguments.size("k")?);
    // SAFETY: the caller's.
    let weight = unsafe { groups(arguments, n, k)? };
    let cuda = of_number(arguments.size("device")?)?;
    arguments.end()?;
    let sizes = [prepare(cuda, &product(m, weight))?, n.div_ceil(128) * size_of::<u32>()];
    // SAFETY: the caller's.
    unsafe { out.write().write::<i64>("sizes")? }.copy_from_slice(&sizes.map(|size| size as i64));
    Ok(None)
}

/// `(y, x, rows, scales, group_size, offset, threshold, bias, residual, workspace, counters)`
pub(in crate::tvm_ffi) unsafe fn cuda_by_input_four_bit(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let operands = unsafe { Operands::of(arguments)? };
    // SAFETY: the caller's.
    let (rows, scales) =
        unsafe { (arguments.tensor("rows")?.of("rows", U8)?, arguments.tensor("scales")?.of("scales", U8)?) };
    // SAFETY: the caller's.
    let weight = unsafe { groups(arguments, operands.n, operands.k)? };
    let threshold = arguments.number("threshold")? as f32;
    // SAFETY: the caller's.
    let (bias, residual) = unsafe { operands.added(arguments)? };
    // SAFETY: the caller's.
    let (workspace, counters) = unsafe { (bytes(arguments, "workspace")?, bytes(arguments, "counters")?) };
    arguments.end()?;
    let Operands { y, x, m, .. } = operands;
    if m == 0 {
        return Ok(None);
    }
    let weight = MorayCudaInputRows { rows: rows.write(), scales: scales.write(), ..weight };
    let (x, y_memory) = (x.read(), y.write());
    let call = MorayCudaByInputFourBit {
        threshold,
        x,
        bias,
        residual,
        y: y_memory,
        workspace,
        counters,
        ..product(m, weight)
    };
    // SAFETY: the caller's.
    unsafe { launch(of_number(y.device_id)?, stream(y.device_id), &call)? };
    Ok(None)
}
