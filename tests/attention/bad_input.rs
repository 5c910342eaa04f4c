//! Bad input is a typed error, and nothing has been written.

use moray::attention::*;
use moray::{Cpu, Error};

const KV: KvShape = KvShape { n_layers: 2, n_slots: 2, n_kv_heads: 2, head_dim: 8, capacity: 100 };

struct Setting {
    cpu: Cpu,
    shape: AttentionShape,
    cache: KvCache,
    workspace: Workspace,
}

impl Setting {
    fn new() -> Setting {
        let cpu = Cpu::detect();
        let shape = AttentionShape::new(4, 2, 8).unwrap();
        let limits = Limits { max_rows: 8, max_spans: 2, capacity: 100 };
        let workspace = Workspace::new(&cpu, shape, limits).unwrap();
        Setting { cpu, shape, cache: KvCache::new(KV, KvDtype::F16).unwrap(), workspace }
    }

    /// What `attend` and `write_kv` say to a call, with buffers of `rows` tokens; they must agree, and write nothing.
    fn try_call(&mut self, layer: usize, spans: &[Span], heads: Heads<'_>, rows: usize) -> Error {
        let call = Call { shape: self.shape, layer, spans, heads };
        let mut out = vec![7.0; rows * 32];
        let q = vec![1.0; rows * 32];
        let attended = attend(&self.cpu, &call, &q, &self.cache, &mut out, &mut self.workspace).unwrap_err();
        assert!(out.iter().all(|&x| x == 7.0), "attend wrote before it refused");
        let kv = vec![1.0; rows * 16];
        let written = write_kv(&self.cpu, &call, KvPolicy::WriteAll, None, &kv, &kv, &mut self.cache).unwrap_err();
        assert_eq!(self.cache.len(0) + self.cache.len(1), 0, "write_kv wrote before it refused");
        assert_eq!(std::mem::discriminant(&attended), std::mem::discriminant(&written));
        attended
    }
}

fn span(slot: usize, start: usize, len: usize) -> Span {
    Span { slot, start, len }
}

#[test]
fn spans_out_of_range_are_rejected() {
    let mut setting = Setting::new();
    let mut call = |layer, spans: &[Span], rows| setting.try_call(layer, spans, Heads::All, rows);
    assert_eq!(call(2, &[span(0, 0, 1)], 1), Error::Index { what: "layer", limit: 2, got: 2 });
    assert_eq!(call(0, &[span(2, 0, 1)], 1), Error::Index { what: "span slot", limit: 2, got: 2 });
    assert_eq!(call(0, &[span(0, 98, 3)], 3), Error::Index { what: "span position", limit: 100, got: 100 });
    assert_eq!(call(0, &[span(0, 101, 0)], 0), Error::Index { what: "span position", limit: 100, got: 100 });
    assert!(matches!(call(0, &[span(0, usize::MAX, 2)], 2), Error::Index { what: "span position", .. }));
    assert!(matches!(call(0, &[span(0, 2, usize::MAX)], 2), Error::Index { what: "span position", .. }));
    let twice = call(0, &[span(1, 0, 1), span(1, 1, 1)], 2);
    assert_eq!(twice.to_string(), "spans: expected each slot at most once, got slot 1 twice");
    assert_eq!(call(0, &[span(0, 0, 2)], 1), Error::Length { what: "q", expected: 64, got: 32 });
}

#[test]
fn selections_out_of_range_or_out_of_order_are_rejected() {
    let mut setting = Setting::new();
    let spans = [span(0, 0, 1), span(1, 0, 1)];
    let mut call = |heads| setting.try_call(0, &spans, heads, 2);
    let list = |list, counts| Heads::List { list, counts };
    let groups = |list, counts| Heads::Groups { list, counts };
    assert_eq!(call(list(&[0, 4, 0, 1], &[2, 2])), Error::Index { what: "head list", limit: 4, got: 4 });
    assert_eq!(call(groups(&[0, 1, 1, 2], &[2, 2])), Error::Index { what: "group list", limit: 2, got: 2 });
    let unsorted = |what, previous, got| Error::NotIncreasing { what, previous, got };
    assert_eq!(call(list(&[0, 1, 3, 3], &[2, 2])), unsorted("head list", 3, 3));
    assert_eq!(call(list(&[2, 1, 0, 3], &[2, 2])), unsorted("head list", 2, 1));
    assert_eq!(call(groups(&[0, 1, 1, 0], &[2, 2])), unsorted("group list", 1, 0));
    assert_eq!(call(list(&[0, 1, 2, 3], &[2, 3])), Error::Index { what: "head counts", limit: 3, got: 3 });
    assert_eq!(call(list(&[0, 1, 2, 3], &[2])), Error::Length { what: "head counts", expected: 2, got: 1 });
    assert_eq!(call(list(&[0, 1, 2], &[1, 1])), Error::Length { what: "head list", expected: 2, got: 3 });
    assert_eq!(call(Heads::Mask { words: &[1] }), Error::Length { what: "head mask", expected: 2, got: 1 });
}

