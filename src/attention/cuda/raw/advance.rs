//! Moving spans on.

use super::SpanRecord;
use crate::attention::cuda::mirror::{ADVANCE, AdvanceParams};
use crate::device::{Address, Buffer, Device, Enqueue, Queue};
use crate::error::{Error, Result};

/// Moves every span on by its length, the last thing of a captured step: [`crate::attention::cuda::Spans::record_advance`] by
/// addresses.
#[derive(Debug, Clone, Copy)]
pub struct AdvanceSpans {
    /// \[n_spans\].
    pub records: Address<SpanRecord>,
    /// Spans, at most 65535.
    pub n_spans: usize,
}

impl Enqueue for AdvanceSpans {
    fn check_sizes(&self, _: &Device) -> Result<()> {
        match self.n_spans > 0xffff {
            true => Err(Error::Shape { what: "n_spans", expected: "at most 65535", got: self.n_spans }),
            false => Ok(()),
        }
    }

    fn name_buffers(&self, _: &Device, show: &mut dyn FnMut(Buffer)) {
        show(Buffer::write("spans", self.records, self.n_spans));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.n_spans == 0 {
            return Ok(());
        }
        let n_spans = self.n_spans as u32;
        let params = AdvanceParams { spans: self.records.get(), n_spans, reserved: 0 };
        queue.launch(ADVANCE, [n_spans.div_ceil(ADVANCE.threads), 1, 1], params)
    }
}
