//! Integer instructions against their definitions in plain Rust.

mod device;
use device::Kind::{B16, B32, B64};
use device::{Kind, check};

const WORD2: [Kind; 2] = [B32; 2];
const WORD3: [Kind; 3] = [B32; 3];

fn s(x: u64) -> i32 {
    x as u32 as i32
}

fn u(x: u64) -> u32 {
    x as u32
}

#[test]
fn arithmetic_matches_rust_for_32_bits() {
    let two: &[(&str, fn(u32, u32) -> u32)] = &[
        ("add.s32", |a, b| a.wrapping_add(b)),
        ("add.sat.s32", |a, b| (a as i32).saturating_add(b as i32) as u32),
        ("sub.u32", |a, b| a.wrapping_sub(b)),
        ("sub.sat.s32", |a, b| (a as i32).saturating_sub(b as i32) as u32),
        ("mul.lo.s32", |a, b| a.wrapping_mul(b)),
        ("mul.hi.u32", |a, b| (u64::from(a) * u64::from(b) >> 32) as u32),
        ("mul.hi.s32", |a, b| (i64::from(a as i32) * i64::from(b as i32) >> 32) as u32),
        ("mul24.lo.u32", |a, b| (u64::from(a & 0xffffff) * u64::from(b & 0xffffff)) as u32),
        ("mul24.hi.s32", |a, b| {
            let sign = |x: u32| i64::from((x << 8) as i32 >> 8);
            (sign(a) * sign(b) >> 16) as u32
        }),
        ("min.s32", |a, b| if (a as i32) < (b as i32) { a } else { b }),
        ("max.u32", |a, b| if a > b { a } else { b }),
        ("min.u32", |a, b| if a < b { a } else { b }),
        ("max.s32", |a, b| if (a as i32) > (b as i32) { a } else { b }),
        ("max.relu.s32", |a, b| (a as i32).max(b as i32).max(0) as u32),
        ("div.u32", |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
        ("rem.u32", |a, b| a.checked_rem(b).unwrap_or(a)),
        ("div.s32", |a, b| if b == 0 { u32::MAX } else { (a as i32).wrapping_div(b as i32) as u32 }),
        ("rem.s32", |a, b| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }),
        ("add.u16x2", |a, b| (a & 0xffff).wrapping_add(b & 0xffff) & 0xffff | (a >> 16).wrapping_add(b >> 16) << 16),
        ("max.s16x2", |a, b| {
            let half = |k: u32| (((a >> k) as i16).max((b >> k) as i16) as u16 as u32) << k;
            half(0) | half(16)
        }),
    ];
    for (name, f) in two {
        check(&format!("{name} %d, %x0, %x1;"), &WORD2, B32, |x| f(u(x[0]), u(x[1])).into());
    }
}

