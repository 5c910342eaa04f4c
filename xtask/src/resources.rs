//! `cargo xtask resources`: writes docs/kernels.md, what every kernel takes of a multiprocessor.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use crate::{TaskResult, root, toolkit};

/// What the table is made for: the name, and what a multiprocessor has (threads, registers, bytes of shared memory).
const ARCHITECTURES: [(&str, Limits); 3] = [
    ("sm_80", Limits { threads: 2048, registers: 65_536, shared_bytes: 164 * 1024 }),
    ("sm_90a", Limits { threads: 2048, registers: 65_536, shared_bytes: 228 * 1024 }),
    ("sm_120", Limits { threads: 1536, registers: 65_536, shared_bytes: 100 * 1024 }),
];

/// What a multiprocessor has.
#[derive(Clone, Copy)]
struct Limits {
    threads: u32,
    registers: u32,
    shared_bytes: u32,
}

/// What ptxas says of a kernel.
#[derive(Default, Clone, Copy)]
pub struct Use {
    pub registers: u32,
    shared_bytes: u32,
    spill_bytes: u32,
    /// Threads of a block.
    threads: u32,
}

/// Shared memory that the driver keeps for itself in every block.
const RESERVED_SHARED_BYTES: u32 = 1024;

impl Use {
    /// An empty body that stands for a kernel on an architecture without it: what runs has bounds for its launch.
    fn is_stub(&self) -> bool {
        self.threads == 0
    }

    /// Percent of a multiprocessor's threads that can be resident.
    fn occupancy(&self, limits: Limits) -> u32 {
        let threads = self.threads.max(32);
        // registers are handed out to warps by 256
        let by_registers = limits.registers / ((self.registers * 32).next_multiple_of(256) * threads / 32).max(1);
        let by_shared = limits.shared_bytes / (self.shared_bytes + RESERVED_SHARED_BYTES);
        let blocks = (limits.threads / threads).min(by_registers).min(by_shared);
        100 * blocks * threads / limits.threads
    }
}

/// Runs the task; `--check` compares instead of writing.
pub fn run(arguments: &[String]) -> TaskResult {
    let check = match arguments {
        [] => false,
        [argument] if argument == "--check" => true,
        _ => return Err(format!("resources: expected nothing or --check, got {arguments:?}").into()),
    };
    let nvcc = toolkit::nvcc()?;
    let text = render(&nvcc)?;
    let path = root().join("docs/kernels.md");
    if !check {
        fs::write(&path, text)?;
        println!("wrote {}", path.display());
        return Ok(());
    }
    match fs::read_to_string(&path)? == text {
        true => Ok(()),
        false => Err("docs/kernels.md: expected what the kernels take now; run `cargo xtask resources`".into()),
    }
}

