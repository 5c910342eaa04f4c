//! `rope_scaling` and `rope_parameters` of `config.json`.

use serde_json::Value;

use super::keys::ROPE;
use crate::config::RopeScaling;
use crate::error::{Error, Result};
use crate::fields::Fields;
use crate::notes::Notes;

/// The base of the rotary frequencies where a file does not say.
const DEFAULT_THETA: f64 = 10_000.0;

/// The rotary embedding of a model.
pub(super) struct Rope {
    pub(super) theta: f64,
    pub(super) scaling: RopeScaling,
    /// Positions for which the frequencies are right.
    pub(super) context_length: usize,
}

impl Rope {
    /// Reads what `config.json` says; `context_length` is its `max_position_embeddings`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for other scalings, [`Error::MissingKey`], [`Error::Malformed`].
    pub(super) fn parse(config: &Fields<'_>, context_length: usize, notes: &mut Notes) -> Result<Self> {
        let top_theta = config.number("rope_theta")?;
        let Some((name, stated)) = stated(config, top_theta, notes)? else {
            return Ok(Rope { theta: top_theta.unwrap_or(DEFAULT_THETA), scaling: RopeScaling::None, context_length });
        };
        let prefix = config.name(&format!("{name}."));
        let fields = Fields::new(config.path, &prefix, stated)?;
        fields.check(&[ROPE])?;
        let theta = fields.number("rope_theta")?.or(top_theta).unwrap_or(DEFAULT_THETA);
        // where both are there, transformers takes the outer one
        let original = match config.size("original_max_position_embeddings")? {
            Some(outer) => outer,
            None => fields.size("original_max_position_embeddings")?.unwrap_or(context_length),
        };
        let kind = fields.text(&["rope_type", "type"])?.map(str::to_lowercase);
        let (scaling, context_length) = match kind.as_deref() {
            None | Some("default") => {
                if let Some(factor) = fields.number("factor")?.filter(|&factor| factor != 1.0) {
                    let key = fields.name("factor");
                    notes.unusual(format!(
                        "{key} is {factor} beside no type of scaling: frequencies are not scaled, as in transformers"
                    ));
                }
                (RopeScaling::None, context_length)
            }
            Some("linear") => (RopeScaling::Linear { factor: required(&fields, "factor")? as f32 }, context_length),
            // not a name of others: what a GGUF file's table of factors becomes when its model is written as a directory
            Some("factors") => (RopeScaling::Factors(factors(&fields, "factors")?), context_length),
            Some("llama3") => (llama3(&fields, original)?, context_length),
            Some("dynamic") => {
                required(&fields, "factor")?;
                notes.unusual(format!(
                    "{}: dynamic scaling changes frequencies beyond {context_length} positions, which is the limit here",
                    fields.name("rope_type")
                ));
                (RopeScaling::None, context_length)
            }
            Some("yarn") => yarn(&fields, original, context_length)?,
            Some("longrope" | "su") => longrope(&fields, original, context_length, notes)?,
            Some(other) => {
                let expected = "default, linear, dynamic, yarn, longrope or llama3";
                return Err(Error::unsupported(config.path, "rope scaling", expected, other));
            }
        };
        Ok(Rope { theta, scaling, context_length })
    }
}

/// The object that counts, with its key: `rope_scaling` before `rope_parameters`, as in transformers.
fn stated<'a>(
    config: &Fields<'a>,
    top_theta: Option<f64>,
    notes: &mut Notes,
) -> Result<Option<(&'static str, &'a Value)>> {
    let there = |key| config.get(key).filter(|value| !value.as_object().is_some_and(serde_json::Map::is_empty));
    let (scaling, parameters) = (there("rope_scaling"), there("rope_parameters"));
    let (Some(scaling), Some(parameters)) = (scaling, parameters) else {
        return Ok(scaling.map(|value| ("rope_scaling", value)).or(parameters.map(|value| ("rope_parameters", value))));
    };
    let theta = |value: &Value| value.get("rope_theta").and_then(Value::as_f64);
    let taken = theta(scaling).or(top_theta);
    if let (None, Some(other)) = (taken, theta(parameters).filter(|&theta| theta != DEFAULT_THETA)) {
        let expected = format!("{other} as in rope_parameters, which rope_scaling replaces");
        return Err(Error::malformed(config.path, config.name("rope_scaling.rope_theta"), expected, "none"));
    }
    if scaling != parameters {
        notes.unusual("config.json has rope_scaling beside rope_parameters: rope_scaling counts, as in transformers");
    }
    Ok(Some(("rope_scaling", scaling)))
}

fn required(fields: &Fields<'_>, key: &str) -> Result<f64> {
    fields.number(key)?.ok_or_else(|| fields.missing(key))
}

fn factors(fields: &Fields<'_>, key: &str) -> Result<Vec<f32>> {
    fields.numbers(key)?.ok_or_else(|| fields.missing(key))
}

fn llama3(fields: &Fields<'_>, original_context: usize) -> Result<RopeScaling> {
    Ok(RopeScaling::Llama3 {
        factor: required(fields, "factor")? as f32,
        low_freq_factor: required(fields, "low_freq_factor")? as f32,
        high_freq_factor: required(fields, "high_freq_factor")? as f32,
        original_context,
    })
}

fn yarn(fields: &Fields<'_>, original_context: usize, context_length: usize) -> Result<(RopeScaling, usize)> {
    let factor = match fields.number("factor")? {
        Some(factor) => factor,
        None => context_length as f64 / original_context.max(1) as f64,
    };
    // mscale(s, m) = 0.1 · m · ln s + 1 for s > 1
    let mscale = |m: f64| if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 };
    let nonzero = |key| fields.number(key).map(|value| value.filter(|&value| value != 0.0));
    let attention_factor = match (fields.number("attention_factor")?, nonzero("mscale")?, nonzero("mscale_all_dim")?) {
        (Some(stated), _, _) => stated,
        (None, Some(numerator), Some(denominator)) => mscale(numerator) / mscale(denominator),
        (None, _, _) => mscale(1.0),
    };
    let scaling = RopeScaling::Yarn {
        factor: factor as f32,
        beta_fast: nonzero("beta_fast")?.unwrap_or(32.0) as f32,
        beta_slow: nonzero("beta_slow")?.unwrap_or(1.0) as f32,
        original_context,
        attention_factor: attention_factor as f32,
        truncate: fields.flag("truncate")?.unwrap_or(true),
    };
    // configurations of models that were not trained further keep the original length here
    let reach = (original_context as f64 * factor.clamp(1.0, 1e9)) as usize;
    Ok((scaling, context_length.max(reach)))
}

/// The factors for texts within the original context; longer ones have others for all of their positions.
fn longrope(
    fields: &Fields<'_>,
    original_context: usize,
    context_length: usize,
    notes: &mut Notes,
) -> Result<(RopeScaling, usize)> {
    let factor = match fields.number("factor")? {
        Some(factor) => factor,
        None => context_length as f64 / original_context.max(1) as f64,
    };
    let attention_factor = match fields.number("attention_factor")? {
        Some(stated) => stated,
        None if factor > 1.0 => (1.0 + factor.ln() / (original_context as f64).ln()).sqrt(),
        None => 1.0,
    };
    if original_context < context_length {
        notes.unusual(format!(
            "{}: texts of more than {original_context} tokens need other rotary factors for all of their positions, so this is the limit",
            fields.name("long_factor")
        ));
    }
    let factors = factors(fields, "short_factor")?;
    let scaling = RopeScaling::LongRope { factors, attention_factor: attention_factor as f32 };
    Ok((scaling, context_length.min(original_context)))
}
