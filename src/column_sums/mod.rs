//! Sums of the columns of a matrix, each times its input: what down of the sparse MLP and products by input have in common.
//!
//! y\[m, n\] = Σ_k x\[m, k\] · w\[n, k\] over the k of a list. The matrix is held by column: a row of memory is the N weights of an input k,
//! so those of an input that no token keeps are not read. Inputs of the sparse MLP's down are neurons.
//!
//! | rows | x | order of sums |
//! |---|---|---|
//! | f32, f16, bf16 ([`Rows`]) | f32 | K in four ([`splits_of`]); of each an f32 chain in the order of k; the four in order |
//! | 4 bits ([`ColumnMatrix`]) | int8 ([`Codes`]) | exact in int32 inside a group; groups in f32, by runs of K as in [`crate::w4a8`] |
//!
//! So neither the number of tokens in a call, nor that of threads, nor the instruction set changes a bit.

mod codes;
mod float;
mod four_bit;
mod matrix;
mod nibbles;
mod panel;
mod slots;
mod split;
mod sum;

pub(crate) use codes::Codes;
pub(crate) use float::Rows;
pub(crate) use matrix::{ColumnMatrix, copy_rows};
pub(crate) use nibbles::{
    FORMS, RowScale, SEGMENT, SLACK, code_at, dequantize, form_of, format_of, pack_codes, scale_at, unsupported,
};
pub(crate) use panel::{vectors, with_tile};
pub(crate) use slots::{InputsOfToken, OwnSlots, PANEL_TOKENS, SlotLayout, SlotList};
pub(crate) use split::{Kept, SplitSums, hull, splits, splits_of};
pub(crate) use sum::{Added, Slots, sum_codes, sum_inputs, sum_tiles};

/// Columns of y that one unit of codes covers at most.
pub(crate) const CHUNK: usize = 128;
