//! Codes of a few bits in words and bytes.

/// Nibble `i` of a word, 0 the lowest.
pub(super) fn nibble(word: u32, i: usize) -> u8 {
    (word >> (4 * i) & 15) as u8
}

/// Two codes a byte, the first in the low half.
pub(super) fn pack_pairs(codes: &[i8]) -> Vec<u8> {
    codes.as_chunks::<2>().0.iter().map(|[low, high]| (*low as u8 & 15) | (*high as u8) << 4).collect()
}

/// The inverse of [`pack_pairs`].
pub(super) fn unpack_pairs(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().flat_map(|&byte| [(byte & 15) as i8, (byte >> 4) as i8]).collect()
}

/// \[rows, columns\] to \[columns, rows\].
pub(super) fn transpose<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}
