//! Compiles `kernels/*/*.cu` for the feature `cuda` and writes the table that embeds them.
//!
//! Needs no GPU. nvcc is looked for in: `MORAY_NVCC`, `NVCC`, `CUDA_HOME` or `CUDA_PATH`, the search path, an active virtual
//! environment's packages, the toolkit that `cargo xtask toolkit` installed, /usr/local/cuda. Without it the build warns once
//! and opening a device returns a typed error. (cudarc's own build script asks the nvcc on the search path for its release and
//! panics at one that it does not know; `CUDARC_CUDA_VERSION=13000` in the environment answers for it.)
//!
//! `MORAY_CUDA_ARCHS` chooses what is compiled, as nvcc names it: `sm_90a` is machine code, `compute_90a` is PTX, and `8.0` is
//! short for `sm_80`; a list is separated by commas. `CUDA_COMPUTE_CAP` (`90`) is a short way to one of them.
//!
//! What the compiler remarks (warnings, spills, serialised matrix instructions) is a warning of the build: another compiler than
//! the kernels were tuned with may spill a register, and the kernel is right all the same. `MORAY_CUDA_STRICT=1` makes remarks
//! errors, as the maintainers' tests do. Images are compressed; `MORAY_CUDA_PLAIN=1` leaves them as text with lines of the source.
//!
//! `MORAY_CUDA_CACHE` names a folder in which compiled images are kept for builds with other features, target folders or copies of
//! the crate; without it there is none.

#[path = "build/cache.rs"]
mod cache;
#[path = "build/compile.rs"]
mod compile;
#[path = "build/nvcc.rs"]
mod nvcc;

use compile::{Module, Sources};
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Folders of kernels that are built for a feature, with the variable that cargo sets for it; others are always built.
const FEATURES: &[(&str, &str)] = &[
    ("attention", "CARGO_FEATURE_CUDA_ATTENTION"),
    ("input_sparse", "CARGO_FEATURE_CUDA_INPUT_SPARSE"),
    ("llama", "CARGO_FEATURE_CUDA"),
    ("sparse_mlp", "CARGO_FEATURE_CUDA_SPARSE_MLP"),
    ("w4a8", "CARGO_FEATURE_CUDA_W4A8"),
];

/// Kernels that may use local memory or spill registers without a remark, each with the reason: module, kernel, reason. `*` and the end of a
/// name stand for all kernels of such names, which may have arrays in local memory and spill nothing.
const ALLOWED_LOCAL_MEMORY: &[(&str, &str, &str)] = &[
    ("attention/decode", "attention_decode_f32_256", ACCUMULATORS),
    ("attention/prefill", "attention_prefill_f32_256", ACCUMULATORS),
    ("w4a8/gemm_fine", "*_64", TOTALS),
    ("w4a8/gemm_fine", "*_128", TOTALS),
    ("w4a8/gemm_g32", "*_64", TOTALS),
    ("w4a8/gemm_g32", "*_128", TOTALS),
    ("w4a8/gemm_g64", "*_64", TOTALS),
    ("w4a8/gemm_g64", "*_128", TOTALS),
    ("w4a8/gemm_g128", "*_64", TOTALS),
    ("w4a8/gemm_g128", "*_128", TOTALS),
];

const TOTALS: &str =
    "sums of the runs of K before the one at hand: asked for once in a thousand columns, they have no register";

const ACCUMULATORS: &str = "on 10.0a alone, 20 and 12 bytes: of 255 registers a row tile's accumulators take 132";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    if env::var_os("CARGO_FEATURE_CUDA_DEVICE").is_none() {
        return;
    }
    println!("cargo:rerun-if-changed=kernels");
    for name in [
        "MORAY_NVCC",
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "VIRTUAL_ENV",
        "MORAY_CUDA_ARCHS",
        "CUDA_COMPUTE_CAP",
        "MORAY_CUDA_STRICT",
        "MORAY_CUDA_PLAIN",
        "DOCS_RS",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let kernels = Sources::list(&root.join("kernels"), is_wanted).expect("the crate's kernels are readable");
    let ((modules, architectures), hint) = match build(&out, &root, &kernels) {
        Ok(built) => (built, String::new()),
        Err(Problem::Skipped(hint)) => ((kernels.without_images(), Vec::new()), hint),
        Err(Problem::NoCompiler(hint)) => {
            println!("cargo:warning=moray: the CUDA kernels are not built: {hint}");
            ((kernels.without_images(), Vec::new()), hint)
        }
        Err(Problem::Failed(message)) => {
            eprintln!("{message}");
            std::process::exit(1);
        }
    };
    fs::write(out.join("kernels.rs"), render(&modules, &architectures, &hint)).expect("OUT_DIR is writable");
}

