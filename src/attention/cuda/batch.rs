//! What a call works on, resident on the device: spans of tokens and the heads that run.

use crate::attention::{self, AttentionShape, KvShape, Span, check_index, check_spans};
use crate::device::cudarc::driver::{CudaSlice, DevicePtr};
use crate::device::{Device, call, check_context};
use crate::error::{Error, Result};
use std::ffi::c_void;

use super::params::{HeadsView, SpanRecord};
use super::{MAX_GROUP, check_room};

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
            device.stream().memcpy_htod(&words[..], &mut records).map_err(call("copy to the device"))?;
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
    pub fn record_advance(&self, device: &Device) -> Result<()> {
        check_context("spans", device, &self.records)?;
        let (mut records, mut n_spans) = (self.records.device_ptr(device.stream()).0, self.host.len() as u32);
        if n_spans == 0 {
            return Ok(());
        }
        let mut args = [(&raw mut records).cast::<c_void>(), (&raw mut n_spans).cast()];
        let grid = [n_spans.div_ceil(128), 1, 1];
        // SAFETY: the kernel takes an address of n_spans records and their number; the records have room for max_spans.
        unsafe { device.launch("attention/write", "attention_advance", grid, [128, 1, 1], 0, &mut args) }
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

    /// The address of the [`SpanRecord`]s.
    pub fn address(&self, device: &Device) -> u64 {
        const _: () = assert!(size_of::<SpanRecord>() == 4 * size_of::<u32>());
        self.records.device_ptr(device.stream()).0
    }

    pub(super) fn check(&self, device: &Device, cache: &KvShape) -> Result<()> {
        check_context("spans", device, &self.records)?;
        check_spans(&self.host, cache.n_slots, cache.capacity).map(|_| ())
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

impl Heads<'_> {
    pub(super) fn view(&self, device: &Device, shape: &AttentionShape, n_spans: usize) -> Result<HeadsView> {
        let stream = device.stream();
        let listed = |form, list: &CudaSlice<u32>, counts: &CudaSlice<u32>, width: usize| {
            check_context("head list", device, list)?;
            check_room("head list", n_spans.saturating_mul(width), list.len())?;
            check_room("head counts", n_spans, counts.len())?;
            let (list, counts) = (list.device_ptr(stream).0, counts.device_ptr(stream).0);
            Ok(HeadsView { list, counts, form, width: width as u32 })
        };
        match *self {
            Heads::All => Ok(HeadsView::default()),
            Heads::List { list, counts, width } => listed(1, list, counts, width),
            Heads::Groups { list, counts, width } => listed(2, list, counts, width),
            Heads::Mask { words } => {
                let width = shape.n_q_heads.div_ceil(32);
                check_context("head mask", device, words)?;
                check_room("head mask", n_spans.saturating_mul(width), words.len())?;
                Ok(HeadsView { list: words.device_ptr(stream).0, counts: 0, form: 3, width: width as u32 })
            }
        }
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
    /// Checks everything but the buffers, and returns M.
    pub(super) fn check(&self, device: &Device, cache: &KvShape) -> Result<usize> {
        self.shape.check()?;
        let shape = |what, expected, got| Err(Error::Shape { what, expected, got });
        if self.shape.n_kv_heads != cache.n_kv_heads {
            return shape("n_kv_heads", "the cache's n_kv_heads", self.shape.n_kv_heads);
        }
        if self.shape.head_dim != cache.head_dim {
            return shape("head_dim", "the cache's head_dim", self.shape.head_dim);
        }
        if self.shape.group_size() > MAX_GROUP {
            return shape("query heads per KV head", "at most 256", self.shape.group_size());
        }
        if self.shape.n_q_heads > 0xffff {
            return shape("n_q_heads", "at most 65535", self.shape.n_q_heads);
        }
        check_index("layer", self.layer, cache.n_layers)?;
        self.spans.check(device, cache)?;
        Ok(self.spans.rows())
    }
}
