//! Timeline and memory plots as SVG, and the self-contained page around them.

use crate::op::OpKind;
use crate::schedule::Schedule;
use crate::simulation::{MemorySample, Simulation, Span};
use crate::text;
use std::fmt::Write;

/// Width of a plot in px, without its labels.
const WIDTH: f64 = 1100.0;
/// Room for the labels in px.
const LEFT: f64 = 70.0;
/// Most operations drawn; beyond it the timeline shows the iteration's start.
const MAX_DRAWN: usize = 6000;

/// One schedule's run, as the page shows it.
#[derive(Debug, Clone, Copy)]
pub struct Drawn<'a> {
    /// The schedule.
    pub schedule: Schedule,
    /// Its run.
    pub run: &'a Simulation,
    /// BPipe's cap in micro-batches.
    pub cap: Option<u32>,
}

fn colour(kind: OpKind) -> &'static str {
    match kind {
        OpKind::Forward => "#4477aa",
        OpKind::Backward => "#ee8866",
        OpKind::InputGrad => "#ee8866",
        OpKind::WeightGrad => "#ddaa33",
        OpKind::Evict => "#aa3377",
        OpKind::Load => "#228833",
    }
}

fn open(height: f64, title: &str) -> String {
    let width = LEFT + WIDTH + 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    )
}

/// The time up to which the timeline is drawn.
fn window_ns(run: &Simulation) -> u64 {
    if run.spans.len() <= MAX_DRAWN {
        return run.makespan_ns;
    }
    let mut starts: Vec<u64> = run.spans.iter().map(|span| span.start_ns).collect();
    let (_, cut, _) = starts.select_nth_unstable(MAX_DRAWN);
    (*cut).max(1)
}

/// Draws every device's operations over time; transfers are a thin bar below the evictor's row.
pub fn timeline_svg(drawn: &Drawn<'_>) -> String {
    const ROW: f64 = 26.0;
    let run = drawn.run;
    let window = window_ns(run);
    let scale = WIDTH / window as f64;
    let height = 46.0 + ROW * run.stages.len() as f64;
    let mut svg = open(height, &format!("timeline of {}", drawn.schedule.name()));
    for stage in 0..run.stages.len() {
        let y = ROW * stage as f64 + 4.0;
        // Writing to a String cannot fail.
        let _ = writeln!(svg, "<text x=\"4\" y=\"{:.1}\">stage {stage}</text>", y + 13.0);
        let _ = writeln!(svg, "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{WIDTH}\" height=\"18\" fill=\"#eeeeee\"/>");
    }
    for span in run.spans.iter().filter(|span| span.start_ns < window) {
        draw_span(&mut svg, span, window, scale, ROW * f64::from(span.device) + 4.0);
    }
    let bottom = height - 24.0;
    let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.1}\">0</text>", bottom + 2.0);
    let end = text::time(window as f64);
    let right = LEFT + WIDTH;
    let _ = writeln!(svg, "<text x=\"{right}\" y=\"{:.1}\" text-anchor=\"end\">{end}</text>", bottom + 2.0);
    legend(&mut svg, run, bottom + 16.0);
    svg.push_str("</svg>\n");
    svg
}

fn draw_span(svg: &mut String, span: &Span, window: u64, scale: f64, row: f64) {
    let (x, end) = (span.start_ns as f64 * scale, span.end_ns.min(window) as f64 * scale);
    let (y, height) = if span.op.kind.is_transfer() { (row + 19.0, 3.0) } else { (row, 18.0) };
    let (x, width) = (LEFT + x, (end - x).max(0.2));
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.2}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height}\" fill=\"{}\" stroke=\"#ffffff\" \
         stroke-width=\"0.3\"><title>{}: {} to {}</title></rect>",
        colour(span.op.kind),
        span.op,
        text::time(span.start_ns as f64),
        text::time(span.end_ns as f64),
    );
    if width >= 12.0 && !span.op.kind.is_transfer() {
        let (middle, line) = (x + width / 2.0, y + 13.0);
        let _ = writeln!(
            svg,
            "<text x=\"{middle:.2}\" y=\"{line:.1}\" text-anchor=\"middle\" fill=\"#ffffff\">{}</text>",
            span.op.micro_batch
        );
    }
}

