//! What a call works on, resident on the device: spans of tokens and the heads that run.

use crate::attention::{self, AttentionShape, KvShape, Span, check_index, check_spans};
use crate::device::cudarc::driver::CudaSlice;
use crate::device::{Arguments, Device, check_context};
use crate::error::{Error, Result};

use super::raw;

/// The tokens of a call on the device, with a copy on the host for checks.
///
/// [`Spans::set`] and [`Spans::advance`] put their work on the stream. In a captured graph, put
/// [`Spans::record_advance`] at the end of a step and call [`Spans::advanced`] before each launch of the graph: the device
/// moves on by itself and the host checks that it may.
#[derive(Debug)]
pub struct Spans {
    records: CudaSlice<u32>,
    host: Vec<Span>,
    max_spans: usize,
}

impl Spans {
    /// Allocates room for `max_spans` spans.
    ///
    /// # Errors
    /// [`Error::Shape`] for 0 or more than 65535 spans, [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, max_spans: usize) -> Result<Spans> {
        if !(1..=0xffff).contains(&max_spans) {
            return Err(Error::Shape { what: "max_spans", expected: "1 to 65535", got: max_spans });
        }
        device.prepare(super::MODULES)?;
        Ok(Spans { records: device.zeros(4 * max_spans)?, host: Vec::with_capacity(max_spans), max_spans })
    }

    /// Replaces the spans; each slot may appear once.
    ///
    /// # Errors
    /// [`Error::Shape`] for more spans than there is room for, [`Error::Index`] for a position past 2³¹,
    /// [`Error::Unsupported`] for a slot that appears twice, [`Error::Driver`] if the copy fails.
    pub fn set(&mut self, device: &Device, spans: &[Span]) -> Result<()> {
        if spans.len() > self.max_spans {
            return Err(Error::Shape { what: "spans", expected: "at most max_spans", got: spans.len() });
        }
        check_spans(spans, 1 << 31, 1 << 31)?;
        check_context("spans", device, &self.records)?;
        let mut first_row = 0;
        let mut words = Vec::with_capacity(4 * spans.len());
        for span in spans {
            words.extend([span.slot as u32, span.start as u32, span.len as u32, first_row]);
            first_row += span.len as u32;
        }
        if !words.is_empty() {
            let mut records = self.records.slice_mut(..words.len());
            device.upload_into(&words, &mut records)?;
        }
        self.host.clear();
        self.host.extend_from_slice(spans);
        Ok(())
    }

    /// Moves every span on by its length, on the device and on the host: the next decode step.
    ///
    /// # Errors
    /// [`Error::Index`] if a span would pass `capacity`, [`Error::Launch`] if the kernel cannot be started.
    pub fn advance(&mut self, device: &Device, capacity: usize) -> Result<()> {
        self.check_next(capacity)?;
        self.record_advance(device)?;
        self.move_on();
        Ok(())
    }

    /// Puts the moving on of the device's spans on the stream and leaves the host's: to be captured in a graph.
    ///
    /// # Errors
    /// [`Error::Launch`] if the kernel cannot be started.
    pub fn record_advance(&mut self, device: &Device) -> Result<()> {
        let n_spans = self.host.len();
        let mut arguments = Arguments::new(device);
        let records = arguments.write("spans", &mut self.records)?.cast();
        arguments.launch(&raw::AdvanceSpans { records, n_spans })
    }

    /// Moves the host's spans on for one launch of a graph that holds [`Spans::record_advance`].
    ///
    /// # Errors
    /// [`Error::Index`] if the spans that the graph then works on would pass `capacity`; the host's are as before.
    pub fn advanced(&mut self, capacity: usize) -> Result<()> {
        self.check_next(capacity)?;
        self.move_on();
        Ok(())
    }

    fn check_next(&self, capacity: usize) -> Result<()> {
        self.host.iter().try_for_each(|span| {
            let end = span.end() + span.len;
            if span.len == 0 { Ok(()) } else { check_index("span position", end - 1, capacity) }
        })
    }

    fn move_on(&mut self) {
        self.host.iter_mut().for_each(|span| span.start += span.len);
    }

    /// The spans as the host knows them.
    pub fn host(&self) -> &[Span] {
        &self.host
    }

    /// M, the number of tokens.
    pub fn rows(&self) -> usize {
        self.host.iter().map(|span| span.len).sum()
    }

    /// Tokens of the longest span.
    pub(super) fn longest(&self) -> usize {
        self.host.iter().map(|span| span.len).max().unwrap_or(0)
    }

    /// Holds the records for a call that reads them.
    pub(super) fn hold<'a>(&'a self, arguments: &mut Arguments<'a>) -> Result<raw::Spans> {
        let records = arguments.read("spans", &self.records)?.cast();
        Ok(raw::Spans { records, n_spans: self.host.len(), longest: self.longest(), rows: self.rows() })
    }

    pub(super) fn check(&self, cache: &KvShape) -> Result<usize> {
        check_spans(&self.host, cache.n_slots, cache.capacity)
    }
}

