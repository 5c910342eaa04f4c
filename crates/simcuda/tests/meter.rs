//! The meter's file: one JSON object a launch, in the order in which kernels ran.

mod common;
#[path = "common/device.rs"]
mod device;

use std::path::Path;

use common::under_simcuda;
use cudarc::driver::PushKernelArg;
use device::{Device, shape};
use serde_json::{Value, json};

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
    assert_eq!((&lines[0]["grid"], &lines[0]["block"]), (&json!([4, 1, 1]), &json!([256, 1, 1])));
    assert_eq!(count("blocks_run"), 4);
    assert!(lines.iter().all(|line| line["instructions"].as_u64().expect("a count") > 0), "{lines:?}");
}

#[test]
fn a_sample_of_columns_matches_its_part_of_the_whole() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("meter_sample.jsonl");
    if std::env::var_os("SIMCUDA_TEST_CHILD").is_none() {
        let _ = std::fs::remove_file(&path);
    }
    let settings = [("SIMCUDA_METER", path.to_str().expect("a path in UTF-8")), ("SIMCUDA_SAMPLE", "scale_*:2")];
    under_simcuda("a_sample_of_columns_matches_its_part_of_the_whole", &settings, || {
        let device = Device::with_kernels("vector_add");
        let scale = device.function("scale_in_place");
        let n = 2048u32;
        let mut y = device.stream.clone_htod(&vec![1f32; 2048]).expect("input");
        let mut launch = device.stream.launch_builder(&scale);
        launch.arg(&mut y).arg(&2f32).arg(&0f32).arg(&n);
        // SAFETY: the arguments are those that the kernel's text lists.
        unsafe { launch.launch(shape((8, 1), 256)) }.expect("launched");
        let y = device.stream.clone_dtoh(&y).expect("run");
        // blocks 0 and 4 of 8
        let scaled: Vec<usize> = (0..8).filter(|block| y[block * 256] == 2.0).collect();
        assert_eq!(scaled, [0, 4]);
    });
    let lines = read(&path);
    assert_eq!((&lines[0]["grid"], &lines[0]["blocks_run"]), (&json!([8, 1, 1]), &json!(2)));
    assert_eq!(lines[0]["global_load_bytes"], json!(2 * 256 * 4));
}
