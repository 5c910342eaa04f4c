//! Header and tensor table of a GGUF file.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::cursor::Cursor;
use super::metadata::{Metadata, Value};
use crate::dtype::DType;
use crate::error::{Error, Result};

const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
/// Alignment of tensor data where `general.alignment` does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: u32 = 4;
/// A pair is at least an empty key (8), a type (4) and one byte.
const MIN_PAIR_BYTES: u64 = 13;
/// A tensor is at least an empty name (8), no dimensions (4), a type (4) and an offset (8).
const MIN_TENSOR_BYTES: u64 = 24;

/// One row of the tensor table.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// How elements are stored.
    pub dtype: DType,
    /// `[rows N, columns K]`; a vector is `[1, K]`.
    pub shape: [usize; 2],
    /// The tensor's bytes in the file.
    pub range: Range<usize>,
}

/// Everything before the tensor data, checked.
#[derive(Debug)]
pub struct Header {
    /// Version of the format.
    pub version: u32,
    /// The key/value pairs.
    pub metadata: Metadata,
    /// The tensors, in the order of the file.
    pub tensors: Vec<TensorInfo>,
    /// First byte after the tensor table.
    pub end: usize,
}

/// A row of the table before it is checked against the file.
struct RawTensor<'a> {
    name: &'a str,
    dtype: DType,
    shape: [usize; 2],
    offset: u64,
}

impl Header {
    /// Reads and checks the header; `path` only names the file in messages.
    ///
    /// # Errors
    /// [`Error::Truncated`] where the file is too short for what it announces, [`Error::Malformed`] for a wrong magic,
    /// duplicate names, misaligned, overlapping or out-of-range data, [`Error::Unsupported`] for other versions, byte
    /// orders and element types.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(path, bytes, 0);
        let magic = cursor.u32("magic")?;
        if magic != MAGIC {
            return Err(Error::malformed(path, "magic", "\"GGUF\"", format!("{:?}", magic.to_le_bytes())));
        }
        let version = cursor.u32("version")?;
        if version.swap_bytes() < 1 << 16 && version >= 1 << 16 {
            return Err(Error::unsupported(path, "byte order", "little-endian", "big-endian"));
        }
        if !(2..=3).contains(&version) {
            return Err(Error::unsupported(path, "GGUF version", "2 or 3", version));
        }
        let tensor_count = cursor.count(MIN_TENSOR_BYTES, "tensor count")?;
        let pair_count = cursor.count(MIN_PAIR_BYTES, "metadata count")?;
        let metadata = Metadata::parse(&mut cursor, pair_count)?;
        let alignment = alignment(path, bytes, &metadata)?;
        let tensors = parse_tensors(&mut cursor, tensor_count, alignment, bytes.len() as u64)?;
        check_overlap(path, &tensors)?;
        Ok(Self { version, metadata, tensors, end: cursor.position() })
    }
}

fn alignment(path: &Path, bytes: &[u8], metadata: &Metadata) -> Result<u64> {
    match metadata.get(path, bytes, "general.alignment")? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(got)) if got.is_power_of_two() && got <= 1 << 30 => Ok(got),
        Some(got) => Err(Error::malformed(path, "general.alignment", "a power of two up to 2^30", format!("{got:?}"))),
    }
}

