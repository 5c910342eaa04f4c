//! Values that nothing wrote, on their way through the registers of a warp.
//!
//! A load of bytes that nothing wrote gives the warp a twin of its registers, in which the undefined bits are set. As long as it
//! has one, [`before`] and [`after`] accompany every instruction: what is computed from undefined bits is undefined, and a branch,
//! an address, an atomic or a store to global memory that depends on them is a finding. How a form passes them on is its
//! [`Spread`]. Warps that read nothing of the kind, which is nearly all of them, pay nothing.

use super::super::checks::Check;
use super::super::error::{Allocation, FaultKind};
use super::barriers::{BARRIER_REDUCE_SHIFT, REDUCE_POPC};
use super::block::{Note, WINDOW_SHIFT};
use super::compare::{JOIN_AND, JOIN_OR, PredLogic};
use super::memory::{GENERIC, SHARED, TARGET_WINDOW_SHIFT};
use super::warp::{Bits, Row};
use super::{ALL, Block, Flow, Inst, LANES, Slot, Table, Warp};

/// How a form passes undefined bits on. Operands are those of [`Inst`]; lists are at its `extra`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// Has nothing to pass on.
    Nothing,
    /// `dst` is undefined in lanes where any bit of `a`, `b` or `c` is.
    Any,
    /// The same for each 16-bit half.
    Halves,
    /// The same, of the low or high half of `a` only.
    Half { high: bool },
    /// The high half comes from `a`, the low one from `b`.
    Pair,
    /// The first operands are moved as the form moves their values; the others say how.
    Move(u8),
    /// The same for registers in the list, so many or `target >> 8` of them; their twins lie behind them.
    Parts(u8),
    /// Each bit comes from the same bits of the first operands.
    Bitwise(u8),
    /// `a` or `b` by the predicate `c`.
    Select,
    /// A word by comparison, joined with a predicate.
    Set,
    /// Predicates by comparison, joined with a predicate: `dst`, and `target` or `c`.
    Compare { second_in_c: bool },
    /// Predicate `dst` of `a`.
    Test,
    /// `dst` as [`Spread::Any`], predicate `target` too.
    WordAndPredicate,
    /// Predicate logic.
    Logic,
    /// Every lane's result depends on `a` of all lanes.
    Warp { source_is_predicate: bool, result_is_predicate: bool },
    /// Registers in the list are loaded from the address `a`.
    Load(u8),
    /// Registers in the list, of so many bytes each, are stored at the address `a`.
    Store { parts: u8, bytes: u8, space: u8 },
    /// Matrix product of registers in the list, see [`super::matrix`].
    Matrix { rows: u8, words: u8, half: bool },
    /// The form has a function of its own; `a` and `b` say where it goes and must be defined if it is an access.
    Own { access: bool, own: fn(&mut Warp, &mut Block, &Inst) },
    /// `a`, `b` and `c` must be defined; `dst` then is.
    Sink,
    /// `a` and `b` must be defined, and predicate `c` where the barrier reduces it.
    Barrier,
    /// So many pairs in the list, of a slot and a flag, must be defined.
    ListSink(u8),
}

/// Where undefined bits came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub pc: u32,
    pub address: u64,
    pub allocation: Option<Allocation>,
}

/// What the lanes of one access read that nothing wrote: a bit per byte.
#[derive(Clone, Debug)]
pub(crate) struct Unwritten {
    pub bytes: [u16; LANES],
    pub address: u64,
    pub allocation: Option<Allocation>,
}

impl Unwritten {
    /// Undefined bits of `size` bytes of a lane's access, from byte `at` on.
    pub(crate) fn bits(&self, lane: usize, at: usize, size: usize) -> u64 {
        let bytes = self.bytes[lane] >> at;
        (0..size).fold(0, |bits, byte| bits | if bytes >> byte & 1 == 1 { 0xff << (8 * byte) } else { 0 })
    }

