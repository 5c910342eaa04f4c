//! Register allocation: virtual registers share rows where they are not live together.
//!
//! PTX names a register per value, so that a large kernel declares thousands; kept apart they would not fit the cache. Lanes
//! never overwrite each other's values, so that the liveness of a single thread decides.

use std::collections::HashMap;

use super::super::parse::ast::{Func, Operand, RegKind, Stmt};
use super::halves::Half;

/// Where each virtual register lies: row or predicate number, relative to the first of its kind.
#[derive(Debug, Default)]
pub(super) struct Allocation {
    /// Row of a word, first of two rows of a 64-bit value, or predicate.
    pub place: Vec<u32>,
    pub rows: u32,
    pub predicates: u32,
}

/// Instructions whose first operand is read, although it is a register.
fn writes_nothing(stmt: &Stmt<'_>) -> bool {
    let mut parts = stmt.opcode.split('.');
    match parts.next().unwrap_or("") {
        "bar" | "barrier" => !parts.any(|p| p == "red"),
        "bra" | "brx" | "call" | "exit" | "ret" | "trap" | "membar" | "fence" | "nanosleep" | "griddepcontrol"
        | "setmaxnreg" | "st" | "red" | "cp" | "stmatrix" | "prefetch" | "discard" | "applypriority" | "pmevent" => {
            true
        }
        _ => matches!(stmt.args.first(), Some(Operand::Address { .. })),
    }
}

fn visit(operand: &Operand<'_>, each: &mut impl FnMut(u32)) {
    match operand {
        Operand::Reg(reg) | Operand::Not(reg) => each(*reg),
        Operand::Address { base, .. } => visit(base, each),
        Operand::List(items) => items.iter().for_each(|item| visit(item, each)),
        Operand::Pair(a, b) => {
            visit(a, each);
            visit(b, each);
        }
        _ => {}
    }
}

/// Calls `define` and `read` for the registers of a statement; a guarded definition also reads.
pub(super) fn effects(stmt: &Stmt<'_>, mut define: impl FnMut(u32), mut read: impl FnMut(u32)) {
    if let Some((reg, _)) = stmt.guard {
        read(reg);
    }
    let first_read = usize::from(!writes_nothing(stmt));
    for arg in stmt.args.iter().take(first_read) {
        if let Operand::Address { .. } = arg {
            visit(arg, &mut read);
            continue;
        }
        visit(arg, &mut define);
        if stmt.guard.is_some() {
            visit(arg, &mut read);
        }
    }
    stmt.args.iter().skip(first_read).for_each(|arg| visit(arg, &mut read));
}

/// A basic block: its statements and the blocks that may follow.
struct Block {
    first: usize,
    end: usize,
    next: Vec<usize>,
}

fn blocks(func: &Func<'_>) -> Vec<Block> {
    let len = func.body.len();
    let mut starts = vec![false; len + 1];
    starts[0] = true;
    func.labels.iter().for_each(|&at| starts[at.min(len)] = true);
    let ends = |s: &Stmt<'_>| matches!(s.opcode.split('.').next(), Some("bra" | "brx" | "exit" | "ret" | "trap"));
    for (at, stmt) in func.body.iter().enumerate() {
        starts[at + 1] |= ends(stmt);
    }
    let firsts: Vec<usize> = (0..len).filter(|&at| starts[at]).collect();
    let block_at = |at: usize| firsts.binary_search(&at).ok();
    let mut blocks = Vec::new();
    for (index, &first) in firsts.iter().enumerate() {
        let end = firsts.get(index + 1).copied().unwrap_or(len);
        let last = &func.body[end - 1];
        let mut next = Vec::new();
        if !ends(last) || last.guard.is_some() {
            next.extend(block_at(end));
        }
        let labels = last.args.iter().filter_map(|a| if let Operand::Label(l) = a { Some(*l) } else { None });
        for label in labels {
            match func.branch_targets.get(&label) {
                Some(targets) => next.extend(targets.iter().filter_map(|&t| block_at(func.labels[t as usize]))),
                None => next.extend(block_at(func.labels[label as usize])),
            }
        }
        blocks.push(Block { first, end, next });
    }
    blocks
}

/// First statement and end of each stretch that is entered at its start and left at its end only.
pub(super) fn straight_runs(func: &Func<'_>) -> Vec<(usize, usize)> {
    if func.body.is_empty() {
        return Vec::new();
    }
    blocks(func).into_iter().map(|block| (block.first, block.end)).collect()
}

