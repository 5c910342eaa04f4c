//! f16 values that are widened right where they lie: `mov.b32 {low, high}, word` that only feeds `cvt.f32.f16`.
//!
//! Of the main loop of an fp16 GEMV they are more than a third. They are not executed, but counted with the
//! first conversion that reads one of their halves, which runs as often as the move would.

use std::collections::HashMap;

use super::super::parse::ast::{Func, Operand, RegKind, Stmt};
use super::registers::{self, effects};

/// Half of a word that a register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Half {
    pub word: u32,
    pub high: bool,
}

/// What is not executed as it is written.
#[derive(Debug, Default)]
pub(super) struct Halves {
    pub registers: HashMap<u32, Half>,
    /// Moves that are left out, in order.
    pub moves: Vec<usize>,
    /// Statements that count for a move too, in order; one that reads the first half of two moves does not exist.
    pub readers: Vec<usize>,
}

/// The registers of `mov.b32 {low, high}, word`.
fn split(stmt: &Stmt<'_>) -> Option<[u32; 3]> {
    let (None, "mov.b32", [Operand::List(parts), Operand::Reg(word)]) = (stmt.guard, stmt.opcode, stmt.args.as_slice())
    else {
        return None;
    };
    match parts.as_slice() {
        [Operand::Reg(low), Operand::Reg(high)] => Some([*low, *high, *word]),
        _ => None,
    }
}

/// The register that an unguarded `cvt.f32.f16` into a 32-bit register reads.
fn widened(func: &Func<'_>, stmt: &Stmt<'_>) -> Option<u32> {
    match (stmt.guard, stmt.opcode, stmt.args.as_slice()) {
        (None, "cvt.f32.f16", [Operand::Reg(to), Operand::Reg(half)]) => {
            (func.regs[*to as usize] == RegKind::Word).then_some(*half)
        }
        _ => None,
    }
}

/// Finds the moves that can be left out.
///
/// Both halves must have this one definition and be read by conversions only, in the same basic block and before the word is
/// written again.
pub(super) fn find(func: &Func<'_>) -> Halves {
    let mut found = Halves::default();
    if !func.body.iter().any(|stmt| widened(func, stmt).is_some()) {
        return found;
    }
    let (mut definitions, mut reads) = (vec![0u32; func.regs.len()], vec![0u32; func.regs.len()]);
    for stmt in &func.body {
        effects(stmt, |reg| definitions[reg as usize] += 1, |reg| reads[reg as usize] += 1);
    }
    for (first, end) in registers::straight_runs(func) {
        for at in first..end {
            let Some([low, high, word]) = split(&func.body[at]) else { continue };
            let once = [low, high].iter().all(|&half| definitions[half as usize] == 1);
            let words = [low, high, word].iter().all(|&reg| func.regs[reg as usize] == RegKind::Word);
            if !once || !words {
                continue;
            }
            let readers = readers(func, &func.body[at + 1..end], low, high, word);
            if readers.is_empty() || readers.len() != (reads[low as usize] + reads[high as usize]) as usize {
                continue;
            }
            found.registers.extend([(low, Half { word, high: false }), (high, Half { word, high: true })]);
            found.moves.push(at);
            found.readers.push(at + 1 + readers[0]);
        }
    }
    found.readers.sort_unstable();
    found
}

/// The conversions of either half up to the next definition of the word, the one that defines it included.
fn readers(func: &Func<'_>, body: &[Stmt<'_>], low: u32, high: u32, word: u32) -> Vec<usize> {
    let mut readers = Vec::new();
    for (at, stmt) in body.iter().enumerate() {
        if widened(func, stmt).is_some_and(|half| half == low || half == high) {
            readers.push(at);
        }
        let mut redefined = false;
        effects(stmt, |reg| redefined |= reg == word, |_| {});
        if redefined {
            break;
        }
    }
    readers
}
