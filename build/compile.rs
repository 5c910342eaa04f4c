//! Compiling every kernel source that has changed, and refusing what must not be in a kernel.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Module;
use super::nvcc::Nvcc;

const FLAGS: [&str; 8] = [
    "--fatbin",
    "--std=c++17",
    "-O3",
    // products and sums are rounded as they are written, so results have the CPU's bits; fused ones are asked for
    "--fmad=false",
    "-lineinfo",
    // PTX as text: read by the simulated driver and by people
    "--no-compress",
    // the report that `forbidden` reads: ptxas's own warnings of spills would be errors before a kernel's reason is looked up
    "-Xptxas=-v",
    "-Werror=all-warnings",
];

/// Compiles `kernels/*/*.cu` for `targets` and returns name and image of each, sorted by name.
pub fn modules(
    kernels: &Path,
    out: &Path,
    nvcc: &Nvcc,
    targets: &[(String, String)],
    allowed: &[(&str, &str, &str)],
) -> Result<Vec<Module>, String> {
    let (sources, headers) = list(kernels).map_err(|e| format!("cannot read {}: {e}", kernels.display()))?;
    let flags: Vec<String> = FLAGS
        .iter()
        .map(|flag| flag.to_string())
        .chain(targets.iter().map(|(compute, code)| format!("-gencode=arch={compute},code={code}")))
        .chain([format!("-I{}", kernels.display())])
        .collect();
    // Every header counts for every source: a change of one is rare, and a missed dependency is worse than a compilation.
    let mut common = DefaultHasher::new();
    (&nvcc.version, &flags).hash(&mut common);
    for header in &headers {
        hash_file(header, &mut common)?;
    }
    let folder = out.join("kernels");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let mut modules = Vec::new();
    for source in &sources {
        let mut hasher = common.clone();
        hash_file(source, &mut hasher)?;
        let name = name_of(kernels, source);
        let image = folder.join(format!("{}-{:016x}.fatbin", name.replace('/', "-"), hasher.finish()));
        modules.push((name, image));
    }
    let stale: Vec<_> = sources.iter().zip(&modules).filter(|(_, (_, image))| !image.is_file()).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs().min(stale.len()) {
            scope.spawn(|| {
                while let Some((source, (name, image))) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(message) = compile(nvcc, &flags, source, name, image, allowed) {
                        failures.lock().expect("no job panics").push(message);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no job panics");
    if failures.is_empty() { Ok(modules) } else { Err(failures.join("\n")) }
}

/// The jobs that cargo grants, or as many as there are cores.
fn jobs() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(cores).clamp(1, cores)
}

/// Sources in the operations' folders, and the headers of all folders.
fn list(kernels: &Path) -> std::io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut sources, mut headers) = (Vec::new(), Vec::new());
    for folder in fs::read_dir(kernels)? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder)? {
            let path = file?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("cu") => sources.push(path),
                Some("cuh") => headers.push(path),
                _ => {}
            }
        }
    }
    sources.sort();
    headers.sort();
    Ok((sources, headers))
}

fn hash_file(path: &Path, hasher: &mut impl Hasher) -> Result<(), String> {
    let bytes = fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    (path, bytes).hash(hasher);
    Ok(())
}

/// `w4a8/gemm` for `kernels/w4a8/gemm.cu`.
fn name_of(kernels: &Path, source: &Path) -> String {
    let relative = source.strip_prefix(kernels).unwrap_or(source).with_extension("");
    relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn compile(
    nvcc: &Nvcc,
    flags: &[String],
    source: &Path,
    name: &str,
    image: &Path,
    allowed: &[(&str, &str, &str)],
) -> Result<(), String> {
    let fresh = image.with_extension("fresh");
    let run = Command::new(&nvcc.path).args(flags).arg("-o").arg(&fresh).arg(source).output();
    let run = run.map_err(|e| format!("expected {} to start, got: {e}", nvcc.path.display()))?;
    let log = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if !run.status.success() {
        let said: Vec<&str> =
            log.lines().filter(|line| !line.starts_with("ptxas info") && !line.starts_with("    ")).collect();
        return Err(format!("nvcc failed on {} ({}):\n{}", source.display(), run.status, said.join("\n")));
    }
    let forbidden = forbidden(&log, name, allowed);
    if !forbidden.is_empty() {
        return Err(format!(
            "{}: expected no spills, no local memory and no serialised matrix instructions, got:\n{}\nMend the kernel, or list \
             its local memory with the reason in build.rs.",
            source.display(),
            forbidden.join("\n")
        ));
    }
    fs::rename(&fresh, image).map_err(|e| format!("cannot move {}: {e}", fresh.display()))
}

/// The lines of ptxas's report that a kernel must not cause: frames on the stack, spills, and wgmma that waits for each.
fn forbidden(log: &str, module: &str, allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let mut kernel = "";
    let mut lines = Vec::new();
    for line in log.lines() {
        if let Some((_, name)) = line.split_once("Function properties for ") {
            kernel = name.trim();
        }
        let serialised = ["C7510", "C7511", "C7514", "C7515"].iter().any(|code| line.contains(code));
        let uses = line.contains("bytes stack frame")
            && line.split(',').any(|part| part.split_whitespace().next().is_some_and(|count| count != "0"));
        let listed = allowed.iter().any(|(m, k, _)| *m == module && *k == kernel);
        if serialised || (uses && !listed) {
            lines.push(format!("{kernel}: {}", line.trim()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::forbidden;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemv' for 'sm_80'
ptxas info    : Function properties for gemv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 2048 bytes smem, 480 bytes cmem[0]
ptxas info    : Function properties for gemm
    16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 480 bytes cmem[0]";

    #[test]
    fn local_memory_is_refused_unless_it_is_listed_with_its_module_and_kernel() {
        let refused = ["gemm: 16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads"];
        assert_eq!(forbidden(LOG, "w4a8/gemm", &[]), refused);
        assert_eq!(forbidden(LOG, "w4a8/gemm", &[("w4a8/gemv", "gemm", ""), ("w4a8/gemm", "gemv", "")]), refused);
        assert!(forbidden(LOG, "w4a8/gemm", &[("w4a8/gemm", "gemm", "a reason")]).is_empty());
    }

    #[test]
    fn serialised_matrix_instructions_are_refused_even_where_local_memory_is_listed() {
        let line =
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to …";
        let log = format!("ptxas info    : Function properties for gemm\n{line}");
        assert_eq!(forbidden(&log, "w4a8/gemm", &[("w4a8/gemm", "gemm", "a reason")]), [format!("gemm: {line}")]);
    }
}
