//! The forward pass, once for every device.

use super::backend::{Backend, Input, LinearCall, Norm};
use super::config::Config;
use super::layer::Layer;
use super::session::Session;
use super::settings::Settings;
use crate::attention::Span;
use crate::error::{Error, Result};
use crate::sparse_mlp::Selection;

/// A LLaMA model on a device.
#[derive(Debug)]
pub struct Model<B: Backend> {
    config: Config,
    embedding: B::Linear,
    layers: Vec<Layer<B>>,
    final_norm: B::Norm,
    /// The output layer; the embedding if none.
    lm_head: Option<B::Linear>,
}

/// The tokens of one sequence in a call, in order, after those it already holds.
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    /// Its slot in the session.
    pub slot: usize,
    /// Its new tokens.
    pub tokens: &'a [u32],
}

/// Whether policies are shown what layers compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// They are.
    Policies,
    /// They are not, and nothing leaves the device: a pass that is captured.
    #[cfg(feature = "cuda")]
    Nothing,
}

/// Which positions of a call get logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: a chunk of a prompt that goes on.
    None,
    /// The last token of each sequence.
    Last,
    /// Every token.
    All,
}

impl<B: Backend> Model<B> {
    /// Puts a model together.
    ///
    /// # Errors
    /// As [`Config::check`]; [`Error::Length`] unless there is a layer for each of `config.n_layers`.
    pub fn new(
        config: Config,
        embedding: B::Linear,
        layers: Vec<Layer<B>>,
        final_norm: B::Norm,
        lm_head: Option<B::Linear>,
    ) -> Result<Self> {
        config.check()?;
        crate::error::check_len("layers", config.n_layers, layers.len())?;
        Ok(Model { config, embedding, layers, final_norm, lm_head })
    }

    /// The sizes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The weights of the layers.
    pub fn layers(&self) -> &[Layer<B>] {
        &self.layers
    }

    /// The embedding.
    pub fn embedding(&self) -> &B::Linear {
        &self.embedding
    }

    /// RMSNorm before the output layer.
    pub fn final_norm(&self) -> &B::Norm {
        &self.final_norm
    }

    /// The output layer, unless it is the embedding.
    pub fn own_lm_head(&self) -> Option<&B::Linear> {
        self.lm_head.as_ref()
    }

    /// The output layer, which may be the embedding.
    pub fn lm_head(&self) -> &B::Linear {
        self.lm_head.as_ref().unwrap_or(&self.embedding)
    }

    /// Changes the output layer, which may be the embedding.
    pub(super) fn map_lm_head(mut self, change: impl FnOnce(B::Linear) -> Result<B::Linear>) -> Result<Self> {
        match self.lm_head.take() {
            Some(head) => self.lm_head = Some(change(head)?),
            None => self.embedding = change(self.embedding)?,
        }
        Ok(self)
    }

    /// Allocates a session.
    ///
    /// # Errors
    /// As [`Settings::check`] and [`Backend::work`]; [`Error::Length`] for weights whose sizes are not the configuration's.
    pub fn session(&self, backend: &B, settings: Settings) -> Result<Session<B>> {
        settings.check()?;
        self.layers.iter().try_for_each(|layer| layer.check(&self.config))?;
        let (vocab, d) = (self.config.vocab, self.config.d_model);
        for (what, matrix) in [("embedding", &self.embedding), ("output layer", self.lm_head())] {
            let [n, k] = B::matrix_shape(matrix);
            crate::error::check_len(what, vocab, n)?;
            crate::error::check_len(what, d, k)?;
        }
        crate::error::check_len("final norm", d, B::norm_len(&self.final_norm))?;
        Session::new(backend, &self.config, &self.layers, settings)
    }

