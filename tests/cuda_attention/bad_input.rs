//! Refusals: typed, before any launch, and the device goes on.

use moray::Error;
use moray::attention::cuda::{
    Call, Heads, KvCache, KvFormat, KvLayout, OwnedHeads, Projections, Spans, Workspace, attend, write_kv,
};
use moray::attention::{self, AttentionShape, KvPolicy, KvShape, Limits, Rope, RopeScaling, Span};

use crate::device::{device, metered};
use crate::run::upload_spans;

const KV: KvShape = KvShape { n_layers: 1, n_slots: 2, n_kv_heads: 2, head_dim: 64, capacity: 128 };

#[test]
fn caches_that_no_kernel_takes_are_refused() {
    let Some(device) = device() else { return };
    let new = |kv, format, layout| KvCache::new(&device, kv, format, layout, false).unwrap_err();
    let contiguous = KvLayout::Contiguous;
    let refused = [
        (new(KvShape { head_dim: 12, ..KV }, KvFormat::F16, contiguous), "head_dim"),
        (new(KvShape { head_dim: 264, ..KV }, KvFormat::F16, contiguous), "head_dim"),
        (new(KvShape { head_dim: 24, ..KV }, KvFormat::Int8, contiguous), "head_dim"),
        (new(KvShape { capacity: 0, ..KV }, KvFormat::F16, contiguous), "capacity"),
        (new(KV, KvFormat::F16, KvLayout::Paged { page_size: 48, n_pages: 4 }), "page_size"),
        (new(KV, KvFormat::F16, KvLayout::Paged { page_size: 16, n_pages: 0 }), "n_pages"),
    ];
    for (error, name) in refused {
        assert!(matches!(&error, Error::Shape { what, .. } if *what == name), "{name}: {error}");
    }
    let huge = KvShape { n_layers: 1 << 20, capacity: 1 << 20, ..KV };
    assert!(matches!(new(huge, KvFormat::F16, contiguous), Error::OutOfMemory { .. }));
}

#[test]
fn pages_out_of_range_are_refused() {
    let Some(device) = device() else { return };
    let paged = KvLayout::Paged { page_size: 32, n_pages: 6 };
    let mut cache = KvCache::new(&device, KV, KvFormat::F16, paged, false).unwrap();
    let error = cache.set_pages(&device, 0, &[0, 6]).unwrap_err();
    assert_eq!(error, Error::Index { what: "page", limit: 6, got: 6 });
    assert_eq!(cache.set_pages(&device, 2, &[0]).unwrap_err(), Error::Index { what: "slot", limit: 2, got: 2 });
    let error = cache.set_pages(&device, 0, &[0; 5]).unwrap_err();
    assert_eq!(error, Error::Length { what: "pages", expected: 4, got: 5 });
    let mut cache = KvCache::new(&device, KV, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    assert!(matches!(cache.set_pages(&device, 0, &[0]).unwrap_err(), Error::Unsupported { what: "pages", .. }));
}

#[test]
fn spans_out_of_range_are_refused_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let mut spans = Spans::new(&device, 2).unwrap();
    let span = |slot, start, len| Span { slot, start, len };
    let error = spans.set(&device, &[span(0, 0, 1), span(0, 4, 1)]).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "spans", .. }));
    let error = spans.set(&device, &[span(0, 0, 1), span(1, 0, 1), span(2, 0, 1)]).unwrap_err();
    assert!(matches!(error, Error::Shape { what: "spans", .. }));
    spans.set(&device, &[span(0, 126, 1)]).unwrap();
    spans.advance(&device, 128).unwrap();
    let error = spans.advance(&device, 128).unwrap_err();
    assert_eq!(error, Error::Index { what: "span position", limit: 128, got: 128 });
    assert_eq!(spans.host(), [span(0, 127, 1)]);

    let shape = AttentionShape::new(4, 2, 64).unwrap();
    let mut cache = KvCache::new(&device, KV, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let k = device.zeros::<f32>(8 * 128).unwrap();
    let mut write = |span, length: usize, policy| {
        let spans = upload_spans(&device, &[span]);
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        let view = || k.slice(..length);
        let projections = Projections { q: None, k: view(), v: view(), q_stride: 128, kv_stride: 128 };
        write_kv(&device, &call, policy, None, &projections, None, &mut cache)
    };
    let all = KvPolicy::WriteAll;
    assert!(matches!(write(span(2, 0, 1), 128, all).unwrap_err(), Error::Index { what: "span slot", .. }));
    assert!(matches!(write(span(0, 127, 2), 256, all).unwrap_err(), Error::Index { what: "span position", .. }));
    assert_eq!(write(span(0, 0, 2), 255, all).unwrap_err(), Error::Length { what: "k", expected: 256, got: 255 });
    assert!(matches!(
        write(span(0, 0, 1), 128, KvPolicy::Hole).unwrap_err(),
        Error::Unsupported { what: "kv policy", .. }
    ));
    write(span(0, 0, 1), 128, all).unwrap();
    device.synchronize().unwrap();
}

