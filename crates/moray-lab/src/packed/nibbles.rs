//! Codes of a few bits in words and bytes.

/// Two codes a byte, the first in the low half.
pub(super) fn pack_pairs(codes: &[i8]) -> Vec<u8> {
    codes.as_chunks::<2>().0.iter().map(|[low, high]| (*low as u8 & 15) | (*high as u8) << 4).collect()
}

/// The inverse of [`pack_pairs`].
pub(super) fn unpack_pairs(bytes: &[u8]) -> Vec<i8> {
    bytes.iter().flat_map(|&byte| [(byte & 15) as i8, (byte >> 4) as i8]).collect()
}
