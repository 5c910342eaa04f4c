//! Quality of a model on a text: perplexity, and how far it is from the dense model.
//!
//! The text's tokens are cut into windows of C positions that do not overlap (the last may be shorter); if the model asks
//! for BOS, it takes a window's first position. With n scored tokens and nllᵢ = −ln p(tokenᵢ | its window before it):
//!
//! ```text
//! nll = Σ nllᵢ / n                 se(nll) = √(Σ (nllᵢ − nll)² / (n − 1) / n)
//! perplexity = exp(nll)            se(perplexity) = perplexity · se(nll)        (delta method)
//! ratio = exp(Σ (nllᵢ − dense nllᵢ) / n)          se(ratio) = ratio · se(difference): paired, at the same positions
//! KL = Σ D(dense ‖ run)ᵢ / n       Dᵢ = Σ_v p_dense(v) · (ln p_dense(v) − ln p_run(v)), in nats
//! agreement = 100 · (positions where both have the same most probable token) / n
//! ```
//!
//! The standard errors take the scored tokens as independent; a text's tokens are correlated, so they are lower bounds.
//! The dense model is scored at the very same positions. Where its vocabulary has another size (one of both is padded), KL and
//! agreement are of the distributions over the tokens that both have; perplexities are each model's own.

use moray::Cpu;
use moray::llama::{Backend, LogitRows, Model, Sequence, Session, Settings};
use moray::policy::{Site, Usage};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::statistics::{Mean, MeanError};

/// Rows of logits that are held at a time.
const CHUNK_ROWS: usize = 32;

/// Tokens of a call while nothing is scored.
const PROMPT_CHUNK: usize = 256;

/// Which tokens of a window are scored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scored {
    /// Every one but the first: for what selects token by token, or not at all.
    EveryToken,
    /// The first half is the prompt; the second half is scored, in generation: for selections that are fixed by the prompt, and
    /// those that are compared with them.
    SecondHalf,
}

impl Scored {
    /// The first scored position of a window of `len`.
    fn first(self, len: usize) -> usize {
        match self {
            Scored::EveryToken => 1,
            Scored::SecondHalf => (len / 2).max(1),
        }
    }
}

/// A model, and how it runs.
#[derive(Debug)]
pub struct Runner<'a, B: Backend = Cpu> {
    /// The device.
    pub device: &'a B,
    /// The weights.
    pub model: &'a Model<B>,
    /// Its policies; the sizes are set by [`evaluate`].
    pub settings: Settings,
}

impl<B: Backend> Clone for Runner<'_, B> {
    fn clone(&self) -> Self {
        Runner { settings: self.settings.clone(), ..*self }
    }
}

/// The text of an evaluation and how it is cut.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// Its tokens, without BOS.
    pub tokens: &'a [u32],
    /// The first token of every window, if the model asks for one.
    pub bos: Option<u32>,
    /// Positions of a window, BOS included.
    pub context: usize,
    /// Which tokens count.
    pub scored: Scored,
}

impl<'a> Text<'a> {
    /// The windows, each with its BOS; a last one without a token to score is left out.
    pub fn windows(&self) -> impl Iterator<Item = Vec<u32>> + use<'a> {
        let bos = self.bos;
        let width = self.context.saturating_sub(usize::from(bos.is_some())).max(1);
        let windows =
            self.tokens.chunks(width).map(move |tokens| bos.into_iter().chain(tokens.iter().copied()).collect());
        windows.filter(|window: &Vec<u32>| window.len() >= 2)
    }

    /// Tokens that are scored in all windows: the steps of a progress bar.
    pub fn scored_tokens(&self) -> usize {
        self.windows().map(|window| window.len() - self.scored.first(window.len())).sum()
    }

    /// Checks that there is something to score and that it fits a model of `limit` positions.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn check(&self, limit: usize) -> Result<()> {
        if self.context < 2 || self.context > limit {
            let expected = "at least 2 and no more than the model has positions";
            let got = format!("{} of {limit}", self.context);
            return Err(Error::Kernel(moray::Error::Unsupported { what: "context", expected, got }));
        }
        match self.scored_tokens() {
            0 => {
                Err(moray::Error::Shape { what: "text", expected: "at least 2 tokens", got: self.tokens.len() }.into())
            }
            _ => Ok(()),
        }
    }
}

