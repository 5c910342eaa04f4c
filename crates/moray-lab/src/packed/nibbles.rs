//! Codes of a few bits in words and bytes.

/// Nibble `i` of a word, 0 the lowest.
pub(super) fn nibble(word: u32, i: usize) -> u8 {
    code(word, i, 4)
}

/// Code `i` of a word of codes of `bits` bits, 0 the lowest.
pub(super) fn code(word: u32, i: usize, bits: usize) -> u8 {
    ((word >> (bits * i)) & ((1 << bits) - 1)) as u8
}

/// Two codes a byte, the first in the low half.
pub(super) fn pack_pairs(codes: &[i8]) -> Vec<u8> {
    codes.as_chunks::<2>().0.iter().map(|[low, high]| (*low as u8 & 15) | (*high as u8) << 4).collect()
}

/// The inverse of [`pack_pairs`].
pub(super) fn unpack_pairs(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().flat_map(|&byte| [(byte & 15) as i8, (byte >> 4) as i8]).collect()
}

/// The codes of words \[rows, columns\] one after another: [rows, columns · 32 / bits].
pub(super) fn unpacked(words: &[u32], bits: usize) -> Vec<u8> {
    words.iter().flat_map(|&word| (0..32 / bits).map(move |i| code(word, i, bits))).collect()
}

/// \[rows, columns\] to \[columns, rows\].
pub(super) fn transpose<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}
