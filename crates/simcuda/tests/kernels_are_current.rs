//! Checks that every committed `kernels/*.ptx` is what nvcc makes of the `.cu` beside it.
//!
//! Needs nvcc of the release that made the committed files; without it the test says `skipped:` and passes. With
//! `SIMCUDA_REGENERATE=1` (`cargo xtask simcuda kernels`) the files are written instead of compared.

#[path = "common/nvcc.rs"]
mod nvcc;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use nvcc::find_nvcc;

/// Reduces the paths of `.file` directives to file names, so that the text does not depend on where it was compiled.
fn strip_folders(ptx: &str) -> String {
    let mut text = String::with_capacity(ptx.len());
    for line in ptx.lines() {
        match line.trim_start().strip_prefix(".file").and_then(|rest| rest.split_once('"')) {
            Some((index, path)) => {
                let name = path.trim_end_matches('"').rsplit('/').next().unwrap_or(path);
                text.push_str(&format!("\t.file\t{} \"{name}\"", index.trim()));
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn compile(nvcc: &Path, source: &Path) -> String {
    let arch = if source.to_string_lossy().contains("sm90") { "compute_90" } else { "compute_80" };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let output = folder.join(source.file_name().expect("a .cu file has a name")).with_extension("ptx");
    let run = Command::new(nvcc)
        .args(["-ptx", "-lineinfo", "-std=c++17", "-arch", arch, "-o"])
        .args([&output, &source.to_path_buf()])
        .output()
        .expect("nvcc was found but did not start");
    assert!(run.status.success(), "nvcc failed on {}: {}", source.display(), String::from_utf8_lossy(&run.stderr));
    strip_folders(&fs::read_to_string(&output).expect("nvcc left no output"))
}

/// Returns the line of a PTX header that names the toolkit's release.
fn release(ptx: &str) -> &str {
    ptx.lines().find(|line| line.contains("release")).unwrap_or("no release line")
}

#[test]
fn committed_ptx_matches_nvcc_output_of_the_same_release() {
    let Some(nvcc) = find_nvcc() else {
        println!("skipped: no nvcc");
        return;
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut sources: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the kernels folder is part of the package")
        .map(|entry| entry.expect("a readable folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cu"))
        .collect();
    sources.sort();
    assert!(sources.len() >= 10, "expected the test kernels, got {}", sources.len());
    for source in sources {
        let fresh = compile(&nvcc, &source);
        let committed_path = source.with_extension("ptx");
        if env::var_os("SIMCUDA_REGENERATE").is_some() {
            fs::write(&committed_path, fresh).expect("the kernels folder is writable");
            continue;
        }
        let committed = fs::read_to_string(&committed_path).unwrap_or_default();
        if !committed.is_empty() && release(&committed) != release(&fresh) {
            println!("skipped: nvcc is of another release: {}", release(&fresh));
            return;
        }
        assert!(committed == fresh, "{} is stale: cargo xtask simcuda kernels", committed_path.display());
    }
}
