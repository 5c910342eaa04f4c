//! The decoder's state: what it emits, and the tables behind operands.

use std::collections::HashMap;

use super::super::exec::control::{Exit, Missing};
use super::super::exec::{Code, Handler, Inst, LANES, LaunchRow, Op, Slot, Table, ThreadSpecial, handler};
use super::super::meter::Class;
use super::super::parse::ast::{Ast, Func, Stmt};
use super::halves::{Half, Halves};
use super::layout::{Layout, Symbols, align_up, lay_out};
use super::opcode::{Opcode, is_known};
use super::{Refusal, Result};
use super::{copies, flatten, halves, registers};

/// Scratch rows that `_` destinations write to.
const SINK_ROWS: u32 = 2;
/// Predicate that always holds, one for `_` destinations, and one that never holds.
pub(super) const TRUE: u32 = 0;
pub(super) const SINK_PRED: u32 = 1;
pub(super) const FALSE: u32 = 2;
const FIXED_PREDS: u32 = 3;
/// Parameters of an entry, as PTX bounds them.
const MAX_PARAM_BYTES: usize = 32_764;

/// A decoded entry with what its launch needs to know.
#[derive(Debug)]
pub(crate) struct Decoded {
    pub code: Code,
    /// (offset, size, alignment) of each parameter.
    pub params: Vec<(usize, usize, usize)>,
    pub param_bytes: usize,
    pub shared_bytes: usize,
    pub local_bytes: usize,
    /// Registers that a compiler would settle on, estimated.
    pub registers: u32,
    /// Values beyond them that are live at once, which a compiler would spill.
    pub spilled: u32,
}

/// Registers of a thread, at most.
const MAX_REGISTERS: u32 = 255;
/// Registers of a multiprocessor.
const SM_REGISTERS: u32 = 65536;
/// However many threads a kernel asks for, a compiler works with at least these.
const MIN_REGISTERS: u32 = 16;

/// Registers per thread that a compiler may use: what the kernel says, and what its threads leave each other. A warp gets its
/// registers in units of 256.
fn register_limit(entry: &Func<'_>) -> u32 {
    let warps =
        entry.max_threads.map_or(0, |threads| threads.div_ceil(32)).saturating_mul(entry.min_blocks.unwrap_or(1));
    let by_threads = (SM_REGISTERS / 256).checked_div(warps).map_or(MAX_REGISTERS, |units| units * 8);
    by_threads.min(entry.max_registers.unwrap_or(MAX_REGISTERS)).clamp(MIN_REGISTERS, MAX_REGISTERS)
}

/// The decoder of one function.
pub(super) struct Builder<'a, 'b> {
    pub(super) func: &'b Func<'a>,
    pub(super) symbols: &'b Symbols<'a>,
    pub(super) layout: Layout,
    /// Place of each register: row in the register table, slot of an alias, or predicate.
    pub(super) places: Vec<u32>,
    pub(super) aliases: HashMap<u32, Slot>,
    pub(super) halves: HashMap<u32, Half>,
    pub(super) code: Code,
    constant_slots: HashMap<(u64, bool), Slot>,
    thread_slots: HashMap<ThreadSpecial, Slot>,
    launch_slots: HashMap<LaunchRow, Slot>,
    /// First row of temporaries, and those the current statement uses.
    first_temp: u32,
    temps: u32,
    most_temps: u32,
    /// Guard of the current statement.
    guard: (u32, u32),
    line: (u32, (u32, u32)),
    /// Instruction at which each statement starts.
    starts: Vec<u32>,
}

