//! The `moray` command.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = moray_lab::cli::Cli::parse();
    match moray_lab::cli::run(cli, &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
