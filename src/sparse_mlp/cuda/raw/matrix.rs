//! The weights of a gated MLP, by addresses.

use crate::device::{Address, Buffer, or_null, product};
use crate::error::{Error, Result};
use crate::sparse_mlp::Shape;
use crate::sparse_mlp::cuda::{RowFormat, mirror};
use crate::w4a8::{Group, GroupScale, Offset};

/// Codes of a block of 16 bytes.
const SEGMENT: usize = 32;

/// gate or up: \[d_ff, d_model\], a neuron a row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// f16 or bf16 row-major; or codes of 4 bits, 16 bytes for each 32 of which byte i holds value i low and value i + 16 high.
    /// Aligned to 16 bytes.
    pub rows: Address,
    /// For 4 bits u32 \[d_ff, [`Matrix::scale_words`]\], aligned to 32 bytes: an f32; or f16 scales in the order of groups; or
    /// pairs of an f16 scale (low) and an f16 offset or u16 zero point.
    pub scales: Option<Address<u32>>,
    /// The groups of d_model, with scales of f16; None: one scale for a row, or rows of 16 bits.
    pub group: Option<Group>,
    /// f32 \[d_ff\].
    pub bias: Option<Address<f32>>,
}

impl Matrix {
    /// 16-bit rows without a bias.
    pub fn of_16_bits(rows: Address) -> Matrix {
        Matrix { rows, scales: None, group: None, bias: None }
    }

    /// Words from one row's scales to the next's: one for the scale of a row, and whole sectors of 32 bytes for those of groups.
    pub fn scale_words(group: Option<Group>, d_model: usize) -> usize {
        group.map_or(1, |group| {
            (d_model.div_ceil(group.size.max(1)) * group_bytes(group)).div_ceil(4).next_multiple_of(8)
        })
    }

    pub(super) fn check(&self, format: RowFormat, d_model: usize) -> Result<()> {
        match format {
            RowFormat::FourBit => check_four_bit(d_model, self.group),
            _ => Ok(()),
        }
    }

    pub(super) fn name_buffers(&self, format: RowFormat, shape: &Shape, show: &mut dyn FnMut(Buffer)) {
        let bytes = product([shape.d_ff, format.bytes(shape.d_model)]);
        show(Buffer::read("rows", self.rows, bytes).aligned(16));
        // what is left out and needed is null, which a check of addresses refuses
        if format == RowFormat::FourBit {
            let scales = self.scales.unwrap_or(Address::NULL);
            let words = Matrix::scale_words(self.group, shape.d_model);
            let alignment = if words == 1 { 4 } else { 32 };
            show(Buffer::read("scales", scales, product([shape.d_ff, words])).aligned(alignment));
        }
        if let Some(bias) = self.bias {
            show(Buffer::read("bias", bias, shape.d_ff));
        }
    }

    pub(super) fn params(&self, format: RowFormat, d_model: usize) -> mirror::MatrixView {
        let words = Matrix::scale_words(self.group, d_model);
        mirror::MatrixView {
            rows: self.rows.get(),
            scales: or_null(self.scales),
            bias: or_null(self.bias),
            group_scale: self.group.map_or(0, |group| group.scale as u32),
            segments_per_group: (self.group.map_or(d_model, |group| group.size) / SEGMENT) as u32,
            scale_stride: if format == RowFormat::FourBit { words as u32 } else { 0 },
            offset: self.group.map_or(0, |group| group.offset as u32),
        }
    }
}

/// down, transposed: \[d_ff, d_model\], a neuron a row.
#[derive(Debug, Clone, Copy)]
pub struct DownMatrix {
    /// As [`Matrix::rows`], a row holding one neuron's d_model outputs.
    pub rows: Address,
    /// For 4 bits f32 \[d_model\]; or u16 \[⌈d_ff / group_size⌉, 1 or 2, d_model\] for blocks of neurons: f16 scales, then f16
    /// offsets or u16 zero points. Features are in the order in which codes lie in memory. Aligned to 16 bytes.
    pub scales: Option<Address>,
    /// The blocks of neurons, with scales of f16; None: one scale for a feature, or rows of 16 bits.
    pub group: Option<Group>,
    /// f32 \[d_model\].
    pub bias: Option<Address<f32>>,
}

impl DownMatrix {
    /// 16-bit rows without a bias.
    pub fn of_16_bits(rows: Address) -> DownMatrix {
        DownMatrix { rows, scales: None, group: None, bias: None }
    }

    /// Bytes at [`DownMatrix::scales`].
    pub fn scale_bytes(group: Option<Group>, shape: &Shape) -> usize {
        match group {
            None => product([4, shape.d_model]),
            Some(group) => product([shape.d_ff.div_ceil(group.size.max(1)), group_bytes(group), shape.d_model]),
        }
    }

    pub(super) fn check(&self, format: RowFormat, shape: &Shape) -> Result<()> {
        match format {
            RowFormat::FourBit => check_four_bit(shape.d_model, self.group),
            _ => Ok(()),
        }
    }

    pub(super) fn name_buffers(&self, format: RowFormat, shape: &Shape, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("rows", self.rows, product([shape.d_ff, format.bytes(shape.d_model)])).aligned(16));
        if format == RowFormat::FourBit {
            let scales = self.scales.unwrap_or(Address::NULL);
            let bytes = DownMatrix::scale_bytes(self.group, shape);
            show(Buffer::read("scales", scales, bytes).aligned(16));
        }
    }
}

/// The three matrices of a gated MLP.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// Its rows are activated.
    pub gate: Matrix,
    /// Its rows are multiplied with the activated ones.
    pub up: Matrix,
    /// What the products are multiplied with.
    pub down: DownMatrix,
}

/// Bytes of what a group has for a row or a feature.
fn group_bytes(group: Group) -> usize {
    if group.offset == Offset::None { 2 } else { 4 }
}

fn check_four_bit(d_model: usize, group: Option<Group>) -> Result<()> {
    if d_model % SEGMENT != 0 {
        return Err(Error::Shape { what: "d_model", expected: "a multiple of 32 for 4-bit rows", got: d_model });
    }
    if let Some(Group { size, scale, .. }) = group {
        if size == 0 || size % SEGMENT != 0 {
            return Err(Error::Shape { what: "group_size", expected: "a positive multiple of 32", got: size });
        }
        if scale != GroupScale::F16 {
            let got = format!("{scale:?}");
            return Err(Error::Unsupported { what: "group_scale", expected: "f16 scales of groups", got });
        }
    }
    Ok(())
}
