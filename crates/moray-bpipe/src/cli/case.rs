//! The options resolved: flags over profile over preset.

use super::inputs::Inputs;
use crate::activation::{Attention, Recompute, Training};
use crate::cluster::{Cluster, nanoseconds};
use crate::equations::Replica;
use crate::error::{Error, not_negative, positive};
use crate::estimate::{Fit, Measured};
use crate::memory::{StageMemory, stage_peaks};
use crate::pipeline::{Pipeline, StageCost};
use crate::presets::{Model, preset};
use crate::profile::{Point, Profile};

const MIB: f64 = 1048576.0;
const GIB: f64 = 1024.0 * MIB;

/// Everything the commands work from.
pub(super) struct Case {
    pub(super) replica: Replica,
    pub(super) profile: Profile,
    pub(super) model: Option<(&'static Model, Training)>,
    pub(super) cluster: Cluster,
    /// P, a stage's peak in FLOP/s.
    pub(super) peak_flops: Option<f64>,
    /// F.
    pub(super) flops_per_sample: Option<f64>,
    pub(super) capacity_bytes: Option<u64>,
    bytes_per_parameter: f64,
    activation_bytes: Vec<f64>,
    static_bytes: Vec<f64>,
    boundary_bytes: Option<f64>,
    weight_grad_share: f64,
}

impl Case {
    pub(super) fn new(inputs: &Inputs) -> Result<Self, Error> {
        let mut profile = match &inputs.profile {
            Some(path) => Profile::read(path)?,
            None => Profile::default(),
        };
        if profile.points.is_empty() {
            profile.points = flag_points(inputs)?;
        }
        let missing = |what: &str, expected: &str| Error::Missing { what: what.into(), expected: expected.into() };
        let global_batch = inputs.global_batch.or(profile.global_batch);
        let stages = inputs.stages.or(profile.stages);
        let replica = Replica::new(
            global_batch.ok_or_else(|| missing("global batch", "--global-batch"))?,
            stages.ok_or_else(|| missing("pipeline depth", "--stages"))?,
        )?;
        let model = inputs.preset.as_deref().map(preset).transpose()?;
        let model = model.map(|model| (model, training(inputs, &profile, model)));
        let tensor_parallel = inputs.tensor_parallel.or(profile.tensor_parallel).unwrap_or(1);
        let peak = inputs.peak_tflops.map(|peak| positive("peak tflops", peak)).transpose()?;
        let flops = inputs.flops_per_sample.map(|flops| positive("flops per sample", flops)).transpose()?;
        let of_profile = profile.stage_flops_per_sample.map(|flops| flops * f64::from(replica.stages));
        let of_model = || model.map(|(model, training)| model.flops_per_sample(training.seq_len));
        let capacity = inputs.memory_gib.map(|gib| capacity_bytes(gib, inputs.reserve_gib)).transpose()?;
        Ok(Self {
            replica,
            model,
            cluster: inputs.cluster.cluster()?,
            peak_flops: peak.map(|peak| peak * 1e12 * tensor_parallel as f64).or(profile.peak_flops),
            flops_per_sample: flops.or(of_profile).or_else(of_model),
            capacity_bytes: capacity.or(profile.memory_bytes),
            bytes_per_parameter: positive("bytes per parameter", inputs.bytes_per_parameter)?,
            activation_bytes: per_stage("activations", &inputs.activation_mib, MIB, replica.stages)?,
            static_bytes: per_stage("static memory", &inputs.static_gib, GIB, replica.stages)?,
            boundary_bytes: inputs.boundary_mib.map(|mib| not_negative("boundary", mib * MIB)).transpose()?,
            weight_grad_share: share(inputs.weight_grad_share)?,
            profile,
        })
    }

    /// A line that marks a recalled shape, for the end of a report.
    pub(super) fn note(&self) -> String {
        let recalled = self.model.filter(|(model, _)| model.recalled);
        recalled.map_or(String::new(), |(model, _)| format!("shape of {}: {}\n", model.name, model.source))
    }

