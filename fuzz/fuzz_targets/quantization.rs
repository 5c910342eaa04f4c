//! Fuzzes the reader of a quantization configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Refusing is fine; only a panic, a hang or a huge allocation is a finding.
    let _ = moray_lab::fuzzing::quantization(bytes);
});
