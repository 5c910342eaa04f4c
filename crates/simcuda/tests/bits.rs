//! Bit instructions against the loops that define them.

mod device;
use device::Kind::{B32, B64, Pred};
use device::check;

/// The definition of `bfe` as the manual's loop over bits.
fn bfe(a: u64, at: u64, len: u64, bits: u64, signed: bool) -> u64 {
    let (at, len) = (at & 0xff, len & 0xff);
    let sign = if !signed || len == 0 { 0 } else { a >> (at + len - 1).min(bits - 1) & 1 };
    (0..bits)
        .map(|i| if i < len && at + i < bits { a >> (at + i) & 1 } else { sign })
        .enumerate()
        .fold(0, |d, (i, b)| d | b << i)
}

fn bfi(a: u64, b: u64, at: u64, len: u64, bits: u64) -> u64 {
    let (at, len) = (at & 0xff, len & 0xff);
    (0..len).filter(|i| at + i < bits).fold(b, |d, i| d & !(1 << (at + i)) | (a >> i & 1) << (at + i))
}

#[test]
fn fields_match_the_manual_for_every_position() {
    check("bfe.u32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| bfe(x[0], x[1], x[2], 32, false));
    check("bfe.s32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| bfe(x[0], x[1], x[2], 32, true));
    check("bfe.u64 %d, %x0, %x1, %x2;", &[B64, B32, B32], B64, |x| bfe(x[0], x[1], x[2], 64, false));
    check("bfe.s64 %d, %x0, %x1, %x2;", &[B64, B32, B32], B64, |x| bfe(x[0], x[1], x[2], 64, true));
    check("bfi.b32 %d, %x0, %x1, %x2, %x3;", &[B32; 4], B32, |x| bfi(x[0], x[1], x[2], x[3], 32));
    check("bfi.b64 %d, %x0, %x1, %x2, %x3;", &[B64, B64, B32, B32], B64, |x| bfi(x[0], x[1], x[2], x[3], 64));
    // Small amounts, which random words almost never give.
    check(
        "{ .reg .b32 %p, %l; and.b32 %p, %x1, 63; and.b32 %l, %x2, 63; bfe.s32 %d, %x0, %p, %l; }",
        &[B32; 3],
        B32,
        |x| bfe(x[0], x[1] & 63, x[2] & 63, 32, true),
    );
    check(
        "{ .reg .b32 %p, %l; and.b32 %p, %x2, 63; and.b32 %l, %x3, 63; bfi.b32 %d, %x0, %x1, %p, %l; }",
        &[B32; 4],
        B32,
        |x| bfi(x[0], x[1], x[2] & 63, x[3] & 63, 32),
    );
}

#[test]
fn shifts_match_rust_beyond_the_width() {
    check("shl.b32 %d, %x0, %x1;", &[B32; 2], B32, |x| if x[1] > 31 { 0 } else { x[0] << x[1] });
    check("shr.u32 %d, %x0, %x1;", &[B32; 2], B32, |x| if x[1] > 31 { 0 } else { x[0] >> x[1] });
    check("shr.s32 %d, %x0, %x1;", &[B32; 2], B32, |x| (x[0] as i32 >> x[1].min(31)) as u64);
    check("shl.b64 %d, %x0, %x1;", &[B64, B32], B64, |x| if x[1] > 63 { 0 } else { x[0] << x[1] });
    check("shr.s64 %d, %x0, %x1;", &[B64, B32], B64, |x| (x[0] as i64 >> x[1].min(63)) as u64);
    let pair = |x: &[u64]| x[1] << 32 | x[0];
    check("shf.l.clamp.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| pair(x) << x[2].min(32) >> 32);
    check("shf.l.wrap.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| pair(x) << (x[2] & 31) >> 32);
    check("shf.r.clamp.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| pair(x) >> x[2].min(32));
    check("shf.r.wrap.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| pair(x) >> (x[2] & 31));
}

#[test]
fn counts_match_rust() {
    check("popc.b32 %d, %x0;", &[B32], B32, |x| x[0].count_ones().into());
    check("popc.b64 %d, %x0;", &[B64], B32, |x| x[0].count_ones().into());
    check("clz.b32 %d, %x0;", &[B32], B32, |x| (x[0] as u32).leading_zeros().into());
    check("clz.b64 %d, %x0;", &[B64], B32, |x| x[0].leading_zeros().into());
    check("brev.b32 %d, %x0;", &[B32], B32, |x| (x[0] as u32).reverse_bits().into());
    check("brev.b64 %d, %x0;", &[B64], B64, |x| x[0].reverse_bits());
    let highest = |x: u64| (0..64).rev().find(|i| x >> i & 1 == 1).map_or(u64::MAX, |i| i);
    check("bfind.u32 %d, %x0;", &[B32], B32, |x| highest(x[0]));
    check("bfind.u64 %d, %x0;", &[B64], B32, |x| highest(x[0]));
    check("bfind.s32 %d, %x0;", &[B32], B32, |x| {
        let v = x[0] as u32;
        highest(u64::from(if v as i32 <= -1 { !v } else { v }))
    });
    check("bfind.shiftamt.u32 %d, %x0;", &[B32], B32, |x| if x[0] == 0 { u64::MAX } else { 31 - highest(x[0]) });
    check("bfind.shiftamt.s64 %d, %x0;", &[B64], B32, |x| {
        let v = if (x[0] as i64) < 0 { !x[0] } else { x[0] };
        if v == 0 { u64::MAX } else { 63 - highest(v) }
    });
}

#[test]
fn lop3_matches_its_table_for_all_256() {
    for table in 0..256u64 {
        check(&format!("lop3.b32 %d, %x0, %x1, %x2, {table};"), &[B32; 3], B32, |x| {
            (0..32).fold(0, |d, i| {
                let row = (x[0] >> i & 1) << 2 | (x[1] >> i & 1) << 1 | x[2] >> i & 1;
                d | (table >> row & 1) << i
            })
        });
    }
    check(
        "{ .reg .pred %u; .reg .b32 %v; setp.ne.u32 %u, %x2, 0; lop3.or.b32 %v|%d, %x0, %x1, 0, 0xc0, %u; }",
        &[B32; 3],
        Pred,
        |x| u64::from(x[0] & x[1] != 0 || x[2] != 0),
    );
}

#[test]
fn prmt_matches_the_manual_in_every_mode() {
    let byte = |x: &[u64], n: u64| (x[1] << 32 | x[0]) >> (8 * n) & 0xff;
    let join = |bytes: [u64; 4]| bytes.iter().enumerate().fold(0, |d, (i, b)| d | b << (8 * i));
    check("prmt.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        join([0, 1, 2, 3].map(|i| {
            let select = x[2] >> (4 * i) & 15;
            let value = byte(x, select & 7);
            if select & 8 == 0 {
                value
            } else if value & 0x80 != 0 {
                0xff
            } else {
                0
            }
        }))
    });
    for selector in [0x5140u64, 0x7531, 0x3210, 0x4321, 0x7070] {
        check(&format!("prmt.b32 %d, %x0, %x1, {selector};"), &[B32; 2], B32, |x| {
            join([0, 1, 2, 3].map(|i| byte(x, selector >> (4 * i) & 7)))
        });
    }
    check("prmt.b32.f4e %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| join([0, 1, 2, 3].map(|i| byte(x, (x[2] & 3) + i))));
    check("prmt.b32.b4e %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        join([0, 1, 2, 3].map(|i| byte(x, (8 + (x[2] & 3) - i) & 7)))
    });
    check("prmt.b32.rc8 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| join([byte(x, x[2] & 3); 4]));
    check("prmt.b32.ecl %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        join([0, 1, 2, 3].map(|i| byte(x, (x[2] & 3).max(i))))
    });
    check("prmt.b32.ecr %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        join([0, 1, 2, 3].map(|i| byte(x, (x[2] & 3).min(i))))
    });
    check("prmt.b32.rc16 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        let low = 2 * (x[2] & 1);
        join([byte(x, low), byte(x, low + 1), byte(x, low), byte(x, low + 1)])
    });
}

