//! What a policy is shown of a call.

use super::{Projection, Site};
use crate::attention::Span;
use crate::error::{Result, check_len};
use crate::sparse_mlp::{ScoreOn, Selection};

/// Values that a layer computes and a policy can look at, by token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Values {
    /// act(x·gate) \[d_ff\].
    Gate,
    /// act(x·gate) ⊙ (x·up) \[d_ff\].
    Hidden,
    /// The outputs of attention \[n_q_heads · head_dim\].
    HeadOutputs,
    /// The inputs of a matrix \[K\].
    Inputs(Projection),
}

/// What a policy must be shown of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: it need not be told of the call.
    Nothing,
    /// That the call was, but no values.
    Lengths,
    /// Values where the host holds them anyway, for counting; where they lie in another memory, nothing.
    AtHand(Values),
    /// Values, wherever they lie.
    Copied(Values),
}

/// What a policy is shown: rows of f32, one for each token of the call.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    values: &'a [f32],
    stride: usize,
    width: usize,
}

impl<'a> Observed<'a> {
    /// No values: only that the call was.
    pub const LENGTHS: Observed<'static> = Observed { values: &[], stride: 0, width: 0 };

    /// Shows the first `width` of every `stride` values.
    pub fn new(values: &'a [f32], stride: usize, width: usize) -> Self {
        Observed { values, stride, width }
    }

    /// The values of one token; none where it has none.
    ///
    /// Where a token's every neuron was computed they are by neuron, otherwise by position among those that were.
    pub fn token(&self, token: usize) -> &'a [f32] {
        let start = token * self.stride;
        self.values.get(start..start + self.width).unwrap_or(&[])
    }

    /// The values of one token, all `expected` of them.
    ///
    /// # Errors
    /// [`crate::Error::Length`] if it has others.
    pub fn whole_token(&self, token: usize, expected: usize) -> Result<&'a [f32]> {
        let values = self.token(token);
        check_len("observed values of a token", expected, values.len())?;
        Ok(values)
    }
}

/// What tokens kept under a selection, and what there was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    /// Kept, over all tokens and layers.
    pub kept: u64,
    /// There were.
    pub all: u64,
}

impl Kept {
    /// `tokens` tokens that kept `kept` of `all` each.
    pub fn each(tokens: usize, kept: usize, all: usize) -> Self {
        Kept { kept: (tokens * kept) as u64, all: (tokens * all) as u64 }
    }

    /// The mean fraction; None if there was no token.
    pub fn fraction(&self) -> Option<f64> {
        (self.all > 0).then(|| self.kept as f64 / self.all as f64)
    }
}

impl std::ops::Add for Kept {
    type Output = Kept;

    fn add(self, other: Kept) -> Kept {
        Kept { kept: self.kept + other.kept, all: self.all + other.all }
    }
}

impl std::ops::AddAssign for Kept {
    fn add_assign(&mut self, other: Kept) {
        *self = *self + other;
    }
}

/// What tokens kept of a site under its policy, and how it chose.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteUsage {
    site: Site,
    /// What the values are that the last selection looked at; none where it looked at none.
    scored: Option<ScoreOn>,
    layers: Vec<Kept>,
}

impl SiteUsage {
    pub(super) fn new(site: Site, n_layers: usize) -> Self {
        SiteUsage { site, scored: None, layers: vec![Kept::default(); n_layers] }
    }

    pub(super) fn selected(&mut self, selection: &Selection<'_>) {
        // a policy that keeps all of a prompt says nothing of how it will choose
        if let Some(score) = selection.score() {
            self.scored = Some(score.on);
        }
    }

    pub(super) fn forget(&mut self) {
        self.layers.fill(Kept::default());
    }

    pub(super) fn add(&mut self, layer: usize, kept: Kept) {
        if let Some(sum) = self.layers.get_mut(layer) {
            *sum += kept;
        }
    }

    /// What it is of.
    pub fn site(&self) -> Site {
        self.site
    }

    /// The sums of each layer.
    pub fn layers(&self) -> &[Kept] {
        &self.layers
    }

    /// The mean fraction over all layers; none if no token was counted.
    pub fn fraction(&self) -> Option<f64> {
        self.total().fraction()
    }

    fn total(&self) -> Kept {
        self.layers.iter().fold(Kept::default(), |sum, &kept| sum + kept)
    }
}

/// What tokens kept under the policies of a session, site by site.
///
/// # Example
/// ```
/// use moray::policy::{Site, Usage};
///
/// let usage = Usage::default(); // of a session without policies
/// assert_eq!((usage.kept(Site::Neurons, 3), usage.fraction(&[Site::Neurons])), (1.0, None));
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Usage(Vec<SiteUsage>);

impl FromIterator<SiteUsage> for Usage {
    fn from_iter<I: IntoIterator<Item = SiteUsage>>(sites: I) -> Self {
        Usage(sites.into_iter().collect())
    }
}

impl Usage {
    /// What was kept of a site; none where it has no policy.
    pub fn site(&self, site: Site) -> Option<&SiteUsage> {
        self.0.iter().find(|usage| usage.site == site)
    }

    /// The mean fraction that tokens kept in a layer; 1 where nothing was counted.
    pub fn kept(&self, site: Site, layer: usize) -> f64 {
        self.site(site).and_then(|usage| usage.layers.get(layer)?.fraction()).unwrap_or(1.0)
    }

    /// The mean fraction of these sites together; none if no token was counted.
    pub fn fraction(&self, sites: &[Site]) -> Option<f64> {
        let all = self.0.iter().filter(|usage| sites.contains(&usage.site));
        all.fold(Kept::default(), |sum, usage| sum + usage.total()).fraction()
    }

    /// The mean fraction of the rows of gate, up and down that a token reads in a layer: what looks at gates reads all of theirs, what
    /// looks at products all of gate and up.
    pub fn rows_read(&self, layer: usize) -> f64 {
        let kept = self.kept(Site::Neurons, layer);
        match self.site(Site::Neurons).and_then(|usage| usage.scored) {
            Some(ScoreOn::Gate) => (1.0 + 2.0 * kept) / 3.0,
            Some(ScoreOn::Hidden) => (2.0 + kept) / 3.0,
            _ => kept,
        }
    }
}

/// Tokens of a call.
pub(super) fn tokens_of(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len).sum()
}
