//! A model on disk, whatever its format: configuration, tensors by their role, tokenizer.

mod check;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{Activation, ModelConfig};
pub use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::gguf::{self, Header, Vocabulary};
use crate::hf::StoredArrayInfo;
use crate::hf::{self, StoredTensor};
use crate::mapped_file::MappedFile;
use crate::notes::Notes;
use crate::packed::{PackedMatrix, PackedTensors, Quantization};
pub use crate::roles::LayerTensor;
use crate::roles::{Format, Role};
pub use crate::tensor::Tensor;
use crate::tokenizer::Tokenizer;

/// A GGUF header without tensors: the vocabulary of a model that came from a GGUF file and has no `tokenizer.json`.
pub(crate) const VOCABULARY_FILE: &str = "tokenizer.gguf";

/// What a directory has besides configuration and weights.
const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    VOCABULARY_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
];

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An open model. Its files stay mapped as long as it lives.
///
/// ```
/// use moray_lab::checkpoint::{Checkpoint, LayerTensor};
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("model.gguf");
/// # moray_lab::fixture::Fixture::default().write_gguf(&path)?;
/// let checkpoint = Checkpoint::open(&path)?;
/// let config = checkpoint.config();
/// for index in 0..config.n_layers {
///     let gate = checkpoint.layer(index, LayerTensor::Gate)?;
///     assert_eq!(gate.to_f32()?.len(), config.d_ff * config.hidden);
///     checkpoint.release(&gate); // its pages need not stay resident
/// }
/// let tokenizer = checkpoint.tokenizer()?;
/// let ids = tokenizer.encode("Hello", config.add_bos)?;
/// assert_eq!(tokenizer.decode(&ids), "Hello");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, (usize, StoredTensor)>,
    config: ModelConfig,
    format: Format,
    /// How matrices of the layers are stored that are not in `tensors`.
    quantization: Option<Quantization>,
    /// Their arrays.
    arrays: BTreeMap<String, (usize, StoredArrayInfo)>,
    /// What was noticed while it was opened.
    notes: Notes,
}

