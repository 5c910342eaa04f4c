//! Floating-point instructions against f64 arithmetic and the `half` crate.

mod device;
use device::Kind::{B16, B32, B64, F32, F64, Pred};
use device::{Random, check, evaluate};
use half::{bf16, f16};

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

/// Bits of an f32 result; NaN is the canonical one.
fn bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

fn ftz(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

#[test]
fn f32_arithmetic_matches_rust_rounding_to_nearest() {
    let two: &[(&str, fn(f32, f32) -> f32)] = &[
        ("add.rn.f32", |a, b| a + b),
        ("sub.f32", |a, b| a - b),
        ("mul.f32", |a, b| a * b),
        ("div.rn.f32", |a, b| a / b),
    ];
    for (name, op) in two {
        check(&format!("{name} %d, %x0, %x1;"), &[F32; 2], F32, |x| bits(op(f(x[0]), f(x[1]))));
        let flushing = name.replace(".f32", ".ftz.f32");
        check(&format!("{flushing} %d, %x0, %x1;"), &[F32; 2], F32, |x| bits(ftz(op(ftz(f(x[0])), ftz(f(x[1]))))));
    }
    check("add.sat.f32 %d, %x0, %x1;", &[F32; 2], F32, |x| {
        let sum = f(x[0]) + f(x[1]);
        bits(if sum > 0.0 { sum.min(1.0) } else { 0.0 })
    });
    check("fma.rn.f32 %d, %x0, %x1, %x2;", &[F32; 3], F32, |x| bits(f(x[0]).mul_add(f(x[1]), f(x[2]))));
    check("sqrt.rn.f32 %d, %x0;", &[F32], F32, |x| bits(f(x[0]).sqrt()));
    check("rcp.rn.f32 %d, %x0;", &[F32], F32, |x| bits(1.0 / f(x[0])));
    check("abs.f32 %d, %x0;", &[F32], F32, |x| x[0] & 0x7fff_ffff);
    check("neg.f32 %d, %x0;", &[F32], F32, |x| x[0] ^ 0x8000_0000);
    check("copysign.f32 %d, %x0, %x1;", &[F32; 2], F32, |x| bits_raw(f(x[1]).copysign(f(x[0]))));
}

fn bits_raw(x: f32) -> u64 {
    x.to_bits().into()
}

#[test]
fn minimum_and_maximum_match_the_manual_for_nan_and_zero_signs() {
    // Totally ordered bits make -0 smaller than +0.
    let order = |x: f32| {
        let b = x.to_bits() as i32;
        if b < 0 { i32::MIN ^ b.wrapping_neg().wrapping_sub(0) ^ i32::MIN } else { b }
    };
    let less = |a: f32, b: f32| if a == b { a.is_sign_negative() } else { a < b };
    let _ = order;
    let pick = move |a: f32, b: f32, max: bool| {
        if a.is_nan() {
            return b;
        }
        if b.is_nan() || less(a, b) != max {
            return a;
        }
        b
    };
    for (name, max) in [("min", false), ("max", true)] {
        check(&format!("{name}.f32 %d, %x0, %x1;"), &[F32; 2], F32, |x| bits(pick(f(x[0]), f(x[1]), max)));
        check(&format!("{name}.NaN.f32 %d, %x0, %x1;"), &[F32; 2], F32, |x| {
            let (a, b) = (f(x[0]), f(x[1]));
            bits(if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, max) })
        });
        check(&format!("{name}.xorsign.abs.f32 %d, %x0, %x1;"), &[F32; 2], F32, |x| {
            let (a, b) = (f(x[0]), f(x[1]));
            let m = pick(a.abs(), b.abs(), max);
            bits(if m.is_nan() {
                m
            } else {
                m.copysign(if a.is_sign_negative() != b.is_sign_negative() { -1.0 } else { 1.0 })
            })
        });
    }
}

/// Narrows an exact f64 in a directed mode by stepping from the nearest f32.
fn directed(exact: f64, mode: &str) -> f32 {
    let near = exact as f32;
    let wide = f64::from(near);
    let down = if wide > exact { near.next_down() } else { near };
    let up = if wide < exact { near.next_up() } else { near };
    match mode {
        "rm" => down,
        "rp" => up,
        _ if exact < 0.0 => up,
        _ => down,
    }
}

