//! Safetensors files, right and wrong in one way each.

use moray_lab::checkpoint::DType;
use moray_lab::fixture::safetensors_bytes;

use super::Case;

/// A file with this header and as many zero bytes of data.
fn file(header: &str, data_bytes: usize) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.resize(out.len() + data_bytes, 0);
    out
}

/// A header entry.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn one(dtype: &str, shape: &str, begin: u64, end: u64, data_bytes: usize) -> Vec<u8> {
    file(&format!("{{{}}}", entry("a", dtype, shape, begin, end)), data_bytes)
}

fn two(first: (u64, u64), second: (u64, u64), data_bytes: usize) -> Vec<u8> {
    let (a, b) = (entry("a", "F32", "[2]", first.0, first.1), entry("b", "F32", "[2]", second.0, second.1));
    file(&format!("{{{a},{b}}}"), data_bytes)
}

/// Ranges that each fit 64 bits while their end and the header's do not.
fn offsets_near_the_end_of_64_bits() -> Vec<u8> {
    let step = u64::MAX / 9;
    let entries: Vec<String> =
        (0..9).map(|i| entry(&format!("t{i}"), "F16", &format!("[{}]", step / 2), i * step, (i + 1) * step)).collect();
    file(&format!("{{{}}}", entries.join(",")), 0)
}

pub fn cases() -> Vec<Case> {
    let tensors = [
        ("model.norm.weight".to_owned(), vec![4], vec![1.0; 4]),
        ("model.embed_tokens.weight".to_owned(), vec![3, 4], vec![0.5; 12]),
    ];
    let absurd_length = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    let long_header = [&64u64.to_le_bytes()[..], b"{}"].concat();
    let duplicate = file(&format!("{{{0},{0}}}", entry("a", "F32", "[2]", 0, 8)), 8);
    let nested = file(&format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200)), 0);
    vec![
        Case::valid("valid_f32", safetensors_bytes(&tensors, DType::F32)),
        Case::valid("valid_f16", safetensors_bytes(&tensors, DType::F16)),
        Case::valid("valid_bf16", safetensors_bytes(&tensors, DType::Bf16)),
        Case::valid("valid_empty", file("{}", 0)),
        Case::valid("valid_metadata", file(r#"{"__metadata__":{"format":"pt"}}"#, 0)),
        Case::valid("valid_padded_header", file("{}      ", 0)),
        Case::broken("empty", Vec::new(), "Truncated", "header length: expected 8 more bytes, got 0"),
        Case::broken("absurd_header_length", absurd_length, "Malformed", "at most 100000000 bytes"),
        Case::broken("truncated_header", long_header, "Truncated", "header: expected 64 more bytes, got 2"),
        Case::broken("header_not_json", file("{\"a\":", 0), "Malformed", "a JSON object of tensors"),
        Case::broken("header_a_list", file("[]", 0), "Malformed", "a JSON object of tensors"),
        Case::broken("header_not_utf8", file("{\"\u{e9}\":1}", 0), "Malformed", "a JSON object").patch_utf8(),
        Case::broken("header_nested", nested, "Malformed", "a JSON object of tensors"),
        Case::broken("type_unknown", one("F33", "[2]", 0, 8, 8), "Malformed", "F33"),
        Case::broken("type_i64", one("I64", "[1]", 0, 8, 8), "Unsupported", "expected F32, F16 or BF16, got I64"),
        Case::broken("scalar", one("F32", "[]", 0, 4, 4), "Malformed", "one or two sizes above 0"),
        Case::broken("three_dimensions", one("F32", "[1,1,1]", 0, 4, 4), "Malformed", "one or two sizes above 0"),
        Case::broken("empty_dimension", one("F32", "[0,2]", 0, 0, 0), "Malformed", "one or two sizes above 0"),
        Case::broken("negative_dimension", one("F32", "[-2]", 0, 8, 8), "Malformed", "a JSON object of tensors"),
        Case::broken("shape_overflows", one("F32", "[4611686018427387904,4]", 0, 8, 8), "Malformed", "None bytes"),
        Case::broken("shape_contradicts_range", one("F32", "[3]", 0, 8, 8), "Malformed", "Some(12) bytes"),
        Case::broken("range_backwards", one("F32", "[2]", 8, 0, 8), "Malformed", "inside 0..8, got 8..0"),
        Case::broken("range_beyond_file", one("F32", "[4]", 0, 16, 8), "Malformed", "inside 0..8, got 0..16"),
        Case::broken("range_absurd", one("F32", "[2]", u64::MAX - 8, u64::MAX, 8), "Malformed", "inside 0..8"),
        Case::broken("ranges_near_2_64", offsets_near_the_end_of_64_bits(), "Malformed", "inside 0..0"),
        Case::broken("overlap", two((0, 8), (4, 12), 12), "Malformed", "an overlap, 4"),
        Case::broken("same_range", two((0, 8), (0, 8), 8), "Malformed", "an overlap, 0"),
        Case::broken("hole", two((0, 8), (12, 20), 20), "Malformed", "a hole, 12"),
        Case::broken(
            "data_left_over",
            two((0, 8), (8, 16), 20),
            "Malformed",
            "expected 16 bytes by the header, got 20",
        ),
        Case::broken("truncated_data", two((0, 8), (8, 16), 15), "Malformed", "inside 0..15, got 8..16"),
        Case::broken("duplicate_tensor", duplicate, "Malformed", "each tensor once"),
    ]
}

impl Case {
    fn patch_utf8(mut self) -> Self {
        self.bytes[10] = 0xff; // the first byte of é, after 8 bytes of length and {"
        self
    }
}
