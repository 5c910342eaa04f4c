//! A case of the CPU's tests, run on the device.

use moray::attention::cuda::{
    Call, KvCache, KvFormat, KvLayout, OwnedHeads, Projections, Spans, Workspace, attend, write_kv,
};
use moray::attention::{Heads, Limits, Span};
use moray::device::DeviceElement;
use moray::element::Element;
use moray::{Cpu, Device};

use crate::case::{CAPACITY, Case, noise};

/// A case, what the cache stores and where.
#[derive(Debug, Clone)]
pub struct DeviceCase {
    pub case: Case,
    pub format: KvFormat,
    pub layout: KvLayout,
}

impl DeviceCase {
    /// The format and the layout that a case's numbers choose.
    pub fn new(case: Case) -> DeviceCase {
        let format = match case.dtype {
            moray::attention::KvDtype::Int8 if case.shape.head_dim % 16 == 0 => KvFormat::Int8,
            moray::attention::KvDtype::F32 => KvFormat::F32,
            moray::attention::KvDtype::Bf16 => KvFormat::Bf16,
            _ => KvFormat::F16,
        };
        let layout = match case.seed % 3 {
            0 => KvLayout::Contiguous,
            1 => KvLayout::Paged { page_size: 16, n_pages: 3 * CAPACITY / 16 + 5 },
            _ => KvLayout::Paged { page_size: 128, n_pages: 3 * CAPACITY / 128 + 2 },
        };
        DeviceCase { case, format, layout }
    }

    /// A cache whose pages, if it has any, lie in a scattered order.
    pub fn cache(&self, device: &Device) -> KvCache {
        let mut cache = KvCache::new(device, self.case.kv_shape(), self.format, self.layout, true).unwrap();
        if let KvLayout::Paged { page_size, n_pages } = self.layout {
            let per_slot = CAPACITY.div_ceil(page_size);
            let step = (1..).find(|&step| step > n_pages / 3 && gcd(step, n_pages) == 1).unwrap();
            for slot in 0..3 {
                let pages: Vec<u32> = (0..per_slot).map(|i| ((slot * per_slot + i) * step % n_pages) as u32).collect();
                cache.set_pages(device, slot, &pages).unwrap();
            }
        }
        cache
    }

    /// Writes the histories, then the spans, as the case's own `fill` does on the CPU.
    pub fn fill(&self, device: &Device) -> KvCache {
        let case = &self.case;
        let mut cache = self.cache(device);
        let before: Vec<Span> = case.spans.iter().map(|span| Span { start: 0, len: span.start, ..*span }).collect();
        self.write(device, &mut cache, &before, case.history.as_heads(), case.seed ^ 1);
        self.write(device, &mut cache, &case.spans, case.heads.as_heads(), case.seed ^ 2);
        cache
    }

    pub fn write(&self, device: &Device, cache: &mut KvCache, spans: &[Span], heads: Heads<'_>, seed: u64) {
        let shape = self.case.shape;
        let rows: usize = spans.iter().map(|span| span.len).sum();
        let elems = rows * shape.kv_elems();
        let k = device.upload(&padded(noise(elems, seed))).unwrap();
        let v = device.upload(&padded(noise(elems, seed ^ 0xFF00))).unwrap();
        let stride = shape.kv_elems();
        let projections = Projections { q: None, k: k.as_view(), v: v.as_view(), q_stride: stride, kv_stride: stride };
        let (spans, heads) = (upload_spans(device, spans), self.upload_heads(device, &heads, spans.len()));
        let call = Call { shape, layer: 1, spans: &spans, heads: heads.view() };
        write_kv(device, &call, self.case.policy, None, &projections, None, cache).unwrap();
    }

    pub fn upload_heads(&self, device: &Device, heads: &Heads<'_>, n_spans: usize) -> OwnedHeads {
        OwnedHeads::upload(device, heads, &self.case.shape, n_spans).unwrap()
    }

    pub fn workspace(&self, device: &Device) -> Workspace {
        let limits = Limits { max_rows: CAPACITY, max_spans: 3, capacity: CAPACITY };
        Workspace::new(device, self.case.shape, limits).unwrap()
    }

    /// As every call leaves them, so that the next one's blocks count from 0.
    pub fn assert_counters_are_zeros(&self, device: &Device, workspace: &Workspace) {
        let counters = device.download(&workspace.counters()).unwrap();
        assert!(counters.iter().all(|&count| count == 0), "{counters:?} after {self:?}");
    }

    /// Attention of the case's spans in the type E; the output starts as NaN, so that nothing may stay unwritten.
    pub fn attend<E: DeviceElement>(&self, device: &Device, cache: &KvCache) -> Vec<f32> {
        self.attend_spans::<E>(device, cache, &self.case.spans, self.case.heads.as_heads(), &self.case.q())
    }

    pub fn attend_spans<E: DeviceElement>(
        &self,
        device: &Device,
        cache: &KvCache,
        spans: &[Span],
        heads: Heads<'_>,
        q: &[f32],
    ) -> Vec<f32> {
        let mut out = device.upload(&vec![E::from_f32(f32::NAN); q.len().max(1)]).unwrap();
        let (spans, heads) = (upload_spans(device, spans), self.upload_heads(device, &heads, spans.len()));
        let call = Call { shape: self.case.shape, layer: 1, spans: &spans, heads: heads.view() };
        let q = device.upload(&padded(q.to_vec())).unwrap();
        let mut workspace = self.workspace(device);
        attend::<E>(device, &call, &q, cache, &mut out, &mut workspace).unwrap();
        self.assert_counters_are_zeros(device, &workspace);
        let mut host = vec![E::from_f32(0.0); out.len()];
        device.stream().memcpy_dtoh(&out, &mut host).unwrap();
        device.synchronize().unwrap();
        host[..spans.rows() * self.case.shape.q_elems()].iter().map(|x| Element::to_f32(*x)).collect()
    }
}

pub fn upload_spans(device: &Device, host: &[Span]) -> Spans {
    let mut spans = Spans::new(device, host.len().max(1)).unwrap();
    spans.set(device, host).unwrap();
    spans
}

/// The driver takes no allocation of 0 bytes.
pub fn padded(mut x: Vec<f32>) -> Vec<f32> {
    if x.is_empty() {
        x.push(f32::NAN);
    }
    x
}

pub fn cpu() -> Cpu {
    Cpu::new(1, moray::Isa::detect()).unwrap()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
