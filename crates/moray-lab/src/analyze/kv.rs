//! What is lost of the KV cache where heads are skipped.

use std::sync::Arc;

use moray::Cpu;
use moray::attention::KvPolicy;
use moray::llama::{LogitRows, Model, Sequence, Session, Settings};
use moray::policy::{HeadNorm, PolicyConfig};

use super::{Analysis, Row};
use crate::error::Result;
use crate::eval::{Distribution, Scored, Text};
use crate::statistics::Mean;

/// Generated tokens after which a run's heads are chosen anew, at a token that runs all of them.
const RENEWED: usize = 8;

/// Tokens whose layer inputs are kept to compute missing rows of K and V from: half of those between two choices, so that the others stay holes.
const LAG: usize = 4;

/// The policies, by their names in the command.
const POLICIES: [(&str, KvPolicy); 4] = [
    ("write-all", KvPolicy::WriteAll),
    ("hole", KvPolicy::Hole),
    ("zero", KvPolicy::Zero),
    ("recompute:4", KvPolicy::Recompute { lag: LAG }),
];

/// What one position adds.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Generated tokens before it.
    distance: usize,
    kl: f64,
    agrees: bool,
    /// −ln p less that of the model whose heads all run.
    nll: f64,
}

/// Runs a text's windows with a share of the KV groups, chosen by the norms of their heads' outputs over the first half of each window and anew every
/// 8 tokens after it, under each policy for the K and V of groups that do not run, and compares each token of the second halves with the model whose
/// groups all run: KL divergence and agreement of the most probable token by distance from the prompt, and perplexity.
///
/// Groups rather than heads are skipped, because K and V of a group with one running head are written under every policy.
///
/// # Errors
/// Those of the forward pass; [`crate::Error::Kernel`] for a model with one KV group, of which none can be skipped.
///
/// # Source
/// arXiv 2405.09274: skipping the KV cache loses information. Recomputing: Deja Vu (ICML 2023); writing all: Polar Sparsity (arXiv 2505.14884).
pub fn kv(cpu: &Cpu, model: &Model<Cpu>, text: &Text<'_>) -> Result<Analysis> {
    let groups = model.config().attention.n_kv_heads;
    if groups < 2 {
        let (what, expected) = ("KV groups", "at least 2, of which some can be skipped");
        return Err(moray::Error::Shape { what, expected, got: groups }.into());
    }
    let windows: Vec<Vec<u32>> = text.windows().filter(|window| window.len() >= 4).collect();
    let whole = windows.iter().map(|window| logits(cpu, model, window, None)).collect::<Result<Vec<_>>>()?;
    let columns = distances(windows.iter().map(|window| window.len() - first(window)).max().unwrap_or(1));
    let (mut rows, mut found) = (Vec::new(), Vec::new());
    for kept in shares(groups) {
        for (name, policy) in POLICIES {
            let mut positions = Vec::new();
            for (window, whole) in windows.iter().zip(&whole) {
                let config = HeadNorm::new(kept as f32 / groups as f32, RENEWED)?.whole_groups();
                let run = logits(cpu, model, window, Some((Arc::new(config), policy)))?;
                positions.extend(compared(window, &run, whole, model.config().vocab));
            }
            let setting = format!("{name}, {kept} of {groups} groups");
            rows.extend(rows_of(&setting, &positions, &columns));
            found.push((kept, name, positions));
        }
    }
    let says = says(&found, groups);
    let columns = columns.iter().map(|column| column.to_string()).chain(["all".to_owned()]).collect();
    Ok(Analysis {
        name: "kv".into(),
        title: "K and V of groups that do not run".into(),
        x: "tokens generated, up to".into(),
        y: "KL divergence from the model whose groups all run, in nats; share of tokens with the same most probable one; perplexity over its".into(),
        columns,
        rows,
        says,
    })
}

/// The first generated token of a window: the first half is its prompt.
fn first(window: &[u32]) -> usize {
    window.len() / 2
}

/// Groups that run: all but one, and half of them, where that is fewer.
fn shares(groups: usize) -> Vec<usize> {
    let mut shares = vec![groups - 1, groups.div_ceil(2), groups.div_ceil(3)];
    shares.dedup();
    shares
}

/// Upper ends of ranges of distances, each twice the one before; the last takes in all.
fn distances(longest: usize) -> Vec<usize> {
    let mut ends = vec![RENEWED];
    while ends[ends.len() - 1] < longest {
        ends.push(2 * ends[ends.len() - 1]);
    }
    ends
}

