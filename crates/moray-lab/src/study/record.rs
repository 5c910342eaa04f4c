//! A finished cell.

use moray::policy::{Site, Usage};
use serde::{Deserialize, Serialize};

use crate::cli::Figure;

/// What tokens kept of a site, layer by layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteKept {
    /// The site.
    pub site: String,
    /// Mean fraction of each layer; none where nothing was counted.
    pub layers: Vec<Option<f64>>,
}

impl SiteKept {
    /// All sites that have a policy.
    pub fn of(usage: &Usage) -> Vec<Self> {
        let sites = [Site::Neurons, Site::Heads].into_iter().chain(Site::INPUTS);
        let kept = |site: Site| {
            let layers = usage.site(site)?.layers().iter().map(|kept| kept.fraction()).collect();
            Some(SiteKept { site: site.name().to_owned(), layers })
        };
        sites.filter_map(kept).collect()
    }
}

/// Decode speed, measured in turn with the same weights of which all is computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Tokens a second.
    pub speed: Figure,
    /// The most that memory allows: what it read a second around these rounds, over the bytes of weights that a token reads. None in a log of before
    /// this was written.
    pub predicted: Option<f64>,
    /// Over the same weights of which all is computed, round by round; none for those.
    pub over_whole: Option<Figure>,
    /// The same of the method that keeps everything: below 1 is what selecting costs when it spares nothing.
    pub idle_over_whole: Option<Figure>,
}

/// A finished cell: how a model ran, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it depends on, as a hash.
    pub key: String,
    /// The switches of `moray generate`.
    pub switches: String,
    /// What it shares with the cells of other kept shares.
    pub series: String,
    /// The switches that it is compared with; none for 16-bit weights of which all is computed.
    pub against: Option<String>,
    /// Which tokens were sparse.
    pub sparse: String,
    /// Over the second half of each window.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_se: f64,
    /// Over the perplexity of `against` at the same positions; 1 without it.
    pub perplexity_ratio: f64,
    /// Its standard error, paired.
    pub perplexity_ratio_se: f64,
    /// Mean D(against ‖ run), in nats; 0 without it.
    pub kl: f64,
    /// Its standard error.
    pub kl_se: f64,
    /// Positions, in percent, where both have the same most probable token.
    pub agreement_percent: f64,
    /// Tokens that were scored.
    pub scored_tokens: usize,
    /// Mean fraction of neurons, inputs and heads that tokens kept.
    pub kept: [Option<f64>; 3],
    /// The same by site and layer.
    pub kept_by_layer: Vec<SiteKept>,
    /// Bytes of weights that a token reads.
    pub bytes_per_token: usize,
    /// The same weights' bytes, all of them.
    pub whole_bytes_per_token: usize,
    /// Speed, unless none was to be measured.
    pub decoding: Option<Decoding>,
}

impl Record {
    /// How many times fewer bytes a token reads than with the same weights of which all is computed: the speed that bytes allow.
    pub fn fewer_bytes(&self) -> f64 {
        self.whole_bytes_per_token as f64 / self.bytes_per_token as f64
    }

    /// Perplexity beyond that of `against`, in percent.
    pub fn increase_percent(&self) -> f64 {
        100.0 * (self.perplexity_ratio - 1.0)
    }

    /// Mean fraction of what its method selects from; 1 where nothing is left out.
    pub fn kept_fraction(&self) -> f64 {
        self.kept.iter().flatten().next().copied().unwrap_or(1.0)
    }
}
