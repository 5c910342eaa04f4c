//! Attention and the writing of keys and values.

use super::element;
use crate::attention::*;
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::cuda::{MORAY_KV_KEEP, MorayCudaAttend, MorayCudaSpans, MorayCudaWriteAttend, MorayCudaWriteKv};
use crate::dtype::{MORAY_BF16, MORAY_F16, MORAY_F32};
use crate::kv_pages::MorayKvPages;
use crate::status::{Fault, Outcome};
use moray::attention::AttentionShape;
use moray::attention::cuda::raw::{Attend, Heads, Kv, Queries, RopeTable, Skipped, Spans, WriteAttend, WriteKv};
use moray::attention::cuda::{KvFormat, Split};
use moray::device::{Access, Address, Device};

impl MorayKvPages {
    fn fill(
        &self,
        AttentionShape { n_kv_heads, head_dim, .. }: AttentionShape,
        access: Access,
        lent: &mut Lent,
    ) -> Outcome<Kv> {
        let format = match self.dtype {
            MORAY_F32 => KvFormat::F32,
            MORAY_F16 => KvFormat::F16,
            MORAY_BF16 => KvFormat::Bf16,
            MORAY_INT8 => KvFormat::Int8,
            other => {
                return Err(Fault::unsupported("kv.dtype", "MORAY_F32, MORAY_F16, MORAY_BF16 or MORAY_INT8", other));
            }
        };
        let mut rows = |what, memory: crate::MorayBytesMut| match access {
            Access::Read => lent.read_rows(what, memory.as_read()),
            Access::Write => lent.write_rows(what, memory),
        };
        let (k, v) = (rows("kv.k", self.k), rows("kv.v", self.v));
        let mut part = |what, memory: crate::MorayBytesMut| match access {
            Access::Read => lent.optional(what, memory.as_read()),
            Access::Write => lent.optional_write(what, memory),
        };
        let (k_scale, v_scale) = (part("kv.k_scale", self.k_scale), part("kv.v_scale", self.v_scale));
        Ok(Kv {
            format,
            k,
            v,
            k_scale,
            v_scale,
            present: part("kv.present", self.present).map(Address::cast),
            page_table: lent.optional("kv.page_table", self.page_table),
            layout: self.layout(n_kv_heads, head_dim),
        })
    }
}

impl MorayCudaSpans {
    fn shape(&self) -> Outcome<AttentionShape> {
        Ok(AttentionShape::new(self.n_q_heads, self.n_kv_heads, self.head_dim)?)
    }

    fn spans(&self, lent: &mut Lent) -> Spans {
        let records = lent.read("spans.records", self.records);
        Spans { records, n_spans: self.n_spans, longest: self.longest, rows: self.rows }
    }

    fn heads(&self, lent: &mut Lent) -> Outcome<Heads> {
        let width = self.width;
        let mut lists = || (lent.read("spans.list", self.list), lent.read("spans.counts", self.counts));
        match self.heads {
            MORAY_HEADS_ALL => Ok(Heads::All),
            MORAY_HEADS_LIST => {
                let (list, counts) = lists();
                Ok(Heads::List { list, counts, width })
            }
            MORAY_HEADS_GROUPS => {
                let (list, counts) = lists();
                Ok(Heads::Groups { list, counts, width })
            }
            MORAY_HEADS_MASK => Ok(Heads::Mask { words: lent.read("spans.list", self.list) }),
            other => Err(Fault::unsupported("spans.heads", "a MORAY_HEADS_ constant", other)),
        }
    }
}

/// What is stored for a KV head that no query head reads.
fn skipped(policy: MorayKvPolicy) -> Outcome<Skipped> {
    match policy {
        MORAY_KV_WRITE_ALL => Ok(Skipped::Write),
        MORAY_KV_HOLE => Ok(Skipped::Hole),
        MORAY_KV_ZERO => Ok(Skipped::Zero),
        MORAY_KV_KEEP => Ok(Skipped::Keep),
        other => Err(Fault::unsupported("policy", "a MORAY_KV_ constant", other)),
    }
}

