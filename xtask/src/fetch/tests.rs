//! Fetching with a stand-in for Python, so no network is needed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;
use zip::write::SimpleFileOptions;

const CONTENT: &[u8] = b"the whole file";
/// SHA-256 of CONTENT by coreutils' sha256sum.
const SHA256: &str = "820480309f460664c2771eedec77663260b7da322f7d11f8b2fff2691e778242";

fn artifact() -> Artifact {
    Artifact {
        title: "a file",
        requirement: "package==1.0",
        platform: &[],
        member: "package/data.bin",
        sha256: SHA256,
        bytes: CONTENT.len() as u64,
    }
}

fn wheel(path: &Path, member: &str, content: &[u8]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    let deflated = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    archive.start_file(member, deflated).unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap();
}

/// A program that answers `-m pip --version` and for a download runs `script` with the destination as $dest.
fn python(directory: &Path, script: &str) -> PathBuf {
    let path = directory.join("python");
    let text = format!(
        "#!/bin/sh\n[ \"$3\" = --version ] && exit 0\n\
         while [ $# -gt 0 ]; do [ \"$1\" = --dest ] && dest=$2; shift; done\n{script}\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Obtains the artifact with a stand-in Python running `script`; also returns the models directory's contents.
fn obtain_with(script: &str, prepare: impl FnOnce(&Path)) -> (Result<(), FetchError>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let program = python(directory.path(), &script.replace("HERE", directory.path().to_str().unwrap()));
    let python = Python::find(&[program.to_str().unwrap()]).unwrap();
    let models = directory.path().join("models");
    let result = obtain(&artifact(), &python, &models);
    let left = names(&models);
    if result.is_ok() {
        assert_eq!(fs::read(models.join("data.bin")).unwrap(), CONTENT);
    }
    (result, left)
}

#[test]
fn obtained_file_matches_the_wheel_and_nothing_else_is_left() {
    let (result, left) = obtain_with("cp HERE/good.whl $dest/", |directory| {
        wheel(&directory.join("good.whl"), "package/data.bin", CONTENT);
    });
    result.unwrap();
    assert_eq!(left, ["data.bin"]);
}

#[test]
fn broken_downloads_are_refused_and_leave_nothing() {
    type Prepare = fn(&Path);
    let cases: [(&str, &str, Prepare, &str); 6] = [
        (
            "wrong content",
            "cp HERE/w.whl $dest/",
            |d| wheel(&d.join("w.whl"), "package/data.bin", b"the Whole file"),
            SHA256,
        ),
        (
            "wrong size",
            "cp HERE/w.whl $dest/",
            |d| wheel(&d.join("w.whl"), "package/data.bin", b"short"),
            "of 14 bytes, got 5",
        ),
        (
            "missing member",
            "cp HERE/w.whl $dest/",
            |d| wheel(&d.join("w.whl"), "other", CONTENT),
            "expected package/data.bin",
        ),
        ("no archive", "echo half a wheel > $dest/w.whl", |_| {}, "expected a zip archive"),
        (
            "truncated",
            "head -c 60 HERE/w.whl > $dest/w.whl",
            |d| wheel(&d.join("w.whl"), "package/data.bin", CONTENT),
            "expected a zip archive",
        ),
        ("no wheel", "touch $dest/other", |_| {}, "expected the wheel of package==1.0"),
    ];
    for (name, script, prepare, message) in cases {
        let (result, left) = obtain_with(script, prepare);
        let error = result.expect_err(name);
        assert!(matches!(error, FetchError::Broken { .. }), "{name}: {error:?}");
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert_eq!(left, [""; 0], "{name}");
    }
}

#[test]
fn failing_pip_is_reported_with_its_status_and_leaves_nothing() {
    let (result, left) = obtain_with("echo partial > $dest/w.whl.part; exit 3", |_| {});
    let error = result.unwrap_err();
    assert!(matches!(error, FetchError::Download { .. }), "{error:?}");
    assert!(error.to_string().contains("package==1.0 (exit status: 3)"), "{error}");
    assert_eq!(left, [""; 0]);
}

#[test]
fn full_disk_is_reported_while_unpacking() {
    if !Path::new("/dev/full").exists() {
        println!("skipped: no /dev/full");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w.whl");
    wheel(&path, "package/data.bin", CONTENT);
    let error = unpack::unpack(&path, &artifact(), Path::new("/dev/full")).unwrap_err();
    assert!(matches!(error, FetchError::Io { action: "write", .. }), "{error:?}");
    assert!(error.to_string().contains("No space left"), "{error}");
}

#[test]
fn python_without_pip_and_no_python_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("python");
    fs::write(&program, "#!/bin/sh\necho No module named pip >&2; exit 1\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let program = program.to_str().unwrap();
    let absent = directory.path().join("absent");
    let error = Python::find(&[absent.to_str().unwrap(), program]).err().unwrap();
    assert!(error.to_string().contains("No module named pip"), "{error}");
    assert!(error.to_string().contains("-m ensurepip"), "{error}");
    let error = Python::find(&[absent.to_str().unwrap()]).err().unwrap();
    assert!(matches!(error, FetchError::NoPython), "{error:?}");
}

#[test]
fn present_file_is_recognised_by_its_hash_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.bin");
    assert!(!is_present(&artifact(), &path).unwrap());
    fs::write(&path, CONTENT).unwrap();
    assert!(is_present(&artifact(), &path).unwrap());
    fs::write(&path, b"the half file.").unwrap();
    assert!(!is_present(&artifact(), &path).unwrap());
}

#[test]
fn abandoned_workspaces_are_removed_and_live_ones_kept() {
    let directory = tempfile::tempdir().unwrap();
    if !Path::new("/proc/self").exists() {
        println!("skipped: no /proc");
        return;
    }
    // Process ids stay below 2^22 on Linux.
    let (abandoned, live) = (directory.path().join(".fetch-4294967295"), directory.path().join(".fetch-1"));
    fs::create_dir(&abandoned).unwrap();
    fs::create_dir(&live).unwrap();
    remove_abandoned(directory.path()).unwrap();
    assert_eq!(names(directory.path()), [".fetch-1"]);
}
