//! 4-bit rows: how codes and scales lie in memory.
//!
//! gate and up: one record per neuron, so that a gathered neuron is one run of bytes: its d_model codes (16 bytes for
//! each 32: byte i holds value i low and value i + 16 high), then its scales as dwords: an f32 per channel; (f16, f16)
//! of two groups when symmetric; (f16 scale, f16 offset or u16 zero point) of one group otherwise.
//!
//! down: codes as above with features instead of inputs; scales apart, since a group is a block of `group_size`
//! neurons that share one scale for each feature: a row of d_model scales (and one of offsets or zero points) for each
//! block. Their order is the one in which unpacked codes arrive, see [`Columns`].
//!
//! Where all neurons are computed, gate and up may be packed instead, see [`RowForm`].

mod gather;
mod one_token;
mod panel;
mod row_form;
mod rows;

pub(crate) use row_form::RowForm;
pub(crate) use rows::{FourBitRows, ROW_TOKENS};

use super::weights::Matrix;
use crate::Cpu;
use crate::column_sums::{
    ColumnMatrix, RowScale, SEGMENT, SLACK, code_at, dequantize, form_of, pack_codes, scale_at, unsupported,
};
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::w4a8::{Offset, PackedWeight, QuantizedWeight, run_end};
use half::f16;

/// gate or up.
#[derive(Debug, Clone)]
pub(crate) struct RowMatrix {
    pub d: usize,
    /// What groups have besides a scale; none for a scale of the channel.
    pub offset: Option<Offset>,
    pub group_size: usize,
    /// Bytes of a record.
    pub stride: usize,
    records: Memory<u8>,
}

impl RowMatrix {
    fn new(what: &'static str, w: &QuantizedWeight) -> Result<Self> {
        let (offset, group_size) = form_of(what, w.format(), w.k())?;
        let d = w.k();
        let groups = d / group_size;
        let dwords = match offset {
            None => 1,
            Some(Offset::None) => groups.div_ceil(2),
            Some(Offset::F16 | Offset::ZeroPoint) => groups,
        };
        let stride = d / 2 + 4 * dwords;
        let mut records = Memory::zeroed(w.n() * stride + SLACK);
        for (j, record) in records.chunks_exact_mut(stride).take(w.n()).enumerate() {
            let (codes, scales) = record.split_at_mut(d / 2);
            pack_codes(|k| w.codes()[j * d + k], codes);
            let step = if offset == Some(Offset::None) { 2 } else { 4 };
            for (g, scales) in scales.chunks_mut(step).take(groups).enumerate() {
                match scale_at(w, j, g) {
                    RowScale::Channel(scale) => scales.copy_from_slice(&scale.to_le_bytes()),
                    RowScale::Group([scale, second]) => {
                        scales[..2].copy_from_slice(&scale.to_le_bytes());
                        if step == 4 {
                            scales[2..].copy_from_slice(&second.to_le_bytes());
                        }
                    }
                }
            }
        }
        Ok(RowMatrix { d, offset, group_size, stride, records })
    }

    /// All records and at least 16 bytes more.
    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// The segment after the run of K that a segment is in: one of the channel's scale has one run.
    pub(crate) fn run_end(&self, segment: usize) -> usize {
        match self.offset {
            None => self.d / SEGMENT,
            Some(_) => run_end(self.d, segment * SEGMENT) / SEGMENT,
        }
    }

    fn bytes(&self) -> usize {
        self.records.len() - SLACK
    }

    /// A neuron's codes and what is beside them.
    fn record(&self, j: usize) -> (&[u8], &[u8]) {
        self.records()[j * self.stride..(j + 1) * self.stride].split_at(self.d / 2)
    }

    fn row(&self, j: usize, row: &mut [f32]) {
        let (codes, scales) = self.record(j);
        let half = |at: usize| u16::from_le_bytes([scales[at], scales[at + 1]]);
        for (k, out) in row.iter_mut().enumerate() {
            let g = k / self.group_size;
            let (scale, second) = match self.offset {
                None => (f32::from_le_bytes([scales[0], scales[1], scales[2], scales[3]]), 0),
                Some(Offset::None) => (f16::from_bits(half(2 * g)).to_f32(), 0),
                Some(Offset::F16 | Offset::ZeroPoint) => (f16::from_bits(half(4 * g)).to_f32(), half(4 * g + 2)),
            };
            *out = dequantize(self.offset, code_at(codes, k), scale, second);
        }
    }
}

