//! The terminal's tables and timeline.

use crate::claims::Verdict;
use crate::estimate::Estimate;
use crate::explain::Explanation;
use crate::op::OpKind;
use crate::schedule::Schedule;
use crate::simulation::{Simulation, Span};
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

/// A table whose cells are given as text; columns of numbers are right-aligned, columns without any are left out.
fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let number = |cell: &String| cell.starts_with(|first: char| first.is_ascii_digit() || "+-".contains(first));
    let kept: Vec<usize> = (0..header.len()).filter(|&at| rows.iter().any(|row| row[at] != "-")).collect();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(kept.iter().map(|&at| header[at]));
    for row in &rows {
        table.add_row(kept.iter().map(|&at| &row[at]));
    }
    for (column, &at) in table.column_iter_mut().zip(&kept) {
        if rows.iter().all(|row| number(&row[at])) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".into())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}

fn signed(change: f64) -> String {
    format!("{:+.1}%", 100.0 * change)
}

fn gib(bytes: u64) -> String {
    let gib = bytes as f64 / f64::from(1 << 30);
    if gib < 1.0 { format!("{gib:.3}") } else { format!("{gib:.1}") }
}

fn yes(holds: bool) -> String {
    if holds { "yes" } else { "no" }.into()
}

/// Shows a time in the unit that keeps it readable.
pub fn time(time_ns: f64) -> String {
    match time_ns {
        t if t < 1e6 => format!("{} us", t / 1e3),
        t if t < 1e9 => format!("{:.3} ms", t / 1e6),
        t => format!("{:.3} s", t / 1e9),
    }
}

/// Shows an estimate: one row per micro-batch size and what follows for BPipe.
pub fn estimate(estimate: &Estimate) -> String {
    let known = estimate.rows.iter().any(|row| row.fit.is_some());
    let mut header =
        vec!["b", "m", "stage MFU", "stage gain", "break-even", "bubble", "MFU 1F1B", "MFU BPipe", "speed-up"];
    if known {
        header.extend(["GiB 1F1B", "fits", "GiB BPipe", "fits"]);
    }
    let rows = estimate.rows.iter().map(|row| {
        let fits = |fit: bool| row.mfu.filter(|_| fit).map(percent);
        let mut cells = vec![
            row.measured.micro_batch.to_string(),
            row.micro_batches.to_string(),
            or_dash(row.measured.stage_mfu.map(percent)),
            signed(row.stage_gain),
            signed(row.break_even_gain),
            percent(row.bubble),
            or_dash(fits(row.runs_plain())),
            or_dash(fits(row.runs())),
            format!("{:.3}x", row.speed_up),
        ];
        if let Some(fit) = row.fit {
            cells.extend([gib(fit.plain_bytes), yes(fit.plain()), gib(fit.bpipe_bytes), yes(fit.bpipe())]);
        }
        cells
    });
    let mut text = table(&header, rows);
    let base = estimate.baseline;
    text.push_str(&format!(
        "speed-ups over b = {base} by equation 4: an upper bound, as it leaves out transfers and communication\n"
    ));
    match (estimate.bpipe_gain, estimate.best_plain, estimate.best_bpipe) {
        (Some(gain), Some(plain), Some(bpipe)) if plain != bpipe => text.push_str(&format!(
            "fastest without bpipe: b = {plain}; with bpipe: b = {bpipe}, at most {gain:.3}x as fast\n"
        )),
        (Some(_), Some(plain), _) => {
            text.push_str(&format!("fastest with and without bpipe: b = {plain}; bpipe gains nothing\n"));
        }
        (_, None, Some(bpipe)) => {
            text.push_str(&format!("nothing fits without bpipe; with bpipe the fastest is b = {bpipe}\n"));
        }
        (_, None, None) => text.push_str("nothing measured fits, with or without bpipe\n"),
        _ => text.push_str("memory not known: give --preset, or activation and static bytes, and --memory-gib\n"),
    }
    text
}

/// Shows simulated schedules side by side.
pub fn simulations(runs: &[(Schedule, Simulation, Option<f64>)]) -> String {
    let memory = runs.iter().any(|(_, run, _)| run.peak_bytes() > 0);
    let mut header = vec!["schedule", "makespan", "bubble", "stall", "evictions", "peak micro-batches"];
    if memory {
        header.push("peak GiB");
    }
    header.push("MFU");
    let rows = runs.iter().map(|(schedule, run, mfu)| {
        let evictions: u32 = run.stages.iter().map(|stage| stage.evictions).sum();
        let mut cells = vec![
            schedule.name().to_string(),
            time(run.makespan_ns as f64),
            format!("{:.2}%", 100.0 * run.bubble()),
            time(run.stall_ns() as f64),
            evictions.to_string(),
            format!("{}", run.peak_micro_batches()),
        ];
        if memory {
            cells.push(gib(run.peak_bytes()));
        }
        cells.push(or_dash(mfu.map(percent)));
        cells
    });
    table(&header, rows)
}

/// Shows every stage of one simulation.
pub fn stages(run: &Simulation) -> String {
    let header = ["stage", "busy", "stall", "evictions", "transfers", "peak micro-batches", "peak GiB"];
    let rows = run.stages.iter().enumerate().map(|(index, stage)| {
        vec![
            index.to_string(),
            percent(stage.busy_ns as f64 / run.makespan_ns as f64),
            time(stage.stall_ns as f64),
            stage.evictions.to_string(),
            time(stage.transfer_ns as f64),
            format!("{}", stage.peak_micro_batches),
            gib(stage.peak_bytes()),
        ]
    });
    table(&header, rows)
}

/// Most columns of a text timeline.
const WIDTH: u64 = 160;

/// Draws a timeline, one row per device and one per evictor's link: forwards as digits, backwards as letters (weight
/// gradients as capitals), evictions as `<` and loads as `>` with their micro-batch's digit, by micro-batch modulo 10.
/// A column is the greatest common divisor of all times, or what fits the width.
pub fn timeline(run: &Simulation) -> String {
    let step = run.spans.iter().flat_map(|span| [span.start_ns, span.end_ns]).fold(run.makespan_ns, gcd).max(1);
    let step = step.max(run.makespan_ns.div_ceil(WIDTH));
    let columns = run.makespan_ns.div_ceil(step) as usize;
    let mut text = format!("one column is {}\n", time(step as f64));
    for device in 0..run.stages.len() as u32 {
        let mut compute = vec![b'.'; columns];
        let mut link = vec![b' '; columns];
        let own: Vec<&Span> = run.spans.iter().filter(|span| span.device == device).collect();
        for span in &own {
            let row = if span.op.kind.is_transfer() { &mut link } else { &mut compute };
            // A column shows what runs at its middle.
            let first = (span.start_ns + step / 2) / step;
            let end = ((span.end_ns + step / 2) / step).min(columns as u64);
            for (offset, cell) in row[first.min(end) as usize..end as usize].iter_mut().enumerate() {
                *cell = glyph(span, offset);
            }
        }
        text.push_str(&format!("stage {device:>2} |{}|\n", String::from_utf8_lossy(&compute)));
        if own.iter().any(|span| span.op.kind.is_transfer()) {
            text.push_str(&format!("   link  |{}|\n", String::from_utf8_lossy(&link)));
        }
    }
    text
}

fn glyph(span: &Span, offset: usize) -> u8 {
    let digit = (span.op.micro_batch % 10) as u8;
    match span.op.kind {
        OpKind::Forward => b'0' + digit,
        OpKind::Backward | OpKind::InputGrad => b'a' + digit,
        OpKind::WeightGrad => b'A' + digit,
        OpKind::Evict if offset == 0 => b'<',
        OpKind::Load if offset == 0 => b'>',
        OpKind::Evict | OpKind::Load => b'0' + digit,
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Shows the terms of a step.
pub fn explanation(explanation: &Explanation) -> String {
    let rows = explanation.terms.iter().map(|term| {
        let factor = or_dash(term.factor.map(|factor| format!("{factor:.3}x")));
        vec![term.name.to_string(), factor, term.detail.clone()]
    });
    let total = vec!["product".to_string(), format!("{:.3}x", explanation.speed_up), String::new()];
    let text = table(&["term", "factor", "why"], rows.chain([total]));
    format!("{text}{}\n", explanation.verdict)
}

/// Shows the claims: recalled figures are marked, the rest is computed here.
pub fn claims(verdicts: &[Verdict]) -> String {
    let header = [
        "model",
        "attention",
        "claim (recalled)",
        "largest b 1F1B -> BPipe",
        "break-even",
        "stage MFU (recalled)",
        "eq. 4 of recalled",
        "speed-up (recalled)",
        "stage gain measured",
        "eq. 4 measured",
    ];
    let attention = |claim: &crate::claims::Claim| match claim.attention {
        crate::activation::Attention::Naive => "recompute",
        crate::activation::Attention::Flash => "flash",
    };
    let rows = verdicts.iter().map(|verdict| {
        let size = |b: Option<u32>| or_dash(b.map(|b| b.to_string()));
        let factor = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.3}x")));
        let stage = verdict.claim.recalled_stage_mfu.map(|[y, x]| format!("{:.1} -> {:.1}", 100.0 * y, 100.0 * x));
        vec![
            verdict.claim.model.to_string(),
            attention(&verdict.claim).to_string(),
            verdict.claim.recalled.to_string(),
            format!("{} -> {}", size(verdict.largest_plain), size(verdict.largest_bpipe)),
            or_dash(verdict.break_even_gain.map(signed)),
            or_dash(stage),
            factor(verdict.from_recalled),
            factor(verdict.recalled_speed_up),
            verdict.measured_gain.map_or("not measured".into(), signed),
            verdict.measured_speed_up.map_or("not measured".into(), |value| format!("{value:.3}x")),
        ]
    });
    let note = "recalled: from the papers, unverified, used in this table only; so is the shape of gpt3-96b\n";
    format!("{}{note}", table(&header, rows))
}
