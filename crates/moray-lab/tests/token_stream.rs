//! Decoding token by token against decoding at once.

use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::fixture::{Fixture, MIN_VOCAB};
use moray_lab::mapped_file::MappedFile;
use moray_lab::tokenizer::Tokenizer;
use proptest::prelude::*;

fn byte_level() -> Tokenizer {
    let file = MappedFile::from_bytes(Path::new("fixture.gguf"), Fixture::default().gguf_bytes());
    Checkpoint::open_gguf(file).unwrap().tokenizer().unwrap()
}

/// A tokenizer.json as llama 2 has it: ▁ for spaces, bytes for what is no piece, one leading space dropped.
fn metaspace() -> Tokenizer {
    let mut vocab = serde_json::json!({"<unk>": 0, "<s>": 1, "</s>": 2});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = (byte + 3).into();
    }
    for (at, piece) in ["▁", "a", "b", "▁a", "▁ab", "é"].into_iter().enumerate() {
        vocab[piece] = (259 + at).into();
    }
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 1, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true, "vocab": vocab,
            "merges": ["▁ a", "▁a b"]},
    })
    .to_string();
    let directory = tempfile::tempdir().unwrap();
    Fixture::default().write_hf(directory.path(), 1).unwrap();
    std::fs::write(directory.path().join("tokenizer.json"), json).unwrap();
    Checkpoint::open(directory.path()).unwrap().tokenizer().unwrap()
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

proptest! {
    #[test]
    fn byte_level_stream_matches_lossy_decoding_for_any_ids(ids in prop::collection::vec(0..MIN_VOCAB as u32 + 9, 0..40)) {
        let tokenizer = byte_level();
        // The definition: every token's bytes one after another, then lossy UTF-8.
        let alphabet: Vec<u8> = (0..=255u8).filter(|b| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff))
            .chain((0..=255u8).filter(|b| !matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff))).collect();
        let mut bytes = Vec::new();
        for &id in &ids {
            match id {
                3..=258 => bytes.push(alphabet[id as usize - 3]),
                _ => if let Some(token) = tokenizer.token(id) {
                    bytes.extend(token.replace('Ġ', " ").into_bytes());
                }
            }
        }
        let expected = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(&streamed(&tokenizer, &ids), &expected);
        prop_assert_eq!(&tokenizer.decode(&ids), &expected);
    }

    #[test]
    fn byte_level_round_trip_matches_any_text(text in "\\PC{0,40}|[\\s\\p{L}\\p{N}\u{300}-\u{310}]{0,40}") {
        let tokenizer = byte_level();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }

    #[test]
    fn metaspace_stream_matches_decoding_for_any_text(text in "[ab é日🎉]{0,30}") {
        let tokenizer = metaspace();
        let ids = tokenizer.encode(&text, false).unwrap();
        prop_assert_eq!(&tokenizer.decode(&ids), &text);
        prop_assert_eq!(&streamed(&tokenizer, &ids), &text);
        for cut in 0..ids.len() {
            let mut stream = tokenizer.stream_after(&ids[..cut]);
            for &id in &ids[cut..] {
                let piece = stream.push(id);
                prop_assert!(!piece.contains('\u{fffd}') || cut > 0, "{piece:?} of {text:?}");
            }
        }
    }
}

#[test]
fn stream_holds_back_exactly_the_incomplete_character() {
    let tokenizer = byte_level();
    let ids = tokenizer.encode("x🎉y", false).unwrap();
    assert_eq!(ids.len(), 6);
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces, ["x", "", "", "", "🎉", "y"]);
    let mut stream = tokenizer.stream();
    let interrupted = [ids[1], ids[0], ids[1], ids[2], ids[1]].map(|id| stream.push(id));
    assert_eq!(interrupted, ["", "\u{fffd}x", "", "", "\u{fffd}"], "an interrupted character is not waited for");
    let mut stream = tokenizer.stream();
    stream.push(ids[1]);
    assert_eq!(stream.finish(), "\u{fffd}");
    assert_eq!(stream.push(ids[0]), "x");
}

#[test]
fn metaspace_continuation_keeps_the_space_of_its_first_token() {
    let tokenizer = metaspace();
    let (prompt, next) = (tokenizer.encode("ab", false).unwrap(), tokenizer.token_id("▁ab").unwrap());
    assert_eq!(tokenizer.stream_after(&prompt).push(next), " ab");
    assert_eq!(tokenizer.stream().push(next), "ab");
}
