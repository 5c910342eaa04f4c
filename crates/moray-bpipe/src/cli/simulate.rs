//! `moray bpipe simulate`.

use super::case::{Case, per_stage, stage_cost};
use super::inputs::Inputs;
use super::{print_json, write_file};
use crate::cluster::nanoseconds;
use crate::error::{Error, depth, not_negative};
use crate::pipeline::{Pipeline, StageCost};
use crate::plot::{Drawn, page, timeline_svg};
use crate::program::Program;
use crate::schedule::Schedule;
use crate::simulate::simulate;
use crate::simulation::Simulation;
use crate::text;
use clap::{Args, ValueEnum};
use std::io::Write;
use std::path::PathBuf;

const MIB: f64 = 1048576.0;

/// A schedule's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// All forwards, then all backwards
    Gpipe,
    /// One forward, one backward
    #[value(name = "1f1b")]
    OneFOneB,
    /// 1F1B over several chunks per device
    Interleaved,
    /// 1F1B whose early stages lend activations to the late ones
    Bpipe,
    /// Two chunks per device in a V, half the memory
    VHalf,
    /// Each of them that these stages and micro-batches take; what is left out is named with its reason
    All,
}

/// Options of `moray bpipe simulate`.
#[derive(Debug, Clone, Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub inputs: Inputs,
    /// Schedules to run, several after commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "1f1b,bpipe")]
    pub schedule: Vec<Name>,
    /// Micro-batch size, one of the measured
    #[arg(long, value_name = "b")]
    pub micro_batch: Option<u32>,
    /// Micro-batches per iteration, m, with --forward-us
    #[arg(long, value_name = "M", requires = "forward_us")]
    pub micro_batches: Option<u32>,
    /// Forward time: one number or one per stage, instead of measurements
    #[arg(long, value_name = "US", value_delimiter = ',', requires_all = ["backward_us", "micro_batches"])]
    pub forward_us: Vec<f64>,
    /// Backward time: one number or one per stage
    #[arg(long, value_name = "US", value_delimiter = ',', requires = "forward_us")]
    pub backward_us: Vec<f64>,
    /// Forward and backward time the embedding adds to the first stage
    #[arg(long, value_name = "US,US", value_delimiter = ',')]
    pub embedding_us: Vec<f64>,
    /// Forward and backward time the head adds to the last stage [default: by the preset's FLOPs]
    #[arg(long, value_name = "US,US", value_delimiter = ',')]
    pub head_us: Vec<f64>,
    /// Chunks per device of the interleaved schedule
    #[arg(long, value_name = "V", default_value_t = 2)]
    pub chunks: u32,
    /// BPipe's cap in micro-batches per stage [default: the smallest that holds]
    #[arg(long, value_name = "K")]
    pub cap: Option<u32>,
    /// Operations between saving a micro-batch and needing its buffer [default: chosen by trial]
    #[arg(long, value_name = "N")]
    pub lookahead: Option<u32>,
    /// Draw each timeline as text
    #[arg(long)]
    pub timeline: bool,
    /// Show every stage
    #[arg(long)]
    pub per_stage: bool,
    /// Write a page with timelines and memory plots
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub html: Option<PathBuf>,
    /// Write the last schedule's timeline as SVG
    #[arg(long, value_name = "FILE", allow_hyphen_values = true)]
    pub svg: Option<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
    /// Add every operation and memory sample to the JSON
    #[arg(long, requires = "json")]
    pub spans: bool,
}

/// What is simulated.
struct Input {
    pipeline: Pipeline,
    /// FLOPs of the iteration and a stage's peak in FLOP/s.
    rates: Option<(f64, f64)>,
    note: String,
}

struct Run {
    schedule: Schedule,
    program: Program,
    run: Simulation,
    mfu: Option<f64>,
}

