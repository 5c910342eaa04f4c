//! What a quantization reports: numbers for programs, and a page for people.

use std::fmt::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::directory::{LayerRecord, Layout};
use super::job::mean_peaks;
use super::layer::Site;
use super::options::{FormatName, Options};
use crate::checkpoint::{Checkpoint, LayerTensor};
use crate::choices::Scores;
use crate::error::Result;
use crate::eval::Evaluation;

/// Bytes of a model before and after.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Size {
    /// Weights of the layers' matrices.
    pub layer_weights: usize,
    /// Bytes of the layers' matrices as written, codes and scales.
    pub layer_bytes: usize,
    /// Bits a weight of them.
    pub bits_per_weight: f64,
    /// Bytes of everything as written.
    pub total_bytes: usize,
    /// Bytes of the layers' matrices in 16 bits.
    pub layer_bytes_16_bit: usize,
}

impl Size {
    /// Counts what was written.
    ///
    /// # Errors
    /// None for checkpoints that opened.
    pub fn of(before: &Checkpoint, after: &Checkpoint) -> Result<Self> {
        let config = before.config();
        let matrices = LayerTensor::ALL.into_iter().filter(|tensor| !tensor.is_vector());
        let weights: usize = matrices.map(|tensor| tensor.shape(config).iter().product::<usize>()).sum();
        let layer_weights = weights * config.n_layers;
        let layer_bytes = after.quantized_bytes();
        Ok(Size {
            layer_weights,
            layer_bytes,
            bits_per_weight: 8.0 * layer_bytes as f64 / layer_weights as f64,
            total_bytes: after.stored_bytes(),
            layer_bytes_16_bit: 2 * layer_weights,
        })
    }
}

/// What multiple-choice questions come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Questions {
    /// Of the result.
    pub quantized: Scores,
    /// Of the model in 16 bits.
    pub dense: Scores,
}

/// What a quantization reports.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The model that was quantized.
    #[serde(serialize_with = "crate::lossy_path::serialize")]
    pub model: PathBuf,
    /// How.
    pub options: Options,
    /// How it was written.
    pub layout: Layout,
    /// Calibration tokens used.
    pub calibration_tokens: usize,
    /// Layer by layer.
    pub layers: Vec<LayerRecord>,
    /// Bytes.
    pub size: Size,
    /// Against the 16-bit model, on text that was not used for calibration.
    pub quality: Option<Evaluation>,
    /// Multiple-choice questions; none where nothing was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<Questions>,
    /// Seconds that quantizing took.
    pub quantize_seconds: f64,
    /// Seconds that scoring took.
    pub evaluate_seconds: f64,
    /// Largest resident set.
    pub peak_memory_bytes: Option<usize>,
    /// Threads used.
    pub threads: usize,
    /// The machine.
    pub processor: Option<String>,
}

/// The report as one page that needs nothing else.
pub fn html(report: &Report) -> String {
    let options = &report.options;
    let title =
        format!("{} {} of {}", options.method, FormatName(options.format), escaped(&report.model.to_string_lossy()));
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}}\
         table{{border-collapse:collapse}}td,th{{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}}\
         td:first-child,th:first-child{{text-align:left}}svg{{max-width:100%;height:auto}}</style></head><body>\
         <h1>{title}</h1>"
    );
    page.push_str(&summary(report));
    page.push_str(
        "<h2>Error of each layer's output</h2><p>Σ‖q·x − y‖² / Σ‖y‖² on the calibration text, y the outputs \
         wanted: grey for round-to-nearest, blue for the codes chosen. For o and down, y is what the hidden state \
         lacks to be the unquantized model's.</p>",
    );
    for site in Site::ALL {
        let values = report.layers.iter().flat_map(|layer| &layer.sites).filter(|record| record.site == site);
        let pairs: Vec<(f64, f64)> = values.map(|record| (record.error.nearest, record.error.chosen)).collect();
        let _ = write!(page, "<h3>{}</h3>{}", site.name(), bars(&pairs));
    }
    page.push_str(
        "<h2>Outliers</h2><p>Mean over rows of max|v| / rms(v): grey before rotation and smoothing, blue after.\
         </p>",
    );
    for site in Site::ALL {
        let values = report.layers.iter().flat_map(|layer| &layer.sites).filter(|record| record.site == site);
        let pairs: Vec<(f64, f64)> = values.map(|record| (record.before.input, record.after.input)).collect();
        let _ = write!(page, "<h3>inputs of {}</h3>{}", site.name(), bars(&pairs));
    }
    page.push_str("</body></html>\n");
    page
}

