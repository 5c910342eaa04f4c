//! RoPE, the writing of K and V and attention, together: check, select, launch.

use super::{Attend, WriteKv};
use crate::device::{Buffer, Device, Enqueue, Queue};
use crate::error::{Error, Result};

/// A [`WriteKv`] and the [`Attend`] that follows it, in one launch where spans are of few tokens: (tokens · query heads of a KV head) ≤ 16, so
/// in a decode step. The cache and the output have the bits of the two calls.
///
/// The calls agree in shape, cache, heads and spans, and the first has queries, whose `out` is the second's `q`. In one launch that buffer is
/// not written: each block turns the rows that it reads.
///
/// # Example
/// ```no_run
/// use moray::Device;
/// use moray::attention::cuda::raw::{Attend, WriteAttend, WriteKv};
/// use moray::device::RawCall;
///
/// fn step(device: &Device, write: WriteKv, attend: Attend) -> moray::Result<()> {
///     let call = WriteAttend { write, attend };
///     // SAFETY: the engine holds the memory of both calls, and its stream is of the device's context.
///     unsafe { call.launch(device, device.raw_stream()) }
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct WriteAttend {
    /// What is turned and written.
    pub write: WriteKv,
    /// What is computed then.
    pub attend: Attend,
}

impl WriteAttend {
    /// Whether it is one launch (and, where nothing counts the parts of a context that have arrived, one that merges them).
    pub fn is_one(&self) -> bool {
        self.attend.takes_projections()
    }

    fn check_agreement(&self) -> Result<()> {
        let Self { write, attend } = self;
        let disagree = |what| {
            let (expected, got) = ("the same in the write and in the attention after it", "another".into());
            Err(Error::Unsupported { what, expected, got })
        };
        if write.shape != attend.shape {
            return disagree("shape");
        }
        if write.kv != attend.kv {
            return disagree("kv");
        }
        if write.heads != attend.heads {
            return disagree("heads");
        }
        if write.spans != attend.spans {
            return disagree("spans");
        }
        match write.queries.map(|queries| queries.out) == Some(attend.q) {
            true => Ok(()),
            false => disagree("q"),
        }
    }
}

impl Enqueue for WriteAttend {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.check_agreement()?;
        self.write.check_sizes(device)?;
        self.attend.check_sizes(device)
    }

    fn check_addresses(&self) -> Result<()> {
        self.write.check_addresses()
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        self.write.name_buffers(device, show);
        self.attend.name_buffers(device, show);
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        if self.is_one() {
            return self.attend.enqueue_with(queue, self.write.projected());
        }
        self.write.enqueue(queue)?;
        self.attend.enqueue(queue)
    }
}
