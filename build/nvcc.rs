//! Finding nvcc and choosing architectures.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Machine code that is built where the compiler knows the architecture.
const MACHINE: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"];

/// PTX that is built beside it.
const PORTABLE: [&str; 2] = ["compute_80", "compute_90a"];

/// Where `cargo xtask toolkit` puts nvcc below the target folder, and where wheels have it.
const IN_PACKAGES: &str = "nvidia/cu13/bin/nvcc";

/// A CUDA compiler.
pub struct Nvcc {
    pub path: PathBuf,
    /// What `--version` says.
    pub version: String,
    /// The architectures it knows, as `compute_90a`.
    known: Vec<String>,
    /// Says whether it can be told how to compress images.
    pub compresses: bool,
}

impl Nvcc {
    /// Asks the compiler what it is.
    pub fn open(path: PathBuf) -> Result<Self, String> {
        let ask = |argument: &str| {
            let answer = Command::new(&path).arg(argument).output();
            match answer {
                Ok(answer) if answer.status.success() => Ok(String::from_utf8_lossy(&answer.stdout).into_owned()),
                Ok(answer) => Err(format!("expected {} {argument} to work, got {}", path.display(), answer.status)),
                Err(error) => Err(format!("expected {} to start, got: {error}", path.display())),
            }
        };
        let version = ask("--version")?;
        let known = ask("--list-gpu-arch")?.split_whitespace().map(str::to_owned).collect();
        let compresses = ask("--help")?.contains("--compress-mode");
        Ok(Self { version, known, compresses, path })
    }

    /// Says whether it compiles for `compute_…`; an architecture-specific `a` form goes with its plain one.
    fn knows(&self, compute: &str) -> bool {
        let plain = compute.trim_end_matches(['a', 'f']);
        self.known.iter().any(|known| known == compute || known == plain)
    }
}

/// Finds nvcc in the order that `build.rs` states.
pub fn find(out: &Path, root: &Path) -> Option<PathBuf> {
    let mut candidates: Vec<PathBuf> =
        ["MORAY_NVCC", "NVCC"].iter().filter_map(env::var_os).map(PathBuf::from).collect();
    let binary = |home: PathBuf| home.join("bin").join("nvcc");
    candidates.extend(["CUDA_HOME", "CUDA_PATH"].iter().filter_map(env::var_os).map(|home| binary(home.into())));
    candidates.extend(env::var_os("PATH").iter().flat_map(env::split_paths).map(|folder| folder.join("nvcc")));
    if let Some(environment) = env::var_os("VIRTUAL_ENV") {
        let pythons = fs::read_dir(Path::new(&environment).join("lib")).into_iter().flatten().flatten();
        candidates.extend(pythons.map(|python| python.path().join("site-packages").join(IN_PACKAGES)));
    }
    // The target folder is one of OUT_DIR's ancestors, wherever it was put.
    candidates.extend(out.ancestors().map(|folder| folder.join("toolkit").join(IN_PACKAGES)));
    candidates.push(root.join("target/toolkit").join(IN_PACKAGES));
    candidates.push(binary("/usr/local/cuda".into()));
    let suffix = env::consts::EXE_SUFFIX;
    candidates.into_iter().map(|path| PathBuf::from(format!("{}{suffix}", path.display()))).find(|path| path.is_file())
}

/// The `-gencode` pairs to compile for: (`compute_90a`, `sm_90a`).
pub fn targets(nvcc: &Nvcc) -> Result<Vec<(String, String)>, String> {
    let names: Vec<String> = match (env::var("MORAY_CUDA_ARCHS"), env::var("CUDA_COMPUTE_CAP")) {
        (Ok(list), _) if !list.trim().is_empty() => list.split(',').map(|name| full_name(name.trim())).collect(),
        (_, Ok(one)) if !one.trim().is_empty() => {
            let one = one.trim().replace('.', "");
            vec![format!("sm_{}", if one == "90" { "90a" } else { &one })]
        }
        _ => {
            let all = MACHINE.iter().chain(&PORTABLE);
            all.filter(|name| nvcc.knows(&name.replace("sm_", "compute_"))).map(|name| name.to_string()).collect()
        }
    };
    names
        .into_iter()
        .map(|name| {
            let compute = name.replace("sm_", "compute_");
            let number = compute.strip_prefix("compute_").unwrap_or("");
            let valid = number.trim_end_matches(['a', 'f']).parse::<u32>().is_ok_and(|number| number >= 80);
            match valid && nvcc.knows(&compute) {
                true => Ok((compute, name)),
                false => Err(format!(
                    "MORAY_CUDA_ARCHS: expected architectures from 8.0 that {} knows ({}), got {name}",
                    nvcc.path.display(),
                    nvcc.known.join(" ")
                )),
            }
        })
        .collect()
}

/// `9.0a` for `sm_90a`; other names as they are.
fn full_name(name: &str) -> String {
    match name.starts_with(|c: char| c.is_ascii_digit()) {
        true => format!("sm_{}", name.replace('.', "")),
        false => name.to_owned(),
    }
}
