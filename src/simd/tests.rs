//! Every operation of every instruction set against the portable one, bit for bit, and the exponential against f64.

use super::*;

struct Exp2<'a>(&'a [f32; 16]);

impl Kernel for Exp2<'_> {
    type Output = [f32; 16];
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 16] {
        let mut out = [0f32; 16];
        simd.store(&mut out, exp2_to_one(simd, simd.load(self.0)));
        out
    }
}

fn available() -> impl Iterator<Item = Available> {
    Isa::ALL.into_iter().filter_map(Available::of)
}

#[test]
fn exp2_matches_f64_within_its_rounding_bound() {
    // Final sum half an ulp (2⁻²⁴ at 1, relative), the polynomial's own rounding 0.7 · 2⁻²⁴, truncation 1.6e-8.
    let bound = 2f64.powi(-23);
    for step in 0..400_000u32 {
        let base = -126.0 * step as f32 / 400_000.0;
        let x: [f32; 16] = std::array::from_fn(|i| (base - i as f32 * 1.3e-5).max(-126.0));
        let y = Available::best().run(Exp2(&x));
        for (x, y) in x.iter().zip(y) {
            let exact = f64::from(*x).exp2();
            let error = (f64::from(y) - exact).abs() / exact;
            assert!(error <= bound, "exp2({x}) = {y}, relative error {error:e}");
        }
    }
}

#[test]
fn exp2_matches_the_definition_at_its_special_values() {
    let below = f32::from_bits(126f32.to_bits() + 1);
    let x = [0.0, -0.0, -1.0, -126.0, -below, -1e30, f32::NEG_INFINITY, f32::NAN];
    let expected = [1.0, 1.0, 0.5, f32::MIN_POSITIVE, 0.0, 0.0, 0.0];
    for simd in available() {
        let y = simd.run(Exp2(&std::array::from_fn(|i| x[i % 8])));
        for half in y.chunks(8) {
            assert_eq!(half[..7], expected, "{}", simd.isa().name());
            assert!(half[7].is_nan(), "{}", simd.isa().name());
        }
    }
}

/// What every float operation gives for three vectors and a mask, as bits.
struct EveryOperation<'a>(&'a [[f32; 16]; 3], u16);

impl Kernel for EveryOperation<'_> {
    type Output = Vec<u32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<u32> {
        let mut out = Vec::new();
        let mut lanes = [0f32; 16];
        let mut narrow = ([f16::ZERO; 16], [bf16::ZERO; 16]);
        let [a, b, c] = self.0.each_ref().map(|v| s.load(v));
        f16::store(s, &mut narrow.0, a);
        bf16::store(s, &mut narrow.1, a);
        let bytes: [i8; 16] = std::array::from_fn(|i| self.0[0][i].to_bits() as i8);
        let wide = [s.load_f16(&narrow.0), s.load_bf16(&narrow.1), s.load_i8(&bytes)];
        let arithmetic = [s.add(a, b), s.sub(a, b), s.mul(a, b), s.div(a, b), s.fma(a, b, c)];
        let order = [s.min(a, b), s.max(a, b), s.abs(a), s.round(a), s.select(self.1, a, b)];
        let exponential = [exp2_to_one(s, a), s.exp2_whole(s.round(a))];
        for v in arithmetic.into_iter().chain(order).chain(exponential).chain(wide) {
            s.store(&mut lanes, v);
            out.extend(lanes.map(f32::to_bits));
        }
        out.extend([s.sum(a).to_bits(), s.largest(a).to_bits()]);
        out.extend([u32::from(s.gt_mask(a, b)), u32::from(s.ge_mask(a, b))]);
        let mut listed = [0; 16];
        let count = s.list_lanes(self.1, 7, &mut listed);
        out.push(count as u32);
        out.extend(&listed[..count]);
        let mut packed = [0; 16];
        s.pack_lanes(self.1, &std::array::from_fn(|lane| 3 * lane as i8 - 20), &mut packed);
        out.extend(packed[..count].iter().map(|&lane| lane as u32));
        out
    }
}

/// What every integer operation gives for bytes, activations, rows of bytes and halves, as lanes.
struct EveryIntegerOperation<'a> {
    bytes: &'a [[u8; 64]; 4],
    activations: &'a [u8; 64],
    floats: &'a [[f32; 16]; 2],
}

impl EveryIntegerOperation<'_> {
    /// The lanes of a vector, by the two operations that leave integers: exact in f32 in halves of 16 bits.
    #[inline(always)]
    fn push<S: Simd>(s: S, out: &mut Vec<i64>, v: S::I) {
        let mut lanes = [0f32; 16];
        let high = s.high_u16(v);
        let low = s.sub_i32(v, s.mul_i32(high, s.splat_i32(1 << 16)));
        s.store(&mut lanes, s.to_f32(high));
        let highs = lanes;
        s.store(&mut lanes, s.to_f32(low));
        out.extend(highs.iter().zip(lanes).map(|(&high, low)| (high as i64) << 16 | low as i64));
    }
}

