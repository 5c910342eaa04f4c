//! `cvt` against casts, the `half` crate and tables of the small formats.

mod device;
use device::Kind::{B16, B32, B64, F32, F64};
use device::{check, evaluate};
use half::{bf16, f16};

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn bits(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits().into() }
}

#[test]
fn integers_match_casts() {
    check("cvt.s64.s32 %d, %x0;", &[B32], B64, |x| x[0] as i32 as i64 as u64);
    check("cvt.u64.u32 %d, %x0;", &[B32], B64, |x| x[0]);
    check("cvt.u32.u64 %d, %x0;", &[B64], B32, |x| x[0]);
    check("cvt.s32.s8 %d, %x0;", &[B32], B32, |x| x[0] as i8 as i32 as u64);
    check("cvt.u32.u16 %d, %x0;", &[B16], B32, |x| x[0]);
    check("cvt.s32.s16 %d, %x0;", &[B16], B32, |x| x[0] as i16 as i32 as u64);
    check("cvt.u16.u32 %d, %x0;", &[B32], B16, |x| x[0]);
    check("cvt.s8.s32 %d, %x0;", &[B32], B32, |x| x[0] as i8 as i32 as u64);
    check("cvt.sat.s8.s32 %d, %x0;", &[B32], B16, |x| (x[0] as i32).clamp(-128, 127) as u8 as u64);
    check("cvt.sat.u8.s32 %d, %x0;", &[B32], B16, |x| (x[0] as i32).clamp(0, 255) as u64);
    check("cvt.sat.s32.s64 %d, %x0;", &[B64], B32, |x| (x[0] as i64).clamp(i32::MIN.into(), i32::MAX.into()) as u64);
    check("cvt.sat.u16.s64 %d, %x0;", &[B64], B16, |x| (x[0] as i64).clamp(0, 65535) as u64);
    check("cvt.pack.sat.s8.s32.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        let pack = |v: u64| (v as i32).clamp(-128, 127) as u8 as u64;
        x[2] << 16 | pack(x[0]) << 8 | pack(x[1])
    });
    check("cvt.pack.sat.u16.s32 %d, %x0, %x1;", &[B32; 2], B32, |x| {
        let pack = |v: u64| (v as i32).clamp(0, 65535) as u64;
        pack(x[0]) << 16 | pack(x[1])
    });
}

#[test]
fn integers_to_floats_match_casts() {
    check("cvt.rn.f32.s32 %d, %x0;", &[B32], F32, |x| bits(x[0] as i32 as f32));
    check("cvt.rn.f32.u32 %d, %x0;", &[B32], F32, |x| bits(x[0] as u32 as f32));
    check("cvt.rn.f32.s64 %d, %x0;", &[B64], F32, |x| bits(x[0] as i64 as f32));
    check("cvt.rn.f32.u64 %d, %x0;", &[B64], F32, |x| bits(x[0] as f32));
    check("cvt.rn.f64.s64 %d, %x0;", &[B64], F64, |x| (x[0] as i64 as f64).to_bits());
    check("cvt.rn.f64.u32 %d, %x0;", &[B32], F64, |x| (x[0] as f64).to_bits());
    check("cvt.rn.f16.s32 %d, %x0;", &[B32], B16, |x| f16::from_f64(f64::from(x[0] as i32)).to_bits().into());
    check("cvt.rn.f16.u8 %d, %x0;", &[B16], B16, |x| f16::from_f64((x[0] & 255) as f64).to_bits().into());
    for (mode, up) in [("rz", false), ("rp", true)] {
        check(&format!("cvt.{mode}.f32.u32 %d, %x0;"), &[B32], F32, |x| {
            let near = x[0] as f32;
            let wide = near as f64;
            let value = if up && wide < x[0] as f64 {
                near.next_up()
            } else if !up && wide > x[0] as f64 {
                near.next_down()
            } else {
                near
            };
            bits(value)
        });
    }
}

#[test]
fn floats_to_integers_match_saturating_casts() {
    let modes: &[(&str, fn(f64) -> f64)] =
        &[("rni", f64::round_ties_even), ("rzi", f64::trunc), ("rmi", f64::floor), ("rpi", f64::ceil)];
    for (mode, round) in modes {
        check(&format!("cvt.{mode}.s32.f32 %d, %x0;"), &[F32], B32, |x| round(f(x[0]).into()) as i32 as u64);
        check(&format!("cvt.{mode}.u32.f32 %d, %x0;"), &[F32], B32, |x| round(f(x[0]).into()) as u32 as u64);
        check(&format!("cvt.{mode}.s64.f64 %d, %x0;"), &[F64], B64, |x| round(f64::from_bits(x[0])) as i64 as u64);
        check(&format!("cvt.{mode}.u64.f32 %d, %x0;"), &[F32], B64, |x| round(f(x[0]).into()) as u64);
        check(&format!("cvt.{mode}.s8.f32 %d, %x0;"), &[F32], B16, |x| round(f(x[0]).into()) as i8 as u8 as u64);
        check(&format!("cvt.{mode}.s32.f16 %d, %x0;"), &[B16], B32, |x| {
            round(f16::from_bits(x[0] as u16).to_f64()) as i32 as u64
        });
        check(&format!("cvt.{mode}.f32.f32 %d, %x0;"), &[F32], F32, |x| bits(round(f(x[0]).into()) as f32));
    }
}

