//! The query heads that run: selection as data.

use std::ops::Range;

use super::AttentionShape;
use crate::error::{Error, Result, check_len, product};

/// The query heads that run, for each span of a call.
///
/// A skipped head's output is zero, so an output projection may use all of it, or only the columns of
/// [`Heads::columns`]; its K and V are not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads<'a> {
    /// Every head of every span.
    All,
    /// The form `[batch, head]`: span b runs query heads `list[b · width .. b · width + counts[b]]`, strictly increasing,
    /// with `width = list.len() / counts.len()`.
    List {
        /// u32, [spans, width].
        list: &'a [u32],
        /// u32, \[spans\], each at most `width`.
        counts: &'a [u32],
    },
    /// As `List`, of KV heads: each stands for all query heads of its group.
    Groups {
        /// u32, [spans, width].
        list: &'a [u32],
        /// u32, \[spans\], each at most `width`.
        counts: &'a [u32],
    },
    /// One bit per query head: head h of span b runs if bit `h % 32` of `words[b · ⌈n_q_heads / 32⌉ + h / 32]` is set. Bits
    /// past `n_q_heads` are ignored.
    Mask {
        /// u32, [spans, ⌈n_q_heads / 32⌉].
        words: &'a [u32],
    },
}

impl<'a> Heads<'a> {
    /// Checks lengths, ranges and order.
    ///
    /// # Errors
    /// [`Error::Length`] if a buffer does not fit `n_spans`, [`Error::Index`] for a head out of range or a count above the
    /// width, [`Error::NotIncreasing`] for a duplicate or unsorted head.
    pub fn check(&self, shape: &AttentionShape, n_spans: usize) -> Result<()> {
        match *self {
            Heads::All => Ok(()),
            Heads::List { list, counts } => check_lists("head list", list, counts, n_spans, shape.n_q_heads),
            Heads::Groups { list, counts } => check_lists("group list", list, counts, n_spans, shape.n_kv_heads),
            Heads::Mask { words } => {
                check_len("head mask", product("head mask", &[n_spans, shape.n_q_heads.div_ceil(32)])?, words.len())
            }
        }
    }

    /// Says whether query head `head` of span `span` runs. Indices are those of a checked selection.
    pub fn contains(&self, shape: &AttentionShape, span: usize, head: usize) -> bool {
        match *self {
            Heads::All => true,
            Heads::List { list, counts } => listed(list, counts, span, head),
            Heads::Groups { list, counts } => listed(list, counts, span, head / shape.group_size()),
            Heads::Mask { words } => {
                let word = words[span * shape.n_q_heads.div_ceil(32) + head / 32];
                word >> (head % 32) & 1 == 1
            }
        }
    }

    /// Says whether any query head of the group of `kv_head` runs.
    pub fn uses_group(&self, shape: &AttentionShape, span: usize, kv_head: usize) -> bool {
        match *self {
            Heads::All => true,
            Heads::Groups { list, counts } => listed(list, counts, span, kv_head),
            _ => group(shape, kv_head).any(|head| self.contains(shape, span, head)),
        }
    }

    /// Query heads of span `span` that run.
    pub fn count(&self, shape: &AttentionShape, span: usize) -> usize {
        (0..shape.n_q_heads).filter(|&head| self.contains(shape, span, head)).count()
    }

    /// The columns of the attention output that are not skipped, as runs in order: what an output projection has to read
    /// of span `span`.
    ///
    /// # Example
    /// ```
    /// use moray::attention::{AttentionShape, Heads};
    /// let shape = AttentionShape::new(4, 2, 8)?;
    /// let heads = Heads::List { list: &[0, 2, 3], counts: &[3] };
    /// assert_eq!(heads.columns(&shape, 0).collect::<Vec<_>>(), [0..8, 16..32]);
    /// # Ok::<(), moray::Error>(())
    /// ```
    pub fn columns(self, shape: &AttentionShape, span: usize) -> impl Iterator<Item = Range<usize>> + use<'a> {
        let shape = *shape;
        let mut next = 0;
        std::iter::from_fn(move || {
            let start = (next..shape.n_q_heads).find(|&head| self.contains(&shape, span, head))?;
            next = (start..shape.n_q_heads).find(|&head| !self.contains(&shape, span, head)).unwrap_or(shape.n_q_heads);
            Some(start * shape.head_dim..next * shape.head_dim)
        })
    }
}

/// The query heads of a KV head.
pub(super) fn group(shape: &AttentionShape, kv_head: usize) -> Range<usize> {
    kv_head * shape.group_size()..(kv_head + 1) * shape.group_size()
}

fn listed(list: &[u32], counts: &[u32], span: usize, index: usize) -> bool {
    let start = span * (list.len() / counts.len());
    let row = &list[start..start + counts[span] as usize];
    row.binary_search_by(|&entry| (entry as usize).cmp(&index)).is_ok()
}

fn check_lists(what: &'static str, list: &[u32], counts: &[u32], n_spans: usize, limit: usize) -> Result<()> {
    check_len("head counts", n_spans, counts.len())?;
    if n_spans == 0 {
        return check_len(what, 0, list.len());
    }
    let width = list.len() / n_spans;
    check_len(what, product(what, &[width, n_spans])?, list.len())?;
    for (span, &count) in counts.iter().enumerate() {
        if count as usize > width {
            return Err(Error::Index { what: "head counts", limit: width + 1, got: count as usize });
        }
        let row = &list[span * width..span * width + count as usize];
        for (i, &index) in row.iter().enumerate() {
            if index as usize >= limit {
                return Err(Error::Index { what, limit, got: index as usize });
            }
            if i > 0 && row[i - 1] >= index {
                return Err(Error::NotIncreasing { what, previous: row[i - 1] as usize, got: index as usize });
            }
        }
    }
    Ok(())
}