    /// The same as bytes, for a form that loads its element from them.
    pub(crate) fn as_bytes(&self, lane: usize) -> [u8; 16] {
        std::array::from_fn(|byte| if self.bytes[lane] >> byte & 1 == 1 { 0xff } else { 0 })
    }
}

/// Rows of scratch behind the twins: three operands, two results.
const SCRATCH: usize = 10;

/// The undefined bits of a warp's registers and predicates.
pub(crate) struct Undefined {
    /// Twins of the registers, then scratch.
    rows: Vec<Row>,
    preds: Vec<u32>,
    origin: Origin,
}

impl Undefined {
    fn any(&self) -> bool {
        let registers = &self.rows[..self.rows.len() - SCRATCH];
        self.preds.iter().any(|&bits| bits != 0) || registers.iter().any(|row| row.0.iter().any(|&bits| bits != 0))
    }
}

impl Warp {
    /// Gives the warp twins of its registers, of which none has undefined bits yet.
    fn make_twins(&mut self, b: &Block, origin: Origin) {
        let code = &b.env.code;
        let mut twins = Undefined {
            rows: vec![Row([0; LANES]); code.register_rows as usize + SCRATCH],
            preds: vec![0; code.predicates as usize],
            origin,
        };
        self.bases[Table::Twins as usize] = twins.rows.as_mut_ptr().cast();
        self.undefined = Some(Box::new(twins));
    }

    /// Lets a warp whose values are all defined be as others again.
    pub(crate) fn drop_idle_twins(&mut self) {
        if self.undefined.as_ref().is_some_and(|twins| !twins.any()) {
            self.undefined = None;
        }
    }

    /// Undefined lanes of a predicate.
    fn undefined_pred(&self, pred: u32) -> u32 {
        self.undefined.as_ref().map_or(0, |twins| twins.preds[pred as usize])
    }

    fn set_undefined_pred(&mut self, pred: u32, lanes: u32) {
        let mask = self.mask;
        if let Some(twins) = &mut self.undefined {
            let bits = &mut twins.preds[pred as usize];
            *bits = *bits & !mask | lanes & mask;
        }
    }

    /// Undefined bits of a register; both words of 64 bits are in one.
    pub(super) fn undefined_bits(&self, slot: Slot) -> [u64; LANES] {
        if slot.table() != Table::Registers as u32 {
            return [0; LANES];
        }
        if slot.is_double() { self.doubles(slot.twin()) } else { self.words(slot.twin()).map(u64::from) }
    }

    /// Executing lanes in which any bit of a register is undefined.
    fn undefined_lanes(&self, slot: Slot) -> u32 {
        let bits = self.undefined_bits(slot);
        self.lanes().filter(|&lane| bits[lane] != 0).fold(0, |mask, lane| mask | 1 << lane)
    }

    /// Makes a register of the executing lanes undefined as a whole in `lanes`, and defined in the others.
    fn set_undefined(&mut self, slot: Slot, lanes: u32) {
        if slot.is_double() {
            self.set_undefined_doubles(slot, std::array::from_fn(|lane| u64::from(lanes >> lane & 1).wrapping_neg()));
        } else {
            self.set_undefined_words(slot, std::array::from_fn(|lane| (lanes >> lane & 1).wrapping_neg()));
        }
    }

    /// Sets the undefined bits of a 32-bit register of the executing lanes.
    pub(super) fn set_undefined_words(&mut self, slot: Slot, bits: [u32; LANES]) {
        if slot.row_number() != 0 {
            self.set_words(slot.twin(), bits);
        }
    }

    fn set_undefined_doubles(&mut self, slot: Slot, bits: [u64; LANES]) {
        if slot.row_number() != 0 {
            self.set_doubles(slot.twin(), bits);
        }
    }
}

/// Starts to follow what a load has read. The form then sets the undefined bits of its destinations.
#[cold]
pub(super) fn loaded(w: &mut Warp, b: &Block, read: &Unwritten) {
    if w.undefined.is_none() {
        w.make_twins(b, Origin { pc: w.pc, address: read.address, allocation: read.allocation });
    }
}

