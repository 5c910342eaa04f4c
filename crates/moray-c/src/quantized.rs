//! Weights as plain codes and scales: what quantizers and checkpoints give, and packing takes.

use crate::arguments::{MorayBytes, MorayBytesMut, borrow, create, destroy, give};
use crate::dtype::{MorayDtype, with_dtype};
use crate::format::MorayFormat;
use crate::sections::MoraySections;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::element::Element;
use moray::w4a8::{QuantizedWeight, quantize};

/// A weight matrix w[N, K] as codes and scales in the order of rows. Never changes, so that any number of threads may read it.
#[derive(Debug)]
pub struct MorayQuantized {
    pub(crate) weight: QuantizedWeight,
    /// The input of each column, where that is not its own.
    pub(crate) order: Option<Vec<u32>>,
}

impl MorayQuantized {
    /// The weight, for forms that have no place for an order of columns.
    pub(crate) fn in_own_order(&self, what: &'static str) -> Outcome<&QuantizedWeight> {
        match self.order {
            None => Ok(&self.weight),
            Some(_) => {
                let got = "columns in the order of their groups";
                Err(Fault::unsupported(what, "columns in their own order", got))
            }
        }
    }
}

impl From<QuantizedWeight> for MorayQuantized {
    fn from(weight: QuantizedWeight) -> Self {
        MorayQuantized { weight, order: None }
    }
}

/// Quantizes w [N, K], row-major in `dtype`, by rounding to nearest.
///
/// Fails with `MORAY_STATUS_LENGTH` unless `w` has N * K elements, `MORAY_STATUS_SHAPE` for sizes that the format does not take,
/// `MORAY_STATUS_VALUE` for a weight that is not finite, `MORAY_STATUS_UNSUPPORTED` for formats that no rounding gives (zero
/// points, groups of 8 bits).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantize(
    w: MorayBytes,
    dtype: MorayDtype,
    n: usize,
    k: usize,
    format: *const MorayFormat,
    out: *mut *mut MorayQuantized,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let format = unsafe { borrow("format", format)? }.read()?;
        let make = || {
            let w: Vec<f32> = with_dtype!("dtype", dtype, E => {
                // SAFETY: the caller's.
                unsafe { w.read::<E>("w")? }.iter().map(|&w| Element::to_f32(w)).collect()
            });
            Ok(quantize(&w, n, k, format)?.into())
        };
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

/// Copies codes and scales that a quantizer or a checkpoint has already, see `MoraySections`.
///
/// Fails as `moray_quantize`, with `MORAY_STATUS_VALUE` for codes or scales out of range, `MORAY_STATUS_UNSUPPORTED` for other
/// arrays than the format has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantized_create(
    parts: *const MoraySections,
    n: usize,
    k: usize,
    format: *const MorayFormat,
    out: *mut *mut MorayQuantized,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (parts, format) = unsafe { (borrow("parts", parts)?, borrow("format", format)?.read()?) };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(parts.plain(format, n, k)?.into())) }
    })
}

/// Ends a plain weight; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantized_destroy(weight: *mut MorayQuantized) {
    // SAFETY: the caller's.
    unsafe { destroy(weight) }
}

/// Says what a plain weight is: its sizes, its format and where its arrays are. They are there until the weight is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantized_describe(
    weight: *const MorayQuantized,
    n: *mut usize,
    k: *mut usize,
    format: *mut MorayFormat,
    parts: *mut MoraySections,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { &borrow("weight", weight)?.weight };
        // SAFETY: the caller's.
        unsafe {
            give("n", n, weight.n())?;
            give("k", k, weight.k())?;
            give("format", format, MorayFormat::of(weight.format()))?;
            give("parts", parts, MoraySections::of(weight))
        }
    })
}

/// Writes the numbers that a plain weight stands for: f32 [N, K].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantized_dequantize(weight: *const MorayQuantized, w: MorayBytesMut) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { &borrow("weight", weight)?.weight };
        // SAFETY: the caller's.
        let w = unsafe { w.write::<f32>("w")? };
        let expected = weight.n() * weight.k();
        if w.len() != expected {
            return Err(moray::Error::Length { what: "w", expected, got: w.len() }.into());
        }
        let k = weight.k();
        w.iter_mut().enumerate().for_each(|(i, w)| *w = weight.dequantize_at(i / k, i % k) as f32);
        Ok(())
    })
}
