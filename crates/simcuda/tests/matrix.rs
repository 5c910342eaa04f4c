//! Matrix instructions: fragments filled by the manual's maps, against a plain matrix product.

mod device;
use device::{Device, Random, ptx, shape};
use half::{bf16, f16};

/// A fragment's map: (lane, register, element of the register) to (row, column), as in the tables of the PTX manual.
type Map = fn(usize, usize, usize) -> (usize, usize);

/// A element k of 8 bits: registers alternate rows g and g + 8, then the second half of k.
fn a8(lane: usize, reg: usize, byte: usize) -> (usize, usize) {
    (lane / 4 + 8 * (reg % 2), (lane % 4) * 4 + byte + 16 * (reg / 2))
}

fn b8(lane: usize, reg: usize, byte: usize) -> (usize, usize) {
    ((lane % 4) * 4 + byte + 16 * reg, lane / 4)
}

fn a16(lane: usize, reg: usize, half: usize) -> (usize, usize) {
    (lane / 4 + 8 * (reg % 2), (lane % 4) * 2 + half + 8 * (reg / 2))
}

fn b16(lane: usize, reg: usize, half: usize) -> (usize, usize) {
    ((lane % 4) * 2 + half + 8 * reg, lane / 4)
}

fn a4(lane: usize, reg: usize, nibble: usize) -> (usize, usize) {
    (lane / 4 + 8 * (reg % 2), (lane % 4) * 8 + nibble + 32 * (reg / 2))
}

fn b4(lane: usize, reg: usize, nibble: usize) -> (usize, usize) {
    ((lane % 4) * 8 + nibble + 32 * reg, lane / 4)
}

fn a32(lane: usize, reg: usize, _: usize) -> (usize, usize) {
    (lane / 4 + 8 * (reg % 2), lane % 4 + 4 * (reg / 2))
}

fn b32(lane: usize, reg: usize, _: usize) -> (usize, usize) {
    (lane % 4 + 4 * reg, lane / 4)
}

fn c32(lane: usize, reg: usize, _: usize) -> (usize, usize) {
    (lane / 4 + 8 * (reg / 2), (lane % 4) * 2 + reg % 2)
}

fn c16(lane: usize, reg: usize, half: usize) -> (usize, usize) {
    (lane / 4 + 8 * reg, (lane % 4) * 2 + half)
}

/// Packs a matrix of raw elements into fragment registers: [register][lane].
fn pack(matrix: &dyn Fn(usize, usize) -> u32, map: Map, regs: usize, bits: u32) -> Vec<u32> {
    let mut out = Vec::new();
    for reg in 0..regs {
        for lane in 0..32 {
            let elements = 0..(32 / bits) as usize;
            out.push(elements.fold(0, |word, e| {
                let (row, column) = map(lane, reg, e);
                word | (matrix(row, column) & (u32::MAX >> (32 - bits))) << (e as u32 * bits)
            }));
        }
    }
    out
}

/// Runs one `mma` on packed fragments.
fn mma(opcode: &str, a: &[u32], b: &[u32], c: &[u32]) -> Vec<u32> {
    mma_on(&Device::new(), opcode, a, b, c)
}

fn mma_on(device: &Device, opcode: &str, a: &[u32], b: &[u32], c: &[u32]) -> Vec<u32> {
    let names = |letter: char, n: usize| (0..n).map(|i| format!("%{letter}{i}")).collect::<Vec<_>>().join(", ");
    let (na, nb, nc) = (a.len() / 32, b.len() / 32, c.len() / 32);
    let mut loads = String::new();
    for (letter, count, first) in [('a', na, 0), ('b', nb, na), ('c', nc, na + nb)] {
        for i in 0..count {
            loads += &format!("ld.global.b32 %{letter}{i}, [%in+{}];\n", 128 * (first + i));
        }
    }
    let stores: String = (0..nc).map(|i| format!("st.global.b32 [%out+{}], %d{i};\n", 128 * i)).collect();
    let text = ptx(&format!(
        ".entry k(.param .u64 i, .param .u64 o) {{ .reg .b32 %a<4>, %b<4>, %c<4>, %d<4>, %t; .reg .b64 %in, %out, %x;
         ld.param.u64 %in, [i]; ld.param.u64 %out, [o]; mov.u32 %t, %tid.x; mul.wide.u32 %x, %t, 4;
         add.s64 %in, %in, %x; add.s64 %out, %out, %x; {loads}
         {opcode} {{{}}}, {{{}}}, {{{}}}, {{{}}}; {stores} ret; }}",
        names('d', nc),
        names('a', na),
        names('b', nb),
        names('c', nc)
    ));
    let input = device.words(&[a, b, c].concat());
    let output = device.words(&vec![0; 32 * nc]);
    device.run(&device.kernel(&text), &shape(1, 32), &[input, output]).unwrap_or_else(|f| panic!("{f}"));
    device.read_words(output, 32 * nc)
}