#[test]
fn directed_rounding_matches_exact_products_and_sums() {
    for mode in ["rz", "rm", "rp"] {
        let mut random = Random(3);
        // Products of two f32 are exact in f64; sums are if the exponents lie within 28 of each other.
        let near = |r: &mut Random| {
            u64::from((1.0f32 + (r.next() >> 41) as f32 * 2f32.powi(-23)).to_bits()) + ((r.next() % 24) << 23)
                ^ (r.next() & 1) << 31
        };
        let tuples: Vec<Vec<u64>> = (0..2000).map(|_| vec![near(&mut random), near(&mut random)]).collect();
        for (op, exact) in
            [("mul", (|a, b| a * b) as fn(f64, f64) -> f64), ("add", |a, b| a + b), ("sub", |a, b| a - b)]
        {
            let results = evaluate(&format!("{op}.{mode}.f32 %d, %x0, %x1;"), &[F32; 2], F32, &tuples);
            for (x, result) in tuples.iter().zip(results) {
                let exact = exact(f(x[0]).into(), f(x[1]).into());
                if exact != 0.0 {
                    assert_eq!(f(result), directed(exact, mode), "{op}.{mode} of {x:x?}");
                }
            }
        }
        for (op, back) in [("div", false), ("rcp", true)] {
            let text = if back { format!("rcp.{mode}.f32 %d, %x1;") } else { format!("{op}.{mode}.f32 %d, %x0, %x1;") };
            let results = evaluate(&text, &[F32; 2], F32, &tuples);
            for (x, result) in tuples.iter().zip(results) {
                let (a, b) = (if back { 1.0 } else { f64::from(f(x[0])) }, f64::from(f(x[1])));
                // q is right if the products of its neighbourhood with b enclose a; 24 + 24 bits are exact in f64.
                let q = f(result);
                let (low, high) = (f64::from(q.next_down()) * b, f64::from(q.next_up()) * b);
                let product = f64::from(q) * b;
                let inside = |edge: f64| if product == a { true } else { (product < a) != (edge < a) };
                let side = match mode {
                    "rm" => high,
                    "rp" => low,
                    _ if q > 0.0 => high,
                    _ => low,
                };
                assert!(inside(side), "{op}.{mode} of {x:x?} gives {q}");
            }
        }
    }
    check("add.rm.f32 %d, %x0, %x1;", &[F32; 2], F32, |x| {
        let (a, b) = (f(x[0]), f(x[1]));
        let (wa, wb) = (f64::from(a), f64::from(b));
        let s = wa + wb;
        // Where f64 holds the sum exactly it decides; elsewhere the nearest f32 and the error's sign do.
        let part = s - wa;
        let error = (wa - (s - part)) + (wb - part);
        if !s.is_finite() {
            return bits(s as f32);
        }
        if s == 0.0 {
            return bits(if a.to_bits() == b.to_bits() { a } else { -0.0 });
        }
        let near = s as f32;
        let too_high = f64::from(near) > s || (f64::from(near) == s && error < 0.0);
        bits(if near == f32::INFINITY {
            f32::MAX
        } else if too_high {
            near.next_down()
        } else {
            near
        })
    });
}

#[test]
fn f64_arithmetic_matches_rust() {
    let raw = |x: f64, r: u64| if x.is_nan() { r } else { x.to_bits() };
    let two: &[(&str, fn(f64, f64) -> f64)] = &[
        ("add.rn.f64", |a, b| a + b),
        ("mul.f64", |a, b| a * b),
        ("sub.f64", |a, b| a - b),
        ("div.rn.f64", |a, b| a / b),
    ];
    for (name, op) in two {
        let tuples = device::operands(&[F64; 2], 500);
        let results = evaluate(&format!("{name} %d, %x0, %x1;"), &[F64; 2], F64, &tuples);
        for (x, r) in tuples.iter().zip(results) {
            assert_eq!(r, raw(op(d(x[0]), d(x[1])), r), "{name} of {x:x?}");
            assert!(!op(d(x[0]), d(x[1])).is_nan() || d(r).is_nan());
        }
    }
    let tuples = device::operands(&[F64; 3], 500);
    for (x, r) in tuples.iter().zip(evaluate("fma.rn.f64 %d, %x0, %x1, %x2;", &[F64; 3], F64, &tuples)) {
        let expected = d(x[0]).mul_add(d(x[1]), d(x[2]));
        assert!(r == expected.to_bits() || expected.is_nan() && d(r).is_nan(), "fma of {x:x?}");
    }
}

