//! The CUDA device of a test: a GPU, or the simulated driver that `cargo xtask test` puts on the library path.
#![allow(dead_code)] // each test file uses its part

use moray::{Device, Error};
use std::sync::OnceLock;

/// The device with a stream of the test's own, or nothing, and `skipped` is said, where there is none. With `MORAY_REQUIRE_CUDA=1`
/// that fails.
pub fn device() -> Option<Device> {
    // one stays open for all tests of a program, so that a kernel is loaded once: that takes longer than most of them
    static DEVICE: OnceLock<moray::Result<Device>> = OnceLock::new();
    match DEVICE.get_or_init(|| Device::new(0)) {
        Ok(_) => Some(Device::new(0).expect("a device that is open already")),
        Err(Error::DriverAbsent { .. } | Error::KernelsNotBuilt { .. }) if !is_required() => {
            println!("skipped: no CUDA device");
            None
        }
        Err(error) => panic!("expected a CUDA device, got: {error}"),
    }
}

fn is_required() -> bool {
    std::env::var("MORAY_REQUIRE_CUDA").is_ok_and(|value| value == "1")
}

/// What one launch did, as the simulated driver counts it.
#[derive(Debug)]
pub struct Launch(serde_json::Value);

impl Launch {
    /// The kernel's symbol.
    pub fn kernel(&self) -> &str {
        self.0["kernel"].as_str().expect("a launch names its kernel")
    }

    /// A counter by its name, as `global_load_sectors`.
    pub fn count(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("the meter counts {name}: {}", self.0))
    }
}

/// Names the test for which a process was started.
const CHILD: &str = "MORAY_TEST_ALONE";

/// Runs `body` in a process of its own with other environment variables, of which `None` is removed; does nothing on a GPU,
/// whose driver reads none of them.
///
/// `test` is the name of the calling test, which does nothing else.
pub fn with_environment(test: &str, variables: &[(&str, Option<&str>)], body: impl FnOnce()) {
    if is_alone(test) {
        return body();
    }
    let Some(device) = device() else { return };
    match device.name().contains("simcuda") {
        true => run_alone(test, variables),
        false => println!("skipped: no simulated device"),
    }
}

/// Runs `body`, a test that compares what blocks leave each other, in a process of its own where what warps have not done when their block
/// tells another so comes late; nothing on a GPU.
///
/// `test` is the name of the calling test, which does nothing else.
pub fn with_late_warps(test: &str, body: impl FnOnce()) {
    with_environment(test, &[("SIMCUDA_BLOCKS", Some("youngest"))], body);
}

/// Runs `body`, a test whose bounds allow for it, in a process of its own where matrix units cut the floats that they add; nothing on a GPU.
///
/// `test` is the name of the calling test, which does nothing else.
pub fn with_cut_sums(test: &str, body: impl FnOnce()) {
    with_environment(test, &[("SIMCUDA_MMA", Some("truncated"))], body);
}

/// Whether this process is one that [`run_alone`] has started for the test.
fn is_alone(test: &str) -> bool {
    std::env::var(CHILD).is_ok_and(|name| name == test)
}

fn run_alone(test: &str, variables: &[(&str, Option<&str>)]) {
    let mut command = std::process::Command::new(std::env::current_exe().expect("a test knows its executable"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(CHILD, test);
    for (name, value) in variables {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let run = command.output().expect("a test can start itself");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{test} failed with {variables:?}:\n{said}");
}

/// Runs `body` in a process of its own under the simulated driver's meter and returns its launches; nothing on a GPU,
/// which counts none of this, and nothing in the process that runs the body.
///
/// `test` is the name of the calling test.
pub fn metered(test: &str, body: impl FnOnce(&Device)) -> Option<Vec<Launch>> {
    let device = device()?;
    if is_alone(test) {
        body(&device);
        // the calls of a body may be on streams of their own
        device.context().synchronize().expect("the kernels run");
        return None;
    }
    if !device.name().contains("simcuda") {
        println!("skipped: no simulated device");
        return None;
    }
    let path = std::env::temp_dir().join(format!("moray-meter-{}-{test}.json", std::process::id()));
    run_alone(test, &[("SIMCUDA_METER", path.to_str())]);
    let text = std::fs::read_to_string(&path).expect("the meter writes its file");
    std::fs::remove_file(&path).expect("the meter's file can go");
    let parse = |line: &str| Launch(serde_json::from_str(line).expect("the meter writes JSON"));
    Some(text.lines().map(parse).collect())
}
