//! What a configuration says of some matrices apart: GPTQModel's `dynamic`, AutoRound's `extra_config`.

use super::keys::{OVERRIDE, PROVENANCE};
use super::schemes::{Scheme, Schemes};
use crate::error::Result;
use crate::fields::Fields;

/// Bits and groups of all matrices, and of those that are named apart.
///
/// # Errors
/// As [`Scheme::parse`]; [`crate::Error::Unsupported`] for other keys that an entry has.
pub(super) fn overrides(fields: &Fields<'_>, symmetric: Option<bool>) -> Result<Schemes> {
    let base = Scheme::parse(fields, None, symmetric)?;
    let mut schemes = Schemes::from(base);
    for key in ["dynamic", "extra_config", "regex_config"] {
        let Some(entries) = fields.get(key) else { continue };
        let name = fields.name(key);
        for (pattern, entry) in Fields::new(fields.path, &name, entries)?.iter() {
            // what begins so is not quantized, which its arrays show
            if pattern.starts_with("-:") {
                continue;
            }
            let prefix = format!("{name}.{pattern}.");
            let entry = Fields::new(fields.path, &prefix, entry)?;
            entry.check(&[OVERRIDE, PROVENANCE])?;
            if entry.integer(&["bits"])?.is_none_or(|bits| bits < 16) {
                schemes.add(Scheme::parse(&entry, Some(base), entry.flag("sym")?)?);
            }
        }
    }
    Ok(schemes)
}
