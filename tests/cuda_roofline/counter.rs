//! Rows of counts: what the launches of a call did, by the meter's file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moray::Device;
use serde_json::{Map, Value, json};

use crate::device::{device, with_environment};

/// Columns of blocks that run of a large grid.
pub const SAMPLED_COLUMNS: u32 = 2;

/// What is kept of the meter's report: counts of the blocks that ran, and others.
const COUNTS: [&str; 9] = [
    "instructions",
    "global_load_bytes",
    "global_load_sectors",
    "global_store_sectors",
    "shared_passes",
    "shared_bank_conflicts",
    "tensor_instructions",
    "atomic_instructions",
    "async_copies",
];
const OTHERS: [&str; 6] = ["kernel", "grid", "block", "blocks_run", "shared_bytes", "tensor_products"];

/// One launch, as the meter reports it.
#[derive(Clone)]
pub struct Launch(Map<String, Value>);

impl Launch {
    fn parse(line: &str) -> Self {
        let mut all: Map<String, Value> = serde_json::from_str(line).expect("the meter writes JSON");
        all.retain(|name, _| COUNTS.contains(&name.as_str()) || OTHERS.contains(&name.as_str()));
        Self(all)
    }

    pub fn blocks(&self) -> u64 {
        self.0["grid"].as_array().expect("a shape").iter().map(|n| n.as_u64().expect("a number")).product()
    }

    pub fn blocks_run(&self) -> u64 {
        self.0["blocks_run"].as_u64().expect("a count")
    }

    /// Counts of one block.
    pub fn counts(&self) -> BTreeMap<&str, u64> {
        let of_block = |name: &'static str| {
            let all = self.0[name].as_u64().expect("a count");
            assert_eq!(all % self.blocks_run(), 0, "{name}: blocks differ");
            (name, all / self.blocks_run())
        };
        COUNTS.into_iter().map(of_block).collect()
    }

    /// Says how many bytes the launch has to move at least, each once, where that is less than what its blocks ask for, and how many
    /// of them each row of tiles reads again.
    pub fn moves(mut self, once: usize, again: usize) -> Self {
        self.0.insert("once_bytes".into(), json!(once));
        self.0.insert("again_bytes".into(), json!(again));
        self
    }

    /// Says how many tiles along N and M blocks take by turns, where that is not the grid.
    pub fn of_tiles(mut self, tiles: [usize; 2]) -> Self {
        self.0.insert("tiles".into(), json!(tiles));
        self
    }

    /// Says how often all blocks wait for each other, and for how many bytes they have asked before each time.
    pub fn waits(mut self, times: usize, ahead_bytes: usize) -> Self {
        self.0.insert("waits".into(), json!(times));
        self.0.insert("ahead_bytes".into(), json!(ahead_bytes));
        self
    }

    fn kernel(&self) -> &str {
        self.0["kernel"].as_str().expect("a name")
    }
}

/// Collects the rows of one test.
pub struct Counter {
    pub device: Device,
    /// The meter's file.
    meter: PathBuf,
    lines: usize,
    rows: Vec<Value>,
}

impl Counter {
    /// Runs a call and returns its launches.
    pub fn launches(&mut self, call: impl FnOnce(&Device)) -> Vec<Launch> {
        self.skip();
        call(&self.device);
        let before = self.lines;
        self.skip();
        let text = std::fs::read_to_string(&self.meter).expect("the meter writes its file");
        text.lines().skip(before).map(Launch::parse).collect()
    }

    /// Passes over what has been launched so far.
    fn skip(&mut self) {
        self.device.synchronize().expect("the kernels run");
        self.lines = std::fs::read_to_string(&self.meter).map_or(0, |text| text.lines().count());
    }

    /// Adds a row. `bytes` is what its work has to move at least, whatever the kernels are.
    pub fn row(&mut self, id: &str, multiprocessors: Option<u32>, bytes: usize, launches: Vec<Launch>) {
        let launches: Vec<Value> = launches.into_iter().map(|launch| launch.0.into()).collect();
        let mut row = json!({ "id": id, "bytes": bytes, "launches": launches });
        if let Some(multiprocessors) = multiprocessors {
            row["multiprocessors"] = json!(multiprocessors);
        }
        self.rows.push(row);
    }
}

