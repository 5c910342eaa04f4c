//! The weights of a gated MLP as kernels read them, in host memory.

use super::raw::Matrix;
use super::row_format::RowFormat;
use crate::column_sums::ColumnMatrix;
use crate::error::{Error, Result};
use crate::sparse_mlp::four_bit::{FourBit, RowForm, RowMatrix};
use crate::sparse_mlp::weights::{Dense, Store};
use crate::sparse_mlp::{Shape, Weights};
use crate::w4a8::{Group, GroupScale, Offset};
use std::borrow::Cow;

/// One matrix as [`Matrix`] or [`super::raw::DownMatrix`] says: bytes to be copied to device memory.
#[derive(Debug, Clone)]
pub struct PackedRows<'a> {
    /// \[d_ff, d_model\]: 16-bit elements or codes of 4 bits.
    pub rows: Cow<'a, [u8]>,
    /// Of 4 bits; empty for 16-bit rows.
    pub scales: Vec<u8>,
    /// The groups of d_model, or the blocks of neurons.
    pub group: Option<Group>,
    /// f32 \[d_ff\], or \[d_model\] for down; empty without.
    pub bias: &'a [f32],
}

/// The three matrices of a gated MLP as kernels read them: what [`super::Weights::upload`] copies, for engines that place
/// weights themselves.
#[derive(Debug, Clone)]
pub struct PackedWeights<'a> {
    /// The sizes and the nonlinearity.
    pub shape: Shape,
    /// What rows are stored as.
    pub format: RowFormat,
    /// \[d_ff, d_model\].
    pub gate: PackedRows<'a>,
    /// \[d_ff, d_model\].
    pub up: PackedRows<'a>,
    /// Transposed, \[d_ff, d_model\].
    pub down: PackedRows<'a>,
}

impl<'a> PackedWeights<'a> {
    /// Brings f16, bf16 or 4-bit weights into the kernels' order; 16-bit rows are borrowed as they are.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for f32 weights, [`Error::Shape`] unless d_model is a multiple of 8.
    pub fn new(host: &'a Weights) -> Result<PackedWeights<'a>> {
        let shape = host.shape();
        if shape.d_model % 8 != 0 {
            let expected = "a multiple of 8 on a CUDA device";
            return Err(Error::Shape { what: "d_model", expected, got: shape.d_model });
        }
        let (format, [mut gate, mut up, mut down]) = match &host.store {
            Store::F32(_) => {
                let (expected, got) = ("f16, bf16 or 4 bits on a CUDA device", "f32".into());
                return Err(Error::Unsupported { what: "weights", expected, got });
            }
            Store::F16(w) => (RowFormat::F16, dense(w)),
            Store::Bf16(w) => (RowFormat::Bf16, dense(w)),
            Store::FourBit(FourBit { gate, up, down }) => {
                let rows = |form: &RowForm| match form {
                    RowForm::ByNeuron(matrix) => Ok(four_bit_rows(matrix, shape.d_ff)),
                    RowForm::Packed(_) => {
                        let (expected, got) = ("rows by neuron on a CUDA device", "packed ones".into());
                        Err(Error::Unsupported { what: "weights", expected, got })
                    }
                };
                (RowFormat::FourBit, [rows(gate)?, rows(up)?, four_bit_down(down, shape.d_ff)])
            }
        };
        if let Some(biases) = &host.biases {
            (gate.bias, up.bias, down.bias) = (&biases.gate, &biases.up, &biases.down);
        }
        Ok(PackedWeights { shape, format, gate, up, down })
    }
}

fn dense<T: bytemuck::Pod>(w: &Dense<T>) -> [PackedRows<'_>; 3] {
    [&w.gate, &w.up, &w.down].map(|matrix| PackedRows {
        rows: Cow::Borrowed(bytemuck::cast_slice(matrix)),
        scales: Vec::new(),
        group: None,
        bias: &[],
    })
}

/// Groups with what they have besides a scale, if there are any.
fn group_of(offset: Option<Offset>, size: usize) -> Option<Group> {
    offset.map(|offset| Group { size, scale: GroupScale::F16, offset })
}

/// Cuts the records into codes and scales, each in rows of their own; rows of group scales are padded to whole 32-byte sectors,
/// which is how kernels read them.
fn four_bit_rows(matrix: &RowMatrix, d_ff: usize) -> PackedRows<'static> {
    let group = group_of(matrix.offset, matrix.group_size);
    let code_bytes = matrix.d / 2;
    let scale_bytes = 4 * Matrix::scale_words(group, matrix.d);
    let mut codes = Vec::with_capacity(d_ff * code_bytes);
    let mut scales = vec![0u8; d_ff * scale_bytes];
    let records = matrix.records().chunks_exact(matrix.stride).take(d_ff);
    for (record, scales) in records.zip(scales.chunks_exact_mut(scale_bytes)) {
        codes.extend_from_slice(&record[..code_bytes]);
        scales[..matrix.stride - code_bytes].copy_from_slice(&record[code_bytes..]);
    }
    PackedRows { rows: Cow::Owned(codes), scales, group, bias: &[] }
}

/// Brings the scales of each block of neurons into the order of the columns.
fn four_bit_down(matrix: &ColumnMatrix, d_ff: usize) -> PackedRows<'_> {
    let rows = Cow::Borrowed(&matrix.codes()[..matrix.columns.d * d_ff / 2]);
    PackedRows { rows, scales: matrix.scales_by_column(), group: matrix.group(), bias: &[] }
}
