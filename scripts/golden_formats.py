#!/usr/bin/env python3
"""Writes the golden files of crates/moray-lab/tests/golden: what other implementations read and encode.

    pip install gguf numpy tokenizers sentencepiece
    python3 scripts/golden_formats.py [models/SmolLM2-135M-Instruct.Q4_1.gguf]

dequantize.gguf     random blocks of every element type, and their f32 values, by the gguf package
byte_level.json     token ids of odd texts by the tokenizers package, for each family of pre-tokenizers
sentencepiece.json  a small SentencePiece BPE model and token ids of odd texts by the sentencepiece package
smollm2.json        token ids of the same texts for SmolLM2, written only if its file is given

Everything is seeded; running it again gives the same bytes for the same package versions.
"""

import io
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

GOLDEN = Path(__file__).resolve().parent.parent / "crates/moray-lab/tests/golden"

# Plain sentences to train the tiny vocabularies on.
TRAINING = """
The moray is an eel that lives between rocks and waits. It does less work than the fish that swim all day.
A kernel that reads fewer bytes is done sooner; a kernel that reads them twice is done later.
On the 14th of May 2026 we counted 1024 tokens in 3.14159 seconds, i.e. 325.95 tokens/s (not 1,000,000!).
He'll say it's fine, they've said they're done, I'm sure she'd agree, and we don't.
def forward(x):\n    return x @ w.T + b  # y[M, N]\n\n\nclass Layer:\n\tpass\n
Größe, naïve, façade, Ångström, señor, œuvre, Źdźbło, ČEŠTINA, ЁЖИК, ёжик, Ελληνικά, עברית, العربية, हिन्दी.
日本語の文章です。東京は大きい。 中文也可以。 한국어 문장.
Baa baaa baaaa, aa aaa aaaa aaaaa: the sheep.
<div class="x">&amp; http://example.org/?q=1&r=2#top</div>
"""

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n\n",
    "\r\n",
    "\t\t x \t",
    "Hello, world!",
    "hello world",
    " leading space",
    "trailing space ",
    "two  spaces   three    four",
    "   \n  \n indented\n    more",
    "it's IT'S We'Ll they’re 'quoted' ''",
    "1 12 123 1234 12345 1,234,567.89 ½ Ⅷ ٣٤٥ 一二三",
    "a1b2c3 x86_64 GPT-4 v0.1.2",
    "CamelCaseWords HTTPServer iPhone ÀÉÎ straße",
    "naïve café e\u0301 (combining) Å Å",
    "日本語と中文和한국어",
    "हिन्दी العربية עברית ไทย",
    "🎉🎊 👨‍👩‍👧‍👦 🇩🇪 ❤️ 🏽",
    "\u00a0non-breaking\u2003em\u200bzero\u3000wide",
    "\u0000\u0001\u007f\u0085\ufeff\ufffd",
    "\U0001f9ff\U00020000\U0010ffff",
    "... --- ___ *** ### @@@ $$$ %%% ^^^ &&& ||| ~~~ ``` <<< >>>",
    "http://example.org/path?x=1&y=2#frag",
    "if (x == 0) { return y[i]++; } // done\n",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "text<|endoftext|>text <|endoftext|> <|endoftext|><|im_end|>",
    "<|im_start|",
    "<s> hello</s> <unk> <0x41>",
    "▁already ▁marked",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the The THE",
    "x" * 7 + " " * 70 + "y",
]

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def byte_level(*patterns):
    split = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence(split + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


# As the tokenizer.json of a model of each family has it (default: as llama.cpp cuts).
FAMILIES = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "llama-bpe": byte_level(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST),
    "qwen2": byte_level(CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST),
    "tekken": byte_level(
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "default": byte_level(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
IGNORE_MERGES = {"llama-bpe", "tekken"}
# Families whose tokenizer.json composes texts; a GGUF file does not say so.
COMPOSES = {"qwen2"}


def dump(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=True)
    (GOLDEN / name).write_text(text.replace("],[", "],\n[") + "\n")


def write_dequantize():
    """Two tensors a type: raw blocks with random bits and finite scales, and what they expand to."""
    random = np.random.default_rng(20260510)
    writer = gguf.GGUFWriter(GOLDEN / "dequantize.gguf", "golden")
    # Byte positions of f16 scales in a block.
    types = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q6_K": [208], "F16": [0], "BF16": [],
             "Q5_0": [0], "Q5_K": [0, 2]}  # fmt: skip
    special = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x3C00], dtype=np.uint16)
    for name, scales in types.items():
        kind = gguf.GGMLQuantizationType[name]
        block_elems, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        rows, blocks = 3, 512 // block_elems
        raw = random.integers(0, 256, (rows * blocks, block_bytes), dtype=np.uint8)
        for at in scales:
            values = random.integers(0, 0x7C00, rows * blocks, dtype=np.uint16)  # below infinity
            values |= random.integers(0, 2, rows * blocks, dtype=np.uint16) << 15
            count = min(len(special), len(values))
            values[:count] = special[:count]
            raw[:, at : at + 2] = values.view(np.uint8).reshape(-1, 2)
        if name == "BF16":
            raw[:, 1] &= 0xBF  # keeps the exponent finite
        raw = raw.reshape(rows, -1)
        expected = gguf.quants.dequantize(raw.view(np.float16) if name == "F16" else raw, kind).astype(np.float32)
        writer.add_tensor(f"{name}.stored", raw, raw_shape=raw.shape, raw_dtype=kind)
        writer.add_tensor(f"{name}.expected", np.ascontiguousarray(expected))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_byte_level():
    golden = {"texts": TEXTS, "families": {}}
    for name, pre_tokenizer in FAMILIES.items():
        tokenizer = Tokenizer(models.BPE(ignore_merges=name in IGNORE_MERGES))
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=SPECIALS,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator([TRAINING] * 3, trainer)
        state = json.loads(tokenizer.to_str())["model"]
        tokens = sorted(state["vocab"], key=state["vocab"].get)
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["merges"]]
        if name in IGNORE_MERGES:
            # A token that no merge makes: it is found only by a family that looks words up first.
            tokens.append("hello")
            tokenizer = Tokenizer(
                models.BPE(
                    {token: i for i, token in enumerate(tokens)},
                    [tuple(merge.split(" ")) for merge in merges],
                    ignore_merges=True,
                )
            )
            tokenizer.pre_tokenizer = pre_tokenizer
            tokenizer.decoder = decoders.ByteLevel()
            tokenizer.add_special_tokens(SPECIALS)
        if name in COMPOSES:
            tokenizer.normalizer = normalizers.NFC()
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
        decoded = [tokenizer.decode(line, skip_special_tokens=False) for line in ids]
        golden["families"][name] = {"tokens": tokens, "merges": merges, "ids": ids, "decoded": decoded}
    dump("byte_level.json", golden)


