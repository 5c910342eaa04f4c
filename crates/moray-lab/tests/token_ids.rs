//! Ids of texts: tokens that stand beside `tokenizer.json`, those for which the embedding has no row, texts that are composed, and
//! long ones.

use std::fs;
use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::fixture::{Fixture, MIN_VOCAB, Pair};
use moray_lab::mapped_file::MappedFile;
use moray_lab::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The tokenizer of the fixture's directory with other files.
fn tokenizer(files: &[(&str, Value)]) -> Tokenizer {
    let directory = tempfile::tempdir().unwrap();
    Fixture { vocab: MIN_VOCAB + 2, ..Fixture::default() }.write_hf(directory.path(), 1).unwrap();
    for (name, value) in files {
        fs::write(directory.path().join(name), value.to_string()).unwrap();
    }
    Checkpoint::open(directory.path()).unwrap().tokenizer().unwrap()
}

const FIRST: u32 = MIN_VOCAB as u32;

/// Ids of a text whose pieces are known by their names.
fn named(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect()
}

#[test]
fn tokens_of_the_tokenizer_config_are_recognised_with_their_flags() {
    let flags =
        |content: &str, strip: bool| json!({"content": content, "lstrip": strip, "rstrip": false, "special": true});
    let config = json!({"added_tokens_decoder": {"273": flags("<|b|>", true), "272": flags("<|user|>", false),
        "2": flags("<|im_end|>", true)}});
    let tokenizer = tokenizer(&[("tokenizer_config.json", config)]);
    assert_eq!(tokenizer.encode("<|user|>", false).unwrap(), [FIRST]);
    assert_eq!(named(&tokenizer, "a<|user|>an"), ["a", "<|user|>", "an"]);
    assert_eq!(named(&tokenizer, "a  <|b|>"), ["a", "<|b|>"]);
    assert_eq!(named(&tokenizer, "a  <|im_end|>"), ["a", "<|im_end|>"], "the flags of tokenizer_config.json count");
    assert_eq!(tokenizer.decode(&[FIRST, FIRST + 1]), "<|user|><|b|>");
}

#[test]
fn special_tokens_that_files_name_are_recognised() {
    // "hell" is in the vocabulary, and is special for being named
    let config = json!({"eos_token": {"content": "hell", "lstrip": true}, "pad_token": "<pad>", "image_token": "<image>",
        "additional_special_tokens": ["<|im_end|>"], "add_bos_token": true, "chat_template": "{{ x }}"});
    let tokenizer = tokenizer(&[("tokenizer_config.json", config)]);
    assert_eq!(named(&tokenizer, "a hello"), ["a", "hell", "o"]);
    assert_eq!(tokenizer.encode("<pad><image>", false).unwrap(), [FIRST, FIRST + 1]);
}

#[test]
fn older_files_count_where_the_tokenizer_config_has_no_added_tokens() {
    let map = json!({"cls_token": "<|user|>", "additional_special_tokens": [{"content": "<|b|>", "rstrip": true}]});
    let added = json!({"<|user|>": FIRST, "<|b|>": FIRST + 1});
    let older = [("special_tokens_map.json", map.clone()), ("added_tokens.json", added)];
    let found = tokenizer(&older);
    assert_eq!(found.encode("<|user|><|b|>", false).unwrap(), [FIRST, FIRST + 1]);
    let config = json!({"added_tokens_decoder": {"272": {"content": "<|c|>", "special": true}}});
    let newer = [("tokenizer_config.json", config), ("special_tokens_map.json", map)];
    let found = tokenizer(&newer);
    assert_eq!(found.encode("<|c|>", false).unwrap(), [FIRST]);
    assert!(found.token_id("<|user|>").is_none());
}

#[test]
fn a_token_without_a_row_is_refused_where_a_text_uses_it() {
    let config = json!({"pad_token": "[PAD]", "unk_token": "[UNK]", "sep_token": "[SEP]"});
    let tokenizer = tokenizer(&[("tokenizer_config.json", config)]);
    assert_eq!(tokenizer.vocab_size(), MIN_VOCAB + 3);
    assert!(!tokenizer.encode("the ants", false).unwrap().is_empty());
    let error = tokenizer.encode("the [PAD]", false).unwrap_err().to_string();
    assert!(error.contains("expected an index below 274"), "{error}");
}

#[test]
fn a_million_blanks_are_cut_as_a_few_are() {
    let plain = tokenizer(&[]);
    let gguf = Fixture::default().open().unwrap().tokenizer().unwrap();
    let few = plain.encode(" ab", false).unwrap();
    for tokenizer in [&plain, &gguf] {
        let ids = tokenizer.encode(&format!("{}ab", " ".repeat(1 << 20)), false).unwrap();
        assert_eq!(ids[ids.len() - few.len()..], few);
        assert_eq!(ids.len(), (1 << 20) - 1 + few.len());
    }
}

/// The fixture's GGUF vocabulary in another family.
fn family(pre: &str) -> Tokenizer {
    let mut writer = Fixture::default().gguf_writer();
    writer.set("tokenizer.ggml.pre", Pair::String(pre.into()));
    let file = MappedFile::from_bytes(Path::new("family.gguf"), writer.to_bytes());
    Checkpoint::open_gguf(file).unwrap().tokenizer().unwrap()
}

#[test]
fn families_whose_own_tokenizers_compose_texts_do_so() {
    for (pre, composes) in [
        ("qwen2", true),
        ("deepseek-r1-qwen", true),
        ("stablelm2", true),
        ("hunyuan", true),
        ("olmo", true),
        ("mpt", true),
        ("command-r", true),
        ("gpt-2", false),
        ("smollm", false),
        ("llama-bpe", false),
        ("tekken", false),
        ("default", false),
    ] {
        let tokenizer = family(pre);
        let [composed, apart] = ["caf\u{e9} \u{ac01}", "cafe\u{301} \u{1100}\u{1161}\u{11a8}"];
        let ids = [composed, apart].map(|text| tokenizer.encode(text, false).unwrap());
        assert_eq!(ids[0] == ids[1], composes, "{pre}");
        assert_eq!(tokenizer.decode(&ids[1]), if composes { composed } else { apart }, "{pre}");
        let written: tokenizers::Tokenizer = tokenizer.to_json().unwrap().unwrap().parse().unwrap();
        assert_eq!(written.encode(apart, false).unwrap().get_ids(), ids[1], "{pre}");
    }
}