/// What an evaluation found.
#[derive(Debug, Clone, Serialize)]
pub struct Evaluation {
    /// exp(nll).
    pub perplexity: f64,
    /// Its standard error, perplexity · se(nll).
    pub perplexity_se: f64,
    /// Mean negative logarithm of a scored token's probability, in nats.
    pub nll: f64,
    /// Its standard error.
    pub nll_se: f64,
    /// Tokens that were scored.
    pub scored_tokens: usize,
    /// Windows of the text.
    pub windows: usize,
    /// Which tokens were scored.
    pub scored: Scored,
    /// Mean fraction of the neurons that tokens under the policy's selection computed, measured; none without a policy, and for
    /// CATS on a CUDA device, which does not say what it kept.
    pub kept_neurons: Option<f64>,
    /// Mean fraction of the inputs of the layers' matrices that tokens under the policy's thresholds kept, measured; none without a
    /// policy.
    pub kept_inputs: Option<f64>,
    /// Mean fraction of the query heads that ran for tokens under the policy's choice, measured; none without a policy.
    pub kept_heads: Option<f64>,
    /// What was kept site by site and layer by layer.
    #[serde(skip)]
    pub usage: Usage,
    /// The dense model at the same positions, and the distance from it; none if the run is the dense model.
    pub dense: Option<AgainstDense>,
}

/// The dense model at the same positions.
#[derive(Debug, Clone, Serialize)]
pub struct AgainstDense {
    /// The dense model's perplexity.
    pub perplexity: f64,
    /// Its standard error.
    pub perplexity_se: f64,
    /// Perplexity over the dense model's, exp of the mean difference of both nll.
    pub perplexity_ratio: f64,
    /// Its standard error, ratio · se(difference): smaller than those of both perplexities, whose positions are the same.
    pub perplexity_ratio_se: f64,
    /// Mean D(dense ‖ run), in nats.
    pub kl: f64,
    /// Its standard error.
    pub kl_se: f64,
    /// Positions, in percent, where both have the same most probable token.
    pub agreement_percent: f64,
    /// Its standard error, 100 · √(p(1 − p)/n).
    pub agreement_percent_se: f64,
}

/// Scores a text with a model and, at the same positions, with the dense one, both on one kind of device; `cpu` takes the
/// logarithms of their logits. `progress` is told after each chunk how many tokens are scored.
///
/// Memory: one session of `text.context` positions and 32 rows of logits for each model.
///
/// # Errors
/// [`Error::Kernel`] for a context below 2 or beyond `limit` (the model's positions), a text without a token to score, and
/// whatever the forward pass refuses.
pub fn evaluate<B: Backend>(
    cpu: &Cpu,
    text: &Text<'_>,
    limit: usize,
    run: &Runner<'_, B>,
    dense: Option<&Runner<'_, B>>,
    progress: &mut dyn FnMut(usize),
) -> Result<Evaluation> {
    text.check(limit)?;
    let mut run = Reader::new(run, text, text.scored)?;
    let mut dense = dense.map(|dense| Reader::new(dense, text, Scored::EveryToken)).transpose()?;
    let mut tally = Tally::default();
    for window in text.windows() {
        let first = text.scored.first(window.len());
        run.begin(&window[..first])?;
        if let Some(dense) = &mut dense {
            dense.begin(&window[..first])?;
        }
        // the logits at position i − 1 are those of token i
        for start in (first..window.len()).step_by(CHUNK_ROWS) {
            let targets = &window[start..(start + CHUNK_ROWS).min(window.len())];
            let inputs = &window[start - 1..start - 1 + targets.len()];
            let rows = run.rows(inputs)?;
            let reference = dense.as_mut().map(|dense| dense.rows(inputs)).transpose()?;
            tally.add(cpu, rows, reference, targets)?;
            progress(tally.count());
        }
        tally.windows += 1;
    }
    let usage = run.session.policies().usage();
    Ok(Evaluation {
        kept_neurons: usage.fraction(&[Site::Neurons]),
        kept_inputs: usage.fraction(&Site::INPUTS),
        kept_heads: usage.fraction(&[Site::Heads]),
        usage,
        ..tally.evaluation(text.scored, dense.is_some())
    })
}

/// A model that reads a window.
struct Reader<'a, B: Backend> {
    runner: &'a Runner<'a, B>,
    session: Session<B>,
    generates: bool,
    /// Logits of tokens that go one by one, \[CHUNK_ROWS, vocab\]; row 0 holds the prompt's after [`Reader::begin`].
    rows: Vec<f32>,
    /// Whether row 0 is that of the next input.
    has_first: bool,
}

