//! Products and factors of row-major matrices, by faer, on rayon's threads.

use faer::linalg::matmul::matmul;
use faer::traits::ComplexField;
use faer::{Accum, MatMut, MatRef, Par, Side};

use crate::error::{Error, Result};

/// A row-major matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Rows N.
    pub rows: usize,
    /// Columns K.
    pub columns: usize,
    /// f32 \[N, K\].
    pub data: Vec<f32>,
}

impl Matrix {
    /// A matrix of zeros.
    pub fn zeros(rows: usize, columns: usize) -> Self {
        Matrix { rows, columns, data: vec![0.0; rows * columns] }
    }

    /// Row `n`.
    pub fn row(&self, n: usize) -> &[f32] {
        &self.data[n * self.columns..(n + 1) * self.columns]
    }

    /// Puts matrices of equal width below each other.
    pub fn stack(parts: &[Matrix]) -> Self {
        let columns = parts.first().map_or(0, |part| part.columns);
        let data: Vec<f32> = parts.iter().flat_map(|part| part.data.iter().copied()).collect();
        Matrix { rows: data.len() / columns.max(1), columns, data }
    }
}

fn threads() -> Par {
    Par::rayon(0)
}

fn view<T>(data: &[T], columns: usize) -> MatRef<'_, T> {
    MatRef::from_row_major_slice(data, data.len() / columns, columns)
}

fn view_mut<T>(data: &mut [T], columns: usize) -> MatMut<'_, T> {
    let rows = data.len() / columns;
    MatMut::from_row_major_slice_mut(data, rows, columns)
}

/// y\[M, N\] = x\[M, K\] · w\[N, K\]ᵀ.
pub fn multiply_transposed<T: ComplexField>(x: &[T], w: &[T], k: usize, y: &mut [T]) {
    let n = w.len() / k;
    matmul(view_mut(y, n), Accum::Replace, view(x, k), view(w, k).transpose(), T::one_impl(), threads());
}

/// y\[M, N\] += alpha · x\[M, K\] · w\[K, N\].
pub fn multiply_add<T: ComplexField>(x: &[T], w: &[T], k: usize, alpha: T, y: &mut [T]) {
    let n = w.len() / k;
    matmul(view_mut(y, n), Accum::Add, view(x, k), view(w, n), alpha, threads());
}

/// As [`multiply_add`] on columns of wider matrices: x is `x[:, from..to]` of stride `x_stride`, w the rows `from..to`.
pub fn multiply_add_columns(
    x: (&[f32], usize),
    range: std::ops::Range<usize>,
    w: &[f32],
    n: usize,
    alpha: f32,
    y: &mut [f32],
) {
    let x = view(x.0, x.1).subcols(range.start, range.len());
    let w = view(&w[range.start * n..range.end * n], n);
    matmul(view_mut(y, n), Accum::Add, x, w, alpha, threads());
}

/// The part of y\[M, N\] from column `first` on: y += alpha · x\[M, K\] · w\[K, N\].
pub fn multiply_add_tail(x: &[f32], w: &[f32], k: usize, n: usize, first: usize, alpha: f32, y: &mut [f32]) {
    if first >= n {
        return;
    }
    let y = view_mut(y, n).subcols_mut(first, n - first);
    let w = view(w, n).subcols(first, n - first);
    matmul(y, Accum::Add, view(x, k), w, alpha, threads());
}

/// c\[A, B\] += a\[M, A\]ᵀ · b\[M, B\].
pub fn gram_add(a: &[f32], a_columns: usize, b: &[f32], b_columns: usize, c: &mut [f32]) {
    matmul(view_mut(c, b_columns), Accum::Add, view(a, a_columns).transpose(), view(b, b_columns), 1.0, threads());
}

/// Solves x\[N, K\] · h = b\[N, K\] for a symmetric positive definite h\[K, K\]; x replaces b.
///
/// # Errors
/// [`Error::Kernel`] if h is not positive definite.
pub fn solve_symmetric(h: &[f64], k: usize, b: &mut [f64]) -> Result<()> {
    let factor = view(h, k).llt(Side::Lower).map_err(|_| not_positive(k))?;
    let mut right = view_mut(b, k).transpose_mut();
    faer::linalg::triangular_solve::solve_lower_triangular_in_place(factor.L(), right.as_mut(), threads());
    faer::linalg::triangular_solve::solve_upper_triangular_in_place(factor.L().transpose(), right, threads());
    Ok(())
}

/// The upper triangular U with h⁻¹ = UᵀU, row-major: GPTQ's factor, from h reversed, so that h is never inverted.
///
/// With J the reversal, J·h·J = L·Lᵀ gives h = (J·L·J)(J·L·J)ᵀ with J·L·J upper triangular, whose inverse is U.
///
/// # Errors
/// [`Error::Kernel`] if h is not positive definite.
pub fn inverse_factor(h: &[f64], k: usize) -> Result<Vec<f64>> {
    let reversed = view(h, k).reverse_rows_and_cols();
    let factor = reversed.llt(Side::Lower).map_err(|_| not_positive(k))?;
    let mut inverse = faer::Mat::<f64>::zeros(k, k);
    faer::linalg::triangular_inverse::invert_lower_triangular(inverse.as_mut(), factor.L(), threads());
    let mut upper = vec![0.0; k * k];
    for i in 0..k {
        for j in i..k {
            upper[i * k + j] = inverse[(k - 1 - i, k - 1 - j)];
        }
    }
    Ok(upper)
}

fn not_positive(k: usize) -> Error {
    let expected = "a positive definite Hessian: more calibration tokens or more damping";
    let got = format!("one of {k} channels that is not");
    Error::Kernel(moray::Error::Unsupported { what: "hessian", expected, got })
}

