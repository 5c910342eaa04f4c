//! Tensors whose elements share memory.

use candle_core::{DType, Tensor};

use super::numbers;

/// Views \[.., a, b\] in which elements share their place in memory, each with what it holds one after another: rows, elements of a
/// row and one number broadcast; and every second number in the midst of something larger.
pub fn shared_views(dims: &[usize], step: usize, dtype: DType) -> Vec<(&'static str, Tensor, Tensor)> {
    let (rank, last) = (dims.len(), dims.len() - 1);
    let of = |name, view: Tensor| {
        assert_eq!(view.dims(), dims, "{name}");
        let whole = view.force_contiguous().unwrap();
        (name, view, whole)
    };
    let (mut row, mut column) = (vec![1; rank], dims.to_vec());
    (row[last], column[last]) = (dims[last], 1);
    let larger: Vec<usize> = dims.iter().map(|d| d + 3).collect();
    let midst = numbers(&[&larger[..], &[2]].concat(), step, dtype).narrow(rank, 1, 1).unwrap().squeeze(rank).unwrap();
    let midst = dims.iter().enumerate().fold(midst, |part, (dim, len)| part.narrow(dim, 2, *len).unwrap());
    let views = [
        of("rows broadcast", numbers(&row, step, dtype).broadcast_as(dims).unwrap()),
        of("elements broadcast", numbers(&column, step, dtype).broadcast_as(dims).unwrap()),
        of("one number broadcast", numbers(&vec![1; rank], step, dtype).broadcast_as(dims).unwrap()),
        of("every second number in the midst of something larger", midst),
    ];
    // a vector has no rows to be broadcast
    let views: Vec<_> = views.into_iter().filter(|(_, view, _)| !view.is_contiguous()).collect();
    assert!(views.len() >= 3);
    views
}
