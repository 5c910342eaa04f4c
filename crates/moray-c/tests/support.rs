//! `docs/support.md` is what `moray_supports` answers, and `results/support.md`, the README's table, what is common in it;
//! `MORAY_UPDATE_DOCS=1 cargo test -p moray-c --test support` writes both, the latter with `--features cuda`, as devices answer in it too.

use std::ffi::CStr;

use moray_c::*;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/support.md");
const SUMMARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../results/support.md");

/// Instruction sets, best first.
const CPUS: [(MorayArch, &str); 4] = [
    (MORAY_ARCH_AVX512_VNNI, "AVX-512 VNNI"),
    (MORAY_ARCH_AVX_VNNI, "AVX-VNNI"),
    (MORAY_ARCH_AVX2, "AVX2"),
    (MORAY_ARCH_PORTABLE, "portable"),
];

/// Compute capabilities that have been made; the first is the least that kernels run on.
const CAPABILITIES: [MorayArch; 6] = [80, 86, 89, 90, 100, 120];

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

/// A question whose answers stand in one row: what it is called, and what it asks for.
type Question = (String, MorayFormat, MorayDtype);

/// The operations of the README's table: constant, name, what its answers are of, questions.
fn summarized() -> Vec<(MorayOp, &'static str, &'static str, Vec<Question>)> {
    let dense = MorayFormat { bits: 0, group_size: 0, group_scale: 0, offset: 0 };
    let types = [(MORAY_F32, "f32"), (MORAY_F16, "f16"), (MORAY_BF16, "bf16")];
    let floats = || types.map(|(dtype, name)| (name.to_owned(), dense, dtype)).to_vec();
    let quantized = || formats().into_iter().map(|(name, format)| (name, format, MORAY_F16));
    let of_rows = || floats().into_iter().chain(quantized()).collect();
    let cache = floats().into_iter().chain([("int8".to_owned(), dense, MORAY_INT8)]).collect();
    vec![
        (MORAY_OP_LINEAR, "W4A8 GEMM", "weights in", quantized().collect()),
        (MORAY_OP_SPARSE_MLP, "sparse MLP", "weights in", of_rows()),
        (MORAY_OP_BY_INPUT, "products by input", "weights in", of_rows()),
        (MORAY_OP_ATTENTION, "attention", "a KV cache in", cache),
    ]
}

/// Names one after another, those that begin with the same number of bits together after it.
fn listed(names: &[&str]) -> String {
    let mut kinds: Vec<(&str, Vec<String>)> = Vec::new();
    for name in names {
        let (bits, rest) = name.split_once(", ").unwrap_or(("", name));
        let rest = rest.replace("groups of 128 with ", "");
        match kinds.iter_mut().find(|(of, _)| *of == bits) {
            Some((_, all)) => all.push(rest),
            None => kinds.push((bits, vec![rest])),
        }
    }
    let one = |(bits, all): &(&str, Vec<String>)| match *bits {
        "" => all.join(", "),
        bits => format!("{bits}: {}", all.join(", ")),
    };
    kinds.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// What a device says of a row, None where this library has no kernels.
fn on_devices(op: MorayOp, questions: &[&Question]) -> Option<String> {
    let ask = |(_, format, dtype): &Question, capability| ask_on(MORAY_ARCH_CUDA + capability, op, *format, *dtype);
    let place = |words: &str| words.rsplit_once(" for ").and_then(|(_, of)| Some(of.split_once(", ")?.1.to_owned()));
    let mut runs = Vec::new();
    let mut refused = Vec::new();
    for question in questions {
        let (supported, words) = ask(question, CAPABILITIES[0]);
        if words.starts_with("arch: expected a CPU") {
            return None;
        }
        for capability in CAPABILITIES {
            assert_eq!(ask(question, capability).0, supported, "{}: {capability}", question.0);
        }
        assert!(!ask(question, 75).0, "{}: 7.5", question.0);
        match supported {
            true => runs.push(place(&words).expect("kernels, then how they add")),
            false => refused.push(question.0.as_str()),
        }
    }
    assert!(runs.iter().all(|how| *how == runs[0]), "{runs:?}");
    let but = if refused.is_empty() { String::new() } else { format!("; not {}", listed(&refused)) };
    Some(format!("kernels {}{but}", runs[0]))
}

/// The README's table; the last column is `devices` where this library has no kernels.
fn summary(devices: &[String]) -> String {
    let cpus = CPUS.map(|(_, name)| name).join(", ");
    let mut text =
        format!("| operation | with | CPU: {cpus} | CUDA, compute capability 8.0 and up |\n|---|---|---|---|\n");
    for (row, (op, name, of, questions)) in summarized().into_iter().enumerate() {
        let runs: Vec<_> = questions.iter().filter(|(_, format, dtype)| ask(op, *format, *dtype).0).collect();
        for (arch, cpu) in CPUS {
            for (what, format, dtype) in &runs {
                let (supported, words) = ask_on(arch, op, *format, *dtype);
                let is_like = match supported {
                    true => words.ends_with("whose bits are those of every other"),
                    // what this machine cannot run, it cannot be asked for
                    false => words.starts_with("arch: expected an instruction set of this machine"),
                };
                assert!(is_like, "{name}, {what}, {cpu}: {words}");
            }
        }
        let names: Vec<_> = runs.iter().map(|(name, ..)| name.as_str()).collect();
        let device =
            on_devices(op, &runs).or_else(|| devices.get(row).cloned()).expect("kernels, or a table with a row");
        text += &format!("| {name} | {of} {} | the same bits on each | {device} |\n", listed(&names));
    }
    text
}

#[test]
fn summary_matches_the_answers() {
    let committed = std::fs::read_to_string(SUMMARY).unwrap_or_default();
    let of_devices = committed.lines().skip(2).filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
    let fresh = summary(&of_devices.map(str::to_owned).collect::<Vec<_>>());
    if std::env::var("MORAY_UPDATE_DOCS").is_ok_and(|update| update == "1") {
        std::fs::write(SUMMARY, &fresh).expect("a writable table");
    }
    let committed = std::fs::read_to_string(SUMMARY).unwrap_or_default();
    assert!(
        committed == fresh,
        "results/support.md is stale; MORAY_UPDATE_DOCS=1 cargo test -p moray-c --features cuda --test support writes it:\n{fresh}"
    );
}

#[test]
fn names_are_listed_without_repeating_themselves() {
    let names = ["f32", "f16", "4 bits, per channel", "8 bits, per channel", "4 bits, groups of 128 with f16 scales"];
    assert_eq!(listed(&names), "f32, f16; 4 bits: per channel, f16 scales; 8 bits: per channel");
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
