//! GGUF files, right and wrong in one way each.

use moray_lab::checkpoint::DType;
use moray_lab::fixture::{Fixture, GgufWriter, Pair, TensorEntry};

use super::Case;

/// One layer and a vocabulary of eight tokens: three kilobytes.
fn tiny(dtype: DType) -> GgufWriter {
    let fixture =
        Fixture { hidden: 32, d_ff: 32, n_layers: 1, n_q_heads: 2, n_kv_heads: 1, dtype, ..Fixture::default() };
    let mut writer = fixture.gguf_writer();
    let tokens = ["<|endoftext|>", "<s>", "<|im_end|>", "h", "e", "l", "he", "o"];
    writer.set("llama.vocab_size", Pair::U32(8));
    writer.set("tokenizer.ggml.tokens", Pair::Strings(tokens.map(str::to_owned).into()));
    writer.set("tokenizer.ggml.token_type", Pair::I32s(vec![3, 3, 3, 1, 1, 1, 1, 1]));
    writer.set("tokenizer.ggml.merges", Pair::Strings(vec!["h e".into()]));
    let embedding = writer.tensor("token_embd.weight");
    embedding.bytes.truncate(embedding.bytes.len() / embedding.dims[1] as usize * 8);
    embedding.dims[1] = 8;
    writer
}

fn sentencepiece() -> GgufWriter {
    let mut writer = tiny(DType::Q8_0);
    let tokens = ["<unk>", "<s>", "</s>", "▁", "h", "e", "he", "▁he"];
    writer.set("tokenizer.ggml.model", Pair::String("llama".into()));
    writer.set("tokenizer.ggml.tokens", Pair::Strings(tokens.map(str::to_owned).into()));
    writer.set("tokenizer.ggml.token_type", Pair::I32s(vec![2, 3, 3, 1, 1, 1, 1, 4]));
    writer.set("tokenizer.ggml.scores", Pair::F32s(vec![0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5, -0.25]));
    writer
}

/// The bytes of a tiny file changed before writing.
fn with(change: impl FnOnce(&mut GgufWriter)) -> Vec<u8> {
    let mut writer = tiny(DType::Q4_0);
    change(&mut writer);
    writer.to_bytes()
}

/// The bytes of a tiny file with one pair replaced.
fn pair(key: &str, value: Pair) -> Vec<u8> {
    with(|writer| writer.set(key, value))
}

/// The bytes of a tiny file without one pair.
fn without(key: &str) -> Vec<u8> {
    with(|writer| writer.unset(key))
}