/// f16 results; NaN is 0x7fff.
fn h(x: f16) -> u64 {
    if x.is_nan() { 0x7fff } else { x.to_bits().into() }
}

fn b(x: bf16) -> u64 {
    if x.is_nan() { 0x7fff } else { x.to_bits().into() }
}

fn hf(x: u64) -> f64 {
    f16::from_bits(x as u16).to_f64()
}

fn bf(x: u64) -> f64 {
    bf16::from_bits(x as u16).to_f64()
}

#[test]
fn f16_arithmetic_matches_the_half_crate() {
    let two: &[(&str, fn(f64, f64) -> f64)] = &[("add.rn", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
    for (name, op) in two {
        check(&format!("{name}.f16 %d, %x0, %x1;"), &[B16; 2], B16, |x| h(f16::from_f64(op(hf(x[0]), hf(x[1])))));
        check(&format!("{name}.f16x2 %d, %x0, %x1;"), &[B32; 2], B32, |x| {
            let half = |k: u32| h(f16::from_f64(op(hf(x[0] >> k), hf(x[1] >> k)))) << k;
            half(0) | half(16)
        });
    }
    // The fused result: f64 holds it exactly unless one operand is too small to matter.
    check("fma.rn.f16 %d, %x0, %x1, %x2;", &[B16; 3], B16, |x| h(f16::from_f64(hf(x[0]).mul_add(hf(x[1]), hf(x[2])))));
    check("fma.rn.f16x2 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        let half = |k: u32| h(f16::from_f64(hf(x[0] >> k).mul_add(hf(x[1] >> k), hf(x[2] >> k)))) << k;
        half(0) | half(16)
    });
    check("fma.rn.relu.f16 %d, %x0, %x1, %x2;", &[B16; 3], B16, |x| {
        let v = f16::from_f64(hf(x[0]).mul_add(hf(x[1]), hf(x[2])));
        h(if v < f16::ZERO || v == f16::ZERO { f16::ZERO } else { v })
    });
    check("add.sat.f16 %d, %x0, %x1;", &[B16; 2], B16, |x| {
        let v = hf(x[0]) + hf(x[1]);
        h(f16::from_f64(if v > 0.0 { v.min(1.0) } else { 0.0 }))
    });
    check("neg.f16x2 %d, %x0;", &[B32], B32, |x| x[0] ^ 0x8000_8000);
    check("setp.gt.f16 %d, %x0, %x1;", &[B16; 2], Pred, |x| u64::from(hf(x[0]) > hf(x[1])));
}

#[test]
fn f16_fma_rounds_once_where_f32_would_round_twice() {
    // 1 + 2^-11 is halfway between two f16; a last bit beyond f32's 24 decides. (1 + 2^-5)(1 + 2^-6) …
    let mut random = Random(11);
    let tuples: Vec<Vec<u64>> = (0..20000)
        .map(|_| {
            let mut value = |low: u64, span: u64| random.next() & 0x83ff | (low + random.next() % span) << 10;
            vec![value(14, 3), value(14, 3), value(1, 4)]
        })
        .collect();
    let results = evaluate("fma.rn.f16 %d, %x0, %x1, %x2;", &[B16; 3], B16, &tuples);
    for (x, r) in tuples.iter().zip(results) {
        assert_eq!(r, h(f16::from_f64(hf(x[0]) * hf(x[1]) + hf(x[2]))), "{x:x?}");
    }
}

#[test]
fn bf16_arithmetic_matches_the_half_crate() {
    // bf16 has 8 bits: f64 sums and products of two are exact or far from a tie.
    let two: &[(&str, fn(f64, f64) -> f64)] = &[("add.rn", |a, b| a + b), ("mul", |a, b| a * b)];
    for (name, op) in two {
        check(&format!("{name}.bf16 %d, %x0, %x1;"), &[B16; 2], B16, |x| b(bf16::from_f64(op(bf(x[0]), bf(x[1])))));
        check(&format!("{name}.bf16x2 %d, %x0, %x1;"), &[B32; 2], B32, |x| {
            let half = |k: u32| b(bf16::from_f64(op(bf(x[0] >> k), bf(x[1] >> k)))) << k;
            half(0) | half(16)
        });
    }
    check("fma.rn.bf16 %d, %x0, %x1, %x2;", &[B16; 3], B16, |x| {
        // The product is exact in f64. Where the sum is not, a step towards the addend keeps its side of a tie.
        let (product, c) = (bf(x[0]) * bf(x[1]), bf(x[2]));
        let sum = product + c;
        let nudged = match sum {
            s if s != product || c == 0.0 || !s.is_finite() || s == 0.0 => s,
            s if c > 0.0 => s.next_up(),
            s => s.next_down(),
        };
        b(bf16::from_f64(nudged))
    });
    check("max.bf16 %d, %x0, %x1;", &[B16; 2], B16, |x| {
        let (p, q) = (bf(x[0]), bf(x[1]));
        let zero = p == q && p == 0.0;
        let m = if p.is_nan() {
            q
        } else if q.is_nan() || p > q || (zero && p.is_sign_positive()) {
            p
        } else {
            q
        };
        b(bf16::from_f64(m))
    });
}

#[test]
fn comparisons_match_rust_ordered_and_unordered() {
    let tests: &[(&str, fn(f32, f32) -> bool)] = &[
        ("eq", |a, b| a == b),
        ("ne", |a, b| a < b || a > b),
        ("lt", |a, b| a < b),
        ("le", |a, b| a <= b),
        ("gt", |a, b| a > b),
        ("ge", |a, b| a >= b),
        ("equ", |a, b| !(a < b || a > b)),
        ("neu", |a, b| a != b),
        ("ltu", |a, b| !(a >= b)),
        ("leu", |a, b| !(a > b)),
        ("gtu", |a, b| !(a <= b)),
        ("geu", |a, b| !(a < b)),
        ("num", |a, b| !a.is_nan() && !b.is_nan()),
        ("nan", |a, b| a.is_nan() || b.is_nan()),
    ];
    for (name, holds) in tests {
        check(&format!("setp.{name}.f32 %d, %x0, %x1;"), &[F32; 2], Pred, |x| holds(f(x[0]), f(x[1])).into());
        check(&format!("set.{name}.u32.f32 %d, %x0, %x1;"), &[F32; 2], B32, |x| {
            if holds(f(x[0]), f(x[1])) { u64::MAX } else { 0 }
        });
    }
    let ints: &[(&str, fn(u32, u32) -> bool)] = &[
        ("eq.s32", |a, b| a == b),
        ("ne.b32", |a, b| a != b),
        ("lt.s32", |a, b| (a as i32) < b as i32),
        ("le.u32", |a, b| a <= b),
        ("gt.u32", |a, b| a > b),
        ("ge.s32", |a, b| a as i32 >= b as i32),
        ("lo.u32", |a, b| a < b),
        ("hs.u32", |a, b| a >= b),
    ];
    for (name, holds) in ints {
        check(&format!("setp.{name} %d, %x0, %x1;"), &[B32; 2], Pred, |x| holds(x[0] as u32, x[1] as u32).into());
    }
    check("{ setp.lt.s64 %q, %x0, 0; setp.gt.and.s64 %d|%r, %x0, %x1, !%q; }", &[B64; 2], Pred, |x| {
        let (p, q) = (x[0] as i64, x[1] as i64);
        u64::from(p > q && p >= 0)
    });
    check("{ setp.lt.u32 %q, %x0, %x1; selp.b32 %d, %x0, %x1, %q; }", &[B32; 2], B32, |x| x[0].min(x[1]));
    check("slct.b32.s32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| if (x[2] as i32) >= 0 { x[0] } else { x[1] });
    check("testp.subnormal.f32 %d, %x0;", &[F32], Pred, |x| f(x[0]).is_subnormal().into());
    check("testp.finite.f64 %d, %x0;", &[F64], Pred, |x| d(x[0]).is_finite().into());
}

#[test]
fn approximate_functions_keep_the_documented_error() {
    // Bounds in ulp of the result as the PTX manual and the CUDA guide give them, taken on the range they hold for.
    let cases: &[(&str, fn(f64) -> f64, f64, f64, f64)] = &[
        ("rcp.approx.f32", |x| 1.0 / x, 0.001, 1000.0, 1.0),
        ("sqrt.approx.f32", f64::sqrt, 0.001, 1000.0, 1.0),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt(), 0.001, 1000.0, 2.0),
        ("ex2.approx.f32", f64::exp2, -120.0, 120.0, 2.0),
        ("lg2.approx.f32", f64::log2, 4.0, 1e6, 2.0),
        ("tanh.approx.f32", f64::tanh, 0.01, 5.0, 2f64.powi(13)),
    ];
    for (name, exact, low, high, ulps) in cases {
        let mut random = Random(5);
        let tuples: Vec<Vec<u64>> = (0..2000)
            .map(|_| {
                vec![u64::from(((low + (high - low) * (random.next() >> 11) as f64 * 2f64.powi(-53)) as f32).to_bits())]
            })
            .collect();
        for (x, r) in tuples.iter().zip(evaluate(&format!("{name} %d, %x0;"), &[F32], F32, &tuples)) {
            let expected = exact(f(x[0]).into());
            let ulp = f64::from((expected as f32).abs().next_up() - (expected as f32).abs());
            let error = (f64::from(f(r)) - expected).abs() / ulp;
            assert!(error <= *ulps, "{name} of {}: {} is {error} ulp off {expected}", f(x[0]), f(r));
        }
    }
    // sin and cos: absolute error 2^-20.5 on [-pi, pi].
    let tuples: Vec<Vec<u64>> = (-1000..1000).map(|i| vec![u64::from((i as f32 * 0.00314).to_bits())]).collect();
    for (x, r) in tuples.iter().zip(evaluate("sin.approx.f32 %d, %x0;", &[F32], F32, &tuples)) {
        assert!((f64::from(f(r)) - f64::from(f(x[0])).sin()).abs() <= 2f64.powf(-20.5));
    }
    // Infinities and zeros.
    let edges =
        [f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, 128.0, -150.0, -149.0].map(|x| vec![u64::from(x.to_bits())]);
    let results = evaluate("ex2.approx.f32 %d, %x0;", &[F32], F32, &edges);
    assert_eq!(
        results.iter().map(|&r| f(r)).collect::<Vec<_>>(),
        [0.0, f32::INFINITY, 1.0, 1.0, f32::INFINITY, 0.0, f32::from_bits(1)]
    );
}

#[test]
fn packed_comparisons_match_their_halves_with_integer_and_float_results() {
    let f16 = |bits: u64| half::f16::from_bits(bits as u16).to_f32();
    let bf16 = |bits: u64| half::bf16::from_bits(bits as u16).to_f32();
    type Value<'a> = &'a dyn Fn(u64) -> f32;
    let types: [(&str, u64, Value<'_>); 2] = [("f16x2", 0x3c00, &f16), ("bf16x2", 0x3f80, &bf16)];
    for (name, one, value) in types {
        for (result, yes) in [("u32", 0xffff), ("s32", 0xffff), (name, one)] {
            for (operator, holds) in [("eq", f32::eq as fn(&f32, &f32) -> bool), ("lt", f32::lt), ("ge", f32::ge)] {
                check(&format!("set.{operator}.{result}.{name} %d, %x0, %x1;"), &[B32; 2], B32, |x| {
                    let half = |shift: u32| {
                        let (a, b) = (value(x[0] >> shift & 0xffff), value(x[1] >> shift & 0xffff));
                        if holds(&a, &b) { yes << shift } else { 0 }
                    };
                    half(0) | half(16)
                });
            }
        }
        // Joined with a predicate.
        check(&format!("setp.lt.u32 %p, %x0, %x1; set.eq.and.u32.{name} %d, %x0, %x1, %p;"), &[B32; 2], B32, |x| {
            let half = |shift: u32| {
                let equal = value(x[0] >> shift & 0xffff) == value(x[1] >> shift & 0xffff);
                if equal && x[0] < x[1] { 0xffff << shift } else { 0 }
            };
            half(0) | half(16)
        });
    }
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
