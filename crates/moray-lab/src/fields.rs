//! A JSON object of a model's configuration: typed access, and what its keys may say.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// What a key of a configuration is to the numbers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is read, and means what its reader says.
    Read,
    /// The numbers do not depend on it: how they were found, or what runs them.
    Harmless,
    /// The numbers depend on it, and these are the values whose meaning is there.
    Only(&'static [&'static str]),
}

/// The keys that an object may have. Every other one is refused, for it could change the numbers.
pub(crate) type Rules = [(&'static str, Rule)];

/// An object, and where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    /// The file.
    pub(crate) path: &'a Path,
    /// What comes before a key in messages, with its dot.
    prefix: &'a str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Takes a value that has to be an object; `prefix` is what messages put before its keys.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another value.
    pub(crate) fn new(path: &'a Path, prefix: &'a str, value: &'a Value) -> Result<Self> {
        let what = if prefix.is_empty() { "content" } else { prefix.trim_end_matches('.') };
        let map = value.as_object().ok_or_else(|| Error::malformed(path, what, "an object", brief(value)))?;
        Ok(Fields { path, prefix, map })
    }

    /// A key's full name.
    pub(crate) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A key's value; null is none.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// The keys and values that are there.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter().filter(|(_, value)| !value.is_null())
    }

    /// The spelling of a key that is there, or the first.
    pub(crate) fn spelled<'k>(&self, keys: &[&'k str]) -> &'k str {
        keys.iter().find(|key| self.get(key).is_some()).unwrap_or(&keys[0])
    }

    /// The value that several spellings of one key have.
    ///
    /// # Errors
    /// [`Error::Malformed`] if two of them differ.
    pub(crate) fn agreed(&self, keys: &[&str]) -> Result<Option<&'a Value>> {
        let mut found = keys.iter().filter_map(|&key| self.get(key).map(|value| (key, value)));
        let Some((first, value)) = found.next() else { return Ok(None) };
        match found.find(|(_, other)| plain(other) != plain(value)) {
            Some((key, other)) => {
                let expected = format!("{} as {} says", brief(value), self.name(first));
                Err(Error::malformed(self.path, self.name(key), expected, brief(other)))
            }
            None => Ok(Some(value)),
        }
    }

    /// A whole number, which Python may write with a point.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else, and for spellings that differ.
    pub(crate) fn integer(&self, keys: &[&str]) -> Result<Option<i64>> {
        let Some(value) = self.agreed(keys)? else { return Ok(None) };
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < (1u64 << 53) as f64);
        let integer = value.as_i64().or(whole.map(|number| number as i64));
        integer.map(Some).ok_or_else(|| self.wrong(self.spelled(keys), "a whole number", value))
    }

    /// A whole number of at least 0.
    ///
    /// # Errors
    /// As [`Fields::integer`].
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        let negative = |got| Error::malformed(self.path, self.name(key), "a whole number of at least 0", got);
        self.integer(&[key])?.map(|got| usize::try_from(got).map_err(|_| negative(got))).transpose()
    }

    /// A number.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| value.as_f64().ok_or_else(|| self.wrong(key, "a number", value));
        self.get(key).map(number).transpose()
    }

    /// A truth value.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(key, "true or false", value));
        self.get(key).map(flag).transpose()
    }

    /// Text, which several spellings of one key may have.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else, and for spellings that differ.
    pub(crate) fn text(&self, keys: &[&str]) -> Result<Option<&'a str>> {
        let Some(value) = self.agreed(keys)? else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(self.spelled(keys), "text", value))
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// [`Error::Malformed`] for anything else.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().map(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect());
        numbers.flatten().map(Some).ok_or_else(|| self.wrong(key, "a list of numbers", value))
    }

    /// Refuses keys that no rule names, and values that no rule knows. What is null or empty says nothing.
    ///
    /// # Errors
    /// [`Error::Unsupported`], which names the key.
    pub(crate) fn check(&self, rules: &[&Rules]) -> Result<()> {
        for (key, value) in self.iter().filter(|(_, value)| !says_nothing(value)) {
            let rule = rules.iter().copied().flatten().find(|(name, _)| name.eq_ignore_ascii_case(key));
            match rule.map(|(_, rule)| *rule) {
                Some(Rule::Read | Rule::Harmless) => {}
                Some(Rule::Only(known)) if known.contains(&&*plain(value)) => {}
                Some(Rule::Only(known)) => {
                    let expected = if known.is_empty() { "nothing".to_owned() } else { known.join(" or ") };
                    return Err(self.unsupported(key, expected, brief(value)));
                }
                None => return Err(self.unsupported(key, "a key whose meaning is known", brief(value))),
            }
        }
        Ok(())
    }

    /// As [`Fields::check`], where programs leave keys of their own, which are then named: only those that sound like a model's
    /// arithmetic and ask for something are refused.
    ///
    /// # Errors
    /// [`Error::Unsupported`], which names the key.
    pub(crate) fn check_open(&self, rules: &[&Rules]) -> Result<Vec<&'a str>> {
        let known = |key: &str| rules.iter().copied().flatten().any(|(name, _)| *name == key);
        let (stated, others): (Vec<_>, Vec<_>) = self.iter().partition(|(key, _)| known(key));
        for (key, value) in &others {
            if sounds_like_arithmetic(key) && !is_neutral(key, value) {
                return Err(self.unsupported(key, "a key whose meaning is known", brief(value)));
            }
        }
        let map = stated.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Fields { map: &map, ..*self }.check(rules)?;
        Ok(others.into_iter().map(|(key, _)| key.as_str()).collect())
    }

    /// An error for a key that is well formed and asks for something that is not there.
    pub(crate) fn unsupported(&self, key: &str, expected: impl Into<String>, got: impl ToString) -> Error {
        Error::unsupported(self.path, self.name(key), expected, got)
    }

    /// An error for a key that has to be there.
    pub(crate) fn missing(&self, key: &str) -> Error {
        Error::missing_key(self.path, self.name(key))
    }

    fn wrong(&self, key: &str, expected: &str, got: &Value) -> Error {
        Error::malformed(self.path, self.name(key), expected, brief(got))
    }
}

