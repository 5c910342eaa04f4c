//! `wmma`: matrices of a whole warp, loaded, multiplied and stored as fragments whose layout only these instructions know.
//!
//! A fragment's slots are numbered by register, then lane, then part of the register. Slot `s` holds element `s` modulo their
//! number, counted along K for A and B and along the columns for C and D, so that fragments with more slots than elements hold
//! them several times.

use super::super::check::shadow::Access;
use super::block::SHARED_WINDOW;
use super::half::{narrow_f16, widen_f16};
use super::matrix::{BF16, F16, S4, S8, TF32, U4, U8, added_together, dot_truncated, operand, together};
use super::memory::{SHARED, addresses};
use super::scatter::{locate, settle};
use super::undefined::{self, Spread};
use super::warp::Bits;
use super::{Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

/// Element types of accumulators.
pub(crate) const F32: u8 = 16;
pub(crate) const S32: u8 = 17;

/// Bits of an element in a register.
pub(crate) const fn bits_of(element: u8) -> u32 {
    match element {
        S4 | U4 => 4,
        S8 | U8 => 8,
        F16 | BF16 => 16,
        _ => 32,
    }
}

/// Where a fragment lies in memory, as a list of numbers before the slots of its registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Elements in the direction that slots are counted in, and across it. Elements of 4 bits come in pairs.
    pub along: u32,
    pub across: u32,
    /// Whether memory is contiguous in that direction.
    pub contiguous: bool,
    pub element_bytes: u32,
    /// What the stride is divided by, 2 for pairs.
    pub stride_unit: u32,
    pub registers: u32,
}

impl Tile {
    /// Numbers in the list.
    pub(crate) const LENGTH: u32 = 6;

    pub(crate) fn entries(self) -> [u32; Self::LENGTH as usize] {
        let contiguous = u32::from(self.contiguous);
        [self.along, self.across, contiguous, self.element_bytes, self.stride_unit, self.registers]
    }

    fn read(b: &Block, at: u32) -> Self {
        let [along, across, contiguous, element_bytes, stride_unit, registers] =
            [0, 1, 2, 3, 4, 5].map(|n| b.list(at + n));
        Self { along, across, contiguous: contiguous == 1, element_bytes, stride_unit, registers }
    }

    /// Slots of one register in one lane.
    fn parts(self) -> u32 {
        4 / self.element_bytes
    }

    /// Byte offsets of one part of a register in all lanes, and the lanes that hold an element for the first time.
    fn offsets(self, register: u32, part: u32, stride: &[u32; LANES]) -> ([u64; LANES], u32) {
        let elements = self.along * self.across;
        let (mut offsets, mut first) = ([0; LANES], 0);
        for lane in 0..LANES as u32 {
            let slot = (register * LANES as u32 + lane) * self.parts() + part;
            let (x, y) = (slot % elements % self.along, slot % elements / self.along);
            let stride = stride[lane as usize] / self.stride_unit;
            let element = if self.contiguous { y * stride + x } else { x * stride + y };
            offsets[lane as usize] = u64::from(element) * u64::from(self.element_bytes);
            first |= u32::from(slot < elements) << lane;
        }
        (offsets, first)
    }
}

fn shifted(addr: &[u64; LANES], offsets: &[u64; LANES]) -> [u64; LANES] {
    std::array::from_fn(|lane| addr[lane].wrapping_add(offsets[lane]))
}

/// `wmma.load`: address in `a`, stride in elements in `b`, [`Tile`] and destinations in the list at `extra`.
pub(crate) struct WmmaLoad<const SPACE: u8>;

impl<const SPACE: u8> Op for WmmaLoad<SPACE> {
    const SPREAD: Spread = Spread::Own { access: true, own: keep };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        load(w, b, i, &addresses::<SPACE>(w, i), SPACE)
    }
}

fn load(w: &mut Warp, b: &mut Block, i: &Inst, addr: &[u64; LANES], space: u8) -> Flow {
    let (tile, stride) = (Tile::read(b, i.extra), w.words(i.b));
    let (size, mut flow) = (tile.element_bytes, Flow::Next);
    for register in 0..tile.registers {
        let (mut d, mut undefined_bits) = ([0u32; LANES], [0u32; LANES]);
        for part in 0..tile.parts() {
            let (offsets, _) = tile.offsets(register, part, &stride);
            let mut pointers = [std::ptr::null_mut(); LANES];
            if !locate(w, b, &shifted(addr, &offsets), space, size, Access::Read, &mut pointers) {
                return Flow::Fault;
            }
            for lane in w.lanes() {
                let mut bytes = [0; 4];
                // SAFETY: `locate` found `size` readable bytes, at most four, for every executing lane.
                unsafe { std::ptr::copy_nonoverlapping(pointers[lane], bytes.as_mut_ptr(), size as usize) };
                d[lane] |= u32::from_le_bytes(bytes) << (8 * size * part);
            }
            if let Some(unwritten) = b.unwritten.take() {
                undefined::loaded(w, b, &unwritten);
                flow = Flow::Undefined;
                for lane in w.lanes() {
                    undefined_bits[lane] |= (unwritten.bits(lane, 0, size as usize) as u32) << (8 * size * part);
                }
            }
        }
        let slot = b.slot(i.extra + Tile::LENGTH + register);
        w.set_words(slot, d);
        if w.undefined.is_some() {
            w.set_undefined_words(slot, undefined_bits);
        }
    }
    flow
}

