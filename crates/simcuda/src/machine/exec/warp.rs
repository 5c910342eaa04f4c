//! A warp: its registers, its groups of converged lanes, and access to rows of lane values.

use super::super::sched::group::Group;
use super::undefined::Undefined;
use super::{ALL, Code, Isa, LANES, Slot, ThreadSpecial};
use crate::machine::exec::asynchronous::CopyQueue;

/// Rows of lanes, aligned so that vector loads do not split cache lines.
#[repr(C, align(128))]
#[derive(Clone, Copy)]
pub(crate) struct Row(pub [u32; LANES]);

/// One warp of a block.
pub(crate) struct Warp {
    /// Tables that [`Slot`]s point into: registers, constants, launch values, undefined bits.
    pub bases: [*mut u8; 4],
    /// Predicate registers, one bit per lane; 0 always holds.
    pub preds: Vec<u32>,
    /// Lanes that execute the current instruction.
    pub mask: u32,
    /// Lanes that have ended or never existed; their registers may be overwritten freely.
    pub dead: u32,
    /// The running group.
    pub pc: u32,
    pub active: u32,
    /// The other groups of live lanes.
    pub groups: Vec<Group>,
    /// Where a group reaches another and joins it.
    pub limit: u32,
    /// Backward branches taken beside other groups.
    pub turns: u32,
    /// Carry flags of the extended-precision instructions.
    pub carry: u32,
    /// Target of [`super::Flow::JumpTo`], or what [`super::Flow::Park`] waits for.
    pub jump: u32,
    /// Phase of the cluster's barrier in which the warp last arrived.
    pub cluster_phase: u32,
    /// Lanes awaited by [`super::Flow::Gather`].
    pub members: u32,
    /// Warp number in its block.
    pub index: u32,
    /// Asynchronous copies of its lanes.
    pub copies: CopyQueue,
    /// Undefined bits of its registers, if there are any.
    pub undefined: Option<Box<Undefined>>,
    /// Its lanes need not reach barriers together any more.
    pub loose: bool,
    registers: Vec<Row>,
}

impl Warp {
    /// Makes warp `index` of a block of `block` threads for a function.
    pub(crate) fn new(code: &Code, index: u32, block: [u32; 3]) -> Self {
        let mut warp = Self {
            bases: [std::ptr::null_mut(); 4],
            preds: vec![0; code.predicates as usize],
            mask: 0,
            dead: 0,
            pc: 0,
            active: 0,
            groups: Vec::new(),
            limit: u32::MAX,
            turns: 0,
            carry: 0,
            jump: 0,
            cluster_phase: 0,
            members: 0,
            index,
            copies: CopyQueue::default(),
            undefined: None,
            loose: false,
            registers: vec![Row([0; LANES]); code.register_rows as usize],
        };
        warp.preds[0] = ALL;
        for &(row, special) in &code.thread_rows {
            warp.registers[row as usize] = Row(std::array::from_fn(|lane| special.value(index, lane as u32, block)));
        }
        warp.bases[0] = warp.registers.as_mut_ptr().cast();
        warp.bases[1] = code.constants.as_ptr().cast_mut().cast();
        warp
    }

    /// Sets the warp to the first instruction with the threads it has in a block of `threads`.
    pub(crate) fn restart(&mut self, threads: u32, launch_rows: *mut u8) {
        let lanes = (threads - self.index * LANES as u32).min(LANES as u32);
        self.dead = if lanes == 32 { 0 } else { ALL << lanes };
        self.pc = 0;
        self.active = !self.dead;
        self.groups.clear();
        self.limit = u32::MAX;
        self.turns = 0;
        self.copies.clear();
        self.undefined = None;
        self.loose = false;
        self.bases[2] = launch_rows;
    }

