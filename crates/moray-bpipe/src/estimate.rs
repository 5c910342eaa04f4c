//! The estimator: MFU and speed-up of every measured micro-batch size, with and without BPipe.

use crate::equations::{Efficiency, Replica};
use crate::error::{Error, positive};
use serde::Serialize;

/// One stage measured at one micro-batch size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Samples per micro-batch, b.
    pub micro_batch: u32,
    /// MFU_stage(b), a fraction, if it is known or follows from the time.
    pub stage_mfu: Option<f64>,
    /// T(b) in µs, if it is known.
    pub stage_time_us: Option<f64>,
}

/// Memory of the fullest stage at one micro-batch size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// Peak with 1F1B in bytes.
    pub plain_bytes: u64,
    /// Peak with BPipe in bytes, buffers in flight included.
    pub bpipe_bytes: u64,
    /// What a device can hold in bytes.
    pub capacity_bytes: u64,
}

impl Fit {
    /// Says whether 1F1B fits.
    pub fn plain(&self) -> bool {
        self.plain_bytes <= self.capacity_bytes
    }

    /// Says whether BPipe fits.
    pub fn bpipe(&self) -> bool {
        self.bpipe_bytes <= self.capacity_bytes
    }
}

/// The estimate for one micro-batch size.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What went in.
    #[serde(flatten)]
    pub measured: Measured,
    /// m = B/b.
    pub micro_batches: u32,
    /// Iteration time by equation 1 in µs.
    pub iteration_time_us: Option<f64>,
    /// MFU by equation 3.
    pub mfu: Option<f64>,
    /// Share of the iteration lost to the bubble.
    pub bubble: f64,
    /// Relative gain in stage MFU over the baseline.
    pub stage_gain: f64,
    /// The gain at which the larger bubble is paid for.
    pub break_even_gain: f64,
    /// Speed-up over the baseline by equation 4.
    pub speed_up: f64,
    /// Peak memory, where it is known.
    pub fit: Option<Fit>,
}

impl Row {
    /// Says whether the size runs without BPipe, as far as is known.
    pub fn runs_plain(&self) -> bool {
        self.fit.is_none_or(|fit| fit.plain())
    }

    /// Says whether the size runs at all, as far as is known.
    pub fn runs(&self) -> bool {
        self.fit.is_none_or(|fit| fit.plain() || fit.bpipe())
    }
}

/// The estimates of every measured micro-batch size against one baseline.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// B and p.
    #[serde(flatten)]
    pub replica: Replica,
    /// The micro-batch size the speed-ups are over.
    pub baseline: u32,
    /// The fastest size that runs without BPipe.
    pub best_plain: Option<u32>,
    /// The fastest size that runs with BPipe where it needs it.
    pub best_bpipe: Option<u32>,
    /// Upper bound of what BPipe gains: the fastest with it over the fastest without it.
    pub bpipe_gain: Option<f64>,
    /// One row per micro-batch size, ascending.
    pub rows: Vec<Row>,
}

impl Estimate {
    /// Applies the equations to every measured size. The baseline is the one asked for, else the fastest that runs
    /// without BPipe, else the smallest. `fit` says what a size needs, where that is known.
    ///
    /// # Errors
    /// Those of the equations, and [`Error::Missing`] when no point is given, when a point has neither MFU nor time,
    /// when only some have an MFU, or when the baseline was not measured.
    pub fn new(
        replica: Replica,
        points: &[Measured],
        baseline: Option<u32>,
        fit: impl Fn(u32) -> Result<Option<Fit>, Error>,
    ) -> Result<Self, Error> {
        let mut points = points.to_vec();
        points.sort_by_key(|point| point.micro_batch);
        let efficiencies = efficiencies(&points)?;
        let fits = points.iter().map(|point| fit(point.micro_batch)).collect::<Result<Vec<_>, _>>()?;
        let base = pick_baseline(replica, &efficiencies, &fits, baseline)?;
        let mut rows = Vec::with_capacity(points.len());
        for ((&measured, &own), &fit) in points.iter().zip(&efficiencies).zip(&fits) {
            let b = measured.micro_batch;
            let time = measured.stage_time_us.map(|time| replica.iteration_time_us(b, time)).transpose()?;
            rows.push(Row {
                measured,
                micro_batches: replica.micro_batches(b)?,
                iteration_time_us: time,
                mfu: measured.stage_mfu.map(|mfu| replica.mfu(b, mfu)).transpose()?,
                bubble: replica.bubble(b)?,
                stage_gain: own.value / base.value - 1.0,
                break_even_gain: replica.break_even_gain(base.micro_batch, b)?,
                speed_up: replica.speed_up(base, own)?,
                fit,
            });
        }
        Ok(Self::judge(replica, base.micro_batch, rows))
    }