#[test]
fn buffers_and_shapes_that_disagree_are_refused() {
    let Some(device) = device() else { return };
    let shape = AttentionShape::new(4, 2, 64).unwrap();
    let cache = KvCache::new(&device, KV, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let spans = upload_spans(&device, &[Span { slot: 0, start: 0, len: 2 }]);
    let q = device.zeros::<f32>(2 * 256).unwrap();
    let limits = Limits { max_rows: 2, max_spans: 1, capacity: 128 };
    let run = |shape: AttentionShape, layer, heads, q_elems: usize, limits| {
        let mut out = device.zeros::<f32>(2 * 256).unwrap();
        let mut workspace = Workspace::new(&device, AttentionShape::new(4, 2, 64).unwrap(), limits).unwrap();
        let call = Call { shape, layer, spans: &spans, heads };
        attend::<f32>(&device, &call, &q.slice(..q_elems), &cache, &mut out, &mut workspace)
    };
    let other = |q, kv, d| AttentionShape::new(q, kv, d).unwrap();
    let shape_error = |result: moray::Result<()>, name: &str| {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Shape { what, .. } if *what == name), "{name}: {error}");
    };
    shape_error(run(other(4, 4, 64), 0, Heads::All, 512, limits), "n_kv_heads");
    shape_error(run(other(4, 2, 32), 0, Heads::All, 512, limits), "head_dim");
    shape_error(run(other(2, 2, 64), 0, Heads::All, 512, limits), "workspace");
    shape_error(run(shape, 0, Heads::All, 512, Limits { max_rows: 1, ..limits }), "tokens");
    shape_error(run(shape, 0, Heads::All, 512, Limits { capacity: 64, ..limits }), "cache capacity");
    assert!(matches!(run(shape, 1, Heads::All, 512, limits).unwrap_err(), Error::Index { what: "layer", .. }));
    let short = Error::Length { what: "q", expected: 512, got: 511 };
    assert_eq!(run(shape, 0, Heads::All, 511, limits).unwrap_err(), short);
    let (list, counts) = (device.zeros::<u32>(2).unwrap(), device.zeros::<u32>(1).unwrap());
    let heads = Heads::List { list: &list, counts: &counts, width: 3 };
    let short = Error::Length { what: "head list", expected: 3, got: 2 };
    assert_eq!(run(shape, 0, heads, 512, limits).unwrap_err(), short);
}

#[test]
fn addresses_that_kernels_cannot_read_are_refused_and_the_device_goes_on() {
    let Some(device) = device() else { return };
    let shape = AttentionShape::new(4, 2, 64).unwrap();
    let cache = KvCache::new(&device, KV, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let spans = upload_spans(&device, &[Span { slot: 0, start: 0, len: 1 }]);
    let limits = Limits { max_rows: 1, max_spans: 1, capacity: 128 };
    let mut workspace = Workspace::new(&device, shape, limits).unwrap();
    let q = device.zeros::<f32>(257).unwrap();
    let mut out = device.upload(&[f32::NAN; 257]).unwrap();
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
    let mut run = |q_at: usize, out_at: usize| {
        let (q, mut out) = (q.slice(q_at..q_at + 256), out.slice_mut(out_at..out_at + 256));
        attend::<f32>(&device, &call, &q, &cache, &mut out, &mut workspace)
    };
    let misaligned = |result: moray::Result<()>, name: &str| {
        let error = result.unwrap_err();
        assert!(matches!(&error, Error::Misaligned { what, expected: 16, .. } if *what == name), "{name}: {error}");
    };
    misaligned(run(1, 0), "q");
    misaligned(run(0, 1), "out");
    run(0, 0).unwrap();
    assert!(device.download(&out.slice(..256)).unwrap().iter().all(|&x| x == 0.0));
}

#[test]
fn heads_and_ropes_that_do_not_fit_are_refused() {
    let Some(device) = device() else { return };
    let shape = AttentionShape::new(4, 2, 64).unwrap();
    let list = attention::Heads::List { list: &[1, 1], counts: &[2] };
    let error = OwnedHeads::upload(&device, &list, &shape, 1).unwrap_err();
    assert!(matches!(error, Error::NotIncreasing { what: "head list", .. }));

    let mut cache = KvCache::new(&device, KV, KvFormat::F16, KvLayout::Contiguous, false).unwrap();
    let qkv = device.zeros::<f32>(8 * 64).unwrap();
    let mut q = device.zeros::<f32>(4 * 64).unwrap();
    let spans = upload_spans(&device, &[Span { slot: 0, start: 100, len: 1 }]);
    let mut write = |head_dim, context| {
        let rope = Rope::new(head_dim, 1e4, &RopeScaling::Default, context).unwrap();
        let rope = attention::cuda::Rope::upload(&device, &rope).unwrap();
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        let projections = Projections::fused(&qkv, &shape);
        write_kv(&device, &call, KvPolicy::WriteAll, Some(&rope), &projections, Some(&mut q), &mut cache)
    };
    assert!(matches!(write(32, 128).unwrap_err(), Error::Shape { what: "rope head_dim", .. }));
    assert_eq!(write(64, 100).unwrap_err(), Error::Index { what: "rope position", limit: 100, got: 100 });
    write(64, 101).unwrap();
}

/// The launches are those of the calls that show that the device goes on.
#[test]
fn refused_calls_launch_nothing() {
    let Some(all) = metered("bad_input::refused_calls_launch_nothing", |_| {
        caches_that_no_kernel_takes_are_refused();
        pages_out_of_range_are_refused();
        spans_out_of_range_are_refused_and_the_device_goes_on();
        buffers_and_shapes_that_disagree_are_refused();
        addresses_that_kernels_cannot_read_are_refused_and_the_device_goes_on();
        heads_and_ropes_that_do_not_fit_are_refused();
    }) else {
        return;
    };
    let kernels: Vec<&str> = all.iter().map(|launch| launch.kernel()).collect();
    assert_eq!(kernels, ["attention_advance", "attention_write_f16", "attention_decode_f16_64", "attention_write_f16"]);
}
