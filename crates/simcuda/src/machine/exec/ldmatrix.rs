//! `ldmatrix` and `stmatrix`: 8 x 8 matrices of 16-bit elements between shared memory and fragments.

use super::super::check::shadow::Access;
use super::block::SHARED_WINDOW;
use super::matrix::transpose;
use super::memory::{SHARED, addresses};
use super::scatter::{locate, settle};
use super::shared;
use super::undefined::{self, Spread};
use super::{ALL, Block, Flow, Inst, Isa, LANES, Op, Slot, Warp};

/// Layouts of `ldmatrix`, in `target`.
pub(crate) const PLAIN: u32 = 0;
pub(crate) const TRANSPOSED: u32 = 1;
/// `.m8n16.b8x16.b4x16_p64` and its signed kin widen 16 four-bit elements of an 8-byte row to bytes.
pub(crate) const WIDEN_U4: u32 = 2;
pub(crate) const WIDEN_S4: u32 = 3;
/// `.m16n16.trans.b8`: two 8 x 16 halves of bytes, transposed.
pub(crate) const BYTES_TRANSPOSED: u32 = 4;

/// `ldmatrix`: `COUNT` matrices, destinations in the list at `extra`, row addresses in `a`.
pub(crate) struct LdMatrix<const COUNT: usize>;

/// Lanes whose addresses are used: eight rows of each matrix.
#[inline(always)]
fn row_lanes(matrices: usize) -> u32 {
    ALL >> (32 - 8 * matrices)
}

impl<const COUNT: usize> Op for LdMatrix<COUNT> {
    const SPREAD: Spread = Spread::Load(COUNT as u8);

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        w.members = ALL;
        if !w.dead & !w.mask != 0 {
            return Flow::Gather;
        }
        let bytes_transposed = i.target == BYTES_TRANSPOSED;
        // Rows of 16 bytes; those of the widening form are padded to it.
        let matrices = if bytes_transposed { COUNT * 2 } else { COUNT };
        let addr = addresses::<SHARED>(w, i);
        let all = w.mask;
        let mut pointers = [std::ptr::null_mut(); LANES];
        w.mask = row_lanes(matrices.min(4));
        let found = shared::lanes::<16>(w, b, &addr, false, Access::Read, &mut pointers)
            || locate(w, b, &addr, SHARED, 16, Access::Read, &mut pointers);
        w.mask = all;
        if !found {
            return Flow::Fault;
        }
        // SAFETY: `locate` found 16 readable bytes for each row's lane.
        arrange::<COUNT>(w, b, i, |slot| slot, |lane| unsafe { pointers[lane].cast::<[u32; 4]>().read_unaligned() });
        let Some(unwritten) = b.unwritten.take() else { return Flow::Next };
        undefined::loaded(w, b, &unwritten);
        let word = |lane: usize, n: usize| unwritten.bits(lane, 4 * n, 4) as u32;
        arrange::<COUNT>(w, b, i, Slot::twin, |lane| [0, 1, 2, 3].map(|n| word(lane, n)));
        Flow::Undefined
    }
}

/// Puts rows of 16 bytes, which `read` gives by the lane that names their address, into the destinations of an `ldmatrix`.
#[inline(always)]
fn arrange<const COUNT: usize>(
    w: &mut Warp,
    b: &Block,
    i: &Inst,
    to: impl Fn(Slot) -> Slot,
    read: impl Fn(usize) -> [u32; 4],
) {
    if i.target == BYTES_TRANSPOSED {
        return arrange_bytes::<COUNT>(w, b, i, to, read);
    }
    for matrix in 0..COUNT {
        let mut d = [0u32; LANES];
        for row in 0..8 {
            d[4 * row..4 * row + 4].copy_from_slice(&read(matrix * 8 + row));
        }
        let d = match i.target {
            TRANSPOSED => transpose(&d),
            WIDEN_U4 | WIDEN_S4 => widen(&d, i.target == WIDEN_S4),
            _ => d,
        };
        w.set_words(to(b.slot(i.extra + matrix as u32)), d);
    }
}