fn parse_tensors(cursor: &mut Cursor<'_>, count: usize, alignment: u64, file_len: u64) -> Result<Vec<TensorInfo>> {
    let (mut raw, mut names) = (Vec::new(), HashSet::new()); // grown as entries prove real
    for _ in 0..count {
        let tensor = parse_tensor(cursor)?;
        if !names.insert(tensor.name) {
            return Err(Error::malformed(cursor.path(), tensor.name, "each tensor once", "a duplicate"));
        }
        raw.push(tensor);
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    raw.into_iter().map(|tensor| place(cursor.path(), tensor, data_start, alignment, file_len)).collect()
}

fn parse_tensor<'a>(cursor: &mut Cursor<'a>) -> Result<RawTensor<'a>> {
    let path = cursor.path();
    let name = cursor.string("tensor name")?;
    let n_dims = cursor.u32(name)?;
    if n_dims > MAX_DIMS {
        return Err(Error::malformed(path, format!("dimensions of {name}"), "at most 4", n_dims));
    }
    let mut dims = [1u64; MAX_DIMS as usize];
    for dim in &mut dims[..n_dims as usize] {
        *dim = cursor.u64(name)?;
    }
    let type_id = cursor.u32(name)?;
    let dtype = DType::from_ggml_id(type_id).ok_or_else(|| {
        let expected = DType::ALL.map(|dtype| dtype.to_string()).join(", ");
        Error::unsupported(path, format!("element type of tensor {name}"), expected, type_name(type_id))
    })?;
    let offset = cursor.u64(name)?;
    if dims[2] != 1 || dims[3] != 1 {
        return Err(Error::unsupported(path, format!("shape of tensor {name}"), "a matrix", format!("{dims:?}")));
    }
    // The file names the fastest dimension first.
    let [Ok(k), Ok(n)] = [usize::try_from(dims[0]), usize::try_from(dims[1])] else {
        return Err(Error::malformed(path, format!("shape of tensor {name}"), "sizes", format!("{dims:?}")));
    };
    if k == 0 || n == 0 {
        return Err(Error::malformed(
            path,
            format!("shape of tensor {name}"),
            "no empty dimension",
            format!("{dims:?}"),
        ));
    }
    Ok(RawTensor { name, dtype, shape: [n, k], offset })
}

/// Computes a tensor's bytes and checks that the file has them.
fn place(path: &Path, raw: RawTensor<'_>, data_start: u64, alignment: u64, file_len: u64) -> Result<TensorInfo> {
    let RawTensor { name, dtype, shape: [n, k], offset } = raw;
    if !offset.is_multiple_of(alignment) {
        return Err(Error::malformed(path, format!("offset of {name}"), format!("a multiple of {alignment}"), offset));
    }
    if !k.is_multiple_of(dtype.block_elems()) {
        let expected = format!("a multiple of {dtype}'s block of {}", dtype.block_elems());
        return Err(Error::malformed(path, format!("row length of {name}"), expected, k));
    }
    let size = dtype.row_bytes(k).and_then(|row_bytes| row_bytes.checked_mul(n));
    let start = data_start.checked_add(offset);
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size as u64));
    match (start, end) {
        (Some(start), Some(end)) if end <= file_len => {
            Ok(TensorInfo { name: name.into(), dtype, shape: [n, k], range: start as usize..end as usize })
        }
        _ => Err(Error::Truncated {
            path: path.into(),
            what: format!("data of tensor {name} at offset {offset}"),
            expected: size.map_or(u64::MAX, |size| size as u64),
            got: file_len.saturating_sub(start.unwrap_or(u64::MAX)),
        }),
    }
}

fn check_overlap(path: &Path, tensors: &[TensorInfo]) -> Result<()> {
    let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if pair[1].range.start < pair[0].range.end {
            let expected = format!("a start from byte {} on, after {}", pair[0].range.end, pair[0].name);
            let what = format!("data of tensor {}", pair[1].name);
            return Err(Error::malformed(path, what, expected, pair[1].range.start));
        }
    }
    Ok(())
}

/// Names element types that exist and are not read here, for the message.
fn type_name(id: u32) -> String {
    let name = match id {
        6 => "Q5_0",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        13 => "Q5_K",
        15 => "Q8_K",
        16..=23 | 29 => "an IQ type",
        24..=28 => "an integer or F64 type",
        34 | 35 => "a TQ type",
        39 => "MXFP4",
        _ => "an unknown type",
    };
    format!("{name} (id {id})")
}
