//! Dequantization of stored rows to f32, from the formats' definitions.
//!
//! Every function is the definition of its type, written so that the compiler vectorises it: a whole number of blocks
//! in, the same number of elements out, and the answer says whether every scale (or float) was finite. Products are
//! rounded in the order the definitions give, so results agree with other implementations bit for bit.

use half::f16;

use crate::dtype::DType;

/// Expands whole blocks of `dtype` to f32 and returns whether all scales and floats are finite.
///
/// `bytes` holds `out.len() / block_elems` blocks; what is beyond the shorter of the two is left alone.
///
/// ```
/// use moray_lab::{dequantize::dequantize, dtype::DType};
/// let mut block = vec![0x00, 0x3c]; // scale 1.0
/// block.extend([0x98; 16]); // low nibble 8, high nibble 9
/// let mut out = [f32::NAN; 32];
/// assert!(dequantize(DType::Q4_0, &block, &mut out));
/// assert_eq!((out[0], out[16]), (0.0, 1.0));
/// ```
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> bool {
    match dtype {
        DType::F32 => floats::<4>(bytes, out, f32::from_le_bytes),
        DType::F16 => floats::<2>(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::Bf16 => floats::<2>(bytes, out, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)),
        DType::Q4_0 => blocks::<18, 32>(bytes, out, q4_0),
        DType::Q4_1 => blocks::<20, 32>(bytes, out, q4_1),
        DType::Q5_0 => blocks::<22, 32>(bytes, out, q5_0),
        DType::Q5_1 => blocks::<24, 32>(bytes, out, q5_1),
        DType::Q8_0 => blocks::<34, 32>(bytes, out, q8_0),
        DType::Q4K => blocks::<144, 256>(bytes, out, q4_k),
        DType::Q5K => blocks::<176, 256>(bytes, out, q5_k),
        DType::Q6K => blocks::<210, 256>(bytes, out, q6_k),
    }
}

/// Whether all scales and floats of whole blocks are finite, without expanding them.
pub fn all_finite(dtype: DType, bytes: &[u8]) -> bool {
    let half_at = |block: &[u8], at: usize| scale(block, at).is_finite();
    let every = |check: &dyn Fn(&[u8]) -> bool| bytes.chunks_exact(dtype.block_bytes()).all(check);
    match dtype {
        DType::F32 => every(&|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()),
        DType::F16 | DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => every(&|b| half_at(b, 0)),
        DType::Bf16 => every(&|b| u16::from_le_bytes([b[0], b[1]]) & 0x7f80 != 0x7f80),
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => every(&|b| half_at(b, 0) && half_at(b, 2)),
        DType::Q6K => every(&|b| half_at(b, 208)),
    }
}

fn floats<const BYTES: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; BYTES]) -> f32) -> bool {
    let mut finite = true;
    for (value, chunk) in out.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        *value = read(*chunk);
        finite &= value.is_finite();
    }
    finite
}

fn blocks<const BYTES: usize, const ELEMS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    expand: impl Fn(&[u8; BYTES], &mut [f32; ELEMS]) -> bool,
) -> bool {
    let mut finite = true;
    for (block, values) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<ELEMS>().0) {
        finite &= expand(block, values);
    }
    finite
}

fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Low nibbles are elements 0..16 of the block, high nibbles are elements 16..32.
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) -> bool {
    let d = scale(block, 0);
    for i in 0..16 {
        let byte = block[2 + i];
        out[i] = d * f32::from((byte & 15) as i8 - 8);
        out[i + 16] = d * f32::from((byte >> 4) as i8 - 8);
    }
    d.is_finite()
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) -> bool {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for i in 0..16 {
        let byte = block[4 + i];
        out[i] = d * f32::from(byte & 15) + m;
        out[i + 16] = d * f32::from(byte >> 4) + m;
    }
    d.is_finite() && m.is_finite()
}

