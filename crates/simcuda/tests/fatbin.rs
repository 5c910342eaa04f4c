//! Fatbins as nvcc writes them. Needs nvcc; without it the test says `skipped:` and passes, and the unit tests of the
//! reader, which build their fatbins themselves, are what remains.

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/nvcc.rs"]
mod nvcc;

use std::path::Path;
use std::process::Command;

use common::under_simcuda;
use cudarc::driver::{CudaContext, PushKernelArg};
use cudarc::nvrtc::Ptx;
use device::{code, shape};

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
