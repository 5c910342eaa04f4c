//! Branches, ends, clocks, and the calls that the device runtime offers.

use std::io::Write;

use super::super::error::FaultKind;
use super::block::{LOCAL_WINDOW, SHARED_WINDOW, WINDOW_SHIFT};
use super::bulk::list_value;
use super::undefined::Spread;
use super::{Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

macro_rules! flow_op {
    ($($(#[$doc:meta])* $name:ident => $flow:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;
        impl Op for $name {
            const SPREAD: Spread = Spread::Nothing;

            #[inline(always)]
            fn run<I: Isa>(_: &mut Warp, _: &mut Block, _: &Inst) -> Flow { $flow }
        }
    )*};
}

flow_op! {
    /// `bra` to `target`.
    Branch => Flow::Jump;
    /// `exit`, and `ret` of an entry.
    Exit => Flow::Exit;
    /// Instructions without effect here.
    Nop => Flow::Next;
    /// `nanosleep`: lets others run.
    Sleep => Flow::Yield;
}

/// `brx.idx`: index in `a`, `target` targets in the list at `extra`.
pub(crate) struct BranchTable;

impl Op for BranchTable {
    const SPREAD: Spread = Spread::Sink;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let index = w.words(i.a);
        let first = index[w.leader()];
        // Lanes with another index come back to this instruction as a group of their own.
        w.mask = w.lanes().filter(|&lane| index[lane] == first).fold(0, |mask, lane| mask | 1 << lane);
        if first >= i.target {
            let message = format!("expected a branch index below {}, got {first}", i.target);
            return b.fault(FaultKind::OutOfBounds, w.leader(), None, message);
        }
        w.jump = b.list(i.extra + first);
        Flow::JumpTo
    }
}

/// `trap` and `brkpt`.
pub(crate) struct Trap;

impl Op for Trap {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, _: &Inst) -> Flow {
        b.fault(FaultKind::Trap, w.leader(), None, "expected no trap, got one".into())
    }
}

/// An instruction of a form that the machine does not have; its text is number `extra`.
pub(crate) struct Missing;

impl Op for Missing {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let text = b.env.code.texts[i.extra as usize].clone();
        b.fault(FaultKind::Unsupported, w.leader(), None, text)
    }
}

/// `%clock`, `%clock64` and `%globaltimer`: nanoseconds of the host; `extra` 1 writes 64 bits.
pub(crate) struct Clock;

impl Op for Clock {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        let now = START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1;
        if i.extra == 1 {
            w.set_doubles(i.dst, [now; LANES])
        } else {
            w.set_words(i.dst, [now as u32; LANES])
        }
        Flow::Next
    }
}

/// `isspacep`: window number `extra` of the generic address `a`, to predicate `dst`.
pub(crate) struct IsSpace;

impl Op for IsSpace {
    const SPREAD: Spread = Spread::Test;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, _: &mut Block, i: &Inst) -> Flow {
        let a = w.doubles(i.a);
        let bits = (0..LANES).fold(0, |m, l| m | u32::from(a[l] >> WINDOW_SHIFT == u64::from(i.extra)) << l);
        w.set_pred(i.dst.0, bits);
        Flow::Next
    }
}

/// `mapa`: address `a` in the block of rank `b`; `extra` bit 0 says 64 bits, bit 1 a generic address.
pub(crate) struct Mapa;

impl Op for Mapa {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let rank = w.words(i.b);
        let map = |address: u64, rank: u32| address & !0xff00_0000 | u64::from(rank + 1) << super::block::CLUSTER_SHIFT;
        for lane in w.lanes() {
            if rank[lane] as usize >= b.peers.len() {
                let message =
                    format!("expected a rank below the cluster's {} blocks, got {}", b.peers.len(), rank[lane]);
                return b.fault(FaultKind::OutOfBounds, lane, None, message);
            }
            if i.extra & 1 == 1 {
                let address = w.doubles(i.a)[lane];
                w.doubles_mut(i.dst)[lane] = map(address, rank[lane]);
            } else {
                let address = w.words(i.a)[lane];
                w.words_mut(i.dst)[lane] = map(address.into(), rank[lane]) as u32;
            }
        }
        Flow::Next
    }
}

/// `getctarank`: rank of the block whose shared memory holds `a`; `extra` 1 says 64 bits.
pub(crate) struct CtaRank;

impl Op for CtaRank {
    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let a = if i.extra == 1 { w.doubles(i.a) } else { w.words(i.a).map(u64::from) };
        let rank = |address: u64| match (address >> super::block::CLUSTER_SHIFT) as u32 & 0xff {
            0 => b.rank,
            mapped => mapped - 1,
        };
        w.set_words(i.dst, a.map(rank));
        Flow::Next
    }
}

/// Reads bytes behind a generic address of one lane, for the runtime calls below.
fn read_bytes(w: &Warp, b: &mut Block, lane: usize, address: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    let source: *const u8 = match address >> WINDOW_SHIFT {
        0 => {
            b.memory.read(&mut bytes, address).ok()?;
            return Some(bytes);
        }
        1 => {
            let (peer, offset) = b.shared_at(address & (SHARED_WINDOW - 1), len as u32)?;
            peer.shared.wrapping_add(offset as usize)
        }
        2 => b.local_at(w, lane, address & (LOCAL_WINDOW - 1), len as u32)?,
        _ => return None,
    };
    // SAFETY: the arms above found `len` bytes at source.
    unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), len) };
    Some(bytes)
}

/// A zero-terminated text behind a generic address.
fn read_text(w: &Warp, b: &mut Block, lane: usize, address: u64) -> String {
    const LONGEST: u64 = 4096;
    let byte = |b: &mut Block, at: u64| read_bytes(w, b, lane, address + at, 1).map_or(0, |bytes| bytes[0]);
    let bytes: Vec<u8> = (0..LONGEST).map(|at| byte(b, at)).take_while(|&c| c != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `__assertfail(message, file, line, function, size)`: values in the list at `extra`.
pub(crate) struct AssertFail;

impl Op for AssertFail {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        let lane = w.leader();
        let value = |b: &Block, n: u32| list_value(w, b, i.extra + 2 * n, lane);
        let (message, file, line) = (value(b, 0), value(b, 1), value(b, 2));
        let (message, file) = (read_text(w, b, lane, message), read_text(w, b, lane, file));
        b.fault(FaultKind::Assert, lane, None, format!("{file}:{line}: assertion `{message}` failed"))
    }
}

/// `vprintf(format, arguments)`: values in the list at `extra`; the count goes to `dst`.
pub(crate) struct Printf;

impl Op for Printf {
    const SPREAD: Spread = Spread::Nothing;

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        for lane in w.lanes() {
            let (format, arguments) = (list_value(w, b, i.extra, lane), list_value(w, b, i.extra + 2, lane));
            let text = read_text(w, b, lane, format);
            let out =
                super::printf::expand(&text, |offset, len| read_bytes(w, b, lane, arguments + offset, len), |_| None);
            // Nobody is told if the host's output is closed.
            let _ = std::io::stdout().write_all(out.as_bytes());
            if i.dst != Slot(0) {
                w.words_mut(i.dst)[lane] = out.len() as u32;
            }
        }
        Flow::Next
    }
}
