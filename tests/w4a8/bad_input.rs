//! Bad input is a typed error, and nothing has been written.

use moray::w4a8::{
    ActScales, Activations, Block, Epilogue, Format, Offset, PackedView, PackedWeight, QuantizedWeight, Scales,
    Sections, linear, pack_into, quantize,
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

/// Products of sizes that wrap would let an empty buffer pass for a huge one.
#[test]
fn sizes_whose_product_cannot_be_counted_are_typed_errors() {
    let cpu = Cpu::detect();
    let (huge, none) = (1usize << 59, &[] as &[f32]);
    let mut x = Activations::default();
    assert!(matches!(x.quantize(&cpu, none, huge, 32), Err(Error::Shape { what: "m", .. })));
    assert!(matches!(x.set_codes(ActScales::Token, &[], none, huge, 32), Err(Error::Length { what: "scale", .. })));
    assert!(matches!(quantize(none, huge, 32, Format::w8()), Err(Error::Shape { what: "n", .. })));
    assert!(matches!(Block::Q8_0.import(&[], huge, 32), Err(Error::Shape { what: "n", .. })));
    assert!(matches!(Format::w8().section_bytes(huge, 64), Err(Error::Shape { what: "n", .. })));
    let scales = Scales::per_channel(Vec::new());
    let weight = QuantizedWeight::new(huge, 32, Format::w8(), Vec::new(), scales);
    assert!(matches!(weight, Err(Error::Shape { what: "n", .. })));
}

#[test]
fn borrowed_sections_of_other_sizes_places_or_scales_are_typed_errors() {
    let (n, k, format) = (20, 64, Format::two_level(32));
    let weight = quantize(&vec![0.5; n * k], n, k, format).unwrap();
    let bytes = format.section_bytes(n, k).unwrap();
    let mut memory = bytes.map(|bytes| vec![0u64; bytes / 8 + 1]);
    let mut sections = memory.as_mut().map(|words| bytemuck::cast_slice_mut::<u64, u8>(words));
    let too_long = pack_into(&weight, sections.as_mut().map(|section| &mut **section));
    assert!(matches!(too_long, Err(Error::Length { what: "codes", .. })), "{too_long:?}");
    let mut sections = sections.zip(bytes).map(|(section, bytes)| &mut section[..bytes]);
    pack_into(&weight, sections.as_mut().map(|section| &mut **section)).unwrap();
    let sections = sections.map(|section| &*section);
    let view = |sections| PackedView::new(n, k, format, sections);
    assert_eq!(view(sections).unwrap().unpack().unwrap(), weight);
    let packed = PackedWeight::pack(&weight);
    assert_eq!(packed.view().sections(), sections);
    let short = view(Sections { group: &sections.group[1..], ..sections });
    assert!(matches!(short, Err(Error::Length { what: "group", .. })), "{short:?}");
    let mut moved = vec![0u64; bytes.channel / 8 + 1];
    let moved = &mut bytemuck::cast_slice_mut::<u64, u8>(&mut moved)[1..=bytes.channel];
    moved.copy_from_slice(sections.channel);
    let moved = view(Sections { channel: moved, ..sections });
    assert!(matches!(moved, Err(Error::Misaligned { what: "channel", .. })), "{moved:?}");
    // the section that the format does not have is at no address of its own
    let mut y = [0.0f32; 20];
    let mut x = Activations::default();
    x.quantize(&Cpu::detect(), &[1.0f32; 64], 1, k).unwrap();
    for offset in [&[], &sections.codes[1..1]] {
        let weight = view(Sections { offset, ..sections }).unwrap();
        linear(&Cpu::detect(), weight, &x, Epilogue::default(), &mut y).unwrap();
    }
    let grouped = Format::per_group(32, Offset::None);
    let packed = PackedWeight::pack(&quantize(&vec![0.5; n * k], n, k, grouped).unwrap());
    let lent = PackedView::new(n, k, grouped, Sections { channel: &packed.codes()[1..1], ..packed.view().sections() });
    linear(&Cpu::detect(), lent.unwrap(), &x, Epilogue::default(), &mut y).unwrap();
    let large = vec![17u8; bytes.group];
    let large = view(Sections { group: &large, ..sections });
    assert!(matches!(large, Err(Error::Value { what: "group", .. })), "{large:?}");
}
