//! Products by input.

use super::{element, group};
use crate::by_input::MorayInputWeight;
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::cuda::{MorayCudaByInput, MorayCudaByInputFourBit, MorayCudaInputRows};
use crate::status::{Fault, Outcome};
use crate::{MORAY_OFFSET_NONE, MorayBytesMut};
use moray::device::{Address, Device};
use moray::input_sparse::FourBitRows;
use moray::input_sparse::cuda::raw::{FourBit, Linear};

fn rows(weight: &MorayInputWeight) -> Outcome<FourBitRows<'_>> {
    let refused = || Fault::unsupported("weight", "one of 4 bits", "floating point");
    weight.0.four_bit_rows().ok_or_else(refused)
}

/// How a weight is stored, without addresses.
pub(crate) fn sizes(weight: &MorayInputWeight) -> Outcome<MorayCudaInputRows> {
    let packed = rows(weight)?;
    let of = |bytes| MorayBytesMut { data: std::ptr::null_mut(), bytes };
    Ok(MorayCudaInputRows {
        n: weight.0.n(),
        k: weight.0.k(),
        rows: of(packed.rows.len()),
        scales: of(packed.scales.len()),
        group_size: packed.group.map_or(0, |group| group.size as u32),
        offset: packed.group.map_or(MORAY_OFFSET_NONE, |group| group.offset as u32),
    })
}

/// Writes a weight into memory.
///
/// # Safety
/// As [`MorayBytesMut::write`], for each part.
pub(crate) unsafe fn pack(weight: &MorayInputWeight, memory: &MorayCudaInputRows) -> Outcome {
    let packed = rows(weight)?;
    for (what, from, to) in [("rows", packed.rows, memory.rows), ("scales", &packed.scales[..], memory.scales)] {
        // SAFETY: the caller's.
        let to = unsafe { to.write::<u8>(what)? };
        if to.len() != from.len() {
            return Err(moray::Error::Length { what, expected: from.len(), got: to.len() }.into());
        }
        to.copy_from_slice(from);
    }
    Ok(())
}

impl Fill for MorayCudaByInput {
    type Call = Linear;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<Linear> {
        Ok(Linear {
            w: lent.read_rows("w", self.w),
            element: element(self.dtype)?,
            row_bytes: self.row_bytes,
            x: lent.read("x", self.x),
            threshold: self.threshold,
            bias: lent.optional("bias", self.bias),
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            m: self.m,
            n: self.n,
            k: self.k,
        })
    }
}

impl Fill for MorayCudaByInputFourBit {
    type Call = FourBit;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<FourBit> {
        let weight = &self.weight;
        let mut call = FourBit {
            rows: lent.read("rows", weight.rows.as_read()),
            scales: lent.read("scales", weight.scales.as_read()),
            group: group(weight.group_size, weight.offset)?,
            x: lent.read("x", self.x),
            threshold: self.threshold,
            bias: lent.optional("bias", self.bias),
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            m: self.m,
            n: weight.n,
            k: weight.k,
            workspace: Address::NULL,
            counters: Address::NULL,
        };
        call.workspace = lent.write_within("workspace", self.workspace, Self::bytes(&call, device)).cast();
        call.counters = lent.write_within("counters", self.counters, call.counter_bytes()).cast();
        Ok(call)
    }

    fn bytes(call: &FourBit, _: &Device) -> usize {
        call.workspace_bytes()
    }
}