    /// The slowest stage's measurement at every size; MFU and time each filled from the other where F and P are known.
    pub(super) fn measured(&self) -> Result<Vec<Measured>, Error> {
        let of_size = |b: u32| {
            let points = self.profile.stage_points(b, self.replica.stages)?;
            let all = |value: fn(&Point) -> Option<f64>| points.iter().map(value).collect::<Option<Vec<f64>>>();
            let time = all(Point::stage_time_us).and_then(|times| times.into_iter().reduce(f64::max));
            let mfu = all(|point| point.stage_mfu).and_then(|values| values.into_iter().reduce(f64::min));
            let known = self.flops_per_sample.zip(self.peak_flops);
            let at =
                |time_us: f64| known.map(|(flops, peak)| self.replica.stage_mfu(b, time_us, flops, peak)).transpose();
            let from_time = time.map(at).transpose()?.flatten();
            // Equation 2 is its own inverse: MFU and time are inversely proportional.
            let from_mfu = match mfu {
                Some(mfu) => at(1.0)?.map(|mfu_of_1_us| mfu_of_1_us / mfu),
                None => None,
            };
            Ok(Measured { micro_batch: b, stage_mfu: mfu.or(from_time), stage_time_us: time.or(from_mfu) })
        };
        self.profile.micro_batches().into_iter().map(of_size).collect()
    }

    /// Every stage's memory at one size, if anything is known of it.
    fn memory(&self, b: u32) -> Result<Option<Vec<StageMemory>>, Error> {
        let p = self.replica.stages;
        let of_point = |point: &Point| {
            Some(StageMemory { static_bytes: point.static_bytes?, activation_bytes: point.activation_bytes? })
        };
        if let Ok(points) = self.profile.stage_points(b, p)
            && let Some(memory) = points.iter().map(of_point).collect()
        {
            return Ok(Some(memory));
        }
        if self.activation_bytes.is_empty() && self.static_bytes.is_empty() {
            let Some((model, training)) = &self.model else { return Ok(None) };
            return model.stage_memory(training, p, b, self.bytes_per_parameter).map(Some);
        }
        let at = |list: &[f64], stage: usize| list.get(stage).or(list.first()).copied().unwrap_or(0.0);
        let of_stage = |stage| StageMemory {
            static_bytes: at(&self.static_bytes, stage).round() as u64,
            activation_bytes: (at(&self.activation_bytes, stage) * f64::from(b)).round() as u64,
        };
        Ok(Some((0..p as usize).map(of_stage).collect()))
    }

    /// What the fullest stage needs at one size, if memory and its limit are known.
    pub(super) fn fit(&self, b: u32) -> Result<Option<Fit>, Error> {
        let Some(capacity_bytes) = self.capacity_bytes else { return Ok(None) };
        let Some(memory) = self.memory(b)? else { return Ok(None) };
        let peaks = stage_peaks(&memory, self.replica.micro_batches(b)?)?;
        Ok(Some(Fit {
            plain_bytes: peaks.iter().map(|peak| peak.plain_bytes).max().unwrap_or(0),
            bpipe_bytes: peaks.iter().map(|peak| peak.bpipe_bytes).max().unwrap_or(0),
            capacity_bytes,
        }))
    }

    /// The pipeline at one size, if its times are known: every stage's own, or the measured one scaled by a preset's
    /// layers, whose head then adds its share of FLOPs to the last stage.
    pub(super) fn pipeline(&self, b: u32) -> Result<Option<Pipeline>, Error> {
        let p = self.replica.stages;
        let points = self.profile.stage_points(b, p)?;
        let measured = self.measured()?.into_iter().find(|measured| measured.micro_batch == b);
        let Some(slowest_us) = measured.and_then(|measured| measured.stage_time_us) else { return Ok(None) };
        let own = points.iter().any(|point| point.stage.is_some());
        let layers = self.model.map(|(model, _)| model.layers_per_stage(p)).transpose()?.filter(|_| !own);
        let most = layers.iter().flatten().max().copied().unwrap_or(1) as f64;
        let memory = self.memory(b)?;
        let mut stages = Vec::with_capacity(p as usize);
        for (stage, point) in points.iter().enumerate() {
            let share = layers.as_ref().map_or(1.0, |layers| layers[stage] as f64 / most);
            let (forward_us, backward_us) = self.split(point, point.stage_time_us().unwrap_or(slowest_us));
            let mut cost = self.cost(forward_us * share, backward_us * share)?;
            if let Some(memory) = &memory {
                cost.static_bytes = memory[stage].static_bytes;
                cost.activation_bytes = memory[stage].activation_bytes;
            }
            stages.push(cost);
        }
        let head = match self.model.filter(|_| !own) {
            Some((model, training)) => {
                let flops = model.forward_flops(training.seq_len);
                let (forward_us, backward_us) = self.split(&points[0], slowest_us);
                let share = flops.head / (flops.layer * most);
                // The head is never computed again: its backward is twice its forward.
                self.cost(forward_us * share, (2.0 * forward_us * share).min(backward_us * share))?
            }
            None => StageCost::default(),
        };
        Ok(Some(Pipeline {
            stages,
            embedding: StageCost::default(),
            head,
            micro_batches: self.replica.micro_batches(b)?,
            boundary_bytes: self.boundary_bytes(b, &points),
            cluster: self.cluster,
        }))
    }