/// The bytes of a tiny file with eight bytes overwritten: 8 is the tensor count, 16 the pair count, 24 a key's length.
fn patched(at: usize, value: u64) -> Vec<u8> {
    let mut bytes = tiny(DType::Q4_0).to_bytes();
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn tensor(name: &str, change: impl FnOnce(&mut TensorEntry)) -> Vec<u8> {
    with(|writer| change(writer.tensor(name)))
}

fn array_of(element: u32, len: u64) -> Pair {
    Pair::Raw(9, [&element.to_le_bytes()[..], &len.to_le_bytes()].concat())
}

fn text(value: &str) -> Pair {
    Pair::String(value.into())
}

fn strings<const N: usize>(values: [&str; N]) -> Pair {
    Pair::Strings(values.map(str::to_owned).into())
}

pub fn cases() -> Vec<Case> {
    [valid(), container(), tensor_table(), configuration(), model_tensors(), tokenizer()]
        .into_iter()
        .flatten()
        .collect()
}

fn valid() -> Vec<Case> {
    let biased = Fixture { hidden: 32, d_ff: 32, n_layers: 1, attention_bias: true, tied: false, ..Fixture::default() };
    let mut files = vec![
        Case::valid("valid_f32", tiny(DType::F32).to_bytes()),
        Case::valid("valid_f16", tiny(DType::F16).to_bytes()),
        Case::valid("valid_q4_0", tiny(DType::Q4_0).to_bytes()),
        Case::valid("valid_q4_1", tiny(DType::Q4_1).to_bytes()),
        Case::valid("valid_q5_0", tiny(DType::Q5_0).to_bytes()),
        Case::valid("valid_q5_1", tiny(DType::Q5_1).to_bytes()),
        Case::valid("valid_version_2", with(|writer| writer.version = 2)),
        Case::valid("valid_sentencepiece", sentencepiece().to_bytes()),
        Case::valid("valid_nested_arrays", pair("x", Pair::Nested(vec![vec![1, 2], vec![], vec![3]]))),
        Case::valid("valid_wide_integers", pair("llama.block_count", Pair::U64(1))),
        Case::valid("valid_signed_integers", pair("llama.block_count", Pair::I32(1))),
    ];
    let mut aligned = tiny(DType::Q4_0);
    aligned.alignment = 128;
    aligned.set("general.alignment", Pair::U32(128));
    files.push(Case::valid("valid_alignment_128", aligned.to_bytes()));
    files.push(Case::valid("valid_biases_untied", biased.gguf_bytes()));
    files
}

fn container() -> Vec<Case> {
    let whole = tiny(DType::Q4_0).to_bytes();
    let big_endian = with(|writer| writer.version = 3u32.swap_bytes());
    let deep = [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat().repeat(9);
    vec![
        Case::broken("empty", Vec::new(), "Truncated", "magic: expected 4 more bytes, got 0"),
        Case::broken("magic", b"GGML\x03\0\0\0".to_vec(), "Malformed", "magic: expected \"GGUF\""),
        Case::broken("version_1", with(|writer| writer.version = 1), "Unsupported", "expected 2 or 3, got 1"),
        Case::broken("version_99", with(|writer| writer.version = 99), "Unsupported", "expected 2 or 3, got 99"),
        Case::broken("big_endian", big_endian, "Unsupported", "expected little-endian"),
        Case::broken(
            "truncated_counts",
            whole[..20].to_vec(),
            "Truncated",
            "tensor count 11: expected 264 more bytes, got 4",
        ),
        Case::broken("truncated_metadata", whole[..400].to_vec(), "Truncated", "expected"),
        Case::broken("truncated_data", whole[..whole.len() - 1].to_vec(), "Truncated", "data of tensor"),
        Case::broken("absurd_tensor_count", patched(8, u64::MAX), "Truncated", "tensor count 18446744073709551615"),
        Case::broken("large_tensor_count", patched(8, 1 << 20), "Truncated", "tensor count 1048576"),
        Case::broken("absurd_pair_count", patched(16, u64::MAX / 13), "Truncated", "metadata count"),
        Case::broken("absurd_key_length", patched(24, u64::MAX), "Truncated", "metadata key"),
        Case::broken("absurd_array_length", pair("x", array_of(4, u64::MAX)), "Truncated", "x 18446744073709551615"),
        Case::broken("overflowing_array_length", pair("x", array_of(10, (1 << 61) + 1)), "Truncated", "x 23058430092"),
        Case::broken("absurd_string_array", pair("x", array_of(8, 1 << 40)), "Truncated", "x 1099511627776"),
        Case::broken("arrays_nested_too_deep", pair("x", Pair::Raw(9, deep)), "Unsupported", "nested at most 8"),
        Case::broken("unknown_value_type", pair("x", Pair::Raw(13, vec![0; 8])), "Malformed", "from 0 to 12, got 13"),
        Case::broken("key_not_utf8", with(|writer| writer.pairs[0].0 = "\u{e9}".into()), "Malformed", "UTF-8")
            .patch(|bytes| bytes[32] = 0xff),
        Case::broken(
            "text_not_utf8",
            pair("general.name", text("\u{e9}")),
            "Malformed",
            "general.name: expected UTF-8",
        )
        .patch(|bytes| {
            let at = bytes.windows(2).position(|pair| pair == "\u{e9}".as_bytes()).unwrap();
            bytes[at] = 0xff;
        }),
        Case::broken("duplicate_key", with(|w| w.pairs.push(w.pairs[0].clone())), "Malformed", "each key once"),
        Case::broken(
            "truth_value_2",
            pair("tokenizer.ggml.add_bos_token", Pair::Raw(7, vec![2])),
            "Malformed",
            "0 or 1",
        ),
        Case::broken("alignment_0", pair("general.alignment", Pair::U32(0)), "Malformed", "a power of two"),
        Case::broken("alignment_3", pair("general.alignment", Pair::U32(3)), "Malformed", "a power of two"),
        Case::broken("alignment_text", pair("general.alignment", text("32")), "Malformed", "a power of two"),
    ]
}

impl Case {
    fn patch(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.bytes);
        self
    }
}

fn tensor_table() -> Vec<Case> {
    let q = "blk.0.attn_q.weight";
    let dims = |dims: &[u64]| tensor(q, |tensor| tensor.dims = dims.into());
    let offset = |offset: u64| tensor(q, |tensor| tensor.offset = Some(offset));
    let type_id = |id: u32| tensor(q, |tensor| tensor.type_id = id);
    vec![
        Case::broken("five_dimensions", dims(&[32, 1, 1, 1, 1]), "Malformed", "at most 4, got 5"),
        Case::broken("three_dimensions", dims(&[32, 16, 2]), "Unsupported", "a matrix"),
        Case::broken("empty_dimension", dims(&[32, 0]), "Malformed", "no empty dimension"),
        Case::broken("overflowing_shape", dims(&[1 << 40, 1 << 40]), "Truncated", "data of tensor"),
        Case::broken("huge_row", dims(&[u64::MAX - 31, 1]), "Truncated", "data of tensor"),
        Case::broken("row_not_in_blocks", dims(&[33, 32]), "Malformed", "a multiple of Q4_0's block of 32, got 33"),
        Case::broken("unknown_element_type", type_id(99), "Unsupported", "an unknown type (id 99)"),
        Case::broken("element_type_q2_k", type_id(10), "Unsupported", "got Q2_K (id 10)"),
        Case::broken("misaligned_offset", offset(16), "Malformed", "a multiple of 32, got 16"),
        Case::broken("offset_beyond_file", offset(1 << 20), "Truncated", "at offset 1048576"),
        Case::broken("absurd_offset", offset(u64::MAX - 31), "Truncated", "at offset 18446744073709551584"),
        Case::broken("overlapping_tensors", offset(0), "Malformed", "a start from byte"),
        Case::broken(
            "duplicate_tensor",
            with(|w| w.tensors.push(w.tensors[0].clone())),
            "Malformed",
            "each tensor once",
        ),
    ]
}

fn configuration() -> Vec<Case> {
    let size = |key: &str, value: u32| pair(key, Pair::U32(value));
    let float = |key: &str, value: f32| pair(key, Pair::F32(value));
    let head_count = "llama.attention.head_count";
    vec![
        Case::broken("architecture_missing", without("general.architecture"), "MissingKey", "general.architecture"),
        Case::broken("architecture_gptj", pair("general.architecture", text("gptj")), "Unsupported", "got gptj"),
        Case::broken("architecture_number", size("general.architecture", 1), "Malformed", "expected text"),
        Case::broken("layer_count_missing", without("llama.block_count"), "MissingKey", "llama.block_count"),
        Case::broken("layer_count_0", size("llama.block_count", 0), "Malformed", "layer count"),
        Case::broken("layer_count_absurd", size("llama.block_count", u32::MAX), "Malformed", "layer count"),
        Case::broken("layer_count_2", size("llama.block_count", 2), "MissingTensor", "blk.1.attn_norm.weight"),
        Case::broken("layer_count_negative", pair("llama.block_count", Pair::I32(-1)), "Malformed", "at least 0"),
        Case::broken("head_count_text", pair(head_count, text("2")), "Malformed", "an integer"),
        Case::broken("head_count_list", pair(head_count, Pair::I32s(vec![2])), "Malformed", "an array of 1"),
        Case::broken("head_count_0", size(head_count, 0), "Malformed", "query head count"),
        Case::broken("kv_heads_not_a_divisor", size("llama.attention.head_count_kv", 3), "Malformed", "a divisor"),
        Case::broken("value_length", size("llama.attention.value_length", 8), "Unsupported", "the head size 16, got 8"),
        Case::broken("partial_rotary", size("llama.rope.dimension_count", 8), "Unsupported", "the head size 16, got 8"),
        Case::broken("experts", size("llama.expert_count", 8), "Unsupported", "expert_count: expected 0, got 8"),
        Case::broken("logit_scale", float("llama.logit_scale", 0.5), "Unsupported", "logit_scale"),
        Case::broken("bidirectional", pair("llama.attention.causal", Pair::Bool(false)), "Unsupported", "causal"),
        Case::broken("split_file", size("split.count", 2), "Unsupported", "a model in one file, got 2"),
        Case::valid("valid_yarn", pair("llama.rope.scaling.type", text("yarn"))),
        Case::broken("rope_longrope", pair("llama.rope.scaling.type", text("longrope")), "Unsupported", "got longrope"),
        Case::broken("rope_growth", float("llama.rope.scaling.attn_factor", 1.5), "Unsupported", "attn_factor"),
        Case::broken(
            "softcap",
            float("llama.attn_logit_softcapping", 50.0),
            "Unsupported",
            "attn_logit_softcapping: expected 0, got 50",
        ),
        Case::broken("unknown_key", pair("llama.new_gate", text("tanh")), "Unsupported", "llama.new_gate"),
        Case::valid("valid_unknown_zero", size("llama.new_gate", 0)),
        Case::broken("rope_base_0", float("llama.rope.freq_base", 0.0), "Malformed", "rotary base"),
        Case::broken("epsilon_nan", float("llama.attention.layer_norm_rms_epsilon", f32::NAN), "Malformed", "epsilon"),
        Case::broken("epsilon_missing", without("llama.attention.layer_norm_rms_epsilon"), "MissingKey", "epsilon"),
        Case::broken("context_0", size("llama.context_length", 0), "Malformed", "context length"),
        Case::broken("vocab_size", size("llama.vocab_size", 9), "Malformed", "8 as the embedding has rows, got 9"),
        Case::broken(
            "eos_beyond_vocabulary",
            size("tokenizer.ggml.eos_token_id", 8),
            "Malformed",
            "a token id below 8",
        ),
        Case::broken("rope_factors_negative", rope_factors(vec![-1.0; 8], 8), "Malformed", "rotary factor"),
        Case::broken("rope_factors_short", rope_factors(vec![1.0; 4], 4), "Malformed", "8 values, got 4"),
        Case::valid("valid_rope_factors", rope_factors(vec![2.0; 8], 8)),
    ]
}

fn rope_factors(values: Vec<f32>, dim: u64) -> Vec<u8> {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let name = "rope_freqs.weight".into();
    with(|writer| writer.tensors.push(TensorEntry { name, dims: vec![dim], type_id: 0, bytes, offset: None }))
}

fn model_tensors() -> Vec<Case> {
    let removed = |name: &str| with(|writer| writer.tensors.retain(|tensor| tensor.name != name));
    let renamed = |from: &str, to: &str| tensor(from, |tensor| tensor.name = to.into());
    let reshaped = |name: &str, dims: [u64; 2]| tensor(name, |tensor| tensor.dims = dims.into());
    let quantized_norm = tensor("output_norm.weight", |tensor| {
        tensor.type_id = 8; // Q8_0: one block of 34 bytes
        tensor.bytes = vec![0; 34];
    });
    let overwritten = |name: &str, at: usize, value: &'static [u8]| {
        tensor(name, |tensor| tensor.bytes[at..at + value.len()].copy_from_slice(value))
    };
    vec![
        Case::broken("embedding_missing", removed("token_embd.weight"), "MissingTensor", "token_embd.weight"),
        Case::broken("norm_missing", removed("output_norm.weight"), "MissingTensor", "output_norm.weight"),
        Case::broken("projection_missing", removed("blk.0.ffn_up.weight"), "MissingTensor", "blk.0.ffn_up.weight"),
        Case::broken("tensor_unknown", rope_renamed(), "UnexpectedTensor", "got blk.0.attn_q_norm.weight"),
        Case::broken("tensor_renamed", renamed("blk.0.ffn_up.weight", "blk.0.up.weight"), "MissingTensor", "ffn_up"),
        Case::broken(
            "wrong_shape",
            reshaped("blk.0.attn_k.weight", [32, 8]),
            "TensorShape",
            "[16, 32] (rows, columns), got [8, 32]",
        ),
        Case::broken("transposed", reshaped("blk.0.attn_q.weight", [64, 16]), "TensorShape", "got [16, 64]"),
        Case::broken("quantized_norm", quantized_norm, "TensorType", "expected F32, F16 or BF16, got Q8_0"),
        Case::broken("nan_in_norm", overwritten("output_norm.weight", 4, &[0, 0, 0xc0, 0x7f]), "NotFinite", "row 0"),
        Case::broken("infinite_scale", overwritten("blk.0.attn_v.weight", 18 * 3, &[0, 0x7c]), "NotFinite", "row 3"),
    ]
}

