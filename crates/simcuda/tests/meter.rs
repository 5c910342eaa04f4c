//! The meter's file: one JSON object a launch, in the order in which kernels ran.

mod common;
#[path = "common/device.rs"]
mod device;

use std::path::Path;

use common::under_simcuda;
use cudarc::driver::PushKernelArg;
use device::{Device, shape};
use serde_json::Value;

fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("the meter's file");
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn lines_match_the_launches_that_ran() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("meter.jsonl");
    if std::env::var_os("SIMCUDA_TEST_CHILD").is_none() {
        // The driver appends, so a run before this one must not be counted.
        let _ = std::fs::remove_file(&path);
    }
    let setting = path.to_str().expect("a path in UTF-8");
    under_simcuda("lines_match_the_launches_that_ran", &[("SIMCUDA_METER", setting)], || {
        let device = Device::with_kernels("vector_add");
        let (add, scale) = (device.function("vector_add"), device.function("scale_in_place"));
        let n = 1024u32;
        let a = device.stream.clone_htod(&vec![1f32; 1024]).expect("input");
        let mut y = device.stream.alloc_zeros::<f32>(1024).expect("memory");
        let mut launch = device.stream.launch_builder(&add);
        launch.arg(&a).arg(&a).arg(&mut y).arg(&n);
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { launch.launch(shape((4, 1), 256)) }.expect("launched");
        let mut launch = device.stream.launch_builder(&scale);
        launch.arg(&mut y).arg(&2f32).arg(&0f32).arg(&n);
        // SAFETY: as above.
        unsafe { launch.launch(shape((4, 1), 256)) }.expect("launched");
        device.stream.synchronize().expect("run");
    });
    let lines = read(&path);
    let kernels: Vec<&str> = lines.iter().map(|line| line["kernel"].as_str().expect("a name")).collect();
    assert_eq!(kernels, ["vector_add", "scale_in_place"]);
    let count = |name: &str| lines[0][name].as_u64().expect("a count");
    // Two vectors of 1024 floats are read and one is written, each byte once, in whole sectors of 32 bytes.
    assert_eq!((count("global_load_bytes"), count("global_load_sectors")), (8192, 256));
    assert_eq!((count("global_store_bytes"), count("global_store_sectors")), (4096, 128));
    assert_eq!(lines[0]["registers_from"].as_str(), Some("estimate"), "PTX came alone");
    assert_eq!((count("tensor_instructions"), count("shared_bank_conflicts")), (0, 0));
    assert!(lines.iter().all(|line| line["instructions"].as_u64().expect("a count") > 0), "{lines:?}");
}
