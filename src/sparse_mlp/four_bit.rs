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

mod down;
mod gather;
mod panel;
mod row_form;

pub(crate) use down::DownMatrix;
pub(crate) use gather::copy_rows;
pub(crate) use row_form::RowForm;

use super::weights::Matrix;
use crate::Cpu;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::w4a8::{Bits, Format, GroupScale, Offset, QuantizedWeight, run_end};
use half::f16;

/// Values in 16 bytes of codes.
pub(crate) const SEGMENT: usize = 32;

/// Bytes that may be read past a row's end: scales are read 16 bytes at a time.
const SLACK: usize = 64;

/// Where the scales of a row differ in form: one of the channel, or those of groups with what they have besides.
pub(crate) const FORMS: [Option<Offset>; 4] = [None, Some(Offset::None), Some(Offset::F16), Some(Offset::ZeroPoint)];

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
    pub down: DownMatrix,
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
            down: DownMatrix::new("down", down)?,
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

fn unsupported(what: &'static str, got: &str) -> Error {
    Error::Unsupported { what, expected: "4-bit codes with per-channel or per-group scales", got: got.into() }
}

/// What groups have besides a scale (none for a scale of the channel), and their size (K then).
fn form_of(what: &'static str, format: Format, k: usize) -> Result<(Option<Offset>, usize)> {
    match (format.bits, format.group) {
        (Bits::Eight, _) => Err(unsupported(what, "8-bit codes")),
        (Bits::Four, None) => Ok((None, k)),
        (Bits::Four, Some(group)) => match group.scale {
            GroupScale::F16 => Ok((Some(group.offset), group.size)),
            scale => Err(unsupported(what, scale.name())),
        },
    }
}

/// What [`form_of`] takes apart.
fn format_of(offset: Option<Offset>, group_size: usize) -> Format {
    offset.map_or(Format::per_channel(), |offset| Format::per_group(group_size, offset))
}

/// The numbers beside the codes of one group of a row.
enum RowScale {
    Channel(f32),
    /// The bits of the f16 scale, and those of an f16 offset or a zero point.
    Group([u16; 2]),
}

fn scale_at(w: &QuantizedWeight, row: usize, group: usize) -> RowScale {
    let size = w.format().group_size().unwrap_or(w.k());
    let [channel, scale, offset] = w.scales().at(w.format(), row, group * size, w.k());
    let bits = |v: f32| f16::from_f32(v).to_bits();
    match w.format().offset() {
        _ if w.format().group.is_none() => RowScale::Channel(channel),
        Offset::None => RowScale::Group([bits(scale), 0]),
        Offset::F16 => RowScale::Group([bits(scale), bits(offset)]),
        Offset::ZeroPoint => RowScale::Group([bits(scale), offset as u16]),
    }
}

fn pack_codes(code: impl Fn(usize) -> i8, bytes: &mut [u8]) {
    for (segment, bytes) in bytes.chunks_exact_mut(16).enumerate() {
        for (i, byte) in bytes.iter_mut().enumerate() {
            let at = segment * SEGMENT + i;
            *byte = code(at) as u8 & 15 | (code(at + 16) as u8) << 4;
        }
    }
}

fn code_at(codes: &[u8], k: usize) -> u8 {
    let byte = codes[k / SEGMENT * 16 + k % 16];
    if k % SEGMENT < 16 { byte & 15 } else { byte >> 4 }
}

fn dequantize(offset: Option<Offset>, code: u8, scale: f32, second: u16) -> f32 {
    match offset {
        None | Some(Offset::None) => scale * (f32::from(code) - 8.0),
        // products and sums of two f16 are exact in f64
        Some(Offset::F16) => (f64::from(scale) * f64::from(code) + f16::from_bits(second).to_f64()) as f32,
        Some(Offset::ZeroPoint) => scale * (f32::from(code) - f32::from(second)),
    }
}
