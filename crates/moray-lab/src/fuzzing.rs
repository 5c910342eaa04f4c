//! What the fuzz targets run, shared with the ordinary test that runs their corpus: everything a reader does with bytes
//! from outside. Returning is passing, whether the bytes were accepted or not.

mod decoders;

use std::path::Path;
use std::sync::LazyLock;

pub use decoders::{DECODER_TOKENS, decoder_file, decoders};

use crate::checkpoint::{Checkpoint, LayerTensor, Tensor};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::fixture::Fixture;
use crate::hf::{check_merges, parse_config, parse_safetensors};
use crate::json;
use crate::mapped_file::MappedFile;
use crate::packed::{Gptq, Quantization};
use crate::tokenizer::Tokenizer;

/// A text with words, digits, spaces, another script and special tokens.
const TEXT: &str = "Hello,  wörld 42\n 日本 <|im_end|><s>";

/// Opens a GGUF file, builds its tokenizer, encodes and decodes, and converts every weight.
///
/// # Errors
/// The first error of any of these, except that weights may be NaN when nothing else is wrong.
pub fn gguf(bytes: &[u8]) -> Result<()> {
    let checkpoint = Checkpoint::open_gguf(MappedFile::from_bytes(Path::new("fuzzed.gguf"), bytes.to_vec()))?;
    let tokenizer = checkpoint.tokenizer()?;
    let ids = tokenizer.encode(TEXT, false)?;
    let text = tokenizer.decode(&ids);
    assert!(text.len() <= bytes.len() * ids.len() + 3, "a token is part of the file");
    convert(&checkpoint.embedding()?)?;
    convert(&checkpoint.final_norm()?)?;
    for index in 0..checkpoint.config().n_layers {
        for tensor in LayerTensor::ALL {
            checkpoint.layer_optional(index, tensor)?.map_or(Ok(()), |tensor| convert(&tensor))?;
        }
    }
    Ok(())
}

/// Converts a tensor and checks that both ways of looking for NaN agree.
fn convert(tensor: &Tensor<'_>) -> Result<()> {
    let (values, check) = (tensor.to_f32(), tensor.check_finite());
    match (&values, &check) {
        (Ok(values), Ok(())) => assert_eq!(values.len(), tensor.shape[0] * tensor.shape[1]),
        (Err(Error::NotFinite { row, .. }), Err(Error::NotFinite { row: checked, .. })) => assert_eq!(row, checked),
        _ => panic!("{}: {:?} against {check:?}", tensor.name, values.map(|values| values.len())),
    }
    check
}

/// Reads the header of a safetensors file and checks what it promises.
///
/// # Errors
/// As [`parse_safetensors`].
pub fn safetensors(bytes: &[u8]) -> Result<()> {
    for (name, tensor) in parse_safetensors(Path::new("fuzzed.safetensors"), bytes)? {
        let expected = tensor.shape[0] * tensor.dtype.row_bytes(tensor.shape[1]).unwrap_or(0);
        assert_eq!(bytes[tensor.range].len(), expected, "{name}");
    }
    Ok(())
}

/// Reads a `config.json`.
///
/// # Errors
/// As [`parse_config`].
pub fn config(bytes: &[u8]) -> Result<()> {
    let config = parse_config(Path::new("config.json"), bytes)?;
    assert!(config.n_q_heads.is_multiple_of(config.n_kv_heads) && config.head_dim.is_multiple_of(2));
    Ok(())
}

/// A model whose embedding has more rows than any small vocabulary has tokens.
static CONFIG: LazyLock<Option<ModelConfig>> = LazyLock::new(|| {
    let config = Fixture::default().open().ok()?.config().clone();
    Some(ModelConfig { vocab: 1 << 20, ..config })
});

/// Reads a `tokenizer.json`, encodes, decodes and streams.
///
/// # Errors
/// As [`Tokenizer::from_json`] and [`Tokenizer::encode`].
pub fn tokenizer(bytes: &[u8]) -> Result<()> {
    let (path, Some(config)) = (Path::new("tokenizer.json"), &*CONFIG) else { return Ok(()) };
    check_merges(path, bytes)?;
    let tokenizer = Tokenizer::from_json(path, bytes, config)?;
    let ids: Vec<u32> = (0..tokenizer.vocab_size().min(300) as u32).collect();
    check_stream(&tokenizer, &ids);
    for text in [TEXT, "", "    \n\t  a  "] {
        check_stream(&tokenizer, &tokenizer.encode(text, true).or_else(|_| tokenizer.encode(text, false))?);
    }
    Ok(())
}

/// Streams tokens through a chain of decoders: the first bytes choose the chain, the others are tokens.
///
/// # Errors
/// None: every chain is one that the library reads.
pub fn stream(bytes: &[u8]) -> Result<()> {
    let (path, Some(config)) = (Path::new("tokenizer.json"), &*CONFIG) else { return Ok(()) };
    let (chain, tokens) = bytes.split_at(bytes.len().min(4));
    let all = decoders();
    let chain: Vec<_> =
        chain.iter().filter_map(|&byte| all.get(usize::from(byte) % (all.len() + 2)).cloned()).collect();
    let tokenizer = Tokenizer::from_json(path, decoder_file(&chain).as_bytes(), config)?;
    let ids: Vec<u32> = tokens.iter().map(|&byte| u32::from(byte) % (DECODER_TOKENS + 1)).collect();
    check_stream(&tokenizer, &ids);
    Ok(())
}

/// Checks that what is streamed is what is decoded.
fn check_stream(tokenizer: &Tokenizer, ids: &[u32]) {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    assert_eq!(text, tokenizer.decode(ids));
}

/// Reads a quantization configuration, of a method that it may leave to its arrays to tell.
///
/// # Errors
/// As [`Quantization::parse`].
pub fn quantization(bytes: &[u8]) -> Result<()> {
    let path = Path::new("quantize_config.json");
    match Quantization::parse(path, "", &json::parse(path, bytes)?, Some("gptq"))? {
        Quantization::Own | Quantization::Qqq { group_size: None | Some(128) } => {}
        Quantization::Qqq { group_size } => panic!("groups of {group_size:?}"),
        Quantization::Gptq(Gptq { schemes, .. })
        | Quantization::Awq(schemes)
        | Quantization::CompressedTensors(schemes) => {
            assert!(schemes.iter().all(|scheme| scheme.group_size.is_none_or(|size| size > 0 && size % 32 == 0)));
        }
    }
    Ok(())
}