/// Decodes an entry; the error is a line and a message.
pub(crate) fn decode<'a>(
    ast: &Ast<'a>,
    entry: &Func<'a>,
    symbols: &Symbols<'a>,
) -> std::result::Result<Decoded, (u32, String)> {
    let func = flatten::flatten(ast, entry)?;
    let at_entry = |refusal: Refusal| match refusal {
        Refusal::Malformed(message) | Refusal::Unsupported(message) => (entry.line, message),
    };
    let mut params = Vec::new();
    let mut param_bytes = 0;
    for var in &func.params {
        let offset = align_up(param_bytes, var.align_bytes);
        params.push((offset, var.size_bytes, var.align_bytes));
        param_bytes = offset + var.size_bytes;
    }
    if param_bytes > MAX_PARAM_BYTES {
        return Err((entry.line, format!("expected at most {MAX_PARAM_BYTES} bytes of parameters, got {param_bytes}")));
    }
    let offsets: Vec<usize> = params.iter().map(|p| p.0).collect();
    let layout = lay_out(&func, &ast.vars, symbols, &offsets).map_err(at_entry)?;
    let (shared_bytes, local_bytes) = (layout.shared_bytes, layout.local_bytes);
    let mut builder = Builder::new(&func, symbols, layout);
    copies::find_aliases(&mut builder).map_err(at_entry)?;
    let Halves { registers, moves, readers } = halves::find(&func);
    builder.halves = registers;
    builder.allocate();
    for (index, stmt) in func.body.iter().enumerate() {
        builder.starts[index] = builder.code.insts.len() as u32;
        if moves.binary_search(&index).is_ok() {
            continue;
        }
        if readers.binary_search(&index).is_ok() {
            builder.code.merged.push((builder.starts[index], Class::Move));
        }
        builder.statement(stmt).map_err(|message| (stmt.line, message))?;
    }
    let live = builder.first_temp - SINK_ROWS;
    let registers = live.min(register_limit(entry));
    let code = builder.finish().map_err(|message| (entry.line, message))?;
    Ok(Decoded { code, params, param_bytes, shared_bytes, local_bytes, registers, spilled: live - registers })
}

impl<'a, 'b> Builder<'a, 'b> {
    fn new(func: &'b Func<'a>, symbols: &'b Symbols<'a>, layout: Layout) -> Self {
        let code = Code {
            insts: Vec::with_capacity(func.body.len() + 1),
            lists: Vec::new(),
            constants: Vec::new(),
            register_rows: 0,
            predicates: 0,
            thread_rows: Vec::new(),
            launch_rows: Vec::new(),
            lines: Vec::new(),
            classes: Vec::new(),
            spreads: Vec::new(),
            merged: Vec::new(),
            texts: Vec::new(),
        };
        Self {
            func,
            symbols,
            layout,
            places: Vec::new(),
            aliases: HashMap::new(),
            halves: HashMap::new(),
            code,
            constant_slots: HashMap::new(),
            thread_slots: HashMap::new(),
            launch_slots: HashMap::new(),
            first_temp: 0,
            temps: 0,
            most_temps: 0,
            guard: (TRUE, 0),
            line: (0, (0, 0)),
            starts: vec![0; func.body.len() + 1],
        }
    }

    fn allocate(&mut self) {
        let aliases = &self.aliases;
        let allocation = registers::allocate(self.func, |reg| aliases.contains_key(&reg), &self.halves);
        let kinds = self.func.regs.iter();
        let pred = |kind| kind == super::super::parse::ast::RegKind::Pred;
        self.places = allocation
            .place
            .iter()
            .zip(kinds)
            .map(|(p, &k)| p + if pred(k) { FIXED_PREDS } else { SINK_ROWS })
            .collect();
        self.code.predicates = FIXED_PREDS + allocation.predicates;
        self.first_temp = SINK_ROWS + allocation.rows;
    }

