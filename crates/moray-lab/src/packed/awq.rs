//! AWQ's layout: `qweight` int32 \[K, N/8\] and `qzeros` int32 \[K/group, N/8\], eight n in a word in the order 0, 2, 4, 6, 1, 3,
//! 5, 7; `scales` f16 \[K/group, N\]. w = scale · (code − zero).

use moray::w4a8::QuantizedWeight;

use super::nibbles::{nibble, transpose};
use super::scales_of;
use super::tensors::Projection;
use crate::error::Result;

/// The n (of 8) that each nibble of a word holds.
const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

pub(super) fn read(source: &Projection<'_>, n: usize, k: usize, group_size: usize) -> Result<QuantizedWeight> {
    if n % 8 != 0 {
        return Err(source.unsupported("output features", "a multiple of 8", n));
    }
    let groups = k / group_size;
    let unpacked = |words: Vec<u32>| {
        let mut out = vec![0u8; words.len() * 8];
        for (word, out) in words.iter().zip(out.as_chunks_mut::<8>().0) {
            ORDER.iter().enumerate().for_each(|(i, &column)| out[column] = nibble(*word, i));
        }
        out
    };
    let codes = unpacked(source.required("qweight")?.shaped(&[k, n / 8])?.words()?);
    let codes = transpose(&codes, n).into_iter().map(|code| code as i8).collect();
    let zeros = unpacked(source.required("qzeros")?.shaped(&[groups, n / 8])?.words()?);
    let scale = source.required("scales")?.shaped(&[groups, n])?.halves()?;
    let scales = scales_of(Some(group_size), transpose(&scale, n), transpose(&zeros, n));
    let (format, scales) = scales.ok_or_else(|| source.unsupported("scales", "a group size", "none"))?;
    Ok(QuantizedWeight::new(n, k, format, codes, scales)?)
}