/// Runs `count` in a process of its own under the meter; nothing on a GPU, nor where the device has another capability than 8.0,
/// whose code the counts are of.
pub fn run(test: &str, multiprocessors: u32, count: impl FnOnce(&mut Counter)) {
    let Some(device) = device() else { return };
    if device.capability() != (8, 0) {
        return println!("skipped: counts are those of compute capability 8.0");
    }
    drop(device);
    let meter = std::env::temp_dir().join(format!("moray-roofline-{}-{test}.json", std::process::id()));
    let count_all = || {
        let device = Device::new(0).expect("a device");
        let meter = std::env::var_os("SIMCUDA_METER").expect("set for this process").into();
        count(&mut Counter { device, meter, lines: 0, rows: Vec::new() });
    };
    let sample = format!("w4a8_gemm_*:{SAMPLED_COLUMNS}");
    let multiprocessors = multiprocessors.to_string();
    let variables = [
        ("SIMCUDA_METER", meter.to_str()),
        ("SIMCUDA_SAMPLE", Some(sample.as_str())),
        ("SIMCUDA_SMS", Some(multiprocessors.as_str())),
        // values are zeros that nobody looks at, and blocks that do not run leave holes
        ("SIMCUDA_CHECKS", Some("0")),
    ];
    with_environment(test, &variables, count_all);
    // there is none in the process that counts, whose own path is another
    let _ = std::fs::remove_file(&meter);
}

/// Compares the rows of `count` with those of results/roofline, or writes them there.
pub fn check(test: &str, file: &str, multiprocessors: u32, count: fn(&mut Counter)) {
    run(test, multiprocessors, |counter| {
        count(counter);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("results/roofline/{file}.json"));
        let rows = std::mem::take(&mut counter.rows);
        if std::env::var("MORAY_ROOFLINE_WRITE").is_ok_and(|value| value == "1") {
            let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
            return std::fs::write(&path, format!("[\n{}\n]\n", lines.join(",\n"))).expect("results/roofline is there");
        }
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let committed: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        assert_eq!(rows.len(), committed.len(), "{file}.json: run `cargo xtask roofline`");
        for (row, committed) in rows.iter().zip(&committed) {
            compare(row, committed);
        }
    });
}

/// Counts are equal; of instructions the compiler's version decides some, of loads how often a block looks whether others have come, and of
/// atomics which of a block's warps is first (a sum of two words carries or not), so they are within 2%.
fn compare(row: &Value, committed: &Value) {
    const HINT: &str = "what the kernels do has changed: run `cargo xtask roofline`, which says what that is worth";
    let id = &row["id"];
    let launches = |row: &Value| row["launches"].as_array().expect("launches").clone();
    let (got, expected) = (launches(row), launches(committed));
    let names = |list: &[Value]| list.iter().map(|launch| launch["kernel"].to_string()).collect::<Vec<_>>();
    assert_eq!((id, names(&got)), (&committed["id"], names(&expected)), "{HINT}");
    for (got, expected) in got.iter().zip(&expected) {
        let waits = expected["waits"].is_number();
        for (name, value) in got.as_object().expect("counts") {
            let same = match (name.as_str(), value.as_f64(), expected[name].as_f64()) {
                ("instructions", Some(got), Some(expected)) => (got - expected).abs() <= 0.02 * expected,
                (
                    "global_load_bytes"
                    | "global_load_sectors"
                    | "atomic_instructions"
                    | "shared_passes"
                    | "shared_bank_conflicts",
                    Some(got),
                    Some(expected),
                ) if waits => (got - expected).abs() <= 0.02 * expected,
                _ => *value == expected[name],
            };
            assert!(same, "{id}, {}: {name} is {value}, expected {}: {HINT}", got["kernel"], expected[name]);
        }
    }
}

/// The launches with the bytes that each kernel has to move, and those that each row of tiles reads again, by the start of the
/// kernel's name.
pub fn with_bytes(launches: Vec<Launch>, bytes: &[(&str, usize, usize)]) -> Vec<Launch> {
    let of = |launch: Launch| match bytes.iter().find(|(kernel, ..)| launch.kernel().starts_with(kernel)) {
        Some(&(_, once, again)) => launch.moves(once, again),
        None => launch,
    };
    launches.into_iter().map(of).collect()
}
