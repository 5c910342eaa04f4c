//! Weights in the packed layout, which every device reads.

use crate::arguments::{MorayBytesMut, borrow, create, destroy, give};
use crate::format::MorayFormat;
use crate::quantized::MorayQuantized;
use crate::sections::{MoraySections, MoraySectionsMut};
use crate::status::{MorayStatus, guard};
use moray::w4a8::{PackedView, PackedWeight, pack_into};

/// A packed weight: of its own memory, or over the caller's. Never changes, so that any number of threads may use it.
#[derive(Debug)]
pub struct MorayWeight(Memory);

#[derive(Debug)]
enum Memory {
    Own(PackedWeight),
    /// For as long as the caller keeps it, which is longer than the handle.
    Callers(PackedView<'static>),
}

impl MorayWeight {
    pub(crate) fn view(&self) -> PackedView<'_> {
        match &self.0 {
            Memory::Own(weight) => weight.view(),
            Memory::Callers(view) => *view,
        }
    }
}

/// Packs a plain weight into memory of the library's. The plain one is not needed any more then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_pack(weight: *const MorayQuantized, out: *mut *mut MorayWeight) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { &borrow("weight", weight)?.weight };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayWeight(Memory::Own(PackedWeight::pack(weight))))) }
    })
}

/// Packs a plain weight into the caller's memory: to be kept, written to a file, copied to a device.
///
/// Fails with `MORAY_STATUS_LENGTH` for a section of another size than `moray_section_bytes` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_pack(weight: *const MorayQuantized, memory: *const MoraySectionsMut) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (weight, memory) = unsafe { (&borrow("weight", weight)?.weight, borrow("memory", memory)?) };
        // SAFETY: the caller's.
        Ok(pack_into(weight, unsafe { memory.packed()? })?)
    })
}

/// Takes a packed weight where it is: the sections stay the caller's, unchanged until the handle is destroyed. They begin at
/// multiples of 4 bytes; at multiples of 64 they are read fastest.
///
/// Fails with `MORAY_STATUS_LENGTH` for a section of another size, `MORAY_STATUS_MISALIGNED`, and `MORAY_STATUS_VALUE` for
/// whole-numbered scales above 16. What the codes and the other scales are is not looked at.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_borrow(
    sections: *const MoraySections,
    n: usize,
    k: usize,
    format: *const MorayFormat,
    out: *mut *mut MorayWeight,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (sections, format) = unsafe { (borrow("sections", sections)?, borrow("format", format)?.read()?) };
        // SAFETY: the caller's.
        let view = PackedView::new(n, k, format, unsafe { sections.packed()? })?;
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(MorayWeight(Memory::Callers(view)))) }
    })
}

/// Ends a packed weight; memory that it was lent stays as it is. Null is none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_destroy(weight: *mut MorayWeight) {
    // SAFETY: the caller's.
    unsafe { destroy(weight) }
}

/// Says what a packed weight is: its sizes, its format and where its sections are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_describe(
    weight: *const MorayWeight,
    n: *mut usize,
    k: *mut usize,
    format: *mut MorayFormat,
    sections: *mut MoraySections,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { borrow("weight", weight)? }.view();
        let packed = weight.sections();
        let [codes, channel, group, offset] = packed.into_array().map(crate::MorayBytes::of);
        // SAFETY: the caller's.
        unsafe {
            give("n", n, weight.n())?;
            give("k", k, weight.k())?;
            give("format", format, MorayFormat::of(weight.format()))?;
            give("sections", sections, MoraySections { codes, channel, group, offset })
        }
    })
}

/// Restores the plain codes and scales: the inverse of packing.
///
/// Fails with `MORAY_STATUS_VALUE` where the caller's memory holds numbers that no weight has.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_unpack(weight: *const MorayWeight, out: *mut *mut MorayQuantized) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { borrow("weight", weight)? }.view();
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(weight.unpack()?.into())) }
    })
}

/// Writes row `row` as numbers, f32 [K]: for an embedding that shares its matrix with the output layer.
///
/// Fails with `MORAY_STATUS_INDEX` unless `row` is below N, `MORAY_STATUS_LENGTH` unless `values` has K elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_weight_row(
    weight: *const MorayWeight,
    row: usize,
    values: MorayBytesMut,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { borrow("weight", weight)? }.view();
        // SAFETY: the caller's.
        Ok(weight.dequantize_row(row, unsafe { values.write("values")? })?)
    })
}