impl Fill for MorayCudaWriteKv {
    type Call = WriteKv;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<WriteKv> {
        let queries = (!self.q.is_none()).then(|| Queries {
            q: lent.read_rows("q", self.q),
            stride: self.q_stride,
            out: lent.write("q_out", self.q_out),
        });
        let rope = lent.optional("rope", self.rope).map(|table| RopeTable { table, context: self.context });
        let shape = self.spans.shape()?;
        Ok(WriteKv {
            shape,
            kv: self.kv.fill(shape, Access::Write, lent)?,
            heads: self.spans.heads(lent)?,
            spans: self.spans.spans(lent),
            skipped: skipped(self.policy)?,
            rope,
            queries,
            k: lent.read_rows("k", self.k),
            v: lent.read_rows("v", self.v),
            kv_stride: self.kv_stride,
            element: element(self.dtype)?,
        })
    }
}

impl Fill for MorayCudaAttend {
    type Call = Attend;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<Attend> {
        let (shape, multiprocessors) = (self.spans.shape()?, device.multiprocessors() as usize);
        let mut call = Attend {
            shape,
            kv: self.kv.fill(shape, Access::Read, lent)?,
            heads: self.spans.heads(lent)?,
            spans: self.spans.spans(lent),
            q: lent.read("q", self.q),
            out: lent.write("out", self.out),
            out_type: element(self.out_dtype)?,
            split: Split::choose(shape.n_kv_heads, self.max_spans, self.kv.capacity, multiprocessors),
            workspace: Address::NULL,
            workspace_bytes: 0,
            arrived: None,
        };
        call.workspace_bytes = call.workspace_bytes();
        call.workspace = lent.write_within("workspace", self.workspace, call.workspace_bytes).cast();
        Ok(call)
    }

    fn bytes(call: &Attend, _: &Device) -> usize {
        call.workspace_bytes
    }
}

/// What the workspace's parts begin at multiples of.
const ALIGNMENT: usize = 16;

impl Fill for MorayCudaWriteAttend {
    type Call = WriteAttend;

    fn fill(&self, device: &Device, lent: &mut Lent) -> Outcome<WriteAttend> {
        let MorayCudaSpans { n_spans, n_kv_heads, .. } = self.spans;
        let (shape, heads, spans) = (self.spans.shape()?, self.spans.heads(lent)?, self.spans.spans(lent));
        let kv = self.kv.fill(shape, Access::Write, lent)?;
        let queries = Queries { q: lent.read_rows("q", self.q), stride: self.q_stride, out: Address::NULL };
        let write = WriteKv {
            shape,
            kv,
            heads,
            spans,
            skipped: skipped(self.policy)?,
            rope: lent.optional("rope", self.rope).map(|table| RopeTable { table, context: self.context }),
            queries: Some(queries),
            k: lent.read_rows("k", self.k),
            v: lent.read_rows("v", self.v),
            kv_stride: self.kv_stride,
            element: element(self.dtype)?,
        };
        let split = Split::choose(n_kv_heads, self.max_spans, self.kv.capacity, device.multiprocessors() as usize);
        let attend = Attend {
            shape,
            kv,
            heads,
            spans,
            q: Address::NULL,
            out: lent.write("out", self.out),
            out_type: element(self.out_dtype)?,
            split,
            workspace: Address::NULL,
            workspace_bytes: 0,
            arrived: None,
        };
        let mut call = WriteAttend { write, attend };
        if call.is_one() && !self.counters.as_read().is_none() {
            let bytes = n_spans.saturating_mul(n_kv_heads).saturating_mul(size_of::<u32>());
            call.attend.arrived = Some(lent.write_within("counters", self.counters, bytes).cast());
        }
        let (turned, bytes) = (turned_bytes(&call), call.attend.workspace_bytes());
        let memory = lent.write_within("workspace", self.workspace, turned.saturating_add(bytes));
        call.write.queries = Some(Queries { out: memory.cast(), ..queries });
        call.attend.q = memory.cast();
        (call.attend.workspace, call.attend.workspace_bytes) = (memory.offset(turned).cast(), bytes);
        Ok(call)
    }

    fn bytes(call: &WriteAttend, _: &Device) -> usize {
        turned_bytes(call).saturating_add(call.attend.workspace_bytes)
    }
}

/// Bytes of the turned queries, up to where what attention needs begins.
fn turned_bytes(call: &WriteAttend) -> usize {
    let elems = call.attend.spans.rows.saturating_mul(call.attend.shape.q_elems());
    elems.saturating_mul(size_of::<f32>()).checked_next_multiple_of(ALIGNMENT).unwrap_or(usize::MAX)
}
