//! Opening a Hugging Face directory: which files, which tensors, which tokens.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::added_tokens::AddedTokens;
use super::config::read_config;
use super::safetensors::{StoredArrayInfo, StoredTensor, as_tensor, parse_arrays};
use super::text_bounds::{Stated, text_bounds};
use crate::checkpoint::VOCABULARY_FILE;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::gguf;
use crate::json;
use crate::mapped_file::MappedFile;
use crate::notes::Notes;
use crate::packed::Quantization;
use crate::roles::Format;
use crate::text_bounds::TextBounds;

/// A configuration or index is a page of text; more than this is something else.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// What a directory holds: mapped weight files, tensors by name with the index of their file, the configuration, how
/// quantized matrices are stored and their arrays, and what was noticed on the way.
pub(crate) struct Opened {
    pub(crate) files: Vec<MappedFile>,
    pub(crate) tensors: BTreeMap<String, (usize, StoredTensor)>,
    pub(crate) config: ModelConfig,
    pub(crate) quantization: Option<Quantization>,
    pub(crate) arrays: BTreeMap<String, (usize, StoredArrayInfo)>,
    pub(crate) notes: Notes,
}

/// Opens a directory's configuration and weights; the tokenizer is left for later.
pub(crate) fn open_directory(directory: &Path) -> Result<Opened> {
    let config_path = directory.join("config.json");
    let stated = json::parse(&config_path, &read_small(&config_path)?)?;
    let mut notes = Notes::default();
    let mut config = read_config(&config_path, &stated, &mut notes)?;
    add_tokenizer_config(directory, &stated, &mut config)?;
    let (files, all) = open_weights(directory, &mut notes)?;
    let quantization = quantization(directory, (&config_path, &stated), &all, &mut notes)?;
    let (mut tensors, mut arrays) = (BTreeMap::new(), BTreeMap::new());
    for (name, (file, array)) in all {
        if quantization.as_ref().is_some_and(|quantization| quantization.owns(&name)) {
            arrays.insert(name, (file, array));
        } else if Format::HuggingFace.derives(&name) {
            notes.ignored(format!("tensor {name}: the configuration says what it holds"));
        } else {
            let tensor = as_tensor(files[file].path(), &name, &array)?;
            tensors.insert(name, (file, tensor));
        }
    }
    Ok(Opened { files, tensors, config, quantization, arrays, notes })
}

/// Keys of `config.json` under which a quantization is described, the newest first.
const QUANTIZATION_KEYS: [&str; 2] = ["quantization_config", "compression_config"];

/// Files that older exports have beside `config.json`.
const QUANTIZATION_FILES: [&str; 2] = ["quantize_config.json", "quant_config.json"];

/// How the matrices are quantized: what `config.json` says, or one of the files that older exports have beside it.
fn quantization(
    directory: &Path,
    (config_path, config): (&Path, &Value),
    arrays: &BTreeMap<String, (usize, StoredArrayInfo)>,
    notes: &mut Notes,
) -> Result<Option<Quantization>> {
    let method = Quantization::method_of(arrays.iter().map(|(name, (_, array))| (name.as_str(), &array.shape[..])));
    let keys = QUANTIZATION_KEYS.into_iter().filter_map(|key| Some((key, config.get(key)?)));
    if let Some((key, stated)) = keys.into_iter().find(|(_, stated)| !stated.is_null()) {
        return Quantization::parse(config_path, &format!("{key}."), stated, method).map(Some);
    }
    for name in QUANTIZATION_FILES {
        let path = directory.join(name);
        let Some(stated) = read_optional::<Value>(&path)? else { continue };
        match method {
            Some(_) => return Quantization::parse(&path, "", &stated, method).map(Some),
            None => notes.ignored(format!("{name}: no matrix is stored as integers")),
        }
    }
    match method {
        Some(method) => {
            let what = format!("a description of matrices that look like {method}'s");
            let expected = format!("quantization_config, or {} beside it", QUANTIZATION_FILES.join(" or "));
            Err(Error::malformed(config_path, what, expected, "neither"))
        }
        None => Ok(None),
    }
}

fn read_small(path: &Path) -> Result<Vec<u8>> {
    MappedFile::read_small(path, MAX_JSON_BYTES)
}

/// Reads and parses a file that may be absent.
fn read_optional<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>> {
    if !MappedFile::exists(path)? {
        return Ok(None);
    }
    let parsed = serde_json::from_value(json::parse(path, &read_small(path)?)?);
    parsed.map(Some).map_err(|error| Error::malformed(path, "content", "its documented JSON", error))
}

/// Reads an object; null if the file is absent.
fn read_object(directory: &Path, name: &str) -> Result<Value> {
    let path = directory.join(name);
    let value: Value = read_optional(&path)?.unwrap_or_default();
    if value.is_object() || value.is_null() {
        Ok(value)
    } else {
        Err(Error::malformed(&path, "content", "an object", value))
    }
}