/// Extends a raw integer element.
fn extend(raw: u32, bits: u32, signed: bool) -> i64 {
    let raw = raw & ((1 << bits) - 1);
    if signed && raw >> (bits - 1) == 1 { i64::from(raw) - (1 << bits) } else { raw.into() }
}

fn random_matrix(seed: u64, rows: usize, columns: usize) -> Vec<Vec<u32>> {
    let mut random = Random(seed);
    (0..rows).map(|_| (0..columns).map(|_| random.next() as u32).collect()).collect()
}

#[test]
fn integer_mma_matches_a_plain_product_for_every_type() {
    let cases: &[(usize, u32, Map, Map)] = &[(16, 8, a8, b8), (32, 8, a8, b8), (32, 4, a4, b4), (64, 4, a4, b4)];
    for &(k, bits, map_a, map_b) in cases {
        for (sa, sb) in [(true, true), (true, false), (false, true), (false, false)] {
            for extreme in [false, true] {
                let (mut a, mut b) = (random_matrix(1, 16, k), random_matrix(2, k, 8));
                if extreme {
                    // The products of largest magnitude.
                    let low = 1u32 << (bits - 1);
                    a.iter_mut().flatten().for_each(|x| *x = if sa { low } else { u32::MAX });
                    b.iter_mut().flatten().for_each(|x| *x = if sb { low } else { u32::MAX });
                }
                let c = random_matrix(3, 16, 8);
                let name = |signed: bool| format!("{}{bits}", if signed { 's' } else { 'u' });
                let opcode = format!("mma.sync.aligned.m16n8k{k}.row.col.s32.{}.{}.s32", name(sa), name(sb));
                let words = k * bits as usize / 32;
                let result = mma(
                    &opcode,
                    &pack(&|m, k| a[m][k], map_a, words / 2, bits),
                    &pack(&|k, n| b[k][n], map_b, words / 4, bits),
                    &pack(&|m, n| c[m][n], c32, 4, 32),
                );
                let product = |m: usize, n: usize| {
                    let dot: i64 = (0..k).map(|k| extend(a[m][k], bits, sa) * extend(b[k][n], bits, sb)).sum();
                    dot.wrapping_add(i64::from(c[m][n] as i32)) as u32
                };
                assert_eq!(result, pack(&product, c32, 4, 32), "{opcode}");
            }
        }
    }
}

#[test]
fn saturating_mma_clamps_the_sum() {
    let ones = vec![0x7f7f_7f7f; 128];
    let opcode = "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32";
    let result = mma(opcode, &ones, &ones[..64], &[i32::MAX as u32 - 5; 128]);
    assert_eq!(result, vec![i32::MAX as u32; 128]);
}

