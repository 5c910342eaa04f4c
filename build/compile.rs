//! Compiling every kernel source that has changed, and what the compiler remarks on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::cache::{Cache, Key};
use super::nvcc::Nvcc;

const FLAGS: [&str; 5] = [
    "--fatbin",
    "--std=c++17",
    "-O3",
    // products and sums are rounded as they are written, so results have the CPU's bits; fused ones are asked for
    "--fmad=false",
    // the report that `remarks` reads
    "-Xptxas=-v",
];

/// PTX as text and lines of the source in it: read by the simulated driver's messages, by profilers and by people.
const PLAIN: [&str; 2] = ["--no-compress", "-lineinfo"];

/// A tenth of the size. Compilers before CUDA 12.8 do not have it and compress by themselves, less well.
const SMALL: &str = "--compress-mode=size";

/// A source and what it was compiled to.
pub struct Module {
    /// As `w4a8/gemm`.
    pub name: String,
    pub image: Option<PathBuf>,
    /// Its kernels as the compiler reported them, sorted; none if it reported nothing.
    pub kernels: Vec<String>,
}

/// What all sources were compiled to.
pub struct Compiled {
    /// Sorted by name.
    pub modules: Vec<Module>,
    /// What the compiler said of them that should not be.
    pub remarks: Vec<String>,
}

/// The sources to compile, and the headers of all folders.
pub struct Sources {
    folder: PathBuf,
    sources: Vec<PathBuf>,
    headers: Vec<PathBuf>,
}

impl Sources {
    /// Lists `kernels/*/*.cu` in the folders that are wanted.
    pub fn list(kernels: &Path, is_wanted: impl Fn(&str) -> bool) -> std::io::Result<Self> {
        let (mut sources, mut headers) = (Vec::new(), Vec::new());
        for folder in fs::read_dir(kernels)? {
            let folder = folder?.path();
            let wanted = folder.file_name().and_then(|name| name.to_str()).is_some_and(&is_wanted);
            if !folder.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder)? {
                let path = file?.path();
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("cu") if wanted => sources.push(path),
                    Some("cuh") => headers.push(path),
                    _ => {}
                }
            }
        }
        sources.sort();
        headers.sort();
        Ok(Self { folder: kernels.into(), sources, headers })
    }

    /// The sources where nothing is built.
    pub fn without_images(&self) -> Vec<Module> {
        let module = |source: &PathBuf| Module { name: self.name_of(source), image: None, kernels: Vec::new() };
        self.sources.iter().map(module).collect()
    }

    /// `w4a8/gemm` for `kernels/w4a8/gemm.cu`.
    fn name_of(&self, source: &Path) -> String {
        let relative = source.strip_prefix(&self.folder).unwrap_or(source).with_extension("");
        relative.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    }
}

/// Compiles the sources that have changed, for `targets`; `plain` leaves images as text with lines of the source.
pub fn modules(
    list: &Sources,
    out: &Path,
    nvcc: &Nvcc,
    targets: &[(String, String)],
    plain: bool,
    allowed: &[(&str, &str, &str)],
    cache: Option<&Cache>,
) -> Result<Compiled, String> {
    let Sources { folder: kernels, sources, headers } = list;
    let small = nvcc.compresses.then_some(SMALL);
    let flags: Vec<String> = FLAGS
        .iter()
        .chain(if plain { PLAIN.as_slice() } else { small.as_slice() })
        .map(|flag| flag.to_string())
        .chain(targets.iter().map(|(compute, code)| format!("-gencode=arch={compute},code={code}")))
        .collect();
    // Every header counts for every source: a change of one is rare, and a missed dependency is worse than a compilation.
    let mut common = Key::new(&nvcc.version, &flags);
    if plain {
        // lines of the source are lines of a file
        common.add("folder", kernels.as_os_str().as_encoded_bytes());
    }
    for header in headers {
        common.add(&list.name_of(header), &read(header)?);
    }
    let folder = out.join("kernels");
    fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let (mut keys, mut images) = (Vec::new(), Vec::new());
    for source in sources {
        let name = list.name_of(source);
        let key = common.of(&name, &read(source)?);
        images.push(folder.join(format!("{}-{}.fatbin", name.replace('/', "-"), key.name())));
        keys.push(key);
    }
    // the same wherever the crate is unpacked
    let flags = [flags, vec![format!("-I{}", kernels.display())]].concat();
    compile_stale(nvcc, &flags, sources, &keys, &images, cache)?;
    let mut compiled = Compiled { modules: Vec::new(), remarks: Vec::new() };
    for (source, image) in sources.iter().zip(images) {
        let name = list.name_of(source);
        let report = String::from_utf8_lossy(&read(&report_of(&image))?).into_owned();
        let remarks = remarks_of(&report, &name, allowed);
        compiled.remarks.extend(remarks.iter().map(|line| format!("{name}: {line}")));
        let kernels = kernels_of(&report, if plain { read(&image)? } else { Vec::new() });
        compiled.modules.push(Module { name, image: Some(image), kernels });
    }
    Ok(compiled)
}

