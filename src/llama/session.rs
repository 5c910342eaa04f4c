//! The sequences that a model is running.

use super::backend::{Backend, Norm};
use super::config::Config;
use super::forward::Watch;
use super::layer::{Buffers, Layer, MatrixInputs, Pass};
use super::mlp::Mlp;
use super::recompute::Recompute;
use super::settings::Settings;
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::policy::{Observed, PolicySet, Projection, Site, Sizes, Wanted};

const QKV: Site = Site::Inputs(Projection::Qkv);
const OUTPUT: Site = Site::Inputs(Projection::Output);
const DOWN: Site = Site::Inputs(Projection::Down);

/// The sequences that a model is running: what they hold on the device, how long they are, and the policies that choose for
/// them.
#[derive(Debug)]
pub struct Session<B: Backend> {
    pub(super) settings: Settings,
    pub(super) slots: Slots,
    pub(super) policies: PolicySet,
    recompute: Option<Recompute<B>>,
    pub(super) work: B::Work,
    pub(super) buffers: Buffers<B>,
    /// \[max_logits, d\], \[max_logits, vocab\].
    pub(super) normed: B::Buffer,
    pub(super) logits: B::Buffer,
    /// What was read of a buffer that is not the host's memory.
    pub(super) host: Vec<f32>,
    pub(super) chosen: Vec<u32>,
    pub(super) spans: Vec<Span>,
    pub(super) tokens: Vec<u32>,
    pub(super) rows: Vec<usize>,
}

/// How far each slot is.
#[derive(Debug)]
pub(super) struct Slots {
    /// Positions held.
    pub(super) lens: Vec<usize>,
    /// Whether a slot generates.
    generates: Vec<bool>,
}

impl Slots {
    pub(super) fn check(&self, slot: usize) -> Result<()> {
        let limit = self.lens.len();
        if slot < limit { Ok(()) } else { Err(Error::Index { what: "slot", limit, got: slot }) }
    }

    /// Counts the tokens that a call has added.
    pub(super) fn end_call(&mut self, spans: &[Span], policies: &mut PolicySet) -> Result<()> {
        for span in spans {
            self.lens[span.slot] += span.len;
            if self.generates[span.slot] {
                (0..span.len).try_for_each(|_| policies.end_token(span.slot))?;
            }
        }
        Ok(())
    }
}

impl<B: Backend> Session<B> {
    /// `layers` are the configuration's, one at least.
    pub(super) fn new(backend: &B, config: &Config, layers: &[Layer<B>], settings: Settings) -> Result<Self> {
        let Settings { slots, max_tokens, max_logits, .. } = settings;
        let mlp = &layers[0].mlp;
        let policies = PolicySet::new(&settings.policies, &Sizes { model: config.sizes(), slots, max_tokens })?;
        // before the work, whose memory for kept inputs grows with the lag that this checks
        let recompute = Recompute::new(backend, config, &settings)?;
        let mut work = backend.work(config, mlp.neurons(), &settings)?;
        for (index, layer) in layers.iter().enumerate() {
            if let (Some(neurons), Some(longest)) = (layer.mlp.neurons(), policies.longest_list(Site::Neurons, index)) {
                backend.expect_list(&mut work, index, neurons, longest)?;
            }
        }
        Ok(Session {
            slots: Slots { lens: vec![0; slots], generates: vec![false; slots] },
            policies,
            recompute,
            work,
            buffers: Buffers::new(backend, config, mlp, max_tokens)?,
            normed: backend.zeros(max_logits * config.d_model)?,
            logits: backend.zeros(max_logits * config.vocab)?,
            host: Vec::new(),
            chosen: Vec::new(),
            spans: Vec::with_capacity(slots),
            tokens: Vec::with_capacity(max_tokens),
            rows: Vec::with_capacity(max_logits),
            settings,
        })
    }

    /// Positions that a slot holds; 0 for one that is not there.
    pub fn len(&self, slot: usize) -> usize {
        self.slots.lens.get(slot).copied().unwrap_or(0)
    }

