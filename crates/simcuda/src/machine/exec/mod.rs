//! Execution: one function per decoded instruction form, each working on 32 lanes.
//!
//! Every form is a type that implements [`Op`]; [`handler`] compiles it twice, for AVX2 and for the baseline, and the decoder
//! stores the one that the processor can run. Everything a form calls is inlined into that function, so that the loops over
//! lanes are vectorised for the chosen instruction set.

#![allow(clippy::needless_range_loop, reason = "a lane's number indexes several rows")]

pub(crate) mod asynchronous;
pub(crate) mod atomic;
pub(crate) mod barriers;
pub(crate) mod bits;
pub(crate) mod block;
pub(crate) mod bulk;
pub(crate) mod compare;
pub(crate) mod control;
pub(crate) mod convert;
pub(crate) mod convert_pair;
pub(crate) mod float;
pub(crate) mod half;
pub(crate) mod int;
pub(crate) mod lanewise;
pub(crate) mod ldmatrix;
pub(crate) mod matrix;
mod matrix_avx2;
mod matrix_vnni;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod pack;
pub(crate) mod printf;
pub(crate) mod rounding;
mod scatter;
mod shared;
pub(crate) mod sync;
pub(crate) mod undefined;
pub(crate) mod warp;
pub(crate) mod wmma;

pub(crate) use block::Block;
pub(crate) use warp::{Lane, Warp};

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// The mask of all lanes.
pub(crate) const ALL: u32 = u32::MAX;

/// Where an operand's row of 32 lane values lies: byte offset in one of the tables of [`Warp::bases`], whose number is in
/// the low two bits; the third says that it has two rows, for 64 bits a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct Slot(pub u32);

/// Bytes of a row of 32-bit lanes.
pub(crate) const ROW_BYTES: u32 = 128;

/// Table of a [`Slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Table {
    /// Registers of the warp.
    Registers = 0,
    /// Broadcast literals of the function.
    Constants = 1,
    /// Broadcast parameters and special registers of the block.
    Launch = 2,
    /// Undefined bits of the registers, see [`undefined`].
    Twins = 3,
}

impl Slot {
    const DOUBLE: u32 = 4;

    pub(crate) fn new(table: Table, row: u32) -> Self {
        Self((row * ROW_BYTES) | table as u32)
    }

    /// The same place with 64 bits a lane.
    pub(crate) fn double(self) -> Self {
        Self(self.0 | Self::DOUBLE)
    }

    pub(crate) fn is_double(self) -> bool {
        self.0 & Self::DOUBLE != 0
    }

    pub(crate) fn table(self) -> u32 {
        self.0 & 3
    }

    pub(crate) fn row_number(self) -> u32 {
        self.0 / ROW_BYTES
    }

    /// Where the undefined bits of a register are kept.
    pub(crate) fn twin(self) -> Self {
        Self(self.0 | Table::Twins as u32)
    }
}

/// What the interpreter does after an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Flow {
    /// Go on with the next.
    Next,
    /// Lanes of [`Warp::mask`] go to the instruction's target.
    Jump,
    /// Lanes of [`Warp::mask`] go to [`Warp::jump`], the others stay at this instruction.
    JumpTo,
    /// Lanes of [`Warp::mask`] end.
    Exit,
    /// Lanes of [`Warp::mask`] wait at this instruction for [`Warp::members`].
    Gather,
    /// Lanes of [`Warp::mask`] wait at this instruction until someone else sets them going behind it.
    Park,
    /// Go on, but let other warps run first.
    Yield,
    /// Go on with the next, with undefined values from now on.
    Undefined,
    /// The block has a fault.
    Fault,
}

/// An instruction form's compiled function.
pub(crate) type Run = unsafe fn(&mut Warp, &mut Block, &Inst) -> Flow;

/// An instruction form as the decoder chooses it.
#[derive(Clone, Copy)]
pub(crate) struct Handler {
    pub run: Run,
    pub spread: undefined::Spread,
}