impl<'a, B: Backend> Reader<'a, B> {
    fn new(runner: &'a Runner<'a, B>, text: &Text<'_>, scored: Scored) -> Result<Self> {
        let mut settings = runner.settings.clone();
        settings.slots = 1;
        settings.context = text.context;
        settings.max_tokens = PROMPT_CHUNK.min(text.context);
        settings.max_logits = CHUNK_ROWS.min(text.context);
        let session = runner.model.session(runner.device, settings)?;
        // what chooses alike in prompt and generation has the same logits, bit for bit, in chunks as token by token
        let generates = scored == Scored::SecondHalf && !session.is_settled(0);
        let rows = if generates { vec![0.0; CHUNK_ROWS * runner.model.config().vocab] } else { Vec::new() };
        Ok(Reader { runner, session, generates, rows, has_first: false })
    }

    /// Starts a window: reads `prompt` but for its last token, or all of it as the prompt of a generation.
    fn begin(&mut self, prompt: &[u32]) -> Result<()> {
        let Runner { device, model, .. } = *self.runner;
        model.truncate(device, &mut self.session, 0, 0)?;
        if self.generates {
            let logits = model.prefill(device, &mut self.session, 0, prompt)?;
            self.rows[..logits.len()].copy_from_slice(logits);
            self.has_first = true;
            return Ok(());
        }
        for tokens in prompt[..prompt.len() - 1].chunks(self.session.settings().max_tokens) {
            model.forward(device, &mut self.session, &[Sequence { slot: 0, tokens }], LogitRows::None)?;
        }
        Ok(())
    }

    /// Logits \[inputs, vocab\] after each of the next inputs.
    fn rows(&mut self, inputs: &[u32]) -> Result<&[f32]> {
        let Runner { device, model, .. } = *self.runner;
        if !self.generates {
            let sequence = Sequence { slot: 0, tokens: inputs };
            return Ok(model.forward(device, &mut self.session, &[sequence], LogitRows::All)?);
        }
        let vocab = model.config().vocab;
        let rows = self.rows.chunks_exact_mut(vocab).zip(inputs.chunks(1));
        for (row, tokens) in rows.skip(usize::from(std::mem::take(&mut self.has_first))) {
            let sequence = Sequence { slot: 0, tokens };
            row.copy_from_slice(model.forward(device, &mut self.session, &[sequence], LogitRows::Last)?);
        }
        Ok(&self.rows[..inputs.len() * vocab])
    }
}

/// What one position adds.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    nll: f64,
    dense_nll: f64,
    kl: f64,
    agrees: bool,
}

/// What all positions add up to.
#[derive(Debug, Default)]
struct Tally {
    nll: Mean,
    dense_nll: Mean,
    /// nll less the dense model's.
    difference: Mean,
    kl: Mean,
    agreed: usize,
    windows: usize,
}

impl Tally {
    /// Takes in the logits \[targets, vocab\] of a chunk of no more than [`CHUNK_ROWS`] targets, whose logarithms the CPU's threads
    /// take.
    ///
    /// # Errors
    /// [`Error::Kernel`] for logits that are not finite, [`Error::Index`] for a target that one of both vocabularies lacks.
    fn add(&mut self, cpu: &Cpu, rows: &[f32], dense: Option<&[f32]>, targets: &[u32]) -> Result<()> {
        let vocab = rows.len() / targets.len();
        let reference_vocab = dense.map_or(vocab, |dense| dense.len() / targets.len());
        let common = vocab.min(reference_vocab);
        if let Some(&got) = targets.iter().find(|&&target| target as usize >= common) {
            let what = "token of the text in both vocabularies".into();
            return Err(Error::Index { what, limit: common, got: got as usize });
        }
        let mut positions = [Position::default(); CHUNK_ROWS];
        let positions = &mut positions[..targets.len()];
        cpu.team().for_pieces_mut(positions, 1, |index, position| {
            let row = &rows[index * vocab..][..vocab];
            let run = Distribution::new(row);
            let target = targets[index] as usize;
            position[0].nll = -run.ln_probability(target);
            if let Some(dense) = dense {
                let dense_row = &dense[index * reference_vocab..][..reference_vocab];
                let dense = Distribution::new(dense_row);
                position[0].dense_nll = -dense.ln_probability(target);
                let (dense, run) = if vocab == reference_vocab {
                    (dense, run)
                } else {
                    (Distribution::new(&dense_row[..common]), Distribution::new(&row[..common]))
                };
                position[0].kl = dense.divergence_of(&run);
                position[0].agrees = dense.largest == run.largest;
            }
        });
        for position in positions {
            if !(position.nll.is_finite() && position.kl.is_finite()) {
                let got = position.nll as f32;
                return Err(moray::Error::Value { what: "logits", expected: "finite logits", got }.into());
            }
            self.nll.add(position.nll);
            self.dense_nll.add(position.dense_nll);
            self.difference.add(position.nll - position.dense_nll);
            self.kl.add(position.kl);
            self.agreed += usize::from(position.agrees);
        }
        Ok(())
    }