    /// Decodes one statement; only what is not PTX is an error.
    fn statement(&mut self, stmt: &Stmt<'a>) -> std::result::Result<(), String> {
        self.line = (stmt.line, stmt.loc);
        self.temps = 0;
        self.guard = match stmt.guard {
            None => (TRUE, 0),
            Some((reg, negated)) => (self.places[reg as usize], if negated { u32::MAX } else { 0 }),
        };
        let opcode = Opcode::new(stmt.opcode);
        if !is_known(opcode.name) {
            return Err(format!("expected a PTX instruction, got `{}`", stmt.opcode));
        }
        let (insts, lists) = (self.code.insts.len(), self.code.lists.len());
        match self.instruction(&opcode, stmt) {
            Ok(()) => Ok(()),
            Err(Refusal::Malformed(message)) => Err(format!("{message} in `{}`", stmt.opcode)),
            Err(Refusal::Unsupported(message)) => {
                // Part of it may have been emitted.
                self.code.insts.truncate(insts);
                self.code.lines.truncate(insts);
                self.code.classes.truncate(insts);
                self.code.spreads.truncate(insts);
                self.code.lists.truncate(lists);
                self.code
                    .texts
                    .push(format!("expected an instruction that is implemented, got `{}`: {message}", stmt.opcode));
                let extra = self.code.texts.len() as u32 - 1;
                self.emit::<Missing>(Class::Other, |i| i.extra = extra);
                Ok(())
            }
        }
    }

    fn instruction(&mut self, op: &Opcode<'a>, stmt: &Stmt<'a>) -> Result<()> {
        let args = stmt.args.as_slice();
        let decoders = [
            Self::integer,
            Self::bit_operation,
            Self::floating,
            Self::half_operation,
            Self::comparison,
            Self::conversion,
            Self::data_movement,
            Self::memory_access,
            Self::warp_operation,
            Self::barrier_operation,
            Self::tensor_operation,
            Self::flow,
        ];
        for decode in decoders {
            if decode(self, op, args)? {
                return Ok(());
            }
        }
        super::unsupported("no such form")
    }

    /// Emits an instruction of form `O`.
    pub(super) fn emit<O: Op>(&mut self, class: Class, fill: impl FnOnce(&mut Inst)) {
        self.emit_handler(handler::<O>(), class, fill);
    }

    pub(super) fn emit_handler(&mut self, run: Handler, class: Class, fill: impl FnOnce(&mut Inst)) {
        let none = Slot::default();
        let (guard, guard_flip) = self.guard;
        let mut inst =
            Inst { run: run.run, dst: none, a: none, b: none, c: none, guard, guard_flip, imm: 0, extra: 0, target: 0 };
        fill(&mut inst);
        self.code.insts.push(inst);
        self.code.classes.push(class);
        self.code.spreads.push(run.spread);
        self.code.lines.push(self.line);
    }

    /// Appends to the lists and returns where.
    pub(super) fn list(&mut self, entries: impl IntoIterator<Item = u32>) -> u32 {
        let at = self.code.lists.len() as u32;
        self.code.lists.extend(entries);
        at
    }

    /// A broadcast word.
    pub(super) fn constant_word(&mut self, value: u32) -> Slot {
        self.constant(u64::from(value), false)
    }

    /// A broadcast 64-bit value.
    pub(super) fn constant_double(&mut self, value: u64) -> Slot {
        self.constant(value, true)
    }

    fn constant(&mut self, value: u64, double: bool) -> Slot {
        if let Some(&slot) = self.constant_slots.get(&(value, double)) {
            return slot;
        }
        let mut slot = Slot::new(Table::Constants, self.code.constants.len() as u32);
        let words = [value as u32, (value >> 32) as u32];
        if double {
            slot = slot.double();
            self.code.constants.extend([std::array::from_fn(|at| words[at % 2]); 2]);
        } else {
            self.code.constants.push([words[0]; LANES]);
        }
        self.constant_slots.insert((value, double), slot);
        slot
    }

    /// A row of the launch table.
    pub(super) fn launch_row(&mut self, row: LaunchRow) -> Slot {
        if let Some(&slot) = self.launch_slots.get(&row) {
            return slot;
        }
        let mut slot = Slot::new(Table::Launch, self.code.launch_rows.len() as u32);
        self.code.launch_rows.push(row);
        if let LaunchRow::Param { bytes: 8, .. } = row {
            slot = slot.double();
            self.code.launch_rows.push(LaunchRow::Continued);
        }
        self.launch_slots.insert(row, slot);
        slot
    }