#[test]
fn masks_and_extensions_match_the_manual() {
    let mask = |from: u64, len: u64| (from..(from + len).min(32)).fold(0u64, |d, i| d | 1 << i);
    check("bmsk.clamp.b32 %d, %x0, %x1;", &[B32; 2], B32, |x| if x[0] >= 32 { 0 } else { mask(x[0], x[1].min(32)) });
    check("bmsk.wrap.b32 %d, %x0, %x1;", &[B32; 2], B32, |x| mask(x[0] & 31, x[1] & 31));
    check(
        "szext.clamp.u32 %d, %x0, %x1;",
        &[B32; 2],
        B32,
        |x| if x[1] >= 32 { x[0] } else { x[0] & ((1 << x[1]) - 1) },
    );
    check("szext.wrap.s32 %d, %x0, %x1;", &[B32; 2], B32, |x| {
        let n = x[1] & 31;
        let low = x[0] & ((1 << n) - 1);
        if n > 0 && low >> (n - 1) & 1 == 1 { low | !0 << n } else { low }
    });
    check("fns.b32 %d, %x0, %x1, %x2;", &[B32; 3], B32, |x| {
        let (mask, base, offset) = (x[0], (x[1] & 31) as i64, x[2] as u32 as i32);
        if offset == 0 {
            return if mask >> base & 1 == 1 { base as u64 } else { u64::MAX };
        }
        let set = |i: &i64| mask >> i & 1 == 1;
        let nth = offset.unsigned_abs() as usize - 1;
        let found = if offset > 0 { (base..32).filter(set).nth(nth) } else { (0..=base).rev().filter(set).nth(nth) };
        found.map_or(u64::MAX, |i| i as u64)
    });
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}
