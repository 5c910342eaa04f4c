//! Quantizing a model: smoothing, rotation, codes chosen against each layer's output, checkpoints and a report.
//!
//! # Source
//! QQQ (arXiv 2406.09904), GPTQ (arXiv 2210.17323), QuaRot (arXiv 2404.00456).

mod directory;
mod forward;
mod grid;
mod hadamard;
mod job;
mod layer;
mod matrix;
mod options;
mod outliers;
mod pipeline;
mod refine;
mod report;
mod rotate;
mod sites;
mod smooth;
mod solve;
mod source;
mod targets;

pub use directory::{ALGORITHM, Directory, Identity, LayerRecord, Layout, SiteRecord};
pub use hadamard::{hadamard, orthogonal};
pub use job::{Job, Stage};
pub use layer::{FloatLayer, Half, Projection, Site};
pub use matrix::Matrix;
pub use options::{FormatName, Method, Options};
pub use outliers::{Peaks, layer_peaks};
pub use pipeline::{QuantizedLayer, Streams, pass_layer, quantize_layer};
pub use report::{Questions, Report, Size, html};
pub use rotate::{Rotation, fold_norm};
pub use smooth::smooth_layer;
pub use solve::{DAMPING, SiteError, SolveOptions, Solved, Sums, solve};

pub use forward::Pass;
pub use source::Source;