fn render(nvcc: &Path) -> io::Result<String> {
    let kernels = root().join("kernels");
    let mut text = String::from(
        "# What the kernels take\n\n\
         Written by `cargo xtask resources` from ptxas's report; registers and static shared memory for each architecture, and the\n\
         percentage of a multiprocessor's threads that these leave room for. Shared memory that a launch asks for (the stages of\n\
         `w4a8_gemm_*` and `*_tiles_*` and the tiles of attention) comes on top. The build refuses a\n\
         kernel that spills, unless `build.rs` lists it with its reason; one of the table would be marked. Dashes: the architecture\n\
         does not have the kernel.\n",
    );
    for source in sources(&kernels)? {
        let name = source.strip_prefix(&kernels).unwrap_or(&source).with_extension("");
        let _ = write!(text, "\n## {}\n\n| kernel | threads |", name.display());
        for (architecture, _) in ARCHITECTURES {
            let _ = write!(text, " {architecture} registers | shared bytes | occupancy |");
        }
        text.push_str("\n|---|---|");
        text.push_str(&"---|---|---|".repeat(ARCHITECTURES.len()));
        let mut rows: BTreeMap<String, Vec<Use>> = BTreeMap::new();
        for (architecture, _) in ARCHITECTURES {
            for (kernel, used) in compile(nvcc, &kernels, &source, architecture)? {
                rows.entry(kernel).or_default().push(used);
            }
        }
        for (kernel, uses) in rows {
            let _ = write!(text, "\n| `{kernel}` | {} |", uses.iter().map(|used| used.threads).max().unwrap_or(0));
            for (used, (_, limits)) in uses.iter().zip(ARCHITECTURES) {
                if used.is_stub() {
                    text.push_str(" – | – | – |");
                    continue;
                }
                let spills = if used.spill_bytes > 0 { " (spills)" } else { "" };
                let occupancy = used.occupancy(limits);
                let _ = write!(text, " {}{spills} | {} | {occupancy}% |", used.registers, used.shared_bytes);
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn sources(kernels: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for folder in fs::read_dir(kernels)? {
        let folder = folder?.path();
        if folder.is_dir() {
            for file in fs::read_dir(folder)? {
                let file = file?.path();
                if file.extension().is_some_and(|extension| extension == "cu") {
                    sources.push(file);
                }
            }
        }
    }
    sources.sort();
    Ok(sources)
}

/// Compiles one source for one architecture, with the flags of `build.rs`, and reads what ptxas and the PTX say.
fn compile(nvcc: &Path, kernels: &Path, source: &Path, architecture: &str) -> io::Result<BTreeMap<String, Use>> {
    let folder = std::env::temp_dir().join(format!("moray-resources-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let run = Command::new(nvcc)
        .args(["--std=c++17", "-O3", "--fmad=false", "-lineinfo", "-Xptxas=-v", "-c", "--keep", "--keep-dir"])
        .arg(&folder)
        .arg(format!("-gencode=arch={},code={architecture}", architecture.replace("sm_", "compute_")))
        .arg(format!("-I{}", kernels.display()))
        .arg("-o")
        .arg(folder.join("kernel.o"))
        .arg(source)
        .output()?;
    let log = String::from_utf8_lossy(&run.stderr).into_owned();
    let mut ptx = String::new();
    for file in fs::read_dir(&folder)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "ptx") {
            ptx.push_str(&fs::read_to_string(path)?);
        }
    }
    fs::remove_dir_all(&folder)?;
    if !run.status.success() {
        return Err(io::Error::other(format!("nvcc failed on {}:\n{log}", source.display())));
    }
    let mut uses = report(&log);
    for (kernel, threads) in block_sizes(&ptx) {
        uses.entry(kernel).or_default().threads = threads;
    }
    Ok(uses)
}

/// Reads `ptxas -v`.
pub fn report(log: &str) -> BTreeMap<String, Use> {
    let number = |line: &str, before: &str| -> u32 {
        let head = line.split(before).next().filter(|head| head.len() < line.len());
        head.and_then(|head| head.split_whitespace().last()).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let (mut kernel, mut uses) = (String::new(), BTreeMap::<String, Use>::new());
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            kernel = name.trim().to_owned();
        } else if line.contains("bytes spill stores") {
            uses.entry(kernel.clone()).or_default().spill_bytes = number(line, " bytes spill stores");
        } else if line.contains("Used ") {
            let used = uses.entry(kernel.clone()).or_default();
            used.registers = number(line, " registers");
            used.shared_bytes = number(line, " bytes smem");
        }
    }
    uses
}

/// Reads the largest block of each kernel from PTX: `.entry name` and then `.maxntid`.
fn block_sizes(ptx: &str) -> BTreeMap<String, u32> {
    let (mut kernel, mut sizes) = (String::new(), BTreeMap::new());
    for line in ptx.lines() {
        if let Some((_, rest)) = line.split_once(".entry ") {
            kernel = rest.trim_end_matches('(').trim().to_owned();
        } else if let Some(rest) = line.trim().strip_prefix(".maxntid ") {
            let threads = rest.split(',').filter_map(|part| part.trim().parse::<u32>().ok()).product();
            sizes.insert(kernel.clone(), threads);
        }
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_and_block_sizes_are_read_from_what_the_compiler_prints() {
        let log = "ptxas info    : Function properties for gemv\n    0 bytes stack frame, 4 bytes spill stores, 4 bytes spill \
                   loads\nptxas info    : Used 64 registers, used 1 barriers, 2048 bytes smem, 480 bytes cmem[0]\n";
        let used = report(log)["gemv"];
        assert_eq!((used.registers, used.shared_bytes, used.spill_bytes), (64, 2048, 4));
        let ptx = ".visible .entry gemv(\n\t.param .b32 a\n)\n.maxntid 256, 1, 1\n.minnctapersm 2\n{";
        assert_eq!(block_sizes(ptx)["gemv"], 256);
        // an empty body has no bounds
        let stub = ".visible .entry stub(\n\t.param .b32 a\n)\n{\n\tret;\n}";
        assert!(!block_sizes(stub).contains_key("stub") && used.is_stub());
    }

    #[test]
    fn occupancy_is_that_of_the_scarcest_resource() {
        let limits = ARCHITECTURES[0].1;
        let used = |registers, shared_bytes| Use { registers, shared_bytes, spill_bytes: 0, threads: 256 };
        assert_eq!(used(32, 0).occupancy(limits), 100);
        assert_eq!(used(64, 0).occupancy(limits), 50);
        // three blocks of 80 registers would fit by 61 440 of 65 536
        assert_eq!(used(80, 0).occupancy(limits), 37);
        // 32 KiB and 1 KiB reserved: four blocks of 164 KiB
        assert_eq!(used(32, 32 * 1024).occupancy(limits), 50);
    }
}
