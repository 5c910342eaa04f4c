//! The functions: arguments in their order, then the call of the C ABI or of the library.

use super::call::Arguments;
use super::tensor::{F32, I32, I64, Rows};
use crate::MORAY_ABI_VERSION;
use crate::arguments::MorayBytes;
use crate::dtype::with_dtype;
use crate::status::Outcome;
use moray::element::Element;
use moray::w4a8::{
    Activations, Epilogue, Format, PackedView, QuantizedWeight, linear as multiply, pack_into, quantize,
};
use moray::{Cpu, Isa};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

thread_local! {
    /// Tokens that a thread's calls have rounded, in memory that they use again.
    static SCRATCH: RefCell<Activations> = RefCell::new(Activations::default());
}

/// Devices by process and number of threads: a forked process has none of its parent's threads.
static CPUS: Mutex<BTreeMap<(u32, usize), Arc<Cpu>>> = Mutex::new(BTreeMap::new());

/// The device of so many threads that calls share; 0 for all cores.
pub(super) fn cpu(threads: usize) -> Outcome<Arc<Cpu>> {
    let available = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { available() } else { threads };
    let mut cpus = CPUS.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (std::process::id(), threads);
    if let Some(cpu) = cpus.get(&key) {
        return Ok(Arc::clone(cpu));
    }
    let cpu = Arc::new(Cpu::new(threads, Isa::detect())?);
    cpus.insert(key, Arc::clone(&cpu));
    Ok(cpu)
}

pub(super) type Returned = Outcome<Option<i64>>;

/// `() -> int`
pub(super) unsafe fn abi_version(arguments: &mut Arguments<'_>) -> Returned {
    arguments.end()?;
    Ok(Some(i64::from(MORAY_ABI_VERSION)))
}

/// `(sizes: i64 [4], n, k, format..)`
pub(super) unsafe fn section_bytes(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let out = unsafe { arguments.tensor("sizes")? }.of("sizes", I64)?.shaped("sizes", &[4])?;
    let (n, k) = (arguments.size("n")?, arguments.size("k")?);
    // SAFETY: the caller's.
    let format = unsafe { arguments.format()? }.read()?;
    arguments.end()?;
    let sizes = format.section_bytes(n, k)?.into_array().map(|size| size as i64);
    // SAFETY: the caller's.
    unsafe { out.write().write::<i64>("sizes")? }.copy_from_slice(&sizes);
    Ok(None)
}

/// `w, format..`, a call's last arguments.
///
/// # Safety
/// As [`Arguments::tensor`].
unsafe fn matrix(arguments: &mut Arguments<'_>) -> Outcome<(Rows, Format)> {
    // SAFETY: the caller's.
    let w = unsafe { arguments.tensor("w")? };
    // SAFETY: the caller's.
    let format = unsafe { arguments.format()? }.read()?;
    arguments.end()?;
    Ok((w, format))
}

/// Quantizes `w, format..`, a call's last arguments.
///
/// # Safety
/// As [`Arguments::tensor`].
pub(super) unsafe fn quantized(arguments: &mut Arguments<'_>) -> Outcome<QuantizedWeight> {
    // SAFETY: the caller's.
    let (w, format) = unsafe { matrix(arguments)? };
    // SAFETY: the caller's.
    unsafe { rounded("w", &w, format) }
}

/// Quantizes a matrix.
///
/// # Safety
/// As [`Arguments::tensor`].
pub(super) unsafe fn rounded(what: &'static str, w: &Rows, format: Format) -> Outcome<QuantizedWeight> {
    let [n, k] = w.matrix(what)?;
    Ok(with_dtype!(what, w.float(what)?, E => {
        // SAFETY: the caller's.
        let values: Vec<f32> = unsafe { w.read().read::<E>(what)? }.iter().map(|&value| Element::to_f32(value)).collect();
        quantize(&values, n, k, format)?
    }))
}

/// `(codes, channel, group, offset, w, format..)`
pub(super) unsafe fn pack(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let sections = unsafe { arguments.sections_mut()? };
    // SAFETY: the caller's.
    let (w, format) = unsafe { matrix(arguments)? };
    for (what, section) in sections.named() {
        section.check_apart(what, &[("w", w.read().range())])?;
    }
    // SAFETY: the caller's.
    let quantized = unsafe { rounded("w", &w, format)? };
    // SAFETY: the caller's.
    pack_into(&quantized, unsafe { sections.packed()? })?;
    Ok(None)
}

/// `(y, x, codes, channel, group, offset, order, bias, residual, format.., act_scales, threads)`
pub(super) unsafe fn linear(arguments: &mut Arguments<'_>) -> Returned {
    // SAFETY: the caller's.
    let (y, x) = unsafe { (arguments.tensor("y")?, arguments.tensor("x")?) };
    let ([m, n], [_, k]) = (y.matrix("y")?, x.matrix("x")?);
    let x = x.shaped("x", &[m, k])?;
    // SAFETY: the caller's.
    let sections = unsafe { arguments.sections()? };
    let mut vector = |what, dtype, len| -> Outcome<MorayBytes> {
        // SAFETY: the caller's.
        let found = unsafe { arguments.optional(what)? };
        let checked = found.map(|rows| rows.of(what, dtype)?.shaped(what, &[len])).transpose()?;
        Ok(checked.map_or(MorayBytes::NONE, |rows| rows.read()))
    };
    let (order, bias) = (vector("order", I32, k)?, vector("bias", F32, n)?);
    // SAFETY: the caller's.
    let residual = unsafe { arguments.optional("residual")? };
    let residual = residual.map(|rows| rows.of("residual", y.dtype)?.shaped("residual", &[m, n])).transpose()?;
    let residual = residual.map_or(MorayBytes::NONE, |rows| rows.read());
    // SAFETY: the caller's.
    let format = unsafe { arguments.format()? }.read()?;
    // SAFETY: the caller's.
    let scales = crate::activations::scales(unsafe { arguments.act_scales()? })?;
    let cpu = cpu(arguments.size("threads")?)?;
    arguments.end()?;
    // SAFETY: the caller's.
    let weight = PackedView::new(n, k, format, unsafe { sections.packed()? })?;
    let read = [("x", x.read()), ("order", order), ("bias", bias), ("residual", residual)];
    let read = read.into_iter().chain(sections.named()).map(|(what, bytes)| (what, bytes.range()));
    y.write().check_apart("y", &read.collect::<Vec<_>>())?;
    SCRATCH.with_borrow_mut(|activations| {
        activations.set_scales(scales);
        with_dtype!("x", x.float("x")?, E => {
            // SAFETY: the caller's.
            let (x, order) = unsafe { (x.read().read::<E>("x")?, order.optional::<u32>("order")?) };
            match order {
                Some(order) => activations.quantize_in_order(&cpu, x, order, m, k)?,
                None => activations.quantize(&cpu, x, m, k)?,
            }
        });
        with_dtype!("y", y.float("y")?, E => {
            // SAFETY: the caller's; apart from what is read.
            let (bias, residual, y) = unsafe { (bias.optional("bias")?, residual.optional::<E>("residual")?, y.write().write("y")?) };
            multiply(&cpu, weight, activations, Epilogue { bias, residual }, y)?;
        });
        Ok(None)
    })
}
