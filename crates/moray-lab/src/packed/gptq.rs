//! GPTQ's layout: `qweight` int32 \[K/8, N\], eight k in a word (four of 8 bits); `qzeros` int32 \[K/group, N/8\], eight n in a word;
//! `scales` f16 \[K/group, N\]; `g_idx` int32 \[K\], the group of each input. w = scale · (code − zero).
//!
//! The older form stores zero points less one. AutoGPTQ wraps each in its own bits, so that 0 becomes 15; GPTQModel and AutoRound
//! subtract from whole words, with borrows, and their words give the zero points back when as much is added.

use serde_json::Value;

use super::matrix::{PackedMatrix, Parts};
use super::nibbles::{transpose, unpacked};
use super::overrides::overrides;
use super::schemes::{Schemes, width};
use super::tensors::Projection;
use crate::error::Result;
use crate::fields::Fields;

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredZeros {
    /// As they are.
    Plain,
    /// Less one, each in its own bits.
    LessOne,
    /// Less one, subtracted from the words that hold several.
    LessOneByWord,
}

/// GPTQ's layout with what a configuration says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gptq {
    /// Bits and groups.
    pub schemes: Schemes,
    /// How zero points are stored.
    pub zeros: StoredZeros,
    /// Whether inputs are in groups of their own choice, so that a matrix has to say which.
    pub act_order: bool,
}

impl Gptq {
    /// Reads the keys that say what the layout holds; `zeros` is for a form that other keys name.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`], [`crate::Error::Malformed`], [`crate::Error::MissingKey`].
    pub(super) fn parse(fields: &Fields<'_>, zeros: Option<StoredZeros>) -> Result<Self> {
        let zeros = match (zeros, fields.text(&["format", "checkpoint_format"])?.map(str::to_lowercase).as_deref()) {
            (Some(zeros), _) => zeros,
            (None, None | Some("gptq")) if by_word(fields) => StoredZeros::LessOneByWord,
            (None, None | Some("gptq")) => StoredZeros::LessOne,
            (None, Some("gptq_v2")) => StoredZeros::Plain,
            (None, Some(other)) => return Err(fields.unsupported("format", "gptq or gptq_v2", other)),
        };
        let act_order = fields.flag("desc_act")?.unwrap_or(false) && !fields.flag("static_groups")?.unwrap_or(false);
        Ok(Gptq { schemes: overrides(fields, fields.flag("sym")?)?, zeros, act_order })
    }

    pub(super) fn read(&self, source: &Projection<'_>, n: usize, k: usize) -> Result<PackedMatrix> {
        let qweight = source.required("qweight")?;
        let bits = source.bits(&qweight, n * k)?;
        let per_word = 32 / width(bits);
        let words = qweight.shaped(&[k / per_word, n])?.words()?;
        let mut codes = vec![0; n * k];
        for (at, codes_of_word) in unpacked(&words, width(bits)).chunks_exact(per_word).enumerate() {
            let (row, column) = (at % n, at / n * per_word);
            codes[row * k + column..][..per_word].copy_from_slice(codes_of_word);
        }
        let scales = source.required("scales")?;
        let groups = scales.elems() / n;
        let scale = scales.shaped(&[groups, n])?.floats()?;
        let symmetric = self.schemes.symmetric(source, bits, k, groups)?;
        let zero = match source.optional("qzeros") {
            Some(array) => {
                let words = array.shaped(&[groups, n.div_ceil(per_word)])?.words()?;
                let padded = n.div_ceil(per_word) * per_word;
                Some(transpose(&self.zeros.unpacked(&words, width(bits)), padded)[..n * groups].to_vec())
            }
            None if symmetric == Some(false) => return Err(source.missing("qzeros")),
            None => None,
        };
        let group_of = source.optional("g_idx").map(|array| array.shaped(&[k])?.words()).transpose()?;
        if self.act_order && group_of.is_none() && groups > 1 {
            return Err(source.missing("g_idx"));
        }
        Parts { n, k, bits, codes, scale: transpose(&scale, n), zero, symmetric, group_of }.matrix(source)
    }
}

impl StoredZeros {
    /// The zero points of words, in the order of their bits.
    fn unpacked(self, words: &[u32], bits: usize) -> Vec<u8> {
        // one in the place of every code
        let ones = u32::MAX / ((1 << bits) - 1);
        match self {
            StoredZeros::Plain => unpacked(words, bits),
            StoredZeros::LessOne => {
                let wrap = ((1u32 << bits) - 1) as u8;
                unpacked(words, bits).into_iter().map(|zero| zero.wrapping_add(1) & wrap).collect()
            }
            StoredZeros::LessOneByWord => {
                let whole: Vec<u32> = words.iter().map(|word| word.wrapping_add(ones)).collect();
                unpacked(&whole, bits)
            }
        }
    }
}

/// Whether a program wrote the file that subtracts from whole words.
fn by_word(fields: &Fields<'_>) -> bool {
    let quantizer = fields.get("meta").and_then(|meta| meta.get("quantizer"));
    let names: Vec<&str> = match quantizer {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(name)) => vec![name],
        _ => Vec::new(),
    };
    let auto_round = fields.get("autoround_version").is_some()
        || fields.get("provider").and_then(Value::as_str) == Some("auto-round");
    auto_round || names.iter().any(|name| name.starts_with("gptqmodel"))
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
