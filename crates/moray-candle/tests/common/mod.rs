//! What the tests of both sides need.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use moray_candle::Runtime;
use moray_candle::moray::{Cpu, Isa};

/// The types that operations take.
pub const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Two threads, so that work is shared.
pub fn runtime() -> Runtime {
    Runtime::new(Cpu::new(2, Isa::detect()).unwrap())
}

/// Numbers in −1..1 that repeat late, in a type.
pub fn numbers(dims: &[usize], step: usize, dtype: DType) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f32> = (0..count).map(|i| (i * step % 1009) as f32 / 504.5 - 1.0).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

pub fn f32s(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// The same numbers in ways that a tensor can hold them: as they are, at an offset, with the last dimension strided, and with every
/// second row of something larger.
pub fn layouts(x: &Tensor) -> Vec<Tensor> {
    let last = x.rank() - 1;
    let at_offset = Tensor::cat(&[x, x], 0).unwrap().narrow(0, x.dims()[0], x.dims()[0]).unwrap();
    let transposed = x.transpose(0, last).unwrap().contiguous().unwrap().transpose(0, last).unwrap();
    let padded = Tensor::cat(&[x, x], last).unwrap().narrow(last, x.dims()[last], x.dims()[last]).unwrap();
    assert!(x.elem_count() == x.dims()[last] || !padded.is_contiguous());
    vec![x.clone(), at_offset, transposed, padded]
}

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

/// The bits of a tensor.
pub fn bits(tensor: &Tensor) -> Vec<u32> {
    let tensor = tensor.to_device(&Device::Cpu).unwrap().contiguous().unwrap();
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { panic!("expected a tensor on the CPU") };
    let (start, end) = layout.contiguous_offsets().unwrap();
    match storage {
        CpuStorage::F32(v) => v[start..end].iter().map(|v| v.to_bits()).collect(),
        CpuStorage::F16(v) => v[start..end].iter().map(|v| u32::from(v.to_bits())).collect(),
        CpuStorage::BF16(v) => v[start..end].iter().map(|v| u32::from(v.to_bits())).collect(),
        other => panic!("expected floats, got {:?}", other.as_slice::<f32>()),
    }
}

/// Checks that a call is refused with a message that has all of this.
pub fn assert_refused<T>(result: candle_core::Result<T>, parts: &[&str]) {
    let message = result.err().expect("expected a refusal").to_string();
    for part in parts {
        assert!(message.contains(part), "expected {part:?} in {message:?}");
    }
}
