//! QQQ's layout: codes in the order in which its kernel's threads hold them.
//!
//! `B` is int32 \[K/16, 2N\]. In each block of 16 k by 64 n, lane L (0..32) owns words j = 0..4 at 4L + j, for
//! n = 16j + 8b + ⌊L/4⌋. Nibble i of a word holds
//!
//! | scales | b | k | code |
//! |---|---|---|---|
//! | per channel | 1 − (i mod 2) | 4(L mod 4) + ⌊i/2⌋ | two's complement, −8..7 |
//! | groups of 128 | ⌊i/2⌋ mod 2 | 4(L mod 4) + 2(i mod 2) + ⌊i/4⌋ | less 8 |
//!
//! `s_channel` f32 \[1, N\]: in each 32 channels, position 8i + t holds channel 2i + {0, 1, 8, 9, 16, 17, 24, 25}\[t\]. Per
//! channel it is scale/16, as the kernel leaves a nibble in the high half of its byte. `s_group` f16 \[K/128, N\]: in each 64
//! channels, position 8i + j holds channel i + 8j.
//!
//! # Source
//! QQQ (arXiv 2406.09904), the layout of its checkpoints, from its description.

use moray::w4a8::{Bits, Format, QuantizedWeight, Scales, Values};

use super::Quantization;
use super::nibbles::{nibble, transpose};
use super::schemes::Scheme;
use super::tensors::{Projection, StoredArray};
use crate::error::{Error, Result};
use crate::fields::Fields;

/// Channels of a block of `B`, and of a block of `s_group`; K is a multiple of it too.
pub(crate) const QQQ_BLOCK: usize = 64;

/// Inputs of a block of `B`.
const BLOCK_K: usize = 16;

/// The channel (of 32) at each position modulo 8, less 2i.
const CHANNEL_ORDER: [usize; 8] = [0, 1, 8, 9, 16, 17, 24, 25];

/// (n, k) inside a block of nibble `i` of word `word` (0..128).
fn place(word: usize, i: usize, grouped: bool) -> (usize, usize) {
    let (lane, j) = (word / 4, word % 4);
    let (b, k) =
        if grouped { (i / 2 % 2, 4 * (lane % 4) + 2 * (i % 2) + i / 4) } else { (1 - i % 2, 4 * (lane % 4) + i / 2) };
    (16 * j + 8 * b + lane / 4, k)
}

fn check(n: usize, k: usize) -> Result<()> {
    if n % QQQ_BLOCK != 0 || k % QQQ_BLOCK != 0 {
        return Err(Error::Kernel(moray::Error::Unsupported {
            what: "qqq layout",
            expected: "N and K that are multiples of 64",
            got: format!("[{n}, {k}]"),
        }));
    }
    Ok(())
}

/// The arrays of a matrix under `prefix`: `B`, `s_channel` and, with groups, `s_group`.
///
/// # Errors
/// [`Error::Kernel`] unless the scales are per channel or in QQQ's group form and N and K are multiples of 64.
pub fn qqq_tensors(prefix: &str, weight: &QuantizedWeight) -> Result<Vec<StoredArray>> {
    let (n, k) = (weight.n(), weight.k());
    check(n, k)?;
    let scales = weight.scales();
    let (channel, groups): (Vec<f32>, Option<&[half::f16]>) = match (&scales.channel, &scales.group) {
        (Some(scale), None) if weight.format() == Format::per_channel() => {
            (scale.iter().map(|scale| scale / 16.0).collect(), None)
        }
        (Some(scale), Some(Values::F16(group_scale))) => (scale.clone(), Some(group_scale)),
        _ => {
            let expected = "4 bits with a scale for each channel, or qqq's groups";
            let got = "other scales".into();
            return Err(Error::Kernel(moray::Error::Unsupported { what: "qqq layout", expected, got }));
        }
    };
    let name = |suffix: &str| format!("{prefix}.{suffix}");
    let words = pack(weight.codes(), n, k, groups.is_some());
    let mut arrays = vec![
        StoredArray::i32(name("B"), &[k / BLOCK_K, 2 * n], &words),
        StoredArray::f32(name("s_channel"), &[1, n], &reorder(&channel, 32, channel_at)),
    ];
    if let Some(groups) = groups {
        let stored = reorder(&transpose(groups, k / 128), 64, group_at);
        arrays.push(StoredArray::f16(name("s_group"), &[k / 128, n], &stored));
    }
    Ok(arrays)
}

