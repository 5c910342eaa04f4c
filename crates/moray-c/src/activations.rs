//! Activations in int8.

use crate::arguments::{MorayBytes, borrow, check_memory, create, destroy, give};
use crate::cpu::MorayCpu;
use crate::dtype::{MorayDtype, with_dtype};
use crate::status::{Fault, MorayStatus, Outcome, guard};
use moray::w4a8::{ActScales, Activations};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

/// How finely activations are scaled: one of the `MORAY_ACT_SCALES_..` constants.
pub type MorayActScales = u32;

/// One scale for each token.
pub const MORAY_ACT_SCALES_TOKEN: MorayActScales = 0;
/// One for each token and each 128 of K.
pub const MORAY_ACT_SCALES_FINE: MorayActScales = 1;

/// Tokens quantized to int8, in memory made once. One thread writes it at a time; any number may multiply with it when none does.
#[derive(Debug)]
pub struct MorayActivations {
    max_m: usize,
    max_k: usize,
    inner: RwLock<Activations>,
}

impl MorayActivations {
    /// The tokens, to be read.
    pub(crate) fn read(&self, what: &'static str) -> Outcome<RwLockReadGuard<'_, Activations>> {
        unless_busy(what, self.inner.try_read())
    }

    /// The tokens, to be replaced by so many.
    fn write(&self, m: usize, k: usize) -> Outcome<RwLockWriteGuard<'_, Activations>> {
        let (m_fits, k_fits) = (m <= self.max_m, k <= self.max_k);
        if !(m_fits && k_fits) {
            let (what, got) = if m_fits { ("k", k) } else { ("m", m) };
            return Err(moray::Error::Shape { what, expected: "at most what the handle was made for", got }.into());
        }
        unless_busy("activations", self.inner.try_write())
    }
}

/// What a lock guards, unless a thread holds it; a call that failed half-way leaves whole buffers.
pub(crate) fn unless_busy<G>(what: &'static str, lock: Result<G, TryLockError<G>>) -> Outcome<G> {
    match lock {
        Err(TryLockError::WouldBlock) => Err(Fault::Busy { what }),
        Err(TryLockError::Poisoned(poisoned)) => Ok(PoisonError::into_inner(poisoned)),
        Ok(guard) => Ok(guard),
    }
}

pub(crate) fn scales(scales: MorayActScales) -> Outcome<ActScales> {
    match scales {
        MORAY_ACT_SCALES_TOKEN => Ok(ActScales::Token),
        MORAY_ACT_SCALES_FINE => Ok(ActScales::Fine),
        other => Err(Fault::unsupported("scales", "a MORAY_ACT_SCALES_ constant", other)),
    }
}

/// Makes memory for up to `max_m` tokens of up to `max_k` features, which no later call makes more of.
///
/// Fails with `MORAY_STATUS_OUT_OF_MEMORY`, and `MORAY_STATUS_SHAPE` unless both are at least 1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_activations_create(
    max_m: usize,
    max_k: usize,
    scales: MorayActScales,
    out: *mut *mut MorayActivations,
) -> MorayStatus {
    guard(|| {
        let scales = self::scales(scales)?;
        for (what, got) in [("max_m", max_m), ("max_k", max_k)] {
            if got == 0 {
                return Err(moray::Error::Shape { what, expected: "at least 1", got }.into());
            }
        }
        // codes, and less than that of scales and sums
        let padded = max_k.checked_next_multiple_of(64).and_then(|k| k.checked_add(64));
        check_memory("activations", padded.and_then(|k| k.checked_mul(max_m)?.checked_mul(2)))?;
        let make = || {
            let mut inner = Activations::default();
            inner.set_scales(scales);
            inner.reserve(max_m, max_k);
            Ok(MorayActivations { max_m, max_k, inner: RwLock::new(inner) })
        };
        // SAFETY: the caller's.
        unsafe { create(out, make) }
    })
}

/// Ends activations; null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_activations_destroy(activations: *mut MorayActivations) {
    // SAFETY: the caller's.
    unsafe { destroy(activations) }
}

/// Quantizes x [M, K], row-major in `dtype`, to codes and scales: scale = max |x| / 127 over what shares it, code = x / scale to
/// nearest. A token with a value that is not finite gets a NaN scale, and so NaN results. Replaces what was held.
///
/// `order`, u32 [K] or null: feature `order[j]` of each token goes in place j, for a weight whose columns are in that order.
///
/// Fails with `MORAY_STATUS_SHAPE` unless M is 1 to `max_m` and K a multiple of 32 up to `max_k`, `MORAY_STATUS_LENGTH` unless `x`
/// has M * K elements, `MORAY_STATUS_INDEX` for an order past K.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_activations_quantize(
    cpu: *const MorayCpu,
    activations: *mut MorayActivations,
    x: MorayBytes,
    dtype: MorayDtype,
    m: usize,
    k: usize,
    order: MorayBytes,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (cpu, activations) = unsafe { (&borrow("cpu", cpu)?.0, borrow("activations", activations)?) };
        // SAFETY: the caller's.
        let order = unsafe { order.optional::<u32>("order")? };
        let mut activations = activations.write(m, k)?;
        with_dtype!("dtype", dtype, E => {
            // SAFETY: the caller's.
            let x = unsafe { x.read::<E>("x")? };
            match order {
                Some(order) => activations.quantize_in_order(cpu, x, order, m, k)?,
                None => activations.quantize(cpu, x, m, k)?,
            }
        });
        Ok(())
    })
}

/// Takes codes int8 [M, K] and scales that an engine has already: f32 [M], or [M, ceil(K / 128)] for fine ones. Replaces what was held.
///
/// Fails as `moray_activations_quantize`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_activations_set(
    activations: *mut MorayActivations,
    codes: MorayBytes,
    scale: MorayBytes,
    m: usize,
    k: usize,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let activations = unsafe { borrow("activations", activations)? };
        // SAFETY: the caller's.
        let (codes, scale) = unsafe { (codes.read("codes")?, scale.read("scale")?) };
        let mut activations = activations.write(m, k)?;
        let scales = activations.scales();
        Ok(activations.set_codes(scales, codes, scale, m, k)?)
    })
}

/// What activations hold. Addresses are those of the handle's memory, until the next call that writes it.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayActivationsView {
    /// Tokens M.
    pub m: usize,
    /// Features K.
    pub k: usize,
    /// int8 [M, K rounded up to 64]; those past K are 0.
    pub codes: MorayBytes,
    /// f32 [M] or [M, ceil(K / 128)].
    pub scale: MorayBytes,
    /// i32 [M, K rounded up to 64, / 32]: sums of the codes over each 32 of K.
    pub sums: MorayBytes,
}

/// Says what activations hold.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_activations_describe(
    activations: *const MorayActivations,
    out: *mut MorayActivationsView,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let activations = unsafe { borrow("activations", activations)? }.read("activations")?;
        let view = MorayActivationsView {
            m: activations.m(),
            k: activations.k(),
            codes: MorayBytes::of(activations.codes()),
            scale: MorayBytes::of(activations.scale()),
            sums: MorayBytes::of(activations.sums()),
        };
        // SAFETY: the caller's.
        unsafe { give("out", out, view) }
    })
}
