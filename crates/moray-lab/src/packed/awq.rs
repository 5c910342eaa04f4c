//! AWQ's layout: `qweight` int32 \[K, N/8\] and `qzeros` int32 \[K/group, N/8\], eight n in a word in the order 0, 2, 4, 6, 1, 3,
//! 5, 7; `scales` f16 \[K/group, N\]. w = scale · (code − zero).

use moray::w4a8::{Bits, ExportedArrays, ExportedLayout};

use super::matrix::{PackedMatrix, matrix, unpack};
use super::overrides::overrides;
use super::schemes::Schemes;
use super::tensors::Projection;
use crate::error::Result;
use crate::fields::Fields;

/// Reads the keys that say what the layout holds.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Schemes> {
    let symmetric = fields.flag("zero_point")?.map(|zero_point| !zero_point);
    let stated = fields.flag("sym")?;
    if let (Some(symmetric), Some(stated)) = (symmetric, stated)
        && symmetric != stated
    {
        let expected = format!("{symmetric}, as zero_point says");
        return Err(crate::Error::malformed(fields.path, fields.name("sym"), expected, stated));
    }
    let schemes = overrides(fields, symmetric.or(stated))?;
    if schemes.iter().any(|scheme| scheme.bits != Bits::Four) {
        return Err(fields.unsupported("bits", "4 in this layout", 8));
    }
    Ok(schemes)
}

pub(super) fn read(schemes: &Schemes, source: &Projection<'_>, n: usize, k: usize) -> Result<PackedMatrix> {
    if n % 8 != 0 {
        return Err(source.unsupported("output features", "a multiple of 8", n));
    }
    let codes = source.required("qweight")?.shaped(&[k, n / 8])?.words()?;
    let scales = source.required("scales")?;
    let groups = scales.elems() / n;
    let scale = scales.shaped(&[groups, n])?.floats()?;
    let symmetric = schemes.symmetric(source, Bits::Four, k, groups)?;
    let zeros = match source.optional("qzeros") {
        Some(array) => Some(array.shaped(&[groups, n / 8])?.words()?),
        None if symmetric == Some(false) => return Err(source.missing("qzeros")),
        None => None,
    };
    let (layout, bits) = (ExportedLayout::Awq, Bits::Four);
    let arrays = ExportedArrays { layout, n, k, bits, codes: &codes, scales: &scale, zeros: zeros.as_deref() };
    matrix(source, unpack(source, &arrays)?, symmetric, None)
}
