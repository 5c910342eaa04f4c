//! The equations: iteration time, MFU and speed-up of a pipeline from one stage.
//!
//! With B samples per iteration and data-parallel replica, micro-batches of b samples, p stages, m = B/b, F model
//! FLOPs per sample (forward and backward), P peak FLOP/s of a stage and T(b) a stage's forward and backward time:
//!
//! 1. iteration time = (B/b + p − 1)·T(b)
//! 2. MFU_stage(b) = F·b / (p·P·T(b))
//! 3. MFU(b) = MFU_stage(b)·B / (B + b·(p − 1))
//! 4. speed-up y→x = MFU_stage(x)/MFU_stage(y) · (B + y·(p − 1))/(B + x·(p − 1))
//!
//! Stages are equal; communication, the optimizer and BPipe's own transfers cost nothing, so equation 4 is an upper
//! bound. FLOPs spent on recomputation are in T and not in F.

use crate::error::{Error, depth, fraction, positive};
use serde::Serialize;

/// One data-parallel replica: B samples per iteration through p stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Replica {
    /// Samples per iteration, B.
    pub global_batch: u32,
    /// Pipeline depth, p ≥ 2.
    pub stages: u32,
}

impl Replica {
    /// Describes a replica of `stages` ≥ 2 and `global_batch` ≥ 1.
    ///
    /// # Errors
    /// [`Error::TooFewStages`] and [`Error::OutOfRange`].
    pub fn new(global_batch: u32, stages: u32) -> Result<Self, Error> {
        depth(stages)?;
        positive("global batch", f64::from(global_batch))?;
        Ok(Self { global_batch, stages })
    }

    /// Counts the micro-batches of an iteration, m = B/b.
    ///
    /// # Errors
    /// [`Error::Indivisible`] unless b divides B.
    pub fn micro_batches(&self, micro_batch: u32) -> Result<u32, Error> {
        match self.global_batch.checked_rem(micro_batch) {
            Some(0) => Ok(self.global_batch / micro_batch),
            _ => Err(Error::Indivisible { micro_batch, global_batch: self.global_batch }),
        }
    }

    /// B + b·(p − 1): the iteration's length in samples, bubble included.
    fn length_samples(&self, micro_batch: u32) -> f64 {
        f64::from(self.global_batch) + f64::from(micro_batch) * f64::from(self.stages - 1)
    }

    /// Estimates the iteration time in µs, equation 1.
    ///
    /// # Errors
    /// [`Error::Indivisible`], or [`Error::OutOfRange`] for a time that is not positive.
    pub fn iteration_time_us(&self, micro_batch: u32, stage_time_us: f64) -> Result<f64, Error> {
        let slots = f64::from(self.micro_batches(micro_batch)?) + f64::from(self.stages - 1);
        Ok(slots * positive("stage time", stage_time_us)?)
    }

    /// Computes the share of an iteration a stage idles for, (p − 1)/(m + p − 1).
    ///
    /// # Errors
    /// [`Error::Indivisible`].
    pub fn bubble(&self, micro_batch: u32) -> Result<f64, Error> {
        let fill = f64::from(self.stages - 1);
        Ok(fill / (f64::from(self.micro_batches(micro_batch)?) + fill))
    }

    /// Turns a stage's time into its MFU, equation 2. `flops_per_sample` is the whole model's F, `peak_flops` a
    /// stage's peak in FLOP/s: t devices' worth under t-way tensor parallelism.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for an input that is not positive.
    pub fn stage_mfu(
        &self,
        micro_batch: u32,
        stage_time_us: f64,
        flops_per_sample: f64,
        peak_flops: f64,
    ) -> Result<f64, Error> {
        let work = positive("flops per sample", flops_per_sample)? * f64::from(micro_batch);
        let seconds = positive("stage time", stage_time_us)? * 1e-6;
        Ok(work / (f64::from(self.stages) * positive("peak flops", peak_flops)? * seconds))
    }

    /// Estimates the iteration's MFU from a stage's, equation 3.
    ///
    /// # Errors
    /// [`Error::Indivisible`], or [`Error::OutOfRange`] unless 0 < MFU ≤ 1.
    pub fn mfu(&self, micro_batch: u32, stage_mfu: f64) -> Result<f64, Error> {
        self.micro_batches(micro_batch)?;
        let efficiency = fraction("stage MFU", stage_mfu)?;
        Ok(efficiency * f64::from(self.global_batch) / self.length_samples(micro_batch))
    }

    /// Bounds the speed-up of going from the first point to the second, equation 4. An efficiency is a stage's MFU,
    /// or b/T(b), which is proportional to it.
    ///
    /// ```
    /// use moray_bpipe::equations::{Efficiency, Replica};
    /// let replica = Replica::new(128, 8)?;
    /// let y = Efficiency { micro_batch: 1, value: 0.40 };
    /// let x = Efficiency { micro_batch: 2, value: 0.50 };
    /// let speed_up = replica.speed_up(y, x)?;
    /// assert_eq!(speed_up, 0.50 / 0.40 * (135.0 / 142.0));
    /// # Ok::<(), moray_bpipe::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Indivisible`], or [`Error::OutOfRange`] for an efficiency that is not positive.
    pub fn speed_up(&self, from: Efficiency, to: Efficiency) -> Result<f64, Error> {
        let bubble = self.bubble_factor(from.micro_batch, to.micro_batch)?;
        Ok(positive("stage efficiency", to.value)? / positive("stage efficiency", from.value)? * bubble)
    }

    /// Computes the bubble's own factor on throughput, (B + y·(p − 1))/(B + x·(p − 1)); below one when x > y.
    ///
    /// # Errors
    /// [`Error::Indivisible`].
    pub fn bubble_factor(&self, from: u32, to: u32) -> Result<f64, Error> {
        self.micro_batches(from)?;
        self.micro_batches(to)?;
        Ok(self.length_samples(from) / self.length_samples(to))
    }

    /// Computes the relative gain in stage MFU at which going from micro-batch `from` to `to` pays for its bubble.
    ///
    /// # Errors
    /// [`Error::Indivisible`].
    pub fn break_even_gain(&self, from: u32, to: u32) -> Result<f64, Error> {
        Ok(1.0 / self.bubble_factor(from, to)? - 1.0)
    }
}

/// How well one stage runs at one micro-batch size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Efficiency {
    /// Samples per micro-batch, b.
    pub micro_batch: u32,
    /// The stage's MFU, or anything proportional to it.
    pub value: f64,
}
