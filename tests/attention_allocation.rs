//! A step of attention allocates nothing. A program without the test harness, whose own thread would be counted.

#[path = "common/allocations.rs"]
mod allocations;

use std::sync::Arc;

use allocations::{allocations, start_threads};
use moray::Cpu;
use moray::attention::*;
use moray::policy::{HeadNorm, ModelSizes, Observed, PolicySet, Site, Sizes};

fn main() {
    steps_allocate_nothing_for_prompts_decoding_and_batches();
    println!("test steps_allocate_nothing_for_prompts_decoding_and_batches ... ok");
}

/// Half of the heads, chosen anew every second token.
fn policies(attention: AttentionShape) -> PolicySet {
    let model = ModelSizes { n_layers: 1, d_model: 576, d_ff: 1536, attention };
    let norm = HeadNorm::new(0.5, 2).unwrap();
    PolicySet::new(&[Arc::new(norm)], &Sizes { model, slots: 3, max_tokens: 600 }).unwrap()
}

fn steps_allocate_nothing_for_prompts_decoding_and_batches() {
    let cpu = Cpu::detect();
    let shape = AttentionShape::new(9, 3, 64).unwrap();
    let kv = KvShape { n_layers: 1, n_slots: 3, n_kv_heads: 3, head_dim: 64, capacity: 700 };
    let mut cache = KvCache::new(kv, KvDtype::F16).unwrap();
    let mut ring = InputRing::new(1, 3, 4, 3).unwrap();
    let mut inputs = InputRows::new(ring.places(), 16, KvDtype::F32).unwrap();
    let mut missing = Vec::with_capacity(ring.max_missing(3));
    let (mut from, mut to) = (Vec::with_capacity(12), Vec::with_capacity(12));
    let limits = Limits { max_rows: 600, max_spans: 3, capacity: 700 };
    let mut workspace = Workspace::new(&cpu, shape, limits).unwrap();
    let mut policy = policies(shape);
    let rope = Rope::new(64, 1e4, &RopeScaling::Default, 700).unwrap();
    let (mut q, kv, x) = (vec![0.5; 600 * 576], vec![0.5; 600 * 192], vec![0.5; 600 * 16]);
    let mut out = vec![0.0; 600 * 576];
    let slots = |start, len| [0, 1, 2].map(|slot| Span { slot, start, len });
    let steps = [slots(0, 200), slots(200, 200), slots(400, 1), slots(401, 1), slots(402, 1)];
    start_threads(&cpu);
    let before = allocations();
    for (step, spans) in steps.iter().flat_map(|spans| [&spans[..], &spans[..1]]).enumerate() {
        let rows: usize = spans.iter().map(|span| span.len).sum();
        let heads = policy.select_heads(0, spans).unwrap();
        let call = Call { shape, layer: 0, spans, heads };
        missing.clear();
        ring.missing(&call, &mut missing).unwrap();
        from.clear();
        to.clear();
        ring.keep(&call, &mut from, &mut to).unwrap();
        inputs.keep(&x[..rows * 16], &from, &to).unwrap();
        rope.apply(&cpu, spans, 9, &mut q[..rows * 576]).unwrap();
        let lagged = KvPolicy::Recompute { lag: 4 };
        write_kv(&cpu, &call, lagged, Some(&rope), &kv[..rows * 192], &kv[..rows * 192], &mut cache).unwrap();
        attend(&cpu, &call, &q[..rows * 576], &cache, &mut out[..rows * 576], &mut workspace).unwrap();
        policy.observe(Site::Heads, 0, spans, &Observed::new(&out[..rows * 576], 576, 576)).unwrap();
        if step == 3 {
            (0..3).for_each(|slot| policy.begin_generation(slot).unwrap());
        }
    }
    assert_eq!(allocations(), before);
}
