//! What is refused, before anything is written.

use moray::input_sparse::{Weight, Workspace, linear, linear_rows};
use moray::w4a8::{Epilogue, Format, Offset, quantize};
use moray::{Cpu, DenseType, Error};

#[test]
fn sizes_and_thresholds_that_do_not_fit_are_refused() {
    let (cpu, mut workspace) = (Cpu::detect(), Workspace::default());
    let weight = Weight::from_f32(&[1.0; 12], 4, 3, DenseType::F16).unwrap();
    let mut call = |x: &[f32], threshold: f32, epilogue: Epilogue<'_, f32>, outputs: usize| {
        let mut y = vec![7.0; outputs];
        let error = linear(&cpu, &weight, x, threshold, epilogue, &mut y, &mut workspace).unwrap_err();
        assert!(y.iter().all(|y| *y == 7.0));
        error
    };
    let none = Epilogue::default;
    assert!(matches!(call(&[1.0; 4], 0.0, none(), 4), Error::Length { what: "x", expected: 3, got: 4 }));
    assert!(matches!(call(&[1.0; 6], 0.0, none(), 4), Error::Length { what: "y", expected: 8, got: 4 }));
    let bias = Epilogue { bias: Some(&[0.0; 3][..]), residual: None };
    assert!(matches!(call(&[1.0; 3], 0.0, bias, 4), Error::Length { what: "bias", expected: 4, got: 3 }));
    let residual = Epilogue { bias: None, residual: Some(&[0.0; 5][..]) };
    assert!(matches!(call(&[1.0; 3], 0.0, residual, 4), Error::Length { what: "residual", .. }));
    for bad in [-0.5, f32::NAN, f32::INFINITY] {
        assert!(matches!(call(&[1.0; 3], bad, none(), 4), Error::Value { what: "threshold", .. }));
    }
    let mut y = [7.0; 4];
    let mut rows = |rows: &[std::ops::Range<usize>]| {
        linear_rows(&cpu, &weight, rows, &[1.0; 3], 0.0, none(), &mut y, &mut workspace).unwrap_err()
    };
    assert!(matches!(rows(&[0..5]), Error::Index { what: "rows", .. }));
    assert!(matches!(rows(&[2..3, 0..1]), Error::NotIncreasing { what: "rows", .. }));
}

#[test]
fn no_tokens_are_no_work() {
    let (cpu, mut workspace) = (Cpu::detect(), Workspace::default());
    let floats = Weight::from_f32(&[1.0; 128], 4, 32, DenseType::F16).unwrap();
    let quantized = quantize(&[1.0; 128], 4, 32, Format::per_group(32, Offset::None)).unwrap();
    for weight in [floats, Weight::from_quantized(&quantized).unwrap()] {
        linear(&cpu, &weight, &[1.0; 32], 0.5, Epilogue::default(), &mut [0.0; 4], &mut workspace).unwrap();
        linear(&cpu, &weight, &[], 0.5, Epilogue::default(), &mut [], &mut workspace).unwrap();
        assert!(workspace.kept().is_empty());
    }
}

#[test]
fn weights_that_cannot_be_held_are_refused() {
    for (n, k) in [(0, 3), (3, 0), (usize::MAX, 3), (u32::MAX as usize, u32::MAX as usize)] {
        assert!(Weight::zeros(n, k, DenseType::F32).is_err(), "{n} × {k}");
    }
    let mut weight = Weight::zeros(2, 3, DenseType::F16).unwrap();
    assert!(matches!(weight.set_rows(0, &[0.0; 4]), Err(Error::Length { what: "rows", .. })));
    assert!(matches!(weight.set_rows(1, &[0.0; 6]), Err(Error::Index { what: "rows", .. })));
    assert!(matches!(weight.set_rows(0, &[1.0, 65_520.0, 1.0]), Err(Error::Value { what: "rows", .. })));
    assert!(matches!(weight.row(2, &mut [0.0; 3]), Err(Error::Index { what: "n", .. })));
    assert!(matches!(weight.row(0, &mut [0.0; 2]), Err(Error::Length { what: "out", .. })));
    assert!(matches!(Weight::from_f32(&[0.0; 5], 2, 3, DenseType::F32), Err(Error::Length { what: "w", .. })));
}
