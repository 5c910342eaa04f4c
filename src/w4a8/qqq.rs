//! Weights in the arrays that QQQ's checkpoints hold: codes in the order in which its kernel's threads hold them.

use super::exported::transpose;
use super::format::{Format, QQQ_GROUP};
use super::scales::{Scales, Values};
use super::weight::QuantizedWeight;
use crate::error::{Error, Result, check_len, product};
use half::f16;

/// Channels of a block of codes, and of a block of group scales; K is a multiple of it too.
const BLOCK: usize = 64;

/// Inputs of a block of codes.
const BLOCK_K: usize = 16;

/// The channel (of 32) at each position modulo 8, less 2i.
const CHANNEL_ORDER: [usize; 8] = [0, 1, 8, 9, 16, 17, 24, 25];

/// A matrix w\[N, K\] as QQQ stores it, in 4 bits with a scale for each channel or in its group form ([`Format::qqq`]).
///
/// Codes are u32 \[K/16, 2N\]. In each block of 16 k by 64 n, lane L (0..32) owns words j = 0..4 at 4L + j, for
/// n = 16j + 8b + ⌊L/4⌋. Nibble i of a word holds
///
/// | scales | b | k | code |
/// |---|---|---|---|
/// | per channel | 1 − (i mod 2) | 4(L mod 4) + ⌊i/2⌋ | two's complement, −8..7 |
/// | groups of 128 | ⌊i/2⌋ mod 2 | 4(L mod 4) + 2(i mod 2) + ⌊i/4⌋ | less 8 |
///
/// Channel scales are f32 \[N\]: in each 32 channels, position 8i + t holds channel 2i + {0, 1, 8, 9, 16, 17, 24, 25}\[t\]. Per
/// channel they are scale/16, as the kernel leaves a nibble in the high half of its byte. Group scales are f16 \[K/128, N\]: in each 64
/// channels, position 8i + j holds channel i + 8j.
///
/// # Example
/// ```
/// use moray::w4a8::{Format, QqqArrays, quantize};
///
/// let weight = quantize(&vec![0.5; 64 * 128], 64, 128, Format::qqq())?;
/// let stored = QqqArrays::of(&weight)?;
/// assert_eq!(stored.codes.len(), 128 / 16 * 2 * 64);
/// assert_eq!(stored.weight()?, weight);
/// # Ok::<(), moray::Error>(())
/// ```
///
/// # Source
/// QQQ (arXiv 2406.09904), the layout of its checkpoints, from its description.
#[derive(Debug, Clone, PartialEq)]
pub struct QqqArrays {
    /// Output features, a multiple of 64.
    pub n: usize,
    /// Input features, a multiple of 64.
    pub k: usize,
    /// The checkpoint's `B`.
    pub codes: Vec<u32>,
    /// The checkpoint's `s_channel`.
    pub channel_scale: Vec<f32>,
    /// The checkpoint's `s_group`; none for a scale for each channel.
    pub group_scale: Option<Vec<f16>>,
}

impl QqqArrays {
    /// Puts a weight in QQQ's order.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless the scales are per channel or in QQQ's group form and N and K are multiples of 64.
    pub fn of(weight: &QuantizedWeight) -> Result<Self> {
        let (n, k) = (weight.n(), weight.k());
        check(n, k)?;
        let scales = weight.scales();
        let (channel_scale, groups): (Vec<f32>, Option<&[f16]>) = match (&scales.channel, &scales.group) {
            (Some(scale), None) if weight.format() == Format::per_channel() => {
                (scale.iter().map(|scale| scale / 16.0).collect(), None)
            }
            (Some(scale), Some(Values::F16(group))) => (scale.clone(), Some(group)),
            _ => {
                let expected = "4 bits with a scale for each channel, or qqq's groups";
                return Err(Error::Unsupported { what: "qqq layout", expected, got: "other scales".into() });
            }
        };
        Ok(QqqArrays {
            n,
            k,
            codes: pack(weight.codes(), n, k, groups.is_some()),
            channel_scale: reorder(&channel_scale, 32, channel_at),
            group_scale: groups.map(|groups| reorder(&transpose(groups, k / QQQ_GROUP), BLOCK, group_at)),
        })
    }

    /// Takes the codes and scales as they are: no number changes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] unless N and K are multiples of 64, [`Error::Length`] for an array of another size, and those of
    /// [`QuantizedWeight::new`].
    pub fn weight(&self) -> Result<QuantizedWeight> {
        let (n, k) = (self.n, self.k);
        check(n, k)?;
        check_len("codes", product("n", &[k / BLOCK_K, 2, n])?, self.codes.len())?;
        check_len("channel scales", n, self.channel_scale.len())?;
        let channel = restore(&self.channel_scale, 32, channel_at);
        let (format, scales) = match &self.group_scale {
            Some(stored) => {
                check_len("group scales", k / QQQ_GROUP * n, stored.len())?;
                (Format::qqq(), Scales::over_channel(transpose(&restore(stored, BLOCK, group_at), n), channel))
            }
            None => (Format::per_channel(), Scales::per_channel(channel.iter().map(|scale| scale * 16.0).collect())),
        };
        QuantizedWeight::new(n, k, format, unpack(&self.codes, n, k, self.group_scale.is_some()), scales)
    }
}

fn check(n: usize, k: usize) -> Result<()> {
    if n == 0 || k == 0 || n % BLOCK != 0 || k % BLOCK != 0 {
        let (expected, got) = ("N and K that are multiples of 64", format!("[{n}, {k}]"));
        return Err(Error::Unsupported { what: "qqq layout", expected, got });
    }
    Ok(())
}

/// (n, k) of nibble `i` of the word `at`.
fn place(at: usize, i: usize, n: usize, grouped: bool) -> (usize, usize) {
    let (block_k, column) = (at / (2 * n), at % (2 * n));
    let (lane, j) = (column % 128 / 4, column % 4);
    let (b, k) =
        if grouped { (i / 2 % 2, 4 * (lane % 4) + 2 * (i % 2) + i / 4) } else { (1 - i % 2, 4 * (lane % 4) + i / 2) };
    (column / 128 * BLOCK + 16 * j + 8 * b + lane / 4, block_k * BLOCK_K + k)
}

fn pack(codes: &[i8], n: usize, k: usize, grouped: bool) -> Vec<u32> {
    let word = |at: usize| {
        (0..8).fold(0, |word, i| {
            let (row, inner) = place(at, i, n, grouped);
            word | u32::from(turned(codes[row * k + inner], grouped) as u8 & 15) << (4 * i)
        })
    };
    (0..k / BLOCK_K * 2 * n).map(word).collect()
}

fn unpack(words: &[u32], n: usize, k: usize, grouped: bool) -> Vec<i8> {
    let mut codes = vec![0i8; n * k];
    for (at, word) in words.iter().enumerate() {
        for i in 0..8 {
            let (row, inner) = place(at, i, n, grouped);
            codes[row * k + inner] = turned((word >> (4 * i) & 15) as i8, grouped);
        }
    }
    codes
}

/// A code as it is stored, and back: two's complement of code − 8 is the code with its highest bit turned.
fn turned(code: i8, grouped: bool) -> i8 {
    if grouped { code } else { code ^ 8 }
}

/// The channel at a position of the channel scales' blocks of 32.
fn channel_at(position: usize) -> usize {
    2 * (position / 8) + CHANNEL_ORDER[position % 8]
}

/// The channel at a position of the group scales' blocks of 64.
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
