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

/// y\[M, N\] += x\[M, K\] · w\[N, K\]ᵀ.
pub fn multiply_transposed_add(x: &[f32], w: &[f32], k: usize, y: &mut [f32]) {
    let n = w.len() / k;
    matmul(view_mut(y, n), Accum::Add, view(x, k), view(w, k).transpose(), 1.0, threads());
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
