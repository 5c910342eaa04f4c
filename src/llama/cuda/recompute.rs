//! [`KvPolicy::Recompute`](crate::attention::KvPolicy::Recompute) on the device: the inputs of the last tokens, and the K and V
//! computed from them, as [`crate::attention::InputCache`] has it.

use super::kernels::{self, Rows};
use super::linear::{Input, Linear, Scratch};
use crate::attention::cuda::{KvCache, KvRows, KvToken, Rope, write_rows};
use crate::attention::{AttentionShape, Heads, KvDtype, Span};
use crate::device::{Device, ElementKind, call};
use crate::error::{Error, Result};
use cudarc::driver::{CudaSlice, CudaView};

/// Marks a place of a ring that holds no token.
const EMPTY: usize = usize::MAX;

/// The normed inputs of every layer's attention for the last `lag` tokens of each slot, in device memory, and on the host which
/// they are and which KV heads the cache holds of them.
#[derive(Debug)]
pub(super) struct Recompute {
    shape: AttentionShape,
    n_layers: usize,
    n_slots: usize,
    lag: usize,
    max_tokens: usize,
    kind: ElementKind,
    /// \[layer\]\[slot\]\[position % lag\]\[d\].
    inputs: CudaSlice<u8>,
    /// \[layer\]\[slot\]\[position % lag\]: the position held, or `EMPTY`.
    positions: Vec<usize>,
    /// As `positions`, by KV head: whether the cache holds its row.
    present: Vec<bool>,
    /// f32 \[max_tokens, d\].
    normed: CudaSlice<f32>,
    rows: KvRows,
    from: CudaSlice<u32>,
    to: CudaSlice<u32>,
}

/// What of a session is read and written besides.
pub(super) struct Around<'a> {
    pub(super) qkv: &'a mut CudaSlice<f32>,
    pub(super) cache: &'a mut KvCache,
    pub(super) rope: &'a Rope,
    pub(super) scratch: &'a mut Scratch,
}

impl Recompute {
    pub(super) fn new(
        device: &Device,
        shape: AttentionShape,
        (n_layers, n_slots, lag): (usize, usize, usize),
        (d, max_tokens): (usize, usize),
        dtype: KvDtype,
    ) -> Result<Self> {
        let kind = match dtype {
            KvDtype::F32 => ElementKind::F32,
            KvDtype::F16 => ElementKind::F16,
            KvDtype::Bf16 => ElementKind::Bf16,
        };
        let tokens = n_layers.checked_mul(n_slots).and_then(|n| n.checked_mul(lag)).filter(|&n| n < 1 << 32);
        let bytes = tokens.and_then(|n| n.checked_mul(d * kind.bytes()));
        let (Some(tokens), Some(bytes)) = (tokens, bytes) else {
            return Err(Error::Shape { what: "lag", expected: "fewer than 2^32 inputs", got: lag });
        };
        Ok(Recompute {
            shape,
            n_layers,
            n_slots,
            lag,
            max_tokens,
            kind,
            inputs: device.zeros(bytes)?,
            positions: vec![EMPTY; tokens],
            present: vec![false; tokens * shape.n_kv_heads],
            normed: device.zeros(max_tokens * d)?,
            rows: KvRows::new(device, max_tokens, shape.n_kv_heads)?,
            from: device.zeros(max_tokens)?,
            to: device.zeros(max_tokens)?,
        })
    }

    fn place(&self, layer: usize, slot: usize, position: usize) -> usize {
        (layer * self.n_slots + slot) * self.lag + position % self.lag
    }

    /// The rows that the call's heads could use, that the cache lacks and whose inputs are held.
    fn missing(&self, layer: usize, spans: &[Span], heads: &Heads<'_>) -> Vec<KvToken> {
        let mut tokens = Vec::new();
        for (index, span) in spans.iter().enumerate() {
            for position in span.start.saturating_sub(self.lag)..span.start {
                let place = self.place(layer, span.slot, position);
                if self.positions[place] != position {
                    continue;
                }
                let present = &self.present[place * self.shape.n_kv_heads..][..self.shape.n_kv_heads];
                let lacks = |&head: &usize| !present[head] && heads.uses_group(&self.shape, index, head);
                let kv_heads: Vec<u32> = (0..present.len()).filter(lacks).map(|head| head as u32).collect();
                if !kv_heads.is_empty() {
                    tokens.push(KvToken { slot: span.slot, position, kv_heads });
                }
            }
        }
        tokens
    }

