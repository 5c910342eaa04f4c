//! How a checkpoint's matrices are held in memory: in floating point, as their blocks are, or quantized anew.

use std::fmt;
use std::str::FromStr;

use moray::input_sparse;
use moray::llama::{DenseType, DenseWeight, Linear};
use moray::w4a8::{
    Bits, Block, Format, Group, GroupScale, Offset, PackedWeight, QuantizedWeight, Scales, Values, quantize,
};

use crate::checkpoint::Checkpoint;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::load::Form;
use crate::packed::PackedMatrix;
use crate::tensor::Tensor;

/// Rows that are expanded to f32 at a time.
const CHUNK_ROWS: usize = 256;

/// How the weights of the layers are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightScheme {
    /// A quantized checkpoint's own codes with int8 activations; 16 bits for any other.
    Auto,
    /// 16 bits: f16 or bf16 as stored, f16 for anything else.
    Dense,
    /// f32, exactly what the checkpoint says.
    F32,
    /// The checkpoint's own 4- and 8-bit blocks with int8 activations, nothing requantized.
    AsFile,
    /// Rounded to nearest into a format.
    Quantized(Format),
}

/// The formats by their names on the command line and in files, each with the name that `--weights` had for it before all
/// commands shared one, which is still read. `moray quantize` makes those of 4 bits. A trailing `o` adds an offset to each group.
const FORMATS: [(&str, &str, Format); 12] = [
    ("per-channel", "w4a8", Format::per_channel()),
    ("g32", "w4a8-g32", Format::per_group(32, Offset::None)),
    ("g64", "w4a8-g64", Format::per_group(64, Offset::None)),
    ("g128", "w4a8-g128", Format::per_group(128, Offset::None)),
    ("g32o", "w4a8-g32o", Format::per_group(32, Offset::F16)),
    ("g64o", "w4a8-g64o", Format::per_group(64, Offset::F16)),
    ("g128o", "w4a8-g128o", Format::per_group(128, Offset::F16)),
    ("two-level-g32", "w4a8-t32", Format::two_level(32)),
    ("two-level", "w4a8-t64", Format::two_level(64)),
    ("two-level-g128", "w4a8-t128", Format::two_level(128)),
    ("qqq", "w4a8-qqq", Format::qqq()),
    ("w8", "w8a8", Format::w8()),
];

/// Finds a format by its name, or its earlier one.
pub(crate) fn format_named(text: &str) -> Option<Format> {
    FORMATS.into_iter().find(|(name, earlier, _)| [*name, *earlier].contains(&text)).map(|(_, _, format)| format)
}

/// The names of the formats.
pub(crate) fn format_names() -> impl Iterator<Item = (&'static str, Format)> {
    FORMATS.into_iter().map(|(name, _, format)| (name, format))
}

/// Names of the other schemes.
const OTHERS: [(&str, WeightScheme); 4] = [
    ("auto", WeightScheme::Auto),
    ("dense", WeightScheme::Dense),
    ("f32", WeightScheme::F32),
    ("as-file", WeightScheme::AsFile),
];

impl WeightScheme {
    /// What [`WeightScheme::Auto`] stands for with a checkpoint.
    pub fn resolved(self, checkpoint: &Checkpoint) -> Self {
        match (self, checkpoint.quantization()) {
            (WeightScheme::Auto, Some(_)) => WeightScheme::AsFile,
            (WeightScheme::Auto, None) => WeightScheme::Dense,
            (scheme, _) => scheme,
        }
    }

    /// Every scheme with its name.
    pub fn all() -> impl Iterator<Item = (&'static str, WeightScheme)> {
        OTHERS.into_iter().chain(format_names().map(|(name, format)| (name, WeightScheme::Quantized(format))))
    }
}

impl fmt::Display for WeightScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = WeightScheme::all().find(|(_, scheme)| scheme == self).map_or("another format", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for WeightScheme {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let names = || WeightScheme::all().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        let other = OTHERS.into_iter().find(|(name, _)| *name == text).map(|(_, scheme)| scheme);
        let found = other.or_else(|| format_named(text).map(WeightScheme::Quantized));
        found.ok_or_else(|| format!("expected one of {}, got {text}", names()))
    }
}

