//! Operations of a warp, barriers, fences and mbarriers.

use super::super::exec::barriers::*;
use super::super::exec::control::{Nop, Sleep};
use super::super::exec::mbarrier;
use super::super::exec::sync::*;
use super::super::exec::{ALL, Handler, Slot, handler};
use super::super::meter::Class;
use super::super::parse::ast::Operand;
use super::builder::{Builder, SINK_PRED};
use super::opcode::{Opcode, Type};
use super::operand::exactly;
use super::{Result, malformed, unsupported};

impl<'a> Builder<'a, '_> {
    pub(super) fn warp_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "shfl" => self.shuffle(op, args)?,
            "vote" => self.vote(op, args)?,
            "match" => self.matching(op, args)?,
            "redux" => self.reduction(op, args)?,
            "activemask" => {
                let [dst] = exactly(args)?;
                let dst = self.word_dst(dst)?;
                self.emit::<ActiveMask>(Class::Warp, |i| i.dst = dst);
            }
            "elect" => {
                let [dst, members] = exactly(args)?;
                let (dst, pred) = match dst {
                    Operand::Pair(dst, pred) => (self.word_dst(dst)?, self.pred_dst(pred)?),
                    _ => return malformed("expected a register and a predicate"),
                };
                let a = self.word(members, Type::U32)?;
                self.emit::<Elect>(Class::Warp, |i| (i.dst, i.a, i.target) = (dst, a, pred));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `shfl.sync.mode.b32 d|p, a, b, c, members`; without `.sync` all lanes are members.
    fn shuffle(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let (dst, a, b, c, members) = match args {
            [dst, a, b, c, members] => (dst, a, b, c, Some(members)),
            [dst, a, b, c] if !op.has("sync") => (dst, a, b, c, None),
            _ => return malformed(format!("expected 5 operands, got {}", args.len())),
        };
        let run: Handler = match op.choose(&["up", "down", "bfly", "idx"]) {
            Some(0) => handler::<Shuffle<UP>>(),
            Some(1) => handler::<Shuffle<DOWN>>(),
            Some(2) => handler::<Shuffle<BUTTERFLY>>(),
            Some(3) => handler::<Shuffle<INDEX>>(),
            _ => return malformed("expected a shuffle mode"),
        };
        let (dst, pred) = match dst {
            Operand::Pair(dst, pred) => (self.word_dst(dst)?, self.pred_dst(pred)?),
            dst => (self.word_dst(dst)?, 0),
        };
        let (a, b, c) = (self.word(a, Type::U32)?, self.word(b, Type::U32)?, self.word(c, Type::U32)?);
        let members = match members {
            Some(members) => self.word(members, Type::U32)?,
            None => self.constant_word(ALL),
        };
        let extra = self.list([members.0]);
        self.emit_handler(run, Class::Warp, |i| {
            (i.dst, i.a, i.b, i.c, i.extra, i.target) = (dst, a, b, c, extra, pred);
        });
        Ok(())
    }

    fn vote(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let (dst, p, members) = match args {
            [dst, p, members] => (dst, p, self.word(members, Type::U32)?),
            [dst, p] if !op.has("sync") => (dst, p, self.constant_word(ALL)),
            _ => return malformed(format!("expected 3 operands, got {}", args.len())),
        };
        let (pred, flip) = self.pred(p)?;
        let (run, dst) = match op.choose(&["all", "any", "uni", "ballot"]) {
            Some(0) => (handler::<Vote<VOTE_ALL>>(), Slot(self.pred_dst(dst)?)),
            Some(1) => (handler::<Vote<VOTE_ANY>>(), Slot(self.pred_dst(dst)?)),
            Some(2) => (handler::<Vote<VOTE_UNI>>(), Slot(self.pred_dst(dst)?)),
            Some(3) => (handler::<Vote<BALLOT>>(), self.word_dst(dst)?),
            _ => return malformed("expected a vote mode"),
        };
        self.emit_handler(run, Class::Warp, |i| (i.dst, i.a, i.b, i.extra) = (dst, Slot(pred), members, flip & 1));
        Ok(())
    }

    fn matching(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, members], ty) = (exactly(args)?, op.last_type()?);
        let run = match (ty.is_double(), op.has("all")) {
            (false, false) => handler::<Match<false, false>>(),
            (true, false) => handler::<Match<true, false>>(),
            (false, true) => handler::<Match<false, true>>(),
            (true, true) => handler::<Match<true, true>>(),
        };
        let (dst, pred) = match dst {
            Operand::Pair(dst, pred) => (self.word_dst(dst)?, self.pred_dst(pred)?),
            dst => (self.word_dst(dst)?, 0),
        };
        let (a, b) = (self.source(a, ty)?, self.word(members, Type::U32)?);
        self.emit_handler(run, Class::Warp, |i| (i.dst, i.a, i.b, i.target) = (dst, a, b, pred));
        Ok(())
    }

    fn reduction(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let ([dst, a, members], ty) = (exactly(args)?, op.last_type()?);
        let signed = ty == Type::S32;
        let extra = match op.choose(&["add", "min", "max", "and", "or", "xor"]) {
            _ if ty == Type::F32 => return unsupported("f32"),
            Some(0) => REDUX_ADD,
            Some(1) if signed => REDUX_MIN_SIGNED,
            Some(1) => REDUX_MIN_UNSIGNED,
            Some(2) if signed => REDUX_MAX_SIGNED,
            Some(2) => REDUX_MAX_UNSIGNED,
            Some(3) => REDUX_AND,
            Some(4) => REDUX_OR,
            Some(_) => REDUX_OR + 1,
            None => return malformed("expected an operator"),
        };
        let (dst, a, b) = (self.word_dst(dst)?, self.word(a, ty)?, self.word(members, Type::U32)?);
        self.emit::<Redux>(Class::Warp, |i| (i.dst, i.a, i.b, i.extra) = (dst, a, b, extra));
        Ok(())
    }

    pub(super) fn barrier_operation(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<bool> {
        match op.name {
            "bar" | "barrier" if op.has("warp") => {
                let [members] = exactly(args)?;
                let a = self.word(members, Type::U32)?;
                self.emit::<WarpBarrier>(Class::WarpBarrier, |i| i.a = a);
            }
            "barrier" if op.has("cluster") => {
                let target = match op.choose(&["arrive", "wait"]) {
                    Some(target) => target as u32,
                    None => return malformed("expected arrive or wait"),
                };
                self.emit::<ClusterBarrier>(Class::Barrier, |i| i.target = target);
            }
            "bar" | "barrier" => self.block_barrier(op, args)?,
            "membar" | "fence" => {
                if op.has("proxy")
                    && !op.has("tensormap::generic")
                    && op.modifiers().iter().any(|m| m.starts_with("async"))
                {
                    self.emit::<ProxyFence>(Class::Barrier, |_| {});
                } else {
                    self.emit::<Fence>(Class::Barrier, |_| {});
                }
            }
            "nanosleep" => self.emit::<Sleep>(Class::Other, |_| {}),
            "griddepcontrol" | "setmaxnreg" | "pmevent" => self.emit::<Nop>(Class::Other, |_| {}),
            "mbarrier" => self.mbarrier(op, args)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn block_barrier(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        let aligned = op.name == "bar" || op.has("aligned");
        let mut target = if aligned { BARRIER_ALIGNED } else { 0 };
        let (reducing, arriving) = (op.has("red"), op.has("arrive"));
        let (dst, args) = if reducing { (args.first(), args.get(1..).unwrap_or(&[])) } else { (None, args) };
        let (args, pred) = match args {
            [head @ .., pred] if reducing => (head, Some(self.pred(pred)?)),
            all => (all, None),
        };
        let (id, count) = match args {
            [id] if !arriving => (id, None),
            [id, count] => (id, Some(count)),
            _ => return malformed(format!("expected a barrier and a count, got {} operands", args.len())),
        };
        let a = self.word(id, Type::U32)?;
        let b = match count {
            Some(count) => {
                target |= BARRIER_COUNTED;
                self.word(count, Type::U32)?
            }
            None => a,
        };
        target |= if arriving { BARRIER_ARRIVE } else { 0 };
        let mut result = Slot::default();
        if let Some(dst) = dst {
            let how = match op.choose(&["and", "or", "popc"]) {
                Some(how) => how as u32 + 1,
                None => return malformed("expected a reduction"),
            };
            target |= how << BARRIER_REDUCE_SHIFT;
            result = if how == REDUCE_POPC { self.word_dst(dst)? } else { Slot(self.pred_dst(dst)?) };
        }
        let (c, extra) = pred.map_or((0, 0), |(pred, flip)| (pred, flip & 1));
        self.emit::<BlockBarrier>(Class::Barrier, |i| {
            (i.dst, i.a, i.b, i.c, i.extra, i.target) = (result, a, b, Slot(c), extra, target);
        });
        Ok(())
    }

    fn mbarrier(&mut self, op: &Opcode<'a>, args: &[Operand<'a>]) -> Result<()> {
        use mbarrier::*;
        let parity = op.has("parity");
        let names = [
            "init",
            "inval",
            "arrive",
            "arrive_drop",
            "expect_tx",
            "complete_tx",
            "test_wait",
            "try_wait",
            "pending_count",
        ];
        let kind = match op.choose(&names) {
            Some(2) if op.has("expect_tx") => ARRIVE_EXPECT,
            Some(6 | 7) => {
                if parity {
                    WAIT_PARITY
                } else {
                    WAIT_STATE
                }
            }
            Some(n) => [INIT, INVAL, ARRIVE, ARRIVE_DROP, EXPECT, COMPLETE, WAIT_PARITY, WAIT_PARITY, PENDING_COUNT][n],
            None => return malformed("expected an mbarrier operation"),
        };
        // Arrivals may return the state, waits return a predicate, the others nothing.
        let returns = !matches!(args.first(), Some(Operand::Address { .. }));
        let (dst, args) = if returns { (args.first(), args.get(1..).unwrap_or(&[])) } else { (None, args) };
        let Some(address) = args.first() else { return malformed("expected an mbarrier") };
        let (slot, double) =
            if kind == PENDING_COUNT { (self.double(address)?, true) } else { self.summed_address(address)? };
        let value = match (kind, args.get(1)) {
            (WAIT_STATE, Some(state)) => (self.double(state)?, true),
            (_, Some(value)) => (self.word(value, Type::U32)?, false),
            (ARRIVE | ARRIVE_DROP, None) => (self.constant_word(1), false),
            (INVAL | PENDING_COUNT, None) => (self.constant_word(0), false),
            _ => return malformed("expected a further operand"),
        };
        let mut target = 0;
        let dst = match (kind, dst) {
            (WAIT_PARITY | WAIT_STATE, Some(dst)) => Slot(self.pred_dst(dst)?),
            (WAIT_PARITY | WAIT_STATE, None) => Slot(SINK_PRED),
            (PENDING_COUNT, Some(dst)) => self.word_dst(dst)?,
            (_, Some(Operand::Sink) | None) => Slot::default(),
            (_, Some(dst)) => {
                target = 1;
                self.double_dst(dst)?
            }
        };
        let run = match kind {
            INIT => handler::<Mbarrier<INIT>>(),
            INVAL => handler::<Mbarrier<INVAL>>(),
            ARRIVE => handler::<Mbarrier<ARRIVE>>(),
            ARRIVE_DROP => handler::<Mbarrier<ARRIVE_DROP>>(),
            ARRIVE_EXPECT => handler::<Mbarrier<ARRIVE_EXPECT>>(),
            EXPECT => handler::<Mbarrier<EXPECT>>(),
            COMPLETE => handler::<Mbarrier<COMPLETE>>(),
            WAIT_PARITY => handler::<Mbarrier<WAIT_PARITY>>(),
            WAIT_STATE => handler::<Mbarrier<WAIT_STATE>>(),
            _ => handler::<Mbarrier<PENDING_COUNT>>(),
        };
        let extra = self.list([slot.0, u32::from(double), value.0.0, u32::from(value.1)]);
        self.emit_handler(run, Class::Async, |i| (i.dst, i.extra, i.target) = (dst, extra, target));
        Ok(())
    }
}
