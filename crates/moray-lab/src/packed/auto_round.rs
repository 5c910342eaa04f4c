//! AutoRound's spelling of a configuration: its arrays are in GPTQ's layout or AWQ's, which `packing_format` says.
//!
//! Group scales may be negative, which they are to the kernels too.

use moray::w4a8::StoredZeros;

use super::Quantization;
use super::awq;
use super::gptq::Gptq;
use super::keys::{AUTO_ROUND, AWQ, GPTQ, PACKING, PROVENANCE};
use crate::error::Result;
use crate::fields::Fields;

/// The layouts by what older and newer versions call them, kernels' names left out.
const LAYOUTS: [(&str, Option<StoredZeros>); 8] = [
    ("auto", Some(StoredZeros::LessOneByWord)),
    ("auto_round:auto_gptq", Some(StoredZeros::LessOneByWord)),
    ("auto_round:gptq", Some(StoredZeros::LessOneByWord)),
    ("auto_gptq", Some(StoredZeros::LessOneByWord)),
    ("auto_round", Some(StoredZeros::Plain)),
    ("auto_round:gptqmodel", Some(StoredZeros::Plain)),
    ("auto_round:auto_awq", None),
    ("auto_round:awq", None),
];

/// Kernels that older versions name after the layout.
const KERNELS: [&str; 7] = [":exllamav2", ":tritonv2", ":triton", ":marlin", ":cuda", ":torch", ":gemm"];

pub(super) fn parse(fields: &Fields<'_>) -> Result<Quantization> {
    let stated = match fields.text(&["packing_format"])? {
        Some(format) => format,
        None => fields.text(&["backend"])?.unwrap_or("auto"),
    };
    let name = KERNELS.iter().find_map(|kernel| stated.strip_suffix(kernel)).unwrap_or(stated);
    match LAYOUTS.iter().find(|(layout, _)| *layout == name) {
        Some((_, Some(zeros))) => {
            fields.check(&[PACKING, PROVENANCE, AUTO_ROUND, GPTQ])?;
            Ok(Quantization::Gptq(Gptq::parse(fields, Some(*zeros))?))
        }
        Some((_, None)) => {
            fields.check(&[PACKING, PROVENANCE, AUTO_ROUND, AWQ])?;
            Ok(Quantization::Awq(awq::parse(fields)?))
        }
        None => {
            let expected = LAYOUTS.map(|(layout, _)| layout).join(", ");
            Err(fields.unsupported("packing_format", expected, stated))
        }
    }
}
