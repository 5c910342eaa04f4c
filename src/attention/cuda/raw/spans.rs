//! The tokens of a call, by addresses.

use crate::attention::cuda::mirror;
use crate::device::{Address, Buffer, layout};
use crate::error::{Error, Result};

/// A run of tokens as kernels read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct SpanRecord {
    /// The sequence's place in the cache: below the cache's `n_slots`, each at most once in a call.
    pub slot: u32,
    /// Position of the first token.
    pub start: u32,
    /// Tokens.
    pub len: u32,
    /// Row of the first token in q, k, v and out: the tokens of the spans before it.
    pub first_row: u32,
}

layout!(SpanRecord, 16, slot = 0, start = 4, len = 8, first_row = 12);
const _: () = assert!(size_of::<SpanRecord>() == size_of::<mirror::Span>());

/// The spans of a call: records in device memory, and what grids and buffers are sized by.
///
/// Records may change between replays of a captured call as long as the three numbers hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// \[n_spans\].
    pub records: Address<SpanRecord>,
    /// Spans, at most 65535.
    pub n_spans: usize,
    /// Tokens of the longest span at most.
    pub longest: usize,
    /// M, the tokens of all spans at most.
    pub rows: usize,
}

impl Spans {
    pub(super) fn check(&self) -> Result<()> {
        if self.n_spans > 0xffff {
            return Err(Error::Shape { what: "n_spans", expected: "at most 65535", got: self.n_spans });
        }
        if self.rows > 1 << 31 {
            return Err(Error::Shape { what: "rows", expected: "at most 2^31", got: self.rows });
        }
        match self.longest > self.rows {
            true => Err(Error::Shape { what: "longest", expected: "at most the rows", got: self.longest }),
            false => Ok(()),
        }
    }

    /// Whether there is nothing to compute.
    pub(super) fn is_empty(&self) -> bool {
        self.n_spans == 0 || self.longest == 0
    }

    pub(super) fn name_buffers(&self, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::read("spans", self.records, self.n_spans));
    }
}
