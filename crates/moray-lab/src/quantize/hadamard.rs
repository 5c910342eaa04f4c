//! Orthogonal matrices for rotations: Hadamard where an order has one, random otherwise.
//!
//! A Hadamard matrix has entries ±1 and orthogonal rows. Order 2m follows from order m (Sylvester); order q + 1 for a prime
//! q ≡ 3 (mod 4) and 2(q + 1) for a prime q ≡ 1 (mod 4) from the quadratic residues modulo q (Paley): 12, 20, 28, 36, 44,
//! 60 … So 576 = 36 · 16, 5120 = 20 · 256, 3584 = 28 · 128.
//!
//! # Source
//! R. E. A. C. Paley, On orthogonal matrices, 1933; rotation of a network by them: QuaRot (arXiv 2404.00456).

use crate::fixture::SplitMix;

/// Returns an orthogonal matrix \[n, n\], row-major: a Hadamard matrix over √n with random signs of its rows, or, for an order
/// without a construction here, a random one.
pub fn orthogonal(n: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix(seed);
    let Some(signs) = hadamard(n) else { return random_orthogonal(n, &mut random) };
    let scale = 1.0 / (n as f64).sqrt();
    let mut out = Vec::with_capacity(n * n);
    for row in signs.chunks_exact(n) {
        let sign = if random.next() >> 63 == 0 { scale } else { -scale };
        out.extend(row.iter().map(|&entry| (sign * f64::from(entry)) as f32));
    }
    out
}

/// A Hadamard matrix of order n, row-major, if one of the constructions gives it.
pub fn hadamard(n: usize) -> Option<Vec<i8>> {
    if n == 0 {
        return None;
    }
    let mut doublings = n.trailing_zeros();
    // the smallest core first: the larger the Sylvester part, the plainer the matrix
    let mut core = n >> doublings;
    loop {
        if let Some(matrix) = base(core) {
            return Some((0..doublings).fold(matrix, |matrix, _| double(&matrix)));
        }
        if doublings == 0 {
            return None;
        }
        doublings -= 1;
        core *= 2;
    }
}

fn double(matrix: &[i8]) -> Vec<i8> {
    let n = matrix.len().isqrt();
    let mut out = Vec::with_capacity(4 * matrix.len());
    for sign in [1, -1] {
        for row in matrix.chunks_exact(n) {
            out.extend_from_slice(row);
            out.extend(row.iter().map(|entry| sign * entry));
        }
    }
    out
}

fn base(n: usize) -> Option<Vec<i8>> {
    match n {
        1 => Some(vec![1]),
        _ if n % 4 == 0 && is_prime(n - 1) => Some(paley_one(n)),
        _ if n % 4 == 0 && is_prime(n / 2 - 1) && (n / 2 - 1) % 4 == 1 => Some(paley_two(n)),
        _ => None,
    }
}

fn is_prime(n: usize) -> bool {
    n >= 2 && (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

/// χ(i) for i in 0..q: 0 at 0, 1 at squares, −1 elsewhere.
fn residues(q: usize) -> Vec<i8> {
    let mut chi = vec![-1; q];
    (1..q).for_each(|i| chi[i * i % q] = 1);
    chi[0] = 0;
    chi
}

/// The bordered matrix of χ(i − j): row 0 is (0, 1 …), column 0 is (0, ±1 …).
fn bordered(q: usize, column: i8) -> Vec<i8> {
    let (chi, n) = (residues(q), q + 1);
    let mut out = vec![0; n * n];
    for i in 1..n {
        out[i] = 1;
        out[i * n] = column;
        for j in 1..n {
            out[i * n + j] = chi[(i + q - j) % q];
        }
    }
    out
}

/// I + S with S skew, for q = n − 1 ≡ 3 (mod 4).
fn paley_one(n: usize) -> Vec<i8> {
    let mut out = bordered(n - 1, -1);
    (0..n).for_each(|i| out[i * n + i] += 1);
    out
}

/// Every 0 of the symmetric bordered matrix becomes [1 −1; −1 −1], every ±1 becomes ±[1 1; 1 −1], for q = n/2 − 1 ≡ 1 (mod 4).
fn paley_two(n: usize) -> Vec<i8> {
    let half = n / 2;
    let core = bordered(half - 1, 1);
    let mut out = vec![0; n * n];
    for i in 0..half {
        for j in 0..half {
            let block = match core[i * half + j] {
                0 => [1, -1, -1, -1],
                sign => [sign, sign, sign, -sign],
            };
            for (at, entry) in block.into_iter().enumerate() {
                out[(2 * i + at / 2) * n + 2 * j + at % 2] = entry;
            }
        }
    }
    out
}

/// Gram–Schmidt, twice, on rows of random numbers.
fn random_orthogonal(n: usize, random: &mut SplitMix) -> Vec<f32> {
    // the sum of four uniform numbers is near enough to a normal one for rows without a preferred direction
    let mut rows: Vec<Vec<f64>> =
        (0..n).map(|_| (0..n).map(|_| (0..4).map(|_| f64::from(random.signed())).sum()).collect()).collect();
    for i in 0..n {
        let (done, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        for _ in 0..2 {
            for other in done.iter() {
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
        }
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    rows.concat().into_iter().map(|v| v as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hadamard_rows_are_orthogonal_for_every_order_of_real_models() {
        for n in [1, 2, 4, 8, 12, 20, 24, 28, 36, 40, 44, 60, 64, 128, 576, 896, 960] {
            let matrix = hadamard(n).unwrap();
            assert!(matrix.iter().all(|entry| entry.abs() == 1), "{n}");
            for i in 0..n {
                for j in 0..=i {
                    let (a, b) = (&matrix[i * n..][..n], &matrix[j * n..][..n]);
                    let dot: i32 = a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                    assert_eq!(dot, if i == j { n as i32 } else { 0 }, "order {n}, rows {i} and {j}");
                }
            }
        }
        // 3 and 92 have none, or none by these constructions
        assert!(hadamard(0).is_none() && hadamard(3).is_none() && hadamard(92).is_none());
    }

    #[test]
    fn orthogonal_matrices_are_their_transposes_inverse_for_any_order() {
        for n in [3, 36, 50] {
            let matrix = orthogonal(n, 7);
            for i in 0..n {
                for j in 0..n {
                    let dot: f64 = (0..n).map(|k| f64::from(matrix[i * n + k]) * f64::from(matrix[j * n + k])).sum();
                    // n products of entries rounded to f32
                    let bound = n as f64 * f64::from(f32::EPSILON);
                    assert!((dot - f64::from(u8::from(i == j))).abs() < bound, "order {n}: {dot}");
                }
            }
            assert_ne!(matrix, orthogonal(n, 8), "the seed decides");
        }
    }
}
