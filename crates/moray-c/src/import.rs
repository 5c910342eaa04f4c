//! Weights out of checkpoints, with the codes and scales they have.

use crate::arguments::{MorayBytes, borrow, create, give, sized};
use crate::dtype::{MorayDtype, with_dtype};
use crate::quantized::MorayQuantized;
use crate::status::{Fault, MorayStatus, Outcome, guard};
use half::f16;
use moray::element::Element;
use moray::w4a8::{Bits, Block, ExportedArrays, ExportedLayout, QqqArrays, StoredZeros};

/// A block type of GGUF files, by the number that they give it.
pub type MorayBlock = u32;

/// 4 bits and a scale for 32 values: 18 bytes.
pub const MORAY_BLOCK_Q4_0: MorayBlock = 2;
/// 4 bits, a scale and a minimum: 20 bytes.
pub const MORAY_BLOCK_Q4_1: MorayBlock = 3;
/// 5 bits and a scale: 22 bytes. Becomes 8 bits, with the same numbers.
pub const MORAY_BLOCK_Q5_0: MorayBlock = 6;
/// 5 bits, a scale and a minimum: 24 bytes. Becomes 8 bits, with the same numbers.
pub const MORAY_BLOCK_Q5_1: MorayBlock = 7;
/// 8 bits and a scale: 34 bytes.
pub const MORAY_BLOCK_Q8_0: MorayBlock = 8;

/// Reads a matrix [N, K] of GGUF blocks, rows one after another, with the blocks' own scales: groups of 32.
///
/// Fails with `MORAY_STATUS_LENGTH` unless `blocks` has N * K / 32 of them, `MORAY_STATUS_SHAPE` unless K is a multiple of 32,
/// `MORAY_STATUS_VALUE` for a scale that is not finite, `MORAY_STATUS_UNSUPPORTED` for other blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_import_blocks(
    block: MorayBlock,
    blocks: MorayBytes,
    n: usize,
    k: usize,
    out: *mut *mut MorayQuantized,
) -> MorayStatus {
    guard(|| {
        let block = match block {
            MORAY_BLOCK_Q4_0 => Block::Q4_0,
            MORAY_BLOCK_Q4_1 => Block::Q4_1,
            MORAY_BLOCK_Q5_0 => Block::Q5_0,
            MORAY_BLOCK_Q5_1 => Block::Q5_1,
            MORAY_BLOCK_Q8_0 => Block::Q8_0,
            other => return Err(Fault::unsupported("block", "a MORAY_BLOCK_ constant", other)),
        };
        // SAFETY: the caller's.
        let bytes = unsafe { blocks.read("blocks")? };
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(block.import(bytes, n, k)?.into())) }
    })
}

/// Which exporter's arrays: one of the `MORAY_LAYOUT_..` constants. P = 32 / bits codes stand in a word, the first in its lowest bits.
pub type MorayExporter = u32;

/// GPTQ: qweight [K / P, N], scales [groups, N], qzeros [groups, ceil(N / P)] less one, each in its own bits.
pub const MORAY_LAYOUT_GPTQ: MorayExporter = 1;
/// The same with zero points as they are ("gptq_v2").
pub const MORAY_LAYOUT_GPTQ_V2: MorayExporter = 2;
/// The same with one subtracted from whole words, as GPTQModel and AutoRound write them.
pub const MORAY_LAYOUT_GPTQ_BY_WORD: MorayExporter = 3;
/// AWQ: qweight [K, N / 8], scales [groups, N], qzeros [groups, N / 8].
pub const MORAY_LAYOUT_AWQ: MorayExporter = 4;
/// compressed-tensors: weight_packed [N, K / P], weight_scale [N, groups], weight_zero_point [ceil(N / P), groups].
pub const MORAY_LAYOUT_COMPRESSED_TENSORS: MorayExporter = 5;

/// A matrix w[N, K] = scale * (code - zero_point) as a checkpoint's arrays.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct MorayExported {
    /// `sizeof(MorayExported)`.
    pub struct_size: u32,
    /// The layout.
    pub layout: MorayExporter,
    /// Of a code: 4 or 8.
    pub bits: u32,
    /// Of `scales`.
    pub scale_dtype: MorayDtype,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
    /// i32 words of codes.
    pub codes: MorayBytes,
    /// A scale for each group; they may be negative.
    pub scales: MorayBytes,
    /// i32 words of zero points; left out for the middle of the codes (8, or 128) everywhere.
    pub zeros: MorayBytes,
    /// i32 [K], the group of each input (g_idx); left out where neighbours share one.
    pub group_of: MorayBytes,
}