impl Checkpoint {
    /// Opens a `.gguf` file or a Hugging Face directory and checks it against its own configuration: every tensor
    /// there, of the right shape, with its bytes inside the file, none unknown, and (GGUF) a vocabulary of the
    /// embedding's size. Weights are not read.
    ///
    /// # Errors
    /// [`Error::Io`] for unreadable paths, and the variant of [`Error`] that names what is wrong with the model.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let hf::Opened { files, tensors, config, quantization, arrays, notes } = hf::open_directory(path)?;
            let format = Format::HuggingFace;
            return Self { path: path.into(), files, tensors, config, format, quantization, arrays, notes }.checked();
        }
        Self::open_gguf(MappedFile::open(path)?)
    }

    /// Opens a GGUF file that is already in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_gguf(file: MappedFile) -> Result<Self> {
        let header = Header::parse(file.path(), file.bytes())?;
        let vocabulary = Vocabulary::open(&file, &header)?;
        let config = gguf::model_config(&file, &header, &vocabulary)?;
        if vocabulary.len() != config.vocab {
            let (expected, got) = (config.vocab, vocabulary.len());
            return Err(Error::Vocabulary { path: file.path().into(), expected, got });
        }
        let place = |tensor: &gguf::TensorInfo| {
            let stored = StoredTensor { dtype: tensor.dtype, shape: tensor.shape, range: tensor.range.clone() };
            (tensor.name.clone(), (0, stored))
        };
        let tensors = header.tensors.iter().map(place).collect();
        // What parsing touched, mostly the vocabulary, is read again when the tokenizer is built.
        file.release(0..header.end);
        let format = Format::Gguf { interleaved: gguf::interleaved(&config.architecture), header };
        let (quantization, arrays, notes) = (None, BTreeMap::new(), Notes::default());
        let path = file.path().into();
        Self { path, files: vec![file], tensors, config, format, quantization, arrays, notes }.checked()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Puts another activation into the MLPs, as a question of what would be: the weights were not trained for it. Says so in the notes.
    pub fn with_activation(mut self, activation: Activation) -> Self {
        if self.config.activation != activation {
            let (swapped, own) = (activation.name(), self.config.activation.name());
            self.notes.unusual(format!(
                "the MLPs' activation is {swapped} in place of {own}, for which the model was trained"
            ));
            self.config.activation = activation;
        }
        self
    }

    /// What kind of file it is.
    pub fn format_name(&self) -> String {
        match &self.format {
            Format::Gguf { header, .. } => format!("GGUF version {}", header.version),
            Format::HuggingFace => match &self.quantization {
                Some(quantization) => format!("Hugging Face directory, {}", quantization.name()),
                None => "Hugging Face directory".into(),
            },
        }
    }

    /// The element types of its tensors, each with their number and bytes.
    pub fn element_types(&self) -> Vec<String> {
        let floats = self.tensors.values().map(|(_, tensor)| (tensor.dtype.to_string(), tensor.range.len()));
        let arrays = self.arrays.values().map(|(_, array)| (format!("{:?}", array.dtype), array.range.len()));
        let mut types: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for (name, bytes) in floats.chain(arrays) {
            let (count, total) = types.entry(name).or_default();
            (*count, *total) = (*count + 1, *total + bytes);
        }
        let one = |(name, (count, bytes)): (String, (usize, usize))| {
            format!("{count} tensors of {name}, {:.1} MB", bytes as f64 / 1e6)
        };
        types.into_iter().map(one).collect()
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was noticed while its files were read, and is no reason to refuse them.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Builds the model's own tokenizer.
    ///
    /// # Errors
    /// [`Error::Tokenizer`], [`Error::Unsupported`] for tokenizer models that are not known, and [`Error::Malformed`] for added
    /// tokens that contradict the vocabulary.
    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.format {
            Format::HuggingFace if self.path.join(VOCABULARY_FILE).exists() => {
                let file = MappedFile::open(&self.path.join(VOCABULARY_FILE))?;
                let header = Header::parse(file.path(), file.bytes())?;
                Tokenizer::from_vocabulary(&Vocabulary::open(&file, &header)?, &self.config)
            }
            Format::HuggingFace => {
                let file = MappedFile::open(&self.path.join("tokenizer.json"))?;
                hf::check_merges(file.path(), file.bytes())?;
                let mut tokenizer = Tokenizer::from_json(file.path(), file.bytes(), &self.config)?;
                tokenizer.add_tokens(hf::added_tokens(&self.path)?)?;
                Ok(tokenizer)
            }
            Format::Gguf { header, .. } => {
                let tokenizer = Tokenizer::from_vocabulary(&Vocabulary::open(&self.files[0], header)?, &self.config);
                self.files[0].release(0..header.end);
                tokenizer
            }
        }
    }

    /// The files that a directory needs to have this model's tokenizer, by name: those of the directory it came from, or
    /// what a GGUF file's vocabulary becomes.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be read, and as [`Checkpoint::tokenizer`].
    pub fn tokenizer_files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let mut files = Vec::new();
        match &self.format {
            Format::HuggingFace => {
                for name in TOKENIZER_FILES {
                    let path = self.path.join(name);
                    if path.exists() {
                        files.push((name, std::fs::read(&path).map_err(|source| Error::io("read", &path, source))?));
                    }
                }
            }
            Format::Gguf { header, .. } => {
                match self.tokenizer()?.to_json()? {
                    Some(json) => files.push(("tokenizer.json", json.into_bytes())),
                    None => {
                        // the file's own pairs, without its tensors
                        let mut bytes = self.files[0].bytes()[..header.end].to_vec();
                        bytes[8..16].fill(0);
                        files.push((VOCABULARY_FILE, bytes));
                    }
                }
                let mut stated = serde_json::json!({"add_bos_token": self.config.add_bos});
                if let Some(template) = &self.config.chat_template {
                    stated["chat_template"] = template.as_str().into();
                }
                files.push(("tokenizer_config.json", stated.to_string().into_bytes()));
            }
        }
        Ok(files)
    }

    /// The embedding `[vocab, hidden]`.
    ///
    /// # Errors
    /// None after a successful [`Checkpoint::open`].
    pub fn embedding(&self) -> Result<Tensor<'_>> {
        self.required(Role::Embedding)
    }

    /// The output projection `[vocab, hidden]`; None if it is the embedding.
    ///
    /// # Errors
    /// None after a successful [`Checkpoint::open`].
    pub fn lm_head(&self) -> Result<Option<Tensor<'_>>> {
        if self.config.tied_embeddings { Ok(None) } else { self.required(Role::LmHead).map(Some) }
    }

    /// The last RMSNorm's weight `[1, hidden]`.
    ///
    /// # Errors
    /// None after a successful [`Checkpoint::open`].
    pub fn final_norm(&self) -> Result<Tensor<'_>> {
        self.required(Role::FinalNorm)
    }

    /// A tensor of layer `index`, query and key rows in the order of half-split rotary pairs.
    ///
    /// # Errors
    /// [`Error::Index`] if there is no such layer, [`Error::MissingTensor`] for a bias that the model does not have.
    pub fn layer(&self, index: usize, tensor: LayerTensor) -> Result<Tensor<'_>> {
        self.check_layer(index)?;
        self.required(Role::Layer(index, tensor))
    }

    /// As [`Checkpoint::layer`], with None for what the model does not have.
    ///
    /// # Errors
    /// [`Error::Index`] if there is no such layer.
    pub fn layer_optional(&self, index: usize, tensor: LayerTensor) -> Result<Option<Tensor<'_>>> {
        self.check_layer(index)?;
        Ok(self.find(Role::Layer(index, tensor)))
    }

    /// How quantized matrices of the layers are stored, if there are any.
    pub fn quantization(&self) -> Option<&Quantization> {
        self.quantization.as_ref()
    }

    /// A matrix of layer `index` as integer codes, if that is how the checkpoint has it.
    ///
    /// # Errors
    /// [`Error::Index`] if there is no such layer; [`Error::MissingTensor`], [`Error::Malformed`], [`Error::Unsupported`] and
    /// [`Error::Kernel`] for arrays that contradict the layout.
    pub fn layer_quantized(&self, index: usize, tensor: LayerTensor) -> Result<Option<PackedMatrix>> {
        self.check_layer(index)?;
        let Some(quantization) = &self.quantization else { return Ok(None) };
        let name = self.format.name(Role::Layer(index, tensor));
        let Some(prefix) = name.strip_suffix(".weight").filter(|_| !self.tensors.contains_key(&name)) else {
            return Ok(None);
        };
        let [n, k] = tensor.shape(&self.config);
        let tensors = PackedTensors { path: &self.path, files: &self.files, arrays: &self.arrays };
        quantization.read(&tensors, prefix, n, k).map(Some)
    }

    /// SHA-256 of the bytes of all weight files and of the configuration, in hexadecimal. Reads every weight once.
    pub fn content_hash(&self) -> String {
        const CHUNK: usize = 4 << 20;
        let mut hash = Sha256::new();
        for file in &self.files {
            let bytes = file.bytes();
            hash.update(bytes.len().to_le_bytes());
            for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
                hash.update(chunk);
                file.release(index * CHUNK..index * CHUNK + chunk.len());
            }
        }
        hash.update(format!("{:?} {:?}", self.config, self.quantization));
        hex(&hash.finalize())
    }

    /// SHA-256 of the model's sizes and constants and of some of the bytes of each weight file, in hexadecimal: the same weights in the same files,
    /// without reading all of them. What is fine-tuned differs nearly everywhere.
    pub fn sampled_hash(&self) -> String {
        /// Places of a file, with the first and the last.
        const PLACES: usize = 64;
        const BYTES: usize = 4096;
        let mut hash = Sha256::new();
        let ModelConfig { hidden, d_ff, n_layers, n_q_heads, n_kv_heads, head_dim, vocab, .. } = self.config;
        let sizes = [hidden, d_ff, n_layers, n_q_heads, n_kv_heads, head_dim, vocab, self.files.len()];
        sizes.iter().for_each(|&size| hash.update((size as u64).to_le_bytes()));
        [self.config.rms_eps, self.config.rope_theta].iter().for_each(|value| hash.update(value.to_le_bytes()));
        for file in &self.files {
            let bytes = file.bytes();
            hash.update((bytes.len() as u64).to_le_bytes());
            let last = bytes.len().saturating_sub(BYTES);
            for place in 0..PLACES {
                let start = (last as u128 * place as u128 / (PLACES as u128 - 1)) as usize;
                hash.update(&bytes[start..(start + BYTES).min(bytes.len())]);
            }
        }
        hex(&hash.finalize())
    }

    /// Drops a tensor's bytes from the resident set, once they are converted. They may be read again.
    pub fn release(&self, tensor: &Tensor<'_>) {
        let (file, range) = &tensor.origin;
        if let Some(file) = self.files.get(*file) {
            file.release(range.clone());
        }
    }

    /// Bytes of all weights as stored.
    pub fn stored_bytes(&self) -> usize {
        let floats: usize = self.tensors.values().map(|(_, tensor)| tensor.range.len()).sum();
        floats + self.arrays.values().map(|(_, array)| array.range.len()).sum::<usize>()
    }

    /// Bytes of the integer matrices as stored, codes and scales.
    pub fn quantized_bytes(&self) -> usize {
        self.arrays.values().map(|(_, array)| array.range.len()).sum()
    }

    fn check_layer(&self, index: usize) -> Result<()> {
        let limit = self.config.n_layers;
        if index < limit { Ok(()) } else { Err(Error::Index { what: "layer".into(), limit, got: index }) }
    }

    fn required(&self, role: Role) -> Result<Tensor<'_>> {
        self.find(role).ok_or_else(|| Error::MissingTensor { path: self.path.clone(), name: self.format.name(role) })
    }

    fn find(&self, role: Role) -> Option<Tensor<'_>> {
        let (name, (file, stored)) = self.tensors.get_key_value(&self.format.name(role))?;
        let bytes = &self.files[*file].bytes()[stored.range.clone()];
        let origin = (*file, stored.range.clone());
        let bytes = match self.interleaved_row_bytes(role, stored) {
            Some(row_bytes) => Cow::Owned(gguf::half_split_rows(bytes, row_bytes, self.config.head_dim)),
            None => Cow::Borrowed(bytes),
        };
        Some(Tensor { name, dtype: stored.dtype, shape: stored.shape, bytes, origin })
    }

    /// Bytes of what moves as one when rotary pairs are put back, or None if the tensor's order is right already.
    fn interleaved_row_bytes(&self, role: Role, stored: &StoredTensor) -> Option<usize> {
        let Format::Gguf { interleaved: true, .. } = self.format else { return None };
        match role {
            Role::Layer(_, LayerTensor::Q | LayerTensor::K) => stored.dtype.row_bytes(stored.shape[1]),
            Role::Layer(_, LayerTensor::QBias | LayerTensor::KBias) => Some(stored.dtype.block_bytes()),
            _ => None,
        }
    }
}
