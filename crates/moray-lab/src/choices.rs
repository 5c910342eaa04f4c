//! Multiple-choice questions, answered by the choice that a model finds most likely.
//!
//! A choice follows its question after a space, unless the question ends with white space. With its tokens c₁…cₙ after the tokens q of the
//! question that all choices share,
//!
//! ```text
//! score = Σᵢ ln p(cᵢ | q, c₁…cᵢ₋₁)        normalised = score / bytes of the choice
//! ```
//!
//! and the answer is the choice of the largest, the first where equal. The question is the prompt of what the prompt decides.

use std::path::Path;

use moray::llama::{Backend, LogitRows, Sequence, Session};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::eval::{Runner, ln_probability};
use crate::tokenizer::Tokenizer;

/// A question with its choices.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The question.
    pub question: String,
    /// What may follow it.
    pub choices: Vec<String>,
    /// The right one, from 0.
    pub answer: usize,
}

/// Reads items, one in each line of JSON; empty lines are left out.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read, [`Error::Malformed`] with the line for what is no item, an answer that is no choice,
/// fewer than two choices or an empty one, and a file without items.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::io("read", path, source))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let items = lines.map(|(index, line)| {
        let malformed =
            |expected: &str, got: String| Error::malformed(path, format!("line {}", index + 1), expected, got);
        let item: Item = serde_json::from_str(line)
            .map_err(|error| malformed("an object of question, choices and answer", error.to_string()))?;
        if item.choices.len() < 2 || item.choices.iter().any(String::is_empty) {
            return Err(malformed("at least 2 choices, none of them empty", format!("{:?}", item.choices)));
        }
        if item.answer >= item.choices.len() {
            return Err(malformed("an answer below the number of choices", format!("{}", item.answer)));
        }
        Ok(item)
    });
    let items = items.collect::<Result<Vec<_>>>()?;
    if items.is_empty() {
        return Err(Error::malformed(path, "items", "at least 1", 0));
    }
    Ok(items)
}

/// How many questions a model answers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Questions.
    pub items: usize,
    /// Right by the score, in percent.
    pub accuracy_percent: f64,
    /// Its standard error, 100 · √(p(1 − p)/n).
    pub accuracy_percent_se: f64,
    /// Right by the score for each byte, in percent.
    pub normalised_percent: f64,
    /// Its standard error.
    pub normalised_percent_se: f64,
    /// What guessing gets, in percent.
    pub by_chance_percent: f64,
}

/// A question as tokens.
struct Asked {
    /// What all choices begin with.
    prefix: Vec<u32>,
    /// What follows it.
    choices: Vec<Vec<u32>>,
}

impl Asked {
    fn new(tokenizer: &Tokenizer, bos: Option<u32>, item: &Item) -> Result<Self> {
        let space = if item.question.is_empty() || item.question.ends_with(char::is_whitespace) { "" } else { " " };
        let encode =
            |text: &str| -> Result<Vec<u32>> { Ok(bos.into_iter().chain(tokenizer.encode(text, false)?).collect()) };
        let question = encode(&item.question)?;
        let texts = item.choices.iter().map(|choice| encode(&format!("{}{space}{choice}", item.question)));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        // where the last tokens of the question and the first of a choice are written as one, both belong to the choice
        let shared = |text: &Vec<u32>| {
            text.iter().zip(&question).take_while(|(a, b)| a == b).count().min(text.len().saturating_sub(1))
        };
        let prefix = texts.iter().map(shared).min().unwrap_or(0);
        if prefix == 0 {
            let (what, expected) = ("question", "at least one token before its choices");
            return Err(moray::Error::Shape { what, expected, got: 0 }.into());
        }
        Ok(Asked {
            choices: texts.iter().map(|text| text[prefix..].to_vec()).collect(),
            prefix: question[..prefix].to_vec(),
        })
    }

    fn longest(&self) -> usize {
        self.choices.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Asks a model all questions; `progress` is told after each how many are answered.
///
/// # Errors
/// [`Error::Kernel`] for a question that is longer than the model's `limit` positions or has no token before its choices, and what the
/// forward pass refuses.
pub fn score<B: Backend>(
    runner: &Runner<'_, B>,
    tokenizer: &Tokenizer,
    (bos, limit): (Option<u32>, usize),
    items: &[Item],
    progress: &mut dyn FnMut(usize),
) -> Result<Scores> {
    let asked = items.iter().map(|item| Asked::new(tokenizer, bos, item)).collect::<Result<Vec<_>>>()?;
    let context = asked.iter().map(|asked| asked.prefix.len() + asked.longest()).max().unwrap_or(1);
    if context > limit {
        let what = "the last position of a question".into();
        return Err(Error::Index { what, limit, got: context - 1 });
    }
    let longest = asked.iter().map(Asked::longest).max().unwrap_or(1);
    let mut settings = runner.settings.clone();
    (settings.slots, settings.context, settings.max_logits) = (1, context, longest);
    settings.max_tokens = context.clamp(longest, longest.max(256));
    let mut session = runner.model.session(runner.device, settings)?;
    let (mut right, mut normalised) = (0, 0);
    for (index, (asked, item)) in asked.iter().zip(items).enumerate() {
        let scores = scores(runner, &mut session, asked)?;
        let per_byte = |(score, choice): (&f64, &String)| score / choice.len() as f64;
        let by_byte: Vec<f64> = scores.iter().zip(&item.choices).map(per_byte).collect();
        right += usize::from(largest(&scores) == item.answer);
        normalised += usize::from(largest(&by_byte) == item.answer);
        progress(index + 1);
    }
    let n = items.len() as f64;
    let percent = |count: usize| {
        let share = count as f64 / n;
        (100.0 * share, 100.0 * (share * (1.0 - share) / n).sqrt())
    };
    let ((accuracy_percent, accuracy_percent_se), (normalised_percent, normalised_percent_se)) =
        (percent(right), percent(normalised));
    let by_chance_percent = 100.0 * items.iter().map(|item| 1.0 / item.choices.len() as f64).sum::<f64>() / n;
    Ok(Scores {
        items: items.len(),
        accuracy_percent,
        accuracy_percent_se,
        normalised_percent,
        normalised_percent_se,
        by_chance_percent,
    })
}

/// Σ ln p of each choice's tokens.
fn scores<B: Backend>(runner: &Runner<'_, B>, session: &mut Session<B>, asked: &Asked) -> Result<Vec<f64>> {
    let Runner { device, model, .. } = *runner;
    let vocab = model.config().vocab;
    model.truncate(device, session, 0, 0)?;
    let first = model.prefill(device, session, 0, &asked.prefix)?.to_vec();
    let score = |choice: &Vec<u32>| {
        let mut sum = ln_probability(&first, choice[0])?;
        if choice.len() > 1 {
            model.truncate(device, session, 0, asked.prefix.len())?;
            let tokens = &choice[..choice.len() - 1];
            let rows = model.forward(device, session, &[Sequence { slot: 0, tokens }], LogitRows::All)?;
            for (row, &token) in rows.chunks_exact(vocab).zip(&choice[1..]) {
                sum += ln_probability(row, token)?;
            }
        }
        Ok(sum)
    };
    asked.choices.iter().map(score).collect()
}

/// The place of the first of the largest.
fn largest(scores: &[f64]) -> usize {
    scores.iter().enumerate().fold(0, |best, (index, score)| if *score > scores[best] { index } else { best })
}