#[test]
fn saturating_mma_matches_the_clamped_sum_at_both_bounds() {
    let (a, b, near) = (random_matrix(4, 16, 32), random_matrix(5, 32, 8), random_matrix(6, 16, 8));
    // Up to 2¹⁵ from a bound, about what the products sum to, or far from both.
    let c = |m: usize, n: usize| {
        let distance = (near[m][n] >> 17) as i32;
        [i32::MAX - distance, i32::MIN + distance, distance][(m + n) % 3]
    };
    for (sa, sb) in [(true, true), (true, false), (false, true), (false, false)] {
        let name = |signed: bool| if signed { "s8" } else { "u8" };
        let opcode = format!("mma.sync.aligned.m16n8k32.row.col.satfinite.s32.{}.{}.s32", name(sa), name(sb));
        let result = mma(
            &opcode,
            &pack(&|m, k| a[m][k], a8, 4, 8),
            &pack(&|k, n| b[k][n], b8, 2, 8),
            &pack(&|m, n| c(m, n) as u32, c32, 4, 32),
        );
        let product = |m: usize, n: usize| {
            let dot: i64 = (0..32).map(|k| extend(a[m][k], 8, sa) * extend(b[k][n], 8, sb)).sum();
            (dot + i64::from(c(m, n))).clamp(i32::MIN.into(), i32::MAX.into()) as i32 as u32
        };
        assert_eq!(result, pack(&product, c32, 4, 32), "{opcode}");
    }
}

#[test]
fn integer_mma_of_eight_rows_matches_a_plain_product_saturated_and_wrapped() {
    let cases: [(usize, u32, Map, Map); 2] = [(16, 8, a8, b8), (32, 4, a4, b4)];
    for (k, bits, map_a, map_b) in cases {
        for (sa, sb, saturate) in [(true, true, true), (true, false, false), (false, true, true), (false, false, false)]
        {
            let (a, b, c) = (random_matrix(21, 8, k), random_matrix(22, k, 8), random_matrix(23, 8, 8));
            let near =
                |m: usize, n: usize| if (m + n) % 2 == 0 { i32::MAX - (c[m][n] >> 24) as i32 } else { c[m][n] as i32 };
            let name = |signed: bool| format!("{}{bits}", if signed { 's' } else { 'u' });
            let satfinite = if saturate { ".satfinite" } else { "" };
            let opcode = format!("mma.sync.aligned.m8n8k{k}.row.col{satfinite}.s32.{}.{}.s32", name(sa), name(sb));
            let result = mma(
                &opcode,
                &pack(&|m, k| a[m][k], map_a, 1, bits),
                &pack(&|k, n| b[k][n], map_b, 1, bits),
                &pack(&|m, n| near(m, n) as u32, c32, 2, 32),
            );
            let product = |m: usize, n: usize| {
                let dot: i64 = (0..k).map(|k| extend(a[m][k], bits, sa) * extend(b[k][n], bits, sb)).sum();
                let sum = dot + i64::from(near(m, n));
                if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
            };
            assert_eq!(result, pack(&product, c32, 2, 32), "{opcode}");
        }
    }
}

/// The value of eight bits, from the definition of the format: a sign, an exponent with its bias, a fraction.
fn eight_bit_float(bits: u32, fraction_bits: u32, bias: i32) -> f32 {
    let (exponent, fraction) = (bits >> fraction_bits & (0x7f >> fraction_bits), bits & ((1 << fraction_bits) - 1));
    let part = fraction as f32 / (1 << fraction_bits) as f32;
    let magnitude = match exponent {
        0 => part * 2f32.powi(1 - bias),
        e => (1.0 + part) * 2f32.powi(e as i32 - bias),
    };
    if bits >> 7 & 1 == 1 { -magnitude } else { magnitude }
}

#[test]
fn fp8_mma_matches_a_plain_product_exactly_for_small_values() {
    // Exponents around that of 1 with few bits of fraction, so that every sum is exact.
    let values = |seed: u64, rows: usize, columns: usize, fraction: u32, bias: u32| -> Vec<Vec<u32>> {
        let raw = |x: u32| (x & 1) << 7 | (bias + (x >> 1) % 3) << fraction | (x >> 8) & ((1 << fraction) - 1);
        random_matrix(seed, rows, columns).iter().map(|r| r.iter().map(|&x| raw(x)).collect()).collect()
    };
    let formats = [("e4m3", 3u32, 7u32), ("e5m2", 2, 15)];
    for (name_a, fraction_a, bias_a) in formats {
        for (name_b, fraction_b, bias_b) in formats {
            for (k, kind) in [(32, ""), (16, ""), (32, ".kind::f8f6f4")] {
                let (a, b) = (values(31, 16, k, fraction_a, bias_a), values(32, k, 8, fraction_b, bias_b));
                let c = small(33, 16, 8);
                let words = k / 4;
                let result = mma(
                    &format!("mma.sync.aligned.m16n8k{k}.row.col{kind}.f32.{name_a}.{name_b}.f32"),
                    &pack(&|m, k| a[m][k], a8, words / 2, 8),
                    &pack(&|k, n| b[k][n], b8, words / 4, 8),
                    &pack(&|m, n| c[m][n].to_bits(), c32, 4, 32),
                );
                let x = |bits| eight_bit_float(bits, fraction_a, bias_a as i32);
                let y = |bits| eight_bit_float(bits, fraction_b, bias_b as i32);
                let product =
                    |m: usize, n: usize| ((0..k).map(|k| x(a[m][k]) * y(b[k][n])).sum::<f32>() + c[m][n]).to_bits();
                assert_eq!(result, pack(&product, c32, 4, 32), "{name_a} {name_b} k{k}");
            }
        }
    }
}