#[test]
fn buffers_and_parts_that_disagree_are_rejected() {
    let Setting { cpu, shape, mut cache, mut workspace } = Setting::new();
    let spans = [span(0, 0, 1)];
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
    let mut run = |call: &Call<'_>, q: usize, out: usize| {
        attend(&cpu, call, &vec![0.0; q], &cache, &mut vec![0.0; out], &mut workspace).unwrap_err()
    };
    assert_eq!(run(&call, 31, 32), Error::Length { what: "q", expected: 32, got: 31 });
    assert_eq!(run(&call, 32, 33), Error::Length { what: "out", expected: 32, got: 33 });
    let other = |n_q_heads, n_kv_heads, head_dim| AttentionShape { n_q_heads, n_kv_heads, head_dim };
    let mut shaped = |shape: AttentionShape| run(&Call { shape, ..call }, shape.q_elems(), shape.q_elems());
    assert!(matches!(shaped(other(4, 4, 8)), Error::Shape { what: "n_kv_heads", got: 4, .. }));
    assert!(matches!(shaped(other(4, 2, 16)), Error::Shape { what: "head_dim", got: 16, .. }));
    assert!(matches!(shaped(other(8, 2, 8)), Error::Shape { what: "workspace", .. }));
    assert!(matches!(shaped(other(4, 0, 8)), Error::Shape { what: "n_kv_heads", got: 0, .. }));
    assert!(matches!(shaped(other(5, 2, 8)), Error::Shape { what: "n_q_heads", got: 5, .. }));
    let long = [span(0, 0, 9)];
    let rows = run(&Call { spans: &long, ..call }, 9 * 32, 9 * 32);
    assert_eq!(rows.to_string(), "tokens: expected at most the workspace's max_rows, got 9");
    let limits = Limits { max_rows: 8, max_spans: 0, capacity: 100 };
    let mut narrow = Workspace::new(&cpu, shape, limits).unwrap();
    let refused = attend(&cpu, &call, &[0.0; 32], &cache, &mut [0.0; 32], &mut narrow);
    assert!(matches!(refused, Err(Error::Shape { what: "spans", .. })));
    let more = Cpu::new(cpu.threads() + 1, cpu.isa()).unwrap();
    let refused = attend(&more, &call, &[0.0; 32], &cache, &mut [0.0; 32], &mut workspace);
    assert!(matches!(refused, Err(Error::Shape { what: "threads", .. })));

    let mut write = |k: usize, v: usize, rope: Option<&Rope>, spans: &[Span]| {
        let call = Call { spans, ..call };
        write_kv(&cpu, &call, KvPolicy::WriteAll, rope, &vec![0.0; k], &vec![0.0; v], &mut cache).unwrap_err()
    };
    assert_eq!(write(15, 16, None, &spans), Error::Length { what: "k", expected: 16, got: 15 });
    assert_eq!(write(16, 17, None, &spans), Error::Length { what: "v", expected: 16, got: 17 });
    let rope = |head_dim| Rope::new(head_dim, 1e4, &RopeScaling::Default, 10).unwrap();
    assert!(matches!(write(16, 16, Some(&rope(16)), &spans), Error::Shape { what: "rope head_dim", got: 16, .. }));
    let late = write(16, 16, Some(&rope(8)), &[span(0, 10, 1)]);
    assert_eq!(late, Error::Index { what: "rope position", limit: 10, got: 10 });
    assert_eq!(cache.len(0), 0);
}