/// A load sets the undefined bits of its destinations itself.
fn keep(_: &mut Warp, _: &mut Block, _: &Inst) {}

/// `wmma.store`: as [`WmmaLoad`], with sources.
pub(crate) struct WmmaStore<const SPACE: u8>;

impl<const SPACE: u8> Op for WmmaStore<SPACE> {
    const SPREAD: Spread = Spread::Own { access: true, own: stored::<SPACE> };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        store(w, b, i, &addresses::<SPACE>(w, i), SPACE)
    }
}

fn store(w: &mut Warp, b: &mut Block, i: &Inst, addr: &[u64; LANES], space: u8) -> Flow {
    let (tile, stride, all) = (Tile::read(b, i.extra), w.words(i.b), w.mask);
    let size = tile.element_bytes;
    for register in 0..tile.registers {
        let a = w.words(b.slot(i.extra + Tile::LENGTH + register));
        for part in 0..tile.parts() {
            let (offsets, first) = tile.offsets(register, part, &stride);
            let mut pointers = [std::ptr::null_mut(); LANES];
            w.mask = all & first;
            let found = locate(w, b, &shifted(addr, &offsets), space, size, Access::Write, &mut pointers);
            for lane in w.lanes().filter(|_| found) {
                let bytes = (a[lane] >> (8 * size * part)).to_le_bytes();
                // SAFETY: `locate` found `size` writable bytes, at most four, for every executing lane.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointers[lane], size as usize) };
            }
            w.mask = all;
            if !found || settle(w, b) == Flow::Fault {
                return Flow::Fault;
            }
        }
    }
    Flow::Next
}

/// Elements that are undefined count as not written where they were stored; in global memory they are a finding of their own.
fn stored<const SPACE: u8>(w: &mut Warp, b: &mut Block, i: &Inst) {
    let (tile, stride, addr) = (Tile::read(b, i.extra), w.words(i.b), addresses::<SPACE>(w, i));
    let window = if SPACE == SHARED { SHARED_WINDOW } else { 0 };
    for (register, part) in (0..tile.registers).flat_map(|r| (0..tile.parts()).map(move |p| (r, p))) {
        let bits = w.undefined_bits(b.slot(i.extra + Tile::LENGTH + register));
        let (offsets, first) = tile.offsets(register, part, &stride);
        for lane in Bits(first & w.mask) {
            let element = bits[lane] >> (8 * tile.element_bytes * part);
            let undefined = |byte: &u32| element >> (8 * byte) & 0xff != 0;
            let bytes = (0..tile.element_bytes).filter(undefined).fold(0, |bytes, byte| bytes | 1 << byte);
            if bytes != 0 {
                undefined::leave_unwritten(w, b, lane, addr[lane].wrapping_add(offsets[lane]) | window, bytes);
            }
        }
    }
}

/// What a `wmma.mma` multiplies: D (m x n) = A (m x k) times B (k x n) + C; as a list of numbers before the slots of D, A, B, C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub m: u32,
    pub n: u32,
    pub k: u32,
    /// Element types of D, A, B and C.
    pub types: [u8; 4],
    /// Registers of D, A, B and C.
    pub registers: [u32; 4],
}

impl Product {
    /// Numbers in the list.
    pub(crate) const LENGTH: u32 = 11;

    pub(crate) fn entries(self) -> impl Iterator<Item = u32> {
        [self.m, self.n, self.k].into_iter().chain(self.types.map(u32::from)).chain(self.registers)
    }

    fn read(b: &Block, at: u32) -> Self {
        let [m, n, k] = [0, 1, 2].map(|i| b.list(at + i));
        let types = [3, 4, 5, 6].map(|i| b.list(at + i) as u8);
        Self { m, n, k, types, registers: [7, 8, 9, 10].map(|i| b.list(at + i)) }
    }

    /// First list entry of the registers of D, A, B or C, with the list at `at`.
    fn first(self, at: u32, which: usize) -> u32 {
        at + Self::LENGTH + self.registers[..which].iter().sum::<u32>()
    }

