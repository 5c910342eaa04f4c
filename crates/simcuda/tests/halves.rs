//! f16 halves that are split off a word and widened: right wherever the word, the halves and the conversions stand.

mod device;
use device::{Device, Random, ptx, shape};
use half::f16;
use simcuda::machine::{Class, Report};

/// Runs a body that makes `%f0` and `%f1` of the word `%w` of each thread; returns their bits.
fn widen(body: &str, input: &[u32]) -> (Vec<[u32; 2]>, Report) {
    let text = ptx(&format!(
        ".visible .entry k(.param .u64 pin, .param .u64 pout) {{
            .reg .b64 %in, %out, %x; .reg .b32 %t, %w, %v, %n, %r<8>; .reg .b16 %s; .reg .f32 %f<4>; .reg .b16 %lo, %hi;
            .reg .pred %p;
            ld.param.u64 %in, [pin]; ld.param.u64 %out, [pout]; mov.u32 %t, %tid.x;
            mul.wide.u32 %x, %t, 4; add.u64 %in, %in, %x; ld.global.u32 %w, [%in]; setp.lt.u32 %p, %t, 7;
            mov.f32 %f0, 0f00000000; mov.f32 %f1, 0f00000000;
            {body}
            mul.wide.u32 %x, %t, 8; add.u64 %out, %out, %x; st.global.v2.f32 [%out], {{%f0, %f1}}; ret; }}"
    ));
    let device = Device::new();
    let f = device.kernel(&text);
    let (a, d) = (device.words(input), device.words(&vec![0; 2 * input.len()]));
    let report =
        device.run(&f, &shape(1, input.len() as u32), &[a, d]).unwrap_or_else(|fault| panic!("{fault}\n{body}"));
    (device.read_words(d, 2 * input.len()).chunks(2).map(|c| [c[0], c[1]]).collect(), report)
}

/// Words with subnormal, infinite and NaN halves among random ones.
fn words() -> Vec<u32> {
    let mut random = Random(31);
    let edges = [0, 0x8000_0001, 0x7c00_fc00, 0x7e01_7c01, 0x03ff_83ff, 0x3c00_bc00];
    edges.into_iter().chain(std::iter::repeat_with(|| random.next() as u32)).take(32).collect()
}

/// Both halves of a word as f32 bits; NaN is the canonical one.
fn expected(word: u32) -> [u32; 2] {
    [word as u16, (word >> 16) as u16].map(|bits| {
        let value = f16::from_bits(bits).to_f32();
        if value.is_nan() { 0x7fff_ffff } else { value.to_bits() }
    })
}

const SPLIT: &str = "mov.b32 {%lo, %hi}, %w;";
const LOW: &str = "cvt.f32.f16 %f0, %lo;";
const HIGH: &str = "cvt.f32.f16 %f1, %hi;";

#[test]
fn split_halves_match_their_value_in_every_surrounding() {
    let both: Vec<[u32; 2]> = words().into_iter().map(expected).collect();
    let bodies = [
        format!("{SPLIT} {LOW} {HIGH}"),
        format!("{SPLIT} {HIGH} {LOW}"),
        // The word is written again before one half is read, or by another statement's result.
        format!("{SPLIT} {LOW} mov.u32 %w, 0; {HIGH}"),
        format!("{SPLIT} add.u32 %w, %w, 12345; {LOW} {HIGH}"),
        // Its place must not be given to registers that start to live in between.
        format!(
            "{SPLIT} mul.lo.u32 %r1, %t, 3; mul.lo.u32 %r2, %t, 5; mul.lo.u32 %r3, %t, 7; {LOW}
             add.u32 %r4, %r1, %r2; add.u32 %r5, %r3, %r4; {HIGH} add.u32 %r6, %r5, %r4;"
        ),
        // A half is read by something else too, or in another block, or only where a guard holds.
        format!("{SPLIT} cvt.u32.u16 %r1, %hi; {LOW} {HIGH} add.u32 %r2, %r1, 1;"),
        format!("{SPLIT} @%p bra NEXT; mov.u32 %r1, 1; NEXT: {LOW} {HIGH}"),
        format!("{SPLIT} @%p {LOW} @!%p {LOW} {HIGH}"),
        format!("@%p {SPLIT} @!%p {SPLIT} {LOW} {HIGH}"),
        // Each turn of a loop splits another word.
        format!(
            "mov.u32 %v, %w; mov.u32 %n, 0; L: xor.b32 %w, %v, %n; {SPLIT} {LOW} {HIGH} xor.b32 %n, %n, -1;
             setp.ne.u32 %p, %n, 0; @%p bra L; mov.u32 %w, %v; xor.b32 %r1, %f0, 0; {SPLIT} {LOW} {HIGH}"
        ),
        // The second turn reads the halves again when the word is another.
        format!(
            "{SPLIT} mov.u32 %n, 0; L: {LOW} {HIGH} mov.u32 %w, 0; add.u32 %n, %n, 1; setp.lt.u32 %p, %n, 2;
             @%p bra L;"
        ),
        // One half only.
        format!("{SPLIT} {LOW} mov.b32 {{%s, %hi}}, %w; {HIGH}"),
    ];
    for body in bodies {
        assert_eq!(widen(&body, &words()).0, both, "{body}");
    }
    let last: Vec<[u32; 2]> = words().into_iter().map(|w| expected(!w)).collect();
    let turned = format!(
        "mov.u32 %n, 0; L: {SPLIT} {LOW} {HIGH} not.b32 %w, %w; add.u32 %n, %n, 1; setp.lt.u32 %p, %n, 2; @%p bra L;"
    );
    assert_eq!(widen(&turned, &words()).0, last, "{turned}");
    // A half with a second definition, of another word.
    let mixed: Vec<[u32; 2]> = words().into_iter().map(|w| [expected(w)[0], expected(!w)[1]]).collect();
    let redefined = format!("{SPLIT} {LOW} not.b32 %v, %w; mov.b32 {{%s, %hi}}, %v; {HIGH}");
    assert_eq!(widen(&redefined, &words()).0, mixed, "{redefined}");
    // And one whose second definition splits nothing.
    let narrowed = format!("{SPLIT} {LOW} not.b32 %v, %w; shr.u32 %v, %v, 16; cvt.u16.u32 %hi, %v; {HIGH}");
    assert_eq!(widen(&narrowed, &words()).0, mixed, "{narrowed}");
    // One register for both halves holds the second.
    let twice: Vec<[u32; 2]> = words().into_iter().map(|w| [expected(w)[1]; 2]).collect();
    let one = "mov.b32 {%lo, %lo}, %w; cvt.f32.f16 %f0, %lo; cvt.f32.f16 %f1, %lo;";
    assert_eq!(widen(one, &words()).0, twice, "{one}");
}

#[test]
fn split_halves_match_the_count_of_what_is_written() {
    // What replaces the move is executed as it stands.
    let moved = widen(&format!("{SPLIT} {LOW} {HIGH}"), &words()).1;
    let plain = widen("add.u32 %r1, %w, 1; cvt.rn.f32.u32 %f0, %r1; cvt.rn.f32.u32 %f1, %w;", &words()).1;
    assert_eq!(moved.instructions, plain.instructions);
    assert_eq!(moved.class(Class::Move), plain.class(Class::Move) + 1);
    assert_eq!(moved.class(Class::Convert), plain.class(Class::Convert));
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
