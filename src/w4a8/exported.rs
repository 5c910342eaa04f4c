//! Integer weights in the arrays that GPTQ, AWQ, AutoRound and compressed-tensors checkpoints hold.

use super::format::{Bits, Format, Offset};
use super::scales::Scales;
use super::weight::{QuantizedWeight, check_shape};
use crate::error::{Error, Result, check_len, product};
use half::f16;

/// How GPTQ's zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoredZeros {
    /// As they are.
    Plain,
    /// Less one, each in its own bits, so that 0 becomes the largest.
    LessOne,
    /// Less one, subtracted from the words that hold several, with borrows.
    LessOneByWord,
}

/// Which codes a word of 32 bits holds, with P = 32 / bits of them, the first in its lowest bits; w = scale · (code − zero_point).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExportedLayout {
    /// GPTQ, and AutoRound in its layout: codes \[K/P, N\], P k in a word; scales \[groups, N\]; zero points \[groups, ⌈N/P⌉\], P n in a word.
    Gptq(StoredZeros),
    /// AWQ, 4 bits: codes \[K, N/8\] and zero points \[groups, N/8\], eight n in a word in the order 0, 2, 4, 6, 1, 3, 5, 7; scales
    /// \[groups, N\].
    Awq,
    /// compressed-tensors: codes \[N, K/P\], P k in a word; scales \[N, groups\]; zero points \[⌈N/P⌉, groups\], P n in a word.
    CompressedTensors,
}

/// The n (of 8) that each code of an AWQ word is of.
const AWQ_ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];

/// Group sizes that kernels have, the largest first.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// A matrix as a checkpoint's arrays.
#[derive(Debug, Clone, Copy)]
pub struct ExportedArrays<'a> {
    /// Where codes, scales and zero points are.
    pub layout: ExportedLayout,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Of a code.
    pub bits: Bits,
    /// Words of codes.
    pub codes: &'a [u32],
    /// A scale for each group.
    pub scales: &'a [f32],
    /// Words of zero points; none for the middle of the codes everywhere.
    pub zeros: Option<&'a [u32]>,
}

/// A matrix as one code a byte, with a scale and a zero point for each group.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportedMatrix {
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// Of a code.
    pub bits: Bits,
    /// \[N, K\], from 0 on.
    pub codes: Vec<u8>,
    /// \[N, groups\].
    pub scale: Vec<f32>,
    /// \[N, groups\]; none for the middle of the codes everywhere.
    pub zero: Option<Vec<u8>>,
}

impl ExportedArrays<'_> {
    /// Takes the codes out of their words.
    ///
    /// # Errors
    /// [`Error::Shape`] for sizes that no weight has, or that the layout does not hold; [`Error::Length`] for an array of another size;
    /// [`Error::Unsupported`] for 8 bits in AWQ's layout.
    pub fn unpack(&self) -> Result<ExportedMatrix> {
        let (n, k, bits, width) = (self.n, self.k, self.bits, width(self.bits));
        check_shape(n, k)?;
        let per_word = 32 / width;
        let groups = self.scales.len() / n;
        check_len("scales", product("n", &[n, groups.max(1)])?, self.scales.len())?;
        check_len("codes", product("n", &[n, k])? / per_word, self.codes.len())?;
        if self.layout == ExportedLayout::Awq {
            self.check_awq()?;
        }
        if let Some(zeros) = self.zeros {
            check_len("zeros", product("n", &[n.div_ceil(per_word), groups])?, zeros.len())?;
        }
        let padded = n.next_multiple_of(per_word);
        let rows_of_n = |by_group: Vec<u8>| transpose(&by_group, padded)[..n * groups].to_vec();
        let (codes, by_n, zero): (_, _, Option<Vec<u8>>) = match self.layout {
            ExportedLayout::Gptq(stored) => {
                let zero = self.zeros.map(|zeros| rows_of_n(stored.unpacked(zeros, width)));
                (gathered(self.codes, n, k, width), false, zero)
            }
            ExportedLayout::Awq => (
                transpose(&awq_unpacked(self.codes), n),
                false,
                self.zeros.map(|zeros| transpose(&awq_unpacked(zeros), n)),
            ),
            ExportedLayout::CompressedTensors => {
                // several n in a word, so a word's row is its neighbours' too
                let zero = self.zeros.map(|zeros| rows_of_n(unpacked(&transpose(zeros, groups), width)));
                (unpacked(self.codes, width), true, zero)
            }
        };
        let scale = if by_n { self.scales.to_vec() } else { transpose(self.scales, n) };
        Ok(ExportedMatrix { n, k, bits, codes, scale, zero })
    }

    fn check_awq(&self) -> Result<()> {
        if self.bits == Bits::Eight {
            return Err(Error::Unsupported { what: "bits", expected: "4 in this layout", got: "8".into() });
        }
        match self.n % 8 {
            0 => Ok(()),
            _ => Err(Error::Shape { what: "n", expected: "a multiple of 8 in this layout", got: self.n }),
        }
    }
}

