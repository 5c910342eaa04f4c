//! Writing single rows of K and V: those that a policy left out and that are computed after all.

use crate::attention::{AttentionShape, KvShape, check_index};
use crate::device::cudarc::driver::CudaSlice;
use crate::device::{Arguments, Device, ElementKind};
use crate::error::{Error, Result, product};

use super::kv_cache::KvCache;
use super::raw;
use super::write::{Rope, check_rope};

/// One position of a sequence and the KV heads whose rows of it are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvToken {
    /// The sequence.
    pub slot: usize,
    /// The position.
    pub position: usize,
    /// KV heads, increasing.
    pub kv_heads: Vec<u32>,
}

/// What [`write_rows`] writes, resident on the device.
#[derive(Debug)]
pub struct KvRows {
    max_tokens: usize,
    n_kv_heads: usize,
    tokens: usize,
    /// One past the largest slot and the largest position.
    limits: (usize, usize),
    /// A span of one token each.
    records: CudaSlice<u32>,
    /// u32 \[tokens, n_kv_heads\].
    list: CudaSlice<u32>,
    counts: CudaSlice<u32>,
}

impl KvRows {
    /// Allocates room for `max_tokens` positions.
    ///
    /// # Errors
    /// [`Error::Shape`] for 0 or more than 65535 of them, [`Error::OutOfMemory`] if there is no room.
    pub fn new(device: &Device, max_tokens: usize, n_kv_heads: usize) -> Result<KvRows> {
        if !(1..=0xffff).contains(&max_tokens) {
            return Err(Error::Shape { what: "max_tokens", expected: "1 to 65535", got: max_tokens });
        }
        let (records, list) =
            (device.zeros(4 * max_tokens)?, device.zeros(product("n_kv_heads", &[n_kv_heads, max_tokens])?)?);
        let counts = device.zeros(max_tokens)?;
        Ok(KvRows { max_tokens, n_kv_heads, tokens: 0, limits: (0, 0), records, list, counts })
    }

    /// Replaces the rows. The copies are on the stream.
    ///
    /// # Errors
    /// [`Error::Shape`] for more positions than there is room for, [`Error::Index`] for a KV head that is not there,
    /// [`Error::Driver`] if a copy fails.
    pub fn set(&mut self, device: &Device, tokens: &[KvToken]) -> Result<()> {
        if tokens.len() > self.max_tokens {
            return Err(Error::Shape { what: "tokens", expected: "at most max_tokens", got: tokens.len() });
        }
        let (mut records, mut list, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (row, token) in tokens.iter().enumerate() {
            token.kv_heads.iter().try_for_each(|&head| check_index("kv_head", head as usize, self.n_kv_heads))?;
            if token.kv_heads.len() > self.n_kv_heads {
                let got = token.kv_heads.len();
                return Err(Error::Length { what: "kv_heads", expected: self.n_kv_heads, got });
            }
            records.extend([token.slot as u32, token.position as u32, 1, row as u32]);
            list.extend(&token.kv_heads);
            list.resize((row + 1) * self.n_kv_heads, 0);
            counts.push(token.kv_heads.len() as u32);
        }
        self.tokens = 0;
        for (host, slice) in [(records, &mut self.records), (list, &mut self.list), (counts, &mut self.counts)] {
            if !host.is_empty() {
                let mut room = slice.slice_mut(..host.len());
                device.upload_into(&host, &mut room)?;
            }
        }
        self.tokens = tokens.len();
        let past = |of: fn(&KvToken) -> usize| tokens.iter().map(of).max().map_or(0, |largest| largest + 1);
        self.limits = (past(|token| token.slot), past(|token| token.position));
        Ok(())
    }

    fn check(&self, cache: &KvShape) -> Result<()> {
        let (slots, positions) = self.limits;
        if self.tokens > 0 {
            check_index("slot", slots - 1, cache.n_slots)?;
            check_index("position", positions - 1, cache.capacity)?;
        }
        match self.n_kv_heads == cache.n_kv_heads {
            true => Ok(()),
            false => Err(Error::Shape { what: "n_kv_heads", expected: "the cache's n_kv_heads", got: self.n_kv_heads }),
        }
    }
}

/// Writes the K (turned by RoPE at its own position) and V of single rows, and marks them as held; other heads of these
/// positions stay as they are.
///
/// `qkv` is f32 \[tokens, q + 2·kv\]: the joint projection of the rows' tokens, of which the query columns are not read.
///
/// # Errors
/// [`Error::Index`] for a layer, slot or position out of range (of the cache or the rope table), [`Error::Length`] for too few
/// projections, [`Error::Shape`] if the shapes disagree, [`Error::Launch`] if the kernel cannot be started.
pub fn write_rows(
    device: &Device,
    shape: &AttentionShape,
    layer: usize,
    rows: &KvRows,
    rope: Option<&Rope>,
    qkv: &CudaSlice<f32>,
    cache: &mut KvCache,
) -> Result<()> {
    shape.check()?;
    rows.check(cache.shape())?;
    if (shape.n_kv_heads, shape.head_dim) != (cache.shape().n_kv_heads, cache.shape().head_dim) {
        return Err(Error::Shape { what: "head_dim", expected: "the cache's heads", got: shape.head_dim });
    }
    if let Some(rope) = rope {
        check_rope(rope, shape.head_dim, rows.limits.1)?;
    }
    let (q, kv, tokens) = (shape.q_elems(), shape.kv_elems(), rows.tokens);
    let mut arguments = Arguments::new(device);
    let first = arguments.read("qkv", qkv)?;
    let records = arguments.read("rows", &rows.records)?.cast();
    let write = raw::WriteKv {
        shape: *shape,
        kv: cache.hold_mut(&mut arguments, layer)?,
        heads: raw::Heads::Groups {
            list: arguments.read("rows", &rows.list)?,
            counts: arguments.read("rows", &rows.counts)?,
            width: rows.n_kv_heads,
        },
        spans: raw::Spans { records, n_spans: tokens, longest: tokens.min(1), rows: tokens },
        skipped: raw::Skipped::Keep,
        rope: rope.map(|rope| rope.hold(&mut arguments)).transpose()?,
        queries: None,
        k: first.offset(q).cast(),
        v: first.offset(q + kv).cast(),
        kv_stride: q + 2 * kv,
        element: ElementKind::F32,
    };
    arguments.launch(&write)
}
