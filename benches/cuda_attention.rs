//! Attention on a CUDA device: decode by context, batch and heads that run, and prefill.
//!
//! `cargo bench --features cublaslt --bench cuda_attention`. Ids: attention/cache/model/phase. Every case is checked against f64 before it
//! is timed; layers take turns, more of them than the second-level cache holds three times. Bytes are those of K and V that
//! heads which run have to read.

mod common;
#[path = "common/cuda.rs"]
mod cuda;

use common::numbers;
use cuda::{Bench, Row};
use moray::attention::cuda::{
    Call, Heads, KvCache, KvFormat, KvLayout, Projections, Spans, Workspace, attend, write_kv,
};
use moray::attention::{AttentionShape, KvPolicy, KvRow, KvShape, Limits, Span};
use moray::{Device, Result};

/// Model, query heads, KV heads, head_dim.
const SHAPES: [(&str, usize, usize, usize); 4] =
    [("smollm2-135m", 9, 3, 64), ("llama-2-7b", 32, 32, 128), ("llama-3-8b", 32, 8, 128), ("llama-2-70b", 64, 8, 128)];

const FORMATS: [(&str, KvFormat); 2] = [("f16", KvFormat::F16), ("int8", KvFormat::Int8)];

/// Most layers that take turns, so that memory holds them.
const MAX_LAYERS: usize = 64;

fn main() -> Result<()> {
    let bench = Bench::open()?;
    bench.head();
    let shapes: &[_] = if bench.quick { &[("tiny", 4, 2, 64)] } else { &SHAPES };
    let decodes: &[(usize, usize)] =
        if bench.quick { &[(2, 128)] } else { &[(1, 512), (1, 4096), (1, 16384), (8, 2048), (32, 2048)] };
    let prefills: &[usize] = if bench.quick { &[64] } else { &[512, 2048, 8192] };
    for &(model, n_q_heads, n_kv_heads, head_dim) in shapes {
        let shape = AttentionShape::new(n_q_heads, n_kv_heads, head_dim)?;
        for (name, format) in FORMATS {
            let id = format!("attention/{name}/{model}");
            for &(batch, context) in decodes {
                let case = Case::new(&bench, shape, format, batch, context)?;
                let spans: Vec<Span> = (0..batch).map(|slot| Span { slot, start: context - 1, len: 1 }).collect();
                case.time(&format!("{id}/decode-{context}/b{batch}"), &spans, None)?;
                // every second group of heads
                let groups: Vec<u32> = (0..n_kv_heads as u32).step_by(2).collect();
                case.time(&format!("{id}/decode-{context}-half-the-groups/b{batch}"), &spans, Some(&groups))?;
            }
            for &len in prefills {
                let case = Case::new(&bench, shape, format, 1, len)?;
                case.time(&format!("{id}/prefill-{len}/b1"), &[Span { slot: 0, start: 0, len }], None)?;
            }
        }
    }
    Ok(())
}

/// A cache full of random rows.
struct Case<'a> {
    bench: &'a Bench,
    shape: AttentionShape,
    cache: KvCache,
}

impl<'a> Case<'a> {
    fn new(bench: &'a Bench, shape: AttentionShape, format: KvFormat, batch: usize, context: usize) -> Result<Self> {
        let layer_bytes = batch * context * 2 * shape.n_kv_heads * shape.head_dim * format.bytes();
        let n_layers = bench.copies(layer_bytes).min(MAX_LAYERS);
        let AttentionShape { n_kv_heads, head_dim, .. } = shape;
        let kv = KvShape { n_layers, n_slots: batch, n_kv_heads, head_dim, capacity: context };
        let mut cache = KvCache::new(&bench.device, kv, format, KvLayout::Contiguous, false)?;
        let elems = context * shape.kv_elems();
        let k = bench.device.upload(&numbers(elems, 1))?;
        let v = bench.device.upload(&numbers(elems, 2))?;
        let kv_stride = shape.kv_elems();
        for slot in 0..batch {
            let spans = upload(&bench.device, &[Span { slot, start: 0, len: context }])?;
            for layer in 0..n_layers {
                let call = Call { shape, layer, spans: &spans, heads: Heads::All };
                let projections =
                    Projections { q: None, k: k.as_view(), v: v.as_view(), q_stride: kv_stride, kv_stride };
                write_kv(&bench.device, &call, KvPolicy::WriteAll, None, &projections, None, &mut cache)?;
            }
        }
        Ok(Case { bench, shape, cache })
    }