fn legend(svg: &mut String, run: &Simulation, y: f64) {
    let kinds = [
        (OpKind::Forward, "forward"),
        (OpKind::Backward, "backward"),
        (OpKind::InputGrad, "input gradient"),
        (OpKind::WeightGrad, "weight gradient"),
        (OpKind::Evict, "evict"),
        (OpKind::Load, "load"),
    ];
    let mut x = LEFT;
    for (kind, name) in kinds {
        if run.spans.iter().any(|span| span.op.kind == kind) {
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{:.1}\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"{y:.1}\">{name}</text>",
                y - 9.0,
                colour(kind),
                x + 14.0
            );
            x += 110.0;
        }
    }
}

/// Draws every device's activation memory over time, in micro-batches of a whole stage; the cap is dashed.
pub fn memory_svg(drawn: &Drawn<'_>) -> String {
    const HEIGHT: f64 = 240.0;
    let run = drawn.run;
    let chunks = f64::from(drawn.schedule.chunks());
    let top = run.peak_micro_batches().max(f64::from(drawn.cap.unwrap_or(0))).max(1.0);
    let level = |held: f64| 10.0 + HEIGHT * (1.0 - held / top);
    let mut svg = open(HEIGHT + 40.0, &format!("activation memory of {}", drawn.schedule.name()));
    let ticks = (top.ceil() as u32).min(8);
    for tick in 0..=ticks {
        let held = (top * f64::from(tick) / f64::from(ticks)).round();
        let (y, right) = (level(held), LEFT + WIDTH);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{held}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    for (stage, samples) in run.memory.iter().enumerate() {
        let hue = 300.0 * stage as f64 / run.memory.len() as f64;
        let points = step_line(samples, run.makespan_ns, |units| level(f64::from(units) / chunks));
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"hsl({hue:.0},65%,45%)\" points=\"{points}\"><title>stage {stage}</title></polyline>"
        );
    }
    if let Some(cap) = drawn.cap {
        let (y, right) = (level(f64::from(cap)), LEFT + WIDTH);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#000000\" stroke-dasharray=\"6 4\"/>"
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.1}\">micro-batches held per stage, 0 to {} (stage 0 red, last stage violet)</text>",
        HEIGHT + 30.0,
        text::time(run.makespan_ns as f64)
    );
    svg.push_str("</svg>\n");
    svg
}

/// The points of a step line; within a px only its lowest, highest and last level.
fn step_line(samples: &[MemorySample], end_ns: u64, level: impl Fn(u32) -> f64) -> String {
    let scale = WIDTH / end_ns.max(1) as f64;
    let mut points = String::new();
    let mut held = 0;
    let mut at = 0;
    while at < samples.len() {
        let pixel = (samples[at].time_ns as f64 * scale) as u64;
        let x = LEFT + samples[at].time_ns as f64 * scale;
        let _ = write!(points, "{x:.1},{:.1} ", level(held));
        let (mut low, mut high) = (held, held);
        while at < samples.len() && (samples[at].time_ns as f64 * scale) as u64 == pixel {
            held = samples[at].units;
            (low, high) = (low.min(held), high.max(held));
            at += 1;
        }
        for units in [low, high, held] {
            let _ = write!(points, "{x:.1},{:.1} ", level(units));
        }
    }
    let _ = write!(points, "{:.1},{:.1}", LEFT + WIDTH, level(held));
    points
}

/// Writes the page: the comparison, then timeline, stages and memory of every schedule. It loads nothing.
pub fn page(drawn: &[Drawn<'_>], comparison: &str) -> String {
    let mut html = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>moray bpipe simulate</title>\n<style>\n\
         body { font-family: sans-serif; margin: 2rem auto; max-width: 1220px; padding: 0 1rem; }\n\
         pre { overflow-x: auto; background: #f6f6f6; padding: 0.6rem; }\n\
         svg { width: 100%; height: auto; border: 1px solid #dddddd; }\n</style>\n</head>\n<body>\n\
         <h1>Pipeline schedules</h1>\n",
    );
    let _ = writeln!(html, "<pre>{}</pre>", escape(comparison));
    for one in drawn {
        let _ = writeln!(html, "<h2>{}</h2>", one.schedule.name());
        let window = window_ns(one.run);
        if window < one.run.makespan_ns {
            let (shown, whole) = (text::time(window as f64), text::time(one.run.makespan_ns as f64));
            let _ = writeln!(html, "<p>The timeline shows the first {shown} of {whole}.</p>");
        }
        html.push_str(&timeline_svg(one));
        html.push_str(&memory_svg(one));
        let _ = writeln!(html, "<pre>{}</pre>", escape(&text::stages(one.run)));
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
