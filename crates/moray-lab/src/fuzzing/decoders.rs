//! A vocabulary of odd pieces, and the decoders of a `tokenizer.json` in any order.

use serde_json::{Value, json};

/// Pieces that one decoder or another treats in its own way, and bytes that make characters or not.
const PIECES: [&str; 22] = [
    "▁", "▁a", "▁▁", "a▁b", "b", " ", "  ", " c", "é", "Ġ", "Ġa", "Ã", "©", "##a", "a</w>", "</w>", "<pad>", "|", ".",
    "aab", "<0xZZ>", "",
];

const BYTES: [u8; 9] = [b'\n', b'x', 0xe4, 0xbd, 0xa0, 0xf0, 0x9f, 0x8e, 0xff];

/// Decoders that a chain is made of.
pub fn decoders() -> Vec<Value> {
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    vec![
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
        json!({"type": "Strip", "content": " ", "start": 3, "stop": 0}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        replace(json!({"String": "▁"}), " "),
        replace(json!({"String": "ab"}), "▁"),
        replace(json!({"String": "a  b"}), ""),
        replace(json!({"Regex": " +"}), "_"),
        metaspace("always"),
        metaspace("never"),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": true}),
    ]
}

/// A `tokenizer.json` of these pieces and bytes, with this chain of decoders.
pub fn decoder_file(chain: &[Value]) -> String {
    let bytes = BYTES.iter().map(|byte| format!("<0x{byte:02X}>"));
    let pieces = PIECES.iter().map(|&piece| piece.to_owned()).chain(bytes);
    let vocab: serde_json::Map<_, _> = pieces.enumerate().map(|(id, piece)| (piece, id.into())).collect();
    let decoder = match chain {
        [] => Value::Null,
        [single] => single.clone(),
        chain => json!({"type": "Sequence", "decoders": chain}),
    };
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 3, "content": "a▁b", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
    .to_string()
}

/// Tokens of [`decoder_file`].
pub const DECODER_TOKENS: u32 = (PIECES.len() + BYTES.len()) as u32;
