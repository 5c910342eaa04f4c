//! The directory that a quantization writes: one shard for each layer, made whole or not at all.
//!
//! Everything is written into `<out>.partial` beside the directory asked for and renamed when all of it is there. A shard is
//! written under another name first, so a run that is killed leaves whole shards only, and the next one with the same
//! options goes on after the last of them.

mod layout;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

pub use self::layout::Layout;
use self::layout::config_json;
use super::layer::{FloatLayer, Projection, Site};
use super::matrix::Matrix;
use super::options::Options;
use super::outliers::Peaks;
use super::pipeline::QuantizedLayer;
use super::solve::{SiteError, dequantized};
use super::source::Source;
use crate::checkpoint::{LayerTensor, hex};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::hf::parse_arrays;
use crate::mapped_file::MappedFile;
use crate::packed::{PackedTensors, StoredArray, serialize_arrays};
use crate::roles::{Format, Role};

/// What is known of one site after its layer is done.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// Which site.
    pub site: Site,
    /// Errors of its output.
    pub error: SiteError,
    /// Outliers of the model as it was.
    pub before: Peaks,
    /// Outliers of what was quantized.
    pub after: Peaks,
    /// The smoothing threshold, if one was searched.
    pub threshold: Option<f32>,
}

/// What is known of a layer once it is done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Which layer.
    pub index: usize,
    /// In the order of [`Site::ALL`].
    pub sites: Vec<SiteRecord>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Which algorithm this is: raised with every change after which the same options come to other codes, so that no directory
/// holds layers of both.
pub const ALGORITHM: u32 = 2;

/// What identifies a run: one that was interrupted goes on only with the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// [`ALGORITHM`] of the program that started it.
    pub algorithm: u32,
    /// SHA-256 of what the model's files say: weights and configuration.
    pub model: String,
    /// What was asked for.
    pub options: Options,
    /// How it is written.
    pub layout: Layout,
    /// SHA-256 of the calibration tokens.
    pub calibration: String,
}

/// SHA-256 of token ids.
pub fn fingerprint(tokens: &[u32]) -> String {
    let mut hash = Sha256::new();
    tokens.iter().for_each(|token| hash.update(token.to_le_bytes()));
    hex(&hash.finalize())
}

/// The directory of a run that is under way.
#[derive(Debug)]
pub struct Directory {
    out: PathBuf,
    partial: PathBuf,
    identity: Identity,
}

impl Directory {
    /// Starts, or goes on with, the run that ends in `out`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if `out` is there and not empty, or an interrupted run of other options is in the way;
    /// [`Error::Io`] for what cannot be written.
    pub fn open(out: &Path, identity: Identity) -> Result<Self> {
        if out.exists() && fs::read_dir(out).map_err(|source| Error::io("list", out, source))?.next().is_some() {
            return Err(Error::malformed(out, "out", "an empty directory or none", "one with files"));
        }
        let name = out.file_name().ok_or_else(|| Error::malformed(out, "out", "a directory's name", out.display()))?;
        let mut partial_name = name.to_os_string();
        partial_name.push(".partial");
        let partial = out.with_file_name(partial_name);
        let directory = Directory { out: out.into(), partial, identity };
        fs::create_dir_all(&directory.partial).map_err(|source| Error::io("create", &directory.partial, source))?;
        let path = directory.partial.join("run.json");
        if path.exists() {
            let bytes = fs::read(&path).map_err(|source| Error::io("read", &path, source))?;
            let found: Option<Identity> = serde_json::from_slice(&bytes).ok();
            if found.as_ref() != Some(&directory.identity) {
                let expected =
                    "an interrupted run of the same program, model, text and options (remove it to start anew)";
                return Err(Error::malformed(&directory.partial, "partial", expected, "another"));
            }
        } else {
            directory.write("run.json", &to_json(&path, &directory.identity)?)?;
        }
        Ok(directory)
    }

