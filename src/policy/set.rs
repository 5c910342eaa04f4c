//! The policies of a session.

use std::sync::Arc;

use super::{Observed, Policy, PolicyConfig, Projection, Site, SiteUsage, Sizes, Usage, Wanted};
use crate::attention::{Heads, Span};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::{ScoreOn, Selection};

const GATE_UP: Site = Site::Inputs(Projection::GateUp);
const DOWN: Site = Site::Inputs(Projection::Down);
const ATTENTION_INPUTS: [Site; 2] = [Site::Inputs(Projection::Qkv), Site::Inputs(Projection::Output)];

/// The policies of a session, one at most for each site, and what tokens kept under them. A site without one is computed whole.
#[derive(Debug)]
pub struct PolicySet {
    policies: Vec<(Box<dyn Policy>, SiteUsage)>,
    n_q_heads: usize,
    /// The heads of the last call, u32 \[spans, ⌈n_q_heads/32⌉\].
    head_words: Vec<u32>,
}

impl PolicySet {
    /// Makes the policies of a session.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for two policies of one site; otherwise as [`PolicyConfig::policy`].
    pub fn new(configs: &[Arc<dyn PolicyConfig>], sizes: &Sizes) -> Result<Self> {
        let n_q_heads = sizes.model.attention.n_q_heads;
        let head_words = vec![0; sizes.slots * n_q_heads.div_ceil(32)];
        let mut set = PolicySet { policies: Vec::new(), n_q_heads, head_words };
        for config in configs {
            let policy = config.policy(sizes)?;
            if set.has(policy.site()) {
                let got = format!("two for the {}", policy.site().name());
                return Err(Error::Unsupported { what: "policies", expected: "one at most for each site", got });
            }
            let usage = SiteUsage::new(policy.site(), sizes.model.n_layers);
            set.policies.push((policy, usage));
        }
        if set.has(Site::Neurons) && set.has(GATE_UP) {
            let (expected, got) = ("neurons or inputs of the MLP, not both", "both".into());
            return Err(Error::Unsupported { what: "policies", expected, got });
        }
        Ok(set)
    }

    fn at(&self, site: Site) -> Option<&(Box<dyn Policy>, SiteUsage)> {
        self.policies.iter().find(|(policy, _)| policy.site() == site)
    }

    /// Says whether there is a policy for a site.
    pub fn has(&self, site: Site) -> bool {
        self.at(site).is_some()
    }

    /// As [`Policy::wants`].
    pub fn wants(&self, site: Site, spans: &[Span]) -> Wanted {
        self.at(site).map_or(Wanted::Nothing, |(policy, _)| policy.wants(spans))
    }