fn pack(codes: &[i8], n: usize, k: usize, grouped: bool) -> Vec<u32> {
    let mut words = vec![0u32; k / BLOCK_K * 2 * n];
    for (at, word) in words.iter_mut().enumerate() {
        let (block_k, column) = (at / (2 * n), at % (2 * n));
        for i in 0..8 {
            let (dn, dk) = place(column % 128, i, grouped);
            let (row, inner) = (column / 128 * QQQ_BLOCK + dn, block_k * BLOCK_K + dk);
            let code = codes[row * k + inner] as u8;
            // two's complement of code − 8 is the code with its highest bit turned
            let stored = if grouped { code } else { code ^ 8 };
            *word |= u32::from(stored & 15) << (4 * i);
        }
    }
    words
}

/// The channel at a position of `s_channel`'s blocks of 32.
fn channel_at(position: usize) -> usize {
    2 * (position / 8) + CHANNEL_ORDER[position % 8]
}

/// The channel at a position of `s_group`'s blocks of 64.
fn group_at(position: usize) -> usize {
    position / 8 + 8 * (position % 8)
}

/// Puts each block of `size` values into stored order.
fn reorder<T: Copy>(values: &[T], size: usize, at: fn(usize) -> usize) -> Vec<T> {
    (0..values.len()).map(|i| values[i / size * size + at(i % size)]).collect()
}

/// The inverse of [`reorder`].
fn restore<T: Copy + Default>(stored: &[T], size: usize, at: fn(usize) -> usize) -> Vec<T> {
    let mut values = vec![T::default(); stored.len()];
    stored.iter().enumerate().for_each(|(i, &value)| values[i / size * size + at(i % size)] = value);
    values
}

/// Reads the keys that say what the layout holds.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Quantization> {
    let scheme = Scheme::parse(fields, None, None)?;
    match (scheme.bits, scheme.group_size) {
        (Bits::Eight, _) => Err(fields.unsupported("bits", "4 in this layout", 8)),
        (Bits::Four, group_size @ (None | Some(128))) => Ok(Quantization::Qqq { group_size }),
        (Bits::Four, Some(got)) => Err(fields.unsupported("group_size", "-1 or 128 in this layout", got)),
    }
}

pub(super) fn read(source: &Projection<'_>, n: usize, k: usize, group_size: Option<usize>) -> Result<QuantizedWeight> {
    check(n, k)?;
    // a group as long as K means a scale for each channel
    let grouped = group_size.is_some_and(|size| size != k || source.optional("s_group").is_some());
    let words = source.required("B")?.shaped(&[k / BLOCK_K, 2 * n])?.words()?;
    let mut codes = vec![0i8; n * k];
    for (at, &word) in words.iter().enumerate() {
        let (block_k, column) = (at / (2 * n), at % (2 * n));
        for i in 0..8 {
            let (dn, dk) = place(column % 128, i, grouped);
            let (row, inner) = (column / 128 * QQQ_BLOCK + dn, block_k * BLOCK_K + dk);
            let stored = nibble(word, i);
            codes[row * k + inner] = if grouped { stored } else { stored ^ 8 } as i8;
        }
    }
    let channel = restore(&source.required("s_channel")?.shaped(&[1, n])?.floats()?, 32, channel_at);
    let scales = if grouped {
        let stored = source.required("s_group")?.shaped(&[k / 128, n])?.halves()?;
        Scales::over_channel(transpose(&restore(&stored, 64, group_at), n), channel)
    } else {
        Scales::per_channel(channel.iter().map(|scale| scale * 16.0).collect())
    };
    let format = if grouped { Format::qqq() } else { Format::per_channel() };
    Ok(QuantizedWeight::new(n, k, format, codes, scales)?)
}
