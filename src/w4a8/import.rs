//! Lossless import of the 32-value blocks that GGUF files hold.
//!
//! # Source
//! The block definitions of the GGUF format (little endian): Q4_0 {f16 d, 16 bytes}, w = d·(q − 8); Q4_1 {f16 d, f16 m,
//! 16 bytes}, w = d·q + m; Q5_0 {f16 d, u32 high bits, 16 bytes}, w = d·(q − 16); Q5_1 {f16 d, f16 m, u32 high bits, 16 bytes}, w = d·q + m; Q8_0 {f16 d, 32 int8}, w = d·q.
//! In the 4- and 5-bit blocks byte i holds value i in its low and value i + 16 in its high half.

use super::format::{Bits, Format, Offset};
use super::scales::Scales;
use super::weight::{QuantizedWeight, check_shape};
use crate::error::{Result, check_len, product};
use half::f16;

/// A GGUF block type that runs as it is, without requantizing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Block {
    /// 4 bits, scale.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, scale; its codes are stored in 8 bits.
    Q5_0,
    /// 5 bits, scale and minimum; its codes are stored in 8 bits.
    Q5_1,
    /// 8 bits, scale.
    Q8_0,
}

/// Values in a block of every type here.
const BLOCK: usize = 32;

impl Block {
    /// Bytes of one block of 32 values.
    pub fn bytes(self) -> usize {
        match self {
            Block::Q4_0 => 18,
            Block::Q4_1 => 20,
            Block::Q5_0 => 22,
            Block::Q5_1 => 24,
            Block::Q8_0 => 34,
        }
    }

    /// Reads a matrix [N, K] of blocks, rows one after another, into groups of 32 with the blocks' own scales.
    ///
    /// # Errors
    /// [`crate::Error::Shape`] unless K is a multiple of 32, [`crate::Error::Length`] unless `bytes` has N · K/32 blocks,
    /// [`crate::Error::Value`] if a scale is NaN or infinite.
    pub fn import(self, bytes: &[u8], n: usize, k: usize) -> Result<QuantizedWeight> {
        check_shape(n, k)?;
        let blocks = product("n", &[n, k])? / BLOCK;
        check_len("bytes", product("n", &[blocks, self.bytes()])?, bytes.len())?;
        let mut codes = vec![0i8; n * k];
        let mut scale = Vec::with_capacity(blocks);
        let mut offset = Vec::new();
        for (block, out) in bytes.chunks_exact(self.bytes()).zip(codes.chunks_exact_mut(BLOCK)) {
            scale.push(f16::from_le_bytes([block[0], block[1]]));
            if self.format().offset() == Offset::F16 {
                offset.push(f16::from_le_bytes([block[2], block[3]]));
            }
            self.codes(block, out);
        }
        let offset = (!offset.is_empty()).then_some(offset.into());
        QuantizedWeight::new(n, k, self.format(), codes, Scales::per_group(scale, offset))
    }

    /// The format of an imported matrix: groups of 32.
    pub fn format(self) -> Format {
        let offset = if matches!(self, Block::Q4_1 | Block::Q5_1) { Offset::F16 } else { Offset::None };
        let bits = if matches!(self, Block::Q4_0 | Block::Q4_1) { Bits::Four } else { Bits::Eight };
        Format::per_group(BLOCK, offset).with_bits(bits)
    }

    fn codes(self, block: &[u8], out: &mut [i8]) {
        let halves = |bytes: &[u8], out: &mut [i8]| {
            let (low, high) = out.split_at_mut(BLOCK / 2);
            for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
                *low = (byte & 15) as i8;
                *high = (byte >> 4) as i8;
            }
        };
        let five_bits = |bytes: &[u8], out: &mut [i8]| {
            halves(&bytes[4..], out);
            let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            out.iter_mut().enumerate().for_each(|(i, code)| *code |= ((fifth >> i & 1) << 4) as i8);
        };
        match self {
            Block::Q4_0 => halves(&block[2..], out),
            Block::Q4_1 => halves(&block[4..], out),
            Block::Q5_0 => {
                five_bits(&block[2..], out);
                out.iter_mut().for_each(|code| *code -= 16);
            }
            Block::Q5_1 => five_bits(&block[4..], out),
            Block::Q8_0 => out.iter_mut().zip(&block[2..]).for_each(|(code, &byte)| *code = byte as i8),
        }
    }
}
