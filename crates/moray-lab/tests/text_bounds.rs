//! Where texts begin and end, as the files of directories and GGUF files say it.

use std::fs;
use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::config::ModelConfig;
use moray_lab::fixture::{Fixture, GgufWriter, MIN_VOCAB, Pair};
use moray_lab::mapped_file::MappedFile;
use serde_json::{Value, json};

/// A directory of the fixture's model with other files.
fn directory(change: impl FnOnce(&Path)) -> (ModelConfig, Vec<u32>) {
    let directory = tempfile::tempdir().unwrap();
    Fixture::default().write_hf(directory.path(), 1).unwrap();
    fs::remove_file(directory.path().join("generation_config.json")).unwrap();
    fs::remove_file(directory.path().join("tokenizer_config.json")).unwrap();
    change(directory.path());
    let checkpoint = Checkpoint::open(directory.path()).unwrap();
    let config = checkpoint.config().clone();
    let ids = checkpoint.tokenizer().unwrap().encode("hell", config.add_bos).unwrap();
    (config, ids)
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn write(path: &Path, name: &str, value: Value) {
    fs::write(path.join(name), value.to_string()).unwrap();
}

/// "hell" in the fixture's vocabulary.
const HELL: u32 = 271;

/// A template of these tokens of the fixture before and behind a text.
fn template(before: &[u32], after: &[u32]) -> Value {
    let name = |id: &u32| ["<|endoftext|>", "<|im_start|>", "<|im_end|>"][*id as usize];
    let special = |id: &u32| json!({"SpecialToken": {"id": name(id), "type_id": 0}});
    let mut single: Vec<Value> = before.iter().map(special).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(after.iter().map(special));
    let mut tokens = json!({});
    for id in before.iter().chain(after) {
        tokens[name(id)] = json!({"id": name(id), "ids": [id], "tokens": [name(id)]});
    }
    json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens})
}

fn set_template(path: &Path, processor: Value) {
    edit(&path.join("tokenizer.json"), |tokenizer| tokenizer["post_processor"] = processor);
}

#[test]
fn the_template_of_the_tokenizer_decides_what_stands_around_a_text() {
    let plain = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let sequence = |inner: Value| json!({"type": "Sequence", "processors": [plain, inner]});
    let roberta = json!({"type": "RobertaProcessing", "sep": ["<|im_end|>", 2], "cls": ["<|im_start|>", 1],
        "trim_offsets": true, "add_prefix_space": false});
    let cases = [
        (Value::Null, vec![HELL]),
        (plain.clone(), vec![HELL]),
        (template(&[1], &[]), vec![1, HELL]),
        (template(&[0, 1], &[]), vec![0, 1, HELL]),
        (template(&[], &[2]), vec![HELL, 2]),
        (template(&[1], &[2]), vec![1, HELL, 2]),
        (sequence(template(&[0], &[])), vec![0, HELL]),
        (sequence(roberta), vec![1, HELL, 2]),
    ];
    for (processor, expected) in cases {
        for stated in [None, Some(true), Some(false)] {
            // as transformers 5, whatever add_bos_token says and whichever token config.json names
            let (config, ids) = directory(|path| {
                set_template(path, processor.clone());
                edit(&path.join("config.json"), |config| config["bos_token_id"] = json!(2));
                if let Some(add_bos) = stated {
                    write(path, "tokenizer_config.json", json!({"add_bos_token": add_bos, "bos_token": "<|im_end|>"}));
                }
            });
            assert_eq!(ids, expected, "{processor}");
            assert_eq!(config.add_bos, expected.len() > 1);
            assert_eq!(config.bos, if expected[0] == HELL { Some(2) } else { Some(expected[0]) });
        }
    }
}