    #[inline(always)]
    fn row(&self, slot: Slot) -> *mut u8 {
        let (table, offset) = (slot.0 & 3, slot.0 & !127);
        // SAFETY: the decoder hands out slots inside the tables only; bases are set before the first instruction runs
        // and the tables live as long as the warp runs.
        unsafe { self.bases.get_unchecked(table as usize).add(offset as usize) }
    }

    /// Reads 32 lanes of 32 bits.
    #[inline(always)]
    pub(crate) fn words(&self, slot: Slot) -> [u32; LANES] {
        // SAFETY: see `row`; rows are 128-byte aligned and hold initialised integers.
        unsafe { *self.row(slot).cast() }
    }

    /// Reads 32 lanes of 64 bits.
    #[inline(always)]
    pub(crate) fn doubles(&self, slot: Slot) -> [u64; LANES] {
        // SAFETY: see `row`; the decoder gives 64-bit values two rows.
        unsafe { *self.row(slot).cast() }
    }

    /// Whether a whole row may be written: no live lane stands by.
    #[inline(always)]
    pub(crate) fn full(&self) -> bool {
        self.mask | self.dead == ALL
    }

    /// Writes the executing lanes of a row of 32 bits.
    #[inline(always)]
    pub(crate) fn set_words(&mut self, slot: Slot, values: [u32; LANES]) {
        let row: *mut [u32; LANES] = self.row(slot).cast();
        if self.full() {
            // SAFETY: see `row`; destinations are always in the register table, which this warp owns.
            unsafe { *row = values };
            return;
        }
        // SAFETY: as above; this is the only reference to the row.
        let row = unsafe { &mut *row };
        for lane in 0..LANES {
            let keep = (self.mask >> lane & 1).wrapping_sub(1);
            row[lane] = row[lane] & keep | values[lane] & !keep;
        }
    }

    /// Writes the executing lanes of a row of 64 bits.
    #[inline(always)]
    pub(crate) fn set_doubles(&mut self, slot: Slot, values: [u64; LANES]) {
        let row: *mut [u64; LANES] = self.row(slot).cast();
        if self.full() {
            // SAFETY: see `set_words`; 64-bit destinations have two rows.
            unsafe { *row = values };
            return;
        }
        // SAFETY: as above; this is the only reference to the row.
        let row = unsafe { &mut *row };
        for lane in 0..LANES {
            let keep = u64::from(self.mask >> lane & 1).wrapping_sub(1);
            row[lane] = row[lane] & keep | values[lane] & !keep;
        }
    }

    /// A row of 32-bit registers that an instruction writes lane by lane.
    #[inline(always)]
    pub(crate) fn words_mut(&mut self, slot: Slot) -> &mut [u32; LANES] {
        // SAFETY: see `set_words`; the borrow of the warp keeps the reference unique.
        unsafe { &mut *self.row(slot).cast() }
    }

    /// A row of 64-bit registers that an instruction writes lane by lane.
    #[inline(always)]
    pub(crate) fn doubles_mut(&mut self, slot: Slot) -> &mut [u64; LANES] {
        // SAFETY: see `set_doubles`; the borrow of the warp keeps the reference unique.
        unsafe { &mut *self.row(slot).cast() }
    }

    /// Reads a predicate register.
    #[inline(always)]
    pub(crate) fn pred(&self, index: u32) -> u32 {
        // SAFETY: the decoder numbers predicates below `Code::predicates`, the length of `preds`.
        unsafe { *self.preds.get_unchecked(index as usize) }
    }

    /// Writes the executing lanes of a predicate register.
    #[inline(always)]
    pub(crate) fn set_pred(&mut self, index: u32, bits: u32) {
        let mask = self.mask;
        // SAFETY: see `pred`.
        let pred = unsafe { self.preds.get_unchecked_mut(index as usize) };
        *pred = *pred & !mask | bits & mask;
    }

    /// The lowest executing lane.
    #[inline(always)]
    pub(crate) fn leader(&self) -> usize {
        self.mask.trailing_zeros() as usize & 31
    }

