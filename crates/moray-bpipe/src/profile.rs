//! Measured stages, read from JSON or CSV.
//!
//! JSON holds the machine and the model beside the points, as `scripts/bpipe_stages.py` writes it; CSV holds points
//! only, one per line under a header of the same names. A point is one stage at one micro-batch size: `micro_batch`
//! and `time_us`, `forward_us` and `backward_us`, or `stage_mfu` (a fraction); optionally `stage` when stages were
//! measured one by one, and `activation_bytes`, `static_bytes`, `boundary_bytes` for that micro-batch.

use crate::activation::{Attention, Recompute};
use crate::error::{Error, fraction, positive};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One stage measured at one micro-batch size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Samples per micro-batch, b.
    pub micro_batch: u32,
    /// The stage, when each was measured; none when all are like this one.
    pub stage: Option<u32>,
    /// Forward and backward time in µs.
    pub time_us: Option<f64>,
    /// Forward time in µs.
    pub forward_us: Option<f64>,
    /// Backward time in µs.
    pub backward_us: Option<f64>,
    /// The stage's MFU, a fraction.
    pub stage_mfu: Option<f64>,
    /// Activations kept for one micro-batch in bytes.
    pub activation_bytes: Option<u64>,
    /// Weights, gradients and optimizer state in bytes.
    pub static_bytes: Option<u64>,
    /// Bytes sent to the next stage per micro-batch.
    pub boundary_bytes: Option<u64>,
}

impl Point {
    /// T(b) in µs, if it was measured.
    pub fn stage_time_us(&self) -> Option<f64> {
        self.time_us.or_else(|| Some(self.forward_us? + self.backward_us?))
    }

    fn check(&self) -> Result<(), Error> {
        let b = self.micro_batch;
        positive("micro-batch", f64::from(b))?;
        let times = [("time", self.time_us), ("forward time", self.forward_us), ("backward time", self.backward_us)];
        for (name, time) in times {
            time.map(|time| positive(&format!("{name} in µs at micro-batch {b}"), time)).transpose()?;
        }
        self.stage_mfu.map(|mfu| fraction(&format!("stage MFU at micro-batch {b}"), mfu)).transpose()?;
        if self.forward_us.is_some() != self.backward_us.is_some() {
            let what = format!("forward or backward time at micro-batch {b}");
            return Err(Error::Missing { what, expected: "both forward_us and backward_us".into() });
        }
        if self.stage_time_us().is_none() && self.stage_mfu.is_none() {
            let what = format!("time at micro-batch {b}");
            let expected = "time_us, forward_us and backward_us, or stage_mfu".into();
            return Err(Error::Missing { what, expected });
        }
        Ok(())
    }
}

/// Measured stages and what is known of the machine and the model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// The model's name.
    pub model: Option<String>,
    /// The device measured on.
    pub device: Option<String>,
    /// What measured it: program and versions.
    pub measured_by: Option<String>,
    /// The attention kernel.
    pub attention: Option<Attention>,
    /// What was computed again.
    pub recompute: Option<Recompute>,
    /// Tokens per sample, s.
    pub seq_len: Option<u64>,
    /// Layers in the measured stage.
    pub layers_per_stage: Option<u64>,
    /// Devices a layer was split over, t.
    pub tensor_parallel: Option<u64>,
    /// Samples per iteration, B.
    pub global_batch: Option<u32>,
    /// Pipeline depth, p.
    pub stages: Option<u32>,
    /// Model FLOPs of one stage and sample, forward and backward, F/p.
    pub stage_flops_per_sample: Option<f64>,
    /// Peak of a stage in FLOP/s, P.
    pub peak_flops: Option<f64>,
    /// Memory of a device in bytes.
    pub memory_bytes: Option<u64>,
    /// The measurements.
    pub points: Vec<Point>,
}