/// A decoded instruction.
#[derive(Clone, Debug)]
pub(crate) struct Inst {
    pub run: Run,
    pub dst: Slot,
    pub a: Slot,
    pub b: Slot,
    pub c: Slot,
    /// Predicate register that guards it; 0 is the one that always holds.
    pub guard: u32,
    /// All ones where the guard is negated.
    pub guard_flip: u32,
    /// Displacement of an address, or an immediate of the form.
    pub imm: i64,
    /// First entry of the instruction's further slots in [`Code::lists`], or a small immediate of the form.
    pub extra: u32,
    /// Branch target, or a small immediate of the form.
    pub target: u32,
}

/// A decoded function.
#[derive(Debug)]
pub(crate) struct Code {
    pub insts: Vec<Inst>,
    /// Further operand slots, predicates and targets of instructions.
    pub lists: Vec<u32>,
    /// Rows of [`Table::Constants`].
    pub constants: Vec<[u32; LANES]>,
    /// Rows of [`Table::Registers`] and predicates of a warp.
    pub register_rows: u32,
    pub predicates: u32,
    /// Rows of [`Table::Registers`] that hold the thread index, lane masks and the like.
    pub thread_rows: Vec<(u32, ThreadSpecial)>,
    /// Rows of [`Table::Launch`] and what they hold.
    pub launch_rows: Vec<LaunchRow>,
    /// PTX line and (file, line) of each instruction.
    pub lines: Vec<(u32, (u32, u32))>,
    pub classes: Vec<super::meter::Class>,
    /// How each instruction passes undefined bits on.
    pub spreads: Vec<undefined::Spread>,
    /// Instructions that stand for a further one of this class.
    pub merged: Vec<(u32, super::meter::Class)>,
    /// Texts that instructions refer to.
    pub texts: Vec<String>,
}

/// A special register that differs between the threads of a block but not between blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ThreadSpecial {
    Tid(u8),
    Lane,
    Warp,
    MaskEq,
    MaskLt,
    MaskLe,
    MaskGt,
    MaskGe,
}

/// One value that all threads of a block share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum LaunchRow {
    /// `bytes` of the argument buffer; 8 bytes take this row and the next.
    Param {
        offset: u32,
        bytes: u8,
        signed: bool,
    },
    /// The row behind an 8-byte value.
    Continued,
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    ClusterId(u8),
    NclusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
    ClusterCtarank,
    ClusterNctarank,
    Nwarpid,
    Smid,
    Nsmid,
    Gridid,
    DynamicSharedBytes,
    TotalSharedBytes,
    IsExplicitCluster,
    Zero,
}

/// An instruction set that handlers are compiled for.
pub(crate) trait Isa {
    /// Whether AVX2, FMA, F16C and BMI2 may be used.
    const AVX2: bool;
}

pub(crate) struct Avx2;
pub(crate) struct Portable;

impl Isa for Avx2 {
    const AVX2: bool = true;
}

impl Isa for Portable {
    const AVX2: bool = false;
}

/// An instruction form.
pub(crate) trait Op {
    /// How the form passes undefined bits on.
    const SPREAD: undefined::Spread = undefined::Spread::Any;

    /// Executes the form for the lanes of [`Warp::mask`].
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow;
}

/// # Safety
/// The processor must have AVX2, FMA, F16C and BMI2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn run_avx2<O: Op>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
    O::run::<Avx2>(w, b, i)
}

/// # Safety
/// None is asked for; it is unsafe only to have the type of a [`Handler`].
unsafe fn run_portable<O: Op>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
    O::run::<Portable>(w, b, i)
}

/// Tells whether the AVX2 forms can run here; the environment variable `SIMCUDA_PORTABLE` forbids them.
pub(crate) fn has_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::sync::OnceLock;
        static FOUND: OnceLock<bool> = OnceLock::new();
        *FOUND.get_or_init(|| {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && std::env::var_os("SIMCUDA_PORTABLE").is_none()
        })
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The function of form `O` for this processor.
pub(crate) fn handler<O: Op>() -> Handler {
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        return Handler { run: run_avx2::<O>, spread: O::SPREAD };
    }
    Handler { run: run_portable::<O>, spread: O::SPREAD }
}
