//! What the compiler reports of a source's kernels.

use std::path::Path;
use std::process::Command;
use std::{fs, io};

/// What kernels are compiled for to be looked at; names and parameters are those of every architecture.
const ARCHITECTURE: &str = "compute_80";

/// A source with its kernels.
pub(super) struct Source {
    /// Without folder and extension.
    pub(super) name: String,
    pub(super) kernels: Vec<Kernel>,
}

/// A kernel as its PTX has it.
#[derive(Debug, PartialEq)]
pub(super) struct Kernel {
    pub(super) symbol: String,
    /// The structure that is its one parameter.
    pub(super) params: String,
    /// Of a block.
    pub(super) threads: u32,
    /// Dynamic shared memory, which the source states with `MORAY_SHARED`; else 0.
    pub(super) shared_bytes: u32,
    pub(super) param_bytes: u32,
}

impl Source {
    /// Compiles a source and reads its kernels, sorted by name.
    pub(super) fn read(nvcc: &Path, kernels: &Path, source: &Path) -> io::Result<Self> {
        let ptx = std::env::temp_dir().join(format!("moray-mirror-{}.ptx", std::process::id()));
        // what is read is the same with little optimization, which takes most of the time
        let words = ["-ptx", "-Xcicc", "-O1", "-std=c++17", "-o"];
        compile(nvcc, kernels, source, Command::new(nvcc).args(words).arg(&ptx))?;
        let text = fs::read_to_string(&ptx)?;
        fs::remove_file(&ptx)?;
        let expanded = compile(nvcc, kernels, source, Command::new(nvcc).args(["-E", "-std=c++17"]))?;
        let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // a declaration may go over lines
        let expanded = expanded.replace('\n', " ");
        let mut kernels =
            entries(&text, &expanded).map_err(|e| io::Error::other(format!("{}: {e}", source.display())))?;
        kernels.sort_by(|a, b| a.symbol.cmp(&b.symbol));
        Ok(Source { name, kernels })
    }
}

fn compile(nvcc: &Path, kernels: &Path, source: &Path, command: &mut Command) -> io::Result<String> {
    let run =
        command.arg(format!("-arch={ARCHITECTURE}")).arg(format!("-I{}", kernels.display())).arg(source).output()?;
    match run.status.success() {
        true => Ok(String::from_utf8_lossy(&run.stdout).into_owned()),
        false => {
            let said = String::from_utf8_lossy(&run.stderr);
            Err(io::Error::other(format!("{} failed on {}:\n{said}", nvcc.display(), source.display())))
        }
    }
}

/// Reads the entries of PTX; the types of their parameters are in the source after its macros are expanded.
fn entries(ptx: &str, expanded: &str) -> Result<Vec<Kernel>, String> {
    ptx.split(".visible .entry ").skip(1).map(|entry| kernel(entry, ptx, expanded)).collect()
}

fn kernel(entry: &str, ptx: &str, expanded: &str) -> Result<Kernel, String> {
    let (symbol, rest) = entry.split_once('(').ok_or("expected an entry with parameters")?;
    let (params, rest) = rest.split_once(')').ok_or_else(|| format!("{symbol}: expected parameters that end"))?;
    let head = rest.split('{').next().unwrap_or_default();
    let bytes = |params: &str| params.rsplit_once('[')?.1.split_once(']')?.0.parse().ok();
    let param_bytes = match params.matches(".param").count() {
        1 => bytes(params),
        _ => None,
    };
    let threads =
        head.split_once(".maxntid ").and_then(|(_, rest)| rest.split([',', '\n']).next()?.trim().parse().ok());
    let shared = format!(".u32 {symbol}_shared_bytes = ");
    let shared = ptx.split_once(&shared).and_then(|(_, rest)| rest.split(';').next()?.trim().parse().ok());
    let declared =
        expanded.split_once(&format!(" {symbol}(")).and_then(|(_, rest)| rest.split_once(" p)")).map(|(head, _)| head);
    Ok(Kernel {
        symbol: symbol.into(),
        params: declared
            .and_then(|head| head.split([' ', ':', ')']).next_back())
            .ok_or_else(|| format!("{symbol}: expected one parameter that is called p"))?
            .into(),
        threads: threads.ok_or_else(|| format!("{symbol}: expected launch bounds"))?,
        shared_bytes: shared.unwrap_or(0),
        param_bytes: param_bytes.ok_or_else(|| format!("{symbol}: expected one structure as its parameter"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTX: &str = "\
.visible .global .align 4 .u32 gemm_shared_bytes = 4096;
	// .globl	gemm
.visible .entry gemm(
	.param .align 8 .b8 gemm_param_0[128]
)
.maxntid 256, 1, 1
.minnctapersm 2
{
	ret;
}
.visible .entry scan(
	.param .align 4 .b8 scan_param_0[24]
)
.maxntid 32
{
";

    #[test]
    fn kernels_are_read_from_what_the_compiler_makes_of_a_source() {
        let expanded = "extern \"C\" __attribute__((global)) void gemm(const moray::LinearParams p) { }\n\
                        extern \"C\" __attribute__((global)) void scan(const __attribute__((grid_constant)) ScanParams p) {";
        let kernel = |symbol: &str, params: &str, threads, shared_bytes, param_bytes| Kernel {
            symbol: symbol.into(),
            params: params.into(),
            threads,
            shared_bytes,
            param_bytes,
        };
        let expected = [kernel("gemm", "LinearParams", 256, 4096, 128), kernel("scan", "ScanParams", 32, 0, 24)];
        assert_eq!(entries(PTX, expanded), Ok(expected.into()));
    }

    #[test]
    fn kernel_with_several_parameters_or_without_bounds_is_refused() {
        let several = PTX.replace("gemm_param_0[128]", "gemm_param_0[128],\n\t.param .u32 gemm_param_1");
        assert!(entries(&several, " gemm(const A p) scan(const B p)").is_err());
        let free = PTX.replace(".maxntid 32", "");
        assert!(entries(&free, " gemm(const A p)  scan(const B p)").unwrap_err().contains("launch bounds"));
    }
}
