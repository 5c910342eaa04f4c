//! Why a model gains from BPipe or does not: the speed-up as a product of terms.
//!
//! Going from micro-batch y under 1F1B to x under BPipe changes throughput by
//! stage efficiency × bubble × imbalance × exposed communication × transfers. The first two are equation 4; the others
//! come from simulating each size as the ideal pipeline, with its real stages, with boundary transfers, and with
//! BPipe's, and compare how much each step adds.

use crate::equations::{Efficiency, Replica};
use crate::error::Error;
use crate::estimate::{Estimate, Row};
use crate::pipeline::Pipeline;
use crate::schedule::Schedule;
use crate::simulate::simulate;
use serde::Serialize;

/// One factor of the speed-up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Term {
    /// What it is.
    pub name: &'static str,
    /// Its factor on throughput, none where it is not known.
    pub factor: Option<f64>,
    /// What it says.
    pub detail: String,
}

/// The speed-up of one step and its terms.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The micro-batch size run with 1F1B.
    pub from: u32,
    /// The micro-batch size run with BPipe, or with 1F1B where it fits without.
    pub to: u32,
    /// Whether the larger size needs BPipe, none where memory is not known.
    pub needs_bpipe: Option<bool>,
    /// The terms.
    pub terms: Vec<Term>,
    /// The product of the known terms.
    pub speed_up: f64,
    /// What follows, in words.
    pub verdict: String,
}

/// Picks the step to explain: from the fastest size that runs without BPipe to the fastest that needs it; where memory
/// is not known, or no size needs it, to the fastest other size.
pub fn pick_step(estimate: &Estimate) -> Option<(u32, u32)> {
    let fastest = |allowed: &dyn Fn(&Row) -> bool| {
        let rows = estimate.rows.iter().filter(|row| allowed(row));
        rows.max_by(|a, b| a.speed_up.total_cmp(&b.speed_up)).map(|row| row.measured.micro_batch)
    };
    let known = estimate.rows.iter().all(|row| row.fit.is_some());
    let from = if known { estimate.best_plain? } else { estimate.baseline };
    let to = fastest(&|row| row.runs() && !row.runs_plain())
        .or_else(|| fastest(&|row| row.runs() && row.measured.micro_batch != from))?;
    Some((from, to))
}

/// Makespans of one size as the terms are added, in ns.
struct Ladder {
    ideal: f64,
    unequal: f64,
    connected: f64,
    complete: f64,
}

impl Ladder {
    /// Simulates the ideal pipeline (equation 1 with the slowest stage), the real stages, the boundary transfers, and
    /// the schedule asked for.
    fn climb(pipeline: &Pipeline, schedule: Schedule) -> Result<Self, Error> {
        pipeline.check()?;
        let slowest = pipeline.stages.iter().map(|cost| cost.forward_ns + cost.backward_ns()).max().unwrap_or(0);
        let slots = u64::from(pipeline.micro_batches) + u64::from(pipeline.depth()) - 1;
        let run = |pipeline: &Pipeline, schedule: Schedule| {
            simulate(pipeline, &schedule.program(pipeline)?).map(|run| run.makespan_ns as f64)
        };
        let silent = Pipeline { boundary_bytes: 0, cluster: crate::cluster::Cluster::FREE, ..pipeline.clone() };
        let connected = run(pipeline, Schedule::OneFOneB)?;
        Ok(Self {
            ideal: slots as f64 * slowest as f64,
            unequal: run(&silent, Schedule::OneFOneB)?,
            connected,
            complete: if schedule == Schedule::OneFOneB { connected } else { run(pipeline, schedule)? },
        })
    }
}

/// Explains one step. The pipelines, one per size, are needed for all terms but the first two.
///
/// # Errors
/// Those of the equations and of the simulator.
pub fn explain(
    replica: Replica,
    from: &Row,
    to: &Row,
    efficiency: (Efficiency, Efficiency),
    pipelines: Option<(Pipeline, Pipeline)>,
) -> Result<Explanation, Error> {
    let (y, x) = (from.measured.micro_batch, to.measured.micro_batch);
    let needs_bpipe = to.fit.map(|fit| !fit.plain());
    let schedule = match needs_bpipe {
        Some(false) => Schedule::OneFOneB,
        _ => Schedule::BPipe { cap: None, lookahead: None },
    };
    let gain = efficiency.1.value / efficiency.0.value;
    let bubble = replica.bubble_factor(y, x)?;
    let mut terms = vec![
        Term { name: "stage efficiency", factor: Some(gain), detail: format!("stage MFU {}", signed(gain - 1.0)) },
        Term {
            name: "bubble",
            factor: Some(bubble),
            detail: format!("{} -> {} of the iteration", percent(replica.bubble(y)?), percent(replica.bubble(x)?)),
        },
    ];
    let ladders = match pipelines {
        Some((of_y, of_x)) => Some((Ladder::climb(&of_y, Schedule::OneFOneB)?, Ladder::climb(&of_x, schedule)?)),
        None => None,
    };
    terms.extend(simulated_terms(ladders.as_ref()));
    let speed_up = terms.iter().filter_map(|term| term.factor).product();
    let needed = replica.break_even_gain(y, x)?;
    let verdict = verdict((y, x), needs_bpipe, gain - 1.0, needed, speed_up);
    Ok(Explanation { from: y, to: x, needs_bpipe, terms, speed_up, verdict })
}

fn simulated_terms(ladders: Option<&(Ladder, Ladder)>) -> Vec<Term> {
    let term = |name, upper: fn(&Ladder) -> f64, lower: fn(&Ladder) -> f64| {
        let Some((y, x)) = ladders else {
            let detail = "not known: give stage times, or FLOPs and peak".into();
            return Term { name, factor: None, detail };
        };
        let (before, after) = (upper(y) / lower(y), upper(x) / lower(x));
        let detail = format!("adds {} -> {} to the iteration", signed(before - 1.0), signed(after - 1.0));
        Term { name, factor: Some(before / after), detail }
    };
    vec![
        term("imbalance", |run| run.unequal, |run| run.ideal),
        term("exposed communication", |run| run.connected, |run| run.unequal),
        term("bpipe transfers", |run| run.complete, |run| run.connected),
    ]
}

fn verdict((y, x): (u32, u32), needs_bpipe: Option<bool>, gain: f64, needed: f64, speed_up: f64) -> String {
    if needs_bpipe == Some(false) {
        return format!(
            "no gain from bpipe: it unlocks no measured micro-batch that does not fit without it; \
             {y} -> {x} without bpipe changes throughput {speed_up:.3}x"
        );
    }
    let step = format!("the stage gains {} where {} breaks even", signed(gain), signed(needed));
    if speed_up > 1.0 {
        format!("bpipe gains {speed_up:.3}x for {y} -> {x}: {step}")
    } else if gain <= needed {
        format!("bpipe does not gain ({speed_up:.3}x) for {y} -> {x}: {step}")
    } else {
        format!("bpipe does not gain ({speed_up:.3}x) for {y} -> {x}: {step}, but the other terms take it back")
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn signed(change: f64) -> String {
    // A change below the last digit shown has no sign.
    let shown = (1000.0 * change).round() / 10.0;
    if shown == 0.0 { "+0.0%".into() } else { format!("{shown:+.1}%") }
}