    /// Times the spans with all heads or, of every span, those of the listed groups.
    fn time(&self, id: &str, spans: &[Span], groups: Option<&[u32]>) -> Result<()> {
        let (device, shape) = (&self.bench.device, self.shape);
        let rows: usize = spans.iter().map(|span| span.len).sum();
        let host_q = numbers(rows * shape.q_elems(), 3);
        let q = device.upload(&host_q)?;
        let mut out = device.zeros::<f32>(rows * shape.q_elems())?;
        let limits = Limits { max_rows: rows, max_spans: spans.len(), capacity: self.cache.shape().capacity };
        let mut workspace = Workspace::new(device, shape, limits)?;
        let on_device = upload(device, spans)?;
        let width = groups.map_or(shape.n_kv_heads, <[u32]>::len);
        let list = device.upload(&groups.unwrap_or(&[0]).repeat(spans.len()))?;
        let counts = device.upload(&vec![width as u32; spans.len()])?;
        let heads = match groups {
            Some(_) => Heads::Groups { list: &list, counts: &counts, width },
            None => Heads::All,
        };
        let call = |layer| Call { shape, layer, spans: &on_device, heads };
        attend::<f32>(device, &call(0), &q, &self.cache, &mut out, &mut workspace)?;
        self.verify(id, spans[0], &host_q, &device.download(&out)?)?;
        let n_layers = self.cache.shape().n_layers;
        let seconds = self.bench.seconds(n_layers, |layer| {
            attend::<f32>(device, &call(layer), &q, &self.cache, &mut out, &mut workspace)
        })?;
        let positions: usize = spans.iter().map(|span| span.start + span.len).sum();
        let kv_bytes = positions * 2 * width * shape.head_dim * self.cache.format().bytes();
        // a token's products with the keys and the values up to it
        let seen: usize = spans.iter().map(|span| span.len * span.start + span.len * (span.len + 1) / 2).sum();
        let operations = 4.0 * (seen * width * shape.group_size() * shape.head_dim) as f64;
        let bytes = (kv_bytes + 8 * rows * shape.q_elems()) as f64;
        self.bench.print(&Row { id: id.into(), seconds, bytes, operations, baseline: None });
        Ok(())
    }

    /// Checks head 0 of the first span's last token against f64 on what the cache holds.
    fn verify(&self, id: &str, span: Span, q: &[f32], out: &[f32]) -> Result<()> {
        let d = self.shape.head_dim;
        let at = (span.len - 1) * self.shape.q_elems();
        let (mut k, mut v, mut sum, mut expected) = (vec![0.0; d], vec![0.0; d], 0.0, vec![0f64; d]);
        for position in 0..span.start + span.len {
            let row = KvRow { slot: span.slot, kv_head: 0, position };
            self.cache.read_row(&self.bench.device, 0, row, &mut k, &mut v)?;
            let dot: f64 = q[at..at + d].iter().zip(&k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            let weight = (dot / (d as f64).sqrt()).exp();
            sum += weight;
            expected.iter_mut().zip(&v).for_each(|(x, &v)| *x += weight * f64::from(v));
        }
        for (&got, expected) in out[at..at + d].iter().zip(&expected) {
            // |v| ≤ 1: q and the weights go to the matrix units in 16 bits, a score |q · k| / √d ≤ √d is off by √d · 2⁻¹⁰
            let bound = 2.0 * (d as f64).sqrt() / 1024.0;
            let error = (f64::from(got) - expected / sum).abs();
            assert!(error <= bound, "{id}: {got} instead of {} ± {bound}", expected / sum);
        }
        Ok(())
    }
}

fn upload(device: &Device, spans: &[Span]) -> Result<Spans> {
    let mut on_device = Spans::new(device, spans.len())?;
    on_device.set(device, spans)?;
    Ok(on_device)
}
