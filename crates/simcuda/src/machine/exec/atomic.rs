//! Atomic operations on global and shared memory: `atom` and `red`.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::super::check::shadow::Access;
use super::half::{Bf16, Fp16, Half};
use super::memory::{Plan, SHARED, plan};
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Portable, Warp};

/// What an atomic does to the old value `x`, given operands `a` and `b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Atomic {
    Add,
    MinUnsigned,
    MinSigned,
    MaxUnsigned,
    MaxSigned,
    And,
    Or,
    Xor,
    Exchange,
    CompareAndSwap,
    Increment,
    Decrement,
    AddF32,
    AddF64,
    AddF16,
    AddBf16,
    AddF16x2,
    AddBf16x2,
}

const ALL_ATOMICS: [Atomic; 18] = [
    Atomic::Add,
    Atomic::MinUnsigned,
    Atomic::MinSigned,
    Atomic::MaxUnsigned,
    Atomic::MaxSigned,
    Atomic::And,
    Atomic::Or,
    Atomic::Xor,
    Atomic::Exchange,
    Atomic::CompareAndSwap,
    Atomic::Increment,
    Atomic::Decrement,
    Atomic::AddF32,
    Atomic::AddF64,
    Atomic::AddF16,
    Atomic::AddBf16,
    Atomic::AddF16x2,
    Atomic::AddBf16x2,
];

fn half_sum<H: Half>(x: u64, a: u64) -> u64 {
    let row = |v: u64| H::widen::<Portable>(&[v as u32 & 0xffff; LANES]);
    let sum = [row(x)[0] + row(a)[0]; LANES];
    H::narrow::<Portable>(&sum)[0].into()
}

fn half_sums<H: Half>(x: u64, a: u64) -> u64 {
    half_sum::<H>(x >> 16, a >> 16) << 16 | half_sum::<H>(x, a)
}

impl Atomic {
    /// The new value; `bits` is the width of the operands.
    fn apply(self, x: u64, a: u64, b: u64, bits: u32) -> u64 {
        let signed = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
        match self {
            Self::Add => x.wrapping_add(a),
            Self::MinUnsigned => x.min(a),
            Self::MaxUnsigned => x.max(a),
            Self::MinSigned => signed(x).min(signed(a)) as u64,
            Self::MaxSigned => signed(x).max(signed(a)) as u64,
            Self::And => x & a,
            Self::Or => x | a,
            Self::Xor => x ^ a,
            Self::Exchange => a,
            Self::CompareAndSwap if x == a => b,
            Self::CompareAndSwap => x,
            Self::Increment if x >= a => 0,
            Self::Increment => x + 1,
            Self::Decrement if x == 0 || x > a => a,
            Self::Decrement => x - 1,
            Self::AddF32 => {
                let sum = f32::from_bits(x as u32) + f32::from_bits(a as u32);
                u64::from(super::float::output::<false, false>(sum).to_bits())
            }
            Self::AddF64 => (f64::from_bits(x) + f64::from_bits(a)).to_bits(),
            Self::AddF16 => half_sum::<Fp16>(x, a),
            Self::AddBf16 => half_sum::<Bf16>(x, a),
            Self::AddF16x2 => half_sums::<Fp16>(x, a),
            Self::AddBf16x2 => half_sums::<Bf16>(x, a),
        }
    }
}

/// An atomic of `SIZE` bytes: [`Atomic`] in `extra`, operands `b` and `c`; the old value goes to `dst`.
pub(crate) struct Atom<const SIZE: usize, const SPACE: u8>(PhantomData<()>);

impl<const SIZE: usize, const SPACE: u8> Op for Atom<SIZE, SPACE> {
    const SPREAD: Spread = Spread::Sink;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let mut pointers = [std::ptr::null_mut(); LANES];
        match plan::<I, SPACE, SIZE>(w, b, i, Access::Atomic, &mut pointers) {
            Plan::Fault => return Flow::Fault,
            Plan::Run(p) => {
                for (lane, pointer) in pointers.iter_mut().enumerate() {
                    *pointer = p.wrapping_add(lane * SIZE);
                }
            }
            Plan::Same(_) | Plan::Scatter => {}
        }
        apply_lanes(w, i, &pointers, SIZE);
        b.counters.atomics += 1;
        if b.env.options.youngest_first && SPACE != SHARED {
            b.pause = true;
            return Flow::Yield;
        }
        Flow::Next
    }
}

fn apply_lanes(w: &mut Warp, i: &Inst, pointers: &[*mut u8; LANES], size: usize) {
    let op = ALL_ATOMICS[i.extra as usize % ALL_ATOMICS.len()];
    let double = size == 8;
    let (a, c) = if double {
        (w.doubles(i.b), w.doubles(i.c))
    } else {
        (w.words(i.b).map(u64::from), w.words(i.c).map(u64::from))
    };
    for lane in w.lanes() {
        let (p, a, c) = (pointers[lane], a[lane], c[lane]);
        // SAFETY: `plan` found `size` aligned, writable bytes for every executing lane; other workers access them
        // only as memory of the simulated device.
        let old = unsafe {
            match size {
                2 => {
                    let new = |x: u16| Some(op.apply(x.into(), a & 0xffff, c & 0xffff, 16) as u16);
                    AtomicU16::from_ptr(p.cast())
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, new)
                        .unwrap_or_else(|x| x)
                        .into()
                }
                4 => {
                    let new = |x: u32| Some(op.apply(x.into(), a, c, 32) as u32);
                    AtomicU32::from_ptr(p.cast())
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, new)
                        .unwrap_or_else(|x| x)
                        .into()
                }
                _ => {
                    let new = |x: u64| Some(op.apply(x, a, c, 64));
                    AtomicU64::from_ptr(p.cast())
                        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, new)
                        .unwrap_or_else(|x| x)
                }
            }
        };
        if double {
            w.doubles_mut(i.dst)[lane] = old;
        } else {
            w.words_mut(i.dst)[lane] = old as u32;
        }
    }
}
