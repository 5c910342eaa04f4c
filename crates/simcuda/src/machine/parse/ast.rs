//! What the parser makes of a PTX text: names resolved, modifiers still text.

use std::collections::HashMap;

/// State space of a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// Width class of a virtual register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RegKind {
    Pred,
    /// 8, 16 and 32 bits; narrow values are kept zero-extended.
    Word,
    Double,
    /// 128 bits; accepted in declarations only.
    Quad,
}

/// One piece of an initialiser.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Init<'a> {
    /// The low bytes of a literal.
    Bits(u64),
    /// The address of a variable plus an offset.
    Address(&'a str, i64),
}

/// A declared variable or parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Var<'a> {
    pub name: &'a str,
    pub space: Space,
    pub align_bytes: usize,
    pub elem_bytes: usize,
    pub size_bytes: usize,
    pub init: Vec<Init<'a>>,
    /// `.extern`: the size comes from elsewhere (dynamic shared memory).
    pub is_extern: bool,
    pub line: u32,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand<'a> {
    Reg(u32),
    /// `!p`
    Not(u32),
    Int(u64),
    F32(u32),
    F64(u64),
    /// Special register such as `%tid.x`.
    Special(&'a str),
    /// Variable of the function, by index.
    Var(u32),
    /// Module variable, function, or a name the decoder knows.
    Name(&'a str),
    Label(u32),
    /// `[base + offset]`, `[base, {coords}]` keeps its further operands in `rest`.
    Address {
        base: Box<Operand<'a>>,
        offset: i64,
    },
    /// `{a, b}` or a parenthesised list.
    List(Vec<Operand<'a>>),
    /// `d|p`
    Pair(Box<Operand<'a>>, Box<Operand<'a>>),
    /// `_`
    Sink,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stmt<'a> {
    pub line: u32,
    /// Source position: file number and line, 0 where unknown.
    pub loc: (u32, u32),
    /// Predicate register and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub opcode: &'a str,
    pub args: Vec<Operand<'a>>,
}

/// An entry or a device function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Func<'a> {
    pub name: &'a str,
    pub line: u32,
    pub is_entry: bool,
    /// Declared only.
    pub is_prototype: bool,
    pub returns: Vec<Var<'a>>,
    pub params: Vec<Var<'a>>,
    pub regs: Vec<RegKind>,
    /// Function-scope variables, return values and parameters first.
    pub vars: Vec<Var<'a>>,
    pub body: Vec<Stmt<'a>>,
    /// Label -> index of the statement that follows it.
    pub labels: Vec<usize>,
    /// Label of a `.branchtargets` list -> its targets.
    pub branch_targets: HashMap<u32, Vec<u32>>,
    pub max_threads: Option<u32>,
    /// `.minnctapersm`: blocks that a multiprocessor is to hold.
    pub min_blocks: Option<u32>,
    /// `.maxnreg`
    pub max_registers: Option<u32>,
    pub cluster: Option<[u32; 3]>,
}

/// A whole module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ast<'a> {
    /// Compute capability of `.target`, as 80 or 90.
    pub arch: u32,
    pub vars: Vec<Var<'a>>,
    pub funcs: Vec<Func<'a>>,
    /// `.file` number -> path.
    pub files: HashMap<u32, &'a str>,
}
