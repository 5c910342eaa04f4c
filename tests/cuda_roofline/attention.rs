//! One token's attention over a long context, with all groups of heads and with half of them.

use moray::attention::cuda::{Call, Heads, KvCache, KvFormat, KvLayout, Spans, Workspace, attend};
use moray::attention::{AttentionShape, KvShape, Limits, Span};

use crate::counter::{Counter, Launch, with_bytes};

/// Query heads, KV heads and head_dim of Llama-3-8B.
const HEADS: (usize, usize, usize) = (32, 8, 128);

pub fn count(counter: &mut Counter) {
    let (n_q_heads, n_kv_heads, head_dim) = HEADS;
    let shape = AttentionShape::new(n_q_heads, n_kv_heads, head_dim).unwrap();
    for context in [4096, 32768] {
        let kv = KvShape { n_layers: 1, n_slots: 1, n_kv_heads, head_dim, capacity: context };
        let cache = KvCache::new(&counter.device, kv, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
        for (name, step) in [("all", 1), ("half", 2)] {
            let groups: Vec<u32> = (0..n_kv_heads as u32).step_by(step).collect();
            let launches = launches(counter, shape, &cache, context, &groups);
            let bytes = attention_bytes(context, groups.len(), head_dim, shape.q_elems());
            let id = format!("attention/f16/llama-3-8b/decode-{context}-{name}-groups");
            counter.row(&id, None, bytes, launches);
        }
    }
}

/// Keys and values of the groups in 16 bits; queries and results.
pub fn attention_bytes(context: usize, groups: usize, head_dim: usize, q_elems: usize) -> usize {
    context * groups * head_dim * 2 * 2 + 2 * 4 * q_elems
}

/// Launches for the last position of a context.
fn launches(
    counter: &mut Counter,
    shape: AttentionShape,
    cache: &KvCache,
    context: usize,
    groups: &[u32],
) -> Vec<Launch> {
    let device = &counter.device;
    let limits = Limits { max_rows: 1, max_spans: 1, capacity: cache.shape().capacity };
    let mut workspace = Workspace::new(device, shape, limits).unwrap();
    let q = device.zeros::<f32>(shape.q_elems()).unwrap();
    let mut out = device.zeros::<f32>(shape.q_elems()).unwrap();
    let mut spans = Spans::new(device, 1).unwrap();
    spans.set(device, &[Span { slot: 0, start: context - 1, len: 1 }]).unwrap();
    let (list, counts) = (device.upload(groups).unwrap(), device.upload(&[groups.len() as u32]).unwrap());
    let heads = match groups.len() == shape.n_kv_heads {
        true => Heads::All,
        false => Heads::Groups { list: &list, counts: &counts, width: groups.len() },
    };
    let all = counter.launches(|device| {
        let call = Call { shape, layer: 0, spans: &spans, heads };
        attend::<f32>(device, &call, &q, cache, &mut out, &mut workspace).unwrap();
    });
    let kv_bytes = attention_bytes(context, groups.len(), shape.head_dim, shape.q_elems());
    with_bytes(all, &[("attention_decode", kv_bytes, 0)])
}
