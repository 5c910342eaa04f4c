//! Tokenizer files, right ones of several kinds and wrong in one way each, and tokens for chains of decoders.

use moray_lab::fixture::{Fixture, byte_fallback_json};
use moray_lab::fuzzing::decoders;
use serde_json::{Value, json};

use super::Case;

/// The fixture's `tokenizer.json`.
fn byte_level() -> Value {
    let directory = tempfile::tempdir().unwrap();
    Fixture { add_bos: true, ..Fixture::default() }.write_hf(directory.path(), 1).unwrap();
    serde_json::from_slice(&std::fs::read(directory.path().join("tokenizer.json")).unwrap()).unwrap()
}

/// As Llama 2's: ▁ for spaces, bytes for what is no piece.
fn byte_fallback() -> Value {
    let pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xE4>", "<0xBD>", "<0xA0>", "▁", "a", "b", "▁a", "▁ab"];
    let vocab: serde_json::Map<_, _> =
        pieces.iter().enumerate().map(|(id, &piece)| (piece.into(), id.into())).collect();
    byte_fallback_json(vocab.into())
}

pub fn cases() -> Vec<Case> {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut file = byte_level();
        change(&mut file);
        file.to_string().into_bytes()
    };
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let llama3 = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let unigram = json!({"type": "Unigram", "unk_id": 0, "byte_fallback": false,
        "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -1.0], ["▁a", -1.5]]});
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    vec![
        Case::valid("valid_byte_level", with(&|_| ())),
        Case::valid("valid_byte_fallback", byte_fallback().to_string().into_bytes()),
        Case::valid("valid_words", with(&|t| t["pre_tokenizer"] = split(llama3))),
        Case::valid("valid_look_around", with(&|t| t["pre_tokenizer"] = split(r"(?=a)\w+|\s+"))),
        Case::valid("valid_no_decoder", with(&|t| t["decoder"] = Value::Null)),
        Case::valid(
            "valid_unigram",
            with(&|t| {
                t["model"] = unigram.clone();
                t["added_tokens"] = json!([]);
                t["pre_tokenizer"] = metaspace.clone();
                t["decoder"] = metaspace.clone();
                t["post_processor"] = Value::Null;
            }),
        ),
        Case::valid(
            "valid_normalizers",
            with(&|t| {
                t["normalizer"] = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"},
                    {"type": "Strip", "strip_left": true, "strip_right": false},
                    {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]});
            }),
        ),
        Case::broken("empty", Vec::new(), "Tokenizer", "EOF"),
        Case::broken("no_model", b"{}".to_vec(), "MissingKey", "the key model"),
        Case::broken(
            "merge_too_long",
            with(&|t| t["model"]["merges"] = json!(["<|im_end|> <|im_end|>"])),
            "Tokenizer",
            "merges",
        ),
        Case::broken(
            "merge_unknown",
            with(&|t| t["model"]["merges"] = json!(["x zz"])),
            "Tokenizer",
            "out of vocabulary",
        ),
        Case::broken("split_unclosed", with(&|t| t["pre_tokenizer"] = split("(a")), "Tokenizer", "tokenizer.json"),
        Case::broken(
            "replace_look_around",
            with(&|t| t["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "(?=a)b"}, "content": ""})),
            "Unsupported",
            "without look-around",
        ),
        Case::broken("type_unknown", with(&|t| t["decoder"] = json!({"type": "Other"})), "Tokenizer", "tokenizer.json"),
    ]
}

pub fn stream_cases() -> Vec<Case> {
    let place = |kind: &str| decoders().iter().position(|decoder| decoder["type"] == kind).unwrap() as u8;
    let chain = |kinds: [&str; 4]| kinds.map(place);
    let tokens = [23, 22, 24, 25, 26, 1, 0, 3, 5, 9, 10, 11, 12, 13, 14, 16, 16, 17, 2, 6, 20, 21, 30, 27, 28, 29, 24];
    let case = |name, kinds| Case::valid(name, [&chain(kinds)[..], &tokens].concat());
    vec![
        Case::valid("nothing", Vec::new()),
        Case::valid("no_decoder", [&[14, 14, 14, 14][..], &tokens].concat()),
        case("byte_fallback", ["Replace", "ByteFallback", "Fuse", "Strip"]),
        case("fused_first", ["Fuse", "Replace", "ByteFallback", "Metaspace"]),
        case("words", ["WordPiece", "BPEDecoder", "CTC", "ByteLevel"]),
    ]
}
