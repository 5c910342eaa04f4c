//! Row order of query and key projections.
//!
//! A `llama` GGUF file interleaves each head's rows so that rotary pairs are neighbours (2i, 2i + 1). moray rotates
//! half-split pairs (i, i + head_dim / 2), as Hugging Face checkpoints store them. Rows are whole blocks, so putting them
//! back loses nothing, whatever the element type.

/// Returns the interleaved row that holds half-split row `row`, inside one projection of heads of `head_dim` rows.
///
/// With `i = row % head_dim` and `half = head_dim / 2`: 2i for i < half, else 2(i − half) + 1, in the same head.
///
/// ```
/// use moray_lab::gguf::half_split_row;
/// assert_eq!((0..4).map(|row| half_split_row(row, 4)).collect::<Vec<_>>(), [0, 2, 1, 3]);
/// ```
pub fn half_split_row(row: usize, head_dim: usize) -> usize {
    let (head, i) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + 2 * (i % half) + i / half
}

/// Copies rows of `row_bytes` bytes from interleaved into half-split order.
pub(crate) fn half_split_rows(bytes: &[u8], row_bytes: usize, head_dim: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for row in 0..bytes.len() / row_bytes {
        out.extend_from_slice(&bytes[half_split_row(row, head_dim) * row_bytes..][..row_bytes]);
    }
    out
}