#[test]
fn the_end_of_text_is_taken_from_the_first_file_that_names_one() {
    let ends = |change: &dyn Fn(&Path)| {
        let (config, _) = directory(change);
        assert_eq!(config.eos, config.bounds.ends.iter().map(|end| end.token).collect::<Vec<_>>());
        let origins: Vec<String> = config.bounds.ends.into_iter().map(|end| end.origin).collect();
        (config.eos, origins.join(", "))
    };
    let without = |path: &Path, key: &str| {
        edit(&path.join("config.json"), |config| drop(config.as_object_mut().unwrap().remove(key)));
    };
    let generation = |path: &Path, value: Value| write(path, "generation_config.json", json!({"eos_token_id": value}));
    let named = |path: &Path, file: &str, token: Value| write(path, file, json!({"eos_token": token}));
    assert_eq!(ends(&|_| ()), (vec![2], "eos_token_id of config.json".into()));
    let both = "eos_token_id of generation_config.json, eos_token_id of generation_config.json";
    assert_eq!(ends(&|path| generation(path, json!([5, 0, 5]))), (vec![0, 5], both.into()));
    assert_eq!(ends(&|path| generation(path, Value::Null)).0, [2]);
    let (found, origin) = ends(&|path| {
        without(path, "eos_token_id");
        named(path, "tokenizer_config.json", json!("hell"));
    });
    assert_eq!((found, origin.as_str()), (vec![HELL], "eos_token hell of tokenizer_config.json"));
    let (found, origin) = ends(&|path| {
        edit(&path.join("config.json"), |config| config["eos_token_id"] = Value::Null);
        named(path, "special_tokens_map.json", json!({"content": "<|endoftext|>", "lstrip": false}));
    });
    assert_eq!((found, origin.as_str()), (vec![0], "eos_token <|endoftext|> of special_tokens_map.json"));
    let (found, origin) = ends(&|path| without(path, "eos_token_id"));
    assert_eq!((found, origin.as_str()), (vec![2], "the default of llama models"));
    // null is no silence
    let null = |path: &Path| edit(&path.join("config.json"), |config| config["eos_token_id"] = Value::Null);
    assert_eq!(ends(&null).0, Vec::<u32>::new());
    let qwen = |path: &Path| {
        without(path, "eos_token_id");
        edit(&path.join("config.json"), |config| {
            config["model_type"] = json!("qwen2");
            config["attention_bias"] = json!(false);
        });
    };
    assert_eq!(ends(&qwen).0, Vec::<u32>::new());
}

/// The fixture's GGUF file with other keys and tokens.
fn gguf(change: impl FnOnce(&mut GgufWriter)) -> (ModelConfig, Checkpoint) {
    let mut writer = Fixture { vocab: MIN_VOCAB + 4, ..Fixture::default() }.gguf_writer();
    for key in ["add_bos_token", "bos_token_id", "eos_token_id"] {
        writer.unset(&format!("tokenizer.ggml.{key}"));
    }
    change(&mut writer);
    let file = MappedFile::from_bytes(Path::new("model.gguf"), writer.to_bytes());
    let checkpoint = Checkpoint::open_gguf(file).unwrap();
    (checkpoint.config().clone(), checkpoint)
}

/// Names the fixture's three special tokens anew, and what comes after its vocabulary.
fn rename(writer: &mut GgufWriter, specials: [&str; 3], last: &[&str]) {
    let found = writer.pairs.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens");
    let Some((_, Pair::Strings(tokens))) = found else { panic!("the fixture has tokens") };
    for (token, text) in tokens.iter_mut().zip(specials) {
        *token = text.into();
    }
    for (token, text) in tokens.iter_mut().skip(MIN_VOCAB).zip(last) {
        *token = (*text).into();
    }
}

/// Makes the vocabulary one of SentencePiece.
fn sentence_piece(writer: &mut GgufWriter) {
    writer.set("tokenizer.ggml.model", Pair::String("llama".into()));
    writer.set("tokenizer.ggml.scores", Pair::F32s(vec![0.0; MIN_VOCAB + 4]));
    let mut types = vec![1; MIN_VOCAB + 4];
    types[..3].copy_from_slice(&[2, 3, 3]);
    writer.set("tokenizer.ggml.token_type", Pair::I32s(types));
    rename(writer, ["<unk>", "<s>", "<eos?>"], &[]);
}

#[test]
fn a_gguf_file_without_keys_gets_what_llama_cpp_takes() {
    let (config, checkpoint) = gguf(sentence_piece);
    assert_eq!((config.bos, config.add_bos, &config.eos[..]), (Some(1), true, &[2][..]));
    let tokenizer = checkpoint.tokenizer().unwrap();
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
    assert_eq!(tokenizer.encode("<unk><s>", false).unwrap(), [0, 1], "unknown tokens are read as they are written");
    assert_eq!(config.bounds.ends[0].origin, "llama.cpp's default for vocabularies of kind llama");
    for (pre, begins) in [
        ("llama-bpe", true),
        ("llama3", true),
        ("llama-v3", true),
        ("falcon3", true),
        ("pixtral", true),
        ("tekken", true),
        ("smaug-bpe", false),
        ("qwen2", false),
        ("smollm", false),
        ("default", false),
    ] {
        let (config, _) = gguf(|writer| {
            writer.set("tokenizer.ggml.pre", Pair::String(pre.into()));
            writer.set("tokenizer.ggml.bos_token_id", Pair::U32(1));
            writer.set("tokenizer.ggml.eos_token_id", Pair::U32(2));
        });
        assert_eq!(config.add_bos, begins, "{pre}");
    }
    // byte-level vocabularies: llama.cpp takes 11 for both, which is worth a remark
    let (config, _) = gguf(|writer| rename(writer, ["<a>", "<b>", "<c>"], &[]));
    assert_eq!((config.bos, config.add_bos, &config.eos[..]), (Some(11), false, &[11][..]));
    assert!(config.bounds.notes[0].contains("token 11 is taken for one"), "{:?}", config.bounds.notes);
}