    /// Positions so far.
    fn count(&self) -> usize {
        self.nll.count()
    }

    /// The means and their errors; what policies kept is not among them.
    fn evaluation(&self, scored: Scored, has_dense: bool) -> Evaluation {
        let exp = |nll: MeanError| (nll.mean.exp(), nll.mean.exp() * nll.se);
        let against_dense = || {
            let ((perplexity, perplexity_se), kl) = (exp(self.dense_nll.value()), self.kl.value());
            let n = self.nll.count() as f64;
            let agreement = self.agreed as f64 / n;
            let (perplexity_ratio, perplexity_ratio_se) = exp(self.difference.value());
            AgainstDense {
                perplexity,
                perplexity_se,
                perplexity_ratio,
                perplexity_ratio_se,
                kl: kl.mean,
                kl_se: kl.se,
                agreement_percent: 100.0 * agreement,
                agreement_percent_se: 100.0 * (agreement * (1.0 - agreement) / n).sqrt(),
            }
        };
        let nll = self.nll.value();
        let (perplexity, perplexity_se) = exp(nll);
        Evaluation {
            perplexity,
            perplexity_se,
            nll: nll.mean,
            nll_se: nll.se,
            scored_tokens: self.nll.count(),
            windows: self.windows,
            scored,
            kept_neurons: None,
            kept_inputs: None,
            kept_heads: None,
            usage: Usage::default(),
            dense: has_dense.then(against_dense),
        }
    }
}

/// ln p of a token under the distribution that a row of logits stands for.
///
/// # Errors
/// [`Error::Index`] for a token that the row lacks, [`Error::Kernel`] for logits that are not finite.
pub(crate) fn ln_probability(logits: &[f32], token: u32) -> Result<f64> {
    if token as usize >= logits.len() {
        let what = "token of the text in the vocabulary".into();
        return Err(Error::Index { what, limit: logits.len(), got: token as usize });
    }
    let found = Distribution::new(logits).ln_probability(token as usize);
    if found.is_finite() {
        return Ok(found);
    }
    Err(moray::Error::Value { what: "logits", expected: "finite logits", got: found as f32 }.into())
}

/// The distribution that logits stand for.
pub(crate) struct Distribution<'a> {
    logits: &'a [f32],
    /// The first of the largest.
    largest: usize,
    /// ln Σ exp(logit).
    ln_sum: f64,
}

impl<'a> Distribution<'a> {
    /// Of logits.
    pub(crate) fn new(logits: &'a [f32]) -> Self {
        let largest =
            logits.iter().enumerate().fold(0, |best, (i, &logit)| if logit > logits[best] { i } else { best });
        let top = logits[largest];
        // terms in f32, each below 1; the sum in f64
        let sum: f64 = logits.iter().map(|&logit| f64::from((logit - top).exp())).sum();
        Distribution { logits, largest, ln_sum: f64::from(top) + sum.ln() }
    }

    /// The place of the first of the largest logits.
    pub(crate) fn largest(&self) -> usize {
        self.largest
    }

    /// ln p of a token.
    pub(crate) fn ln_probability(&self, token: usize) -> f64 {
        f64::from(self.logits[token]) - self.ln_sum
    }

    /// D(self ‖ other) = Σ p_self · (logit_self − logit_other) − ln_sum_self + ln_sum_other.
    pub(crate) fn divergence_of(&self, other: &Self) -> f64 {
        let term = |(&own, &other): (&f32, &f32)| {
            let probability = f64::from(((f64::from(own) - self.ln_sum) as f32).exp());
            probability * (f64::from(own) - f64::from(other))
        };
        self.logits.iter().zip(other.logits).map(term).sum::<f64>() - self.ln_sum + other.ln_sum
    }
}
