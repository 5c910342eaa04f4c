//! Calibrations in files: what policies and previews were set by, so that it need not be found again.
//!
//! A file is safetensors. Its metadata has `format` = `moray.calibration` and `about`, a JSON object ([`About`]): the version of the
//! layout, the model that it is of, and the text. Arrays are named
//!
//! ```text
//! WEIGHTS/ACTIVATIONS/FORM/POLICY/ARRAY         dense/token/by-input/inputs/teal:0.7/thresholds
//! ```
//!
//! for the way the model was held, the policy that [`moray::policy::Named::found_as`] names, and its arrays
//! ([`moray::policy::Found`]); the sizes of the output layer's inputs, which a preview of the logits is set by, are those of the policy `preview`.
//! A policy that is made of a file is bit for bit the one that is made of the file's text.

mod file;
mod identity;

pub use file::{About, Calibration, Drafted, PREVIEW, VERSION, is_calibration};
pub use identity::{ModelIdentity, TextIdentity};
