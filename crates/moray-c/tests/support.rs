//! `docs/support.md` is what `moray_supports` answers; `MORAY_UPDATE_DOCS=1 cargo test -p moray-c --test support` writes it.

use std::ffi::CStr;

use moray_c::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/support.md");

const HEAD: &str = "# What works where

What `moray_supports` answers, and what the calls of every door run: for each operation, format and element type the arithmetic of a
call, or why there is none. This is the CPU's portable code; code for AVX2, AVX-VNNI and AVX-512 VNNI gives the same bits, and so do CUDA
devices where the operation's page does not say otherwise. A library with CUDA kernels runs the same rows on devices of compute capability 8.0 and
later, but for a sparse MLP of f32 weights.
";

/// The answer for the portable code: whether it runs, and the words, without the machine's part.
fn ask(op: MorayOp, format: MorayFormat, dtype: MorayDtype) -> (bool, String) {
    let (supported, words) = ask_on(MORAY_ARCH_PORTABLE, op, format, dtype);
    let words = words.strip_suffix("; code for portable, whose bits are those of every other").unwrap_or(&words);
    (supported, words.to_owned())
}

/// The answer for an architecture.
fn ask_on(arch: MorayArch, op: MorayOp, format: MorayFormat, dtype: MorayDtype) -> (bool, String) {
    let query = MorayQuery { struct_size: size_of::<MorayQuery>() as u32, op, format, dtype, arch };
    let mut answer = MoraySupport { supported: 0, words: std::ptr::null() };
    // SAFETY: both are there, and the words are valid until this thread asks again.
    let words = unsafe {
        assert_eq!(moray_supports(&query, &mut answer), MorayStatus::Ok);
        CStr::from_ptr(answer.words).to_str().expect("UTF-8")
    };
    (answer.supported == 1, words.to_owned())
}

/// Every format that has a name, and some that do not go together.
fn formats() -> Vec<(String, MorayFormat)> {
    let plain = |bits| MorayFormat { bits, group_size: 0, group_scale: 0, offset: 0 };
    let mut formats = vec![("4 bits, per channel".to_owned(), plain(4)), ("8 bits, per channel".to_owned(), plain(8))];
    let scales = [
        (MORAY_GROUP_SCALE_F16, "f16 scales"),
        (MORAY_GROUP_SCALE_INTEGER, "two-level scales"),
        (MORAY_GROUP_SCALE_QQQ, "QQQ's scales"),
    ];
    let offsets =
        [(MORAY_OFFSET_NONE, ""), (MORAY_OFFSET_F16, " and offsets"), (MORAY_OFFSET_ZERO_POINT, " and zero points")];
    for bits in [4, 8] {
        for (group_scale, scale) in scales {
            for (offset, besides) in offsets {
                let group_size = 128;
                let format = MorayFormat { bits, group_size, group_scale, offset };
                formats.push((format!("{bits} bits, groups of 128 with {scale}{besides}"), format));
            }
        }
    }
    formats
}

/// The lines of answers: one for each that runs, then one for each reason against others.
fn lines(answers: Vec<(String, (bool, String))>) -> String {
    let mut text = String::new();
    let mut refused: Vec<(String, Vec<String>)> = Vec::new();
    for (of, (supported, words)) in answers {
        match refused.iter_mut().find(|(reason, _)| *reason == words) {
            _ if supported => text += &format!("| {of} | yes | {words} |\n"),
            Some((_, all)) => all.push(of),
            None => refused.push((words, vec![of])),
        }
    }
    text + &refused.iter().map(|(reason, all)| format!("| {} | no | {reason} |\n", all.join("; "))).collect::<String>()
}

fn page() -> String {
    let mut text = HEAD.to_owned();
    let dense = MorayFormat { bits: 0, group_size: 0, group_scale: 0, offset: 0 };
    let types = [(MORAY_F32, "f32"), (MORAY_F16, "f16"), (MORAY_BF16, "bf16")];
    let operations = [
        (MORAY_OP_LINEAR, "W4A8 GEMM, y in f32, f16 or bf16"),
        (MORAY_OP_SPARSE_MLP, "Sparse MLP"),
        (MORAY_OP_BY_INPUT, "Products by input"),
    ];
    for (op, title) in operations {
        text += &format!("\n## {title}\n\n| weights | | arithmetic, or why not |\n|---|---|---|\n");
        let mut found = Vec::new();
        if op != MORAY_OP_LINEAR {
            found.extend(types.iter().map(|&(dtype, name)| (name.to_owned(), ask(op, dense, dtype))));
        }
        for (name, format) in formats() {
            let answers: Vec<_> = types.iter().map(|&(dtype, _)| ask(op, format, dtype)).collect();
            assert!(answers.iter().all(|answer| *answer == answers[0]), "{name}: differs between types of y");
            found.push((name, answers[0].clone()));
        }
        text += &lines(found);
    }
    text += "\n## Attention\n\n| cache | | arithmetic |\n|---|---|---|\n";
    let types = types.into_iter().chain([(MORAY_INT8, "int8")]);
    text + &lines(types.map(|(dtype, name)| (name.to_owned(), ask(MORAY_OP_ATTENTION, dense, dtype))).collect())
}

#[test]
fn page_matches_the_answers() {
    let fresh = page();
    if std::env::var("MORAY_UPDATE_DOCS").is_ok_and(|update| update == "1") {
        std::fs::write(PATH, &fresh).expect("a writable page");
    }
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    assert!(
        committed == fresh,
        "docs/support.md is stale; MORAY_UPDATE_DOCS=1 cargo test -p moray-c --test support writes it:\n{fresh}"
    );
}

/// Four-bit products by input on devices: with kernels for 8.0 as on the CPU, never for 7.0 and for 8-bit codes; without kernels the reason.
#[test]
fn quantized_products_by_input_are_answered_for_devices() {
    let format = |bits| MorayFormat {
        bits,
        group_size: 128,
        group_scale: MORAY_GROUP_SCALE_F16,
        offset: MORAY_OFFSET_ZERO_POINT,
    };
    let ask =
        |capability: MorayArch, bits| ask_on(MORAY_ARCH_CUDA + capability, MORAY_OP_BY_INPUT, format(bits), MORAY_F16);
    let (supported, words) = ask(80, 4);
    match supported {
        true => {
            let (_, on_cpu) = ask_on(MORAY_ARCH_PORTABLE, MORAY_OP_BY_INPUT, format(4), MORAY_F16);
            let arithmetic = on_cpu.rsplit_once(';').expect("arithmetic, then the place").0;
            assert_eq!(words, format!("{arithmetic}; CUDA kernels for 8.0, with the bits of a CPU"));
        }
        false => {
            assert!(words.starts_with("arch: expected a CPU"), "{words}");
            let required = std::env::var("MORAY_REQUIRE_CUDA").is_ok_and(|value| value == "1");
            assert!(!(required && cfg!(feature = "cuda-input-sparse")), "kernels are required, and {words}");
        }
    }
    for (capability, bits, what) in [(70, 4, "arch: "), (80, 8, "format: ")] {
        let (supported, words) = ask(capability, bits);
        assert!(!supported, "{capability}, {bits} bits: {words}");
        assert!(words.contains(what), "{words}");
    }
}
