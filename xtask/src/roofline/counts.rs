//! The committed counts of results/roofline: what `tests/cuda_roofline` has counted.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::machine::Machine;
use crate::root;

/// Where they are.
const FOLDER: &str = "results/roofline";
/// The files of the folder that are not counts.
const OTHERS: [&str; 2] = ["code.json", "predictions.json"];

/// One launch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Launch {
    pub kernel: String,
    pub grid: [f64; 3],
    pub threads: u32,
    /// Of a block.
    pub shared_bytes: u32,
    /// Counts of the whole launch: those of the blocks that ran, times the blocks that did not.
    pub instructions: f64,
    pub loaded_bytes: f64,
    pub sectors: f64,
    pub passes: f64,
    pub conflicts: f64,
    pub tensor_instructions: f64,
    pub int8: f64,
    pub float16: f64,
    pub tf32: f64,
    /// Bytes that it has to move, each once, where that is less than its sectors.
    pub once_bytes: Option<f64>,
    /// Of these, what each row of tiles reads again.
    pub again_bytes: f64,
    /// Columns and rows of tiles, which blocks take by turns: those of the grid if nothing else is said.
    pub tiles: [f64; 2],
    /// Times that all blocks wait for each other, and the bytes of memory that they have asked for, for later, before each.
    pub waits: f64,
    pub ahead_bytes: f64,
}

/// The launches of a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: String,
    /// The machines that it was counted for; all if there is none.
    pub multiprocessors: Option<u32>,
    /// What its work has to move at least.
    pub bytes: f64,
    pub launches: Vec<Launch>,
}

impl Row {
    /// Whether the counts are those of a machine.
    pub fn is_of(&self, machine: &Machine) -> bool {
        self.multiprocessors.is_none_or(|count| count == machine.multiprocessors)
    }

    /// (M, N, K) of the products of the table, which its name says.
    pub fn product(&self) -> Option<(f64, f64, f64)> {
        let m = self.id.strip_prefix("w4a8/")?.split_once("/qqq.figure/m")?.1.parse().ok()?;
        Some((m, 8192.0, 21760.0))
    }
}

impl Launch {
    pub fn blocks(&self) -> f64 {
        self.grid.iter().product()
    }

    fn read(value: &Value) -> Option<Self> {
        let number = |name: &str| value[name].as_f64();
        let shape = |name: &str| {
            let of = |at: usize| value[name][at].as_f64();
            Some([of(0)?, of(1)?, of(2)?])
        };
        let grid = shape("grid")?;
        let scale = grid.iter().product::<f64>() / number("blocks_run")?;
        let count = |name: &str| number(name).map(|count| count * scale);
        let tiles = |at: usize| value["tiles"][at].as_f64();
        let products = |name: &str| value["tensor_products"][name].as_f64().unwrap_or(0.0) * scale;
        Some(Self {
            kernel: value["kernel"].as_str()?.to_owned(),
            grid,
            threads: shape("block")?.iter().product::<f64>() as u32,
            shared_bytes: number("shared_bytes")? as u32,
            instructions: count("instructions")?,
            loaded_bytes: count("global_load_bytes")?,
            sectors: count("global_load_sectors")? + count("global_store_sectors")?,
            passes: count("shared_passes")?,
            conflicts: count("shared_bank_conflicts")?,
            tensor_instructions: count("tensor_instructions")?,
            int8: products("int8"),
            float16: products("float16"),
            tf32: products("float32"),
            once_bytes: number("once_bytes"),
            again_bytes: number("again_bytes").unwrap_or(0.0),
            tiles: [tiles(0).unwrap_or(grid[0] * grid[2]), tiles(1).unwrap_or(grid[1])],
            waits: number("waits").unwrap_or(0.0),
            ahead_bytes: number("ahead_bytes").unwrap_or(0.0),
        })
    }
}

fn row(value: &Value) -> Option<Row> {
    Some(Row {
        id: value["id"].as_str()?.to_owned(),
        multiprocessors: value["multiprocessors"].as_u64().map(|count| count as u32),
        bytes: value["bytes"].as_f64()?,
        launches: value["launches"].as_array()?.iter().map(Launch::read).collect::<Option<_>>()?,
    })
}

/// Reads every row.
///
/// # Errors
/// Returns an error that names the file if one cannot be read or lacks a number.
pub fn read() -> Result<Vec<Row>, String> {
    let list = fs::read_dir(root().join(FOLDER)).map_err(|e| format!("{FOLDER}: {e}"))?;
    let is_counts = |name: &String| name.ends_with(".json") && !OTHERS.contains(&name.as_str());
    let names: BTreeSet<String> =
        list.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).filter(is_counts).collect();
    let mut rows = Vec::new();
    for name in names {
        let text = fs::read_to_string(root().join(FOLDER).join(&name)).map_err(|e| format!("{FOLDER}/{name}: {e}"))?;
        let list: Vec<Value> = serde_json::from_str(&text).map_err(|e| format!("{FOLDER}/{name}: {e}"))?;
        for value in &list {
            let of = row(value);
            rows.push(of.ok_or_else(|| format!("{FOLDER}/{name}: expected the counts of a row, got {value}"))?);
        }
    }
    Ok(rows)
}
