//! The inputs of the last tokens, from which skipped K and V rows are recomputed.

use super::storage::{KvDtype, Storage, with_element};
use super::{Call, KvCache, KvRow, Span, check_index, check_spans};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::simd::SimdElement;

/// Marks a place of the ring that holds no token.
const EMPTY: usize = usize::MAX;

/// The normed input of every layer's attention for the last `lag` tokens of each slot: a ring per (layer, slot).
///
/// With [`super::KvPolicy::Recompute`] a forward pass, per layer: asks which rows the selected heads lack
/// ([`InputCache::missing`]), projects those inputs ([`InputCache::read`]) to k and v of that one head, writes them with
/// [`super::write_row`], and then stores the call's own inputs ([`InputCache::store`]), which take the oldest ones' places. The recomputed K and V are those of a token whose own hidden state was made
/// with the head skipped; that loss stays.
///
/// # Source
/// Deja Vu (ICML 2023), which recomputes missing K and V from stored inputs.
///
/// # Example
/// ```
/// use moray::attention::*;
/// let shape = AttentionShape::new(2, 2, 8)?;
/// let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads: 2, head_dim: 8, capacity: 16 };
/// let (mut cache, cpu) = (KvCache::new(kv, KvDtype::F32)?, moray::Cpu::detect());
/// let mut inputs = InputCache::new(1, 1, 4, 32, KvDtype::F32)?; // the last 4 tokens, hidden size 32
///
/// // Token 0 runs head 0 only; its input is kept.
/// let policy = KvPolicy::Recompute { lag: 4 };
/// let spans = [Span { slot: 0, start: 0, len: 1 }];
/// let heads = Heads::List { list: &[0], counts: &[1] };
/// inputs.store(0, &spans, &[1.0; 32])?;
/// write_kv(&cpu, &Call { shape, layer: 0, spans: &spans, heads }, policy, None, &[0.0; 16], &[0.0; 16], &mut cache)?;
///
/// // Token 1 runs both: head 1 lacks token 0.
/// let spans = [Span { slot: 0, start: 1, len: 1 }];
/// let mut missing = Vec::with_capacity(inputs.max_missing(1, 2));
/// inputs.missing(&Call { shape, layer: 0, spans: &spans, heads: Heads::All }, &cache, &mut missing)?;
/// assert_eq!(missing, [KvRow { slot: 0, kv_head: 1, position: 0 }]);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug)]
pub struct InputCache {
    n_layers: usize,
    n_slots: usize,
    lag: usize,
    hidden: usize,
    dtype: KvDtype,
    /// [layer][slot][position % lag][hidden]
    data: Storage,
    /// [layer][slot][position % lag], the position held, or `EMPTY`.
    positions: Vec<usize>,
}

impl InputCache {
    /// Allocates rings of `lag` tokens of `hidden` elements.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0 or the memory cannot be had.
    pub fn new(n_layers: usize, n_slots: usize, lag: usize, hidden: usize, dtype: KvDtype) -> Result<InputCache> {
        let sizes = [("n_layers", n_layers), ("n_slots", n_slots), ("lag", lag), ("hidden", hidden)];
        if let Some((what, got)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(Error::Shape { what, expected: "at least 1", got });
        }
        let tokens = n_layers.checked_mul(n_slots).and_then(|n| n.checked_mul(lag));
        let (Some(tokens), Some(elems)) = (tokens, tokens.and_then(|n| n.checked_mul(hidden))) else {
            return Err(Error::Shape { what: "input cache", expected: "fewer than 2^64 elements", got: usize::MAX });
        };
        let data = Storage::new("input cache elements", dtype, elems)?;
        Ok(InputCache { n_layers, n_slots, lag, hidden, dtype, data, positions: vec![EMPTY; tokens] })
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        self.data.memory_bytes() + size_of_val(&self.positions[..])
    }

    /// The most rows [`InputCache::missing`] can name for a call of `n_spans` spans.
    pub fn max_missing(&self, n_spans: usize, n_kv_heads: usize) -> usize {
        n_spans * n_kv_heads * self.lag
    }

