//! Bad model files: each case is a small file, what is wrong with it, and the error it must give.
//!
//! The same files are the committed corpus of the fuzz targets. `MORAY_BLESS=1 cargo test -p moray-lab --test bad_input`
//! writes them after a case was added.

mod gguf_cases;
mod hugging_face;
mod mutations;
mod quantization_cases;
mod safetensors_cases;
mod tokenizer_cases;

use std::fs;
use std::path::{Path, PathBuf};

use moray_lab::Error;

/// A file and what must come of it: None for a valid one, else the error's variant and part of its message.
struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    expected: Option<(&'static str, &'static str)>,
}

impl Case {
    fn valid(name: &'static str, bytes: Vec<u8>) -> Self {
        Self { name, bytes, expected: None }
    }

    fn broken(name: &'static str, bytes: Vec<u8>, variant: &'static str, message: &'static str) -> Self {
        Self { name, bytes, expected: Some((variant, message)) }
    }

    fn check(&self, read: fn(&[u8]) -> moray_lab::Result<()>) {
        match (read(&self.bytes), self.expected) {
            (Ok(()), None) => {}
            (Ok(()), Some(expected)) => panic!("{}: expected {expected:?}, got none", self.name),
            (Err(error), None) => panic!("{}: expected no error, got {error}", self.name),
            (Err(error), Some((variant, message))) => check_error(self.name, &error, variant, message),
        }
    }
}

fn check_error(name: &str, error: &Error, variant: &str, message: &str) {
    let (debug, text) = (format!("{error:?}"), error.to_string());
    assert!(debug.starts_with(variant), "{name}: expected {variant}, got {debug}");
    assert!(text.contains(message), "{name}: expected a message with {message:?}, got {text:?}");
}

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target)
}

/// Compares the cases with the committed corpus, or writes it when asked to.
fn check_corpus(target: &str, cases: &[Case]) {
    let directory = corpus(target);
    if std::env::var_os("MORAY_BLESS").is_some() {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        for case in cases {
            fs::write(directory.join(case.name), &case.bytes).unwrap();
        }
    }
    let mut committed: Vec<String> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    committed.sort();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name).collect();
    names.sort_unstable();
    assert_eq!(committed, names, "run with MORAY_BLESS=1");
    for case in cases {
        assert!(fs::read(directory.join(case.name)).unwrap() == case.bytes, "{}: run with MORAY_BLESS=1", case.name);
    }
}

#[test]
fn gguf_cases_match_their_errors_and_the_committed_corpus() {
    let cases = gguf_cases::cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::gguf));
    check_corpus("gguf", &cases);
}

#[test]
fn safetensors_cases_match_their_errors_and_the_committed_corpus() {
    let cases = safetensors_cases::cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::safetensors));
    check_corpus("safetensors", &cases);
}

#[test]
fn config_cases_match_their_errors_and_the_committed_corpus() {
    let cases = hugging_face::config_cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::config));
    check_corpus("config", &cases);
}

#[test]
fn tokenizer_cases_match_their_errors_and_the_committed_corpus() {
    let cases = tokenizer_cases::cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::tokenizer));
    check_corpus("tokenizer", &cases);
}

#[test]
fn stream_cases_match_the_committed_corpus() {
    let cases = tokenizer_cases::stream_cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::stream));
    check_corpus("stream", &cases);
}

#[test]
fn quantization_cases_match_their_errors_and_the_committed_corpus() {
    let cases = quantization_cases::cases();
    cases.iter().for_each(|case| case.check(moray_lab::fuzzing::quantization));
    check_corpus("quantization", &cases);
}
