//! Where the stages sit and how fast they reach each other.

use crate::error::{Error, not_negative, positive};
use serde::Serialize;

/// Largest duration of one operation, about 11 days: sums over a schedule stay far from overflowing.
pub const MAX_DURATION_NS: u64 = 1_000_000_000_000_000;

/// Turns a time in µs into whole nanoseconds.
///
/// # Errors
/// [`Error::OutOfRange`] unless 0 ≤ time ≤ [`MAX_DURATION_NS`].
pub fn nanoseconds(what: &str, time_us: f64) -> Result<u64, Error> {
    let time_ns = (not_negative(what, time_us)? * 1e3).round();
    if time_ns > MAX_DURATION_NS as f64 {
        return Err(Error::OutOfRange { what: what.into(), expected: "at most 1e12 µs", got: time_us });
    }
    Ok(time_ns as u64)
}

/// A connection: latency + bytes / bandwidth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Link {
    /// Bandwidth of one direction in GB/s (10⁹ bytes), none for a link that costs its latency only.
    pub gb_per_s: Option<f64>,
    /// Latency in ns.
    pub latency_ns: u64,
}

impl Link {
    /// A link that costs nothing.
    pub const FREE: Link = Link { gb_per_s: None, latency_ns: 0 };

    /// Describes a link.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a bandwidth that is not positive or a latency that is negative.
    pub fn new(gb_per_s: f64, latency_us: f64) -> Result<Self, Error> {
        let latency_ns = nanoseconds("link latency", latency_us)?;
        Ok(Self { gb_per_s: Some(positive("link bandwidth", gb_per_s)?), latency_ns })
    }

    /// Computes how long `bytes` take, in ns: at 1 GB/s one byte takes one.
    pub fn duration_ns(&self, bytes: u64) -> u64 {
        let moving = self.gb_per_s.map_or(0.0, |rate| (bytes as f64 / rate).round());
        (self.latency_ns as f64 + moving).min(MAX_DURATION_NS as f64) as u64
    }
}

/// Which stages share a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Stages in order: 0, 1, 2, …
    Sequential,
    /// Pairs side by side: 0, p − 1, 1, p − 2, …, so that evictor and acceptor share a node.
    PairAdjacent,
}

/// The stages' nodes and links. Every stage has its own port to either network, so pairs do not slow each other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cluster {
    /// Which stages share a node.
    pub placement: Placement,
    /// Stages per node, none when one node holds all.
    pub node_stages: Option<u32>,
    /// The link between stages of one node.
    pub intra: Link,
    /// The link between nodes.
    pub inter: Link,
    /// Whether evictions and loads of a pair share one direction at a time.
    pub half_duplex: bool,
}

impl Cluster {
    /// All stages in one node with free links.
    pub const FREE: Cluster = Cluster {
        placement: Placement::Sequential,
        node_stages: None,
        intra: Link::FREE,
        inter: Link::FREE,
        half_duplex: false,
    };

    /// Checks that a node holds at least one stage.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn check(&self) -> Result<(), Error> {
        self.node_stages.map_or(Ok(()), |count| positive("stages per node", f64::from(count)).map(|_| ()))
    }

    /// Finds a stage's node.
    pub fn node(&self, stages: u32, stage: u32) -> u32 {
        let position = match self.placement {
            Placement::Sequential => stage,
            Placement::PairAdjacent if stage < stages.div_ceil(2) => 2 * stage,
            Placement::PairAdjacent => 2 * (stages - 1 - stage) + 1,
        };
        self.node_stages.map_or(0, |count| position / count.max(1))
    }

    /// Finds the link between two stages; none from a stage to itself.
    pub fn link(&self, stages: u32, from: u32, to: u32) -> Option<Link> {
        let apart = self.node(stages, from) != self.node(stages, to);
        (from != to).then_some(if apart { self.inter } else { self.intra })
    }
}