/// Bit i of the 32-bit word before the nibbles is bit 4 of element i.
fn five_bits(block: &[u8], at: usize, i: usize) -> (u8, u8) {
    let fifth = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let byte = block[at + 4 + i];
    ((byte & 15) | ((fifth >> i & 1) << 4) as u8, (byte >> 4) | ((fifth >> (i + 16) & 1) << 4) as u8)
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) -> bool {
    let d = scale(block, 0);
    for i in 0..16 {
        let (low, high) = five_bits(block, 2, i);
        out[i] = d * f32::from(low as i8 - 16);
        out[i + 16] = d * f32::from(high as i8 - 16);
    }
    d.is_finite()
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) -> bool {
    let (d, m) = (scale(block, 0), scale(block, 2));
    for i in 0..16 {
        let (low, high) = five_bits(block, 4, i);
        out[i] = d * f32::from(low) + m;
        out[i + 16] = d * f32::from(high) + m;
    }
    d.is_finite() && m.is_finite()
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) -> bool {
    let d = scale(block, 0);
    for i in 0..32 {
        out[i] = f32::from(block[2 + i] as i8) * d;
    }
    d.is_finite()
}

/// Returns the 6-bit scale and minimum of sub-block `j` (of 8) from the 12 packed bytes.
///
/// Sub-blocks 0..4 hold theirs in the low 6 bits of bytes j and j + 4. Sub-blocks 4..8 have their low nibbles in byte
/// j + 4 (scale low, minimum high) and their upper two bits in the top of bytes j − 4 and j.
fn scale_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        ((packed[j + 4] & 15) | ((packed[j - 4] >> 6) << 4), (packed[j + 4] >> 4) | ((packed[j] >> 6) << 4))
    };
    (f32::from(scale), f32::from(min))
}

/// Eight sub-blocks of 32, each with its scale and minimum; `code(j, i)` is element i of sub-block j.
fn sub_blocks(block: &[u8], out: &mut [f32; 256], code: impl Fn(usize, usize) -> u8) -> bool {
    let (d, dmin) = (scale(block, 0), scale(block, 2));
    for (j, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (sub_scale, sub_min) = scale_min(&block[4..16], j);
        let (d_j, m_j) = (d * sub_scale, dmin * sub_min);
        for (i, value) in values.iter_mut().enumerate() {
            *value = d_j * f32::from(code(j, i)) - m_j;
        }
    }
    d.is_finite() && dmin.is_finite()
}

/// Sub-blocks 2c and 2c + 1 are the low and high nibbles of the same 32 bytes.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) -> bool {
    let nibbles = &block[16..];
    sub_blocks(block, out, |j, i| nibbles[32 * (j / 2) + i] >> (4 * (j % 2)) & 15)
}

/// As Q4_K, with bit j of byte i of the fifth bits as bit 4 of element i of sub-block j.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) -> bool {
    let (fifth, nibbles) = block[16..].split_at(32);
    sub_blocks(block, out, |j, i| nibbles[32 * (j / 2) + i] >> (4 * (j % 2)) & 15 | (fifth[i] >> j & 1) << 4)
}

/// Each half of 128 elements is four runs of 32: run r takes the nibble `r / 2` of low bytes 32·(r % 2).. and the bit
/// pair r of the half's 32 high bytes. A signed scale covers 16 elements.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) -> bool {
    let d = scale(block, 208);
    for half in 0..2 {
        let low = &block[64 * half..][..64];
        let high = &block[128 + 32 * half..][..32];
        let scales = &block[192 + 8 * half..][..8];
        for run in 0..4 {
            for i in 0..32 {
                let nibble = (low[32 * (run % 2) + i] >> (4 * (run / 2))) & 15;
                let pair = (high[i] >> (2 * run)) & 3;
                let d_run = d * f32::from(scales[2 * run + i / 16] as i8);
                out[128 * half + 32 * run + i] = d_run * f32::from((nibble | (pair << 4)) as i8 - 32);
            }
        }
    }
    d.is_finite()
}