impl Profile {
    /// Reads a profile; a name that ends in `.csv` holds CSV, any other JSON.
    ///
    /// # Errors
    /// [`Error::File`] when it cannot be read, [`Error::Profile`] when it holds something else.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_path_buf(), source })?;
        let parsed = if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")) {
            parse_csv(&text)
        } else {
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let profile: Self = parsed.map_err(|reason| Error::Profile { path: path.to_path_buf(), reason })?;
        profile.check().map_err(|error| Error::Profile { path: path.to_path_buf(), reason: error.to_string() })?;
        Ok(profile)
    }

    /// Checks every point and the machine's numbers.
    ///
    /// # Errors
    /// [`Error::Missing`] and [`Error::OutOfRange`].
    pub fn check(&self) -> Result<(), Error> {
        if self.points.is_empty() {
            return Err(Error::Missing { what: "points".into(), expected: "at least one measurement".into() });
        }
        self.points.iter().try_for_each(Point::check)?;
        self.stage_flops_per_sample.map(|flops| positive("stage flops per sample", flops)).transpose()?;
        self.peak_flops.map(|flops| positive("peak flops", flops)).transpose()?;
        Ok(())
    }

    /// Lists the micro-batch sizes measured, ascending.
    pub fn micro_batches(&self) -> Vec<u32> {
        let mut sizes: Vec<u32> = self.points.iter().map(|point| point.micro_batch).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Lists every stage's point at one size: the one point for all, or one point per stage.
    ///
    /// # Errors
    /// [`Error::Count`] when stages are missing, repeated or not in 0..p.
    pub fn stage_points(&self, micro_batch: u32, stages: u32) -> Result<Vec<Point>, Error> {
        let points: Vec<&Point> = self.points.iter().filter(|point| point.micro_batch == micro_batch).collect();
        if let [only] = points[..]
            && only.stage.is_none()
        {
            return Ok(vec![*only; stages as usize]);
        }
        let of_stage = |stage: u32| {
            let mut own = points.iter().filter(|point| point.stage == Some(stage));
            match (own.next(), own.next()) {
                (Some(point), None) => Ok(**point),
                (one, more) => {
                    let what = format!("points of stage {stage} at micro-batch {micro_batch}");
                    let got = usize::from(one.is_some()) + usize::from(more.is_some());
                    Err(Error::Count { what, expected: 1, got })
                }
            }
        };
        let found: Vec<Point> = (0..stages).map(of_stage).collect::<Result<_, _>>()?;
        if points.len() != found.len() {
            let what = format!("points at micro-batch {micro_batch}");
            return Err(Error::Count { what, expected: found.len(), got: points.len() });
        }
        Ok(found)
    }
}

/// Parses a header and one point per line; empty cells are absent values, lines that start with `#` comments.
fn parse_csv(text: &str) -> Result<Profile, String> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    let mut lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let (_, header) = lines.next().ok_or("expected a header, got an empty file")?;
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    let mut points = Vec::new();
    for (number, line) in lines {
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if cells.len() != columns.len() {
            return Err(format!("line {number}: expected {} cells, got {}", columns.len(), cells.len()));
        }
        let mut point = Point::default();
        for (column, cell) in columns.iter().zip(cells) {
            set_cell(&mut point, column, cell).map_err(|reason| format!("line {number}: {reason}"))?;
        }
        points.push(point);
    }
    Ok(Profile { points, ..Profile::default() })
}

fn set_cell(point: &mut Point, column: &str, cell: &str) -> Result<(), String> {
    fn number<T: std::str::FromStr>(column: &str, cell: &str) -> Result<Option<T>, String> {
        let parse = || cell.parse().map_err(|_| format!("{column}: expected a number, got {cell:?}"));
        if cell.is_empty() { Ok(None) } else { parse().map(Some) }
    }
    match column {
        "micro_batch" => {
            point.micro_batch = number(column, cell)?.ok_or("micro_batch: expected a number, got an empty cell")?;
        }
        "stage" => point.stage = number(column, cell)?,
        "time_us" => point.time_us = number(column, cell)?,
        "forward_us" => point.forward_us = number(column, cell)?,
        "backward_us" => point.backward_us = number(column, cell)?,
        "stage_mfu" => point.stage_mfu = number(column, cell)?,
        "activation_bytes" => point.activation_bytes = number(column, cell)?,
        "static_bytes" => point.static_bytes = number(column, cell)?,
        "boundary_bytes" => point.boundary_bytes = number(column, cell)?,
        _ => return Err(format!("column: expected a point's field such as micro_batch or time_us, got {column:?}")),
    }
    Ok(())
}
