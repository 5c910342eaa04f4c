//! Rows of a packed weight: check, launch.

use super::{ALIGNMENT, MAX_GRID_Y, check_weight, name_sections};
use crate::device::{Address, Buffer, Device, Enqueue, Queue, product};
use crate::error::{Error, Result};
use crate::w4a8::cuda::mirror::{ROWS, RowsParams};
use crate::w4a8::{Bits, Format, GroupScale, Sections};

/// Rows of a packed weight as numbers, [`crate::w4a8::cuda::dequantize_rows`] by addresses. Every address is a multiple of 16.
#[derive(Debug, Clone, Copy)]
pub struct Rows {
    /// Of the weight.
    pub format: Format,
    /// Rows of the weight, at most 2³⁰.
    pub n: usize,
    /// Their width, a multiple of 32.
    pub k: usize,
    /// Version of the packed layout that the weight is in.
    pub layout: u32,
    /// The sections of [`Format::section_bytes`]; null for those that the format does not have.
    pub weight: Sections<Address>,
    /// Rows that are asked for, 1 to 65535.
    pub m: usize,
    /// u32 \[M\].
    pub rows: Address<u32>,
    /// f32 \[M, K\].
    pub y: Address<f32>,
}

impl Enqueue for Rows {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        check_weight(self.format, self.n, self.k, self.layout)?;
        match self.m == 0 || self.m > MAX_GRID_Y {
            true => Err(Error::Shape { what: "rows", expected: "1 to 65535", got: self.m }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        name_sections(self.format, self.n, self.k, &self.weight, show);
        show(Buffer::read("rows", self.rows, self.m).aligned(ALIGNMENT));
        show(Buffer::write("y", self.y, product([self.m, self.k])).aligned(ALIGNMENT));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let Sections { codes, channel, group, offset } = self.weight.map(Address::get);
        let params = RowsParams {
            rows: self.rows.get(),
            codes,
            scale: channel,
            group_scale: group,
            offset,
            y: self.y.get(),
            n: self.n as u32,
            k: self.k as u32,
            bits: if self.format.bits == Bits::Four { 4 } else { 8 },
            group_scale_kind: self.format.group_scale().map_or(0, |scale: GroupScale| scale as u32),
            group_size: self.format.group_size().unwrap_or(self.k) as u32,
            offset_kind: self.format.offset() as u32,
        };
        queue.launch(ROWS, [params.k.div_ceil(ROWS.threads), self.m as u32, 1], params)
    }
}
