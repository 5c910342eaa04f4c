//! A file of calibrations.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use ::safetensors::tensor::TensorView;
use ::safetensors::{Dtype, SafeTensors};
use moray::policy::{Array, Elements, Found};
use serde::{Deserialize, Serialize};

use super::{ModelIdentity, TextIdentity};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::hf::{StoredArrayInfo, parse_arrays};
use crate::mapped_file::MappedFile;

/// The version of the layout that is written and read.
pub const VERSION: u32 = 1;

/// What the metadata calls the format.
const FORMAT: &str = "moray.calibration";

/// What a preview of the logits is found under.
pub const PREVIEW: &str = "preview";

/// Says by its name whether a file is a calibration rather than a text.
pub fn is_calibration(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Of the layout.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// What it is of.
    pub model: ModelIdentity,
    /// What it was found in.
    pub text: TextIdentity,
}

/// Only the version, which says whether the rest can be understood.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// An open file of calibrations.
#[derive(Debug)]
pub struct Calibration {
    file: MappedFile,
    about: About,
    arrays: BTreeMap<String, StoredArrayInfo>,
}

impl Calibration {
    /// Opens a file and checks that it is whole.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Truncated`] and [`Error::Malformed`] for what is no whole calibration,
    /// [`Error::Unsupported`] for another version.
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let arrays = parse_arrays(path, file.bytes())?;
        let (_, metadata) = SafeTensors::read_metadata(file.bytes())
            .map_err(|error| Error::malformed(path, "header", "a header of safetensors", error))?;
        let stated = |key: &str| metadata.metadata().as_ref().and_then(|map| map.get(key));
        let about = match (stated("format").is_some_and(|format| format == FORMAT), stated("about")) {
            (true, Some(about)) => about,
            _ => {
                let expected = "a calibration, as moray calibrate writes it";
                return Err(Error::malformed(path, "metadata", expected, "another file of arrays"));
            }
        };
        let malformed = |error| Error::malformed(path, "about", "the description of a calibration", error);
        let Versioned { version } = serde_json::from_str(about).map_err(malformed)?;
        if version != VERSION {
            return Err(Error::unsupported(path, "version of the calibration", VERSION.to_string(), version));
        }
        let about = serde_json::from_str(about).map_err(malformed)?;
        Ok(Calibration { file, about, arrays })
    }

    /// As [`Calibration::open`], of a file that is of this model.
    ///
    /// # Errors
    /// As [`Calibration::open`] and [`ModelIdentity::check`].
    pub fn of(path: &Path, checkpoint: &Checkpoint) -> Result<Self> {
        let calibration = Self::open(path)?;
        calibration.about.model.check(path, checkpoint)?;
        Ok(calibration)
    }

    /// What it says of itself.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// What is held, each as the way the model was held and the policy.
    pub fn held(&self) -> Vec<&str> {
        let mut held: Vec<&str> = self.arrays.keys().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        held.dedup();
        held
    }

    /// Says whether a policy was found with the model held so.
    pub fn holds(&self, held: &str, policy: &str) -> bool {
        self.held().contains(&format!("{held}/{policy}").as_str())
    }

    /// What was found for a policy with the model held so.
    ///
    /// # Errors
    /// [`Error::Unsupported`], with what there is, for a policy that it does not hold; [`Error::Malformed`] for numbers that are not finite.
    pub fn found(&self, held: &str, policy: &str) -> Result<Found> {
        let prefix = format!("{held}/{policy}/");
        let mut found = Found::default();
        for (name, info) in self.arrays.range(prefix.clone()..) {
            let Some(own) = name.strip_prefix(&prefix) else { break };
            found.put(own, self.array(name, info)?);
        }
        if found.arrays().next().is_none() {
            let held: Vec<&str> = self.held().into_iter().filter(|name| !name.ends_with(PREVIEW)).collect();
            let expected = format!("one that the calibration holds: {}", held.join(", "));
            return Err(Error::unsupported(self.file.path(), "policy", expected, prefix.trim_end_matches('/')));
        }
        Ok(found)
    }

    fn array(&self, name: &str, info: &StoredArrayInfo) -> Result<Array> {
        let path = self.file.path();
        let words = self.file.bytes()[info.range.clone()].as_chunks::<4>().0.iter();
        let elements = match info.dtype {
            Dtype::F32 => Elements::F32(words.map(|word| f32::from_le_bytes(*word)).collect()),
            Dtype::U32 => Elements::U32(words.map(|word| u32::from_le_bytes(*word)).collect()),
            other => {
                let expected = "F32 or U32".to_owned();
                return Err(Error::TensorType {
                    path: path.into(),
                    name: name.into(),
                    expected,
                    got: format!("{other:?}"),
                });
            }
        };
        if let Elements::F32(values) = &elements
            && let Some(value) = values.iter().find(|value| !value.is_finite())
        {
            return Err(Error::malformed(path, format!("tensor {name}"), "finite numbers", value));
        }
        Ok(Array::new(&info.shape, elements)?)
    }
}

/// A file of calibrations that is being made.
#[derive(Debug, Default)]
pub struct Drafted(BTreeMap<String, Array>);

impl Drafted {
    /// Says whether a policy was found already with the model held so.
    pub fn holds(&self, held: &str, policy: &str) -> bool {
        let prefix = format!("{held}/{policy}/");
        self.0.range(prefix.clone()..).next().is_some_and(|(name, _)| name.starts_with(&prefix))
    }

    /// Adds what was found for a policy with the model held so.
    pub fn add(&mut self, held: &str, policy: &str, found: &Found) {
        for (name, array) in found.arrays() {
            self.0.insert(format!("{held}/{policy}/{name}"), array.clone());
        }
    }

    /// The policies, each after the way the model was held.
    pub fn held(&self) -> Vec<&str> {
        let mut held: Vec<&str> = self.0.keys().filter_map(|name| Some(name.rsplit_once('/')?.0)).collect();
        held.dedup();
        held
    }

    /// Writes the file: under another name first, so that an interruption leaves none that is half written. Returns its bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn write(&self, path: &Path, about: &About) -> Result<usize> {
        let bytes: Vec<(&str, Dtype, &[usize], Vec<u8>)> = self
            .0
            .iter()
            .map(|(name, array)| {
                let (dtype, bytes) = match array.elements() {
                    Elements::F32(values) => {
                        (Dtype::F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                    }
                    Elements::U32(values) => {
                        (Dtype::U32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
                    }
                };
                (name.as_str(), dtype, array.shape(), bytes)
            })
            .collect();
        let fault = |error: ::safetensors::SafeTensorError| {
            Error::malformed(path, "arrays", "shapes that fit their bytes", error)
        };
        let mut views = Vec::with_capacity(bytes.len());
        for (name, dtype, shape, bytes) in &bytes {
            views.push((*name, TensorView::new(*dtype, shape.to_vec(), bytes).map_err(fault)?));
        }
        let about = serde_json::to_string(about).map_err(|source| Error::io("write", path, source.into()))?;
        let metadata = HashMap::from([("format".to_owned(), FORMAT.to_owned()), ("about".to_owned(), about)]);
        let bytes = ::safetensors::serialize(views, Some(metadata)).map_err(fault)?;
        let partial = path.with_extension("safetensors.partial");
        std::fs::write(&partial, &bytes).map_err(|source| Error::io("write", &partial, source))?;
        std::fs::rename(&partial, path).map_err(|source| Error::io("rename", &partial, source))?;
        Ok(bytes.len())
    }
}
