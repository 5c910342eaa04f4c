//! The command's arguments: what begins with a dash is a value where one is expected.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use moray_lab::cli::{Cli, help, run};
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

/// The words of a line as a shell takes them apart, up to a redirection.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words.truncate(words.iter().position(|word| word == ">").unwrap_or(words.len()));
    words
}

/// Checks the examples and the defaults of every command that has none below it; returns how many flags there are.
fn explained(command: &clap::Command, path: &str) -> usize {
    let below = command.get_subcommands().map(|below| explained(below, &format!("{path} {}", below.get_name()))).sum();
    if command.has_subcommands() {
        return below;
    }
    let lines: Vec<_> = help::examples(path).map(words).collect();
    let mut flags = 0;
    for argument in command.get_arguments().filter(|argument| argument.get_id() != "help") {
        let names =
            [argument.get_long().map(|name| format!("--{name}")), argument.get_short().map(|c| format!("-{c}"))];
        let shown = |word: &String| argument.is_positional() || names.iter().flatten().any(|name| name == word);
        assert!(lines.iter().flatten().any(shown), "{path}: no example of {names:?}");
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        // without a path nothing is read or written, and what of a pipeline is given is one of several ways to say it
        let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
        let said = is_path || path.starts_with("moray bpipe");
        let optional = argument.get_action().takes_values() && !argument.is_required_set() && !said;
        let default = !argument.get_default_values().is_empty() || help.contains("default");
        assert!(!optional || default, "{path} {names:?}: what happens without it? {help}");
        flags += 1;
    }
    flags
}

#[test]
fn every_flag_has_an_example_and_a_default() {
    assert!(explained(&Cli::command(), "moray") > 100);
}

#[test]
fn examples_match_the_flags() {
    let mut lines = 0;
    for line in help::examples("moray") {
        if let Err(error) = Cli::try_parse_from(words(line)) {
            panic!("{line}\n{error}");
        }
        lines += 1;
    }
    assert!(lines > 30);
    let help = help::command().render_long_help().to_string();
    assert!(help.contains("bpipe"), "{help}");
}

#[test]
fn without_a_command_the_first_steps_are_printed() {
    let mut out = Vec::new();
    run(Cli::try_parse_from(["moray"]).unwrap(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let steps: Vec<_> = text.lines().filter(|line| line.starts_with("  moray ")).collect();
    assert_eq!(steps.len(), 5, "{text}");
    for step in steps {
        let line = step
            .split("   ")
            .filter(|part| !part.is_empty())
            .take_while(|part| part.contains('-') || part.contains("moray"));
        Cli::try_parse_from(line.flat_map(words)).unwrap_or_else(|error| panic!("{step}\n{error}"));
    }
}

#[test]
fn manual_pages_and_completions_name_every_command() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("man");
    run(Cli::try_parse_from(["moray", "man", "--out", out.to_str().unwrap()]).unwrap(), &mut Vec::new()).unwrap();
    for page in ["moray.1", "moray-generate.1", "moray-bpipe-estimate.1"] {
        let text = std::fs::read_to_string(out.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH"), "{page}: {text}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let mut script = Vec::new();
        run(Cli::try_parse_from(["moray", "completions", shell]).unwrap(), &mut script).unwrap();
        assert!(String::from_utf8(script).unwrap().contains("quantize"), "{shell}");
    }
}

#[test]
fn a_reader_that_went_away_is_an_error_of_every_command_that_only_prints() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for arguments in [&["moray"][..], &["moray", "doctor"], &["moray", "completions", "bash"]] {
        let error = run(Cli::try_parse_from(arguments).unwrap(), &mut Closed).unwrap_err().to_string();
        assert!(error.starts_with("cannot write standard output"), "{arguments:?}: {error}");
    }
}

#[test]
fn what_cannot_be_written_is_refused_before_the_work_that_fills_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("file"), "kept").unwrap();
    // the model, which is looked at next, is not there either
    let (model, inside) = (path("none.gguf"), path("file/out.safetensors"));
    let folder = path("folder.safetensors");
    std::fs::create_dir(&folder).unwrap();
    for arguments in [
        &["calibrate", "--out", &path("none/out.safetensors")][..],
        &["calibrate", "--out", &inside],
        &["calibrate", "--out", &folder],
        &["demo", "--text", &path("file"), "--html", &path("none/page.html")],
        &["demo", "--text", &path("file"), "--html", &folder],
        &["analyze", "--text", &path("file"), "--out", &path("file")],
    ] {
        let command = [&["moray", arguments[0], "--model", &model], &arguments[1..]].concat();
        let error = run(Cli::try_parse_from(&command).unwrap(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(arguments.last().unwrap()), "{arguments:?}: {error}");
    }
    // what can be written is neither changed nor left behind
    for out in [path("new.safetensors"), path("old.safetensors")] {
        let old = out.contains("old");
        if old {
            std::fs::write(&out, "old").unwrap();
        }
        let command = ["moray", "calibrate", "--model", &model, "--out", &out];
        let error = run(Cli::try_parse_from(command).unwrap(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("none.gguf"), "{error}");
        assert_eq!(std::fs::read(&out).ok().as_deref(), old.then_some(&b"old"[..]));
    }
    assert_eq!(std::fs::read(path("file")).unwrap(), b"kept");
}

#[test]
fn a_number_below_zero_is_refused_as_a_number() {
    for (switch, number) in [("-n", "-1"), ("--temperature", "-1"), ("--threads", "-2"), ("--top-p", "-0.5")] {
        let arguments = ["moray", "generate", "--model", "none", "-p", "a", switch, number];
        let found = help::command().try_get_matches_from(arguments);
        let error = found.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(!error.contains("unexpected argument"), "{error}");
    }
}
