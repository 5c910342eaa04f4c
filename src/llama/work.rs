//! How much of the model a session has computed.

use crate::sparse_mlp::{ScoreOn, Selection, Workspace};

/// Counts of what ran, over all tokens and layers of a session so far.
///
/// # Example
/// ```
/// use moray::llama::Work;
/// let (before, after) = (Work::default(), Work { neurons: 100, neurons_kept: 70, ..Work::default() });
/// assert_eq!(after.since(before).kept_neurons(), Some(0.7));
/// assert_eq!(after.since(before).kept_heads(), None); // none counted
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Work {
    /// Neurons of the layers' MLPs, tokens × d_ff.
    pub neurons: u64,
    /// Those of them that a token's selection kept.
    pub neurons_kept: u64,
    /// Query heads, tokens × n_q_heads.
    pub heads: u64,
    /// Those of them that ran.
    pub heads_run: u64,
}

impl Work {
    /// What was added since `earlier`, a count of the same session.
    pub fn since(self, earlier: Work) -> Work {
        Work {
            neurons: self.neurons.saturating_sub(earlier.neurons),
            neurons_kept: self.neurons_kept.saturating_sub(earlier.neurons_kept),
            heads: self.heads.saturating_sub(earlier.heads),
            heads_run: self.heads_run.saturating_sub(earlier.heads_run),
        }
    }

    /// The sum of two counts.
    pub fn plus(self, other: Work) -> Work {
        Work {
            neurons: self.neurons + other.neurons,
            neurons_kept: self.neurons_kept + other.neurons_kept,
            heads: self.heads + other.heads,
            heads_run: self.heads_run + other.heads_run,
        }
    }

    /// Kept neurons as a fraction; none if nothing was counted.
    pub fn kept_neurons(self) -> Option<f64> {
        (self.neurons > 0).then(|| self.neurons_kept as f64 / self.neurons as f64)
    }

    /// Query heads that ran as a fraction; none if nothing was counted.
    pub fn kept_heads(self) -> Option<f64> {
        (self.heads > 0).then(|| self.heads_run as f64 / self.heads as f64)
    }

    /// Counts one layer's MLP over `tokens` tokens; `workspace` is what it was computed in.
    pub(super) fn count_mlp(
        &mut self,
        tokens: usize,
        d_ff: usize,
        selection: &Selection<'_>,
        workspace: Option<&Workspace>,
    ) {
        let all = (tokens * d_ff) as u64;
        let scored = |score: ScoreOn| match workspace {
            Some(workspace) if score != ScoreOn::Input => workspace.neurons_scored_in() as u64,
            _ => all,
        };
        self.neurons += all;
        self.neurons_kept += match selection {
            Selection::List(list) => (tokens * list.indices().len()) as u64,
            Selection::Masks(masks) => masks.count() as u64,
            Selection::Union { list, masks } => masks.count_in(list) as u64,
            Selection::Threshold { score, .. } | Selection::TopK { score, .. } => scored(score.on),
            Selection::All | Selection::Heads(_) => all,
        };
    }

    /// Counts one layer's heads: `run` of the `n` heads for each of `tokens` tokens.
    pub(super) fn count_heads(&mut self, tokens: usize, n: usize, run: usize) {
        self.heads += (tokens * n) as u64;
        self.heads_run += (tokens * run) as u64;
    }
}