impl ExportedMatrix {
    /// A zero point that is not the middle of the codes, if there is one.
    pub fn off_centre(&self) -> Option<u8> {
        let centre = if self.bits == Bits::Four { 8 } else { 128 };
        self.zero.iter().flatten().copied().find(|&zero| zero != centre)
    }

    /// Puts inputs of a group beside each other and scales into the sizes that kernels have. With `group_of`, u32 \[K\], the group of
    /// each input, the result is for inputs in another order if those of a group are not neighbours: column j goes with input `order[j]`.
    ///
    /// # Errors
    /// [`Error::Shape`] and [`Error::Length`] for sizes and arrays of no weight, [`Error::Unsupported`] for zero points that 8-bit codes
    /// cannot have and for groups of no multiple of 32 or of unlike sizes, [`Error::Index`] for an input of a group that is not there, [`Error::Value`] for scales out of range.
    pub fn into_weight(self, group_of: Option<&[u32]>) -> Result<(QuantizedWeight, Option<Vec<u32>>)> {
        check_shape(self.n, self.k)?;
        let groups = self.scale.len() / self.n;
        check_len("codes", product("n", &[self.n, self.k])?, self.codes.len())?;
        check_len("scales", product("n", &[self.n, groups.max(1)])?, self.scale.len())?;
        self.zero.as_ref().map_or(Ok(()), |zero| check_len("zeros", self.scale.len(), zero.len()))?;
        let zero = self.off_centre().and(self.zero.as_deref());
        if let (Bits::Eight, Some(got)) = (self.bits, self.off_centre()) {
            let expected = "128 everywhere with codes of 8 bits";
            return Err(Error::Unsupported { what: "zero points", expected, got: got.to_string() });
        }
        let order = group_of.map(|group_of| order(group_of, groups, self.k)).transpose()?.flatten();
        let codes = self.signed_codes(order.as_deref());
        let (format, scales) = if groups == 1 && zero.is_none() {
            (Format::per_channel().with_bits(self.bits), Scales::per_channel(self.scale))
        } else {
            let unit = unit(self.k, groups)?;
            let times = self.k / groups / unit;
            let scale = repeated(&self.scale, times).into_iter().map(f16::from_f32).collect();
            let zero = zero.map(|zero| repeated(zero, times).into());
            let offset = if zero.is_some() { Offset::ZeroPoint } else { Offset::None };
            (Format::per_group(unit, offset).with_bits(self.bits), Scales::per_group(scale, zero))
        };
        Ok((QuantizedWeight::new(self.n, self.k, format, codes, scales)?, order))
    }

    /// The codes in the order of their columns; those of 8 bits about 0.
    fn signed_codes(&self, order: Option<&[u32]>) -> Vec<i8> {
        let signed = |code: u8| if self.bits == Bits::Four { code as i8 } else { (code ^ 0x80) as i8 };
        let Some(order) = order else { return self.codes.iter().map(|&code| signed(code)).collect() };
        let rows = self.codes.chunks_exact(self.k);
        rows.flat_map(|row| order.iter().map(|&input| signed(row[input as usize]))).collect()
    }
}

/// The largest of the kernels' group sizes that groups of one size are made of.
fn unit(k: usize, groups: usize) -> Result<usize> {
    let fits = |unit: &usize| k % groups == 0 && k / groups % unit == 0;
    GROUP_SIZES.into_iter().find(fits).ok_or_else(|| Error::Unsupported {
        what: "groups",
        expected: "groups of one size, a multiple of 32",
        got: format!("{k} inputs in {groups} groups"),
    })
}