/// The three 4-bit matrices.
#[derive(Debug, Clone)]
pub(crate) struct FourBit {
    pub gate: RowForm,
    pub up: RowForm,
    pub down: ColumnMatrix,
}

impl FourBit {
    pub(crate) fn new(
        d_model: usize,
        d_ff: usize,
        gate: &QuantizedWeight,
        up: &QuantizedWeight,
        down: &QuantizedWeight,
    ) -> Result<Self> {
        let sizes = [("gate", gate, d_ff, d_model), ("up", up, d_ff, d_model), ("down", down, d_model, d_ff)];
        for (what, w, n, k) in sizes {
            let expected = "gate and up [d_ff, d_model], down [d_model, d_ff]";
            for (size, got) in [(n, w.n()), (k, w.k())] {
                if size != got {
                    return Err(Error::Shape { what, expected, got });
                }
            }
        }
        if d_model % SEGMENT != 0 {
            return Err(Error::Shape { what: "d_model", expected: "a multiple of 32", got: d_model });
        }
        Ok(FourBit {
            gate: RowForm::ByNeuron(RowMatrix::new("gate", gate)?),
            up: RowForm::ByNeuron(RowMatrix::new("up", up)?),
            down: ColumnMatrix::new("down", down)?,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.gate.bytes() + self.up.bytes() + self.down.bytes()
    }

    /// Row `j` of a matrix, which is that of neuron `number`.
    pub(crate) fn row(&self, matrix: Matrix, j: usize, number: usize, row: &mut [f32]) {
        match matrix {
            Matrix::Gate => self.gate.row(j, row),
            Matrix::Up => self.up.row(j, row),
            Matrix::Down => self.down.row(j, number, row),
        }
    }

    /// Puts the rows of gate or up into tiles.
    pub(crate) fn pack(&mut self, cpu: &Cpu, matrix: Matrix) -> Result<()> {
        let form = match matrix {
            Matrix::Gate => &mut self.gate,
            Matrix::Up => &mut self.up,
            Matrix::Down => return Err(unsupported("rows to pack", "down, whose rows are inputs")),
        };
        if let RowForm::ByNeuron(rows) = form {
            let all: Vec<u32> = (0..self.down.k() as u32).collect();
            let mut packed = PackedWeight::zeroed(all.len(), rows.d, rows.format())?;
            rows.pack(cpu, &all, &mut packed);
            *form = RowForm::Packed(packed);
        }
        Ok(())
    }

    /// Room for `n` neurons of its own, one after another.
    pub(crate) fn room(&self, n: usize) -> Result<Self> {
        let packed = |form: &RowForm| match form {
            RowForm::ByNeuron(matrix) => matrix.packed_room(n),
            RowForm::Packed(_) => Err(unsupported("weights to gather", "packed ones")),
        };
        Ok(FourBit { gate: packed(&self.gate)?, up: packed(&self.up)?, down: self.down.room(n) })
    }

    /// Copies the neurons of a list into `to`, which has room for them.
    pub(crate) fn gather(&self, cpu: &Cpu, list: &[u32], to: &mut Self) -> Result<()> {
        for (from, to) in [(&self.gate, &mut to.gate), (&self.up, &mut to.up)] {
            match (from, to) {
                (RowForm::ByNeuron(from), RowForm::Packed(to)) if (to.k(), to.format()) == (from.d, from.format()) => {
                    from.pack(cpu, list, to);
                }
                _ => return Err(unsupported("weights to gather", "others than there is room for")),
            }
        }
        self.down.gather(cpu, list, &mut to.down)
    }

    /// Bytes that a call reads of so many rows of gate and up and of the `down` neurons' rows.
    pub(crate) fn row_bytes(&self, gate: usize, up: usize, down: &[u32]) -> usize {
        let d = self.down.columns.d;
        let mut blocks = 0;
        let mut last = None;
        for &j in down {
            let block = j as usize / self.down.group_size;
            blocks += usize::from(last != Some(block));
            last = Some(block);
        }
        let scales = blocks * if self.down.offset.is_none() { 4 * d } else { 2 * d * self.down.parts() };
        self.gate.bytes_of(gate) + self.up.bytes_of(up) + down.len() * d / 2 + scales
    }
}