#[test]
fn keys_of_a_gguf_file_come_before_defaults() {
    let (config, checkpoint) = gguf(|writer| {
        sentence_piece(writer);
        writer.set("tokenizer.ggml.add_bos_token", Pair::Bool(false));
        writer.set("tokenizer.ggml.add_eos_token", Pair::Bool(true));
        writer.set("tokenizer.ggml.eos_token_id", Pair::U32(5));
        writer.set("tokenizer.ggml.eot_token_id", Pair::U32(6));
        writer.set("tokenizer.ggml.eom_token_id", Pair::U32(7));
    });
    assert_eq!((config.bos, config.add_bos, &config.eos[..]), (Some(1), true, &[5, 6, 7][..]));
    let ids = checkpoint.tokenizer().unwrap().encode("a", config.add_bos).unwrap();
    assert_eq!((ids.first() == Some(&1), ids.last()), (false, Some(&5)));
}

#[test]
fn ends_of_turns_are_known_by_their_texts() {
    let ends = |specials, last: &[&str]| {
        let (config, checkpoint) = gguf(|writer| {
            rename(writer, specials, last);
            writer.set("tokenizer.ggml.eos_token_id", Pair::U32(0));
        });
        (config.eos, checkpoint)
    };
    let first = MIN_VOCAB as u32;
    let (found, checkpoint) = ends(["<|end_of_text|>", "<|b|>", "<|eot_id|>"], &["<end_of_turn>", "<other>", "<EOT>"]);
    assert_eq!(found, [0, 2, first, first + 2]);
    // such a token is recognised in a text, whatever kind the file says it is
    assert_eq!(checkpoint.tokenizer().unwrap().encode("<end_of_turn>", false).unwrap(), [first]);
    assert_ne!(checkpoint.tokenizer().unwrap().encode("<other>", false).unwrap(), [first + 1]);
    let (found, _) = ends(["<|a|>", "<|end|>", "<|return|>"], &["<|call|>"]);
    assert_eq!(found, [0, 2, first], "<|end|> ends a message of a turn there");
    let (found, _) = ends(["<|a|>", "<|end|>", "<|return|>"], &[]);
    assert_eq!(found, [0, 1, 2]);
    let (found, _) = ends(["<|a|>", "</s>", "<turn|>"], &["<|tool_response>"]);
    assert_eq!(found, [0, 2, first]);
}

#[test]
fn a_written_tokenizer_keeps_what_begins_texts() {
    let (config, checkpoint) = gguf(|writer| {
        writer.set("tokenizer.ggml.pre", Pair::String("llama-bpe".into()));
        writer.set("tokenizer.ggml.bos_token_id", Pair::U32(1));
        writer.set("tokenizer.ggml.add_eos_token", Pair::Bool(true));
        writer.set("tokenizer.ggml.eos_token_id", Pair::U32(2));
    });
    assert_eq!(config.bounds.before, [1]);
    let json = checkpoint.tokenizer().unwrap().to_json().unwrap().unwrap();
    let library: tokenizers::Tokenizer = json.parse().unwrap();
    assert_eq!(library.encode("hell", true).unwrap().get_ids(), [1, HELL, 2]);
}

#[test]
fn decisions_are_told_with_their_origins_and_what_contradicts_them() {
    let (config, _) = directory(|path| {
        set_template(path, template(&[1], &[2]));
        edit(&path.join("config.json"), |config| config["bos_token_id"] = json!(0));
        write(path, "tokenizer_config.json", json!({"add_bos_token": false, "add_eos_token": true}));
    });
    let name =
        |token: u32| ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].get(token as usize).map(|&name| name.to_owned());
    let expected = [
        "in front of a text: <|im_start|> (1), by the post-processor of tokenizer.json",
        "behind a text: <|im_end|> (2), by the post-processor of tokenizer.json",
        "ends a generation: <|im_end|> (2), by eos_token_id of config.json",
        "add_bos_token of tokenizer_config.json is false and does not count beside tokenizer.json, as in transformers 5",
        "bos_token_id of config.json is 0, texts begin with 1",
    ];
    assert_eq!(config.bounds.describe(name), expected);
}