    /// Raw elements of A, B or C in the order of their slots; `read` gives the rows of their registers.
    fn gather(self, b: &Block, at: u32, which: usize, read: impl Fn(Slot) -> [u32; LANES]) -> Vec<u32> {
        let elements = [self.m * self.n, self.m * self.k, self.k * self.n, self.m * self.n][which] as usize;
        let bits = bits_of(self.types[which]);
        let first = self.first(at, which);
        let words = (0..self.registers[which]).flat_map(|n| read(b.slot(first + n)));
        let parts = move |word: u32| (0..32 / bits).map(move |part| word >> (part * bits) & (u32::MAX >> (32 - bits)));
        words.flat_map(parts).take(elements).collect()
    }
}

impl Product {
    /// A register of D, given its elements.
    fn result(self, d: &[u32], register: u32) -> [u32; LANES] {
        let parts = 32 / bits_of(self.types[0]) as usize;
        std::array::from_fn(|lane| {
            let first = (register as usize * LANES + lane) * parts;
            d[first..first + parts].iter().rev().fold(0u32, |word, &e| word.unbounded_shl(32 / parts as u32) | e)
        })
    }
}

/// A raw element as a number; f32 holds every type but s32 exactly.
fn float(raw: u32, element: u8) -> f32 {
    match element {
        F16 => widen_f16(raw as u16),
        BF16 => f32::from_bits(raw << 16),
        // The low 13 bits of a tf32 register are not used.
        TF32 => f32::from_bits(raw & !0x1fff),
        _ => f32::from_bits(raw),
    }
}

fn integer(raw: u32, element: u8) -> i32 {
    match element {
        S4 => (raw << 28) as i32 >> 28,
        S8 => i32::from(raw as i8),
        _ => raw as i32,
    }
}

/// `wmma.mma`: [`Product`] and registers in the list at `extra`; `target` 1 saturates integers. Products of floats are exact and
/// are added in f32 in the order of k to the accumulator, or truncated as `mma` adds them.
pub(crate) struct WmmaMultiply;

impl Op for WmmaMultiply {
    const SPREAD: Spread = Spread::Own { access: false, own: multiplied };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        if !together(w) {
            return Flow::Gather;
        }
        multiply(w, b, i);
        let product = Product::read(b, i.extra);
        let products = product.m * product.n * product.k;
        b.counters.tensor(operand(product.types[1]), products as usize);
        Flow::Next
    }
}

fn multiply(w: &mut Warp, b: &Block, i: &Inst) {
    let product = Product::read(b, i.extra);
    let [x, y, c] = [1, 2, 3].map(|which| product.gather(b, i.extra, which, |slot| w.words(slot)));
    let [_, a_type, b_type, c_type] = product.types;
    let k = product.k as usize;
    let element = |at: usize| {
        let (row, column) = (at / product.n as usize, at % product.n as usize);
        let (x, y) = (&x[row * k..row * k + k], &y[column * k..column * k + k]);
        if c_type == S32 {
            let sum: i32 = x.iter().zip(y).map(|(&x, &y)| integer(x, a_type) * integer(y, b_type)).sum();
            let c = c[at] as i32;
            return if i.target == 1 { c.saturating_add(sum) } else { c.wrapping_add(sum) } as u32;
        }
        let c = float(c[at], c_type);
        let widen = |line: &[u32], element: u8| line.iter().map(|&raw| float(raw, element)).collect::<Vec<f32>>();
        let (x, y) = (widen(x, a_type), widen(y, b_type));
        let sum = match b.env.options.truncates {
            true => dot_truncated(c, &x, &y, added_together(a_type)),
            false => x.iter().zip(&y).fold(c, |sum, (x, y)| x.mul_add(*y, sum)),
        };
        if product.types[0] == F16 { narrow_f16(sum) } else { super::float::output::<false, false>(sum).to_bits() }
    };
    let d: Vec<u32> = (0..(product.m * product.n) as usize).map(element).collect();
    for register in 0..product.registers[0] {
        w.set_words(b.slot(product.first(i.extra, 0) + register), product.result(&d, register));
    }
}

/// An element is undefined if anything in its row of A, its column of B or C is.
fn multiplied(w: &mut Warp, b: &mut Block, i: &Inst) {
    let product = Product::read(b, i.extra);
    let bits = |slot: Slot| w.undefined_bits(slot).map(|bits| bits as u32);
    let [x, y, c] = [1, 2, 3].map(|which| product.gather(b, i.extra, which, bits));
    let (n, k) = (product.n as usize, product.k as usize);
    let any = |line: &[u32]| line.iter().any(|&bits| bits != 0);
    let element = |at: usize| {
        let (row, column) = (at / n, at % n);
        let bad = c[at] != 0 || any(&x[row * k..row * k + k]) || any(&y[column * k..column * k + k]);
        if bad { u32::MAX >> (32 - bits_of(product.types[0])) } else { 0 }
    };
    let d: Vec<u32> = (0..(product.m * product.n) as usize).map(element).collect();
    for register in 0..product.registers[0] {
        w.set_undefined_words(b.slot(product.first(i.extra, 0) + register), product.result(&d, register));
    }
}