/// Widens the first 8 bytes of each row, 16 four-bit elements, to 16 bytes.
#[inline(always)]
fn widen(d: &[u32; LANES], signed: bool) -> [u32; LANES] {
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let (row, part) = (lane / 4, lane % 4);
        let nibbles = d[row * 4 + part / 2] >> (16 * (part % 2));
        for byte in 0..4 {
            let value = nibbles >> (4 * byte) & 15;
            let value = if signed && value & 8 != 0 { value | 0xf0 } else { value };
            out[lane] |= value << (8 * byte);
        }
    }
    out
}

/// `.m16n16.trans.b8`: 16 rows of 16 bytes per matrix; register 2m holds the transposed upper eight rows' part of matrix m.
fn arrange_bytes<const COUNT: usize>(
    w: &mut Warp,
    b: &Block,
    i: &Inst,
    to: impl Fn(Slot) -> Slot,
    read: impl Fn(usize) -> [u32; 4],
) {
    for matrix in 0..COUNT {
        let byte =
            |row: usize, column: usize| read((matrix * 16 + row) % LANES)[column / 4] >> (8 * (column % 4)) & 0xff;
        for half in 0..2 {
            let word = |lane: usize| {
                let (column, row) = (half * 8 + lane / 4, 4 * (lane % 4));
                (0..4).fold(0, |word, k| word | byte(row + k, column) << (8 * k))
            };
            w.set_words(to(b.slot(i.extra + (matrix * 2 + half) as u32)), std::array::from_fn(word));
        }
    }
}

/// `stmatrix`: `COUNT` matrices, sources in the list at `extra`, row addresses in `a`; `target` 1 transposes.
pub(crate) struct StMatrix<const COUNT: usize>;

impl<const COUNT: usize> Op for StMatrix<COUNT> {
    const SPREAD: Spread = Spread::Own { access: true, own: rows_stored::<COUNT> };

    #[inline(always)]
    fn run<I: Isa>(w: &mut Warp, b: &mut Block, i: &Inst) -> Flow {
        w.members = ALL;
        if !w.dead & !w.mask != 0 {
            return Flow::Gather;
        }
        let addr = addresses::<SHARED>(w, i);
        let all = w.mask;
        let mut pointers = [std::ptr::null_mut(); LANES];
        w.mask = row_lanes(COUNT);
        let found = shared::lanes::<16>(w, b, &addr, false, Access::Write, &mut pointers)
            || locate(w, b, &addr, SHARED, 16, Access::Write, &mut pointers);
        w.mask = all;
        if !found {
            return Flow::Fault;
        }
        for matrix in 0..COUNT {
            let a = w.words(b.slot(i.extra + matrix as u32));
            let a = if i.target == TRANSPOSED { transpose(&a) } else { a };
            for row in 0..8 {
                let words: [u32; 4] = [0, 1, 2, 3].map(|k| a[4 * row + k]);
                // SAFETY: `locate` found 16 writable bytes for each row's lane.
                unsafe { pointers[matrix * 8 + row].cast::<[u32; 4]>().write_unaligned(words) };
            }
        }
        settle(w, b)
    }
}

/// Rows of a `stmatrix` that hold undefined bytes count as not written there.
fn rows_stored<const COUNT: usize>(w: &mut Warp, b: &mut Block, i: &Inst) {
    let addr = addresses::<SHARED>(w, i);
    for matrix in 0..COUNT {
        let a = w.undefined_bits(b.slot(i.extra + matrix as u32)).map(|bits| bits as u32);
        let a = if i.target == TRANSPOSED { transpose(&a) } else { a };
        for row in 0..8 {
            let undefined = |byte: usize| a[4 * row + byte / 4] >> (8 * (byte % 4)) & 0xff != 0;
            let bytes = (0..16).filter(|&byte| undefined(byte)).fold(0, |bits, byte| bits | 1 << byte);
            undefined::leave_unwritten(w, b, matrix * 8 + row, addr[matrix * 8 + row] | SHARED_WINDOW, bytes);
        }
    }
}