    fn boundary_bytes(&self, b: u32, points: &[Point]) -> u64 {
        let of_flag = self.boundary_bytes.map(|bytes| (bytes * f64::from(b)).round() as u64);
        let of_profile = || points.iter().filter_map(|point| point.boundary_bytes).max();
        let of_model = || self.model.map(|(model, training)| model.boundary_bytes(&training, b));
        of_flag.or_else(of_profile).or_else(of_model).unwrap_or(0)
    }

    /// Forward and backward time: as measured, or T in the ratio of their FLOPs.
    fn split(&self, point: &Point, time_us: f64) -> (f64, f64) {
        if let (Some(forward), Some(backward)) = (point.forward_us, point.backward_us) {
            return (forward, backward);
        }
        let recompute = self.model.map_or(Recompute::None, |(_, training)| training.recompute);
        let ratio = Model::backward_ratio(recompute);
        (time_us / (1.0 + ratio), time_us * ratio / (1.0 + ratio))
    }

    fn cost(&self, forward_us: f64, backward_us: f64) -> Result<StageCost, Error> {
        stage_cost(forward_us, backward_us, self.weight_grad_share)
    }
}

/// The cost of a stage from its times; the backward is split by the weight gradient's share.
pub(super) fn stage_cost(forward_us: f64, backward_us: f64, weight_grad_share: f64) -> Result<StageCost, Error> {
    let backward_ns = nanoseconds("backward time", backward_us)?;
    let weight_grad_ns = (backward_ns as f64 * share(weight_grad_share)?).round() as u64;
    Ok(StageCost {
        forward_ns: nanoseconds("forward time", forward_us)?,
        input_grad_ns: backward_ns - weight_grad_ns,
        weight_grad_ns,
        ..StageCost::default()
    })
}

/// What a device can hold in bytes.
pub(super) fn capacity_bytes(memory_gib: f64, reserve_gib: f64) -> Result<u64, Error> {
    let usable = positive("memory in GiB", memory_gib)? - not_negative("reserve in GiB", reserve_gib)?;
    Ok((positive("memory less reserve in GiB", usable)? * GIB) as u64)
}

fn share(share: f64) -> Result<f64, Error> {
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    Err(Error::OutOfRange { what: "weight gradient share".into(), expected: "0 to 1", got: share })
}

/// One number for all stages or one per stage, in bytes.
pub(super) fn per_stage(what: &str, values: &[f64], unit: f64, stages: u32) -> Result<Vec<f64>, Error> {
    if values.len() > 1 && values.len() != stages as usize {
        return Err(Error::Count { what: what.into(), expected: stages as usize, got: values.len() });
    }
    values.iter().map(|&value| not_negative(what, value * unit)).collect()
}

fn training(inputs: &Inputs, profile: &Profile, model: &Model) -> Training {
    Training {
        seq_len: inputs.seq_len.or(profile.seq_len).unwrap_or(model.seq_len),
        tensor_parallel: inputs.tensor_parallel.or(profile.tensor_parallel).unwrap_or(1),
        sequence_parallel: inputs.sequence_parallel,
        attention: inputs.attention.or(profile.attention).unwrap_or(Attention::Naive),
        recompute: inputs.recompute.or(profile.recompute).unwrap_or(Recompute::None),
    }
}

/// The points given by flags; an MFU in percent becomes a fraction.
fn flag_points(inputs: &Inputs) -> Result<Vec<Point>, Error> {
    let mut points: Vec<Point> = Vec::new();
    let times = inputs.stage_time_us.iter().map(|&(b, time)| (b, Some(time), None));
    let mfus = inputs.stage_mfu.iter().map(|&(b, percent)| (b, None, Some(percent / 100.0)));
    for (micro_batch, time_us, stage_mfu) in times.chain(mfus) {
        let known = points.iter_mut().find(|point| point.micro_batch == micro_batch);
        match known {
            Some(point) if stage_mfu.is_some() && point.stage_mfu.is_none() => point.stage_mfu = stage_mfu,
            Some(_) => {
                let what = format!("measurements of micro-batch {micro_batch}");
                return Err(Error::Count { what, expected: 1, got: 2 });
            }
            None => points.push(Point { micro_batch, time_us, stage_mfu, ..Point::default() }),
        }
    }
    if !points.is_empty() {
        Profile { points: points.clone(), ..Profile::default() }.check()?;
    }
    Ok(points)
}
