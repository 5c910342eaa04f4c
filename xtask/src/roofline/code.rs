//! The machine code of the counted kernels: registers, and their main loops.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use serde_json::{Value, json};

use super::machine::MACHINES;
use super::sass::{Anchor, MainLoop, main_loop};
use crate::{root, toolkit};

/// Where the committed numbers are.
const FILE: &str = "results/roofline/code.json";

const DISASSEMBLER: &str = "nvidia-cuda-nvdisasm==13.5.*";
const DISASSEMBLER_BRINGS: &str = "nvidia/cu13/bin/nvdisasm";

/// What the compiler made of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Code {
    /// Of a thread.
    pub registers: u32,
    /// The main loop; none where the kernel neither loads nor multiplies.
    pub main_loop: Option<MainLoop>,
}

/// Code by (machine code, kernel).
pub type Codes = BTreeMap<(String, String), Code>;

/// Compiles the kernels for every machine and writes what their code is.
///
/// # Errors
/// Returns an error if the compiler or the disassembler cannot be obtained or fails, and for a kernel that no source has.
pub fn write(kernels: &BTreeSet<String>) -> io::Result<()> {
    let nvcc = toolkit::nvcc()?;
    let tools = crate::simcuda::target_folder().join("nvdisasm");
    toolkit::install(&tools, &[DISASSEMBLER], DISASSEMBLER_BRINGS)?;
    let folder = std::env::temp_dir().join(format!("moray-roofline-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let compiler = Compiler { nvcc, disassembler: tools.join(DISASSEMBLER_BRINGS), folder };
    let codes = compiler.all(kernels);
    fs::remove_dir_all(&compiler.folder)?;
    let lines: Vec<String> = codes?.iter().map(|(key, code)| to_json(key, code).to_string()).collect();
    fs::write(root().join(FILE), format!("[\n{}\n]\n", lines.join(",\n")))
}

/// Reads what [`write()`] has written.
///
/// # Errors
/// Returns an error that names the file if it cannot be read or lacks a number.
pub fn read() -> Result<Codes, String> {
    let text = fs::read_to_string(root().join(FILE)).map_err(|e| format!("{FILE}: {e}"))?;
    let list: Vec<Value> = serde_json::from_str(&text).map_err(|e| format!("{FILE}: {e}"))?;
    let entry = |value: &Value| {
        from_json(value).ok_or_else(|| format!("{FILE}: expected the numbers of a kernel, got {value}"))
    };
    list.iter().map(entry).collect()
}

fn to_json((machine, kernel): &(String, String), code: &Code) -> Value {
    let mut value = json!({ "code": machine, "kernel": kernel, "registers": code.registers });
    if let Some(of) = code.main_loop {
        let anchor = Anchor::ALL.iter().find(|(anchor, _)| *anchor == of.anchor).map(|(_, name)| *name);
        value["main_loop"] = json!({
            "slots": of.slots, "anchor": anchor, "anchors": of.anchors, "cycles": round(of.cycles),
            "memory_trips": round(of.memory_trips), "cache_trips": round(of.cache_trips),
        });
    }
    value
}

fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

fn from_json(value: &Value) -> Option<((String, String), Code)> {
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let main_loop = match &value["main_loop"] {
        Value::Null => None,
        of => {
            let number = |name: &str| of[name].as_f64();
            let (anchor, _) = *Anchor::ALL.iter().find(|(_, name)| of["anchor"].as_str() == Some(name))?;
            Some(MainLoop {
                slots: number("slots")?,
                anchor,
                anchors: number("anchors")?,
                cycles: number("cycles")?,
                memory_trips: number("memory_trips")?,
                cache_trips: number("cache_trips")?,
            })
        }
    };
    Some(((text("code")?, text("kernel")?), Code { registers: value["registers"].as_u64()? as u32, main_loop }))
}

struct Compiler {
    nvcc: PathBuf,
    disassembler: PathBuf,
    folder: PathBuf,
}

impl Compiler {
    fn all(&self, kernels: &BTreeSet<String>) -> io::Result<Codes> {
        let (mut codes, mut left) = (Codes::new(), kernels.clone());
        for (source, symbols) in sources()? {
            let wanted: Vec<&String> = kernels.iter().filter(|kernel| symbols.contains(kernel)).collect();
            if wanted.is_empty() {
                continue;
            }
            let ptx = self.folder.join("kernel.ptx");
            let include = format!("-I{}", root().join("kernels").display());
            // with the flags of build.rs
            let flags = ["--std=c++17", "-O3", "--fmad=false", "-ptx", "-arch=compute_80", &include, "-o"];
            run(Command::new(&self.nvcc).args(flags).arg(&ptx).arg(&source))?;
            for machine in MACHINES.iter().map(|machine| machine.code).collect::<BTreeSet<_>>() {
                for kernel in &wanted {
                    codes.insert((machine.into(), (*kernel).clone()), self.one(&ptx, machine, kernel)?);
                    left.remove(*kernel);
                }
            }
        }
        match left.first() {
            None => Ok(codes),
            Some(kernel) => Err(io::Error::other(format!("expected a source of {kernel} in a mirror.rs, got none"))),
        }
    }

    fn one(&self, ptx: &Path, machine: &str, kernel: &str) -> io::Result<Code> {
        let cubin = self.folder.join("kernel.cubin");
        let (architecture, only) = (format!("-arch={machine}"), format!("-Xptxas=-v,--entry={kernel}"));
        let log = run(Command::new(&self.nvcc).args(["-cubin", &architecture, &only, "-o"]).arg(&cubin).arg(ptx))?;
        let used = crate::resources::report(&log).get(kernel).copied().unwrap_or_default();
        let text = run(Command::new(&self.disassembler).arg("-c").arg(&cubin))?;
        Ok(Code { registers: used.registers, main_loop: main_loop(&text, kernel) })
    }
}

/// Runs a command and returns all that it says.
fn run(command: &mut Command) -> io::Result<String> {
    let run = command.output()?;
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    if run.status.success() { Ok(said) } else { Err(io::Error::other(format!("{command:?}: {}\n{said}", run.status))) }
}

/// The sources of kernels with their symbols, as the mirrors of the operations list them.
fn sources() -> io::Result<Vec<(PathBuf, Vec<String>)>> {
    let mut sources = Vec::new();
    for operation in fs::read_dir(root().join("src"))? {
        let Ok(mirror) = fs::read_to_string(operation?.path().join("cuda/mirror.rs")) else { continue };
        for module in mirror.split("Module::new(").skip(1) {
            let list = module.split("];").next().unwrap_or_default().split(");").next().unwrap_or_default();
            let mut quoted = list.split('"').skip(1).step_by(2).map(str::to_owned);
            let Some(name) = quoted.next() else { continue };
            sources.push((root().join("kernels").join(name).with_extension("cu"), quoted.collect()));
        }
    }
    sources.sort();
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_kernel_survive_their_file() {
        let main_loop = MainLoop {
            slots: 240.0,
            anchor: Anchor::Tensor,
            anchors: 32.0,
            cycles: 380.5,
            memory_trips: 0.333,
            cache_trips: 0.0,
        };
        for main_loop in [None, Some(main_loop)] {
            let (key, code) = (("sm_80".to_owned(), "k".to_owned()), Code { registers: 64, main_loop });
            assert_eq!(from_json(&to_json(&key, &code)), Some((key, code)));
        }
        assert_eq!(from_json(&json!({ "code": "sm_80" })), None);
    }

    #[test]
    fn every_counted_kernel_has_a_source() {
        let sources = sources().expect("mirrors");
        let symbols: BTreeSet<&String> = sources.iter().flat_map(|(_, symbols)| symbols).collect();
        assert!(sources.iter().all(|(source, _)| source.is_file()), "{sources:?}");
        assert!(symbols.iter().any(|symbol| *symbol == "attention_merge"), "{symbols:?}");
    }
}
