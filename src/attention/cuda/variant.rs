//! Which kernel a call runs: a pure function of shape, format and sizes.

use super::kv_format::KvFormat;
use super::mirror::{self, AttendParams};
use super::split::Split;
use crate::attention::AttentionShape;
use crate::device::{Device, Kernel};
use crate::error::{Error, Result};

/// Rows ((token, head) pairs) of a tile of the decode and of the prefill kernel.
const DECODE_ROWS: usize = 16;
const PREFILL_ROWS: usize = 64;

/// Kernels by format and head size: f16, bf16, int8, f32; 64, 128, 256.
const DECODE: [[Kernel<AttendParams>; 3]; 4] = [
    [mirror::DECODE_F16_64, mirror::DECODE_F16_128, mirror::DECODE_F16_256],
    [mirror::DECODE_BF16_64, mirror::DECODE_BF16_128, mirror::DECODE_BF16_256],
    [mirror::DECODE_INT8_64, mirror::DECODE_INT8_128, mirror::DECODE_INT8_256],
    [mirror::DECODE_F32_64, mirror::DECODE_F32_128, mirror::DECODE_F32_256],
];
const PREFILL: [[Kernel<AttendParams>; 3]; 4] = [
    [mirror::PREFILL_F16_64, mirror::PREFILL_F16_128, mirror::PREFILL_F16_256],
    [mirror::PREFILL_BF16_64, mirror::PREFILL_BF16_128, mirror::PREFILL_BF16_256],
    [mirror::PREFILL_INT8_64, mirror::PREFILL_INT8_128, mirror::PREFILL_INT8_256],
    [mirror::PREFILL_F32_64, mirror::PREFILL_F32_128, mirror::PREFILL_F32_256],
];

/// Row tiles up to which a span is still decoded: each reads K and V again, from the second-level cache.
pub(super) const MAX_DECODE_TILES: usize = 4;

/// Whether spans of up to `longest` tokens have one tile of rows in the decode kernel.
pub(super) fn has_one_tile(shape: &AttentionShape, longest: usize) -> bool {
    longest.saturating_mul(shape.group_size()) <= DECODE_ROWS
}

/// An attention kernel and the shape of its launch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Variant {
    pub kernel: Kernel<AttendParams>,
    /// Splits of the context, and their length; one where the kernel does not split.
    pub split: Split,
    /// Blocks.
    pub grid: [u32; 3],
}

/// Chooses the kernel for spans of up to `longest` tokens.
pub(super) fn select(
    shape: &AttentionShape,
    format: KvFormat,
    n_spans: usize,
    longest: usize,
    split: Split,
) -> Variant {
    let rows = longest.saturating_mul(shape.group_size());
    let (n_kv_heads, n_spans) = (shape.n_kv_heads as u32, n_spans as u32);
    let size = match shape.head_dim {
        ..=64 => 0,
        65..=128 => 1,
        _ => 2,
    };
    let kind = match format {
        KvFormat::F16 => 0,
        KvFormat::Bf16 => 1,
        KvFormat::Int8 => 2,
        KvFormat::F32 => 3,
    };
    if rows.div_ceil(DECODE_ROWS) <= MAX_DECODE_TILES {
        let grid = [split.n_splits as u32, n_kv_heads * rows.div_ceil(DECODE_ROWS) as u32, n_spans];
        return Variant { kernel: DECODE[kind][size], split, grid };
    }
    let grid = [rows.div_ceil(PREFILL_ROWS) as u32, n_kv_heads, n_spans];
    let split = Split { n_splits: 1, len: split.len };
    Variant { kernel: PREFILL[kind][size], split, grid }
}

impl Variant {
    /// Checks that the device can start it.
    pub(super) fn check(&self, device: &Device) -> Result<()> {
        if self.kernel.shared_bytes as usize > device.shared_bytes() {
            return Err(Error::Unsupported {
                what: "attention over f32 or int8 caches with head_dim above 128",
                expected: "a device with 145 KiB (f32) or 105 KiB (int8) of shared memory per block",
                got: format!("{} bytes", device.shared_bytes()),
            });
        }
        if self.grid[1] > 0xffff || self.grid[2] > 0xffff {
            let expected = "at most 65535 KV heads times row tiles";
            return Err(Error::Shape { what: "n_kv_heads", expected, got: self.grid[1] as usize });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_matches_the_rows_of_a_span() {
        let shape = AttentionShape::new(32, 8, 128).unwrap();
        let split = Split::choose(8, 1, 4096, 132);
        assert_eq!(split, Split { n_splits: 16, len: 256 });
        let decode = select(&shape, KvFormat::Bf16, 3, 1, split);
        assert_eq!((decode.kernel.symbol, decode.grid), ("attention_decode_bf16_128", [16, 8, 3]));
        let speculative = select(&shape, KvFormat::F16, 1, 16, split);
        assert_eq!((speculative.kernel.symbol, speculative.grid), ("attention_decode_f16_128", [16, 32, 1]));
        let prefill = select(&shape, KvFormat::Int8, 2, 17, split);
        assert_eq!((prefill.kernel.symbol, prefill.grid), ("attention_prefill_int8_128", [2, 8, 2]));
        assert_eq!(prefill.split.n_splits, 1);
        let wide = select(&shape, KvFormat::F32, 1, 1, split);
        assert_eq!((wide.kernel.symbol, wide.kernel.shared_bytes), ("attention_decode_f32_128", 74416));
        assert_eq!(select(&shape, KvFormat::F32, 2, 17, split).kernel.symbol, "attention_prefill_f32_128");
    }

    #[test]
    fn variant_matches_the_next_larger_head_dim() {
        for (head_dim, suffix) in [(8, "64"), (64, "64"), (72, "128"), (128, "128"), (136, "256"), (256, "256")] {
            let shape = AttentionShape::new(1, 1, head_dim).unwrap();
            let variant = select(&shape, KvFormat::F16, 1, 1, Split { n_splits: 1, len: 256 });
            assert_eq!(variant.kernel.symbol, format!("attention_decode_f16_{suffix}"));
        }
    }
}
