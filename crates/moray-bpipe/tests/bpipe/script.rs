//! The measuring script: what it writes is a profile, and the committed profile it once wrote still reads.

use crate::command::bpipe;
use moray_bpipe::profile::Profile;
use std::path::Path;
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// A Python with PyTorch: `MORAY_PYTHON`, else `python3`.
fn python() -> Option<String> {
    let name = std::env::var("MORAY_PYTHON").unwrap_or_else(|_| "python3".into());
    let found = Command::new(&name).args(["-c", "import torch"]).output().is_ok_and(|output| output.status.success());
    found.then_some(name)
}

fn check(path: &Path) {
    let profile = Profile::read(path).expect("a valid profile");
    assert_eq!(profile.micro_batches(), [1, 2]);
    for point in &profile.points {
        assert!(point.forward_us.is_some() && point.backward_us.is_some() && point.stage_mfu.is_some());
        // MFU is F·b/(p·P·T), with the stage's F/p.
        let flops = profile.stage_flops_per_sample.expect("FLOPs") * f64::from(point.micro_batch);
        let peak = profile.peak_flops.expect("a peak");
        let expected = flops / (peak * point.stage_time_us().expect("a time") * 1e-6);
        let got = point.stage_mfu.expect("an MFU");
        // The script writes times in full precision; a handful of roundings on each side.
        assert!((got / expected - 1.0).abs() <= 16.0 * f64::EPSILON, "{got} {expected}");
    }
    let name = path.to_str().expect("UTF-8");
    let text = bpipe(&["estimate", "--global-batch", "8", "--stages", "4", "--profile", name]).expect("an estimate");
    assert_eq!(text.lines().filter(|line| line.starts_with("| 1 ") || line.starts_with("| 2 ")).count(), 2, "{text}");
}

#[test]
fn committed_profile_reads_as_the_script_wrote_it() {
    check(&Path::new(ROOT).join("crates/moray-bpipe/tests/bpipe/tiny_cpu.json"));
}

#[test]
fn script_writes_a_profile_of_the_tiny_models_on_the_cpu() {
    let Some(python) = python() else {
        println!("skipped: no Python with PyTorch; MORAY_PYTHON names one");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    for model in ["tiny-gpt", "tiny-llama"] {
        for attention in ["naive", "flash"] {
            let out = folder.path().join(format!("{model}-{attention}.json"));
            let script = Path::new(ROOT).join("scripts/bpipe_stages.py");
            let output = Command::new(&python)
                .arg(script)
                .args(["--model", model, "--attention", attention, "--micro-batches", "1,2"])
                .args(["--device", "cpu", "--repeats", "2", "--peak-tflops", "1", "--out"])
                .arg(&out)
                .output()
                .expect("a Python that starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            check(&out);
        }
    }
}
