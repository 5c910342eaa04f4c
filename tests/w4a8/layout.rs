//! Where codes and scales stand: packed tiles, blocks of other formats, rows.

use half::f16;
use moray::w4a8::{Bits, Block, Group, Offset, PackedWeight, QuantizedWeight, TILE_N, from_tile, tile_k, to_tile};
use proptest::prelude::*;

use crate::common::Random;
use crate::weights::random_weight;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn packing_restores_every_code_and_scale(seed: u64, kind in 0usize..9, n in 1usize..40, k32 in 1usize..9) {
        let k = if kind == 8 { 128 * k32.div_ceil(4) } else { 32 * k32 };
        let weight = random_weight(&mut Random::new(seed), kind, n, k);
        let packed = PackedWeight::pack(&weight);
        prop_assert_eq!(packed.unpack(), weight.clone());
        let mut row = vec![0.0; k];
        for n in 0..n {
            packed.dequantize_row(n, &mut row).unwrap();
            for (k, &v) in row.iter().enumerate() {
                // two roundings to f32 against none
                let exact = weight.dequantize_at(n, k);
                let size = exact.abs() + 256.0 * row_scale(&weight, n, k);
                prop_assert!((f64::from(v) - exact).abs() <= size * f64::from(f32::EPSILON), "{v} {exact}");
            }
        }
    }
}

/// The scale of an element: what its code's rounding is relative to.
fn row_scale(weight: &QuantizedWeight, n: usize, k: usize) -> f64 {
    match (weight.format().group, &weight.scales().group) {
        (Some(Group { size, offset: Offset::F16, .. }), Some(scale)) => {
            f64::from(scale.get(n * (weight.k() / size) + k / size).abs())
        }
        _ => 0.0,
    }
}

#[test]
fn packed_bytes_stand_where_the_documented_map_says() {
    for (bits, values) in [(Bits::Four, 32), (Bits::Eight, 16)] {
        let mut seen = vec![false; TILE_N * tile_k(bits)];
        for lane in 0..32 {
            for value in 0..values {
                let (n, k) = from_tile(bits, lane, value);
                assert_eq!(to_tile(bits, n, k), (lane, value));
                assert!(!std::mem::replace(&mut seen[n * tile_k(bits) + k], true));
            }
        }
        assert!(seen.into_iter().all(|seen| seen));
        let weight = random_weight(&mut Random::new(5), if bits == Bits::Four { 0 } else { 1 }, 32, 128);
        let packed = PackedWeight::pack(&weight);
        let tiles = packed.codes().chunks_exact(512).enumerate();
        for (index, tile) in tiles {
            let per_row = 128 / tile_k(bits);
            for lane in 0..32 {
                for value in 0..values {
                    let (n, k) = from_tile(bits, lane, value);
                    let at = (index / per_row * TILE_N + n) * 128 + index % per_row * tile_k(bits) + k;
                    let stored = match bits {
                        Bits::Four => (tile[16 * lane + value / 2] >> (4 * (value % 2)) & 15) as i8,
                        Bits::Eight => tile[16 * lane + value] as i8,
                    };
                    assert_eq!(stored, weight.codes()[at], "tile {index}, lane {lane}, value {value}");
                }
            }
        }
    }
}

#[test]
fn import_of_blocks_is_lossless() {
    let mut random = Random::new(23);
    let (n, k) = (6, 96);
    for block in [Block::Q4_0, Block::Q4_1, Block::Q5_0, Block::Q5_1, Block::Q8_0] {
        let bytes: Vec<u8> = (0..n * k / 32)
            .flat_map(|_| {
                let mut one: Vec<u8> = (0..block.bytes()).map(|_| random.below(256) as u8).collect();
                one[..2].copy_from_slice(&f16::from_f32(random.weight(0.1)).to_le_bytes());
                if matches!(block, Block::Q4_1 | Block::Q5_1) {
                    one[2..4].copy_from_slice(&f16::from_f32(random.weight(0.1)).to_le_bytes());
                }
                one
            })
            .collect();
        let q = block.import(&bytes, n, k).unwrap();
        let packed = PackedWeight::pack(&q);
        assert_eq!(packed.unpack(), q);
        for (i, one) in bytes.chunks_exact(block.bytes()).enumerate() {
            let f = |at: usize| f64::from(f16::from_le_bytes([one[at], one[at + 1]]).to_f32());
            for v in 0..32 {
                let nibble = |at: usize| f64::from(one[at + v % 16] >> (4 * (v / 16)) & 15);
                let fifth = |at: usize| f64::from(16 * (one[at + v / 8] >> (v % 8) & 1));
                let expected = match block {
                    Block::Q4_0 => f(0) * (nibble(2) - 8.0),
                    Block::Q4_1 => f(0) * nibble(4) + f(2),
                    Block::Q5_0 => f(0) * (nibble(6) + fifth(2) - 16.0),
                    Block::Q5_1 => f(0) * (nibble(8) + fifth(4)) + f(2),
                    Block::Q8_0 => f(0) * f64::from(one[2 + v] as i8),
                };
                assert_eq!(q.dequantize_at(i * 32 / k, i * 32 % k + v), expected, "{block:?}");
            }
        }
    }
}

#[test]
fn rows_can_be_permuted_and_matrices_stacked() {
    let mut random = Random::new(29);
    for kind in 0..9 {
        let (a, b) = (random_weight(&mut Random::new(3), kind, 5, 128), random_weight(&mut random, kind, 7, 128));
        let Ok(both) = QuantizedWeight::concatenate(&[&a, &b]) else {
            assert_ne!(a.format().group_size(), b.format().group_size());
            continue;
        };
        let order: Vec<usize> = (0..12).rev().collect();
        let turned = both.permute_rows(&order).unwrap();
        for (row, k) in (0..12).flat_map(|row| (0..128).map(move |k| (row, k))) {
            let from = 11 - row;
            let expected = if from < 5 { a.dequantize_at(from, k) } else { b.dequantize_at(from - 5, k) };
            assert_eq!(turned.dequantize_at(row, k), expected);
        }
    }
}
