//! What becomes of the K and V of a group whose query heads are all skipped.

use super::Call;

/// What is stored for a token's KV head when no query head of its group runs for that token.
///
/// A group with at least one running head is always projected and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KvPolicy {
    /// Its K and V, as if it ran: only the reading is skipped, and no information is lost.
    #[default]
    WriteAll,
    /// Nothing: later tokens leave the position out of that head's softmax.
    Hole,
    /// Zeros: the position takes part in the softmax with score 0 and value 0.
    Zero,
    /// Nothing, but the layer's input of the last `lag` tokens is kept (see [`super::InputRing`]), so that the rows can be
    /// computed when the head is selected again; older positions stay holes.
    Recompute {
        /// Tokens whose input is kept.
        lag: usize,
    },
}

impl KvPolicy {
    /// Says whether `kv_head` has to be projected for the tokens of span `span`.
    pub fn projects(self, call: &Call<'_>, span: usize, kv_head: usize) -> bool {
        self == KvPolicy::WriteAll || call.heads.uses_group(&call.shape, span, kv_head)
    }

    /// Says whether `kv_head` has to be projected for any span: the rows of the K and V weights a batch needs.
    pub fn projects_any(self, call: &Call<'_>, kv_head: usize) -> bool {
        (0..call.spans.len()).any(|span| self.projects(call, span, kv_head))
    }

    /// Tokens whose layer input has to be kept.
    pub fn lag(self) -> usize {
        match self {
            KvPolicy::Recompute { lag } => lag,
            _ => 0,
        }
    }
}