    /// As [`Policy::select`]; all where there is no policy.
    ///
    /// # Errors
    /// As [`Policy::select`].
    pub fn select(&mut self, site: Site, layer: usize, spans: &[Span]) -> Result<Selection<'_>> {
        match self.policies.iter_mut().find(|(policy, _)| policy.site() == site) {
            Some((policy, usage)) => {
                let selection = policy.select(layer, spans)?;
                usage.selected(&selection);
                Ok(selection)
            }
            None => Ok(Selection::All),
        }
    }

    /// As [`Policy::longest_list`]; none where there is no policy.
    pub fn longest_list(&self, site: Site, layer: usize) -> Option<usize> {
        self.at(site)?.0.longest_list(layer)
    }

    /// The site of the MLP that there may be a policy for: its neurons, or the inputs of gate and up.
    pub fn mlp_site(&self) -> Site {
        if self.has(GATE_UP) { GATE_UP } else { Site::Neurons }
    }

    /// Whether a policy is to see the inputs of an MLP before it selects.
    pub fn predicts(&self) -> bool {
        self.policies.iter().any(|(policy, _)| policy.predicts())
    }

    /// As [`Policy::predict`], of all that do.
    ///
    /// # Errors
    /// As [`Policy::predict`].
    pub fn predict(&mut self, layer: usize, spans: &[Span], inputs: &Observed<'_>) -> Result<()> {
        let mut predicting = self.policies.iter_mut().filter(|(policy, _)| policy.predicts());
        predicting.try_for_each(|(policy, _)| policy.predict(layer, spans, inputs))
    }

    /// What is computed of a layer's MLP, and which inputs of down are kept; all where there is no policy.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a selection of the other site, or one of inputs that is not by their scores; otherwise as
    /// [`Policy::select`].
    pub fn select_mlp(&mut self, layer: usize, spans: &[Span]) -> Result<[Selection<'_>; 2]> {
        let site = self.mlp_site();
        let mut found = [Selection::All; 2];
        for (policy, usage) in &mut self.policies {
            let place = [site, DOWN].iter().position(|other| *other == policy.site());
            let Some(place) = place else { continue };
            found[place] = policy.select(layer, spans)?;
            usage.selected(&found[place]);
        }
        let of_inputs = found[0].score().is_some_and(|score| score.on == ScoreOn::Input);
        if found[0] != Selection::All && of_inputs != (site == GATE_UP) {
            let expected = "inputs by their score, or neurons, as the policy's site says";
            return Err(Error::Unsupported { what: "selection of the mlp", expected, got: "the other".into() });
        }
        check_inputs(DOWN, &found[1])?;
        Ok(found)
    }

    /// The query heads that run in a layer, and the inputs of the joint projection and of the output projection that are kept; all where
    /// there is no policy.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a selection of heads that depends on values, or one of inputs that is not by their scores,
    /// [`Error::Length`] for one of another number of heads or spans; otherwise as [`Policy::select`].
    pub fn select_attention(&mut self, layer: usize, spans: &[Span]) -> Result<(Heads<'_>, [Selection<'_>; 2])> {
        let PolicySet { policies, n_q_heads, head_words } = self;
        let (mut heads, mut inputs) = (None, [Selection::All; 2]);
        for (policy, usage) in policies {
            let site = policy.site();
            if let Some(place) = ATTENTION_INPUTS.iter().position(|other| *other == site) {
                inputs[place] = policy.select(layer, spans)?;
                usage.selected(&inputs[place]);
                check_inputs(site, &inputs[place])?;
            } else if site == Site::Heads {
                let used = spans.len() * n_q_heads.div_ceil(32);
                let Some(words) = head_words.get_mut(..used) else {
                    let expected = "no more than the session's slots";
                    return Err(Error::Shape { what: "spans", expected, got: spans.len() });
                };
                write_heads(&policy.select(layer, spans)?, *n_q_heads, words)?;
                heads = Some(used);
            }
        }
        Ok((heads.map_or(Heads::All, |used| Heads::Mask { words: &head_words[..used] }), inputs))
    }

    /// The query heads that run in a layer; all where there is no policy for heads.
    ///
    /// # Errors
    /// As [`PolicySet::select_attention`].
    pub fn select_heads(&mut self, layer: usize, spans: &[Span]) -> Result<Heads<'_>> {
        Ok(self.select_attention(layer, spans)?.0)
    }

    /// As [`Policy::observe`]; what was kept is added up.
    ///
    /// # Errors
    /// As [`Policy::observe`].
    pub fn observe(&mut self, site: Site, layer: usize, spans: &[Span], observed: &Observed<'_>) -> Result<()> {
        if let Some((policy, usage)) = self.policies.iter_mut().find(|(policy, _)| policy.site() == site) {
            usage.add(layer, policy.observe(layer, spans, observed)?);
        }
        Ok(())
    }

    /// As [`Policy::begin_generation`], of all.
    ///
    /// # Errors
    /// As [`Policy::begin_generation`].
    pub fn begin_generation(&mut self, slot: usize) -> Result<()> {
        self.policies.iter_mut().try_for_each(|(policy, _)| policy.begin_generation(slot))
    }

    /// As [`Policy::end_token`], of all.
    ///
    /// # Errors
    /// As [`Policy::end_token`].
    pub fn end_token(&mut self, slot: usize) -> Result<()> {
        self.policies.iter_mut().try_for_each(|(policy, _)| policy.end_token(slot))
    }

    /// As [`Policy::reset`], of all.
    ///
    /// # Errors
    /// As [`Policy::reset`].
    pub fn reset(&mut self, slot: usize) -> Result<()> {
        self.policies.iter_mut().try_for_each(|(policy, _)| policy.reset(slot))
    }

    /// The site of a policy that is still to choose for these spans or chooses anew, if there is one.
    pub fn unsettled(&self, spans: &[Span]) -> Option<Site> {
        self.policies.iter().find(|(policy, _)| !policy.is_settled(spans)).map(|(policy, _)| policy.site())
    }

    /// Counts from here on: what tokens have kept so far is forgotten.
    pub fn forget_usage(&mut self) {
        self.policies.iter_mut().for_each(|(_, usage)| usage.forget());
    }

    /// What tokens kept so far.
    pub fn usage(&self) -> Usage {
        self.policies.iter().map(|(_, usage)| usage.clone()).collect()
    }
}

fn check_inputs(site: Site, selection: &Selection<'_>) -> Result<()> {
    if selection.is_of_inputs() {
        return Ok(());
    }
    let (expected, got) = ("inputs by their scores", format!("another for the {}", site.name()));
    Err(Error::Unsupported { what: "selection of inputs", expected, got })
}

/// Writes a selection in the form of [`Heads::Mask`], u32 \[spans, ⌈n_q_heads/32⌉\].
fn write_heads(selection: &Selection<'_>, n_q_heads: usize, words: &mut [u32]) -> Result<()> {
    let width = n_q_heads.div_ceil(32);
    let (spans, rows) = (words.len() / width, words.chunks_exact_mut(width));
    match selection {
        Selection::All => words.fill(u32::MAX),
        Selection::List(list) => {
            check_len("head list's limit", n_q_heads, list.limit())?;
            for row in rows {
                row.fill(0);
                list.indices().iter().for_each(|&head| row[head as usize / 32] |= 1 << (head % 32));
            }
        }
        Selection::Masks(masks) => {
            check_len("head masks' heads", n_q_heads, masks.n())?;
            check_len("head masks", spans, masks.tokens())?;
            for (span, row) in rows.enumerate() {
                let halves = masks.token(span).iter().flat_map(|&word| [word as u32, (word >> 32) as u32]);
                row.iter_mut().zip(halves).for_each(|(word, half)| *word = half);
            }
        }
        _ => {
            let expected = "a list or masks";
            return Err(Error::Unsupported { what: "selection of heads", expected, got: "another".into() });
        }
    }
    Ok(())
}
