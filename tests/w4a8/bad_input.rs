//! Bad input is a typed error, and nothing has been written.

use moray::w4a8::{
    Activations, Block, Epilogue, Format, Offset, PackedWeight, QuantizedWeight, Scales, linear, quantize,
};
use moray::{Cpu, Error};

#[test]
fn wrong_arguments_are_typed_errors_and_write_nothing() {
    let cpu = Cpu::detect();
    let w = vec![0.5f32; 16 * 96];
    let length = |r: moray::Result<QuantizedWeight>| matches!(r, Err(Error::Length { .. }));
    let shape = |r: moray::Result<QuantizedWeight>| matches!(r, Err(Error::Shape { .. }));
    let grouped = |group_size| Format::per_group(group_size, Offset::None);
    assert!(length(quantize(&w, 16, 64, Format::per_channel())));
    assert!(shape(quantize(&w, 0, 96, Format::per_channel())));
    assert!(shape(quantize(&w, 32, 48, Format::per_channel())));
    assert!(shape(quantize(&w, 16, 96, grouped(64))));
    assert!(shape(quantize(&w, 16, 96, grouped(48))));
    assert!(shape(quantize(&w, 16, 96, Format::qqq())));
    let mut bad = w.clone();
    bad[100] = f32::NAN;
    assert!(matches!(quantize(&bad, 16, 96, grouped(32)), Err(Error::Value { what: "w", .. })));
    bad[100] = 1e30; // its scale is no f16
    assert!(matches!(quantize(&bad, 16, 96, grouped(32)), Err(Error::Value { what: "scales.group", .. })));
    let scales = Scales::per_channel(vec![1.0; 16]);
    let codes = vec![16i8; 16 * 96];
    assert!(matches!(
        QuantizedWeight::new(16, 96, Format::per_channel(), codes, scales),
        Err(Error::Value { what: "codes", .. })
    ));
    assert!(matches!(Block::Q4_0.import(&[0; 17], 1, 32), Err(Error::Length { what: "bytes", .. })));

    let packed = PackedWeight::pack(&quantize(&w, 16, 96, grouped(32)).unwrap());
    let mut x = Activations::default();
    assert!(matches!(x.quantize(&cpu, &w[..95], 1, 95), Err(Error::Shape { what: "k", .. })));
    assert!(matches!(x.quantize(&cpu, &w[..96], 0, 96), Err(Error::Shape { what: "m", .. })));
    x.quantize(&cpu, &w[..64], 1, 64).unwrap();
    let mut y = vec![7.0f32; 16];
    assert!(matches!(linear(&cpu, &packed, &x, Epilogue::default(), &mut y), Err(Error::Shape { what: "x", .. })));
    x.quantize(&cpu, &w[..96], 1, 96).unwrap();
    let short = Epilogue { bias: Some(&w[..15]), residual: None };
    assert!(matches!(linear(&cpu, &packed, &x, short, &mut y), Err(Error::Length { what: "bias", .. })));
    let short = Epilogue { bias: None, residual: Some(&w[..15]) };
    assert!(matches!(linear(&cpu, &packed, &x, short, &mut y), Err(Error::Length { what: "residual", .. })));
    let none = Epilogue::default();
    assert!(matches!(linear(&cpu, &packed, &x, none, &mut y[..15]), Err(Error::Length { what: "y", .. })));
    assert_eq!(y, vec![7.0; 16]);
    assert!(matches!(packed.dequantize_row(16, &mut [0.0; 96]), Err(Error::Index { .. })));
}