    /// Computes and writes the rows that the policy left out and the heads of this call could use.
    pub(super) fn fill(
        &mut self,
        device: &Device,
        layer: usize,
        qkv_weight: &Linear,
        spans: &[Span],
        heads: &Heads<'_>,
        around: Around<'_>,
    ) -> Result<()> {
        let Around { qkv, cache, rope, scratch } = around;
        let (d, width) = (qkv_weight.k(), qkv_weight.n());
        for tokens in self.missing(layer, spans, heads).chunks(self.max_tokens) {
            let m = tokens.len();
            let places: Vec<usize> = tokens.iter().map(|token| self.place(layer, token.slot, token.position)).collect();
            let rows: Vec<u32> = places.iter().map(|&place| place as u32).collect();
            let moved = move_list(device, &rows, &(0..m as u32).collect::<Vec<_>>(), &mut self.from, &mut self.to)?;
            let (from, to) = (self.from.slice(..moved), self.to.slice(..moved));
            let to_f32 = Rows { k: d, from: &from, to: &to };
            kernels::widen_rows(device, to_f32, (&self.inputs, self.kind), &mut self.normed)?;
            let normed = self.normed.slice(..m * d);
            qkv_weight.forward(device, Input::Plain(&normed), m, None, &mut qkv.slice_mut(..m * width), scratch)?;
            self.rows.set(device, tokens)?;
            write_rows(device, &self.shape, layer, &self.rows, Some(rope), qkv, cache)?;
            for (place, token) in places.iter().zip(tokens) {
                for &head in &token.kv_heads {
                    self.present[place * self.shape.n_kv_heads + head as usize] = true;
                }
            }
        }
        Ok(())
    }

    /// Keeps RMSNorm of x \[M, d\], of a span longer than the lag of its last tokens; they take the oldest ones' places.
    pub(super) fn store(
        &mut self,
        device: &Device,
        layer: usize,
        spans: &[Span],
        heads: &Heads<'_>,
        (x, norm, eps): (&CudaView<'_, f32>, &CudaSlice<f32>, f32),
    ) -> Result<()> {
        let d = norm.len();
        kernels::rms_norm(device, x, None, norm, eps, &mut self.normed.slice_mut(..x.len()))?;
        let (mut from, mut to, mut first_row) = (Vec::new(), Vec::new(), 0);
        for (index, span) in spans.iter().enumerate() {
            for i in span.len.saturating_sub(self.lag)..span.len {
                let place = self.place(layer, span.slot, span.start + i);
                self.positions[place] = span.start + i;
                let present = &mut self.present[place * self.shape.n_kv_heads..][..self.shape.n_kv_heads];
                for (head, present) in present.iter_mut().enumerate() {
                    *present = heads.uses_group(&self.shape, index, head);
                }
                from.push((first_row + i) as u32);
                to.push(place as u32);
            }
            first_row += span.len;
        }
        let moved = move_list(device, &from, &to, &mut self.from, &mut self.to)?;
        let rows = Rows { k: d, from: &self.from.slice(..moved), to: &self.to.slice(..moved) };
        kernels::narrow_rows(device, rows, &self.normed, (&mut self.inputs, self.kind))
    }

    /// Forgets positions `len` and later of a slot, in every layer.
    pub(super) fn truncate(&mut self, slot: usize, len: usize) {
        for layer in 0..self.n_layers {
            let first = self.place(layer, slot, 0);
            for position in &mut self.positions[first..first + self.lag] {
                if *position >= len {
                    *position = EMPTY;
                }
            }
        }
    }
}

/// Brings lists of rows to the device and returns their length.
fn move_list(
    device: &Device,
    from: &[u32],
    to: &[u32],
    from_room: &mut CudaSlice<u32>,
    to_room: &mut CudaSlice<u32>,
) -> Result<usize> {
    for (host, room) in [(from, from_room), (to, to_room)] {
        device.stream().memcpy_htod(host, &mut room.slice_mut(..host.len())).map_err(call("copy to the device"))?;
    }
    Ok(from.len())
}
