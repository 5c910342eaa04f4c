//! gate or up in one of its forms.

use super::RowMatrix;
use crate::simd::Available;
use crate::w4a8::{Activations, PackedWeight, TILE_N, multiply_tile_of};
use std::ops::Range;

/// gate or up: each is held in one form.
#[derive(Debug, Clone)]
pub(crate) enum RowForm {
    /// A record for each neuron, for those that a call names.
    ByNeuron(RowMatrix),
    /// Tiles of 16 neurons, for calls that compute all.
    Packed(PackedWeight),
}

impl RowForm {
    /// Whether it serves no fewer than all neurons.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self, RowForm::Packed(_))
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            RowForm::ByNeuron(matrix) => matrix.bytes(),
            RowForm::Packed(weight) => weight.bytes(),
        }
    }

    /// Bytes that so many neurons take of it: packed, it is read whole.
    pub(crate) fn bytes_of(&self, neurons: usize) -> usize {
        match self {
            RowForm::ByNeuron(matrix) => neurons * matrix.stride,
            RowForm::Packed(_) if neurons == 0 => 0,
            RowForm::Packed(weight) => weight.bytes(),
        }
    }

    /// Multiplies up to 16 neurons with every token of `x`: `each` gets the sums of some tokens after others, which have not been
    /// multiplied with the tokens' scales. Packed rows are those of one tile.
    pub(crate) fn multiply(
        &self,
        simd: Available,
        neurons: &[u32],
        x: &Activations,
        each: impl FnMut(Range<usize>, &[[f32; TILE_N]]),
    ) {
        match self {
            RowForm::ByNeuron(matrix) => matrix.multiply_panel(simd, neurons, x, each),
            RowForm::Packed(weight) => {
                multiply_tile_of(simd, &weight.view(), neurons[0] as usize / TILE_N, x, 0..x.m(), each);
            }
        }
    }

    /// Writes neuron `j`'s weights, of which there are as many as `row` has elements.
    pub(crate) fn row(&self, j: usize, row: &mut [f32]) {
        match self {
            RowForm::ByNeuron(matrix) => matrix.row(j, row),
            // j and the length are the caller's, who has checked them
            RowForm::Packed(weight) => drop(weight.dequantize_row(j, row)),
        }
    }
}