    /// Runs new tokens of one or more sequences through the model and returns logits f32 \[rows, vocab\], in the order of
    /// the sequences and their tokens.
    ///
    /// A sequence's result does not depend, bit for bit, on how its prompt is cut into calls, nor on the others of a call.
    ///
    /// # Errors
    /// [`Error::Index`] for a token, slot or position out of range, [`Error::Shape`] for no tokens, or more tokens or
    /// logits than the session was made for, [`Error::Unsupported`] for a slot named twice, [`Error::Value`] if
    /// activations are not finite. Of the sequences' lengths nothing has changed then.
    pub fn forward<'s>(
        &self,
        backend: &B,
        session: &'s mut Session<B>,
        sequences: &[Sequence<'_>],
        logits: LogitRows,
    ) -> Result<&'s [f32]> {
        self.compute(backend, session, sequences, logits)?;
        let Session { logits, host, rows, spans, slots, policies, .. } = session;
        let logits = backend.read(logits, rows.len() * self.config.vocab, host)?;
        // a token that was not finite anywhere has NaN logits
        if let Some(&got) = logits.iter().find(|logit| logit.is_nan()) {
            return Err(Error::Value { what: "logits", expected: "finite activations", got });
        }
        slots.end_call(spans, policies)?;
        Ok(logits)
    }

    /// Runs new tokens as [`Model::forward`] does, and chooses the next token of each sequence where its logits are.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`Error::Length`] unless there is a sampler for each sequence. Of the sequences' lengths nothing has
    /// changed then, but samplers whose logits were finite have drawn.
    pub fn next_tokens<'s>(
        &self,
        backend: &B,
        session: &'s mut Session<B>,
        sequences: &[Sequence<'_>],
        samplers: &mut B::Samplers,
    ) -> Result<&'s [u32]> {
        self.compute(backend, session, sequences, LogitRows::Last)?;
        let Session { work, logits, chosen, spans, slots, policies, .. } = session;
        backend.sample(work, samplers, logits)?;
        let tokens = backend.sampled(work, chosen)?;
        slots.end_call(spans, policies)?;
        Ok(tokens)
    }

    /// Computes logits, which stay in the session's buffer.
    fn compute(
        &self,
        backend: &B,
        session: &mut Session<B>,
        sequences: &[Sequence<'_>],
        logits: LogitRows,
    ) -> Result<()> {
        self.begin(session, sequences, logits)?;
        backend.begin(&mut session.work, &session.tokens, &session.spans, &session.rows)?;
        self.run(backend, session, Watch::Policies)
    }

    /// The pass itself, from the tokens that [`Backend::begin`] brought to the logits, which stay in the session's buffer: what a
    /// captured graph holds is what this puts on the stream.
    pub(super) fn run(&self, backend: &B, session: &mut Session<B>, watch: Watch) -> Result<()> {
        backend.embed(&mut session.work, &self.embedding, &mut session.buffers.x)?;
        for (index, layer) in self.layers.iter().enumerate() {
            session.attention(backend, &self.config, index, layer, watch)?;
            session.mlp(backend, &self.config, index, layer, watch)?;
        }
        let m = session.rows.len();
        if m == 0 {
            return Ok(());
        }
        let Session { work, buffers, normed, logits, .. } = session;
        let norm = Norm { x: &buffers.x, weight: &self.final_norm, eps: self.config.rms_eps };
        backend.rms_norm_rows(work, norm, normed)?;
        let call =
            LinearCall { weight: self.lm_head(), input: Input::Plain(normed), m, rows: None, inputs: Selection::All };
        backend.linear(work, call, None, logits)
    }

    /// Checks a call and lays out its spans, tokens and rows of logits.
    fn begin(&self, session: &mut Session<B>, sequences: &[Sequence<'_>], logits: LogitRows) -> Result<()> {
        let Settings { context, max_tokens, max_logits, .. } = session.settings;
        session.spans.clear();
        session.tokens.clear();
        session.rows.clear();
        for sequence in sequences {
            session.slots.check(sequence.slot)?;
            let (start, len) = (session.slots.lens[sequence.slot], sequence.tokens.len());
            if start + len > context {
                return Err(Error::Index { what: "position", limit: context, got: start + len - 1 });
            }
            if session.spans.iter().any(|span| span.slot == sequence.slot) {
                let got = format!("slot {} twice", sequence.slot);
                return Err(Error::Unsupported { what: "sequences", expected: "each slot at most once", got });
            }
            if let Some(&token) = sequence.tokens.iter().find(|&&token| token as usize >= self.config.vocab) {
                return Err(Error::Index { what: "token", limit: self.config.vocab, got: token as usize });
            }
            let first = session.tokens.len();
            if len == 0 || first + len > max_tokens {
                let expected = "at least one for each sequence, and no more than the session's max_tokens";
                return Err(Error::Shape { what: "tokens", expected, got: first + len });
            }
            session.spans.push(Span { slot: sequence.slot, start, len });
            session.tokens.extend_from_slice(sequence.tokens);
            let rows = match logits {
                LogitRows::None => 0..0,
                LogitRows::Last => first + len - 1..first + len,
                LogitRows::All => first..first + len,
            };
            if session.rows.len() + rows.len() > max_logits {
                let got = session.rows.len() + rows.len();
                return Err(Error::Shape { what: "logits", expected: "no more than the session's max_logits", got });
            }
            session.rows.extend(rows);
        }
        match sequences.is_empty() {
            true => Err(Error::Shape { what: "sequences", expected: "at least 1", got: 0 }),
            false => Ok(()),
        }
    }

    /// Runs a prompt of any length, in as many calls as it takes, and returns the logits after its last token. Selections
    /// that depend on the prompt are then made: what follows in this slot is generation.
    ///
    /// # Errors
    /// As [`Model::forward`]; [`Error::Shape`] for an empty prompt.
    pub fn prefill<'s>(
        &self,
        backend: &B,
        session: &'s mut Session<B>,
        slot: usize,
        prompt: &[u32],
    ) -> Result<&'s [f32]> {
        session.slots.check(slot)?;
        let end = session.slots.lens[slot] + prompt.len();
        if end > session.settings.context {
            return Err(Error::Index { what: "position", limit: session.settings.context, got: end - 1 });
        }
        let last = prompt.len().saturating_sub(1) / session.settings.max_tokens * session.settings.max_tokens;
        for tokens in prompt[..last].chunks(session.settings.max_tokens) {
            self.forward(backend, session, &[Sequence { slot, tokens }], LogitRows::None)?;
        }
        self.forward(backend, session, &[Sequence { slot, tokens: &prompt[last..] }], LogitRows::Last)?;
        session.start_generation(slot)?;
        backend.read(&session.logits, self.config.vocab, &mut session.host)
    }

    /// Forgets the positions of a slot from `len` on; with `len` 0 it is as new.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot that is not there.
    pub fn truncate(&self, backend: &B, session: &mut Session<B>, slot: usize, len: usize) -> Result<()> {
        session.slots.check(slot)?;
        backend.truncate(&mut session.work, slot, len)?;
        session.truncate(slot, len)
    }
}