impl Kernel for EveryIntegerOperation<'_> {
    type Output = Vec<i64>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<i64> {
        let mut out = Vec::new();
        let rows = self.bytes.each_ref().map(|row| s.load_segments(row.as_chunks().0));
        let [a, b, c, _] = rows;
        let x = s.load_segments(self.activations.as_chunks().0);
        let (low, high) = (s.low_nibbles(a), s.high_nibbles(a));
        let mut all = vec![s.add_i32(a, b), s.sub_i32(a, b), s.mul_i32(a, b), low, high];
        all.extend([s.dot(s.splat_i32(-7), low, x), s.dot(s.splat_i32(9), high, x), s.dot_bytes(s.splat_i32(5), b, x)]);
        let mut short = s.splat_i32(0);
        for code in [low, high, low, high, low, high, low, high] {
            short = s.dot_short(short, code, x);
        }
        all.push(s.add_short(s.splat_i32(3), short));
        let pairs = rows.map(|row| {
            let low = s.dot_short(s.splat_i32(0), s.low_nibbles(row), x);
            s.dot_short(low, s.high_nibbles(row), x)
        });
        all.push(s.sum_short_quads(pairs));
        // sums that stay within i32
        let small = rows.map(|row| s.low_nibbles(row));
        all.extend([s.sum_quads(small), s.high_u16(b)]);
        all.extend(s.transpose_quarters(rows).into_iter().chain(s.unzip_quarters(a, b)));
        all.extend(s.interleave(rows).into_iter().chain(s.interleave_pair(a, b)).chain(s.widen_u16(c)));
        // sums that wrap around
        all.extend([low, high].map(|codes| s.dot_pairs(s.dot_pairs(s.splat_i16(-31_000), codes, x), codes, x)));
        for segments in 0..4 {
            all.push(s.load_segments(&self.bytes[0].as_chunks().0[..segments]));
        }
        let halves: &[u16] = bytemuck::cast_slice(&self.bytes[1]);
        all.extend([0, 4, 8, 12, 16].map(|lanes| s.load_u16(&halves[..lanes])));
        all.push(s.load_u8(self.bytes[2].first_chunk().unwrap()));
        let floats = self.floats.each_ref().map(|v| s.load(v));
        all.push(s.count_ge(c, floats[0], floats[1]));
        let flat: &[u8] = self.bytes.as_flattened();
        // rows 9 bytes apart, which overlap: any address will do
        let picked = ByteRows::new(flat, 9, std::array::from_fn(|i| (i * 7 % 19) as u32), 40);
        for offset in [0, 3, 24] {
            all.extend(s.load_rows(&picked, offset));
        }
        all.into_iter().for_each(|v| Self::push(s, &mut out, v));
        let mut lanes = [0f32; 16];
        for v in [s.low_f16(b), s.high_f16(b), s.as_f32(b), s.to_f32(b)] {
            s.store(&mut lanes, v);
            // which NaN is nobody's concern
            out.extend(lanes.map(|v| if v.is_nan() { -1 } else { i64::from(v.to_bits()) }));
        }
        out
    }
}

#[test]
fn every_integer_operation_matches_portable() {
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    for round in 0..2000 {
        let mut bytes: [[u8; 64]; 4] = std::array::from_fn(|_| std::array::from_fn(|_| next()));
        // int8 but for −128, as activations are
        let mut activations: [u8; 64] =
            std::array::from_fn(|_| next()).map(|byte| if byte == 128 { 127 } else { byte });
        if round < 2 {
            // the largest sums
            (bytes, activations) = ([[255; 64]; 4], [if round == 0 { 127 } else { 129 }; 64]);
        }
        let floats: [[f32; 16]; 2] = std::array::from_fn(|_| std::array::from_fn(|_| f32::from(next() / 64)));
        let inputs = || EveryIntegerOperation { bytes: &bytes, activations: &activations, floats: &floats };
        let expected = Portable.run(inputs());
        for simd in available() {
            assert_eq!(simd.run(inputs()), expected, "{}", simd.isa().name());
        }
    }
}

#[test]
fn every_operation_matches_portable_bit_for_bit() {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 18) as f32 - 64.0
    };
    for round in 0..2000u32 {
        // −121 … 0: where every operation is defined
        let inputs: [[f32; 16]; 3] =
            std::array::from_fn(|_| std::array::from_fn(|_| -next().abs() * next().abs().min(1.9) - 1e-3));
        let mask = (round.wrapping_mul(40_503) >> 3) as u16;
        let expected = Portable.run(EveryOperation(&inputs, mask));
        for simd in available() {
            assert_eq!(simd.run(EveryOperation(&inputs, mask)), expected, "{}", simd.isa().name());
        }
    }
}