/// The query heads that run, for each span of a call: the forms of [`attention::Heads`], in device memory.
///
/// Lists must be strictly increasing and masks as there; kernels stay inside their memory whatever the buffers hold, but
/// heads that a bad list names twice or out of order may come out wrong. [`OwnedHeads`] uploads checked ones.
#[derive(Debug, Clone, Copy)]
pub enum Heads<'a> {
    /// Every head of every span.
    All,
    /// Query heads: `list` u32 \[spans, width\], of which span b uses the first `counts[b]`.
    List {
        /// u32 \[spans, width\].
        list: &'a CudaSlice<u32>,
        /// u32 \[spans\].
        counts: &'a CudaSlice<u32>,
        /// Entries per span.
        width: usize,
    },
    /// As `List`, of KV heads: each stands for all query heads of its group.
    Groups {
        /// u32 \[spans, width\].
        list: &'a CudaSlice<u32>,
        /// u32 \[spans\].
        counts: &'a CudaSlice<u32>,
        /// Entries per span.
        width: usize,
    },
    /// One bit per query head: u32 \[spans, ⌈n_q_heads / 32⌉\].
    Mask {
        /// The words.
        words: &'a CudaSlice<u32>,
    },
}

impl<'a> Heads<'a> {
    /// Holds the memory for a call.
    pub(super) fn hold(self, arguments: &mut Arguments<'a>) -> Result<raw::Heads> {
        Ok(match self {
            Heads::All => raw::Heads::All,
            Heads::List { list, counts, width } => raw::Heads::List {
                list: arguments.read("head list", list)?,
                counts: arguments.read("head counts", counts)?,
                width,
            },
            Heads::Groups { list, counts, width } => {
                let (list, counts) = (arguments.read("head list", list)?, arguments.read("head counts", counts)?);
                raw::Heads::Groups { list, counts, width }
            }
            Heads::Mask { words } => raw::Heads::Mask { words: arguments.read("head mask", words)? },
        })
    }
}

/// A selection of heads that has been checked and uploaded.
#[derive(Debug)]
pub struct OwnedHeads {
    form: u32,
    list: CudaSlice<u32>,
    counts: CudaSlice<u32>,
    width: usize,
}

impl OwnedHeads {
    /// Checks a selection for `n_spans` spans and copies it to the device.
    ///
    /// # Errors
    /// Those of [`attention::Heads::check`]; [`Error::OutOfMemory`] if there is no room.
    pub fn upload(
        device: &Device,
        heads: &attention::Heads<'_>,
        shape: &AttentionShape,
        n_spans: usize,
    ) -> Result<OwnedHeads> {
        heads.check(shape, n_spans)?;
        let (form, list, counts): (u32, &[u32], &[u32]) = match *heads {
            attention::Heads::All => (0, &[], &[]),
            attention::Heads::List { list, counts } => (1, list, counts),
            attention::Heads::Groups { list, counts } => (2, list, counts),
            attention::Heads::Mask { words } => (3, words, &[]),
        };
        let upload = |host: &[u32]| if host.is_empty() { device.zeros(1) } else { device.upload(host) };
        let width = list.len().checked_div(n_spans).unwrap_or(0);
        Ok(OwnedHeads { form, list: upload(list)?, counts: upload(counts)?, width })
    }

    /// Borrows it for a call.
    pub fn view(&self) -> Heads<'_> {
        let (list, counts, width) = (&self.list, &self.counts, self.width);
        match self.form {
            0 => Heads::All,
            1 => Heads::List { list, counts, width },
            2 => Heads::Groups { list, counts, width },
            _ => Heads::Mask { words: list },
        }
    }
}

/// What one layer of one step works on.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The head layout.
    pub shape: AttentionShape,
    /// The layer, an index into the cache.
    pub layer: usize,
    /// The tokens.
    pub spans: &'a Spans,
    /// The query heads that run, per span.
    pub heads: Heads<'a>,
}

impl Call<'_> {
    /// Checks what the cache and the spans say, and returns M.
    pub(super) fn check(&self, cache: &KvShape) -> Result<usize> {
        self.shape.check()?;
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.shape.n_kv_heads != cache.n_kv_heads {
            return shape("n_kv_heads", "the cache's n_kv_heads", self.shape.n_kv_heads);
        }
        if self.shape.head_dim != cache.head_dim {
            return shape("head_dim", "the cache's head_dim", self.shape.head_dim);
        }
        check_index("layer", self.layer, cache.n_layers)?;
        self.spans.check(cache)
    }
}
