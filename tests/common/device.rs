//! The CUDA device of a test: a GPU, or the simulated driver that `cargo xtask test` puts on the library path.
#![allow(dead_code)] // each test file uses its part

use moray::{Device, Error};

/// Opens the device, or says `skipped` and returns nothing where there is none. With `MORAY_REQUIRE_CUDA=1` that fails.
pub fn device() -> Option<Device> {
    match Device::new(0) {
        Ok(device) => Some(device),
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

const CHILD: &str = "MORAY_METERED_TEST";

/// Runs `body` in a process of its own under the simulated driver's meter and returns its launches; nothing on a GPU,
/// which counts none of this, and nothing in the process that runs the body.
///
/// `test` is the name of the calling test.
pub fn metered(test: &str, body: impl FnOnce(&Device)) -> Option<Vec<Launch>> {
    let device = device()?;
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        body(&device);
        device.synchronize().expect("the kernels run");
        return None;
    }
    if !device.name().contains("simcuda") {
        println!("skipped: no simulated device");
        return None;
    }
    let path = std::env::temp_dir().join(format!("moray-meter-{}-{test}.json", std::process::id()));
    let run = std::process::Command::new(std::env::current_exe().expect("a test knows its executable"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, test)
        .env("SIMCUDA_METER", &path)
        .output()
        .expect("a test can start itself");
    let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{test} failed under the meter:\n{said}");
    let text = std::fs::read_to_string(&path).expect("the meter writes its file");
    std::fs::remove_file(&path).expect("the meter's file can go");
    let parse = |line: &str| Launch(serde_json::from_str(line).expect("the meter writes JSON"));
    Some(text.lines().map(parse).collect())
}