fn summary(report: &Report) -> String {
    let mut out = String::from("<table>");
    let mut row = |name: &str, value: String| {
        let _ = write!(out, "<tr><td>{name}</td><td>{value}</td></tr>");
    };
    if let Some(quality) = &report.quality {
        row("perplexity", format!("{:.3} ± {:.3}", quality.perplexity, quality.perplexity_se));
        if let Some(dense) = &quality.dense {
            row("of the 16-bit model", format!("{:.3} ± {:.3}", dense.perplexity, dense.perplexity_se));
            row("increase", format!("{:+.2}%", 100.0 * (quality.perplexity / dense.perplexity - 1.0)));
            row("KL divergence", format!("{:.4} ± {:.4} nats", dense.kl, dense.kl_se));
            row(
                "same most probable token",
                format!("{:.1}% ± {:.1}%", dense.agreement_percent, dense.agreement_percent_se),
            );
        }
        row("scored tokens", quality.scored_tokens.to_string());
    }
    if let Some(Questions { quantized, dense }) = &report.questions {
        for (name, scores) in [("questions answered", quantized), ("by the 16-bit model", dense)] {
            let Scores { items, accuracy_percent, accuracy_percent_se, by_chance_percent, .. } = scores;
            row(
                name,
                format!(
                    "{accuracy_percent:.1}% ± {accuracy_percent_se:.1}% of {items}, {by_chance_percent:.1}% by chance"
                ),
            );
        }
    }
    row("calibration tokens", report.calibration_tokens.to_string());
    row("bits a weight", format!("{:.3}", report.size.bits_per_weight));
    row("layers", format!("{:.1} MB of {:.1} MB", mb(report.size.layer_bytes), mb(report.size.layer_bytes_16_bit)));
    row("everything", format!("{:.1} MB", mb(report.size.total_bytes)));
    row("time", format!("{:.0} s on {} threads", report.quantize_seconds, report.threads));
    if let Some(bytes) = report.peak_memory_bytes {
        row("peak memory", format!("{:.0} MB", mb(bytes)));
    }
    out.push_str(
        "</table><table><tr><th>site</th><th>weight peaks before</th><th>after</th><th>input peaks before</th>\
         <th>after</th></tr>",
    );
    for site in Site::ALL {
        let (before, after) = mean_peaks(&report.layers, site);
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td><td>{:.2}</td></tr>",
            site.name(),
            before.weight,
            after.weight,
            before.input,
            after.input
        );
    }
    out.push_str("</table>");
    out
}

fn mb(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Two bars for each layer, from zero to the largest.
fn bars(pairs: &[(f64, f64)]) -> String {
    let largest = pairs.iter().fold(f64::MIN_POSITIVE, |max, pair| max.max(pair.0).max(pair.1));
    let (step, height) = (28.0, 120.0);
    let width = 60.0 + step * pairs.len() as f64;
    let mut out = format!("<svg viewBox=\"0 0 {width} {}\" width=\"{width}\" role=\"img\">", height + 30.0);
    for (line, label) in [(0.0, largest), (0.5, largest / 2.0), (1.0, 0.0)] {
        let y = 10.0 + height * line;
        let _ = write!(
            out,
            "<line x1=\"50\" x2=\"{width}\" y1=\"{y}\" y2=\"{y}\" stroke=\"#ddd\"/><text x=\"46\" y=\"{}\" \
             text-anchor=\"end\" font-size=\"9\">{label:.3}</text>",
            y + 3.0
        );
    }
    for (index, (first, second)) in pairs.iter().enumerate() {
        let x = 54.0 + step * index as f64;
        for (offset, value, colour) in [(0.0, first, "#bbb"), (10.0, second, "#2563eb")] {
            let tall = height * value / largest;
            let _ = write!(
                out,
                "<rect x=\"{}\" y=\"{:.2}\" width=\"10\" height=\"{tall:.2}\" fill=\"{colour}\"><title>layer {index}: \
                 {value:.5}</title></rect>",
                x + offset,
                10.0 + height - tall
            );
        }
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"9\">{index}</text>",
            x + 10.0,
            height + 22.0
        );
    }
    out.push_str("</svg>");
    out
}
