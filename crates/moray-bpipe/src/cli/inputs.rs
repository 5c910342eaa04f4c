//! The options the three commands share.

use crate::activation::{Attention, Recompute};
use crate::cluster::{Cluster, Link, Placement, nanoseconds};
use crate::error::Error;
use clap::Args;
use std::path::PathBuf;

/// Parses `b=value`.
fn sized(text: &str) -> Result<(u32, f64), String> {
    let parse = || {
        let (size, value) = text.split_once('=')?;
        Some((size.trim().parse().ok()?, value.trim().parse().ok()?))
    };
    parse().ok_or_else(|| format!("expected MICRO_BATCH=NUMBER such as 2=55.2, got {text:?}"))
}

/// What the pipeline is and what was measured.
#[derive(Debug, Clone, Args)]
pub struct Inputs {
    /// Samples per iteration and data-parallel replica, B
    #[arg(long, value_name = "B")]
    pub global_batch: Option<u32>,
    /// Pipeline depth, p
    #[arg(long, value_name = "P")]
    pub stages: Option<u32>,
    /// Stage MFU in percent per micro-batch size, such as 1=40,2=45
    #[arg(long, value_name = "b=PERCENT", value_delimiter = ',', value_parser = sized)]
    pub stage_mfu: Vec<(u32, f64)>,
    /// Forward and backward time of a stage in us per micro-batch size, such as 1=900,2=1600
    #[arg(long, value_name = "b=US", value_delimiter = ',', value_parser = sized)]
    pub stage_time_us: Vec<(u32, f64)>,
    /// Measured stages, JSON or CSV
    #[arg(long, value_name = "FILE", conflicts_with_all = ["stage_mfu", "stage_time_us"], allow_hyphen_values = true)]
    pub profile: Option<PathBuf>,
    /// Model shape: llama-7b, llama-13b, llama-33b, llama-65b or gpt3-96b
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub preset: Option<String>,
    /// Devices a layer is split over, t
    #[arg(long, value_name = "T")]
    pub tensor_parallel: Option<u64>,
    /// Split what tensor parallelism leaves whole over the sequence
    #[arg(long)]
    pub sequence_parallel: bool,
    /// Attention kernel [default: naive]
    #[arg(long)]
    pub attention: Option<Attention>,
    /// What backward computes again [default: none]
    #[arg(long)]
    pub recompute: Option<Recompute>,
    /// Tokens per sample, s [default: the preset's]
    #[arg(long, value_name = "S")]
    pub seq_len: Option<u64>,
    /// Peak of one device in TFLOP/s
    #[arg(long, value_name = "TFLOPS")]
    pub peak_tflops: Option<f64>,
    /// Model FLOPs of one sample, forward and backward, F [default: the profile's or the preset's]
    #[arg(long, value_name = "FLOPS")]
    pub flops_per_sample: Option<f64>,
    /// Memory of one device
    #[arg(long, value_name = "GIB")]
    pub memory_gib: Option<f64>,
    /// Part of it that context, communication buffers and fragmentation take
    #[arg(long, value_name = "GIB", default_value_t = 0.0)]
    pub reserve_gib: f64,
    /// Weights, gradients and optimizer state: 16-bit weight, 32-bit gradient, master weight and two Adam moments
    #[arg(long, value_name = "BYTES", default_value_t = 18.0)]
    pub bytes_per_parameter: f64,
    /// Activations of a stage for one sample, without a preset: one number or one per stage
    #[arg(long, value_name = "MIB", value_delimiter = ',')]
    pub activation_mib: Vec<f64>,
    /// Weights, gradients and optimizer state of a stage, without a preset: one number or one per stage
    #[arg(long, value_name = "GIB", value_delimiter = ',')]
    pub static_gib: Vec<f64>,
    /// Tensor between neighbours for one sample [default: the profile's or the preset's]
    #[arg(long, value_name = "MIB")]
    pub boundary_mib: Option<f64>,
    /// Part of the backward time that is the weights' gradient
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    pub weight_grad_share: f64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub cluster: ClusterArgs,
}

/// Nodes and links.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Bandwidth between stages of a node [default: free]
    #[arg(long, value_name = "GB_PER_S")]
    pub link_gb_s: Option<f64>,
    /// Latency between stages of a node
    #[arg(long, value_name = "US", default_value_t = 0.0)]
    pub link_latency_us: f64,
    /// Bandwidth between nodes [default: as in a node]
    #[arg(long, value_name = "GB_PER_S")]
    pub inter_link_gb_s: Option<f64>,
    /// Latency between nodes [default: as in a node]
    #[arg(long, value_name = "US")]
    pub inter_link_latency_us: Option<f64>,
    /// Stages that share a node [default: all]
    #[arg(long, value_name = "N")]
    pub stages_per_node: Option<u32>,
    /// Which stages share a node
    #[arg(long, default_value = "sequential")]
    pub placement: Placement,
    /// A link carries evictions or loads at a time, not both
    #[arg(long)]
    pub half_duplex: bool,
}

impl ClusterArgs {
    /// Describes the cluster.
    pub(super) fn cluster(&self) -> Result<Cluster, Error> {
        let link = |gb_s: Option<f64>, latency_us: f64| match gb_s {
            Some(gb_s) => Link::new(gb_s, latency_us),
            None => Ok(Link { gb_per_s: None, latency_ns: nanoseconds("link latency", latency_us)? }),
        };
        let cluster = Cluster {
            placement: self.placement,
            node_stages: self.stages_per_node,
            intra: link(self.link_gb_s, self.link_latency_us)?,
            inter: link(
                self.inter_link_gb_s.or(self.link_gb_s),
                self.inter_link_latency_us.unwrap_or(self.link_latency_us),
            )?,
            half_duplex: self.half_duplex,
        };
        cluster.check()?;
        Ok(cluster)
    }
}