    /// Keeps the inputs of the spans' tokens: x f32, [M, hidden]; of a span longer than the lag, its last ones.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range, [`Error::Length`] if x does not fit the spans.
    pub fn store(&mut self, layer: usize, spans: &[Span], x: &[f32]) -> Result<()> {
        check_index("layer", layer, self.n_layers)?;
        let rows = check_spans(spans, self.n_slots, usize::MAX)?;
        check_len("x", rows.saturating_mul(self.hidden), x.len())?;
        let mut first_row = 0;
        for span in spans {
            for i in span.len.saturating_sub(self.lag)..span.len {
                let place = self.place(layer, span.slot, span.start + i);
                self.positions[place] = span.start + i;
                let x = &x[(first_row + i) * self.hidden..][..self.hidden];
                with_element!(self.dtype, E => narrow::<E>(x, &mut self.data, place * self.hidden));
            }
            first_row += span.len;
        }
        Ok(())
    }

    /// Appends the rows that the call's heads could use, that the cache lacks and whose inputs are held: positions before
    /// each span, in the order (span, kv_head, position). `rows` does not grow past [`InputCache::max_missing`] entries.
    ///
    /// # Errors
    /// As [`super::write_kv`] for the call; [`Error::Index`] if layer or slot is out of this cache's range.
    pub fn missing(&self, call: &Call<'_>, cache: &KvCache, rows: &mut Vec<KvRow>) -> Result<()> {
        call.check(cache.shape())?;
        check_index("layer", call.layer, self.n_layers)?;
        check_spans(call.spans, self.n_slots, usize::MAX)?;
        for (index, span) in call.spans.iter().enumerate() {
            for kv_head in (0..call.shape.n_kv_heads).filter(|&h| call.heads.uses_group(&call.shape, index, h)) {
                for position in span.start.saturating_sub(self.lag)..span.start {
                    let row = KvRow { slot: span.slot, kv_head, position };
                    if self.holds(call.layer, span.slot, position) && !cache.is_present(call.layer, row)? {
                        rows.push(row);
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads one token's input into x, f32, \[hidden\], and says whether it is held; x is untouched if not.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range, [`Error::Length`] for a wrong buffer.
    pub fn read(&self, layer: usize, slot: usize, position: usize, x: &mut [f32]) -> Result<bool> {
        check_index("layer", layer, self.n_layers)?;
        check_index("slot", slot, self.n_slots)?;
        check_len("x", self.hidden, x.len())?;
        if !self.holds(layer, slot, position) {
            return Ok(false);
        }
        let start = self.place(layer, slot, position) * self.hidden;
        with_element!(self.dtype, E => {
            for (x, &stored) in x.iter_mut().zip(&self.data.as_slice::<E>()[start..]) {
                *x = Element::to_f32(stored);
            }
        });
        Ok(true)
    }

    /// Forgets positions `len` and later of a slot, in every layer.
    ///
    /// # Errors
    /// [`Error::Index`] if the slot is out of range.
    pub fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        check_index("slot", slot, self.n_slots)?;
        for layer in 0..self.n_layers {
            let first = (layer * self.n_slots + slot) * self.lag;
            for position in &mut self.positions[first..first + self.lag] {
                if *position >= len {
                    *position = EMPTY;
                }
            }
        }
        Ok(())
    }

    fn place(&self, layer: usize, slot: usize, position: usize) -> usize {
        (layer * self.n_slots + slot) * self.lag + position % self.lag
    }

    fn holds(&self, layer: usize, slot: usize, position: usize) -> bool {
        self.positions[self.place(layer, slot, position)] == position
    }
}

fn narrow<E: SimdElement>(x: &[f32], data: &mut Storage, start: usize) {
    for (stored, &x) in data.as_mut_slice::<E>()[start..].iter_mut().zip(x) {
        *stored = E::from_f32(x);
    }
}