impl StoredZeros {
    /// The zero points of words, in the order of their bits.
    fn unpacked(self, words: &[u32], width: usize) -> Vec<u8> {
        // one in the place of every code
        let ones = u32::MAX / ((1 << width) - 1);
        match self {
            StoredZeros::Plain => unpacked(words, width),
            StoredZeros::LessOne => {
                let wrap = ((1u32 << width) - 1) as u8;
                unpacked(words, width).into_iter().map(|zero| zero.wrapping_add(1) & wrap).collect()
            }
            StoredZeros::LessOneByWord => {
                let whole: Vec<u32> = words.iter().map(|word| word.wrapping_add(ones)).collect();
                unpacked(&whole, width)
            }
        }
    }
}

fn width(bits: Bits) -> usize {
    if bits == Bits::Four { 4 } else { 8 }
}

/// The codes of words \[rows, columns\] one after another: \[rows, columns · 32 / width\].
fn unpacked(words: &[u32], width: usize) -> Vec<u8> {
    let code = move |word: u32, i: usize| ((word >> (width * i)) & ((1 << width) - 1)) as u8;
    words.iter().flat_map(|&word| (0..32 / width).map(move |i| code(word, i))).collect()
}

/// The codes \[N, K\] of words \[K / per_word, N\].
fn gathered(words: &[u32], n: usize, k: usize, width: usize) -> Vec<u8> {
    let per_word = 32 / width;
    let mut codes = vec![0; n * k];
    for (at, of_word) in unpacked(words, width).chunks_exact(per_word).enumerate() {
        codes[at % n * k + at / n * per_word..][..per_word].copy_from_slice(of_word);
    }
    codes
}

fn awq_unpacked(words: &[u32]) -> Vec<u8> {
    let mut out = vec![0u8; words.len() * 8];
    for (codes, out) in unpacked(words, 4).chunks_exact(8).zip(out.as_chunks_mut::<8>().0) {
        AWQ_ORDER.iter().zip(codes).for_each(|(&column, &code)| out[column] = code);
    }
    out
}

/// \[rows, columns\] to \[columns, rows\].
pub(super) fn transpose<T: Copy>(values: &[T], columns: usize) -> Vec<T> {
    let rows = values.len() / columns;
    (0..values.len()).map(|i| values[i % rows * columns + i / rows]).collect()
}

fn repeated<T: Copy>(values: &[T], times: usize) -> Vec<T> {
    values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect()
}

/// The inputs group by group, each group's in their order; none if that is the order in which they come.
fn order(group_of: &[u32], groups: usize, k: usize) -> Result<Option<Vec<u32>>> {
    check_len("g_idx", k, group_of.len())?;
    check_len("g_idx", k, group_of.len())?;
    let mut sizes = vec![0usize; groups];
    for &group in group_of {
        match sizes.get_mut(group as usize) {
            Some(size) => *size += 1,
            None => return Err(Error::Index { what: "g_idx", limit: groups, got: group as usize }),
        }
    }
    if let Some(got) = sizes.iter().find(|&&size| size * groups != k) {
        let (expected, got) = ("groups of equally many inputs", format!("one of {got} in {groups} of {k}"));
        return Err(Error::Unsupported { what: "g_idx", expected, got });
    }
    let mut order: Vec<u32> = (0..k as u32).collect();
    order.sort_by_key(|&input| group_of[input as usize]);
    let moved = order.iter().enumerate().any(|(column, &input)| column != input as usize);
    Ok(moved.then_some(order))
}

#[cfg(test)]
mod tests {
    use super::StoredZeros::{LessOne, LessOneByWord, Plain};

    #[test]
    fn zero_points_come_back_from_every_way_of_storing_them() {
        for bits in [4, 8] {
            let count = 32 / bits;
            let zeros: Vec<u32> = (0..count).map(|i| (5 * i) as u32 * u32::from(i != 3)).collect();
            let packed = |values: &mut dyn Iterator<Item = u32>| {
                values.enumerate().fold(0u32, |word, (i, value)| word | (value & ((1 << bits) - 1)) << (bits * i))
            };
            let expected: Vec<u8> = zeros.iter().map(|&zero| (zero & ((1 << bits) - 1)) as u8).collect();
            let plain = packed(&mut zeros.iter().copied());
            let wrapped = packed(&mut zeros.iter().map(|zero| zero.wrapping_sub(1)));
            let by_word = (0..count).fold(plain, |word, i| word.wrapping_sub(1 << (bits * i)));
            assert_ne!(wrapped, by_word, "a zero borrows from its neighbour");
            assert_eq!(Plain.unpacked(&[plain], bits), expected);
            assert_eq!(LessOne.unpacked(&[wrapped], bits), expected);
            assert_eq!(LessOneByWord.unpacked(&[by_word], bits), expected);
        }
    }
}