/// The tokens that stand beside `tokenizer.json`.
///
/// # Errors
/// [`Error::Malformed`] for files that are not what they are documented to be.
pub(crate) fn added_tokens(directory: &Path) -> Result<AddedTokens> {
    let read = |name| read_object(directory, name);
    let (config, special_map) = (read("tokenizer_config.json")?, read("special_tokens_map.json")?);
    AddedTokens::read(directory, &config, &special_map, &read("added_tokens.json")?)
}

/// Takes the template, and where texts begin and end.
fn add_tokenizer_config(directory: &Path, stated: &Value, config: &mut ModelConfig) -> Result<()> {
    let read = |name| read_object(directory, name);
    let tokenizer_config = read("tokenizer_config.json")?;
    config.chat_template = tokenizer_config.get("chat_template").and_then(default_template);
    let template = directory.join("chat_template.jinja");
    if MappedFile::exists(&template)? {
        let bytes = read_small(&template)?;
        let text = String::from_utf8(bytes);
        config.chat_template = Some(text.map_err(|error| Error::malformed(&template, "content", "UTF-8", error))?);
    }
    let tokenizer = directory.join("tokenizer.json");
    let tokenizer = if tokenizer.exists() { Some(MappedFile::open(&tokenizer)?) } else { None };
    let mut bounds = text_bounds(&Stated {
        directory,
        config: stated,
        generation_config: &read("generation_config.json")?,
        tokenizer_config: &tokenizer_config,
        special_tokens_map: &read("special_tokens_map.json")?,
        tokenizer: tokenizer.as_ref().map(MappedFile::bytes),
    })?;
    let vocabulary = directory.join(VOCABULARY_FILE);
    if vocabulary.exists() {
        // its keys frame texts; what ends them was written into the configuration
        bounds = TextBounds { ends: bounds.ends, ..gguf::vocabulary_bounds(&MappedFile::open(&vocabulary)?)? };
    }
    config.set_bounds(bounds);
    config.check(directory)
}

/// A template is text, or a list of named ones of which the default counts.
fn default_template(value: &Value) -> Option<String> {
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
    let template = match value {
        Value::Array(list) => list.iter().find(named)?.get("template")?,
        single => single,
    };
    template.as_str().map(str::to_owned)
}

type Weights = (Vec<MappedFile>, BTreeMap<String, (usize, StoredArrayInfo)>);

fn open_weights(directory: &Path, notes: &mut Notes) -> Result<Weights> {
    let single = directory.join("model.safetensors");
    let index = directory.join("model.safetensors.index.json");
    if MappedFile::exists(&single)? {
        return open_files(vec![single]);
    }
    if !MappedFile::exists(&index)? {
        let expected = "model.safetensors or model.safetensors.index.json";
        let others =
            ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.safetensors", "consolidated.00.pth"];
        let other = others.into_iter().find(|name| directory.join(name).exists());
        let got = other.map_or("neither".into(), |name| format!("{name}, which is not read"));
        return Err(Error::malformed(directory, "weights", expected, got));
    }
    open_shards(directory, &index, notes)
}

fn open_files(paths: Vec<PathBuf>) -> Result<Weights> {
    let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
    for path in paths {
        let file = MappedFile::open(&path)?;
        for (name, tensor) in parse_arrays(&path, file.bytes())? {
            if tensors.insert(name.clone(), (files.len(), tensor)).is_some() {
                return Err(Error::malformed(&path, format!("tensor {name}"), "one file with it", "a second"));
            }
        }
        files.push(file);
    }
    Ok((files, tensors))
}

fn open_shards(directory: &Path, index: &Path, notes: &mut Notes) -> Result<Weights> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let parsed: Index = serde_json::from_value(json::parse(index, &read_small(index)?)?)
        .map_err(|error| Error::malformed(index, "index", "an object with weight_map", error))?;
    let shards: BTreeSet<&str> = parsed.weight_map.values().map(String::as_str).collect();
    for shard in &shards {
        let plain = Path::new(shard).file_name().is_some_and(|name| name == *shard);
        if !plain || shard.contains(['/', '\\']) {
            return Err(Error::malformed(index, "shard", "a file name in the same directory", shard));
        }
    }
    let (files, tensors) = open_files(shards.iter().map(|shard| directory.join(shard)).collect())?;
    for (name, shard) in &parsed.weight_map {
        match tensors.get(name) {
            // what the model needs is checked later; a tied output layer is listed and not stored
            None => notes.ignored(format!("tensor {name}: the index lists it in {shard}, where it is not")),
            Some((file, _)) if files[*file].path() != directory.join(shard) => {
                let got = files[*file].path().display();
                return Err(Error::malformed(index, format!("tensor {name}"), format!("it in {shard}"), got));
            }
            Some(_) => {}
        }
    }
    match tensors.keys().find(|name| !parsed.weight_map.contains_key(*name)) {
        Some(name) => Err(Error::UnexpectedTensor { path: index.into(), name: name.clone() }),
        None => Ok((files, tensors)),
    }
}