    /// A row that holds a special register of each thread; its place is known when all registers are.
    pub(super) fn thread_row(&mut self, special: ThreadSpecial) -> Slot {
        let next = THREAD_ROWS_FROM + self.thread_slots.len() as u32;
        *self.thread_slots.entry(special).or_insert(Slot::new(Table::Registers, next))
    }

    /// Whether a slot is such a row, whose place is not final yet.
    pub(super) fn is_thread_row(&self, slot: Slot) -> bool {
        slot.0 & 3 == Table::Registers as u32 && slot.0 / super::super::exec::ROW_BYTES >= THREAD_ROWS_FROM
    }

    /// The entries of a list with their twins behind them, for forms that are run on those too.
    pub(super) fn list_with_twins(&mut self, entries: &[u32]) -> u32 {
        let twin = |&entry: &u32| match Slot(entry) {
            slot if slot.table() == Table::Registers as u32 && !self.is_thread_row(slot) => slot.twin().0,
            _ => Table::Twins as u32,
        };
        let twins: Vec<u32> = entries.iter().map(twin).collect();
        self.list(entries.iter().copied().chain(twins))
    }

    /// A row for an intermediate value of the current statement.
    pub(super) fn temp(&mut self, double: bool) -> Slot {
        let row = Slot::new(Table::Registers, self.first_temp + self.temps);
        let slot = if double { row.double() } else { row };
        self.temps += 1 + u32::from(double);
        self.most_temps = self.most_temps.max(self.temps);
        slot
    }

    /// Resolves branch targets and completes the code.
    fn finish(mut self) -> std::result::Result<Code, String> {
        let end = self.code.insts.len() as u32;
        self.guard = (TRUE, 0);
        self.emit::<Exit>(Class::Control, |_| {});
        let len = self.func.body.len();
        self.starts[len] = end;
        let at = |label: u32| self.starts[self.func.labels.get(label as usize).map_or(len, |&at| at.min(len))];
        for (inst, class) in self.code.insts.iter_mut().zip(&self.code.classes) {
            if *class == Class::Control {
                if inst.imm == super::flow::BRANCH {
                    inst.target = at(inst.extra);
                } else if inst.imm == super::flow::TABLE {
                    for entry in inst.extra..inst.extra + inst.target {
                        let label = self.code.lists[entry as usize];
                        self.code.lists[entry as usize] = at(label);
                    }
                }
            }
        }
        self.place_thread_rows();
        Ok(self.code)
    }

    /// Moves the rows of special registers behind the others.
    fn place_thread_rows(&mut self) {
        let first = self.first_temp + self.most_temps;
        let moved = |slot: Slot| {
            let row = slot.0 / super::super::exec::ROW_BYTES;
            let in_registers = slot.0 & 3 == Table::Registers as u32;
            if in_registers && row >= THREAD_ROWS_FROM {
                Slot::new(Table::Registers, row - THREAD_ROWS_FROM + first)
            } else {
                slot
            }
        };
        for inst in &mut self.code.insts {
            for slot in [&mut inst.a, &mut inst.b, &mut inst.c] {
                *slot = moved(*slot);
            }
        }
        // Lists mix slots with small numbers, which lie far below the rows that are moved.
        for entry in &mut self.code.lists {
            *entry = moved(Slot(*entry)).0;
        }
        self.code.register_rows = first + self.thread_slots.len() as u32;
        self.code.thread_rows = self
            .thread_slots
            .iter()
            .map(|(&special, &slot)| (moved(slot).0 / super::super::exec::ROW_BYTES, special))
            .collect();
    }
}

/// Provisional first row of special registers, above what registers can need.
const THREAD_ROWS_FROM: u32 = 1 << 23;