/// Reads a checkpoint's arrays with their own codes, scales and zero points; groups longer than 128 are repeated.
///
/// Where `group_of` puts inputs of a group apart, columns are in another order, see `moray_quantized_order`.
///
/// Fails with `MORAY_STATUS_LENGTH` for an array of another size, `MORAY_STATUS_UNSUPPORTED` for groups of no multiple of 32 or of
/// unlike sizes and for zero points of 8-bit codes, `MORAY_STATUS_VALUE` for a scale that is not finite in f16, `MORAY_STATUS_INDEX`
/// for a group that is not there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_import_exported(
    arrays: *const MorayExported,
    out: *mut *mut MorayQuantized,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let arrays = unsafe { sized("arrays", arrays)? };
        // SAFETY: the caller's.
        unsafe { create(out, || read(arrays)) }
    })
}

/// # Safety
/// As [`moray_import_exported`].
unsafe fn read(arrays: &MorayExported) -> Outcome<MorayQuantized> {
    let layout = match arrays.layout {
        MORAY_LAYOUT_GPTQ => ExportedLayout::Gptq(StoredZeros::LessOne),
        MORAY_LAYOUT_GPTQ_V2 => ExportedLayout::Gptq(StoredZeros::Plain),
        MORAY_LAYOUT_GPTQ_BY_WORD => ExportedLayout::Gptq(StoredZeros::LessOneByWord),
        MORAY_LAYOUT_AWQ => ExportedLayout::Awq,
        MORAY_LAYOUT_COMPRESSED_TENSORS => ExportedLayout::CompressedTensors,
        other => return Err(Fault::unsupported("layout", "a MORAY_LAYOUT_ constant of an exporter", other)),
    };
    let bits = match arrays.bits {
        4 => Bits::Four,
        8 => Bits::Eight,
        other => return Err(Fault::unsupported("bits", "4 or 8", other)),
    };
    let scales: Vec<f32> = with_dtype!("scale_dtype", arrays.scale_dtype, E => {
        // SAFETY: the caller's.
        unsafe { arrays.scales.read::<E>("scales")? }.iter().map(|&scale| Element::to_f32(scale)).collect()
    });
    // SAFETY: the caller's.
    let (codes, zeros) = unsafe { (arrays.codes.read("codes")?, arrays.zeros.optional("zeros")?) };
    // SAFETY: the caller's.
    let group_of = unsafe { arrays.group_of.optional("group_of")? };
    let exported = ExportedArrays { layout, n: arrays.n, k: arrays.k, bits, codes, scales: &scales, zeros };
    let (weight, order) = exported.unpack()?.into_weight(group_of)?;
    Ok(MorayQuantized { weight, order })
}

/// Reads the arrays of a matrix [N, K] in a checkpoint of QQQ's with the codes and scales that they have: `codes` i32 [K / 16, 2 * N] (its `B`),
/// `channel_scale` f32 [N] (`s_channel`), and `group_scale` f16 [K / 128, N] (`s_group`), left out where channels alone have scales. They become
/// per-channel weights, or QQQ's group form.
///
/// Fails with `MORAY_STATUS_LENGTH` for an array of another size, `MORAY_STATUS_UNSUPPORTED` unless N and K are multiples of 64,
/// `MORAY_STATUS_SHAPE` unless K is one of 128 with groups, `MORAY_STATUS_VALUE` for a scale that is not finite.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_import_qqq(
    codes: MorayBytes,
    channel_scale: MorayBytes,
    group_scale: MorayBytes,
    n: usize,
    k: usize,
    out: *mut *mut MorayQuantized,
) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let (codes, channel) = unsafe { (codes.read("codes")?, channel_scale.read("channel_scale")?) };
        // SAFETY: the caller's.
        let group = unsafe { group_scale.optional::<f16>("group_scale")? };
        let (codes, channel_scale, group_scale) = (codes.to_vec(), channel.to_vec(), group.map(<[f16]>::to_vec));
        // SAFETY: the caller's.
        unsafe { create(out, || Ok(QqqArrays { n, k, codes, channel_scale, group_scale }.weight()?.into())) }
    })
}

/// Says in which order the columns of a plain weight are: u32 [K], column j goes with input order[j]; nothing where every column goes
/// with its own. `moray_activations_quantize` takes it. It is there until the weight is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn moray_quantized_order(weight: *const MorayQuantized, order: *mut MorayBytes) -> MorayStatus {
    guard(|| {
        // SAFETY: the caller's.
        let weight = unsafe { borrow("weight", weight)? };
        // SAFETY: the caller's.
        unsafe { give("order", order, weight.order.as_deref().map_or(MorayBytes::NONE, MorayBytes::of)) }
    })
}
