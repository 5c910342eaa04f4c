//! The inputs of the last tokens, from which skipped K and V rows are recomputed.

use super::storage::{KvDtype, Storage};
use super::{Call, KvRow, check_index, check_spans};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::simd::SimdElement;

/// Marks a place of the ring that holds no token.
const EMPTY: usize = usize::MAX;

/// Which tokens' inputs are kept, a ring of `lag` places per (layer, slot), and which KV heads' rows the cache has of them. It
/// holds no numbers: those are in an [`InputRows`], or in an engine's memory.
///
/// With [`super::KvPolicy::Recompute`] a forward pass, per layer: asks which rows the selected heads lack
/// ([`InputRing::missing`]), projects those inputs to k and v, writes them with [`super::write_row`] and says so
/// ([`InputRing::mark`]), and then keeps the call's own inputs ([`InputRing::keep`]), which take the oldest ones' places. The
/// recomputed K and V are those of a token whose own hidden state was made with the head skipped; that loss stays.
///
/// # Source
/// Deja Vu (ICML 2023), which recomputes missing K and V from stored inputs.
///
/// # Example
/// ```
/// use moray::attention::*;
/// let shape = AttentionShape::new(2, 2, 8)?;
/// let mut ring = InputRing::new(1, 1, 4, 2)?; // the last 4 tokens
/// let mut inputs = InputRows::new(ring.places(), 32, KvDtype::F32)?; // hidden size 32
///
/// // Token 0 runs head 0 only; its input is kept.
/// let spans = [Span { slot: 0, start: 0, len: 1 }];
/// let heads = Heads::List { list: &[0], counts: &[1] };
/// let (mut from, mut to) = (Vec::new(), Vec::new());
/// ring.keep(&Call { shape, layer: 0, spans: &spans, heads }, &mut from, &mut to)?;
/// inputs.keep(&[1.0; 32], &from, &to)?;
///
/// // Token 1 runs both: head 1 lacks token 0.
/// let spans = [Span { slot: 0, start: 1, len: 1 }];
/// let mut missing = Vec::with_capacity(ring.max_missing(1));
/// ring.missing(&Call { shape, layer: 0, spans: &spans, heads: Heads::All }, &mut missing)?;
/// assert_eq!(missing, [KvRow { slot: 0, kv_head: 1, position: 0 }]);
/// # Ok::<(), moray::Error>(())
/// ```
#[derive(Debug)]
pub struct InputRing {
    n_layers: usize,
    n_slots: usize,
    lag: usize,
    n_kv_heads: usize,
    /// [layer][slot][position % lag], the position held, or `EMPTY`.
    positions: Vec<usize>,
    /// As `positions`, by KV head: whether the cache has its row.
    present: Vec<bool>,
}

impl InputRing {
    /// Rings of `lag` places, all empty.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0 or there are 2³² places or more.
    pub fn new(n_layers: usize, n_slots: usize, lag: usize, n_kv_heads: usize) -> Result<InputRing> {
        let sizes = [("n_layers", n_layers), ("n_slots", n_slots), ("lag", lag), ("n_kv_heads", n_kv_heads)];
        if let Some((what, got)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(Error::Shape { what, expected: "at least 1", got });
        }
        let places = n_layers.checked_mul(n_slots).and_then(|n| n.checked_mul(lag)).filter(|&n| n < 1 << 32);
        let heads = places.and_then(|n| n.checked_mul(n_kv_heads));
        let (Some(places), Some(heads)) = (places, heads) else {
            return Err(Error::Shape { what: "lag", expected: "fewer than 2^32 places", got: lag });
        };
        let (positions, present) = (vec![EMPTY; places], vec![false; heads]);
        Ok(InputRing { n_layers, n_slots, lag, n_kv_heads, positions, present })
    }

    /// Places of all rings.
    pub fn places(&self) -> usize {
        self.positions.len()
    }

    /// The place of a position's input.
    pub fn place(&self, layer: usize, slot: usize, position: usize) -> usize {
        (layer * self.n_slots + slot) * self.lag + position % self.lag
    }

    /// The most rows [`InputRing::missing`] can name for a call of `n_spans` spans.
    pub fn max_missing(&self, n_spans: usize) -> usize {
        n_spans * self.n_kv_heads * self.lag
    }

    /// Gives the inputs of the call's tokens their places, of a span longer than the lag its last ones: row `from[i]` of the call
    /// goes to place `to[i]`; both are appended to.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range.
    pub fn keep(&mut self, call: &Call<'_>, from: &mut Vec<u32>, to: &mut Vec<u32>) -> Result<()> {
        self.check(call)?;
        let mut first_row = 0;
        for (index, span) in call.spans.iter().enumerate() {
            for i in span.len.saturating_sub(self.lag)..span.len {
                let place = self.place(call.layer, span.slot, span.start + i);
                self.positions[place] = span.start + i;
                let present = &mut self.present[place * self.n_kv_heads..][..self.n_kv_heads];
                for (head, present) in present.iter_mut().enumerate() {
                    *present = call.heads.uses_group(&call.shape, index, head);
                }
                from.push((first_row + i) as u32);
                to.push(place as u32);
            }
            first_row += span.len;
        }
        Ok(())
    }