/// An instruction that depends on undefined bits in `lanes`; whether it stops the kernel.
fn reached(w: &Warp, b: &mut Block, lanes: u32, what: &str) -> bool {
    if lanes == 0 {
        return false;
    }
    let Some(Origin { pc, address, allocation }) = w.undefined.as_ref().map(|twins| twins.origin) else { return false };
    let (line, location) = b.env.code.lines.get(pc as usize).copied().unwrap_or_default();
    let source = b.env.source(location).map_or(String::new(), |(file, line)| format!(" ({file}:{line})"));
    let message = format!(
        "expected a value that something wrote {what}, got one that depends on what nothing wrote; the first that the warp read \
         was at ptx line {line}{source}"
    );
    let lane = lanes.trailing_zeros() as usize & 31;
    let note = Note { kind: FaultKind::Uninitialized, lane, address: Some(address), allocation, message };
    b.found(w, Check::Init, lanes.count_ones(), note)
}

/// Whether a form acts on more than registers.
fn acts(spread: Spread) -> bool {
    matches!(spread, Spread::Nothing | Spread::Store { .. } | Spread::Sink | Spread::Barrier | Spread::ListSink(_))
}

/// What precedes an instruction of a warp that has undefined bits; `mask` are the lanes of `active` whose guard holds. False if the
/// kernel is to stop.
#[inline(never)]
pub(crate) fn before(w: &mut Warp, b: &mut Block, i: &Inst, active: u32) -> bool {
    let (spread, mask) = (b.env.code.spreads[w.pc as usize], w.mask);
    let unsure = w.undefined_pred(i.guard) & active;
    if unsure != 0 && acts(spread) && reached(w, b, unsure, "as the condition of a branch or a guard") {
        return false;
    }
    let goes_on = mask == 0 || prepare(w, b, i, spread);
    if unsure != 0 && !acts(spread) {
        // Whether these lanes' results were written is not known.
        w.mask = unsure;
        for_each_result(b, i, spread, |written| match written {
            Written::Register(slot) => w.set_undefined(slot, ALL),
            Written::Predicate(pred) => w.set_undefined_pred(pred, ALL),
        });
        w.mask = mask;
    }
    if let Some(twins) = &mut w.undefined {
        // Destinations that nobody reads lie in the first rows.
        twins.rows[..2].fill(Row([0; LANES]));
    }
    goes_on
}

/// What a form writes.
enum Written {
    Register(Slot),
    Predicate(u32),
}

fn for_each_result(b: &Block, i: &Inst, spread: Spread, mut each: impl FnMut(Written)) {
    let list = |count: u32, each: &mut dyn FnMut(Written)| {
        (0..count).for_each(|n| each(Written::Register(b.slot(i.extra + n))));
    };
    match spread {
        Spread::Nothing | Spread::Store { .. } | Spread::Barrier | Spread::ListSink(_) | Spread::Own { .. } => {}
        Spread::Any
        | Spread::Halves
        | Spread::Half { .. }
        | Spread::Pair
        | Spread::Move(_)
        | Spread::Bitwise(_)
        | Spread::Select
        | Spread::Set
        | Spread::Sink
        | Spread::Warp { result_is_predicate: false, .. } => each(Written::Register(i.dst)),
        Spread::Parts(_) if i.dst != Slot::default() => each(Written::Register(i.dst)),
        Spread::Parts(count) => list(parts(i, count), &mut each),
        Spread::Load(count) => list(count.into(), &mut each),
        Spread::Matrix { rows, half, .. } => list(if half { 2 } else { u32::from(rows) / 4 }, &mut each),
        Spread::Compare { second_in_c } => {
            each(Written::Predicate(i.dst.0));
            each(Written::Predicate(if second_in_c { i.c.0 } else { i.target }));
        }
        Spread::Test | Spread::Logic | Spread::Warp { .. } => each(Written::Predicate(i.dst.0)),
        Spread::WordAndPredicate => {
            each(Written::Register(i.dst));
            each(Written::Predicate(i.target));
        }
    }
}

