//! Fatbins as nvcc writes them. Needs nvcc; without it the test says `skipped:` and passes, and the unit tests of the
//! reader, which build their fatbins themselves, are what remains.

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/nvcc.rs"]
mod nvcc;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{code, under_simcuda};
use cudarc::driver::{CudaContext, PushKernelArg};
use cudarc::nvrtc::Ptx;
use device::shape;

#[test]
fn fatbins_match_their_source_with_and_without_compression() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let outputs = ["plain", "compressed"].map(|name| folder.join(name).with_extension("fatbin"));
    if std::env::var_os("SIMCUDA_TEST_CHILD").is_none() {
        let Some(nvcc) = nvcc::find_nvcc() else {
            println!("skipped: no nvcc");
            return;
        };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/vector_add.cu");
        for (output, flags) in outputs.iter().zip([&["--no-compress"][..], &[]]) {
            let run = Command::new(&nvcc)
                .arg("-fatbin")
                .args(flags)
                .args(["-gencode", "arch=compute_80,code=[sm_80,compute_80]"])
                .args(["-gencode", "arch=compute_90,code=compute_90", "-o"])
                .args([output, &source])
                .output()
                .expect("nvcc was found but did not start");
            assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        }
    }
    for arch in ["8.0", "9.0"] {
        let test = "fatbins_match_their_source_with_and_without_compression";
        under_simcuda(test, &[("SIMCUDA_ARCH", arch)], || {
            let context = CudaContext::new(0).expect("the simulated device");
            let stream = context.new_stream().expect("a stream");
            for path in &outputs {
                let image = std::fs::read(path).expect("nvcc has written it");
                let from_memory = context.load_module(Ptx::from_binary(image)).expect("loaded from memory");
                let from_file = context.load_module(Ptx::from_file(path)).expect("loaded from a file");
                for module in [from_memory, from_file] {
                    let function = module.load_function("vector_add").expect("the entry");
                    let (a, b) =
                        (stream.clone_htod(&[1f32, 2.0]).expect("a"), stream.clone_htod(&[3f32, 5.0]).expect("b"));
                    let mut y = stream.alloc_zeros::<f32>(2).expect("memory");
                    let mut launch = stream.launch_builder(&function);
                    launch.arg(&a).arg(&b).arg(&mut y).arg(&2u32);
                    // SAFETY: the arguments are those that the kernel's text lists.
                    unsafe { launch.launch(shape((1, 1), 32)) }.expect("launched");
                    assert_eq!(stream.clone_dtoh(&y).expect("sums"), [4.0, 7.0]);
                }
            }
            let missing = context.load_module(Ptx::from_file("/nowhere/at/all.fatbin")).map(drop);
            assert_eq!(code(missing), cudarc::driver::sys::CUresult::CUDA_ERROR_FILE_NOT_FOUND);
        });
    }
}

/// What ptxas prints of one source: (architecture, kernel, registers).
fn registers_of_report(report: &str) -> Vec<(String, String, i32)> {
    let (mut kernel, mut found) = (None, Vec::new());
    for line in report.lines() {
        if line.contains("Compiling entry function") {
            let mut quoted = line.split('\'').skip(1).step_by(2).map(str::to_owned);
            kernel = quoted.next().zip(quoted.next());
        } else if let (Some((_, rest)), Some((name, arch))) = (line.split_once("Used "), &kernel) {
            let count = rest.split(' ').next().and_then(|count| count.parse().ok()).expect("a count of registers");
            found.push((arch.clone(), name.clone(), count));
        }
    }
    found
}

/// Compiles a source with machine code for 8.0 and 9.0 into `output` and returns what the assembler says.
fn compile_with_machine_code(nvcc: &Path, source: &str, output: &Path, flags: &[&str]) -> String {
    let run = Command::new(nvcc)
        .args(["-fatbin", "-Xptxas=-v"])
        .args(flags)
        .args(["-gencode", "arch=compute_80,code=[sm_80,compute_80]", "-gencode", "arch=compute_90,code=sm_90", "-o"])
        .arg(output)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels").join(source).with_extension("cu"))
        .output()
        .expect("nvcc was found but did not start");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8_lossy(&run.stderr).into_owned()
}