fn rope_renamed() -> Vec<u8> {
    let mut writer = tiny(DType::Q4_0);
    let mut extra = writer.tensor("output_norm.weight").clone();
    extra.name = "blk.0.attn_q_norm.weight".into();
    writer.tensors.push(extra);
    writer.to_bytes()
}

fn tokenizer() -> Vec<Case> {
    let key = |key: &str| format!("tokenizer.ggml.{key}");
    let merges = |merge: &str| pair(&key("merges"), strings([merge]));
    let spm = |change: fn(&mut GgufWriter)| {
        let mut writer = sentencepiece();
        change(&mut writer);
        writer.to_bytes()
    };
    let nan_score = |w: &mut GgufWriter| w.set("tokenizer.ggml.scores", Pair::F32s(vec![f32::NAN; 8]));
    let byte_token = |w: &mut GgufWriter| w.set("tokenizer.ggml.token_type", Pair::I32s(vec![2, 3, 3, 6, 1, 1, 1, 1]));
    let no_unknown = |w: &mut GgufWriter| w.set("tokenizer.ggml.token_type", Pair::I32s(vec![1, 3, 3, 1, 1, 1, 1, 1]));
    let repeated = strings(["a", "a", "b", "c", "d", "e", "f", "g"]);
    let repeated_spm = |w: &mut GgufWriter| {
        w.set("tokenizer.ggml.tokens", strings(["<unk>", "<s>", "</s>", "a", "a", "b", "c", "d"]));
    };
    vec![
        Case::broken("tokens_missing", without(&key("tokens")), "MissingKey", "tokenizer.ggml.tokens"),
        Case::broken("tokens_too_few", pair(&key("tokens"), strings(["a"])), "Malformed", "1 values, one a token"),
        Case::broken(
            "tokens_fewer_than_rows",
            fewer_tokens(),
            "Vocabulary",
            "expected 8 tokens as the embedding has rows, got 7",
        ),
        Case::broken("tokens_numbers", pair(&key("tokens"), Pair::I32s(vec![0; 8])), "Malformed", "expected text"),
        Case::broken("token_type_9", pair(&key("token_type"), Pair::I32s(vec![9; 8])), "Malformed", "0 to 6"),
        Case::broken("token_repeated", pair(&key("tokens"), repeated), "Tokenizer", "token 0 again as 1"),
        Case::broken("tokenizer_unknown", pair(&key("model"), text("wordpiece")), "Unsupported", "got wordpiece"),
        Case::broken("tokenizer_missing", without(&key("model")), "MissingKey", "tokenizer.ggml.model"),
        Case::broken("pre_tokenizer_unknown", pair(&key("pre"), text("klingon")), "Unsupported", "got klingon"),
        Case::broken("merges_missing", without(&key("merges")), "MissingKey", "tokenizer.ggml.merges"),
        Case::broken("merge_of_one", merges("he"), "Tokenizer", "expected a merge of two tokens, got \"he\""),
        Case::broken("merge_of_no_token", merges("h x"), "Tokenizer", "into a token, got \"h x\""),
        Case::broken("merge_into_no_token", merges("h l"), "Tokenizer", "into a token, got \"h l\""),
        Case::broken("merge_too_long", merges("<|endoftext|> <|endoftext|>"), "Tokenizer", "into a token"),
        Case::valid("valid_without_scores", spm(|w| w.unset("tokenizer.ggml.scores"))),
        Case::valid("valid_token_type_0", pair(&key("token_type"), Pair::I32s(vec![0; 8]))),
        Case::broken(
            "scores_short",
            spm(|w| w.set("tokenizer.ggml.scores", Pair::F32s(vec![0.0]))),
            "Malformed",
            "8 values",
        ),
        Case::broken("score_nan", spm(nan_score), "Malformed", "a number"),
        Case::broken("byte_token", spm(byte_token), "Tokenizer", "a byte token like <0x0A>"),
        Case::broken("unknown_token_missing", spm(no_unknown), "Tokenizer", "got neither"),
        Case::broken("piece_repeated", spm(repeated_spm), "Tokenizer", "token 3 again as 4"),
        Case::broken(
            "space_prefix_number",
            spm(|w| w.set("tokenizer.ggml.add_space_prefix", Pair::U8(1))),
            "Malformed",
            "a truth value",
        ),
    ]
}

fn fewer_tokens() -> Vec<u8> {
    with(|writer| {
        writer.set("tokenizer.ggml.tokens", strings(["a", "b", "c", "d", "e", "f", "g"]));
        writer.set("tokenizer.ggml.token_type", Pair::I32s(vec![1; 7]));
    })
}