impl SimulateArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let Input { pipeline, rates, note } = match self.forward_us[..] {
            [] => self.measured()?,
            _ => Input { pipeline: self.given()?, rates: None, note: String::new() },
        };
        let (mut runs, mut left_out) = (Vec::new(), Vec::new());
        for (schedule, named) in self.schedules() {
            let simulated =
                schedule.program(&pipeline).and_then(|program| Ok((simulate(&pipeline, &program)?, program)));
            match simulated {
                Ok((run, program)) => {
                    let mfu = rates.map(|(flops, peak)| run.mfu(flops, peak));
                    runs.push(Run { schedule, program, run, mfu });
                }
                Err(error) if named => return Err(error),
                Err(error) => left_out.push((schedule, error)),
            }
        }
        if runs.is_empty() && !left_out.is_empty() {
            return Err(left_out.swap_remove(0).1);
        }
        let note = left_out
            .iter()
            .map(|(schedule, error)| format!("{} left out: {error}\n", schedule.name()))
            .collect::<String>()
            + &note;
        let drawn: Vec<Drawn<'_>> =
            runs.iter().map(|one| Drawn { schedule: one.schedule, run: &one.run, cap: one.program.cap }).collect();
        let compared: Vec<_> = runs.iter().map(|one| (one.schedule, one.run.clone(), one.mfu)).collect();
        let comparison = text::simulations(&compared) + &note;
        if let Some(path) = &self.html {
            write_file(path, &page(&drawn, &comparison))?;
        }
        if let (Some(path), Some(last)) = (&self.svg, drawn.last()) {
            write_file(path, &timeline_svg(last))?;
        }
        if self.json {
            let reason = |(schedule, error): &(Schedule, Error)| serde_json::json!({"schedule": schedule.name(), "left_out": error.to_string()});
            let reports = runs.iter().map(|one| self.json_report(&pipeline, one));
            return print_json(out, &reports.chain(left_out.iter().map(reason)).collect::<Vec<_>>());
        }
        out.write_all(comparison.as_bytes())?;
        for one in &runs {
            self.print_details(out, one)?;
        }
        Ok(())
    }

    fn print_details(&self, out: &mut dyn Write, one: &Run) -> Result<(), Error> {
        if let (Some(cap), Some(lookahead)) = (one.program.cap, one.program.lookahead) {
            writeln!(out, "bpipe: cap of {cap} micro-batches per stage in flight included, lookahead {lookahead}")?;
        }
        if self.per_stage {
            write!(out, "{}:\n{}", one.schedule.name(), text::stages(&one.run))?;
        }
        if self.timeline {
            write!(out, "{}, {}", one.schedule.name(), text::timeline(&one.run))?;
        }
        Ok(())
    }

    fn json_report(&self, pipeline: &Pipeline, one: &Run) -> serde_json::Value {
        let program = &one.program;
        let bound = pipeline.lower_bound_ns(program.layout, program.chunks, program.splits_backward());
        let mut report = serde_json::json!({
            "schedule": one.schedule.name(),
            "stages": pipeline.depth(),
            "micro_batches": pipeline.micro_batches,
            "makespan_ns": one.run.makespan_ns,
            "lower_bound_ns": bound,
            "bubble": one.run.bubble(),
            "stall_ns": one.run.stall_ns(),
            "mfu": one.mfu,
            "cap": program.cap,
            "lookahead": program.lookahead,
            "per_stage": one.run.stages,
        });
        if self.spans {
            report["spans"] = serde_json::json!(one.run.spans);
            report["memory"] = serde_json::json!(one.run.memory);
        }
        report
    }

    /// The schedules asked for, and whether by name: then each must fit.
    fn schedules(&self) -> Vec<(Schedule, bool)> {
        let bpipe = Schedule::BPipe { cap: self.cap, lookahead: self.lookahead };
        let interleaved = Schedule::Interleaved { chunks: self.chunks };
        let of_name = |name: &Name| match name {
            Name::Gpipe => vec![(Schedule::GPipe, true)],
            Name::OneFOneB => vec![(Schedule::OneFOneB, true)],
            Name::Interleaved => vec![(interleaved, true)],
            Name::Bpipe => vec![(bpipe, true)],
            Name::VHalf => vec![(Schedule::VHalf, true)],
            Name::All => [Schedule::GPipe, Schedule::OneFOneB, interleaved, bpipe, Schedule::VHalf]
                .map(|each| (each, false))
                .into(),
        };
        self.schedule.iter().flat_map(of_name).collect()
    }

    /// The pipeline of measurements.
    fn measured(&self) -> Result<Input, Error> {
        let case = Case::new(&self.inputs)?;
        let missing = |what: &str, expected: &str| Error::Missing { what: what.into(), expected: expected.into() };
        let sizes = case.profile.micro_batches();
        let b = match (self.micro_batch, &sizes[..]) {
            (Some(b), _) if sizes.contains(&b) => b,
            (None, &[only]) => only,
            (Some(b), _) => {
                let expected = "a measurement at that size: --profile, --stage-time-us or --stage-mfu";
                return Err(missing(&format!("times at micro-batch {b}"), expected));
            }
            (None, []) => return Err(missing("times", "--forward-us and --backward-us, or measurements")),
            (None, _) => return Err(missing("micro-batch", "--micro-batch, as several sizes were measured")),
        };
        let pipeline = case.pipeline(b)?.ok_or_else(|| {
            missing("times", "--stage-time-us, or --stage-mfu with --peak-tflops and --preset or --flops-per-sample")
        })?;
        let rates = case.flops_per_sample.zip(case.peak_flops);
        let rates = rates.map(|(flops, peak)| (flops * f64::from(case.replica.global_batch), peak));
        Ok(Input { pipeline: self.with_extras(pipeline)?, rates, note: case.note() })
    }

    /// The pipeline of the times given one by one.
    fn given(&self) -> Result<Pipeline, Error> {
        let longest = self.forward_us.len().max(self.backward_us.len());
        let p = depth(self.inputs.stages.unwrap_or(longest as u32))?;
        let forward = per_stage("forward times", &self.forward_us, 1.0, p)?;
        let backward = per_stage("backward times", &self.backward_us, 1.0, p)?;
        let activations = per_stage("activations", &self.inputs.activation_mib, MIB, p)?;
        let weights = per_stage("static memory", &self.inputs.static_gib, 1024.0 * MIB, p)?;
        let at = |list: &[f64], stage: usize| list.get(stage).or(list.first()).copied().unwrap_or(0.0);
        let cost = |stage: usize| -> Result<StageCost, Error> {
            let cost = stage_cost(at(&forward, stage), at(&backward, stage), self.inputs.weight_grad_share)?;
            let activation_bytes = at(&activations, stage).round() as u64;
            Ok(StageCost { activation_bytes, static_bytes: at(&weights, stage).round() as u64, ..cost })
        };
        let boundary_mib = not_negative("boundary", self.inputs.boundary_mib.unwrap_or(0.0))?;
        self.with_extras(Pipeline {
            stages: (0..p as usize).map(cost).collect::<Result<_, _>>()?,
            embedding: StageCost::default(),
            head: StageCost::default(),
            micro_batches: self.micro_batches.unwrap_or(0),
            boundary_bytes: (boundary_mib * MIB).round() as u64,
            cluster: self.inputs.cluster.cluster()?,
        })
    }

    fn with_extras(&self, mut pipeline: Pipeline) -> Result<Pipeline, Error> {
        let extra = |what: &str, times: &[f64]| match times {
            [] => Ok(None),
            &[forward, backward] => {
                nanoseconds(what, forward)?;
                stage_cost(forward, backward, self.inputs.weight_grad_share).map(Some)
            }
            other => Err(Error::Count { what: what.into(), expected: 2, got: other.len() }),
        };
        if let Some(embedding) = extra("embedding times", &self.embedding_us)? {
            pipeline.embedding = embedding;
        }
        if let Some(head) = extra("head times", &self.head_us)? {
            pipeline.head = head;
        }
        Ok(pipeline)
    }
}