/// Whether a value asks for nothing.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(says_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Parts of the names of what a forward pass depends on.
const ARITHMETIC: [&str; 41] = [
    "scale",
    "scaling",
    "multiplier",
    "factor",
    "softcap",
    "clip",
    "clamp",
    "norm",
    "rope",
    "rotary",
    "bias",
    "window",
    "attention",
    "attn",
    "expert",
    "moe",
    "logit",
    "residual",
    "embed",
    "quant",
    "alibi",
    "position",
    "mlp",
    "activation",
    "_act",
    "act_",
    "layer",
    "head",
    "kv_",
    "mask",
    "causal",
    "adapter",
    "lora",
    "sparse",
    "transform",
    "mup",
    "chunk",
    "parallel",
    "conv",
    "recurrent",
    "ffn",
];

/// Parts of the names of what only training or a program's own running depends on.
const RUNNING: [&str; 9] =
    ["drop", "init", "implementation", "flash", "output_", "checkpointing", "_plan", "freeze", "version"];

fn sounds_like_arithmetic(key: &str) -> bool {
    let key = key.to_lowercase();
    ARITHMETIC.iter().any(|part| key.contains(part)) && !RUNNING.iter().any(|part| key.contains(part))
}

/// Whether a key that nobody here knows leaves the numbers alone if it means what its name says: off, none of them, times one.
fn is_neutral(key: &str, value: &Value) -> bool {
    let multiplies = ["scale", "scaling", "multiplier", "factor"].iter().any(|part| key.contains(part));
    let neutral = if multiplies { 1.0 } else { 0.0 };
    says_nothing(value) || value == &Value::Bool(false) || value.as_f64() == Some(neutral)
}

/// A value as rules name it: text in lower case, and numbers that are equal alike.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_lowercase(),
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

/// A value in a message, not longer than a line.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}