#[test]
fn floats_match_the_half_crate_between_widths() {
    let h = |x: f16| if x.is_nan() { 0x7fffu64 } else { x.to_bits().into() };
    let b = |x: bf16| if x.is_nan() { 0x7fffu64 } else { x.to_bits().into() };
    check("cvt.f32.f16 %d, %x0;", &[B16], F32, |x| bits(f16::from_bits(x[0] as u16).to_f32()));
    check("cvt.f32.bf16 %d, %x0;", &[B16], F32, |x| bits(bf16::from_bits(x[0] as u16).to_f32()));
    check("cvt.rn.f16.f32 %d, %x0;", &[F32], B16, |x| h(f16::from_f32(f(x[0]))));
    check("cvt.rn.bf16.f32 %d, %x0;", &[F32], B16, |x| b(bf16::from_f32(f(x[0]))));
    check("cvt.rn.f16x2.f32 %d, %x0, %x1;", &[F32; 2], B32, |x| {
        h(f16::from_f32(f(x[0]))) << 16 | h(f16::from_f32(f(x[1])))
    });
    check("cvt.rn.bf16x2.f32 %d, %x0, %x1;", &[F32; 2], B32, |x| {
        b(bf16::from_f32(f(x[0]))) << 16 | b(bf16::from_f32(f(x[1])))
    });
    check("cvt.rn.relu.f16.f32 %d, %x0;", &[F32], B16, |x| h(f16::from_f32(if f(x[0]) < 0.0 { 0.0 } else { f(x[0]) })));
    check("cvt.rz.f16.f32 %d, %x0;", &[F32], B16, |x| {
        let v = f(x[0]);
        let near = f16::from_f32(v);
        if v.is_nan() {
            return 0x7fff;
        }
        if v.is_infinite() {
            return h(near);
        }
        let magnitude = near.to_bits() & 0x7fff;
        let too_large = near.to_f64().abs() > f64::from(v).abs();
        u64::from(near.to_bits() & 0x8000 | if too_large { magnitude - 1 } else { magnitude })
    });
    check("cvt.rn.f32.f64 %d, %x0;", &[F64], F32, |x| bits(f64::from_bits(x[0]) as f32));
    check("cvt.rz.f32.f64 %d, %x0;", &[F64], F32, |x| {
        let v = f64::from_bits(x[0]);
        let near = v as f32;
        if near.is_nan() || v.is_infinite() {
            return bits(near);
        }
        bits(if f64::from(near).abs() > v.abs() { f32::from_bits(near.to_bits() - 1) } else { near })
    });
    check("cvt.f64.f32 %d, %x0;", &[F32], F64, |x| f64::from(f(x[0])).to_bits());
    check("cvt.sat.f32.f32 %d, %x0;", &[F32], F32, |x| bits(if f(x[0]) > 0.0 { f(x[0]).min(1.0) } else { 0.0 }));
    check("cvt.ftz.f32.f32 %d, %x0;", &[F32], F32, |x| {
        bits(if f(x[0]).is_subnormal() { 0f32.copysign(f(x[0])) } else { f(x[0]) })
    });
    check("cvt.rna.tf32.f32 %d, %x0;", &[F32], B32, |x| {
        let v = f(x[0]);
        if v.is_nan() { 0x7fff_ffff } else { u64::from((x[0] as u32).wrapping_add(0x1000) & 0xffff_e000) }
    });
}

/// All values of a small format, by its definition.
fn small(fraction: i32, bias: i32) -> Vec<f64> {
    (0..128)
        .map(|bits: i32| {
            let (e, m) = (bits >> fraction, f64::from(bits & ((1 << fraction) - 1)));
            let one = f64::from(1 << fraction);
            if e == 0 { m / one * 2f64.powi(1 - bias) } else { (1.0 + m / one) * 2f64.powi(e - bias) }
        })
        .collect()
}

#[test]
fn small_formats_match_the_nearest_of_their_table() {
    for (name, table, finite) in [("e4m3x2", small(3, 7), 127usize), ("e5m2x2", small(2, 15), 124)] {
        let tuples = device::operands(&[F32; 2], 2000);
        let near: Vec<Vec<u64>> = (0..4000u64)
            .map(|i| vec![((i as f32 - 2000.0) * 0.37).to_bits().into(), ((i as f32) * 0.0007).to_bits().into()])
            .collect();
        let tuples = [tuples, near].concat();
        let results = evaluate(
            &format!("{{ .reg .b16 %h; cvt.rn.satfinite.{name}.f32 %h, %x0, %x1; cvt.u32.u16 %d, %h; }}"),
            &[F32; 2],
            B32,
            &tuples,
        );
        for (x, r) in tuples.iter().zip(results) {
            for (value, got) in [(f(x[0]), r >> 8 & 0xff), (f(x[1]), r & 0xff)] {
                if value.is_nan() {
                    assert_eq!(got & 0x7f, 0x7f, "{name} of NaN");
                    continue;
                }
                let v = f64::from(value).abs().min(table[finite - 1]);
                let best = (0..finite).min_by(|&p, &q| {
                    let (a, b) = ((table[p] - v).abs(), (table[q] - v).abs());
                    a.total_cmp(&b).then((p & 1).cmp(&(q & 1)))
                });
                let sign = u64::from(value.is_sign_negative()) << 7;
                assert_eq!(Some((got ^ sign) as usize), best, "{name} of {value}");
            }
        }
        let all: Vec<Vec<u64>> = (0..256u64).map(|b| vec![b << 8 | b]).collect();
        let wide = evaluate(&format!("cvt.rn.f16x2.{name} %d, %x0;"), &[B16], B32, &all);
        for (x, r) in all.iter().zip(wide) {
            let index = (x[0] & 0x7f) as usize;
            if index < finite {
                let value = if x[0] & 0x80 != 0 { -table[index] } else { table[index] };
                assert_eq!(f16::from_bits(r as u16), f16::from_f64(value));
                assert_eq!(r >> 16, r & 0xffff);
            }
        }
    }
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
