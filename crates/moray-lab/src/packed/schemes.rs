//! What a configuration says of its matrices: bits, groups, zero points. Several sizes may stand side by side.

use moray::w4a8::Bits;

use super::tensors::Projection;
use crate::error::Result;
use crate::fields::Fields;

/// What exporters call the bits of a code.
const BITS: [&str; 4] = ["bits", "wbits", "w_bit", "num_bits"];

/// What they call the inputs that share a scale.
const GROUP_SIZE: [&str; 2] = ["group_size", "q_group_size"];

/// How the codes of some matrices are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    /// Of a code.
    pub bits: Bits,
    /// Inputs that share a scale; none for all of a channel's.
    pub group_size: Option<usize>,
    /// Whether codes lie about the middle; none where the file does not say.
    pub symmetric: Option<bool>,
}

/// What the matrices of a file may be. Which one a matrix is, its arrays tell: their shapes have room for one only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schemes(Vec<Scheme>);

impl From<Scheme> for Schemes {
    fn from(scheme: Scheme) -> Self {
        Schemes(vec![scheme])
    }
}

impl Scheme {
    /// Reads bits and group size under the names that exporters give them.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for other bits than 4 and 8, [`crate::Error::MissingKey`], [`crate::Error::Malformed`].
    pub(super) fn parse(fields: &Fields<'_>, base: Option<Scheme>, symmetric: Option<bool>) -> Result<Self> {
        let key = fields.spelled(&BITS);
        let bits = match (fields.integer(&BITS)?, base) {
            (Some(4), _) => Bits::Four,
            (Some(8), _) => Bits::Eight,
            (Some(got), _) => return Err(fields.unsupported(key, "4 or 8", got)),
            (None, Some(base)) => base.bits,
            (None, None) => return Err(fields.missing(key)),
        };
        let key = fields.spelled(&GROUP_SIZE);
        let group_size = match (fields.integer(&GROUP_SIZE)?, base) {
            (Some(-1), _) => None,
            (Some(size), _) if size > 0 && size % 32 == 0 => Some(size as usize),
            (Some(got), _) => return Err(fields.unsupported(key, "-1 or a multiple of 32", got)),
            (None, Some(base)) => base.group_size,
            (None, None) => return Err(fields.missing(key)),
        };
        Ok(Scheme { bits, group_size, symmetric: symmetric.or(base.and_then(|base| base.symmetric)) })
    }
}

impl Schemes {
    /// Adds what some of the matrices are.
    pub(super) fn add(&mut self, scheme: Scheme) {
        self.0.push(scheme);
    }

    /// What is said of all that is not said otherwise.
    pub fn base(&self) -> Scheme {
        self.0[0]
    }

    /// All of them, the base first.
    pub fn iter(&self) -> impl Iterator<Item = Scheme> {
        self.0.iter().copied()
    }

    /// Whether a matrix of such arrays, with K inputs in so many groups, is symmetric, as far as the file says.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] if no scheme has such arrays.
    pub(super) fn symmetric(
        &self,
        source: &Projection<'_>,
        bits: Bits,
        k: usize,
        groups: usize,
    ) -> Result<Option<bool>> {
        let fits = |scheme: &&Scheme| scheme.bits == bits && scheme.group_size.map_or(1, |s| k.div_ceil(s)) == groups;
        let mut found = self.0.iter().filter(fits);
        let Some(first) = found.next() else {
            let size =
                |scheme: &Scheme| scheme.group_size.map_or("whole channels".into(), |s| format!("groups of {s}"));
            let one = |scheme: &Scheme| format!("{} bits in {}", width(scheme.bits), size(scheme));
            let expected = self.0.iter().map(one).collect::<Vec<_>>().join(" or ");
            let got = format!("{} bits in {groups} groups of {k} inputs", width(bits));
            return Err(source.unsupported("arrays", &format!("{expected}, as the configuration says"), got));
        };
        Ok(if found.all(|other| other.symmetric == first.symmetric) { first.symmetric } else { None })
    }
}

/// Bits of a code.
pub(super) fn width(bits: Bits) -> usize {
    if bits == Bits::Four { 4 } else { 8 }
}