/// Compares the attribute of every kernel of a fatbin with the report of its compilation.
fn compare_registers(context: &Arc<CudaContext>, fatbin: &Path, report: &str, target: &str) {
    let module = context.load_module(Ptx::from_file(fatbin)).expect("loaded from a file");
    let expected: Vec<_> = registers_of_report(report).into_iter().filter(|(arch, ..)| arch == target).collect();
    assert!(!expected.is_empty(), "{report}");
    for (_, name, registers) in expected {
        let function = module.load_function(&name).expect("the entry");
        assert_eq!(function.num_regs().expect("an attribute"), registers, "{name} on {target}");
    }
}

/// Launches a kernel of one block over two numbers.
fn scale(context: &Arc<CudaContext>, fatbin: &Path) {
    let module = context.load_module(Ptx::from_file(fatbin)).expect("loaded from a file");
    let function = module.load_function("scale_in_place").expect("the entry");
    let stream = context.new_stream().expect("a stream");
    let mut y = stream.alloc_zeros::<f32>(2).expect("memory");
    let mut launch = stream.launch_builder(&function);
    launch.arg(&mut y).arg(&2f32).arg(&0f32).arg(&2u32);
    // SAFETY: the arguments are those that the kernel's text lists.
    unsafe { launch.launch(shape((1, 1), 32)) }.expect("launched");
    stream.synchronize().expect("run");
}

#[test]
fn registers_match_the_report_of_the_assembler() {
    let test = "registers_match_the_report_of_the_assembler";
    let is_child = std::env::var_os("SIMCUDA_TEST_CHILD").is_some();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    // Machine code as it is, and compressed.
    let sources = [("vector_add", &["--no-compress"]), ("gemm_w4a8", &["--compress-mode=size"])];
    let outputs = sources.map(|(name, _)| folder.join(format!("registers-{name}.fatbin")));
    let report_of = |output: &Path| output.with_extension("report");
    if !is_child {
        let Some(nvcc) = nvcc::find_nvcc() else {
            println!("skipped: no nvcc");
            return;
        };
        for ((source, flags), output) in sources.iter().zip(&outputs) {
            let report = compile_with_machine_code(&nvcc, source, output, *flags);
            std::fs::write(report_of(output), report).expect("the target folder is writable");
        }
    }
    let reports = outputs.each_ref().map(|output| std::fs::read_to_string(report_of(output)).expect("written above"));
    for (arch, target) in [("8.0", "sm_80"), ("9.0", "sm_90")] {
        if is_child && std::env::var("SIMCUDA_ARCH").is_ok_and(|set| set != arch) {
            continue;
        }
        let meter = folder.join(format!("registers-{target}.jsonl"));
        if !is_child {
            // The driver appends, so a run before this one must not be read.
            let _ = std::fs::remove_file(&meter);
        }
        let setting = meter.to_str().expect("a path in UTF-8");
        under_simcuda(test, &[("SIMCUDA_ARCH", arch), ("SIMCUDA_METER", setting)], || {
            let context = CudaContext::new(0).expect("the simulated device");
            outputs
                .iter()
                .zip(&reports)
                .for_each(|(output, report)| compare_registers(&context, output, report, target));
            scale(&context, &outputs[0]);
        });
        let line = std::fs::read_to_string(&meter).expect("the meter's file");
        let line: serde_json::Value = serde_json::from_str(&line).expect("one JSON object");
        let listed = registers_of_report(&reports[0]);
        let expected = listed.iter().find(|(arch, kernel, _)| arch == target && kernel == "scale_in_place");
        assert_eq!(line["registers"].as_i64(), expected.map(|found| found.2.into()), "{listed:?}");
        assert_eq!(line["registers_from"].as_str(), Some(target));
    }
}
