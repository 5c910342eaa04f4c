//! Compiles `kernels/*/*.cu` for the feature `cuda` and writes the table that embeds them.
//!
//! Needs no GPU. nvcc is looked for in: `MORAY_NVCC`, `NVCC`, `CUDA_HOME` or `CUDA_PATH`, the search path, an active virtual
//! environment's packages, the toolkit that `cargo xtask toolkit` installed, /usr/local/cuda. Without it the build warns once
//! and opening a device returns a typed error.
//!
//! `MORAY_CUDA_ARCHS` chooses what is compiled, as nvcc names it: `sm_90a` is machine code, `compute_90a` is PTX, and `8.0` is
//! short for `sm_80`; a list is separated by commas. `CUDA_COMPUTE_CAP` (`90`) is a short way to one of them.

#[path = "build/compile.rs"]
mod compile;
#[path = "build/nvcc.rs"]
mod nvcc;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Kernels that may use local memory or spill registers, each with the reason: module, kernel, reason.
const ALLOWED_LOCAL_MEMORY: &[(&str, &str, &str)] = &[
    ("attention/decode", "attention_decode_f32_256", ACCUMULATORS),
    ("attention/prefill", "attention_prefill_f32_256", ACCUMULATORS),
];

const ACCUMULATORS: &str = "on 10.0a alone, 20 and 12 bytes: of 255 registers a row tile's accumulators take 132";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
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
        "DOCS_RS",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let (table, hint) = match build(&out) {
        Ok(modules) => (modules, String::new()),
        Err(Problem::Skipped(hint)) => (Vec::new(), hint),
        Err(Problem::NoCompiler(hint)) => {
            println!("cargo:warning=moray: the CUDA kernels are not built: {hint}");
            (Vec::new(), hint)
        }
        Err(Problem::Failed(message)) => {
            eprintln!("{message}");
            std::process::exit(1);
        }
    };
    fs::write(out.join("kernels.rs"), render(&table, &hint)).expect("OUT_DIR is writable");
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

/// A compiled module: its name, as `w4a8/gemm`, and where its image is.
type Module = (String, PathBuf);

fn build(out: &Path) -> Result<Vec<Module>, Problem> {
    if env::var_os("DOCS_RS").is_some() {
        return Err(Problem::Skipped("documentation is built without kernels".into()));
    }
    let target = env::var("TARGET").unwrap_or_default();
    if target != env::var("HOST").unwrap_or_default() || !(target.contains("linux") || target.contains("windows")) {
        return Err(Problem::Skipped(format!("expected a native Linux or Windows build, got target {target}")));
    }
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let nvcc = nvcc::find(out, &root).ok_or_else(|| {
        Problem::NoCompiler(
            "expected nvcc (CUDA 12.4 or later), got none; run `cargo xtask toolkit`, or set MORAY_NVCC, NVCC or CUDA_HOME, \
             and build again"
                .into(),
        )
    })?;
    let nvcc = nvcc::Nvcc::open(nvcc).map_err(Problem::NoCompiler)?;
    let targets = nvcc::targets(&nvcc).map_err(Problem::Failed)?;
    compile::modules(&root.join("kernels"), out, &nvcc, &targets, ALLOWED_LOCAL_MEMORY).map_err(Problem::Failed)
}

fn render(modules: &[Module], hint: &str) -> String {
    let rows: String =
        modules.iter().map(|(name, image)| format!("    ({name:?}, include_bytes!({image:?})),\n")).collect();
    format!(
        "/// Every compiled module: name and image.\n\
         pub(crate) static MODULES: &[(&str, &[u8])] = &[\n{rows}];\n\n\
         /// Why there are none, if so.\n\
         pub(crate) static HINT: &str = {hint:?};\n"
    )
}
