//! Arrays of any element type in safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorView;
use half::{bf16, f16};
use moray::w4a8::Bits;

use crate::error::{Error, Result};
use crate::hf::StoredArrayInfo;
use crate::mapped_file::MappedFile;

/// The arrays of a checkpoint by name, with the index of their file.
pub(crate) struct PackedTensors<'a> {
    pub(crate) path: &'a Path,
    pub(crate) files: &'a [MappedFile],
    pub(crate) arrays: &'a BTreeMap<String, (usize, StoredArrayInfo)>,
}

impl<'a> PackedTensors<'a> {
    /// The arrays of one projection.
    pub(crate) fn under(&'a self, prefix: &'a str) -> Projection<'a> {
        Projection { tensors: self, prefix }
    }
}

/// The arrays of one projection, by suffix.
pub(crate) struct Projection<'a> {
    tensors: &'a PackedTensors<'a>,
    prefix: &'a str,
}

/// One array.
pub(crate) struct Array<'a> {
    path: &'a Path,
    name: String,
    info: &'a StoredArrayInfo,
    bytes: &'a [u8],
}

impl<'a> Projection<'a> {
    /// An array that may be absent; one without elements counts as absent.
    pub(crate) fn optional(&self, suffix: &str) -> Option<Array<'a>> {
        let name = format!("{}.{suffix}", self.prefix);
        let (file, info) = self.tensors.arrays.get(&name)?;
        if info.shape.contains(&0) {
            return None;
        }
        let file = self.tensors.files.get(*file)?;
        Some(Array { path: file.path(), name, info, bytes: file.bytes().get(info.range.clone())? })
    }

    /// An array.
    pub(crate) fn required(&self, suffix: &str) -> Result<Array<'a>> {
        self.optional(suffix).ok_or_else(|| self.missing(suffix))
    }

    /// Bits of the codes in words that hold so many of them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for others than 4 and 8.
    pub(crate) fn bits(&self, words: &Array<'_>, codes: usize) -> Result<Bits> {
        match (words.elems() * 8 == codes, words.elems() * 4 == codes) {
            (true, _) => Ok(Bits::Four),
            (_, true) => Ok(Bits::Eight),
            _ => {
                let expected = format!("{} words for 4 bits or {} for 8", codes / 8, codes / 4);
                Err(self.unsupported("codes", &expected, format!("{:?}", words.shape())))
            }
        }
    }

    /// An error for an array that has to be there.
    pub(crate) fn missing(&self, suffix: &str) -> Error {
        Error::MissingTensor { path: self.tensors.path.into(), name: format!("{}.{suffix}", self.prefix) }
    }

    /// An error about the projection as a whole.
    pub(crate) fn unsupported(&self, what: &str, expected: &str, got: impl ToString) -> Error {
        Error::unsupported(self.tensors.path, format!("{what} of {}", self.prefix), expected, got)
    }
}

impl Array<'_> {
    /// Checks the shape; trailing and leading sizes of 1 count for nothing.
    pub(crate) fn shaped(self, expected: &[usize]) -> Result<Self> {
        let plain = |shape: &[usize]| shape.iter().copied().filter(|&size| size != 1).collect::<Vec<_>>();
        if plain(&self.info.shape) == plain(expected) {
            return Ok(self);
        }
        Err(self.malformed_shape(&format!("{expected:?}")))
    }

    fn wrong_type(&self, expected: &str) -> Error {
        let (path, name) = (self.path.to_path_buf(), self.name.clone());
        Error::TensorType { path, name, expected: expected.into(), got: format!("{:?}", self.info.dtype) }
    }

    /// 32-bit words, whatever their sign.
    pub(crate) fn words(&self) -> Result<Vec<u32>> {
        match self.info.dtype {
            Dtype::I32 | Dtype::U32 => {
                Ok(self.bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect())
            }
            _ => Err(self.wrong_type("I32")),
        }
    }

    /// Bytes.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>> {
        match self.info.dtype {
            Dtype::U8 | Dtype::I8 => Ok(self.bytes.to_vec()),
            _ => Err(self.wrong_type("U8")),
        }
    }

    /// Floats of 32 bits, exactly those stored.
    pub(crate) fn floats(&self) -> Result<Vec<f32>> {
        let halves = self.bytes.as_chunks::<2>().0.iter();
        match self.info.dtype {
            Dtype::F32 => Ok(self.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
            Dtype::F16 => Ok(halves.map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
            Dtype::BF16 => Ok(halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
            _ => Err(self.wrong_type("F32, F16 or BF16")),
        }
    }

    /// Floats of 16 bits, rounded if they are stored in another type.
    pub(crate) fn halves(&self) -> Result<Vec<f16>> {
        Ok(self.floats()?.into_iter().map(f16::from_f32).collect())
    }

    /// Number of elements.
    pub(crate) fn elems(&self) -> usize {
        // the file holds them all, so they can be counted
        self.info.shape.iter().product()
    }

    /// Element type.
    pub(crate) fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    /// Sizes.
    pub(crate) fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// An error about the shape.
    pub(crate) fn malformed_shape(&self, expected: &str) -> Error {
        let what = format!("shape of tensor {}", self.name);
        Error::malformed(self.path, what, expected, format!("{:?}", self.info.shape))
    }

    /// Whether the elements are 32-bit floats.
    pub(crate) fn is_f32(&self) -> bool {
        self.info.dtype == Dtype::F32
    }
}

/// An array to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredArray {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, the slowest first.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

impl StoredArray {
    /// f32.
    pub fn f32(name: impl Into<String>, shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        StoredArray { name: name.into(), dtype: Dtype::F32, shape: shape.into(), bytes }
    }

    /// f16.
    pub fn f16(name: impl Into<String>, shape: &[usize], values: &[f16]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        StoredArray { name: name.into(), dtype: Dtype::F16, shape: shape.into(), bytes }
    }

    /// Bytes.
    pub fn u8(name: impl Into<String>, shape: &[usize], bytes: Vec<u8>) -> Self {
        StoredArray { name: name.into(), dtype: Dtype::U8, shape: shape.into(), bytes }
    }

    /// 32-bit words.
    pub fn i32(name: impl Into<String>, shape: &[usize], words: &[u32]) -> Self {
        let bytes = words.iter().flat_map(|v| v.to_le_bytes()).collect();
        StoredArray { name: name.into(), dtype: Dtype::I32, shape: shape.into(), bytes }
    }
}

/// Encodes arrays as a safetensors file, with the metadata without which older versions of transformers refuse to load one.
///
/// # Errors
/// [`Error::Malformed`] for a shape that contradicts its bytes, which `path` then names.
pub fn serialize_arrays(path: &Path, arrays: &[StoredArray]) -> Result<Vec<u8>> {
    let fault = |error: ::safetensors::SafeTensorError| {
        Error::malformed(path, "arrays", "shapes that fit their bytes", error.to_string())
    };
    let mut views = Vec::with_capacity(arrays.len());
    for array in arrays {
        let view = TensorView::new(array.dtype, array.shape.clone(), &array.bytes).map_err(fault)?;
        views.push((array.name.as_str(), view));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    ::safetensors::serialize(views, Some(metadata)).map_err(fault)
}
