//! The command's arguments: what begins with a dash is a value where one is expected.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::Fixture;

/// Checks every argument of a command and of those below it; returns how many there are.
fn check(command: &clap::Command) -> usize {
    let mut texts = 0;
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        let kind = argument.get_value_parser().type_id();
        if [TypeId::of::<String>(), TypeId::of::<PathBuf>(), TypeId::of::<OsString>()].iter().any(|id| kind == *id) {
            let name = format!("{} --{}", command.get_name(), argument.get_id());
            assert!(argument.is_allow_hyphen_values_set(), "{name} refuses a value that begins with a dash");
            texts += 1;
        }
    }
    texts + command.get_subcommands().map(check).sum::<usize>()
}

#[test]
fn every_text_and_every_path_may_begin_with_a_dash() {
    assert!(check(&Cli::command()) > 20);
}

#[test]
fn a_prompt_that_begins_with_a_dash_is_continued() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    Fixture::default().write_gguf(&model).unwrap();
    let model = model.to_str().unwrap();
    for prompt in [&["-p", "- item"][..], &["--prompt", "--model"], &["--prompt=- item"], &["-p", "-p"]] {
        let arguments = ["moray", "generate", "--model", model, "-n", "2"].into_iter().chain(prompt.iter().copied());
        let mut out = Vec::new();
        run(Cli::try_parse_from(arguments).unwrap(), &mut out).unwrap();
        assert!(!out.is_empty(), "{prompt:?}");
    }
}

#[test]
fn numbers_that_no_machine_has_are_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("tiny.gguf");
    Fixture::default().write_gguf(&model).unwrap();
    let model = model.to_str().unwrap();
    for (switch, number, message) in [
        ("--threads", "1000000", "threads: expected 1 to 4096, got 1000000"),
        ("--threads", "0", "threads: expected 1 to 4096, got 0"),
        ("-n", "18446744073709551615", "prompt and generated tokens: expected an index below 129"),
    ] {
        let arguments = ["moray", "generate", "--model", model, "-p", "a", switch, number];
        let error = run(Cli::try_parse_from(arguments).unwrap(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