    /// Where files are until all are there.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Writes a file whole: under another name first, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk among them.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        use std::io::Write;
        let (path, temporary) = (self.partial.join(name), self.partial.join(format!("{name}.tmp")));
        let written = fs::File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        written.map_err(|source| Error::io("write", &temporary, source))?;
        fs::rename(&temporary, &path).map_err(|source| Error::io("rename", &temporary, source))
    }

    /// The record of a layer that an earlier run has finished.
    pub fn finished(&self, index: usize) -> Option<LayerRecord> {
        // the shard is written after the record
        if !self.partial.join(shard(index)).exists() {
            return None;
        }
        serde_json::from_slice(&fs::read(self.partial.join(record(index))).ok()?).ok()
    }

    /// Writes a layer.
    ///
    /// # Errors
    /// As [`Directory::write`]; [`Error::Kernel`] for scales that the layout does not have.
    pub fn write_layer(&self, layer: &QuantizedLayer, config: &ModelConfig, done: &LayerRecord) -> Result<()> {
        let index = done.index;
        let name = |tensor| Format::HuggingFace.name(Role::Layer(index, tensor));
        let mut arrays = vec![
            StoredArray::f32(name(LayerTensor::AttnNorm), &[layer.attn_norm.len()], &layer.attn_norm),
            StoredArray::f32(name(LayerTensor::FfnNorm), &[layer.mlp_norm.len()], &layer.mlp_norm),
        ];
        for (site, (weight, bias)) in Site::ALL.into_iter().zip(&layer.sites) {
            let mut first = 0;
            for &(tensor, bias_tensor) in site.tensors() {
                let rows = first..first + tensor.shape(config)[0];
                first = rows.end;
                let full = name(tensor);
                let prefix = full.strip_suffix(".weight").unwrap_or(&full);
                arrays.extend(self.identity.layout.arrays(prefix, &weight.rows(rows.clone())?)?);
                if let Some(bias) = bias {
                    arrays.push(StoredArray::f32(name(bias_tensor), &[rows.len()], &bias[rows]));
                }
            }
        }
        let path = self.partial.join(record(index));
        self.write(&record(index), &to_json(&path, done)?)?;
        self.write(&shard(index), &serialize_arrays(&path, &arrays)?)
    }

    /// Reads a finished layer back: what its codes stand for.
    ///
    /// # Errors
    /// As opening a checkpoint.
    pub fn read_layer(&self, index: usize, config: &ModelConfig) -> Result<FloatLayer> {
        let path = self.partial.join(shard(index));
        let file = MappedFile::open(&path)?;
        let stored = parse_arrays(&path, file.bytes())?;
        let arrays = stored.into_iter().map(|(name, array)| (name, (0, array))).collect();
        let files = [file];
        let tensors = PackedTensors { path: &path, files: &files, arrays: &arrays };
        let quantization = self.identity.layout.quantization(&self.identity.options);
        let vector = |tensor: LayerTensor| {
            let name = Format::HuggingFace.name(Role::Layer(index, tensor));
            let (prefix, suffix) = name.rsplit_once('.').unwrap_or(("", &name));
            tensors.under(prefix).optional(suffix).map(|array| array.floats()).transpose()
        };
        let missing = |tensor| {
            let name = Format::HuggingFace.name(Role::Layer(index, tensor));
            Error::MissingTensor { path: path.clone(), name }
        };
        let site = |site: Site| -> Result<Projection> {
            let (mut parts, mut bias) = (Vec::new(), Vec::new());
            for &(tensor, bias_tensor) in site.tensors() {
                let [rows, columns] = tensor.shape(config);
                let full = Format::HuggingFace.name(Role::Layer(index, tensor));
                let prefix = full.strip_suffix(".weight").unwrap_or(&full);
                let data = dequantized(&quantization.read(&tensors, prefix, rows, columns)?.weight);
                parts.push(Matrix { rows, columns, data });
                bias.extend(vector(bias_tensor)?.unwrap_or_default());
            }
            let weight = Matrix::stack(&parts);
            Ok(Projection { bias: (bias.len() == weight.rows).then_some(bias), weight })
        };
        Ok(FloatLayer {
            attn_norm: vector(LayerTensor::AttnNorm)?.ok_or_else(|| missing(LayerTensor::AttnNorm))?,
            mlp_norm: vector(LayerTensor::FfnNorm)?.ok_or_else(|| missing(LayerTensor::FfnNorm))?,
            sites: [site(Site::Qkv)?, site(Site::O)?, site(Site::GateUp)?, site(Site::Down)?],
        })
    }

    /// Writes what is not a layer: vocabulary, configuration, tokenizer, index.
    ///
    /// # Errors
    /// As [`Directory::write`]; [`Error::Malformed`] for an embedding that f16 cannot hold.
    pub fn write_rest(&self, source: &Source<'_>, has_bias: [bool; 2]) -> Result<()> {
        let checkpoint = source.checkpoint();
        let mut arrays = Vec::new();
        let head = source.lm_head()?.map(|head| (Role::LmHead, head));
        for (role, matrix) in std::iter::once((Role::Embedding, source.embedding()?)).chain(head) {
            let name = Format::HuggingFace.name(role);
            let halves: Vec<half::f16> = matrix.data.iter().map(|&v| half::f16::from_f32(v)).collect();
            if let Some(at) = halves.iter().position(|v| !v.is_finite()) {
                return Err(Error::NotFinite { name, row: at / matrix.columns });
            }
            arrays.push(StoredArray::f16(name, &[matrix.rows, matrix.columns], &halves));
        }
        let norm = source.final_norm()?;
        arrays.push(StoredArray::f32(Format::HuggingFace.name(Role::FinalNorm), &[norm.len()], &norm));
        let mut weight_map = serde_json::Map::new();
        weight_map.extend(arrays.iter().map(|array| (array.name.clone(), VOCABULARY.into())));
        let mut total_bytes: usize = arrays.iter().map(|array| array.bytes.len()).sum();
        self.write(VOCABULARY, &serialize_arrays(&self.partial, &arrays)?)?;
        for index in 0..checkpoint.config().n_layers {
            let file = MappedFile::open(&self.partial.join(shard(index)))?;
            for (name, array) in parse_arrays(file.path(), file.bytes())? {
                total_bytes += array.range.len();
                weight_map.insert(name, shard(index).into());
            }
        }
        let index = json!({"metadata": {"total_size": total_bytes}, "weight_map": weight_map});
        self.write("model.safetensors.index.json", index.to_string().as_bytes())?;
        let mut config = config_json(checkpoint.config(), source.tied(), has_bias);
        config["quantization_config"] = self.identity.layout.config(&self.identity.options);
        self.write("config.json", &to_json(&self.partial, &config)?)?;
        for (name, bytes) in checkpoint.tokenizer_files()? {
            self.write(name, &bytes)?;
        }
        Ok(())
    }

    /// Gives the finished directory its name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(self) -> Result<PathBuf> {
        for index in 0.. {
            let path = self.partial.join(record(index));
            if !path.exists() {
                break;
            }
            fs::remove_file(&path).map_err(|source| Error::io("remove", &path, source))?;
        }
        if self.out.exists() {
            // it is empty: checked when the run began
            fs::remove_dir(&self.out).map_err(|source| Error::io("replace", &self.out, source))?;
        }
        fs::rename(&self.partial, &self.out).map_err(|source| Error::io("rename", &self.partial, source))?;
        Ok(self.out)
    }
}

const VOCABULARY: &str = "vocabulary.safetensors";

fn shard(index: usize) -> String {
    format!("layer-{index:05}.safetensors")
}

fn record(index: usize) -> String {
    format!("layer-{index:05}.json")
}

/// JSON for people to read.
pub fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value).map_err(|error| Error::malformed(path, "report", "finite numbers", error))
}
