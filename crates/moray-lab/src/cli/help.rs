//! What the command says of itself: the first five commands, examples of every flag, completions and manual pages.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};

use super::{Cli, written};
use crate::error::{Error, Result};

/// What `moray` prints when it is asked for nothing.
const FIRST_STEPS: &str = "\
moray runs LLaMA models with 4-bit weights, sparse MLPs and skipped heads, and says what that gains and costs.

Begin with:
  moray doctor                                             what this machine has, and what is missing
  moray doctor   --model M                                 what a model is, and how it would run
  moray generate --model M --prompt \"The capital of\"       continue a text
  moray eval     --model M --text FILE --weights g64       perplexity in 4 bits, beside the model in 16 bits
  moray bench    --model M --text FILE                     prefill and decode speed of several ways to run it

M is a .gguf file or a Hugging Face directory. `moray help` lists every command, `moray help COMMAND` its flags with examples.
";

/// Lines that the commands' help ends with: every flag of a command is in one of its lines.
const EXAMPLES: &str = include_str!("examples.txt");

/// Arguments of `moray completions`.
#[derive(Debug, Clone, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Arguments of `moray man`.
#[derive(Debug, Clone, Args)]
pub struct Man {
    /// The directory to write into, made if it is absent; files there that have a page's name are replaced.
    #[arg(long, short, default_value = "man", allow_hyphen_values = true)]
    pub out: PathBuf,
}

/// The command line, with examples in the help of each command.
pub fn command() -> Command {
    with_examples(Cli::command(), "moray")
}

/// The examples of a command, such as `moray bpipe estimate`, and of those below it.
pub fn examples(path: &str) -> impl Iterator<Item = &'static str> {
    EXAMPLES
        .lines()
        .filter(move |line| line.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(' ')))
}

fn with_examples(command: Command, path: &str) -> Command {
    // a number below zero is refused as a value, not taken for a flag
    let command = command.mut_args(|argument| match argument.get_action().takes_values() {
        true => argument.allow_negative_numbers(true),
        false => argument,
    });
    let below: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    if below.is_empty() {
        let lines: Vec<_> = examples(path).map(|line| format!("  {line}")).collect();
        return command.after_help(format!("Examples:\n{}", lines.join("\n")));
    }
    below.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}");
        command.mut_subcommand(name, |below| with_examples(below, &path))
    })
}

/// Prints the first steps.
///
/// # Errors
/// If `out` cannot be written to.
pub(super) fn first_steps(out: &mut dyn Write) -> Result<()> {
    written(out.write_all(FIRST_STEPS.as_bytes()))
}

/// Prints the completions of a shell.
///
/// # Errors
/// If `out` cannot be written to.
pub(super) fn completions(arguments: &Completions, out: &mut dyn Write) -> Result<()> {
    let mut script = Vec::new();
    // which panics where it cannot write
    clap_complete::generate(arguments.shell, &mut command(), "moray", &mut script);
    written(out.write_all(&script))
}

/// Writes a manual page for the command and each of those below it.
///
/// # Errors
/// If the directory cannot be written to.
pub(super) fn man(arguments: &Man, out: &mut dyn Write) -> Result<()> {
    let generate =
        || fs::create_dir_all(&arguments.out).and_then(|()| clap_mangen::generate_to(command(), &arguments.out));
    generate().map_err(|source| Error::io("write", &arguments.out, source))?;
    written(writeln!(out, "wrote the manual pages of moray into {}", arguments.out.display()))
}