/// w\[N, K\] · h\[K, K\] in f64.
pub fn times(w: &Matrix, h: &[f64]) -> Vec<f64> {
    let wide: Vec<f64> = w.data.iter().map(|&w| f64::from(w)).collect();
    let mut out = vec![0.0; wide.len()];
    multiply_add(&wide, h, w.columns, 1.0, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::SplitMix;

    /// A positive definite matrix: A·Aᵀ + I.
    fn definite(k: usize, random: &mut SplitMix) -> Vec<f64> {
        let a: Vec<f64> = (0..k * k).map(|_| f64::from(random.signed())).collect();
        let entry = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] * a[j * k + p]).sum::<f64>();
        (0..k * k).map(|i| entry(i / k, i % k) + f64::from(u8::from(i / k == i % k))).collect()
    }

    /// x\[M, K\] · y\[K, N\], by definition.
    fn product(x: &[f64], y: &[f64], k: usize) -> Vec<f64> {
        let n = y.len() / k;
        (0..x.len() / k * n).map(|i| (0..k).map(|p| x[i / n * k + p] * y[p * n + i % n]).sum()).collect()
    }

    fn transposed(x: &[f64], k: usize) -> Vec<f64> {
        let rows = x.len() / k;
        (0..x.len()).map(|i| x[i % rows * k + i / rows]).collect()
    }

    #[test]
    fn inverse_factor_matches_its_definition_in_f64() {
        let mut random = SplitMix(3);
        for k in [1, 2, 5, 16, 33] {
            let h = definite(k, &mut random);
            let u = inverse_factor(&h, k).unwrap();
            for i in 0..k {
                assert!(
                    u[i * k + i] > 0.0 && u[i * k..i * k + i].iter().all(|&v| v == 0.0),
                    "upper, positive diagonal"
                );
            }
            let unit = product(&product(&transposed(&u, k), &u, k), &h, k);
            for (i, &v) in unit.iter().enumerate() {
                let expected = f64::from(u8::from(i / k == i % k));
                // condition numbers here are below 1e4
                assert!((v - expected).abs() < 1e4 * k as f64 * f64::EPSILON, "{k}: {v}");
            }
        }
    }

    #[test]
    fn symmetric_solution_matches_its_definition_in_f64() {
        let mut random = SplitMix(4);
        let (n, k) = (7, 24);
        let h = definite(k, &mut random);
        let x: Vec<f64> = (0..n * k).map(|_| f64::from(random.signed())).collect();
        let mut b = product(&x, &h, k);
        solve_symmetric(&h, k, &mut b).unwrap();
        let miss = b.iter().zip(&x).fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
        assert!(miss < 1e4 * k as f64 * f64::EPSILON, "{miss}");
    }

    #[test]
    fn matrices_that_are_not_positive_definite_are_refused() {
        let indefinite = [1.0, 2.0, 2.0, 1.0];
        let message = inverse_factor(&indefinite, 2).unwrap_err().to_string();
        assert!(message.contains("positive definite"), "{message}");
        assert!(solve_symmetric(&indefinite, 2, &mut [1.0, 1.0]).is_err());
    }

    #[test]
    fn products_match_their_definitions_for_odd_sizes() {
        let mut random = SplitMix(5);
        let (m, n, k) = (5, 7, 19);
        let mut draw = |len: usize| (0..len).map(|_| f64::from(random.signed())).collect::<Vec<f64>>();
        let (x, w) = (draw(m * k), draw(n * k));
        // two sums of k products of at most 1, each off by k roundings of at most k: 8.0e-14
        let bound = 2.0 * (k * k) as f64 * f64::EPSILON / 2.0;
        let close = |a: &[f64], b: &[f64], factor: f64| {
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= factor * bound) && a.len() == b.len()
        };
        let mut y = vec![0.0; m * n];
        multiply_transposed(&x, &w, k, &mut y);
        assert!(close(&y, &product(&x, &transposed(&w, k), k), 1.0));
        let mut y = vec![1.0; m * n];
        multiply_add(&x, &transposed(&w, k), k, -2.0, &mut y);
        let expected: Vec<f64> = product(&x, &transposed(&w, k), k).iter().map(|v| 1.0 - 2.0 * v).collect();
        assert!(close(&y, &expected, 2.0));
        // the f32 ones, on small integers, are exact
        let whole = |values: &[f64]| values.iter().map(|v| (v * 4.0).round() as f32).collect::<Vec<f32>>();
        let (a, b) = (whole(&x), whole(&w));
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let mut gram = vec![0.0; k * k];
        gram_add(&a, k, &a, k, &mut gram);
        assert_eq!(wide(&gram), product(&transposed(&wide(&a), k), &wide(&a), m));
        let full = product(&wide(&a), &transposed(&wide(&b), k), k);
        let bt: Vec<f32> = transposed(&wide(&b), k).iter().map(|&v| v as f32).collect();
        let mut tail = vec![0.0f32; m * n];
        multiply_add_tail(&a, &bt, k, n, 3, 1.0, &mut tail);
        for (i, &v) in tail.iter().enumerate() {
            assert_eq!(f64::from(v), if i % n < 3 { 0.0 } else { full[i] });
        }
        let mut part = vec![0.0f32; m * n];
        multiply_add_columns((&a, k), 2..9, &bt, n, 1.0, &mut part);
        for (i, &v) in part.iter().enumerate() {
            let sum: f32 = (2..9).map(|p| a[i / n * k + p] * bt[p * n + i % n]).sum();
            assert_eq!(v, sum);
        }
    }
}
