//! `moray bpipe explain`.

use super::case::{Case, capacity_bytes};
use super::inputs::Inputs;
use super::print_json;
use crate::claims::{self, Setting};
use crate::equations::{Efficiency, Replica};
use crate::error::Error;
use crate::estimate::{Estimate, Row};
use crate::explain::{explain, pick_step};
use crate::profile::Profile;
use crate::text;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Options of `moray bpipe explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub inputs: Inputs,
    /// Micro-batch size run with 1F1B [default: the fastest that fits without BPipe]
    #[arg(long, value_name = "b")]
    pub from: Option<u32>,
    /// Micro-batch size run with BPipe [default: the fastest that needs it]
    #[arg(long, value_name = "b")]
    pub to: Option<u32>,
    /// Show the papers' claims instead, recalled figures marked [defaults: B 128, p 8, t 4, 80 GiB less 4]
    #[arg(long)]
    pub claims: bool,
    /// Measured stages to judge the claims by; may be given several times
    #[arg(long, value_name = "FILE", requires = "claims", allow_hyphen_values = true)]
    pub measured: Vec<PathBuf>,
    /// Report as JSON
    #[arg(long)]
    pub json: bool,
}

impl ExplainArgs {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        if self.claims {
            return self.run_claims(out);
        }
        let case = Case::new(&self.inputs)?;
        let estimate = Estimate::new(case.replica, &case.measured()?, self.from, |b| case.fit(b))?;
        let picked = pick_step(&estimate);
        let from = self.from.or(picked.map(|(from, _)| from)).unwrap_or(estimate.baseline);
        let to = self.to.or(picked.map(|(_, to)| to)).ok_or_else(|| Error::Missing {
            what: "second micro-batch size".into(),
            expected: "two measured sizes that run, one without bpipe".into(),
        })?;
        let (from, to) = (row(&estimate, from)?, row(&estimate, to)?);
        let (of_from, of_to) = (case.pipeline(from.measured.micro_batch)?, case.pipeline(to.measured.micro_batch)?);
        // Both relative to the baseline, so it does not matter whether they were measured as MFU or as time.
        let efficiency = |row: &Row| Efficiency { micro_batch: row.measured.micro_batch, value: 1.0 + row.stage_gain };
        let report = explain(case.replica, from, to, (efficiency(from), efficiency(to)), of_from.zip(of_to))?;
        if self.json {
            let model = case.model.map(|(model, _)| *model);
            return print_json(out, &serde_json::json!({ "model": model, "explanation": report }));
        }
        out.write_all((text::explanation(&report) + &case.note()).as_bytes())?;
        Ok(())
    }

    fn run_claims(&self, out: &mut dyn Write) -> Result<(), Error> {
        let inputs = &self.inputs;
        let memory_gib = inputs.memory_gib.unwrap_or(80.0);
        let reserve_gib = if inputs.memory_gib.is_some() { inputs.reserve_gib } else { 4.0 };
        let setting = Setting {
            replica: Replica::new(inputs.global_batch.unwrap_or(128), inputs.stages.unwrap_or(8))?,
            tensor_parallel: inputs.tensor_parallel.unwrap_or(4),
            capacity_bytes: capacity_bytes(memory_gib, reserve_gib)?,
            bytes_per_parameter: inputs.bytes_per_parameter,
        };
        let profiles = self.measured.iter().map(|path| Profile::read(path)).collect::<Result<Vec<_>, _>>()?;
        let verdicts = claims::judge(&setting, &profiles)?;
        if self.json {
            return print_json(out, &serde_json::json!({ "setting": setting, "claims": verdicts }));
        }
        out.write_all(text::claims(&verdicts).as_bytes())?;
        Ok(())
    }
}

fn row(estimate: &Estimate, micro_batch: u32) -> Result<&Row, Error> {
    let found = estimate.rows.iter().find(|row| row.measured.micro_batch == micro_batch);
    found.ok_or_else(|| Error::Missing {
        what: format!("micro-batch {micro_batch}"),
        expected: "one of the measured micro-batch sizes".into(),
    })
}