/// Compiles the sources that have no image yet, neither here nor in the cache.
fn compile_stale(
    nvcc: &Nvcc,
    flags: &[String],
    sources: &[PathBuf],
    keys: &[Key],
    images: &[PathBuf],
    cache: Option<&Cache>,
) -> Result<(), String> {
    let all = sources.iter().zip(keys).zip(images);
    let stale: Vec<_> = all.filter(|(_, image)| !image.is_file()).collect();
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs().min(stale.len()) {
            scope.spawn(|| {
                while let Some(((source, key), image)) = stale.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(message) = obtain(cache, key, image, || compile(nvcc, flags, source, image)) {
                        failures.lock().expect("no job panics").push(message);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no job panics");
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// The jobs that cargo grants, or as many as there are cores.
fn jobs() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(cores).clamp(1, cores)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// Where the compiler's report on an image is.
fn report_of(image: &Path) -> PathBuf {
    image.with_extension("log")
}

/// Takes an image and its report from the cache, or compiles it and keeps it there.
fn obtain(
    cache: Option<&Cache>,
    key: &Key,
    image: &Path,
    compile: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    let Some(cache) = cache else { return compile() };
    if let Some((report, bytes)) = cache.get(key) {
        let fresh = fresh_of(image);
        fs::write(&fresh, bytes).map_err(|e| format!("cannot write {}: {e}", fresh.display()))?;
        return place(&fresh, image, &report);
    }
    compile()?;
    // what cannot be kept was compiled all the same
    if let Err(error) = cache.keep(key, &read(&report_of(image))?, &read(image)?) {
        println!("cargo:warning=moray: MORAY_CUDA_CACHE: expected a folder to write images to, got: {error}");
    }
    Ok(())
}

/// Where an image is made.
fn fresh_of(image: &Path) -> PathBuf {
    image.with_extension("fresh")
}

/// Puts a report and an image in place. The image comes last: where it is, its report is.
fn place(fresh: &Path, image: &Path, report: &[u8]) -> Result<(), String> {
    let path = report_of(image);
    fs::write(&path, report).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    fs::rename(fresh, image).map_err(|e| format!("cannot move {}: {e}", fresh.display()))
}

/// Compiles one source and leaves the compiler's report beside the image.
fn compile(nvcc: &Nvcc, flags: &[String], source: &Path, image: &Path) -> Result<(), String> {
    let fresh = fresh_of(image);
    let run = Command::new(&nvcc.path).args(flags).arg("-o").arg(&fresh).arg(source).output();
    let run = run.map_err(|e| format!("expected {} to start, got: {e}", nvcc.path.display()))?;
    let log = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    if !run.status.success() {
        let said: Vec<&str> =
            log.lines().filter(|line| !line.starts_with("ptxas info") && !line.starts_with("    ")).collect();
        return Err(format!("nvcc failed on {} ({}):\n{}", source.display(), run.status, said.join("\n")));
    }
    place(&fresh, image, log.as_bytes())
}

/// What a compilation should not cause: warnings, and in ptxas's report frames on the stack, spills, and wgmma that waits for
/// each.
fn remarks_of(log: &str, module: &str, allowed: &[(&str, &str, &str)]) -> Vec<String> {
    let (mut kernel, mut architecture) = ("", "");
    let mut lines = Vec::new();
    for line in log.lines() {
        if let Some((_, entry)) = line.split_once("Compiling entry function ") {
            architecture = entry.rsplit('\'').nth(1).unwrap_or("");
        }
        if let Some((_, name)) = line.split_once("Function properties for ") {
            kernel = name.trim();
        }
        let warning = line.contains("warning");
        let serialised = ["C7510", "C7511", "C7514", "C7515"].iter().any(|code| line.contains(code));
        let uses = |part: &str| part.split_whitespace().next().is_some_and(|count| count != "0");
        let (frame, spills) = line.split_once(',').unwrap_or((line, ""));
        let spills = spills.split(',').any(uses);
        let uses = line.contains("bytes stack frame") && (uses(frame) || spills);
        let listed = allowed.iter().any(|(m, name, _)| {
            *m == module && name.strip_prefix('*').map_or(*name == kernel, |end| kernel.ends_with(end) && !spills)
        });
        if warning {
            lines.push(line.trim().to_owned());
        } else if serialised || (uses && !listed) {
            lines.push(format!("{kernel} ({architecture}): {}", line.trim()));
        }
    }
    lines
}

/// The kernels that ptxas reports, and those of PTX that an image holds as text.
fn kernels_of(log: &str, image: Vec<u8>) -> Vec<String> {
    let reported = log.lines().filter_map(|line| line.split_once("Compiling entry function '")?.1.split('\'').next());
    let image = String::from_utf8_lossy(&image);
    let written = image.split(".visible .entry ").skip(1).filter_map(|entry| entry.split('(').next());
    let mut kernels: Vec<String> = reported.chain(written).map(str::to_owned).collect();
    kernels.sort();
    kernels.dedup();
    kernels
}

#[cfg(test)]
mod tests {
    use super::{Cache, Key, kernels_of, obtain, place, remarks_of, report_of};
    use std::cell::Cell;
    use std::fs;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'gemv' for 'sm_80'
ptxas info    : Function properties for gemv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 2048 bytes smem, 480 bytes cmem[0]
ptxas info    : Compiling entry function 'gemm' for 'sm_90a'
ptxas info    : Function properties for gemm
    16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 480 bytes cmem[0]";

    #[test]
    fn image_comes_from_the_cache_with_its_report_and_is_compiled_where_it_is_not_there() {
        let folder = std::env::temp_dir().join(format!("moray-images-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let compiled = Cell::new(0);
        let ask = |cache: Option<&Cache>, key: &str, image: &str| {
            let image = folder.join(image);
            let made = obtain(cache, &Key::new(key, &[]), &image, || {
                compiled.set(compiled.get() + 1);
                let fresh = folder.join("fresh");
                fs::write(&fresh, format!("image of {key}")).unwrap();
                place(&fresh, &image, format!("report of {key}").as_bytes())
            });
            made.unwrap();
            [image.clone(), report_of(&image)].map(|path| fs::read_to_string(path).unwrap())
        };
        let cache = Cache::at(folder.join("cache"));
        let cache = Some(&cache);
        assert_eq!(ask(cache, "a", "1.fatbin"), ["image of a", "report of a"]);
        assert_eq!(ask(cache, "a", "2.fatbin"), ["image of a", "report of a"]);
        assert_eq!(compiled.get(), 1);
        assert_eq!(ask(cache, "b", "3.fatbin"), ["image of b", "report of b"]);
        assert_eq!(compiled.get(), 2);
        assert_eq!(ask(None, "a", "4.fatbin"), ["image of a", "report of a"]);
        assert_eq!(compiled.get(), 3, "there need not be a cache");
        // a file where a folder would be
        assert_eq!(ask(Some(&Cache::at(folder.join("1.fatbin"))), "c", "5.fatbin"), ["image of c", "report of c"]);
        let failed = obtain(cache, &Key::new("d", &[]), &folder.join("6.fatbin"), || Err("a reason".into()));
        assert_eq!(failed, Err("a reason".into()));
        assert_eq!(fs::read_dir(folder.join("cache")).unwrap().count(), 2, "what failed is not kept");
        fs::remove_dir_all(folder).unwrap();
    }

    /// A compiler that notes what it is asked for: the image is the source with its header.
    #[cfg(unix)]
    const COMPILER: &str = r#"#!/bin/sh
case "$1" in
    --version) echo "release VERSION";;
    --list-gpu-arch) echo compute_80;;
    --help) ;;
    *)
        for word; do
            case "$word" in -I*) folder="${word#-I}";; esac
            [ "$last" = -o ] && image="$word"
            last="$word"
        done
        echo "$last" >> HERE/asked
        cat "$last" "$folder/one/all.cuh" > "$image";;
esac
"#;

    #[cfg(unix)]
    #[test]
    fn sources_are_compiled_once_for_all_folders_until_they_or_a_header_or_the_compiler_change() {
        use super::super::nvcc::Nvcc;
        use super::{Sources, modules};
        use std::os::unix::fs::PermissionsExt;

        let here = std::env::temp_dir().join(format!("moray-compiled-{}", std::process::id()));
        let (compiler, cache) = (here.join("nvcc"), Cache::at(here.join("cache")));
        let write_tree = |copy: &str, header: &str, source: &str| {
            fs::create_dir_all(here.join(copy).join("one")).unwrap();
            let files = [("all.cuh", header), ("a.cu", "a"), ("b.cu", source)];
            files.iter().for_each(|(name, text)| fs::write(here.join(copy).join("one").join(name), text).unwrap());
        };
        let built = Cell::new(0);
        // what was compiled, and what the images are
        let build = |version: &str, copy: &str, plain: bool| {
            let text = COMPILER.replace("VERSION", version).replace("HERE", &here.display().to_string());
            fs::write(&compiler, text).unwrap();
            fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
            built.set(built.get() + 1);
            let out = here.join(format!("out-{}", built.get()));
            let sources = Sources::list(&here.join(copy), |_| true).unwrap();
            let targets = [("compute_80".to_owned(), "compute_80".to_owned())];
            let nvcc = Nvcc::open(compiler.clone()).unwrap();
            let compiled = modules(&sources, &out, &nvcc, &targets, plain, &[], Some(&cache)).unwrap();
            let asked = fs::read_to_string(here.join("asked")).unwrap_or_default();
            let _ = fs::remove_file(here.join("asked"));
            let mut asked: Vec<String> = asked.lines().map(|line| line[line.len() - 4..].to_owned()).collect();
            asked.sort();
            let images = compiled.modules.into_iter().map(|module| fs::read_to_string(module.image.unwrap()).unwrap());
            (asked, images.collect::<Vec<_>>())
        };
        let (none, all) = (Vec::<String>::new(), vec!["a.cu".to_owned(), "b.cu".to_owned()]);
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        write_tree("first", "1", "b");
        write_tree("second", "1", "b");
        assert_eq!(build("1", "first", false), (all.clone(), words(&["a1", "b1"])));
        assert_eq!(build("1", "first", false), (none.clone(), words(&["a1", "b1"])), "another target folder");
        assert_eq!(build("1", "second", false), (none.clone(), words(&["a1", "b1"])), "a copy elsewhere");
        assert_eq!(build("1", "first", true).0, all, "other arguments");
        assert_eq!(build("1", "second", true).0, all, "lines of other files");
        assert_eq!(build("2", "first", false).0, all, "another compiler");
        write_tree("second", "1", "c");
        assert_eq!(build("1", "second", false), (vec!["b.cu".to_owned()], words(&["a1", "c1"])), "another source");
        write_tree("second", "2", "b");
        assert_eq!(build("1", "second", false), (all, words(&["a2", "b2"])), "another header");
        write_tree("second", "1", "b");
        assert_eq!(build("1", "second", false), (none, words(&["a1", "b1"])), "as it was");
        fs::remove_dir_all(here).unwrap();
    }

    #[test]
    fn local_memory_is_remarked_unless_it_is_listed_with_its_module_and_kernel() {
        let remarks = ["gemm (sm_90a): 16 bytes stack frame, 12 bytes spill stores, 12 bytes spill loads"];
        assert_eq!(remarks_of(LOG, "w4a8/gemm", &[]), remarks);
        assert_eq!(remarks_of(LOG, "w4a8/gemm", &[("w4a8/gemv", "gemm", ""), ("w4a8/gemm", "gemv", "")]), remarks);
        assert!(remarks_of(LOG, "w4a8/gemm", &[("w4a8/gemm", "gemm", "a reason")]).is_empty());
        // a family may have arrays there, and spill nothing
        assert_eq!(remarks_of(LOG, "w4a8/gemm", &[("w4a8/gemm", "*mm", "a reason")]), remarks);
        let array = LOG.replace("12 bytes spill", "0 bytes spill");
        assert!(remarks_of(&array, "w4a8/gemm", &[("w4a8/gemm", "*mm", "a reason")]).is_empty());
        assert_eq!(remarks_of(&array, "w4a8/gemm", &[("w4a8/gemm", "*mv", "a reason")]).len(), 1);
    }

    #[test]
    fn kernels_are_those_of_the_report_and_of_text() {
        assert_eq!(kernels_of(LOG, Vec::new()), ["gemm", "gemv"]);
        let image = b"\x50\xed.version 8.4\n.visible .entry scan(\n.param .b64 p\n)\xff.visible .entry gemm()".to_vec();
        assert_eq!(kernels_of("", image.clone()), ["gemm", "scan"]);
        assert_eq!(kernels_of(LOG, image), ["gemm", "gemv", "scan"]);
    }

    #[test]
    fn serialised_matrix_instructions_are_remarked_even_where_local_memory_is_listed() {
        let line =
            "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to …";
        let log = format!("{LOG}\n{line}");
        assert_eq!(
            remarks_of(&log, "w4a8/gemm", &[("w4a8/gemm", "gemm", "a reason")]),
            [format!("gemm (sm_90a): {line}")]
        );
    }

    #[test]
    fn warnings_are_remarked() {
        let line = "kernels/w4a8/gemm.cu(7): warning #177-D: variable \"i\" was declared but never referenced";
        assert_eq!(remarks_of(&format!("{line}\n          int i;\n\n"), "w4a8/gemm", &[]), [line]);
    }
}