/// One `wmma` product: loads A, B and C with these layouts and strides, multiplies, stores D by columns or rows.
struct WarpProduct<'a> {
    shape: [usize; 3],
    /// Types of D, A, B and C, and their registers.
    types: [&'a str; 4],
    registers: [usize; 4],
    mma: &'a str,
    layouts: [&'a str; 4],
    space: &'a str,
}

impl WarpProduct<'_> {
    /// Runs it on matrices laid out in memory, with `stride` elements from one row or column to the next.
    fn run(&self, memory: [&[u8]; 3], out_bytes: usize, stride: usize) -> Vec<u8> {
        let [m, n, k] = self.shape;
        let names = |letter: char, n: usize| {
            format!("{{{}}}", (0..n).map(|i| format!("%{letter}{i}")).collect::<Vec<_>>().join(", "))
        };
        let fragments = ['d', 'a', 'b', 'c'].map(|letter| {
            names(
                letter,
                self.registers[match letter {
                    'd' => 0,
                    'a' => 1,
                    'b' => 2,
                    _ => 3,
                }],
            )
        });
        let shape_name = format!("m{m}n{n}k{k}");
        let space = self.space;
        let mut body = String::new();
        for (at, letter) in [(1, 'a'), (2, 'b'), (3, 'c')] {
            let (layout, ty) = (self.layouts[at], self.types[at]);
            body += &format!(
                "wmma.load.{letter}.sync.aligned.{layout}.{shape_name}{space}.{ty} {}, [%p{letter}], {stride};\n",
                fragments[at]
            );
        }
        let [d, a, b, c] = &fragments;
        let (layout, ty) = (self.layouts[0], self.types[0]);
        let text = ptx(&format!(
            ".entry k(.param .u64 pa, .param .u64 pb, .param .u64 pc, .param .u64 pd) {{
             .reg .b32 %a<8>, %b<8>, %c<8>, %d<8>; .reg .b64 %pa, %pb, %pc, %pd;
             ld.param.u64 %pa, [pa]; ld.param.u64 %pb, [pb]; ld.param.u64 %pc, [pc]; ld.param.u64 %pd, [pd];
             {body} wmma.mma.sync.aligned.{}.{}.{shape_name}.{} {d}, {a}, {b}, {c};
             wmma.store.d.sync.aligned.{layout}.{shape_name}{space}.{ty} [%pd], {d}, {stride}; ret; }}",
            self.layouts[1], self.layouts[2], self.mma
        ));
        let device = Device::new();
        let [a, b, c] = memory.map(|bytes| device.upload(bytes));
        let out = device.upload(&vec![0; out_bytes]);
        device.run(&device.kernel(&text), &shape(1, 32), &[a, b, c, out]).unwrap_or_else(|f| panic!("{f}"));
        device.download(out, out_bytes)
    }
}

/// Bytes of a matrix of `bits`-bit elements, by rows or columns that lie `stride` elements apart.
fn laid_out(
    rows: usize,
    columns: usize,
    layout: &str,
    stride: usize,
    bits: usize,
    at: &dyn Fn(usize, usize) -> u32,
) -> Vec<u8> {
    let lines = if layout == "row" { rows } else { columns };
    let mut bytes = vec![0; lines * stride * bits / 8];
    for (row, column) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
        let element = if layout == "row" { row * stride + column } else { column * stride + row };
        if bits == 4 {
            bytes[element / 2] |= ((at(row, column) & 15) << (4 * (element % 2))) as u8;
        } else {
            let value = at(row, column).to_le_bytes();
            bytes[element * bits / 8..(element + 1) * bits / 8].copy_from_slice(&value[..bits / 8]);
        }
    }
    bytes
}