#[test]
fn rows_out_of_range_are_rejected() {
    let Setting { cpu, mut cache, .. } = Setting::new();
    let row = |slot, kv_head, position| KvRow { slot, kv_head, position };
    let places = [
        (2, row(0, 0, 0), "layer"),
        (0, row(2, 0, 0), "slot"),
        (0, row(0, 2, 0), "kv_head"),
        (0, row(0, 0, 100), "position"),
    ];
    for (layer, row, expected) in places {
        let refusals = [
            cache.is_present(layer, row).map(|_| ()),
            cache.read_row(layer, row, &mut [0.0; 8], &mut [0.0; 8]).map(|_| ()),
            write_row(&cpu, layer, row, None, &[0.0; 8], &[0.0; 8], &mut cache),
        ];
        for refusal in refusals {
            assert!(matches!(refusal, Err(Error::Index { what, .. }) if what == expected), "{refusal:?}");
        }
    }
    let short = write_row(&cpu, 0, row(0, 0, 0), None, &[0.0; 8], &[0.0; 7], &mut cache);
    assert_eq!(short, Err(Error::Length { what: "v", expected: 8, got: 7 }));
    assert_eq!(cache.truncate(2, 0), Err(Error::Index { what: "slot", limit: 2, got: 2 }));
    assert_eq!(cache.reset(5), Err(Error::Index { what: "slot", limit: 2, got: 5 }));
    assert_eq!((cache.len(9), cache.is_empty(9)), (0, true));
}

#[test]
fn impossible_sizes_are_rejected() {
    for head_dim in [0, 4, 12, 520] {
        assert!(matches!(AttentionShape::new(4, 2, head_dim), Err(Error::Shape { what: "head_dim", .. })));
        assert!(matches!(KvCache::new(KvShape { head_dim, ..KV }, KvDtype::F32), Err(Error::Shape { .. })));
    }
    let sizes: [fn(usize) -> KvShape; 4] = [
        |n_layers| KvShape { n_layers, ..KV },
        |n_slots| KvShape { n_slots, ..KV },
        |n_kv_heads| KvShape { n_kv_heads, ..KV },
        |capacity| KvShape { capacity, ..KV },
    ];
    for shape in sizes {
        for size in [0, usize::MAX, 1 << 50] {
            let refused = KvCache::new(shape(size), KvDtype::F32);
            assert!(matches!(refused, Err(Error::Shape { .. })), "{:?}", shape(size));
        }
    }
    let cpu = Cpu::detect();
    let shape = AttentionShape::new(4, 2, 8).unwrap();
    for max_rows in [usize::MAX, 1 << 58] {
        let limits = Limits { max_rows, max_spans: max_rows, capacity: max_rows };
        assert!(matches!(Workspace::new(&cpu, shape, limits), Err(Error::Shape { .. })));
    }
    for (n_layers, lag, n_kv_heads) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, usize::MAX, 2), (1 << 40, 1 << 20, 8)] {
        assert!(matches!(InputRing::new(n_layers, 1, lag, n_kv_heads), Err(Error::Shape { .. })));
    }
    for (places, hidden) in [(0, 1), (1, 0), (usize::MAX, 2), (1 << 40, 1 << 20)] {
        assert!(matches!(InputRows::new(places, hidden, KvDtype::F16), Err(Error::Shape { .. })));
    }
    let (mut ring, mut inputs) = (InputRing::new(1, 1, 2, 2).unwrap(), InputRows::new(2, 4, KvDtype::F16).unwrap());
    let mut keep = |layer, slot| {
        let spans = [span(slot, 0, 1)];
        ring.keep(&Call { shape, layer, spans: &spans, heads: Heads::All }, &mut Vec::new(), &mut Vec::new())
    };
    assert!(matches!(keep(1, 0), Err(Error::Index { what: "layer", .. })));
    assert!(matches!(keep(0, 1), Err(Error::Index { what: "span slot", .. })));
    assert!(matches!(inputs.keep(&[0.0; 3], &[0], &[0]), Err(Error::Length { what: "x", .. })));
    assert!(matches!(inputs.keep(&[0.0; 4], &[0], &[0, 1]), Err(Error::Length { what: "to", .. })));
    assert!(matches!(inputs.keep(&[0.0; 4], &[1], &[0]), Err(Error::Index { what: "row", .. })));
    assert!(matches!(inputs.keep(&[0.0; 4], &[0], &[2]), Err(Error::Index { what: "place", .. })));
    assert!(matches!(inputs.read(0, &mut [0.0; 3]), Err(Error::Length { what: "x", .. })));
    assert!(matches!(inputs.read(2, &mut [0.0; 4]), Err(Error::Index { what: "place", .. })));
}

#[test]
fn a_workspace_takes_the_memory_it_announced() {
    let cpu = Cpu::detect();
    for (shape, max_rows, capacity) in [((9, 3, 64), 512, 2048), ((32, 8, 128), 1, 8192), ((71, 1, 24), 7, 0)] {
        let shape = AttentionShape::new(shape.0, shape.1, shape.2).unwrap();
        let limits = Limits { max_rows, max_spans: 3, capacity };
        let workspace = Workspace::new(&cpu, shape, limits).unwrap();
        assert_eq!(Workspace::bytes_for(&cpu, &shape, &limits), Some(workspace.memory_bytes()));
    }
}