#[test]
fn arithmetic_matches_rust_for_64_and_16_bits() {
    let wide: &[(&str, fn(u64, u64) -> u64)] = &[
        ("add.s64", u64::wrapping_add),
        ("sub.u64", u64::wrapping_sub),
        ("mul.lo.u64", u64::wrapping_mul),
        ("mul.hi.u64", |a, b| (u128::from(a) * u128::from(b) >> 64) as u64),
        ("mul.hi.s64", |a, b| (i128::from(a as i64) * i128::from(b as i64) >> 64) as u64),
        ("min.s64", |a, b| (a as i64).min(b as i64) as u64),
        ("max.u64", u64::max),
        ("div.u64", |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        ("rem.s64", |a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        ("and.b64", |a, b| a & b),
        ("xor.b64", |a, b| a ^ b),
    ];
    for (name, f) in wide {
        check(&format!("{name} %d, %x0, %x1;"), &[B64; 2], B64, |x| f(x[0], x[1]));
    }
    let narrow: &[(&str, fn(u16, u16) -> u16)] = &[
        ("add.s16", u16::wrapping_add),
        ("mul.lo.u16", u16::wrapping_mul),
        ("mul.hi.s16", |a, b| (i32::from(a as i16) * i32::from(b as i16) >> 16) as u16),
        ("min.s16", |a, b| (a as i16).min(b as i16) as u16),
        ("max.u16", u16::max),
        ("or.b16", |a, b| a | b),
    ];
    for (name, f) in narrow {
        check(&format!("{name} %d, %x0, %x1;"), &[B16; 2], B16, |x| f(x[0] as u16, x[1] as u16).into());
    }
    check("shr.s16 %d, %x0, %x1;", &[B16, B32], B16, |x| ((x[0] as i16) >> u(x[1]).min(15)) as u64);
    check("shl.b16 %d, %x0, %x1;", &[B16, B32], B16, |x| if u(x[1]) > 15 { 0 } else { x[0] << u(x[1]) });
}

#[test]
fn widening_products_match_rust() {
    check("mul.wide.u32 %d, %x0, %x1;", &WORD2, B64, |x| x[0] * x[1]);
    check("mul.wide.s32 %d, %x0, %x1;", &WORD2, B64, |x| (i64::from(s(x[0])) * i64::from(s(x[1]))) as u64);
    check("mul.wide.u16 %d, %x0, %x1;", &[B16; 2], B32, |x| x[0] * x[1]);
    check("mul.wide.s16 %d, %x0, %x1;", &[B16; 2], B32, |x| (i64::from(x[0] as i16) * i64::from(x[1] as i16)) as u64);
    check("mad.wide.s32 %d, %x0, %x1, %x2;", &[B32, B32, B64], B64, |x| {
        (i64::from(s(x[0])) * i64::from(s(x[1]))).wrapping_add(x[2] as i64) as u64
    });
    check("mad.wide.u16 %d, %x0, %x1, %x2;", &[B16, B16, B32], B32, |x| (x[0] * x[1]).wrapping_add(x[2]));
}

#[test]
fn three_operand_forms_match_rust() {
    let three: &[(&str, fn(u32, u32, u32) -> u32)] = &[
        ("mad.lo.s32", |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("mad.hi.u32", |a, b, c| ((u64::from(a) * u64::from(b) >> 32) as u32).wrapping_add(c)),
        ("mad.hi.sat.s32", |a, b, c| {
            ((i64::from(a as i32) * i64::from(b as i32) >> 32) as i32).saturating_add(c as i32) as u32
        }),
        ("mad24.lo.u32", |a, b, c| (a & 0xffffff).wrapping_mul(b & 0xffffff).wrapping_add(c)),
        ("sad.s32", |a, b, c| c.wrapping_add((i64::from(a as i32) - i64::from(b as i32)).unsigned_abs() as u32)),
        ("sad.u32", |a, b, c| c.wrapping_add(a.abs_diff(b))),
    ];
    for (name, f) in three {
        check(&format!("{name} %d, %x0, %x1, %x2;"), &WORD3, B32, |x| f(u(x[0]), u(x[1]), u(x[2])).into());
    }
}

#[test]
fn dot_products_match_rust_for_every_sign() {
    let byte = |x: u64, n: u32, signed: bool| {
        let b = (x >> (8 * n)) as u8;
        if signed { i64::from(b as i8) } else { i64::from(b) }
    };
    let half = |x: u64, n: u32, signed: bool| {
        let h = (x >> (16 * n)) as u16;
        if signed { i64::from(h as i16) } else { i64::from(h) }
    };
    for (a, b) in [("u32", "u32"), ("u32", "s32"), ("s32", "u32"), ("s32", "s32")] {
        let (sa, sb) = (a == "s32", b == "s32");
        check(&format!("dp4a.{a}.{b} %d, %x0, %x1, %x2;"), &WORD3, B32, |x| {
            let dot: i64 = (0..4).map(|n| byte(x[0], n, sa) * byte(x[1], n, sb)).sum();
            (dot + s(x[2]) as i64) as u64
        });
        for (half_name, first) in [("lo", 0), ("hi", 2)] {
            check(&format!("dp2a.{half_name}.{a}.{b} %d, %x0, %x1, %x2;"), &WORD3, B32, |x| {
                let dot: i64 = (0..2).map(|n| half(x[0], n, sa) * byte(x[1], first + n, sb)).sum();
                (dot + s(x[2]) as i64) as u64
            });
        }
    }
}

#[test]
fn extended_precision_matches_wide_integers() {
    let low = |x: &[u64]| (x[0] | x[1] << 32, x[2] | x[3] << 32);
    let words = [B32; 4];
    check(
        "{ .reg .b32 %l, %h; add.cc.u32 %l, %x0, %x2; addc.u32 %h, %x1, %x3; mov.b64 %d, {%l, %h}; }",
        &words,
        B64,
        |x| low(x).0.wrapping_add(low(x).1),
    );
    check(
        "{ .reg .b32 %l, %h; sub.cc.u32 %l, %x0, %x2; subc.u32 %h, %x1, %x3; mov.b64 %d, {%l, %h}; }",
        &words,
        B64,
        |x| low(x).0.wrapping_sub(low(x).1),
    );
    check(
        "{ .reg .b32 %l, %h; mad.lo.cc.u32 %l, %x0, %x1, %x2; madc.hi.u32 %h, %x0, %x1, %x3; mov.b64 %d, {%l, %h}; }",
        &words,
        B64,
        |x| (x[0] * x[1]).wrapping_add(x[2] | x[3] << 32),
    );
    check("{ .reg .b64 %l, %h; add.cc.u64 %l, %x0, %x1; addc.u64 %d, 0, 0; }", &[B64; 2], B64, |x| {
        u64::from(x[0].checked_add(x[1]).is_none())
    });
}

#[test]
fn unary_forms_match_rust() {
    check("abs.s32 %d, %x0;", &[B32], B32, |x| s(x[0]).wrapping_abs() as u64);
    check("neg.s32 %d, %x0;", &[B32], B32, |x| s(x[0]).wrapping_neg() as u64);
    check("abs.s64 %d, %x0;", &[B64], B64, |x| (x[0] as i64).wrapping_abs() as u64);
    check("neg.s16 %d, %x0;", &[B16], B16, |x| x[0].wrapping_neg());
    check("not.b32 %d, %x0;", &[B32], B32, |x| !x[0]);
    check("cnot.b32 %d, %x0;", &[B32], B32, |x| u64::from(x[0] == 0));
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
