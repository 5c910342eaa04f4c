//! What is stored: rows, norms, bytes.

use half::f16;
use moray::sparse_mlp::{IndexList, Matrix, Score, ScoreOn, Selection, Weights, bytes_read};

use crate::case::{four_bit, shape};
use crate::common::Random;

#[test]
fn stored_rows_match_the_quantized_weight_exactly() {
    let random = &mut Random::new(9);
    for (kind, group_size) in [(0, 32), (1, 32), (1, 64), (2, 64), (3, 32)] {
        for (d, d_ff) in [(96, 64), (64, 160), (576, 64), (416, 32)] {
            let w = four_bit(random, [kind; 3], group_size, shape(d, d_ff));
            let mut row = vec![0.0; d];
            for j in 0..d_ff {
                for (matrix, source) in [(Matrix::Gate, &w.gate), (Matrix::Up, &w.up)] {
                    w.weights.row(matrix, j, &mut row).unwrap();
                    assert!((0..d).all(|k| row[k] == source.dequantize_at(j, k) as f32), "{matrix:?} {j}");
                }
                w.weights.row(Matrix::Down, j, &mut row).unwrap();
                assert!((0..d).all(|n| row[n] == w.down.dequantize_at(n, j) as f32), "down {j}");
            }
            let norms = w.weights.down_norms();
            let norm = (0..d).map(|n| w.down.dequantize_at(n, 3).powi(2)).sum::<f64>().sqrt();
            // each element was rounded to f32 once, and the norm once more
            assert!((f64::from(norms[3]) - norm).abs() <= norm * f64::from(f32::EPSILON));
        }
    }
}

#[test]
fn bytes_read_match_a_count_by_hand() {
    let random = &mut Random::new(11);
    let shape = shape(64, 128);
    // one row: 32 bytes of codes, 2 groups of scale and offset (4 bytes each); a block of down scales: 64 · 4 bytes
    let weights = four_bit(random, [2; 3], 32, shape).weights;
    let kept = [0, 1, 31, 64];
    let list = Selection::List(IndexList::new(&kept, 128).unwrap());
    assert_eq!(bytes_read(&weights, &list, &kept), 4 * 40 * 2 + 4 * 32 + 2 * 256);
    let score = Score::plain(ScoreOn::Gate);
    assert_eq!(bytes_read(&weights, &Selection::TopK { score, k: 4 }, &kept), 132 * 40 + 4 * 32 + 2 * 256);
    let all: Vec<u32> = (0..128).collect();
    assert_eq!(bytes_read(&weights, &Selection::All, &all), weights.bytes());
    let dense = Weights::new(shape, &[f16::ONE; 8192], &[f16::ONE; 8192], &[f16::ONE; 8192]).unwrap();
    assert_eq!(bytes_read(&dense, &list, &kept), 3 * 4 * 128);
    let hidden = Selection::TopK { score: Score::plain(ScoreOn::Hidden), k: 4 };
    assert_eq!(bytes_read(&dense, &hidden, &kept), (256 + 4) * 128);
}
