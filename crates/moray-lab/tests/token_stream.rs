//! Decoding token by token against decoding at once.

use std::path::Path;

use moray_lab::Checkpoint;
use moray_lab::fixture::{Fixture, MIN_VOCAB, Pair, byte_fallback_json};
use moray_lab::fuzzing::{DECODER_TOKENS, decoder_file, decoders};
use moray_lab::mapped_file::MappedFile;
use moray_lab::tokenizer::Tokenizer;
use proptest::prelude::*;

fn byte_level() -> Tokenizer {
    let file = MappedFile::from_bytes(Path::new("fixture.gguf"), Fixture::default().gguf_bytes());
    Checkpoint::open_gguf(file).unwrap().tokenizer().unwrap()
}

/// A tokenizer.json as llama 2 has it: ▁ for spaces, bytes for what is no piece, one leading space dropped.
fn metaspace() -> (Tokenizer, tokenizers::Tokenizer) {
    let mut vocab = serde_json::json!({"<unk>": 0, "<s>": 1, "</s>": 2});
    for byte in 0..256 {
        vocab[format!("<0x{byte:02X}>")] = (byte + 3).into();
    }
    for (at, piece) in ["▁", "a", "b", "▁a", "▁ab", "é"].into_iter().enumerate() {
        vocab[piece] = (259 + at).into();
    }
    let mut json = byte_fallback_json(vocab);
    json["added_tokens"] = serde_json::json!([{"id": 1, "content": "<s>", "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}]);
    let json = json.to_string();
    let config = Fixture::default().open().unwrap().config().clone();
    let ours = Tokenizer::from_json(Path::new("tokenizer.json"), json.as_bytes(), &config).unwrap();
    (ours, json.parse().unwrap())
}

/// Whether [`metaspace`]'s token is a byte.
fn is_byte(id: &u32) -> bool {
    (3..259).contains(id)
}

/// The tokenizer with this chain of decoders, and the library's own.
fn with_decoders(chain: &[serde_json::Value]) -> (Tokenizer, tokenizers::Tokenizer) {
    let json = decoder_file(chain);
    let config = Fixture::default().open().unwrap().config().clone();
    let ours = Tokenizer::from_json(Path::new("tokenizer.json"), json.as_bytes(), &config).unwrap();
    (ours, json.parse().unwrap())
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = tokenizer.stream();
    let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text.push_str(&stream.finish());
    text
}

proptest! {
    #[test]
    fn any_decoder_streams_what_the_tokenizers_package_decodes(
        chain in prop::collection::vec(prop::sample::select(decoders()), 0..5),
        ids in prop::collection::vec(0..DECODER_TOKENS + 2, 1..24),
    ) {
        let (ours, library) = with_decoders(&chain);
        // the library's decoder of word ends panics where no token is left
        let expected = std::panic::catch_unwind(|| library.decode(&ids, false).unwrap());
        prop_assume!(expected.is_ok());
        let expected = expected.unwrap();
        prop_assert_eq!(&ours.decode(&ids), &expected);
        prop_assert_eq!(&streamed(&ours, &ids), &expected);
    }

    #[test]
    fn byte_fallback_stream_matches_the_tokenizers_package_for_any_ids(
        ids in prop::collection::vec(0..265u32, 0..40),
        cut in 0..40usize,
    ) {
        let (tokenizer, library) = metaspace();
        let expected = library.decode(&ids, false).unwrap();
        prop_assert_eq!(&tokenizer.decode(&ids), &expected);
        prop_assert_eq!(&streamed(&tokenizer, &ids), &expected);
        // after a prompt: the text of all, but for bytes on both sides of the border
        let (prompt, rest) = ids.split_at(cut.min(ids.len()));
        prop_assume!(!(prompt.last().is_some_and(is_byte) && rest.first().is_some_and(is_byte)));
        let mut stream = tokenizer.stream_after(prompt);
        let mut text: String = rest.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        prop_assert_eq!(library.decode(prompt, false).unwrap() + &text, expected);
    }

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
        let (tokenizer, _) = metaspace();
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
fn words_after_a_byte_that_is_no_character_are_not_lost() {
    let (tokenizer, _) = metaspace();
    let [newline, lone, a, ab] = ["<0x0A>", "<0xE4>", "▁a", "▁ab"].map(|token| tokenizer.token_id(token).unwrap());
    let prompt = tokenizer.encode("a", false).unwrap();
    let mut stream = tokenizer.stream_after(&prompt);
    let pieces = [newline, lone, a, ab].map(|id| stream.push(id));
    assert_eq!(pieces, ["", "", "\u{fffd}\u{fffd} a", " ab"]);
    assert_eq!(stream.finish(), "");
}

#[test]
fn decoders_of_odd_tokens_end_without_a_panic() {
    let strip = serde_json::json!({"type": "Strip", "content": " ", "start": u64::MAX, "stop": 7});
    let (tokenizer, _) = with_decoders(std::slice::from_ref(&strip));
    assert_eq!(tokenizer.decode(&[5, 6, 7, 21, 4]), "cb");
    let (tokenizer, _) = with_decoders(&[serde_json::json!({"type": "BPEDecoder", "suffix": "</w>"})]);
    assert_eq!(tokenizer.decode(&[]), "");
}

#[test]
fn added_tokens_of_a_gguf_file_are_written_as_they_are_read() {
    let mut writer = Fixture::default().gguf_writer();
    let Some((_, Pair::Strings(tokens))) = writer.pairs.iter_mut().find(|(key, _)| key.ends_with("ggml.tokens")) else {
        panic!("the fixture has tokens")
    };
    tokens.extend(["é¡".to_owned(), "ĠÃ".to_owned()]);
    let added = tokens.len() as u32 - 2;
    let mut types = vec![1; tokens.len() - 2];
    types[..3].fill(3);
    types.extend([4, 4]);
    writer.set("tokenizer.ggml.token_type", Pair::I32s(types));
    let vocabulary = MappedFile::from_bytes(Path::new("vocabulary.gguf"), writer.to_bytes());
    let header = moray_lab::gguf::Header::parse(vocabulary.path(), vocabulary.bytes()).unwrap();
    let vocabulary = moray_lab::gguf::Vocabulary::open(&vocabulary, &header).unwrap();
    let config = Fixture { vocab: MIN_VOCAB + 2, ..Fixture::default() }.open().unwrap().config().clone();
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary, &config).unwrap();
    for text in ["é¡", "x é¡ĠÃ é"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert!(ids.contains(&added), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn metaspace_continuation_keeps_the_space_of_its_first_token() {
    let (tokenizer, _) = metaspace();
    let (prompt, next) = (tokenizer.encode("ab", false).unwrap(), tokenizer.token_id("▁ab").unwrap());
    assert_eq!(tokenizer.stream_after(&prompt).push(next), " ab");
    assert_eq!(tokenizer.stream().push(next), "ab");
}
