//! Several ways to run one model, measured in turn.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::time::Instant;

use clap::Parser;
use moray::Cpu;
use moray::llama::{Backend, Model, Sampler, Sampling, Session, Settings};
use moray::policy::Named;

use super::device::cuda;
use super::generate::{Decode, by_calls};
use super::turns::{Rounds, Turn, in_turn};
use super::{Device, Looked, Run, Switches};
use crate::config::Activation;
use crate::error::{Error, Result};
use crate::load::LoadOptions;
use crate::machine::read_bandwidth;

/// A way to run a model: the switches of `moray generate` in one line, without the model.
#[derive(Debug, Clone)]
pub struct Way {
    /// The line.
    pub line: String,
    /// What it says.
    pub switches: Switches,
}

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    switches: Switches,
}

impl FromStr for Way {
    type Err = String;

    fn from_str(line: &str) -> std::result::Result<Self, String> {
        let words = ["--model", "-"].into_iter().chain(line.split_whitespace());
        let Line { switches } = Line::try_parse_from(words).map_err(|error| error.render().to_string())?;
        Ok(Self { line: line.split_whitespace().collect::<Vec<_>>().join(" "), switches })
    }
}

impl Way {
    /// The same switches for a model.
    pub(super) fn on(mut self, model: &Path) -> Self {
        self.switches.model = model.into();
        self
    }

    /// Its policies, of heads, neurons and inputs.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Named> {
        [&self.switches.heads, &self.switches.mlp, &self.switches.left_out.inputs].into_iter()
    }

    /// The row that a row is compared with: the first of the same weights of which all is computed, or, for that one, the first row.
    pub(super) fn baseline(ways: &[Self], row: usize) -> usize {
        let weights = |way: &Self| (way.switches.weights, way.switches.activations);
        let base = ways.iter().position(|way| way.switches.compute_all() && weights(way) == weights(&ways[row]));
        base.filter(|&base| base != row).unwrap_or(0)
    }
}

/// What ways share that share a model.
type Held = (LoadOptions, Option<Activation>, Option<(Looked, Option<PathBuf>)>);

/// Ways whose models are loaded, each model once however many ways share it.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ways: Vec<Way>,
    runs: Rc<Vec<(Held, Run)>>,
}

fn held(switches: &Switches) -> Held {
    let preview = switches.left_out.logits.0.map(|looked| (looked, switches.calibration.clone()));
    (switches.load_options(), switches.activation, preview)
}

impl Loaded {
    /// Loads what the ways need.
    ///
    /// # Errors
    /// What is wrong with the switches or the model.
    pub(super) fn new(ways: Vec<Way>, mut tick: impl FnMut()) -> Result<Self> {
        let mut runs: Vec<(Held, Run)> = Vec::new();
        for way in &ways {
            way.switches.check_device()?;
            let options = held(&way.switches);
            if runs.iter().all(|(other, _)| *other != options) {
                runs.push((options, way.switches.load()?));
            }
            tick();
        }
        Ok(Self { ways, runs: Rc::new(runs) })
    }

    /// Other ways to run the models that are loaded.
    pub(super) fn with_ways(&self, ways: Vec<Way>) -> Self {
        Self { ways, runs: Rc::clone(&self.runs) }
    }

    /// The model of a way, by its place among those that are loaded.
    fn model_of(&self, way: &Way) -> usize {
        let options = held(&way.switches);
        match self.runs.iter().position(|(other, _)| *other == options) {
            Some(index) => index,
            None => unreachable!("every way's model is loaded"),
        }
    }

    /// What was loaded for a way.
    pub(super) fn run(&self, way: &Way) -> &Run {
        &self.runs[self.model_of(way)].1
    }

    /// All that was loaded.
    pub(super) fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().map(|(_, run)| run)
    }
}

/// What is measured of each row: a column for the prefill, if there is one, then one for each position.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Tokens to run: prompts, and what follows them.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prefill; 0 for none.
    pub(super) prompt: usize,
    /// Tokens that decoding comes after.
    pub(super) positions: Vec<usize>,
    /// Tokens that are decoded.
    pub(super) n: usize,
    pub(super) rounds: usize,
}

impl Plan {
    /// Tokens of text that the longest prompt takes.
    pub(super) fn longest(prompt: usize, positions: &[usize]) -> usize {
        positions.iter().copied().fold(prompt, usize::max)
    }
}

/// What came of measuring.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) rounds: Rounds,
    /// The name of a device other than the processor.
    pub(super) device: Option<String>,
    /// Bytes a second that the device reads from memory.
    pub(super) bandwidth: f64,
}

/// Measures every way in turn with `others`, whose rows follow those of the ways.
///
/// # Errors
/// What running can fail with, and what the others do.
pub(super) fn measure(loaded: &Loaded, plan: &Plan, others: Vec<Turn<'_>>, tick: &mut dyn FnMut()) -> Result<Measured> {
    if loaded.ways.iter().any(|way| way.switches.device == Device::Cuda) {
        return cuda::measure(loaded, plan, others, tick);
    }
    let devices = loaded.ways.iter().map(|way| way.switches.cpu()).collect::<Result<Vec<Cpu>>>()?;
    let models: Vec<_> = loaded.runs().map(|run| &run.model).collect();
    let before = devices.first().map_or(0.0, read_bandwidth);
    let devices: Vec<&Cpu> = devices.iter().collect();
    let rounds = measure_on(&devices, &models, loaded, plan, others, tick, &by_calls)?;
    let after = devices.first().map_or(0.0, |cpu| read_bandwidth(cpu));
    Ok(Measured { rounds, device: None, bandwidth: before.max(after) })
}