/// First and last statement at which each register is live; reading a half is reading its word.
fn intervals(func: &Func<'_>, halves: &HashMap<u32, Half>) -> Vec<Option<(usize, usize)>> {
    let words = func.regs.len().div_ceil(64);
    let blocks = blocks(func);
    let mut live_in = vec![vec![0u64; words]; blocks.len()];
    let (mut reads, mut defines) = (live_in.clone(), live_in.clone());
    for (index, block) in blocks.iter().enumerate() {
        for stmt in &func.body[block.first..block.end] {
            let mut defined = Vec::new();
            let set = |bits: &mut Vec<u64>, reg: u32| bits[reg as usize / 64] |= 1 << (reg % 64);
            let killed = &defines[index];
            let mut read = Vec::new();
            effects(stmt, |reg| defined.push(reg), |reg| read.push(reg));
            read.retain(|&reg| killed[reg as usize / 64] >> (reg % 64) & 1 == 0);
            read.into_iter().for_each(|reg| set(&mut reads[index], reg));
            defined.into_iter().for_each(|reg| set(&mut defines[index], reg));
        }
    }
    let live_out = |live_in: &[Vec<u64>], index: usize| {
        let mut out = vec![0u64; words];
        for &next in &blocks[index].next {
            out.iter_mut().zip(&live_in[next]).for_each(|(o, i)| *o |= i);
        }
        out
    };
    let mut changed = true;
    while changed {
        changed = false;
        for index in (0..blocks.len()).rev() {
            let out = live_out(&live_in, index);
            for word in 0..words {
                let value = reads[index][word] | out[word] & !defines[index][word];
                changed |= value != live_in[index][word];
                live_in[index][word] = value;
            }
        }
    }
    let mut intervals: Vec<Option<(usize, usize)>> = vec![None; func.regs.len()];
    let mut extend = |reg: usize, at: usize| {
        let interval = intervals[reg].get_or_insert((at, at));
        *interval = (interval.0.min(at), interval.1.max(at));
    };
    let bits = |set: &[u64]| {
        let all: Vec<usize> = set
            .iter()
            .enumerate()
            .flat_map(|(word, &b)| (0..64).filter(move |i| b >> i & 1 == 1).map(move |i| word * 64 + i))
            .collect();
        all
    };
    for (index, block) in blocks.iter().enumerate() {
        bits(&live_in[index]).into_iter().for_each(|reg| extend(reg, block.first));
        bits(&live_out(&live_in, index)).into_iter().for_each(|reg| extend(reg, block.end - 1));
        for at in block.first..block.end {
            let mut touched = Vec::new();
            let touch = std::cell::RefCell::new(&mut touched);
            effects(&func.body[at], |reg| touch.borrow_mut().push(reg), |reg| touch.borrow_mut().push(reg));
            for reg in touched {
                extend(reg as usize, at);
                if let Some(half) = halves.get(&reg) {
                    extend(half.word as usize, at);
                }
            }
        }
    }
    intervals
}

/// Gives every register that `aliased` leaves over a place; `halves` need none.
pub(super) fn allocate(func: &Func<'_>, aliased: impl Fn(u32) -> bool, halves: &HashMap<u32, Half>) -> Allocation {
    let intervals = intervals(func, halves);
    let aliased = |reg: u32| aliased(reg) || halves.contains_key(&reg);
    let mut order: Vec<u32> =
        (0..func.regs.len() as u32).filter(|&r| intervals[r as usize].is_some() && !aliased(r)).collect();
    order.sort_by_key(|&r| intervals[r as usize].map(|i| i.0));
    let mut result = Allocation { place: vec![0; func.regs.len()], ..Allocation::default() };
    // Per kind: places free, and places in use with the last statement they are live at.
    let mut free: [Vec<u32>; 3] = Default::default();
    let mut busy: [std::collections::BinaryHeap<std::cmp::Reverse<(usize, u32)>>; 3] = Default::default();
    for reg in order {
        let Some((start, end)) = intervals[reg as usize] else { continue };
        let kind = match func.regs[reg as usize] {
            RegKind::Pred => 0,
            RegKind::Word => 1,
            RegKind::Double | RegKind::Quad => 2,
        };
        // A place whose value is last read here is not free yet: some forms write before they have read everything.
        while let Some(&std::cmp::Reverse((last, place))) = busy[kind].peek() {
            if last >= start {
                break;
            }
            busy[kind].pop();
            free[kind].push(place);
        }
        let place = free[kind].pop().unwrap_or_else(|| {
            let (next, width) = if kind == 0 { (&mut result.predicates, 1) } else { (&mut result.rows, kind as u32) };
            let place = *next;
            *next += width;
            place
        });
        busy[kind].push(std::cmp::Reverse((end, place)));
        result.place[reg as usize] = place;
    }
    result
}
