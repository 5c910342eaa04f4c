//! Critical sparsity: how much of each place of the MLPs a model bears to lose.

use moray::Cpu;
use moray::llama::{Model, Settings};

use super::masked::{Masked, Place};
use super::{Analysis, Row};
use crate::error::Result;
use crate::eval::{Runner, Scored, Text, evaluate};
use crate::on_cpu::OnCpu;
use crate::study::{Point, allowed_at};

/// Shares of the sum of a token's sizes that stay.
const TOP_P: [f64; 5] = [0.99, 0.97, 0.94, 0.9, 0.8];

/// More perplexity than this, in percent, is too much.
const LOSS_PERCENT: f64 = 1.0;

/// Leaves out, of one place of every MLP at a time, all but the fewest values of each token that have the share p of the sum of their sizes,
/// and finds what share of the values that is and what it does to perplexity; the sparsity at which perplexity is 1% higher is read off
/// the line between them.
///
/// # Errors
/// As [`evaluate`]; [`moray::Error::Unsupported`] for MLPs by neuron.
///
/// # Source
/// Universal properties of activation sparsity in modern large language models (ICLR 2026), with perplexity as the score.
pub fn critical(cpu: &Cpu, model: &Model<Cpu>, tokens: &[u32]) -> Result<Analysis> {
    let context = tokens.len();
    let text = Text { tokens, bos: None, context, scored: Scored::EveryToken };
    let model = Masked::model(model)?;
    let dense = nll(cpu, &OnCpu(Masked::new(cpu, Place::Products, 1.0)), &model, &text)?;
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    for place in Place::ALL {
        let mut points = Vec::with_capacity(TOP_P.len());
        for top_p in TOP_P {
            let device = OnCpu(Masked::new(cpu, place, top_p));
            let ratio = (nll(cpu, &device, &model, &text)? - dense).exp();
            points.push((device.0.sparsity(), ratio));
        }
        let row = |what: &str, values: Vec<f64>| Row {
            name: format!("{}, {what}", place.name()),
            values: values.into_iter().map(Some).collect(),
        };
        rows.push(row("left out", points.iter().map(|point| point.0).collect()));
        rows.push(row("perplexity over dense", points.iter().map(|point| point.1).collect()));
        let points: Vec<Point> = points
            .iter()
            .map(|(sparsity, ratio)| Point { gain: 1.0 + sparsity, loss: 100.0 * (ratio - 1.0) })
            .collect();
        found.push(format!("{:.1}% of the {}", 100.0 * (allowed_at(&points, LOSS_PERCENT) - 1.0), place.name()));
    }
    let says = format!(
        "Critical sparsity at {LOSS_PERCENT}% more perplexity, one place at a time: {}, over {} tokens; no share below {:.0}% was tried.",
        found.join(", "),
        tokens.len(),
        100.0 * TOP_P[TOP_P.len() - 1]
    );
    Ok(Analysis {
        name: "critical".into(),
        title: "Critical sparsity under a top-p rule".into(),
        x: "share of the sizes that stays".into(),
        y: "share of values left out, and perplexity over the dense model's".into(),
        columns: TOP_P.iter().map(ToString::to_string).collect(),
        rows,
        says,
    })
}

fn nll<'a>(cpu: &Cpu, device: &OnCpu<Masked<'a>>, model: &Model<OnCpu<Masked<'a>>>, text: &Text<'_>) -> Result<f64> {
    let runner = Runner { device, model, settings: Settings::dense(text.context) };
    Ok(evaluate(cpu, text, text.context, &runner, None, &mut |_| ())?.nll)
}
