//! `moray doctor`: what this machine has, and what to do about what is missing.

mod model;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use moray::{Cpu, Isa};
use serde::Serialize;

use super::written;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::machine::{processor, read_bandwidth, total_memory_bytes};

pub use self::model::ModelReport;

/// Arguments of `moray doctor`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// Where models and texts are looked for.
    #[arg(long, default_value = "models", allow_hyphen_values = true)]
    pub models: PathBuf,
    /// Say what this model is and how it would run, instead of what the machine has.
    #[arg(long, short, allow_hyphen_values = true)]
    pub model: Option<PathBuf>,
    /// Report as JSON.
    #[arg(long)]
    pub json: bool,
}

/// What `moray doctor` reports.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The processor's name, where the system says it.
    pub processor: Option<String>,
    /// Cores that this process may use.
    pub cores: usize,
    /// Bytes of memory, where the system says it.
    pub memory_bytes: Option<usize>,
    /// Instruction sets that moray has code for, and whether this machine can run it.
    pub instruction_sets: Vec<InstructionSet>,
    /// The one that is used.
    pub instruction_set_used: &'static str,
    /// Gigabytes (10⁹) a second that all cores together read from memory, measured now.
    pub read_bandwidth_gb_per_second: f64,
    /// What may be there or not.
    pub findings: Vec<Finding>,
}

/// An instruction set.
#[derive(Debug, Clone, Serialize)]
pub struct InstructionSet {
    /// As `--isa` takes it.
    pub name: &'static str,
    /// Whether this machine can run it.
    pub available: bool,
}

/// Something that was looked for.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// What was found; none if nothing was.
    pub found: Option<String>,
    /// Where it was looked for, if that is not plain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub looked_in: Vec<String>,
    /// What to do, if it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    fn new(what: &'static str, found: Option<String>, looked_in: Vec<String>, advice: &str) -> Self {
        let advice = found.is_none().then(|| advice.to_owned());
        Finding { what, found, looked_in, advice }
    }
}

/// Runs the command.
///
/// # Errors
/// If the report cannot be written, and what is wrong with a model that was asked about.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    if let Some(model) = &arguments.model {
        let report = ModelReport::of(model)?;
        return if arguments.json { write_json(&report, out) } else { written(report.write(out)) };
    }
    let report = examine(&arguments.models);
    if arguments.json { write_json(&report, out) } else { written(write_report(&report, out)) }
}

fn write_json(report: &impl Serialize, out: &mut dyn Write) -> Result<()> {
    written(serde_json::to_writer_pretty(&mut *out, report).map_err(Into::into).and_then(|()| writeln!(out)))
}

/// Looks at the machine; models and texts in `models`.
pub fn examine(models: &Path) -> Report {
    let cpu = Cpu::detect();
    let instruction_sets = Isa::ALL.into_iter().rev();
    Report {
        processor: processor(),
        cores: cpu.threads(),
        memory_bytes: total_memory_bytes(),
        instruction_sets: instruction_sets
            .map(|isa| InstructionSet { name: isa.name(), available: isa.is_available() })
            .collect(),
        instruction_set_used: cpu.isa().name(),
        read_bandwidth_gb_per_second: read_bandwidth(&cpu) / 1e9,
        findings: vec![driver(), compiler(), python(), pip(), model(models), text(models)],
    }
}

/// The CUDA driver's library: what the dynamic loader would find.
fn driver() -> Finding {
    let name = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
    let variable = if cfg!(windows) { "PATH" } else { "LD_LIBRARY_PATH" };
    let mut places: Vec<PathBuf> = std::env::var_os(variable).iter().flat_map(std::env::split_paths).collect();
    let usual =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/lib/wsl/lib"];
    if !cfg!(windows) {
        places.extend(usual.map(PathBuf::from));
    }
    let in_places = places.iter().map(|place| place.join(name)).find(|path| path.exists());
    let found = in_places.map(|path| path.display().to_string()).or_else(|| in_loader_cache(name));
    let mut looked_in: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    looked_in.push("the dynamic loader's cache (ldconfig -p)".into());
    let advice = "needed only for --device cuda: install NVIDIA's driver for your GPU; without it moray runs on the \
                  processor";
    Finding::new("CUDA driver", found, looked_in, advice)
}

fn in_loader_cache(name: &str) -> Option<String> {
    let cache = ["ldconfig", "/sbin/ldconfig"].into_iter().find_map(|program| output(program, &["-p"]))?;
    let line = cache.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    line.split("=> ").nth(1).map(str::to_owned)
}

/// nvcc, where builds look for it.
fn compiler() -> Finding {
    let name = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    let mut places: Vec<PathBuf> = Vec::new();
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        places.extend(std::env::var_os(variable).map(|home| Path::new(&home).join("bin")));
    }
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    places.push("/usr/local/cuda/bin".into());
    let found = places.iter().map(|place| place.join(name)).find(|path| path.is_file());
    let looked_in = vec!["CUDA_HOME/bin".into(), "CUDA_PATH/bin".into(), "PATH".into(), "/usr/local/cuda/bin".into()];
    let advice = "needed only to compile CUDA kernels: install the CUDA toolkit and put its bin directory on PATH, or set \
                  CUDA_HOME";
    Finding::new("nvcc", found.map(|path| path.display().to_string()), looked_in, advice)
}