/// The block type that runs as it is, if a tensor has one.
pub(crate) fn block_of(dtype: DType) -> Option<Block> {
    match dtype {
        DType::Q4_0 => Some(Block::Q4_0),
        DType::Q4_1 => Some(Block::Q4_1),
        DType::Q5_0 => Some(Block::Q5_0),
        DType::Q5_1 => Some(Block::Q5_1),
        DType::Q8_0 => Some(Block::Q8_0),
        _ => None,
    }
}

/// Holds matrices of one K, one below the other, as one layer.
///
/// # Errors
/// [`Error::NotFinite`] for NaN or infinite weights, [`Error::Kernel`] where the scheme does not take their sizes.
pub(crate) fn linear(parts: &[Tensor<'_>], scheme: WeightScheme, form: Form) -> Result<Linear> {
    let blocks = scheme == WeightScheme::AsFile && parts.iter().all(|part| block_of(part.dtype).is_some());
    match scheme {
        WeightScheme::AsFile if blocks => {
            let parts = parts.iter().map(import).collect::<Result<Vec<_>>>()?;
            packed(&stack(parts)?, form)
        }
        WeightScheme::Quantized(format) => {
            let parts = parts.iter().map(|part| requantize(part, format)).collect::<Result<Vec<_>>>()?;
            packed(&stack(parts)?, form)
        }
        WeightScheme::F32 => dense(parts, DenseType::F32, form),
        WeightScheme::Auto | WeightScheme::Dense | WeightScheme::AsFile => {
            let bf16 = parts.iter().any(|part| part.dtype == DType::Bf16);
            dense(parts, if bf16 { DenseType::Bf16 } else { DenseType::F16 }, form)
        }
    }
}

/// Holds matrices that are integer codes already, one below the other: as they are, or what they stand for in floating point.
/// Matrices whose inputs are in different orders, or some of which have groups and others not, have no joint form but the latter.
///
/// # Errors
/// [`Error::Kernel`] for a mode to requantize them into.
pub(crate) fn quantized_linear(parts: Vec<PackedMatrix>, scheme: WeightScheme, form: Form) -> Result<Linear> {
    let float = |dtype: DenseType| {
        let n = parts.iter().map(|part| part.weight.n()).sum();
        let k = parts.first().map_or(0, |part| part.weight.k());
        let values: Vec<f32> = parts.iter().flat_map(PackedMatrix::dequantize).collect();
        Ok(match form.is_by_input(n, 8 * dtype.bytes()) {
            true => input_sparse::Weight::from_f32(&values, n, k, dtype)?.into(),
            false => DenseWeight::from_f32(&values, n, k, dtype)?.into(),
        })
    };
    let order = parts.first().and_then(|part| part.order.clone());
    match scheme {
        WeightScheme::AsFile | WeightScheme::Auto if parts.iter().any(|part| part.order != order) => {
            float(DenseType::F16)
        }
        WeightScheme::AsFile | WeightScheme::Auto => {
            let weights = parts.iter().map(|part| part.weight.clone()).collect();
            let Ok(joined) = stack(weights) else { return float(DenseType::F16) };
            let linear = packed(&joined, form)?;
            Ok(match order {
                Some(order) => linear.with_input_order(order)?,
                None => linear,
            })
        }
        WeightScheme::Dense => float(DenseType::F16),
        WeightScheme::F32 => float(DenseType::F32),
        WeightScheme::Quantized(_) => Err(requantized(scheme)),
    }
}

/// The error for a mode to quantize a quantized checkpoint into.
pub(crate) fn requantized(scheme: WeightScheme) -> Error {
    let (expected, got) = ("as-file, dense or f32 for a quantized checkpoint", scheme.to_string());
    Error::Kernel(moray::Error::Unsupported { what: "weights", expected, got })
}

/// Embeddings and output layers: in a quantized model as the file has them if it can be, else in 16 bits.
pub(crate) fn vocabulary_linear(tensor: Tensor<'_>, scheme: WeightScheme) -> Result<Linear> {
    let scheme = match scheme {
        WeightScheme::Quantized(_) => WeightScheme::AsFile,
        other => other,
    };
    linear(&[tensor], scheme, Form::Whole)
}

/// A matrix as integer codes, for a scheme that has them.
pub(crate) fn quantized(tensor: &Tensor<'_>, scheme: WeightScheme) -> Result<Option<QuantizedWeight>> {
    match scheme {
        WeightScheme::AsFile if block_of(tensor.dtype).is_some() => import(tensor).map(Some),
        WeightScheme::Quantized(format) => requantize(tensor, format).map(Some),
        _ => Ok(None),
    }
}

fn import(tensor: &Tensor<'_>) -> Result<QuantizedWeight> {
    tensor.check_finite()?;
    let [n, k] = tensor.shape;
    let block = block_of(tensor.dtype).ok_or_else(|| Error::Kernel(not_blocks(tensor)))?;
    Ok(block.import(&tensor.bytes, n, k)?)
}

fn not_blocks(tensor: &Tensor<'_>) -> moray::Error {
    let expected = "Q4_0, Q4_1, Q5_0, Q5_1 or Q8_0 blocks";
    moray::Error::Unsupported { what: "tensor", expected, got: format!("{} in {}", tensor.name, tensor.dtype) }
}

fn requantize(tensor: &Tensor<'_>, format: Format) -> Result<QuantizedWeight> {
    let [n, k] = tensor.shape;
    let mut values = vec![0.0; CHUNK_ROWS.min(n) * k];
    let mut all: Option<QuantizedWeight> = None;
    for first in (0..n).step_by(CHUNK_ROWS) {
        let rows = first..(first + CHUNK_ROWS).min(n);
        let values = &mut values[..rows.len() * k];
        tensor.rows_to_f32(rows.clone(), values)?;
        let part = quantize(values, rows.len(), k, format)?;
        all = Some(match all {
            Some(all) => QuantizedWeight::concatenate(&[&all, &part])?,
            None => part,
        });
    }
    all.ok_or(Error::Kernel(moray::Error::Shape { what: "n", expected: "at least 1", got: 0 }))
}

fn dense(parts: &[Tensor<'_>], dtype: DenseType, form: Form) -> Result<Linear> {
    let (n, k) = (parts.iter().map(|part| part.shape[0]).sum(), parts.first().map_or(0, |part| part.shape[1]));
    if form.is_by_input(n, 8 * dtype.bytes()) {
        let mut weight = input_sparse::Weight::zeros(n, k, dtype)?;
        for_rows(parts, k, |first, rows| weight.set_rows(first, rows))?;
        return Ok(weight.into());
    }
    let mut weight = DenseWeight::zeros(n, k, dtype)?;
    for_rows(parts, k, |first, rows| weight.set_rows(first, rows))?;
    Ok(weight.into())
}

/// Calls `f` with the number of the first of some rows, and the rows, for all rows of matrices of one K.
fn for_rows(parts: &[Tensor<'_>], k: usize, mut f: impl FnMut(usize, &[f32]) -> moray::Result<()>) -> Result<()> {
    let mut values = vec![0.0; CHUNK_ROWS * k];
    let mut at = 0;
    for part in parts {
        for first in (0..part.shape[0]).step_by(CHUNK_ROWS) {
            let rows = first..(first + CHUNK_ROWS).min(part.shape[0]);
            let values = &mut values[..rows.len() * k];
            part.rows_to_f32(rows.clone(), values)?;
            f(at, values)?;
            at += rows.len();
        }
    }
    Ok(())
}

/// Integer codes in a form.
fn packed(weight: &QuantizedWeight, form: Form) -> Result<Linear> {
    let bits = match weight.format().bits {
        Bits::Four => 4,
        Bits::Eight => 8,
    };
    match form.is_by_input(weight.n(), bits) {
        true => Ok(input_sparse::Weight::from_quantized(weight)?.into()),
        false => Ok(PackedWeight::pack(weight).into()),
    }
}

/// Puts matrices below each other; those of different groups or kinds are brought to a form that all have.
fn stack(parts: Vec<QuantizedWeight>) -> Result<QuantizedWeight> {
    let all: Vec<&QuantizedWeight> = parts.iter().collect();
    if let Ok(stacked) = QuantizedWeight::concatenate(&all) {
        return Ok(stacked);
    }
    let smallest = parts.iter().filter_map(|part| part.format().group_size()).min();
    let regrouped = match smallest {
        Some(size) => parts.iter().map(|part| regroup(part, size)).collect::<Result<Vec<_>>>()?,
        None => parts,
    };
    let mixed = |kind: Offset| regrouped.iter().any(|part| part.format().offset() == kind);
    let alike = match (mixed(Offset::F16), mixed(Offset::ZeroPoint)) {
        (false, true) if regrouped.iter().all(|part| part.format().bits == Bits::Four) => with_zero_points,
        _ => widen,
    };
    let alike = regrouped.iter().map(alike).collect::<Result<Vec<_>>>()?;
    Ok(QuantizedWeight::concatenate(&alike.iter().collect::<Vec<_>>())?)
}

/// The same numbers in smaller groups, each of which has the scale and offset of the one it was part of.
fn regroup(weight: &QuantizedWeight, size: usize) -> Result<QuantizedWeight> {
    let (format, scales) = (weight.format(), weight.scales());
    let Some(group) = format.group.filter(|group| group.scale == GroupScale::F16 && group.size > size) else {
        return Ok(weight.clone());
    };
    fn repeated<T: Copy>(values: &[T], times: usize) -> Vec<T> {
        values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect()
    }
    let repeat = |values: &Values| match values {
        Values::F16(values) => Values::F16(repeated(values, group.size / size)),
        Values::U8(values) => Values::U8(repeated(values, group.size / size)),
    };
    let scales =
        Scales { channel: None, group: scales.group.as_ref().map(repeat), offset: scales.offset.as_ref().map(repeat) };
    let format = Format { group: Some(Group { size, ..group }), ..format };
    Ok(QuantizedWeight::new(weight.n(), weight.k(), format, weight.codes().to_vec(), scales)?)
}

/// The same numbers with the zero point of each group, where it is the middle of the codes so far.
fn with_zero_points(weight: &QuantizedWeight) -> Result<QuantizedWeight> {
    let (format, scales) = (weight.format(), weight.scales());
    let (Some(group), Some(scale), None) = (format.group, &scales.group, &scales.offset) else {
        return Ok(weight.clone());
    };
    let scales = Scales { offset: Some(vec![8u8; scale.len()].into()), ..scales.clone() };
    let format = Format { group: Some(Group { offset: Offset::ZeroPoint, ..group }), ..format };
    Ok(QuantizedWeight::new(weight.n(), weight.k(), format, weight.codes().to_vec(), scales)?)
}

/// The same numbers with 8-bit codes and an offset.
fn widen(weight: &QuantizedWeight) -> Result<QuantizedWeight> {
    let (format, scales) = (weight.format(), weight.scales());
    let (Some(GroupScale::F16), Some(scale)) = (format.group_scale(), &scales.group) else {
        return Ok(weight.clone());
    };
    let size = format.group_size().unwrap_or(1);
    let middle = if (format.bits, format.offset()) == (Bits::Four, Offset::None) { 8 } else { 0 };
    let codes = weight.codes().chunks_exact(size).enumerate().flat_map(|(group, codes)| {
        let zero = match &scales.offset {
            Some(Values::U8(points)) => points[group] as i8,
            _ => middle,
        };
        codes.iter().map(move |code| code - zero)
    });
    let codes = codes.collect();
    let zeros = || vec![half::f16::ZERO; scale.len()].into();
    let offset = scales.offset.clone().filter(|_| format.offset() == Offset::F16).unwrap_or_else(zeros);
    let scales = Scales { offset: Some(offset), ..scales.clone() };
    let group = format.group.map(|group| Group { offset: Offset::F16, ..group });
    Ok(QuantizedWeight::new(weight.n(), weight.k(), Format { bits: Bits::Eight, group }, codes, scales)?)
}