fn parts(i: &Inst, count: u8) -> u32 {
    if count == 0 { i.target >> 8 } else { count.into() }
}

/// Lanes in which the result of a comparison is undefined. Joined with a predicate that decides alone, it is not.
fn compared(w: &Warp, i: &Inst) -> u32 {
    let lanes = w.undefined_lanes(i.a) | w.undefined_lanes(i.b);
    let (other, unsure) = (w.pred(i.imm as u32), w.undefined_pred(i.imm as u32));
    let other = if i.imm >> 34 & 1 == 1 { !other } else { other };
    match i.imm >> 32 & 3 {
        0 => lanes,
        JOIN_AND => lanes & (other | unsure) | unsure,
        JOIN_OR => lanes & (!other | unsure) | unsure,
        _ => lanes | unsure,
    }
}

fn prepare(w: &mut Warp, b: &mut Block, i: &Inst, spread: Spread) -> bool {
    match spread {
        Spread::Nothing | Spread::Warp { .. } | Spread::Matrix { .. } | Spread::Own { access: false, .. } => true,
        Spread::Own { .. } => {
            let lanes = w.undefined_lanes(i.a) | w.undefined_lanes(i.b);
            !reached(w, b, lanes, "as an address")
        }
        Spread::Load(count) => {
            let goes_on = !reached(w, b, w.undefined_lanes(i.a), "as an address");
            (0..count.into()).for_each(|n| w.set_undefined(b.slot(i.extra + n), 0));
            goes_on
        }
        Spread::Store { .. } => prepare_store(w, b, i, spread),
        Spread::Sink => {
            let goes_on = !reached(w, b, any(w, i), "as an address or an operand of an atomic");
            w.set_undefined(i.dst, 0);
            goes_on
        }
        Spread::Barrier => {
            let how = i.target >> BARRIER_REDUCE_SHIFT & 3;
            let joined = if how == 0 { 0 } else { w.undefined_pred(i.c.0) & w.mask };
            let lanes = w.undefined_lanes(i.a) | w.undefined_lanes(i.b);
            match how {
                0 => {}
                REDUCE_POPC => w.set_undefined(i.dst, 0),
                _ => w.set_undefined_pred(i.dst.0, 0),
            }
            !reached(w, b, lanes | joined, "at a barrier")
        }
        Spread::ListSink(pairs) => {
            let slots = (0..pairs.into()).map(|n| b.slot(i.extra + 2 * n));
            let lanes = slots.fold(0, |lanes, slot| lanes | w.undefined_lanes(slot));
            !reached(w, b, lanes, "as an address or a count")
        }
        _ => {
            spread_registers(w, b, i, spread);
            spread_predicates(w, i, spread);
            true
        }
    }
}

/// Executing lanes in which any operand has undefined bits.
fn any(w: &Warp, i: &Inst) -> u32 {
    [i.a, i.b, i.c].iter().fold(0, |lanes, &slot| lanes | w.undefined_lanes(slot))
}