    fn judge(replica: Replica, baseline: u32, rows: Vec<Row>) -> Self {
        let fastest = |allowed: fn(&Row) -> bool| {
            rows.iter().filter(|row| allowed(row)).max_by(|a, b| a.speed_up.total_cmp(&b.speed_up))
        };
        let (plain, bpipe) = (fastest(Row::runs_plain), fastest(Row::runs));
        let known = rows.iter().all(|row| row.fit.is_some());
        let gain = plain.zip(bpipe).filter(|_| known).map(|(plain, bpipe)| bpipe.speed_up / plain.speed_up);
        Self {
            replica,
            baseline,
            best_plain: plain.map(|row| row.measured.micro_batch),
            best_bpipe: bpipe.map(|row| row.measured.micro_batch),
            bpipe_gain: gain,
            rows,
        }
    }
}

fn pick_baseline(
    replica: Replica,
    efficiencies: &[Efficiency],
    fits: &[Option<Fit>],
    asked: Option<u32>,
) -> Result<Efficiency, Error> {
    if let Some(asked) = asked {
        return efficiencies.iter().find(|point| point.micro_batch == asked).copied().ok_or_else(|| Error::Missing {
            what: format!("baseline micro-batch {asked}"),
            expected: "one of the measured micro-batch sizes".into(),
        });
    }
    let smallest = efficiencies[0];
    let mut best: Option<(f64, Efficiency)> = None;
    for (point, fit) in efficiencies.iter().zip(fits) {
        let speed_up = replica.speed_up(smallest, *point)?;
        if fit.is_some_and(|fit| fit.plain()) && best.is_none_or(|(fastest, _)| speed_up > fastest) {
            best = Some((speed_up, *point));
        }
    }
    Ok(best.map_or(smallest, |(_, point)| point))
}

/// The MFU of every point, or b/T of every point.
fn efficiencies(points: &[Measured]) -> Result<Vec<Efficiency>, Error> {
    if points.is_empty() {
        let expected = "a stage MFU or a stage time for at least one micro-batch size".into();
        return Err(Error::Missing { what: "measurements".into(), expected });
    }
    if let Some(pair) = points.windows(2).find(|pair| pair[0].micro_batch == pair[1].micro_batch) {
        let what = format!("measurements of micro-batch {}", pair[0].micro_batch);
        return Err(Error::Count { what, expected: 1, got: 2 });
    }
    let by_mfu = points.iter().any(|point| point.stage_mfu.is_some());
    let one = |point: &Measured| {
        let b = point.micro_batch;
        let (value, expected) = if by_mfu {
            (point.stage_mfu, "a stage MFU, as the others have (or flops per sample and peak for all)")
        } else {
            (point.stage_time_us.map(|time| f64::from(b) / time), "a stage MFU or a stage time")
        };
        let missing = || Error::Missing { what: format!("micro-batch {b}"), expected: expected.into() };
        Ok(Efficiency { micro_batch: b, value: positive("stage efficiency", value.ok_or_else(missing)?)? })
    };
    points.iter().map(one).collect()
}
