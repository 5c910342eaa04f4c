//! Kept inputs of attention on the device, and the K and V rows that are computed from them.

use super::kernels::{self, Rows};
use crate::attention::cuda::{KvRows, KvToken};
use crate::attention::{KvDtype, KvRow};
use crate::device::{Device, ElementKind};
use crate::error::{Error, Result};
use crate::llama::{Config, Settings};
use cudarc::driver::CudaSlice;

/// The inputs that [`crate::llama::Recompute`] keeps.
#[derive(Debug)]
pub(super) struct Inputs {
    d: usize,
    kind: ElementKind,
    /// \[places, d\].
    data: CudaSlice<u8>,
    /// Rows that are moved.
    from: CudaSlice<u32>,
    to: CudaSlice<u32>,
    pub(super) rows: KvRows,
}

impl Inputs {
    pub(super) fn new(device: &Device, config: &Config, settings: &Settings) -> Result<Self> {
        let kind = match settings.kv_dtype {
            KvDtype::F32 => ElementKind::F32,
            KvDtype::F16 | KvDtype::Int8 => ElementKind::F16,
            KvDtype::Bf16 => ElementKind::Bf16,
        };
        let (d, lag) = (config.d_model, settings.kv.lag());
        let places = config.n_layers.checked_mul(settings.slots).and_then(|n| n.checked_mul(lag));
        let Some(bytes) = places.and_then(|n| n.checked_mul(d * kind.bytes())) else {
            return Err(Error::Shape { what: "lag", expected: "inputs that memory has room for", got: lag });
        };
        Ok(Inputs {
            d,
            kind,
            data: device.zeros(bytes)?,
            from: device.zeros(settings.max_tokens)?,
            to: device.zeros(settings.max_tokens)?,
            rows: KvRows::new(device, settings.max_tokens, config.attention.n_kv_heads)?,
        })
    }

    pub(super) fn keep(&mut self, device: &Device, x: &CudaSlice<f32>, from: &[u32], to: &[u32]) -> Result<()> {
        copy(device, from, &mut self.from)?;
        copy(device, to, &mut self.to)?;
        let rows = Rows { k: self.d, from: &self.from.slice(..from.len()), to: &self.to.slice(..to.len()) };
        kernels::narrow_rows(device, rows, x, (&mut self.data, self.kind))
    }

    pub(super) fn read(&mut self, device: &Device, from: &[u32], x: &mut CudaSlice<f32>) -> Result<()> {
        copy(device, from, &mut self.from)?;
        copy(device, &(0..from.len() as u32).collect::<Vec<_>>(), &mut self.to)?;
        let rows = Rows { k: self.d, from: &self.from.slice(..from.len()), to: &self.to.slice(..from.len()) };
        kernels::widen_rows(device, rows, (&self.data, self.kind), x)
    }

    /// Names the rows that are written next; those of one token stand together.
    pub(super) fn set_rows(&mut self, device: &Device, rows: &[KvRow]) -> Result<()> {
        let token = |rows: &[KvRow]| KvToken {
            slot: rows[0].slot,
            position: rows[0].position,
            kv_heads: rows.iter().map(|row| row.kv_head as u32).collect(),
        };
        let tokens = rows.chunk_by(|a, b| (a.slot, a.position) == (b.slot, b.position));
        self.rows.set(device, &tokens.map(token).collect::<Vec<_>>())
    }
}

/// Brings a list of rows to the device.
fn copy(device: &Device, host: &[u32], room: &mut CudaSlice<u32>) -> Result<()> {
    device.upload_into(host, &mut room.slice_mut(..host.len()))
}