/// Undefined bits of the registers that a form computes.
fn spread_registers(w: &mut Warp, b: &mut Block, i: &Inst, spread: Spread) {
    let operands = [i.a, i.b, i.c];
    let whole = |x: u64, mask: u32| if x & u64::from(mask) != 0 { mask } else { 0 };
    match spread {
        Spread::Any | Spread::WordAndPredicate => w.set_undefined(i.dst, any(w, i)),
        Spread::Halves => {
            let [x, y, z] = operands.map(|slot| w.undefined_bits(slot));
            let of = |lane: usize| {
                let bits = x[lane] | y[lane] | z[lane];
                whole(bits, 0xffff) | whole(bits, 0xffff_0000)
            };
            w.set_undefined_words(i.dst, std::array::from_fn(of));
        }
        Spread::Half { high } => {
            let mask = if high { 0xffff_0000 } else { 0xffff };
            let bits = w.undefined_bits(i.a);
            w.set_undefined_words(i.dst, bits.map(|x| if x & mask != 0 { ALL } else { 0 }));
        }
        Spread::Pair => {
            let (high, low) = (w.undefined_bits(i.a), w.undefined_bits(i.b));
            let half = |x: u64, mask: u32| if x != 0 { mask } else { 0 };
            let of = |lane: usize| half(high[lane], 0xffff_0000) | half(low[lane], 0xffff);
            w.set_undefined_words(i.dst, std::array::from_fn(of));
        }
        Spread::Move(data) => {
            let control = operands[data as usize..].iter().fold(0, |lanes, &slot| lanes | w.undefined_lanes(slot));
            move_bits(w, b, i, data, control);
        }
        Spread::Select => {
            let unsure = w.undefined_pred(i.c.0);
            move_bits(w, b, i, 2, unsure);
        }
        Spread::Parts(count) => {
            let twin = Inst { dst: twin_of(i.dst), a: twin_of(i.a), extra: i.extra + parts(i, count), ..i.clone() };
            // SAFETY: as for the instruction itself; the twins are rows of the same shape.
            unsafe { (i.run)(w, b, &twin) };
        }
        Spread::Bitwise(count) => bitwise(w, b, i, count.into()),
        Spread::Set => {
            let lanes = compared(w, i);
            w.set_undefined(i.dst, lanes);
        }
        _ => {}
    }
}

/// Undefined lanes of the predicates that a form computes.
fn spread_predicates(w: &mut Warp, i: &Inst, spread: Spread) {
    match spread {
        Spread::Compare { second_in_c } => {
            let lanes = compared(w, i);
            w.set_undefined_pred(i.dst.0, lanes);
            let second = if second_in_c { i.c.0 } else { i.target };
            if second != 0 {
                w.set_undefined_pred(second, lanes);
            }
        }
        Spread::Test => {
            let lanes = w.undefined_lanes(i.a);
            w.set_undefined_pred(i.dst.0, lanes);
        }
        Spread::WordAndPredicate => {
            let lanes = any(w, i);
            w.set_undefined_pred(i.target, lanes);
        }
        Spread::Logic => {
            let ((a, b), (x, y)) = ((w.pred(i.a.0), w.pred(i.b.0)), (w.undefined_pred(i.a.0), w.undefined_pred(i.b.0)));
            let now = PredLogic::bits(i, a, b);
            let flipped = [(a ^ x, b), (a, b ^ y), (a ^ x, b ^ y)].map(|(a, b)| PredLogic::bits(i, a, b) ^ now);
            w.set_undefined_pred(i.dst.0, flipped[0] | flipped[1] | flipped[2]);
        }
        _ => {}
    }
}

/// The twin of an operand; of what is not a register a row without undefined bits.
fn twin_of(slot: Slot) -> Slot {
    if slot.table() == Table::Registers as u32 { slot.twin() } else { Slot(Table::Twins as u32) }
}

/// Runs a form on the twins of its first `data` operands; `control` are lanes in which it is not known what it moves.
fn move_bits(w: &mut Warp, b: &mut Block, i: &Inst, data: u8, control: u32) {
    let mut twin = Inst { dst: i.dst.twin(), target: 0, ..i.clone() };
    for slot in [&mut twin.a, &mut twin.b, &mut twin.c].into_iter().take(data.into()) {
        *slot = twin_of(*slot);
    }
    // SAFETY: as for the instruction itself; the twins are rows of the same shape.
    let flow = unsafe { (i.run)(w, b, &twin) };
    if i.target != 0 && flow == Flow::Next {
        // Of a shuffle, which says so too where the lane to read is not there.
        w.set_undefined_pred(i.target, control);
    }
    if control != 0 && flow == Flow::Next {
        let mask = w.mask;
        w.mask &= control;
        w.set_undefined(i.dst, ALL);
        w.mask = mask;
    }
}