    /// Says whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// What the session was made for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> usize {
        B::kv_bytes(&self.work)
    }

    /// The policies' selections and statistics.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// Counts from here on what the policies keep, see [`PolicySet::usage`].
    pub fn forget_usage(&mut self) {
        self.policies.forget_usage();
    }

    /// Says whether the policies have made their last choice for a slot, so that a captured graph can hold it.
    pub fn is_settled(&self, slot: usize) -> bool {
        self.policies.unsettled(&[Span { slot, start: 0, len: 1 }]).is_none()
    }

    /// Ends a slot's prompt: selections that depend on it are made, and what follows in this slot is generation.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot that is not there, [`Error::Shape`] if it holds nothing.
    pub fn start_generation(&mut self, slot: usize) -> Result<()> {
        self.slots.check(slot)?;
        if self.is_empty(slot) {
            return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
        }
        if !self.slots.generates[slot] {
            self.policies.begin_generation(slot)?;
            self.slots.generates[slot] = true;
        }
        Ok(())
    }

    /// Forgets a slot's positions from `len` on, besides those in the device's cache.
    pub(super) fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        if let Some(recompute) = &mut self.recompute {
            recompute.truncate(slot, len)?;
        }
        self.slots.lens[slot] = self.slots.lens[slot].min(len);
        if len == 0 {
            self.policies.reset(slot)?;
            self.slots.generates[slot] = false;
        }
        Ok(())
    }

    /// One new token for each of `slots`, after what they hold.
    #[cfg(feature = "cuda")]
    pub(super) fn decode_spans(&self, slots: &[usize]) -> Result<Vec<Span>> {
        let span = |&slot: &usize| {
            self.slots.check(slot)?;
            match self.slots.lens[slot] {
                0 => Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 }),
                start => Ok(Span { slot, start, len: 1 }),
            }
        };
        slots.iter().map(span).collect()
    }

    /// Attention of one layer, over the heads that the policy chooses.
    pub(super) fn attention(
        &mut self,
        backend: &B,
        config: &Config,
        index: usize,
        layer: &Layer<B>,
        watch: Watch,
    ) -> Result<()> {
        let Session { policies, recompute, work, buffers, spans, settings, host, .. } = self;
        // under the one choice of a captured pass, a head that was skipped is never asked for again
        let mut recompute = recompute.as_mut().filter(|_| watch == Watch::Policies);
        let (heads, [qkv, output]) = policies.select_attention(index, spans)?;
        let inputs = MatrixInputs { qkv, output, ..MatrixInputs::default() };
        let mut pass = Pass { backend, config, spans, kv: settings.kv, inputs, buffers, work };
        layer.attention(&mut pass, index, heads, recompute.as_deref_mut())?;
        let tokens: usize = spans.iter().map(|span| span.len).sum();
        let width = config.attention.q_elems();
        for (site, width) in [(QKV, config.d_model), (OUTPUT, width), (Site::Heads, width)] {
            let observed = match (wants::<B>(policies, site, spans, watch), &recompute) {
                (Wanted::Nothing, _) => continue,
                (Wanted::Lengths, _) => Observed::LENGTHS,
                (wanted, None) if site == QKV => B::seen(work, wanted),
                (_, Some(recompute)) if site == QKV => {
                    Observed::new(backend.read(recompute.normed(), tokens * width, host)?, width, width)
                }
                _ => Observed::new(backend.read(&buffers.out, tokens * width, host)?, width, width),
            };
            policies.observe(site, index, spans, &observed)?;
        }
        Ok(())
    }

    /// The MLP of one layer, over the neurons or inputs that the policy chooses.
    pub(super) fn mlp(
        &mut self,
        backend: &B,
        config: &Config,
        index: usize,
        layer: &Layer<B>,
        watch: Watch,
    ) -> Result<()> {
        let Session { policies, work, buffers, spans, settings, host, .. } = self;
        if policies.predicts() {
            let d = config.d_model;
            let m = spans.iter().map(|span| span.len).sum();
            let Buffers { x, next, .. } = &mut *buffers;
            backend.rms_norm(Norm { x, weight: &layer.mlp_norm, eps: config.rms_eps }, m, next)?;
            policies.predict(index, spans, &Observed::new(backend.read(next, m * d, host)?, d, d))?;
        }
        let mlp_site = policies.mlp_site();
        let wanted = wants::<B>(policies, mlp_site, spans, watch);
        let [mlp, down] = policies.select_mlp(index, spans)?;
        let inputs = MatrixInputs { down, ..MatrixInputs::default() };
        let mut pass = Pass { backend, config, spans, kv: settings.kv, inputs, buffers, work };
        layer.mlp(&mut pass, index, &mlp, wanted)?;
        for site in [mlp_site, DOWN] {
            let by_neuron = matches!(layer.mlp, Mlp::ByNeuron(_));
            match wants::<B>(policies, site, spans, watch) {
                Wanted::Nothing => {}
                _ if site == Site::Neurons && !by_neuron => {}
                wanted => policies.observe(site, index, spans, &B::seen(work, wanted))?,
            }
        }
        Ok(())
    }
}

/// What a policy is shown: nothing in a captured pass, and nothing that it would only count where that lies in another memory.
fn wants<B: Backend>(policies: &PolicySet, site: Site, spans: &[Span], watch: Watch) -> Wanted {
    match policies.wants(site, spans) {
        _ if watch != Watch::Policies => Wanted::Nothing,
        Wanted::AtHand(_) if !B::ON_HOST => Wanted::Nothing,
        wanted => wanted,
    }
}
