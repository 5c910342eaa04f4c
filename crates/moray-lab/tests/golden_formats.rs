//! Against golden files that other implementations made (scripts/golden_formats.py).

use std::path::{Path, PathBuf};

use moray_lab::Checkpoint;
use moray_lab::dequantize::{all_finite, dequantize};
use moray_lab::dtype::DType;
use moray_lab::fixture::{Fixture, GgufWriter, Pair};
use moray_lab::gguf::Header;
use moray_lab::mapped_file::MappedFile;
use moray_lab::tokenizer::Tokenizer;
use serde::Deserialize;
use serde::de::DeserializeOwned;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden_json<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(golden(name)).expect("a committed file");
    serde_json::from_str(&text).expect("what the script wrote")
}

#[test]
fn dequantize_matches_gguf_package_bit_for_bit_for_every_type() {
    let file = MappedFile::open(&golden("dequantize.gguf")).unwrap();
    let header = Header::parse(file.path(), file.bytes()).unwrap();
    let mut seen = Vec::new();
    for stored in header.tensors.iter().filter(|tensor| tensor.name.ends_with(".stored")) {
        let name = stored.name.replace(".stored", ".expected");
        let expected = header.tensors.iter().find(|tensor| tensor.name == name).expect("tensors come in pairs");
        assert_eq!(stored.shape, expected.shape, "{name}");
        let elems = stored.shape[0] * stored.shape[1];
        let (mut got, mut want) = (vec![0.0; elems], vec![0.0; elems]);
        assert!(dequantize(stored.dtype, &file.bytes()[stored.range.clone()], &mut got), "{name}");
        assert!(dequantize(DType::F32, &file.bytes()[expected.range.clone()], &mut want), "{name}");
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{name} element {i}: {got:e} against {want:e}");
        }
        seen.push(stored.dtype);
    }
    assert_eq!(seen.len(), DType::ALL.len() - 1, "every type but F32 itself: {seen:?}");
}

#[test]
fn dequantize_reports_every_scale_that_is_not_finite() {
    for (dtype, at) in [
        (DType::F32, 0),
        (DType::F16, 0),
        (DType::Bf16, 0),
        (DType::Q4_0, 0),
        (DType::Q4_1, 0),
        (DType::Q4_1, 2),
        (DType::Q5_0, 0),
        (DType::Q5_1, 0),
        (DType::Q5_1, 2),
        (DType::Q8_0, 0),
        (DType::Q4K, 0),
        (DType::Q4K, 2),
        (DType::Q5K, 0),
        (DType::Q5K, 2),
        (DType::Q6K, 208),
    ] {
        let mut blocks = vec![0; 3 * dtype.block_bytes()];
        let mut out = vec![1.0; 3 * dtype.block_elems()];
        assert!(dequantize(dtype, &blocks, &mut out) && all_finite(dtype, &blocks), "{dtype} zeros");
        let not_a_number: &[u8] = match dtype {
            DType::F32 => &[0, 0, 0xc0, 0x7f],
            DType::Bf16 => &[0xc0, 0x7f],
            _ => &[0, 0xfe],
        };
        blocks[dtype.block_bytes() + at..][..not_a_number.len()].copy_from_slice(not_a_number);
        assert!(!dequantize(dtype, &blocks, &mut out), "{dtype} at {at}");
        assert!(!all_finite(dtype, &blocks), "{dtype} at {at}");
    }
}

/// A model with the vocabulary that `change` writes into it, of `vocab` tokens.
fn tokenizer(vocab: usize, change: impl FnOnce(&mut GgufWriter)) -> Tokenizer {
    let mut writer = Fixture { vocab, ..Fixture::default() }.gguf_writer();
    change(&mut writer);
    let file = MappedFile::from_bytes(Path::new("golden.gguf"), writer.to_bytes());
    Checkpoint::open_gguf(file).unwrap().tokenizer().unwrap()
}

#[derive(Deserialize)]
struct Family {
    tokens: Vec<String>,
    merges: Vec<String>,
    ids: Vec<Vec<u32>>,
    /// What the ids stand for: the texts, composed where the family does so.
    decoded: Vec<String>,
}

