//! The forward pass, once for every device.

use super::backend::{Backend, Layer};
use super::config::Config;
use super::settings::Settings;
use crate::attention::Span;
use crate::error::{Error, Result};

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

/// The sequences that a model is running: what they hold on the device and how long they are.
#[derive(Debug)]
pub struct Session<B: Backend> {
    state: B::State,
    settings: Settings,
    /// Positions held, by slot.
    lens: Vec<usize>,
    /// Whether a slot generates, by slot.
    generates: Vec<bool>,
    spans: Vec<Span>,
    tokens: Vec<u32>,
    rows: Vec<usize>,
}

impl<B: Backend> Session<B> {
    /// Positions that a slot holds; 0 for one that is not there.
    pub fn len(&self, slot: usize) -> usize {
        self.lens.get(slot).copied().unwrap_or(0)
    }

    /// Says whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// What the session was made for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The device's part.
    pub fn state(&self) -> &B::State {
        &self.state
    }

    /// The device's part, for calibration.
    pub fn state_mut(&mut self) -> &mut B::State {
        &mut self.state
    }

    /// One new token for each of `slots`, after what they hold.
    #[cfg(feature = "cuda")]
    pub(super) fn decode_spans(&self, slots: &[usize]) -> Result<Vec<Span>> {
        let span = |&slot: &usize| {
            self.check_slot(slot)?;
            match self.lens[slot] {
                0 => Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 }),
                start => Ok(Span { slot, start, len: 1 }),
            }
        };
        slots.iter().map(span).collect()
    }

    /// Counts a token that a step of the device has added to each of `slots`.
    #[cfg(feature = "cuda")]
    pub(super) fn advance_slots(&mut self, backend: &B, slots: &[usize]) -> Result<()> {
        for &slot in slots {
            self.lens[slot] += 1;
            if self.generates[slot] {
                backend.advance(&mut self.state, slot)?;
            }
        }
        Ok(())
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        let limit = self.lens.len();
        if slot < limit { Ok(()) } else { Err(Error::Index { what: "slot", limit, got: slot }) }
    }
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

    /// Allocates a session.
    ///
    /// # Errors
    /// As [`Settings::check`] and [`Backend::new_state`].
    pub fn session(&self, backend: &B, settings: Settings) -> Result<Session<B>> {
        settings.check()?;
        let state = backend.new_state(&self.config, &self.layers, &settings)?;
        Ok(Session {
            state,
            lens: vec![0; settings.slots],
            generates: vec![false; settings.slots],
            spans: Vec::with_capacity(settings.slots),
            tokens: Vec::with_capacity(settings.max_tokens),
            rows: Vec::with_capacity(settings.max_logits),
            settings,
        })
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
        self.begin(session, sequences, logits)?;
        backend.embed(&mut session.state, &self.embedding, &session.tokens)?;
        for (index, layer) in self.layers.iter().enumerate() {
            backend.attention(&mut session.state, index, layer, &session.spans)?;
            backend.mlp(&mut session.state, index, layer, &session.spans)?;
        }
        for span in &session.spans {
            session.lens[span.slot] += span.len;
            if session.generates[span.slot] {
                for _ in 0..span.len {
                    backend.advance(&mut session.state, span.slot)?;
                }
            }
        }
        if session.rows.is_empty() {
            return Ok(&[]);
        }
        backend.logits(&mut session.state, &self.final_norm, self.lm_head(), &session.rows)
    }

    /// Checks a call and lays out its spans, tokens and rows of logits.
    fn begin(&self, session: &mut Session<B>, sequences: &[Sequence<'_>], logits: LogitRows) -> Result<()> {
        let Settings { context, max_tokens, max_logits, .. } = session.settings;
        session.spans.clear();
        session.tokens.clear();
        session.rows.clear();
        for sequence in sequences {
            session.check_slot(sequence.slot)?;
            let (start, len) = (session.lens[sequence.slot], sequence.tokens.len());
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
        session.check_slot(slot)?;
        let end = session.lens[slot] + prompt.len();
        if end > session.settings.context {
            return Err(Error::Index { what: "position", limit: session.settings.context, got: end - 1 });
        }
        let last = prompt.len().saturating_sub(1) / session.settings.max_tokens * session.settings.max_tokens;
        for tokens in prompt[..last].chunks(session.settings.max_tokens) {
            self.forward(backend, session, &[Sequence { slot, tokens }], LogitRows::None)?;
        }
        self.forward(backend, session, &[Sequence { slot, tokens: &prompt[last..] }], LogitRows::Last)?;
        self.start_generation(backend, session, slot)?;
        backend.logits(&mut session.state, &self.final_norm, self.lm_head(), &session.rows)
    }

    /// Ends a slot's prompt: selections that depend on it are made.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot that is not there, [`Error::Shape`] if it holds nothing.
    pub fn start_generation(&self, backend: &B, session: &mut Session<B>, slot: usize) -> Result<()> {
        session.check_slot(slot)?;
        if session.is_empty(slot) {
            return Err(Error::Shape { what: "prompt", expected: "at least 1 token", got: 0 });
        }
        if !session.generates[slot] {
            backend.start_generation(&mut session.state, slot)?;
            session.generates[slot] = true;
        }
        Ok(())
    }

    /// Forgets the positions of a slot from `len` on; with `len` 0 it is as new.
    ///
    /// # Errors
    /// [`Error::Index`] for a slot that is not there.
    pub fn truncate(&self, backend: &B, session: &mut Session<B>, slot: usize, len: usize) -> Result<()> {
        session.check_slot(slot)?;
        backend.truncate(&mut session.state, slot, len)?;
        session.lens[slot] = session.lens[slot].min(len);
        if len == 0 {
            session.generates[slot] = false;
        }
        Ok(())
    }
}
