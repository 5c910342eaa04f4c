//! Where variables lie: addresses of the module's, offsets of a function's.

use std::collections::HashMap;

use super::super::parse::ast::{Func, Operand, Space, Var};
use super::{Result, malformed};

/// A module variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symbol {
    /// Device address and size.
    Global(u64, usize),
    /// Index of a shared variable among the module's variables.
    Shared(usize),
}

/// Module variables by name.
pub(crate) type Symbols<'a> = HashMap<&'a str, Symbol>;

/// Rounds up to an alignment, which is a power of two.
pub(crate) fn align_up(value: usize, align: usize) -> usize {
    value.next_multiple_of(align.max(1))
}

/// Offsets of what a function uses.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Per function variable: its offset in its space.
    pub vars: Vec<u64>,
    /// Per module variable that is shared: its offset.
    pub shared: HashMap<usize, u64>,
    pub shared_bytes: usize,
    pub local_bytes: usize,
    /// Kernel parameters: how many of the function's first variables they are.
    pub params: usize,
}

/// Most static shared memory that is believed; more is a corrupt declaration.
const MAX_SHARED_BYTES: usize = 1 << 23;
const MAX_LOCAL_BYTES: usize = 1 << 19;

/// Lays out the variables of an entry.
pub(super) fn lay_out(func: &Func<'_>, module: &[Var<'_>], symbols: &Symbols<'_>, params: &[usize]) -> Result<Layout> {
    let mut layout = Layout { params: params.len(), vars: vec![0; func.vars.len()], ..Layout::default() };
    for (index, &offset) in params.iter().enumerate() {
        layout.vars[index] = offset as u64;
    }
    let used = used_names(func);
    let mut dynamic = Vec::new();
    let mut align_most = 1;
    let place = |size: usize, align: usize, end: &mut usize| {
        let at = align_up(*end, align);
        *end = at.saturating_add(size);
        at as u64
    };
    for (index, var) in func.vars.iter().enumerate().skip(params.len()) {
        layout.vars[index] = match var.space {
            Space::Shared => place(var.size_bytes, var.align_bytes, &mut layout.shared_bytes),
            _ => place(var.size_bytes, var.align_bytes, &mut layout.local_bytes),
        };
    }
    for (index, var) in module.iter().enumerate() {
        if var.space != Space::Shared || !used.contains(&var.name) {
            continue;
        }
        debug_assert_eq!(symbols.get(var.name), Some(&Symbol::Shared(index)));
        if var.is_extern {
            dynamic.push(index);
            align_most = align_most.max(var.align_bytes).max(16);
        } else {
            layout.shared.insert(index, place(var.size_bytes, var.align_bytes, &mut layout.shared_bytes));
        }
    }
    // All dynamic arrays start at the same place, behind the static ones.
    layout.shared_bytes = align_up(layout.shared_bytes, align_most);
    layout.shared.extend(dynamic.into_iter().map(|index| (index, layout.shared_bytes as u64)));
    layout.local_bytes = align_up(layout.local_bytes, 16);
    if layout.shared_bytes > MAX_SHARED_BYTES || layout.local_bytes > MAX_LOCAL_BYTES {
        return malformed(format!("expected `{}` to fit its shared and local memory", func.name));
    }
    Ok(layout)
}

fn used_names<'a>(func: &Func<'a>) -> Vec<&'a str> {
    fn visit<'a>(operand: &Operand<'a>, names: &mut Vec<&'a str>) {
        match operand {
            Operand::Name(name) => names.push(name),
            Operand::Address { base, .. } => visit(base, names),
            Operand::List(items) => items.iter().for_each(|item| visit(item, names)),
            Operand::Pair(a, b) => {
                visit(a, names);
                visit(b, names);
            }
            _ => {}
        }
    }
    let mut names = Vec::new();
    func.body.iter().flat_map(|s| &s.args).for_each(|arg| visit(arg, &mut names));
    names.sort_unstable();
    names.dedup();
    names
}