def write_sentencepiece():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING.split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        character_coverage=0.98,
        user_defined_symbols=["<|im_start|>", "▁▁▁▁"],
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    kinds = []
    for i in range(len(processor)):
        kind = 1
        for test, value in ((processor.is_unknown, 2), (processor.is_control, 3), (processor.is_unused, 5), (processor.is_byte, 6)):
            kind = value if test(i) else kind
        kinds.append(4 if processor.id_to_piece(i) in ("<|im_start|>", "▁▁▁▁") else kind)
    # The package does not look for control symbols in a text, so texts with them are left out.
    texts = [text for text in TEXTS if "<s>" not in text]
    ids = [processor.encode(text) for text in texts]
    dump(
        "sentencepiece.json",
        {
            "tokens": [processor.id_to_piece(i) for i in range(len(processor))],
            "scores": [processor.get_score(i) for i in range(len(processor))],
            "types": kinds,
            "texts": texts,
            "ids": ids,
            "decoded": [processor.decode(row) for row in ids],
        },
    )


def write_smollm2(path):
    """As SmolLM2's tokenizer.json: digits one by one, then GPT-2's words."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in fields["tokenizer.ggml.merges"].contents()]
    kinds = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = FAMILIES["smollm"]
    control = [token for token, kind in zip(tokens, kinds) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    dump("smollm2.json", {"texts": TEXTS, "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]})


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    write_dequantize()
    write_byte_level()
    write_sentencepiece()
    if len(sys.argv) > 1:
        write_smollm2(sys.argv[1])
