//! `moray bpipe estimate`.

use super::case::Case;
use super::inputs::Inputs;
use super::print_json;
use crate::error::Error;
use crate::estimate::Estimate;
use crate::presets::Model;
use crate::text;
use clap::Args;
use serde::Serialize;
use std::io::Write;

/// Options of `moray bpipe estimate`.
#[derive(Debug, Clone, Args)]
pub struct EstimateArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub inputs: Inputs,
    /// Micro-batch size the speed-ups are over [default: the fastest that fits without BPipe, else the smallest]
    #[arg(long, value_name = "b")]
    pub baseline: Option<u32>,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

/// The estimate and the shape it used.
#[derive(Serialize)]
struct Report {
    model: Option<Model>,
    #[serde(flatten)]
    estimate: Estimate,
}

impl EstimateArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let case = Case::new(&self.inputs)?;
        let estimate = Estimate::new(case.replica, &case.measured()?, self.baseline, |b| case.fit(b))?;
        if self.json {
            return print_json(out, &Report { model: case.model.map(|(model, _)| *model), estimate });
        }
        out.write_all((text::estimate(&estimate) + &case.note()).as_bytes())?;
        Ok(())
    }
}