fn python() -> Finding {
    let found = ["python3", "python"].into_iter().find_map(|program| output(program, &["--version"]));
    let advice = "needed only by cargo xtask fetch: install Python 3";
    Finding::new("Python", found, vec!["python3 and python on PATH".into()], advice)
}

fn pip() -> Finding {
    let found = ["python3", "python"].into_iter().find_map(|program| output(program, &["-m", "pip", "--version"]));
    let advice = "needed only by cargo xtask fetch: run python3 -m ensurepip, or install your system's python3-pip";
    Finding::new("pip", found, vec!["python3 -m pip and python -m pip".into()], advice)
}

/// What a program writes, if it succeeds and writes anything.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Checkpoints that can be opened; one that cannot is named with the reason.
fn model(models: &Path) -> Finding {
    let is_model = |path: &PathBuf| path.extension().is_some_and(|e| e == "gguf") || path.join("config.json").is_file();
    let describe = |path: PathBuf| match Checkpoint::open(&path) {
        Ok(checkpoint) => {
            let config = checkpoint.config();
            let megabytes = checkpoint.stored_bytes() as f64 / 1e6;
            format!("{} ({}, {} layers, {megabytes:.0} MB)", path.display(), config.name, config.n_layers)
        }
        Err(error) => format!("cannot be used: {error}"),
    };
    let found: Vec<String> = entries(models).into_iter().filter(is_model).map(describe).collect();
    let looked_in = vec![format!("{}: *.gguf and directories with a config.json", models.display())];
    let advice = "run cargo xtask fetch, or give any LLaMA in GGUF or Hugging Face form with --model";
    Finding::new("model", (!found.is_empty()).then(|| found.join("; ")), looked_in, advice)
}

fn text(models: &Path) -> Finding {
    let is_text = |path: &PathBuf| path.extension().is_some_and(|e| e == "cor" || e == "txt");
    let found: Vec<String> =
        entries(models).into_iter().filter(is_text).map(|path| path.display().to_string()).collect();
    let looked_in = vec![format!("{}: *.cor and *.txt", models.display())];
    let advice = "run cargo xtask fetch, or give any UTF-8 text with --text";
    Finding::new("text", (!found.is_empty()).then(|| found.join("; ")), looked_in, advice)
}

/// What is in a directory, sorted; nothing if it cannot be read.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    let processor = report.processor.as_deref().unwrap_or("unknown");
    writeln!(out, "processor         {processor}, {} cores", report.cores)?;
    match report.memory_bytes {
        Some(bytes) => write!(out, "memory            {:.1} GB", bytes as f64 / 1e9)?,
        None => write!(out, "memory            size unknown")?,
    }
    writeln!(out, ", reads {:.1} GB/s", report.read_bandwidth_gb_per_second)?;
    write!(out, "instruction sets ")?;
    for isa in &report.instruction_sets {
        let used = if isa.name == report.instruction_set_used { " (used)" } else { "" };
        write!(out, " {}{used}{}", isa.name, if isa.available { "" } else { " (not here)" })?;
    }
    writeln!(out)?;
    for finding in &report.findings {
        match &finding.found {
            Some(found) => writeln!(out, "{:17} {found}", finding.what)?,
            None => writeln!(out, "{:17} not found in {}", finding.what, finding.looked_in.join(", "))?,
        }
        if let Some(advice) = &finding.advice {
            writeln!(out, "{:17} -> {advice}", "")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_and_text_match_what_lies_in_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let missing = [model(directory.path()), text(directory.path())];
        for finding in missing {
            assert!(finding.found.is_none() && finding.advice.unwrap().contains("cargo xtask fetch"));
        }
        crate::fixture::Fixture::default().write_gguf(&directory.path().join("tiny.gguf")).unwrap();
        std::fs::write(directory.path().join("broken.gguf"), b"GGUF").unwrap();
        std::fs::write(directory.path().join("a.txt"), b"text").unwrap();
        let found = model(directory.path()).found.unwrap();
        assert!(found.contains("tiny.gguf (") && found.contains("2 layers"), "{found}");
        assert!(found.contains("cannot be used") && found.contains("broken.gguf"), "{found}");
        assert!(text(directory.path()).found.unwrap().ends_with("a.txt"));
        assert!(text(directory.path()).advice.is_none());
    }

    #[test]
    fn a_model_report_says_what_would_run_and_what_was_noticed() {
        let directory = tempfile::tempdir().unwrap();
        crate::fixture::Fixture::default().write_hf(directory.path(), 1).unwrap();
        let path = directory.path().join("config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["rope_parameters"] = serde_json::json!({"rope_type": "default", "rope_theta": 1e4});
        config["rope_scaling"] = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
        config["unsloth_fixed"] = true.into();
        std::fs::write(&path, config.to_string()).unwrap();
        let mut out = Vec::new();
        let arguments = Arguments { models: "models".into(), model: Some(directory.path().into()), json: false };
        run(&arguments, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for expected in [
            "Hugging Face directory",
            "2 layers of width 64",
            "YaRN",
            "F32",
            "16-bit floats",
            "unsloth_fixed",
            "rope_scaling counts",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn a_directory_that_is_not_there_is_reported_as_without_models() {
        assert!(model(Path::new("/no/such/directory")).found.is_none());
    }
}