/// A bit of the result is undefined if it changes with the undefined bits of the operands.
fn bitwise(w: &mut Warp, b: &mut Block, i: &Inst, count: usize) {
    let operands = [i.a, i.b, i.c];
    if operands[..count].iter().all(|&slot| w.undefined_lanes(slot) == 0) {
        w.set_undefined(i.dst, 0);
        return;
    }
    let double = i.dst.is_double();
    let first = b.env.code.register_rows;
    let scratch = |n: u32| Slot::new(Table::Twins, first + 2 * n);
    let value = |w: &Warp, slot: Slot| if double { w.doubles(slot) } else { w.words(slot).map(u64::from) };
    let put = |w: &mut Warp, slot: Slot, bits: [u64; LANES]| {
        if double { w.set_doubles(slot, bits) } else { w.set_words(slot, bits.map(|x| x as u32)) }
    };
    let (mut undefined, mut usual) = ([0u64; LANES], [0u64; LANES]);
    for flips in 0..1u32 << count {
        for (n, &slot) in operands[..count].iter().enumerate() {
            let (bits, mut now) = (w.undefined_bits(slot), value(w, slot));
            if flips >> n & 1 == 1 {
                now.iter_mut().zip(bits).for_each(|(x, flip)| *x ^= flip);
            }
            put(w, scratch(n as u32), now);
        }
        let slot = |n: u32, slot: Slot| if (n as usize) < count { scratch(n) } else { slot };
        let form = Inst { dst: scratch(3), a: slot(0, i.a), b: slot(1, i.b), c: slot(2, i.c), ..i.clone() };
        // SAFETY: as for the instruction itself; scratch rows have room for 64 bits.
        unsafe { (i.run)(w, b, &form) };
        let result = value(w, scratch(3));
        if flips == 0 {
            usual = result;
        }
        for lane in 0..LANES {
            undefined[lane] |= result[lane] ^ usual[lane];
        }
    }
    put(w, i.dst.twin(), undefined);
}

/// Addresses of a store as generic ones.
fn store_addresses(w: &Warp, i: &Inst, space: u8) -> [u64; LANES] {
    let window = if space == GENERIC { u64::from(i.target >> TARGET_WINDOW_SHIFT) << WINDOW_SHIFT } else { 0 };
    if space == SHARED {
        return w.words(i.a).map(|a| u64::from(a.wrapping_add(i.imm as u32)) | 1 << WINDOW_SHIFT);
    }
    w.doubles(i.a).map(|a| a.wrapping_add(i.imm as u64) | window)
}

/// Undefined bytes of each lane's store, as bits.
fn stored_bytes(w: &Warp, b: &Block, i: &Inst, parts: u8, bytes: u8) -> [u16; LANES] {
    let mut undefined = [0u16; LANES];
    for part in 0..u32::from(parts) {
        let bits = w.undefined_bits(b.slot(i.extra + part));
        for lane in w.lanes() {
            for byte in (0..u32::from(bytes)).filter(|byte| bits[lane] >> (8 * byte) & 0xff != 0) {
                undefined[lane] |= 1 << (part * u32::from(bytes) + byte);
            }
        }
    }
    undefined
}

fn prepare_store(w: &mut Warp, b: &mut Block, i: &Inst, spread: Spread) -> bool {
    let Spread::Store { parts, bytes, space } = spread else { return true };
    if reached(w, b, w.undefined_lanes(i.a), "as an address") {
        return false;
    }
    let (stored, addresses) = (stored_bytes(w, b, i, parts, bytes), store_addresses(w, i, space));
    let public = |&lane: &usize| stored[lane] != 0 && addresses[lane] >> WINDOW_SHIFT == 0;
    let lanes = w.lanes().filter(public).fold(0, |mask, lane| mask | 1 << lane);
    !reached(w, b, lanes, "in a store to global memory")
}