    /// Appends the rows that the call's heads could use, that the cache lacks and whose inputs are held: positions before
    /// each span, in the order (span, position, kv_head). `rows` does not grow past [`InputRing::max_missing`] entries.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer or slot out of range.
    pub fn missing(&self, call: &Call<'_>, rows: &mut Vec<KvRow>) -> Result<()> {
        self.check(call)?;
        for (index, span) in call.spans.iter().enumerate() {
            for position in span.start.saturating_sub(self.lag)..span.start {
                let place = self.place(call.layer, span.slot, position);
                if self.positions[place] != position {
                    continue;
                }
                let present = &self.present[place * self.n_kv_heads..][..self.n_kv_heads];
                let lacks = |&head: &usize| !present[head] && call.heads.uses_group(&call.shape, index, head);
                rows.extend((0..self.n_kv_heads).filter(lacks).map(|kv_head| KvRow {
                    slot: span.slot,
                    kv_head,
                    position,
                }));
            }
        }
        Ok(())
    }

    /// Says that the cache has one of the rows that [`InputRing::missing`] named.
    ///
    /// # Panics
    /// For a layer or row that is not there.
    pub fn mark(&mut self, layer: usize, row: KvRow) {
        let place = self.place(layer, row.slot, row.position);
        self.present[place * self.n_kv_heads + row.kv_head] = true;
    }

    /// Forgets positions `len` and later of a slot, in every layer.
    ///
    /// # Errors
    /// [`Error::Index`] if the slot is out of range.
    pub fn truncate(&mut self, slot: usize, len: usize) -> Result<()> {
        check_index("slot", slot, self.n_slots)?;
        for layer in 0..self.n_layers {
            let first = self.place(layer, slot, 0);
            for position in &mut self.positions[first..first + self.lag] {
                if *position >= len {
                    *position = EMPTY;
                }
            }
        }
        Ok(())
    }

    fn check(&self, call: &Call<'_>) -> Result<()> {
        check_index("layer", call.layer, self.n_layers)?;
        check_len("n_kv_heads", self.n_kv_heads, call.shape.n_kv_heads)?;
        check_spans(call.spans, self.n_slots, usize::MAX).map(drop)
    }
}

/// Runs an expression with `$E` as the Rust type that inputs beside a cache of a [`KvDtype`] are kept in.
macro_rules! with_float {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            KvDtype::F32 => {
                type $E = f32;
                $body
            }
            KvDtype::F16 | KvDtype::Int8 => {
                type $E = half::f16;
                $body
            }
            KvDtype::Bf16 => {
                type $E = half::bf16;
                $body
            }
        }
    };
}

/// Kept inputs on the CPU: rows of `hidden` elements, rounded to the cache's type, beside one of int8 to f16.
#[derive(Debug)]
pub struct InputRows {
    places: usize,
    hidden: usize,
    dtype: KvDtype,
    /// [place][hidden]
    data: Storage,
}

impl InputRows {
    /// Allocates rows of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] if a size is 0 or the memory cannot be had.
    pub fn new(places: usize, hidden: usize, dtype: KvDtype) -> Result<InputRows> {
        for (what, got) in [("places", places), ("hidden", hidden)] {
            if got == 0 {
                return Err(Error::Shape { what, expected: "at least 1", got });
            }
        }
        let too_many = Error::Shape { what: "input rows", expected: "fewer than 2^64 elements", got: usize::MAX };
        let dtype = if dtype == KvDtype::Int8 { KvDtype::F16 } else { dtype };
        let data = Storage::new("input rows' elements", dtype, places.checked_mul(hidden).ok_or(too_many)?)?;
        Ok(InputRows { places, hidden, dtype, data })
    }

    /// Elements of a row.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Bytes allocated.
    pub fn memory_bytes(&self) -> usize {
        self.data.memory_bytes()
    }

    /// Keeps rows of x f32, [M, hidden]: row `from[i]` at place `to[i]`.
    ///
    /// # Errors
    /// [`Error::Length`] if x is not whole rows or the lists differ in length, [`Error::Index`] for a row or place that is not
    /// there.
    pub fn keep(&mut self, x: &[f32], from: &[u32], to: &[u32]) -> Result<()> {
        check_len("x", x.len() / self.hidden * self.hidden, x.len())?;
        check_len("to", from.len(), to.len())?;
        let rows = x.len() / self.hidden;
        from.iter().try_for_each(|&row| check_index("row", row as usize, rows))?;
        to.iter().try_for_each(|&place| check_index("place", place as usize, self.places))?;
        for (&row, &place) in from.iter().zip(to) {
            let x = &x[row as usize * self.hidden..][..self.hidden];
            with_float!(self.dtype, E => narrow::<E>(x, &mut self.data, place as usize * self.hidden));
        }
        Ok(())
    }

    /// Reads one row into x, f32, \[hidden\].
    ///
    /// # Errors
    /// [`Error::Index`] for a place that is not there, [`Error::Length`] for a wrong buffer.
    pub fn read(&self, place: usize, x: &mut [f32]) -> Result<()> {
        check_index("place", place, self.places)?;
        check_len("x", self.hidden, x.len())?;
        with_float!(self.dtype, E => {
            for (x, &stored) in x.iter_mut().zip(&self.data.as_slice::<E>()[place * self.hidden..]) {
                *x = Element::to_f32(stored);
            }
        });
        Ok(())
    }
}

fn narrow<E: SimdElement>(x: &[f32], data: &mut Storage, start: usize) {
    for (stored, &x) in data.as_mut_slice::<E>()[start..].iter_mut().zip(x) {
        *stored = E::from_f32(x);
    }
}