    /// The executing lanes, lowest first.
    #[inline(always)]
    pub(crate) fn lanes(&self) -> Bits {
        Bits(self.mask)
    }
}

/// Iterates over the set bits of a mask.
#[derive(Clone, Copy)]
pub(crate) struct Bits(pub u32);

impl Iterator for Bits {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let lane = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(lane & 31)
    }
}

/// A lane's value as an instruction sees it, and how a row holds it.
pub(crate) trait Lane: Copy + Default {
    /// Reads a row.
    fn read(w: &Warp, slot: Slot) -> [Self; LANES];
    /// Writes the executing lanes of a row.
    fn write(w: &mut Warp, slot: Slot, values: [Self; LANES]);
}

macro_rules! lane {
    ($($type:ty: $words:ident, $set:ident, $raw:ty, |$x:ident| $get:expr, |$y:ident| $put:expr;)*) => {$(
        impl Lane for $type {
            #[inline(always)]
            fn read(w: &Warp, slot: Slot) -> [Self; LANES] {
                let row = w.$words(slot);
                let mut values = [Self::default(); LANES];
                for lane in 0..LANES {
                    let $x = row[lane];
                    values[lane] = $get;
                }
                values
            }

            #[inline(always)]
            fn write(w: &mut Warp, slot: Slot, values: [Self; LANES]) {
                let mut row = [0; LANES];
                for lane in 0..LANES {
                    let $y = values[lane];
                    row[lane] = $put;
                }
                w.$set(slot, row);
            }
        }
    )*};
}

lane! {
    u8: words, set_words, u32, |x| x as u8, |y| y.into();
    i8: words, set_words, u32, |x| x as i8, |y| y as u8 as u32;
    u16: words, set_words, u32, |x| x as u16, |y| y.into();
    i16: words, set_words, u32, |x| x as i16, |y| y as u16 as u32;
    u32: words, set_words, u32, |x| x, |y| y;
    i32: words, set_words, u32, |x| x as i32, |y| y as u32;
    f32: words, set_words, u32, |x| f32::from_bits(x), |y| y.to_bits();
    u64: doubles, set_doubles, u64, |x| x, |y| y;
    i64: doubles, set_doubles, u64, |x| x as i64, |y| y as u64;
    f64: doubles, set_doubles, u64, |x| f64::from_bits(x), |y| y.to_bits();
}

/// One bit per lane from a row of all-ones and zero words.
#[inline(always)]
pub(crate) fn movemask<I: Isa>(row: &[u32; LANES]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if I::AVX2 {
        use std::arch::x86_64::{_mm256_castsi256_ps, _mm256_loadu_si256, _mm256_movemask_ps};
        let mut mask = 0;
        for part in 0..4 {
            // SAFETY: I::AVX2 holds only in functions compiled for and run with AVX2; 8 words lie at row + 8 * part.
            let bits = unsafe {
                _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_loadu_si256(row.as_ptr().add(8 * part).cast())))
            };
            mask |= (bits as u32) << (8 * part);
        }
        return mask;
    }
    row.iter().enumerate().fold(0, |mask, (lane, &word)| mask | (word >> 31) << lane)
}

impl ThreadSpecial {
    /// The value for one lane of warp `warp` in a block of shape `block`.
    fn value(self, warp: u32, lane: u32, block: [u32; 3]) -> u32 {
        let thread = warp * LANES as u32 + lane;
        let bit = 1u32 << lane;
        match self {
            Self::Tid(0) => thread % block[0],
            Self::Tid(1) => thread / block[0] % block[1],
            Self::Tid(_) => thread / block[0] / block[1],
            Self::Lane => lane,
            Self::Warp => warp,
            Self::MaskEq => bit,
            Self::MaskLt => bit - 1,
            Self::MaskLe => bit | (bit - 1),
            Self::MaskGt => !(bit | (bit - 1)),
            Self::MaskGe => !(bit - 1),
        }
    }
}