/// What follows an instruction that went on as `flow`.
#[inline(never)]
pub(crate) fn after(w: &mut Warp, b: &mut Block, i: &Inst, flow: Flow) {
    let done = matches!(flow, Flow::Next | Flow::Undefined);
    match b.env.code.spreads[w.pc as usize] {
        Spread::Store { parts, bytes, space } if done => {
            let (stored, addresses) = (stored_bytes(w, b, i, parts, bytes), store_addresses(w, i, space));
            for lane in w.lanes().filter(|&lane| stored[lane] != 0) {
                leave_unwritten(w, b, lane, addresses[lane], stored[lane]);
            }
        }
        Spread::Warp { source_is_predicate, result_is_predicate } if done => {
            let mask = w.mask;
            let source = if source_is_predicate { w.undefined_pred(i.a.0) & mask } else { w.undefined_lanes(i.a) };
            let lanes = if source != 0 { ALL } else { 0 };
            if result_is_predicate {
                w.set_undefined_pred(i.dst.0, lanes);
            } else {
                w.set_undefined(i.dst, lanes);
            }
            if i.target != 0 {
                w.set_undefined_pred(i.target, lanes);
            }
        }
        Spread::Matrix { rows, words, half } if done => multiply(w, b, i, rows.into(), words.into(), half),
        Spread::Own { own, .. } if done => own(w, b, i),
        _ => {}
    }
}

/// Shared and local bytes that an undefined value was stored to count as not written.
pub(super) fn leave_unwritten(w: &Warp, b: &mut Block, lane: usize, address: u64, bytes: u16) {
    let offset = address & ((1 << WINDOW_SHIFT) - 1);
    match address >> WINDOW_SHIFT {
        1 => {
            if let Some((peer, offset)) = b.shared_at(offset, 1) {
                // SAFETY: the peer belongs to this worker's cluster; no other reference to its shadow is alive.
                unsafe { (*peer.shadow).leave_unwritten(offset, bytes) };
            }
        }
        2 => {
            let start = (w.index as usize * LANES + lane) * b.env.local_bytes as usize + offset as usize;
            b.local_unwritten.extend(Bits(bytes.into()).map(|byte| start + byte));
        }
        _ => {}
    }
}

/// An element of a matrix product is undefined if anything in its row of A, its column of B or C is.
fn multiply(w: &mut Warp, b: &Block, i: &Inst, rows: u32, words: u32, half: bool) {
    let (outputs, inputs) = (if half { 2 } else { rows / 4 }, words * rows / 32);
    let bits = |n: u32| w.undefined_bits(b.slot(i.extra + n));
    let (mut bad_rows, mut bad_columns) = (0u32, 0u32);
    for n in 0..inputs {
        let upper = if rows == 16 { n % 2 * 8 } else { 0 };
        let a = bits(outputs + n);
        (0..LANES).filter(|&lane| a[lane] != 0).for_each(|lane| bad_rows |= 1 << (lane as u32 / 4 + upper));
    }
    for n in 0..words / 4 {
        let column = bits(outputs + inputs + n);
        (0..LANES).filter(|&lane| column[lane] != 0).for_each(|lane| bad_columns |= 1 << (lane / 4));
    }
    let accumulators: Vec<[u64; LANES]> = (0..outputs).map(|n| bits(outputs + inputs + words / 4 + n)).collect();
    for n in 0..outputs {
        let element = |lane: usize, row: u32, column: u32, mask: u32| {
            let bad = bad_rows >> row & 1 == 1 || bad_columns >> column & 1 == 1;
            if bad || accumulators[n as usize][lane] & u64::from(mask) != 0 { mask } else { 0 }
        };
        let of = |lane: usize| {
            let (row, column) = (lane as u32 / 4, lane as u32 % 4 * 2);
            if half {
                let row = row + 8 * n;
                element(lane, row, column, 0xffff) | element(lane, row, column + 1, 0xffff_0000)
            } else {
                element(lane, row + n / 2 * 8, column + n % 2, ALL)
            }
        };
        w.set_undefined_words(b.slot(i.extra + n), std::array::from_fn(of));
    }
}