#[test]
fn wmma_of_floats_matches_a_plain_product_in_every_shape_and_layout() {
    let f16_bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let bf16_bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    type Bits<'a> = &'a dyn Fn(f32) -> u32;
    // Type, bits, encoding, registers of A and B, accumulators.
    let square: ([usize; 3], [usize; 2]) = ([16, 16, 16], [4, 4]);
    let cases: &[([usize; 3], &str, usize, Bits<'_>, [usize; 2], &str)] = &[
        ([16, 16, 16], "f16", 16, &f16_bits, [8, 8], "f32"),
        ([32, 8, 16], "f16", 16, &f16_bits, [8, 8], "f16"),
        ([8, 32, 16], "f16", 16, &f16_bits, [8, 8], "f32"),
        (square.0, "bf16", 16, &bf16_bits, square.1, "f32"),
        ([8, 32, 16], "bf16", 16, &bf16_bits, [2, 8], "f32"),
        ([16, 16, 8], "tf32", 32, &|x: f32| x.to_bits(), [4, 4], "f32"),
    ];
    for (index, &([m, n, k], ty, bits, encode, [ra, rb], acc)) in cases.iter().enumerate() {
        for (la, lb, lc, space) in
            [("row", "col", "row", ".global"), ("col", "row", "col", ""), ("row", "row", "row", "")]
        {
            let (a, b, c) = (small(41, m, k), small(42, k, n), small(43, m, n));
            let stride = 40 + 8 * index;
            let (out, width): (Bits<'_>, usize) =
                if acc == "f16" { (&f16_bits, 16) } else { (&|x: f32| x.to_bits(), 32) };
            let (mma, rc) = match ty {
                "f16" => (format!("{acc}.{acc}"), m * n * width / 1024),
                _ => (format!("f32.{ty}.{ty}.f32"), 8),
            };
            let product = WarpProduct {
                shape: [m, n, k],
                types: [acc, ty, ty, acc],
                registers: [rc, ra, rb, rc],
                mma: &mma,
                layouts: [lc, la, lb, lc],
                space,
            };
            let expected = |r: usize, s: usize| out((0..k).map(|k| a[r][k] * b[k][s]).sum::<f32>() + c[r][s]);
            let expected = laid_out(m, n, lc, stride, width, &expected);
            let result = product.run(
                [
                    &laid_out(m, k, la, stride, bits, &|r, s| encode(a[r][s])),
                    &laid_out(k, n, lb, stride, bits, &|r, s| encode(b[r][s])),
                    &laid_out(m, n, lc, stride, width, &|r, s| out(c[r][s])),
                ],
                expected.len(),
                stride,
            );
            assert_eq!(result, expected, "{m} {n} {k} {ty} {la} {lb} {acc}");
        }
    }
}

#[test]
fn wmma_of_integers_matches_a_plain_product_in_every_shape() {
    let cases: [([usize; 3], usize, [usize; 2]); 4] =
        [([16, 16, 16], 8, [2, 2]), ([32, 8, 16], 8, [4, 1]), ([8, 32, 16], 8, [1, 4]), ([8, 8, 32], 4, [1, 1])];
    for ([m, n, k], bits, [ra, rb]) in cases {
        for (signed, saturate) in [(true, true), (false, false)] {
            let (a, b, c) = (random_matrix(51, m, k), random_matrix(52, k, n), random_matrix(53, m, n));
            let ty = format!("{}{bits}", if signed { 's' } else { 'u' });
            let satfinite = if saturate { ".satfinite" } else { "" };
            let mma = format!("s32.{ty}.{ty}.s32{satfinite}");
            let (stride, registers) = (64, m * n / 32);
            let product = WarpProduct {
                shape: [m, n, k],
                types: ["s32", &ty, &ty, "s32"],
                registers: [registers, ra, rb, registers],
                mma: &mma,
                layouts: ["row", "row", "col", "row"],
                space: ".global",
            };
            let c = |r: usize, s: usize| if (r + s) % 2 == 0 { i32::MAX as u32 - (c[r][s] >> 24) } else { c[r][s] };
            let expected = |r: usize, s: usize| {
                let x = |raw| extend(raw, bits as u32, signed);
                let sum: i64 = (0..k).map(|k| x(a[r][k]) * x(b[k][s])).sum::<i64>() + i64::from(c(r, s) as i32);
                if saturate { sum.clamp(i32::MIN.into(), i32::MAX.into()) as u32 } else { sum as u32 }
            };
            let expected = laid_out(m, n, "row", stride, 32, &expected);
            let result = product.run(
                [
                    &laid_out(m, k, "row", stride, bits, &|r, s| a[r][s]),
                    &laid_out(k, n, "col", stride, bits, &|r, s| b[r][s]),
                    &laid_out(m, n, "row", stride, 32, &c),
                ],
                expected.len(),
                stride,
            );
            assert_eq!(result, expected, "{m} {n} {k} {ty}");
        }
    }
}

/// Small integers are exact in every format, so that any order of additions gives the same sum.
fn small(seed: u64, rows: usize, columns: usize) -> Vec<Vec<f32>> {
    random_matrix(seed, rows, columns)
        .iter()
        .map(|r| r.iter().map(|&x| (x % 33) as f32 / 4.0 - 4.0).collect())
        .collect()
}

#[test]
fn float_mma_matches_a_plain_product_exactly_for_small_values() {
    let f16_bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let bf16_bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    type Bits<'a> = &'a dyn Fn(f32) -> u32;
    let cases: &[(usize, &str, u32, Bits<'_>, Map, Map, bool)] = &[
        (16, "f16", 16, &f16_bits, a16, b16, false),
        (8, "f16", 16, &f16_bits, a16, b16, false),
        (16, "f16", 16, &f16_bits, a16, b16, true),
        (16, "bf16", 16, &bf16_bits, a16, b16, false),
        (8, "bf16", 16, &bf16_bits, a16, b16, false),
        (8, "tf32", 32, &|x: f32| x.to_bits(), a32, b32, false),
        (4, "tf32", 32, &|x: f32| x.to_bits(), a32, b32, false),
    ];
    for &(k, ty, bits, encode, map_a, map_b, half) in cases {
        let (a, b, c) = (small(1, 16, k), small(2, k, 8), small(3, 16, 8));
        let acc = if half { "f16" } else { "f32" };
        let opcode = format!("mma.sync.aligned.m16n8k{k}.row.col.{acc}.{ty}.{ty}.{acc}");
        let words = k * bits as usize / 32;
        let (map_c, regs, width): (Map, usize, u32) = if half { (c16, 2, 16) } else { (c32, 4, 32) };
        let out = |x: f32| if half { f16_bits(x) } else { x.to_bits() };
        let result = mma(
            &opcode,
            &pack(&|m, k| encode(a[m][k]), map_a, words / 2, bits),
            &pack(&|k, n| encode(b[k][n]), map_b, words / 4, bits),
            &pack(&|m, n| out(c[m][n]), map_c, regs, width),
        );
        let product = |m: usize, n: usize| out((0..k).map(|k| a[m][k] * b[k][n]).sum::<f32>() + c[m][n]);
        assert_eq!(result, pack(&product, map_c, regs, width), "{opcode}");
    }
}

#[test]
fn tf32_mma_matches_the_product_without_the_low_13_bits() {
    let (a, b, c) = (small(7, 16, 8), small(8, 8, 8), small(9, 16, 8));
    let low = random_matrix(10, 16, 8);
    let result = mma(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
        &pack(&|m, k| a[m][k].to_bits() | low[m][k] & 0x1fff, a32, 4, 32),
        &pack(&|k, n| b[k][n].to_bits() | low[n][k] & 0x1fff, b32, 2, 32),
        &pack(&|m, n| c[m][n].to_bits(), c32, 4, 32),
    );
    let product = |m: usize, n: usize| ((0..8).map(|k| a[m][k] * b[k][n]).sum::<f32>() + c[m][n]).to_bits();
    assert_eq!(result, pack(&product, c32, 4, 32));
}

#[test]
fn float_mma_gives_the_canonical_nan_in_the_rows_that_have_one() {
    let (a, b, c) = (small(11, 16, 16), small(12, 16, 8), small(13, 16, 8));
    let f16_bits = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let bf16_bits = |x: f32| u32::from(bf16::from_f32(x).to_bits());
    type Bits<'a> = &'a dyn Fn(f32) -> u32;
    let cases: [(&str, u32, Bits<'_>); 2] = [("f16", 0xfe01, &f16_bits), ("bf16", 0xffc1, &bf16_bits)];
    for (ty, nan, encode) in cases {
        let result = mma(
            &format!("mma.sync.aligned.m16n8k16.row.col.f32.{ty}.{ty}.f32"),
            &pack(&|m, k| if (m, k) == (3, 5) { nan } else { encode(a[m][k]) }, a16, 4, 16),
            &pack(&|k, n| encode(b[k][n]), b16, 2, 16),
            &pack(&|m, n| c[m][n].to_bits(), c32, 4, 32),
        );
        let product = |m: usize, n: usize| match m {
            3 => 0x7fff_ffff,
            _ => ((0..16).map(|k| a[m][k] * b[k][n]).sum::<f32>() + c[m][n]).to_bits(),
        };
        assert_eq!(result, pack(&product, c32, 4, 32), "{ty}");
    }
}

/// Runs a body between loads of `%a<4>` from `in` and stores of `%d<4>` to `out`; `%s` is a shared buffer.
fn shuffle(body: &str, input: &[u32], outputs: usize) -> Vec<u32> {
    let device = Device::new();
    let stores: String = (0..outputs).map(|i| format!("st.global.b32 [%out+{}], %d{i};\n", 128 * i)).collect();
    let text = ptx(&format!(
        ".entry k(.param .u64 i, .param .u64 o) {{ .reg .b32 %a<4>, %d<4>, %t, %s, %r, %x; .reg .b64 %in, %out, %w;
         .shared .align 16 .b8 buf[1024];
         ld.param.u64 %in, [i]; ld.param.u64 %out, [o]; mov.u32 %t, %tid.x; mul.wide.u32 %w, %t, 4;
         add.s64 %in, %in, %w; add.s64 %out, %out, %w; mov.u32 %s, buf;
         ld.global.b32 %a0, [%in]; ld.global.b32 %a1, [%in+128]; ld.global.b32 %a2, [%in+256]; ld.global.b32 %a3, [%in+384];
         {body} {stores} ret; }}"
    ));
    let (input, output) = (device.words(input), device.words(&vec![0; 32 * outputs]));
    device.run(&device.kernel(&text), &shape(1, 32), &[input, output]).unwrap_or_else(|f| panic!("{f}"));
    device.read_words(output, 32 * outputs)
}

/// Lays the input out in shared memory, word by word, then loads matrices whose rows are 16 bytes one behind the other.
const FILL: &str = "mad.lo.u32 %r, %t, 4, %s; st.shared.b32 [%r], %a0; st.shared.b32 [%r+128], %a1;
    st.shared.b32 [%r+256], %a2; st.shared.b32 [%r+384], %a3; bar.warp.sync -1; mad.lo.u32 %r, %t, 16, %s;";

#[test]
fn ldmatrix_matches_its_map_plain_and_transposed() {
    let words: Vec<u32> = random_matrix(4, 1, 128).remove(0);
    let half = |matrix: usize, row: usize, column: usize| {
        words[matrix * 32 + row * 4 + column / 2] >> (16 * (column % 2)) & 0xffff
    };
    let names = ["%d0", "%d1", "%d2", "%d3"];
    for (count, trans) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        let mode = if trans { ".trans" } else { "" };
        let body = format!(
            "{FILL} ldmatrix.sync.aligned.m8n8.x{count}{mode}.shared.b16 {{{}}}, [%r];",
            names[..count].join(", ")
        );
        let result = shuffle(&body, &words, count);
        for matrix in 0..count {
            for lane in 0..32 {
                let (row, column) = (lane / 4, 2 * (lane % 4));
                let at = |c: usize| if trans { half(matrix, c, row) } else { half(matrix, row, c) };
                assert_eq!(result[32 * matrix + lane], at(column) | at(column + 1) << 16, "x{count}{mode} lane {lane}");
            }
        }
    }
}

#[test]
fn ldmatrix_widens_four_bits_to_eight() {
    let words: Vec<u32> = random_matrix(5, 1, 128).remove(0);
    for (types, signed) in [("s8.s4", true), ("b8x16.b4x16_p64", false)] {
        let opcode = if signed {
            format!("ldmatrix.sync.aligned.m8n16.x1.shared.{types}")
        } else {
            "ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64".into()
        };
        let result = shuffle(&format!("{FILL} {opcode} {{%d0}}, [%r];"), &words, 1);
        for lane in 0..32 {
            let (row, part) = (lane / 4, lane % 4);
            let expected = (0..4).fold(0, |word, byte| {
                // Element 4 * part + byte of the row's 16, four bits each in its first 8 bytes.
                let element = 4 * part + byte;
                let nibble = words[row * 4 + element / 8] >> (4 * (element % 8)) & 15;
                let value = if signed && nibble >= 8 { nibble | 0xf0 } else { nibble };
                word | value << (8 * byte)
            });
            assert_eq!(result[lane], expected, "{types} lane {lane}");
        }
    }
}

#[test]
fn stmatrix_and_movmatrix_match_ldmatrix() {
    let words: Vec<u32> = random_matrix(6, 1, 128).remove(0);
    let round_trip = |mode: &str| {
        format!(
            "mad.lo.u32 %r, %t, 16, %s; stmatrix.sync.aligned.m8n8.x4{mode}.shared.b16 [%r], {{%a0, %a1, %a2, %a3}};
             bar.warp.sync -1; ldmatrix.sync.aligned.m8n8.x4{mode}.shared.b16 {{%d0, %d1, %d2, %d3}}, [%r];"
        )
    };
    assert_eq!(shuffle(&round_trip(""), &words, 4), words);
    assert_eq!(shuffle(&round_trip(".trans"), &words, 4), words);
    let transposed = shuffle("movmatrix.sync.aligned.m8n8.trans.b16 %d0, %a0;", &words, 1);
    let by_ldmatrix =
        shuffle(&format!("{FILL} ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{%d0}}, [%r];"), &words, 1);
    assert_eq!(transposed, by_ldmatrix);
}

#[test]
fn the_same_holds_without_avx2() {
    device::rerun_portable("the_same_holds_without_avx2");
}

/// 16 products beside a 1: of 2⁻²⁴ they are lost either way, of 2⁻²³ kept, and of 1.5 · 2⁻²⁴ each counts as 2⁻²³ where sums are rounded and
/// nothing where they are cut.
#[test]
fn float_mma_cuts_what_it_adds_where_it_is_told_to() {
    let mut cuts = Device::new();
    cuts.options.truncates = true;
    let (one, tiny) = (f16::from_f32(1.0).to_bits(), f16::from_f32(2f32.powi(-12)).to_bits());
    let both = |x: u16| u32::from(x) << 16 | u32::from(x);
    let opcode = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32";
    let sums = |device: &Device, x: u16, y: u16, c: f32| {
        let d = mma_on(device, opcode, &[both(x); 128], &[both(y); 64], &[c.to_bits(); 128]);
        assert!(d.iter().all(|&v| v == d[0]));
        f32::from_bits(d[0])
    };
    let rounds = Device::new();
    let more = f16::from_f32(1.5 * 2f32.powi(-12)).to_bits();
    for (device, up) in [(&rounds, 2f32.powi(-19)), (&cuts, 0.0)] {
        assert_eq!(sums(device, tiny, tiny, 1.0), 1.0);
        assert_eq!(sums(device, tiny, f16::from_f32(2f32.powi(-11)).to_bits(), 1.0), 1.0 + 2f32.powi(-19));
        assert_eq!(sums(device, more, tiny, 1.0), 1.0 + up);
        assert_eq!(sums(device, one, one, 1.0), 17.0);
    }
}
