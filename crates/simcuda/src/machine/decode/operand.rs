//! Operands: from the parser's to slots.

use super::super::exec::block::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
use super::super::exec::convert::Truncate;
use super::super::exec::{LaunchRow, Slot, Table, ThreadSpecial};
use super::super::meter::Class;
use super::super::parse::ast::{Operand, RegKind, Space};
use super::builder::{Builder, FALSE, SINK_PRED, TRUE};
use super::layout::Symbol;
use super::opcode::Type;
use super::{Result, malformed, unsupported};

/// An address operand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub base: Slot,
    pub offset: i64,
    /// Whether the base has 64 bits.
    pub double: bool,
    /// The space that the operand itself implies, if its base is a variable.
    pub space: Option<Space>,
    /// The base is a constant: its value.
    pub constant: Option<u64>,
}

impl<'a> Builder<'a, '_> {
    pub(super) fn kind(&self, reg: u32) -> RegKind {
        self.func.regs[reg as usize]
    }

    fn register(&self, reg: u32) -> Slot {
        match self.aliases.get(&reg) {
            Some(&slot) => slot,
            None => {
                let row = Slot::new(Table::Registers, self.places[reg as usize]);
                if self.kind(reg) == RegKind::Double { row.double() } else { row }
            }
        }
    }

    /// A source of up to 32 bits; f32 literals may be written as f64.
    pub(super) fn word(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
        match operand {
            Operand::Reg(reg) => match self.kind(*reg) {
                RegKind::Word => Ok(self.register(*reg)),
                _ => malformed("expected a register of at most 32 bits"),
            },
            Operand::Int(value) => Ok(self.constant_word(*value as u32)),
            Operand::F32(bits) => Ok(self.constant_word(*bits)),
            Operand::F64(bits) if matches!(ty, Type::F32) => {
                Ok(self.constant_word((f64::from_bits(*bits) as f32).to_bits()))
            }
            Operand::Special(name) => self.special_word(name),
            _ => match self.constant_address(operand)? {
                Some((value, _)) => Ok(self.constant_word(value as u32)),
                None => malformed(format!("expected a value, got {operand:?}")),
            },
        }
    }

    /// A source of 64 bits.
    pub(super) fn double(&mut self, operand: &Operand<'a>) -> Result<Slot> {
        match operand {
            Operand::Reg(reg) => match self.kind(*reg) {
                RegKind::Double => Ok(self.register(*reg)),
                _ => malformed("expected a 64-bit register"),
            },
            Operand::Int(value) | Operand::F64(value) => Ok(self.constant_double(*value)),
            Operand::Special(name) => unsupported(format!("{name} as 64 bits")),
            _ => match self.constant_address(operand)? {
                Some((value, _)) => Ok(self.constant_double(value)),
                None => malformed(format!("expected a value, got {operand:?}")),
            },
        }
    }

    /// A source of the width of `ty`.
    pub(super) fn source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
        if ty.is_double() { self.double(operand) } else { self.word(operand, ty) }
    }

    /// A source whose register may be wider than the value, as stores and conversions allow.
    pub(super) fn narrow_source(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
        if let Operand::Reg(reg) = operand
            && !ty.is_double()
            && self.kind(*reg) == RegKind::Double
        {
            let (a, dst) = (self.register(*reg), self.temp(false));
            self.emit::<Truncate>(Class::Convert, |i| (i.a, i.dst) = (a, dst));
            return Ok(dst);
        }
        self.source(operand, ty)
    }

    /// A destination of up to 32 bits.
    pub(super) fn word_dst(&self, operand: &Operand<'a>) -> Result<Slot> {
        match operand {
            Operand::Reg(reg) if self.kind(*reg) == RegKind::Word => Ok(self.register(*reg)),
            Operand::Sink => Ok(Slot::new(Table::Registers, 0)),
            _ => malformed("expected a register of at most 32 bits as destination"),
        }
    }

    /// A destination of 64 bits.
    pub(super) fn double_dst(&self, operand: &Operand<'a>) -> Result<Slot> {
        match operand {
            Operand::Reg(reg) if self.kind(*reg) == RegKind::Double => Ok(self.register(*reg)),
            Operand::Sink => Ok(Slot::new(Table::Registers, 0).double()),
            _ => malformed("expected a 64-bit register as destination"),
        }
    }

    pub(super) fn dst(&self, operand: &Operand<'a>, ty: Type) -> Result<Slot> {
        if ty.is_double() { self.double_dst(operand) } else { self.word_dst(operand) }
    }

    /// A predicate source: its number, and all ones if it is negated.
    pub(super) fn pred(&self, operand: &Operand<'a>) -> Result<(u32, u32)> {
        match operand {
            Operand::Reg(reg) if self.kind(*reg) == RegKind::Pred => Ok((self.places[*reg as usize], 0)),
            Operand::Not(reg) if self.kind(*reg) == RegKind::Pred => Ok((self.places[*reg as usize], u32::MAX)),
            Operand::Int(value) => Ok((if *value != 0 { TRUE } else { FALSE }, 0)),
            _ => malformed("expected a predicate"),
        }
    }

    /// A predicate destination.
    pub(super) fn pred_dst(&self, operand: &Operand<'a>) -> Result<u32> {
        match operand {
            Operand::Reg(reg) if self.kind(*reg) == RegKind::Pred => Ok(self.places[*reg as usize]),
            Operand::Sink => Ok(SINK_PRED),
            _ => malformed("expected a predicate as destination"),
        }
    }

    /// The address a variable stands for, and its space.
    pub(super) fn constant_address(&self, operand: &Operand<'a>) -> Result<Option<(u64, Space)>> {
        Ok(match operand {
            Operand::Var(var) => {
                let (offset, space) = (self.layout.vars[*var as usize], self.func.vars[*var as usize].space);
                // Only the entry's own parameters are parameters; those of calls are local variables.
                let space =
                    if space == Space::Param && *var as usize >= self.layout.params { Space::Local } else { space };
                Some((offset, space))
            }
            Operand::Name(name) => match self.symbols.get(name) {
                Some(Symbol::Global(address, _)) => Some((*address, Space::Global)),
                Some(Symbol::Shared(index)) => {
                    Some((self.layout.shared.get(index).copied().unwrap_or(0), Space::Shared))
                }
                None => return malformed(format!("expected a variable, got `{name}`")),
            },
            Operand::Address { base, offset } => {
                self.constant_address(base)?.map(|(address, space)| (address.wrapping_add(*offset as u64), space))
            }
            _ => None,
        })
    }

    /// `[base + offset]`
    pub(super) fn address(&mut self, operand: &Operand<'a>) -> Result<Address> {
        let Operand::Address { base, offset } = operand else { return malformed("expected an address in brackets") };
        let fixed = |b: &mut Self, value: u64, space| Address {
            base: b.constant_double(value),
            offset: 0,
            double: true,
            space,
            constant: Some(value),
        };
        match base.as_ref() {
            Operand::Reg(reg) => {
                let double = match self.kind(*reg) {
                    RegKind::Double => true,
                    RegKind::Word => false,
                    _ => return malformed("expected an address register of 32 or 64 bits"),
                };
                Ok(Address { base: self.register(*reg), offset: *offset, double, space: None, constant: None })
            }
            Operand::Int(value) => Ok(fixed(self, value.wrapping_add(*offset as u64), None)),
            other => match self.constant_address(other)? {
                Some((value, space)) => Ok(fixed(self, value.wrapping_add(*offset as u64), Some(space))),
                None => malformed(format!("expected an address, got {other:?}")),
            },
        }
    }

    /// An address in shared memory as words: base and displacement.
    pub(super) fn shared_address(&mut self, operand: &Operand<'a>) -> Result<(Slot, i64)> {
        let address = self.address(operand)?;
        if let Some(value) = address.constant {
            return Ok((self.constant_word(value as u32), 0));
        }
        if !address.double {
            return Ok((address.base, address.offset));
        }
        let dst = self.temp(false);
        self.emit::<Truncate>(Class::Convert, |i| (i.a, i.dst) = (address.base, dst));
        Ok((dst, address.offset))
    }

    /// A special register of 32 bits.
    pub(super) fn special_word(&mut self, name: &str) -> Result<Slot> {
        let thread = match name {
            "%tid.x" => ThreadSpecial::Tid(0),
            "%tid.y" => ThreadSpecial::Tid(1),
            "%tid.z" => ThreadSpecial::Tid(2),
            "%laneid" => ThreadSpecial::Lane,
            "%warpid" => ThreadSpecial::Warp,
            "%lanemask_eq" => ThreadSpecial::MaskEq,
            "%lanemask_lt" => ThreadSpecial::MaskLt,
            "%lanemask_le" => ThreadSpecial::MaskLe,
            "%lanemask_gt" => ThreadSpecial::MaskGt,
            "%lanemask_ge" => ThreadSpecial::MaskGe,
            _ => return self.launch_special(name),
        };
        Ok(self.thread_row(thread))
    }

    fn launch_special(&mut self, name: &str) -> Result<Slot> {
        let axis = match name.as_bytes().last() {
            Some(b'y') => 1,
            Some(b'z') => 2,
            _ => 0,
        };
        let row = match name.trim_end_matches(".x").trim_end_matches(".y").trim_end_matches(".z") {
            "%ntid" => LaunchRow::Ntid(axis),
            "%ctaid" => LaunchRow::Ctaid(axis),
            "%nctaid" => LaunchRow::Nctaid(axis),
            "%clusterid" => LaunchRow::ClusterId(axis),
            "%nclusterid" => LaunchRow::NclusterId(axis),
            "%cluster_ctaid" => LaunchRow::ClusterCtaid(axis),
            "%cluster_nctaid" => LaunchRow::ClusterNctaid(axis),
            "%cluster_ctarank" => LaunchRow::ClusterCtarank,
            "%cluster_nctarank" => LaunchRow::ClusterNctarank,
            "%nwarpid" => LaunchRow::Nwarpid,
            "%smid" => LaunchRow::Smid,
            "%nsmid" => LaunchRow::Nsmid,
            "%gridid" => LaunchRow::Gridid,
            "%dynamic_smem_size" => LaunchRow::DynamicSharedBytes,
            "%total_smem_size" => LaunchRow::TotalSharedBytes,
            "%is_explicit_cluster" => LaunchRow::IsExplicitCluster,
            "%reserved_smem_offset_begin" | "%reserved_smem_offset_end" | "%reserved_smem_offset_cap" => {
                LaunchRow::Zero
            }
            _ => return unsupported(format!("special register {name}")),
        };
        Ok(self.launch_row(row))
    }
}

/// What `cvta` adds to an address of a space.
pub(super) fn window(space: Space) -> u64 {
    match space {
        Space::Global | Space::Const => 0,
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
    }
}

/// The elements of a vector operand, or the operand itself.
pub(super) fn elements<'o, 'a>(operand: &'o Operand<'a>) -> &'o [Operand<'a>] {
    match operand {
        Operand::List(items) => items,
        other => std::slice::from_ref(other),
    }
}

/// Takes exactly `N` operands.
pub(super) fn exactly<'o, 'a, const N: usize>(args: &'o [Operand<'a>]) -> Result<&'o [Operand<'a>; N]> {
    match args.try_into() {
        Ok(array) => Ok(array),
        Err(_) => malformed(format!("expected {N} operands, got {}", args.len())),
    }
}