/// As [`measure`], on `devices`, one for each way, with `models`, one for each that is loaded.
///
/// # Errors
/// As [`measure`].
pub(super) fn measure_on<'a, B: Backend>(
    devices: &[&'a B],
    models: &[&'a Model<B>],
    loaded: &'a Loaded,
    plan: &'a Plan,
    others: Vec<Turn<'a>>,
    tick: &mut dyn FnMut(),
    decode: Decode<'a, B>,
) -> Result<Rounds> {
    let mut turns = Vec::with_capacity(loaded.ways.len() + others.len());
    for (way, device) in loaded.ways.iter().zip(devices) {
        let model = loaded.model_of(way);
        let seat = Seat { device: *device, model: models[model], decode };
        turns.push(seat.turn(&way.switches, &loaded.runs[model].1, plan)?);
        tick();
    }
    turns.extend(others);
    in_turn(&mut turns, plan.rounds, tick)
}

/// Where a way runs.
struct Seat<'a, B: Backend> {
    device: &'a B,
    model: &'a Model<B>,
    decode: Decode<'a, B>,
}

impl<B: Backend> Clone for Seat<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B: Backend> Copy for Seat<'_, B> {}

impl<'a, B: Backend> Seat<'a, B> {
    /// Runs every prompt once, and returns what measures then: speeds by column, then the bytes of weights that a token read which was
    /// decoded from the first position.
    fn turn(self, switches: &Switches, run: &'a Run, plan: &'a Plan) -> Result<Turn<'a>> {
        let context = Plan::longest(plan.prompt, &plan.positions).saturating_add(plan.n);
        let limit = run.checkpoint.config().context_length;
        if context > limit {
            let what = "the last position measured".into();
            return Err(Error::Index { what, limit: limit + 1, got: context });
        }
        // policies are calibrated once for all of a way's sessions
        let settings = switches.settings(run, 1, context)?;
        let of =
            |context: usize| Settings { context, max_tokens: settings.max_tokens.min(context), ..settings.clone() };
        let mut decoding = Vec::with_capacity(plan.positions.len());
        for &position in &plan.positions {
            decoding.push(Decoding::new(self, of(position + plan.n), &plan.tokens[..position])?);
        }
        let mut prefill = match plan.prompt {
            0 => None,
            tokens => Some(self.model.session(self.device, of(tokens))?),
        };
        Ok(Box::new(move || {
            let mut values = Vec::with_capacity(2 + decoding.len());
            if let Some(session) = &mut prefill {
                values.push(Some(self.prefill(session, &plan.tokens[..plan.prompt])?));
            }
            for decoding in &mut decoding {
                values.push(Some(decoding.time(self, plan.n)?));
            }
            let read = |decoding: &Decoding<B>| run.model.bytes_read(&decoding.session.policies().usage()) as f64;
            values.push(decoding.first().map(read));
            Ok(values)
        }))
    }

    /// Tokens a second over a prompt.
    fn prefill(&self, session: &mut Session<B>, prompt: &[u32]) -> Result<f64> {
        self.model.truncate(self.device, session, 0, 0)?;
        let start = Instant::now();
        self.model.prefill(self.device, session, 0, prompt)?;
        Ok(prompt.len() as f64 / start.elapsed().as_secs_f64())
    }
}

/// A session that decodes again and again after the same prompt.
struct Decoding<B: Backend> {
    session: Session<B>,
    position: usize,
    /// The token after the prompt.
    first: u32,
}

impl<B: Backend> Decoding<B> {
    fn new(seat: Seat<'_, B>, settings: Settings, prompt: &[u32]) -> Result<Self> {
        let mut session = seat.model.session(seat.device, settings)?;
        let logits = seat.model.prefill(seat.device, &mut session, 0, prompt)?;
        let first = sampler()?.sample(logits)?;
        session.forget_usage();
        Ok(Self { session, position: prompt.len(), first })
    }

    /// Tokens a second over `n` tokens, each the most probable after those before.
    fn time(&mut self, seat: Seat<'_, B>, n: usize) -> Result<f64> {
        let Self { session, position, first } = self;
        seat.model.truncate(seat.device, session, 0, *position)?;
        let mut token = *first;
        let mut next = (seat.decode)(seat.device, seat.model, session, sampler()?, token)?;
        let start = Instant::now();
        for _ in 0..n {
            token = next(token)?;
        }
        Ok(n as f64 / start.elapsed().as_secs_f64())
    }
}

fn sampler() -> Result<Sampler> {
    Ok(Sampler::new(Sampling { temperature: 0.0, top_p: 1.0, min_p: 0.0 }, 0)?)
}

#[cfg(test)]
mod tests {
    use super::Way;

    #[test]
    fn lines_are_read_as_the_command_reads_them() {
        let way: Way = " --weights g64  --mlp topk:0.5".parse().unwrap();
        assert_eq!(way.line, "--weights g64 --mlp topk:0.5");
        assert_eq!((way.switches.weights.to_string(), way.switches.mlp.to_string()), ("g64".into(), "topk:0.5".into()));
        for (line, named) in [("--weights g65", "g65"), ("--colour red", "--colour"), ("--model a.gguf", "--model")] {
            let refusal = line.parse::<Way>().unwrap_err();
            assert!(refusal.contains(named), "{refusal}");
        }
    }

    #[test]
    fn baselines_have_the_same_weights() {
        let lines = [
            "--weights dense",
            "--weights as-file",
            "--weights dense --mlp topk:0.5",
            "--weights as-file --heads norm:0.5",
            "--weights as-file --activations fine",
            "--weights g64 --mlp topk:0.5",
        ];
        let ways = lines.map(|line| line.parse::<Way>().unwrap());
        let found: Vec<usize> = (0..ways.len()).map(|row| Way::baseline(&ways, row)).collect();
        assert_eq!(found, [0, 0, 0, 1, 0, 0]);
    }
}