#[derive(Deserialize)]
struct ByteLevel {
    texts: Vec<String>,
    families: std::collections::BTreeMap<String, Family>,
}

#[test]
fn byte_level_ids_match_tokenizers_package_for_every_family() {
    let golden: ByteLevel = golden_json("byte_level.json");
    assert_eq!(golden.families.len(), 6);
    for (name, family) in golden.families {
        let tokenizer = tokenizer(family.tokens.len(), |writer| {
            let mut types = vec![1; family.tokens.len()];
            types[..3].fill(3);
            writer.set("tokenizer.ggml.pre", Pair::String(name.clone()));
            writer.set("tokenizer.ggml.tokens", Pair::Strings(family.tokens.clone()));
            writer.set("tokenizer.ggml.token_type", Pair::I32s(types));
            writer.set("tokenizer.ggml.merges", Pair::Strings(family.merges.clone()));
        });
        for ((text, expected), decoded) in golden.texts.iter().zip(&family.ids).zip(&family.decoded) {
            assert_eq!(&tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
            assert_eq!(&tokenizer.decode(expected), decoded, "{name}: {text:?}");
        }
    }
}

#[derive(Deserialize)]
struct SentencePiece {
    tokens: Vec<String>,
    scores: Vec<f32>,
    types: Vec<i32>,
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
    decoded: Vec<String>,
}

impl SentencePiece {
    fn tokenizer(&self) -> Tokenizer {
        let vocab = self.tokens.len();
        tokenizer(vocab, |writer| {
            writer.set("tokenizer.ggml.model", Pair::String("llama".into()));
            writer.unset("tokenizer.ggml.pre");
            writer.unset("tokenizer.ggml.merges");
            writer.set("tokenizer.ggml.tokens", Pair::Strings(self.tokens.clone()));
            writer.set("tokenizer.ggml.scores", Pair::F32s(self.scores.clone()));
            writer.set("tokenizer.ggml.token_type", Pair::I32s(self.types.clone()));
        })
    }
}

#[test]
fn sentencepiece_ids_match_sentencepiece_package_for_odd_texts() {
    let golden: SentencePiece = golden_json("sentencepiece.json");
    let tokenizer = golden.tokenizer();
    // Overlapping neighbours of one score, in the text of 33 a's, tell whether the leftmost is joined first.
    assert!(tokenizer.token_id("aa").is_some());
    for ((text, expected), decoded) in golden.texts.iter().zip(&golden.ids).zip(&golden.decoded) {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        assert_eq!(&tokenizer.decode(expected), decoded, "{text:?}");
    }
}

#[test]
fn sentencepiece_round_trip_keeps_spaces_around_control_tokens() {
    let golden: SentencePiece = golden_json("sentencepiece.json");
    let tokenizer = golden.tokenizer();
    let (bos, eos) = (tokenizer.token_id("<s>").unwrap(), tokenizer.token_id("</s>").unwrap());
    let text = "<s>  two spaces</s> the end";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids[0], bos);
    assert!(ids.contains(&eos));
    assert_eq!(tokenizer.decode(&ids), text);
    // A continuation keeps its first space, the beginning of a text has none.
    let the = tokenizer.token_id("▁the").unwrap();
    assert_eq!(tokenizer.stream().push(the), "the");
    assert_eq!(tokenizer.stream_after(&ids).push(the), " the");
    assert_eq!(tokenizer.stream_after(&[bos]).push(the), "the");
}

#[derive(Deserialize)]
struct SmolLm2 {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

#[test]
fn smollm2_ids_match_tokenizers_package_for_odd_texts() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/SmolLM2-135M-Instruct.Q4_1.gguf");
    if !model.exists() {
        eprintln!("skipped: no {}, which `cargo xtask fetch` obtains", model.display());
        return;
    }
    let golden: SmolLm2 = golden_json("smollm2.json");
    let checkpoint = Checkpoint::open(&model).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    assert_eq!(tokenizer.vocab_size(), checkpoint.config().vocab);
    for (text, expected) in golden.texts.iter().zip(&golden.ids) {
        assert_eq!(&tokenizer.encode(text, false).unwrap(), expected, "{text:?}");
        assert_eq!(&tokenizer.decode(expected), text, "{text:?}");
    }
}