/// Says whether a feature asks for a folder of kernels.
fn is_wanted(folder: &str) -> bool {
    FEATURES.iter().find(|(name, _)| *name == folder).is_none_or(|(_, feature)| env::var_os(feature).is_some())
}

/// Why there are no kernels.
enum Problem {
    /// Nobody will run them.
    Skipped(String),
    /// There is nothing to compile them with.
    NoCompiler(String),
    /// They do not compile, or not as they must.
    Failed(String),
}

/// Compiles the sources, and says for which architectures, as nvcc names them.
fn build(out: &Path, root: &Path, sources: &Sources) -> Result<(Vec<Module>, Vec<String>), Problem> {
    if env::var_os("DOCS_RS").is_some() {
        return Err(Problem::Skipped("documentation is built without kernels".into()));
    }
    let target = env::var("TARGET").unwrap_or_default();
    if target != env::var("HOST").unwrap_or_default() || !(target.contains("linux") || target.contains("windows")) {
        return Err(Problem::Skipped(format!("expected a native Linux or Windows build, got target {target}")));
    }
    let nvcc = nvcc::find(out, root).ok_or_else(|| {
        Problem::NoCompiler(
            "expected nvcc (CUDA 12.4 or later), got none; run `cargo xtask toolkit`, or set MORAY_NVCC, NVCC or CUDA_HOME, \
             and build again"
                .into(),
        )
    })?;
    let nvcc = nvcc::Nvcc::open(nvcc).map_err(Problem::NoCompiler)?;
    let targets = nvcc::targets(&nvcc).map_err(Problem::Failed)?;
    let (plain, cache) = (is_on("MORAY_CUDA_PLAIN"), cache::Cache::named());
    let compiled = compile::modules(sources, out, &nvcc, &targets, plain, ALLOWED_LOCAL_MEMORY, cache.as_ref())
        .map_err(Problem::Failed)?;
    report(&compiled.remarks, is_on("MORAY_CUDA_STRICT")).map_err(Problem::Failed)?;
    Ok((compiled.modules, targets.into_iter().map(|(_, code)| code).collect()))
}

/// Says whether a variable of the environment is set to something other than nothing or 0.
fn is_on(variable: &str) -> bool {
    env::var(variable).is_ok_and(|value| !matches!(value.trim(), "" | "0"))
}

/// Warns of remarks, or fails where they must not be.
fn report(remarks: &[String], strict: bool) -> Result<(), String> {
    if strict && !remarks.is_empty() {
        return Err(format!(
            "expected no warnings, no spills, no local memory and no serialised matrix instructions, got:\n{}\nMend the kernel, \
             or list its local memory with the reason in build.rs.",
            remarks.join("\n")
        ));
    }
    for remark in remarks {
        println!("cargo:warning=moray: {remark}");
    }
    Ok(())
}

fn render(modules: &[Module], architectures: &[String], hint: &str) -> String {
    let row = |Module { name, image, kernels }: &Module| {
        let bytes = image.as_ref().map_or_else(|| "&[]".into(), |image| format!("include_bytes!({image:?})"));
        let name = name.replace('/', "_").to_uppercase();
        format!("pub(crate) const {name}: Image = Image {{ bytes: {bytes}, reported: &{kernels:?} }};\n")
    };
    format!(
        "{}\n/// Why nothing was built, if so.\npub(crate) static HINT: &str = {hint:?};\n\n\
         /// What was built for, as `sm_90a` (machine code) and `compute_80` (PTX).\n\
         pub(crate) static ARCHITECTURES: &[&str] = &{architectures:?};\n",
        modules.iter().map(row).collect::<String>()
    )
}