/// Logits \[tokens of the second half, vocab\] that foresee the tokens of a window's second half, generated one by one after its first.
fn logits(
    cpu: &Cpu,
    model: &Model<Cpu>,
    window: &[u32],
    heads: Option<(Arc<dyn PolicyConfig>, KvPolicy)>,
) -> Result<Vec<f32>> {
    let mut settings = Settings::dense(window.len());
    if let Some((policy, kv)) = heads {
        settings.policies = vec![policy];
        settings.kv = kv;
    }
    let mut session: Session<Cpu> = model.session(cpu, settings)?;
    let (prompt, generated) = window.split_at(first(window));
    let mut rows = model.prefill(cpu, &mut session, 0, prompt)?.to_vec();
    for token in &generated[..generated.len() - 1] {
        let sequence = Sequence { slot: 0, tokens: std::slice::from_ref(token) };
        rows.extend_from_slice(model.forward(cpu, &mut session, &[sequence], LogitRows::Last)?);
    }
    Ok(rows)
}

fn compared(window: &[u32], run: &[f32], whole: &[f32], vocab: usize) -> Vec<Position> {
    let targets = &window[first(window)..];
    let rows = run.chunks_exact(vocab).zip(whole.chunks_exact(vocab)).zip(targets).enumerate();
    rows.map(|(distance, ((run, whole), &target))| {
        let (run, whole) = (Distribution::new(run), Distribution::new(whole));
        Position {
            distance,
            kl: whole.divergence_of(&run),
            agrees: whole.largest() == run.largest(),
            nll: whole.ln_probability(target as usize) - run.ln_probability(target as usize),
        }
    })
    .collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut mean = Mean::default();
    values.for_each(|value| mean.add(value));
    (mean.count() > 0).then(|| mean.value().mean)
}

/// KL, agreement and perplexity of a setting.
fn rows_of(setting: &str, positions: &[Position], columns: &[usize]) -> [Row; 3] {
    let row = |what: &str, of: &dyn Fn(&mut dyn Iterator<Item = &Position>) -> Option<f64>| {
        let ranges = columns.iter().enumerate().map(|(index, &end)| {
            let start = if index == 0 { 0 } else { columns[index - 1] };
            of(&mut positions.iter().filter(|position| (start..end).contains(&position.distance)))
        });
        let values = ranges.chain([of(&mut positions.iter())]).collect();
        Row { name: format!("{setting}: {what}"), values }
    };
    [
        row("KL", &|positions| mean(positions.map(|position| position.kl))),
        row("same token", &|positions| mean(positions.map(|position| f64::from(u8::from(position.agrees))))),
        row("perplexity", &|positions| mean(positions.map(|position| position.nll)).map(f64::exp)),
    ]
}

/// Whether what is not written is missed: beside writing all, at the same positions, with the most groups, where the model is nearest to itself.
fn says(found: &[(usize, &str, Vec<Position>)], groups: usize) -> String {
    let mut shares: Vec<usize> = found.iter().map(|(kept, ..)| *kept).collect();
    shares.dedup();
    let mut lost = None;
    let mut parts = Vec::new();
    for kept in shares {
        let of = found.iter().filter(|(other, ..)| *other == kept).map(|(.., positions)| positions).collect::<Vec<_>>();
        let [written, others @ ..] = &of[..] else { continue };
        let more = |other: &&Vec<Position>| {
            let mut difference = Mean::default();
            other.iter().zip(written.iter()).for_each(|(other, written)| difference.add(other.kl - written.kl));
            difference.value()
        };
        let more: Vec<_> = others.iter().map(more).collect();
        // left out and as zeros
        lost.get_or_insert(more.iter().take(2).any(|more| more.mean > 2.0 * more.se));
        let own = mean(written.iter().map(|position| position.kl)).unwrap_or(0.0);
        let said = POLICIES[1..]
            .iter()
            .zip(&more)
            .map(|((name, _), more)| format!("{name} {:+.4} ± {:.4}", more.mean, more.se));
        let said = said.collect::<Vec<_>>().join(", ");
        parts.push(format!(
            "with {kept} of {groups} groups, K and V of the others written, KL is {own:.4} nats, and beside that {said}"
        ));
    }
    format!(
        "Skipping the KV cache loses information: {}. Where groups are chosen anew every {RENEWED} tokens: {}.",
        if lost == Some(true) { "holds here" } else { "does not hold here" },
        parts.join("; ")
    )
}

/// Windows of a text: two of its halves, or of 256 tokens.
pub fn kv_text(tokens: &[u32], bos: Option<u32>) -> Text<'_> {
    Text { tokens, bos, context: (tokens.len() / 2).clamp(4, 256), scored: Scored::SecondHalf }
}
