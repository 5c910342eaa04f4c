//! The header of a safetensors file, checked before anything is believed.
//!
//! Eight bytes of header length, a JSON object from names to (dtype, shape, byte range), then the data. The crate's own
//! reader checks the same after computing with the numbers; here they are compared with the file first, and
//! messages name the tensor.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::dtype::DType;
use crate::error::{Error, Result};

/// The longest header that is read, the same as the crate's limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// How elements are stored.
    pub dtype: DType,
    /// `[rows N, columns K]`; a vector is `[1, K]`.
    pub shape: [usize; 2],
    /// The tensor's bytes in the file.
    pub range: Range<usize>,
}

/// One array of a file, of any element type and number of dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredArrayInfo {
    /// How elements are stored.
    pub(crate) dtype: Dtype,
    /// Sizes, the slowest first.
    pub(crate) shape: Vec<usize>,
    /// The array's bytes in the file.
    pub(crate) range: Range<usize>,
}

/// The header's entries in file order; a map would silently keep one of two equal names.
struct Entries(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads and checks the header of a safetensors file; `path` only names it in messages.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Malformed`] for duplicate names, shapes that contradict byte ranges, ranges that
/// overlap, leave holes or reach beyond the file, [`Error::Unsupported`] for element types other than F32, F16, BF16.
pub fn parse_safetensors(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, StoredTensor>> {
    let arrays = parse_arrays(path, bytes)?;
    arrays.into_iter().map(|(name, array)| as_tensor(path, &name, &array).map(|tensor| (name, tensor))).collect()
}

/// As [`parse_safetensors`], for every element type of whole bytes.
pub(crate) fn parse_arrays(path: &Path, bytes: &[u8]) -> Result<BTreeMap<String, StoredArrayInfo>> {
    let header = header_bytes(path, bytes)?;
    let data_start = 8 + header.len();
    let entries: Entries = serde_json::from_slice(header)
        .map_err(|error| Error::malformed(path, "header", "a JSON object of tensors", error))?;
    let mut ranges = Vec::with_capacity(entries.0.len());
    let mut arrays = BTreeMap::new();
    for (name, info) in entries.0 {
        let array = place(path, &name, &info, data_start, bytes.len())?;
        ranges.push((array.range.clone(), name.clone()));
        if let Some(array) = arrays.insert(name, array) {
            let got = format!("a duplicate over bytes {:?}", array.range);
            return Err(Error::malformed(path, "header", "each tensor once", got));
        }
    }
    check_tiling(path, ranges, data_start, bytes.len())?;
    Ok(arrays)
}

/// A matrix or vector of floats.
pub(crate) fn as_tensor(path: &Path, name: &str, array: &StoredArrayInfo) -> Result<StoredTensor> {
    let dtype = match array.dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        other => {
            let what = format!("element type of tensor {name}");
            return Err(Error::unsupported(path, what, "F32, F16 or BF16", format!("{other:?}")));
        }
    };
    let shape = match array.shape[..] {
        [k] if k > 0 => [1, k],
        [n, k] if n > 0 && k > 0 => [n, k],
        _ => {
            let what = format!("shape of tensor {name}");
            return Err(Error::malformed(path, what, "one or two sizes above 0", format!("{:?}", array.shape)));
        }
    };
    Ok(StoredTensor { dtype, shape, range: array.range.clone() })
}

fn header_bytes<'a>(path: &Path, bytes: &'a [u8]) -> Result<&'a [u8]> {
    let truncated =
        |what: &str, expected: u64, got: u64| Error::Truncated { path: path.into(), what: what.into(), expected, got };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(truncated("header length", 8, bytes.len() as u64));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::malformed(path, "header length", format!("at most {MAX_HEADER_BYTES} bytes"), length));
    }
    rest.get(..length as usize).ok_or_else(|| truncated("header", length, rest.len() as u64))
}

fn place(path: &Path, name: &str, info: &TensorInfo, data_start: usize, file_len: usize) -> Result<StoredArrayInfo> {
    let (begin, end) = info.data_offsets;
    let data_len = file_len - data_start;
    if begin > end || end > data_len {
        let what = format!("byte range of tensor {name}");
        return Err(Error::malformed(path, what, format!("a range inside 0..{data_len}"), format!("{begin}..{end}")));
    }
    let elems = info.shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    let bits = elems.and_then(|elems| elems.checked_mul(info.dtype.bitsize()));
    let expected = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8);
    if expected != Some(end - begin) {
        let what = format!("byte range of tensor {name}");
        let expected = format!("{expected:?} bytes for {:?} {:?}", info.dtype, info.shape);
        return Err(Error::malformed(path, what, expected, end - begin));
    }
    Ok(StoredArrayInfo { dtype: info.dtype, shape: info.shape.clone(), range: data_start + begin..data_start + end })
}

/// The format asks that tensors cover the data without holes or overlaps.
fn check_tiling(
    path: &Path,
    mut ranges: Vec<(Range<usize>, String)>,
    data_start: usize,
    file_len: usize,
) -> Result<()> {
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut end = data_start;
    for (range, name) in &ranges {
        if range.start != end {
            let fault = if range.start < end { "an overlap" } else { "a hole" };
            let expected = format!("data from byte {} on", end - data_start);
            let got = format!("{fault}, {}", range.start - data_start);
            return Err(Error::malformed(path, format!("byte range of tensor {name}"), expected, got));
        }
        end = range.end;
    }
    if end != file_len {
        let got = format!("{} bytes", file_len - data_start);
        return Err(Error::malformed(path, "data", format!("{} bytes by the header", end - data_start), got));
    }
    Ok(())
}
