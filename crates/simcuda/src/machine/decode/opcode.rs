//! Opcodes: a name, and modifiers in their order.

use super::{Result, malformed};

/// A value type named by a modifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Type {
    Pred,
    U8,
    S8,
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    U16x2,
    S16x2,
    B128,
    Tf32,
    E4m3x2,
    E5m2x2,
}

impl Type {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "pred" => Self::Pred,
            "b8" | "u8" => Self::U8,
            "s8" => Self::S8,
            "b16" | "u16" => Self::U16,
            "s16" => Self::S16,
            "b32" | "u32" => Self::U32,
            "s32" => Self::S32,
            "b64" | "u64" => Self::U64,
            "s64" => Self::S64,
            "f16" => Self::F16,
            "f16x2" => Self::F16x2,
            "bf16" => Self::Bf16,
            "bf16x2" => Self::Bf16x2,
            "f32" => Self::F32,
            "f64" => Self::F64,
            "u16x2" => Self::U16x2,
            "s16x2" => Self::S16x2,
            "b128" => Self::B128,
            "tf32" => Self::Tf32,
            "e4m3x2" => Self::E4m3x2,
            "e5m2x2" => Self::E5m2x2,
            _ => return None,
        })
    }

    /// Whether a value fills a 64-bit register.
    pub(super) fn is_double(self) -> bool {
        matches!(self, Self::U64 | Self::S64 | Self::F64)
    }

    pub(super) fn bytes(self) -> u32 {
        match self {
            Self::Pred => 0,
            Self::U8 | Self::S8 => 1,
            Self::U16 | Self::S16 | Self::F16 | Self::Bf16 | Self::E4m3x2 | Self::E5m2x2 => 2,
            Self::U64 | Self::S64 | Self::F64 => 8,
            Self::B128 => 16,
            _ => 4,
        }
    }
}

/// An opcode taken apart.
#[derive(Clone, Debug)]
pub(super) struct Opcode<'a> {
    pub text: &'a str,
    pub name: &'a str,
    mods: Vec<&'a str>,
    /// Types among the modifiers, in order.
    pub types: Vec<Type>,
}

impl<'a> Opcode<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        let name = parts.next().unwrap_or("");
        let mods: Vec<&str> = parts.collect();
        let types = mods.iter().filter_map(|m| Type::parse(m)).collect();
        Self { text, name, mods, types }
    }

    pub(super) fn has(&self, modifier: &str) -> bool {
        self.mods.contains(&modifier)
    }

    /// The index of the first of `choices` that is a modifier.
    pub(super) fn choose(&self, choices: &[&str]) -> Option<usize> {
        choices.iter().position(|c| self.has(c))
    }

    pub(super) fn modifiers(&self) -> &[&'a str] {
        &self.mods
    }

    /// The only or last type, which arithmetic is done in.
    pub(super) fn last_type(&self) -> Result<Type> {
        match self.types.last() {
            Some(&t) => Ok(t),
            None => malformed(format!("expected a type in `{}`", self.text)),
        }
    }

    pub(super) fn first_type(&self) -> Result<Type> {
        match self.types.first() {
            Some(&t) => Ok(t),
            None => malformed(format!("expected a type in `{}`", self.text)),
        }
    }

    /// Rounding mode as [`crate::machine::exec::rounding::Mode::from_index`] takes it.
    pub(super) fn rounding(&self) -> u32 {
        match self.mods.iter().find(|m| matches!(**m, "rn" | "rz" | "rm" | "rp" | "rni" | "rzi" | "rmi" | "rpi")) {
            Some(&("rz" | "rzi")) => 1,
            Some(&("rm" | "rmi")) => 2,
            Some(&("rp" | "rpi")) => 3,
            _ => 0,
        }
    }
}

/// Names of all PTX instructions: another name is not PTX.
const KNOWN: &[&str] = &[
    "abs",
    "activemask",
    "add",
    "addc",
    "alloca",
    "and",
    "applypriority",
    "atom",
    "bar",
    "barrier",
    "bfe",
    "bfi",
    "bfind",
    "bmsk",
    "bra",
    "brev",
    "brkpt",
    "brx",
    "call",
    "clusterlaunchcontrol",
    "clz",
    "cnot",
    "copysign",
    "cos",
    "cp",
    "createpolicy",
    "cvt",
    "cvta",
    "discard",
    "div",
    "dp2a",
    "dp4a",
    "elect",
    "ex2",
    "exit",
    "fence",
    "fma",
    "fns",
    "getctarank",
    "griddepcontrol",
    "isspacep",
    "istypep",
    "ld",
    "ldmatrix",
    "ldu",
    "lg2",
    "lop3",
    "mad",
    "mad24",
    "madc",
    "mapa",
    "match",
    "max",
    "mbarrier",
    "membar",
    "min",
    "mma",
    "mov",
    "movmatrix",
    "mul",
    "mul24",
    "multimem",
    "nanosleep",
    "neg",
    "not",
    "or",
    "pmevent",
    "popc",
    "prefetch",
    "prefetchu",
    "prmt",
    "rcp",
    "red",
    "redux",
    "rem",
    "ret",
    "rsqrt",
    "sad",
    "selp",
    "set",
    "setmaxnreg",
    "setp",
    "shf",
    "shfl",
    "shl",
    "shr",
    "sin",
    "slct",
    "sqrt",
    "st",
    "stackrestore",
    "stacksave",
    "stmatrix",
    "sub",
    "subc",
    "suld",
    "suq",
    "sured",
    "sust",
    "szext",
    "tanh",
    "tcgen05",
    "tensormap",
    "testp",
    "tex",
    "tld4",
    "trap",
    "txq",
    "vabsdiff",
    "vabsdiff2",
    "vabsdiff4",
    "vadd",
    "vadd2",
    "vadd4",
    "vavrg2",
    "vavrg4",
    "vmad",
    "vmax",
    "vmax2",
    "vmax4",
    "vmin",
    "vmin2",
    "vmin4",
    "vote",
    "vset",
    "vset2",
    "vset4",
    "vshl",
    "vshr",
    "vsub",
    "vsub2",
    "vsub4",
    "wgmma",
    "wmma",
    "xor",
];

/// Whether PTX has an instruction of this name.
pub(super) fn is_known(name: &str) -> bool {
    KNOWN.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_sorted_for_the_search() {
        assert!(KNOWN.is_sorted());
        assert!(is_known("dp4a") && is_known("abs") && is_known("xor") && !is_known("frobnicate"));
    }

    #[test]
    fn parts_match_the_text() {
        let op = Opcode::new("cvt.rzi.ftz.s32.f32");
        assert_eq!((op.name, op.types.as_slice(), op.rounding()), ("cvt", [Type::S32, Type::F32].as_slice(), 1));
        assert!(op.has("ftz") && !op.has("sat"));
        assert_eq!(Opcode::new("ld.shared::cluster.v2.b64").modifiers(), ["shared::cluster", "v2", "b64"]);
    }
}
