//! The calls by addresses, over memory laid out as an engine's, against the safe calls and with bad input.

use half::bf16;
use moray::attention::cuda::raw::{
    AdvanceSpans, Attend, Heads, Kv, Queries, RopeTable, Skipped, SpanRecord, Spans, WriteAttend, WriteKv,
};
use moray::attention::cuda::{
    self, Call, KvCache, KvFormat, KvLayout, Projections, Split, Workspace, attend, write_kv,
};
use moray::attention::{AttentionShape, KvPolicy, KvShape, Limits, PageLayout, Rope, RopeScaling, Span};
use moray::device::cudarc::driver::sys::CUgraphInstantiate_flags_enum as InstantiateFlags;
use moray::device::cudarc::driver::sys::CUstreamCaptureMode_enum as CaptureMode;
use moray::device::cudarc::driver::{CudaSlice, DevicePtr};
use moray::device::{Access, Address, ElementKind, RawCall};
use moray::{Device, Error};

use crate::case::{bits, noise};
use crate::device::{device, metered, with_late_warps};
use crate::run::upload_spans;

const HEAD_DIM: usize = 64;
const CAPACITY: usize = 320;
const PAGE: usize = 16;
const SPANS: [Span; 3] =
    [Span { slot: 1, start: 0, len: 37 }, Span { slot: 0, start: 0, len: 1 }, Span { slot: 2, start: 0, len: 20 }];
const MASK: [u32; 3] = [0b0011, 0b1100, 0b1111];

fn shape() -> AttentionShape {
    AttentionShape::new(4, 2, HEAD_DIM).unwrap()
}

/// An engine's memory: what it has allocated, by addresses.
struct Engine<'a> {
    device: &'a Device,
    words: Vec<CudaSlice<u32>>,
}

impl Engine<'_> {
    fn hold<T: bytemuck::Pod>(&mut self, host: &[T]) -> Address<T> {
        let mut bytes = bytemuck::cast_slice::<T, u8>(host).to_vec();
        bytes.resize(bytes.len().next_multiple_of(4).max(4), 0);
        let words: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        self.words.push(self.device.upload(&words).unwrap());
        Address::new(self.words[self.words.len() - 1].device_ptr(self.device.stream()).0)
    }

    fn floats(&self, at: Address<f32>) -> Vec<f32> {
        let is_there = |slice: &&CudaSlice<u32>| slice.device_ptr(self.device.stream()).0 == at.get();
        let slice = self.words.iter().find(is_there).unwrap();
        self.device.download(slice).unwrap().into_iter().map(f32::from_bits).collect()
    }
}

fn records(spans: &[Span]) -> Vec<SpanRecord> {
    let mut first_row = 0;
    let record = |span: &Span| {
        let record = SpanRecord { slot: span.slot as u32, start: span.start as u32, len: span.len as u32, first_row };
        first_row += record.len;
        record
    };
    spans.iter().map(record).collect()
}

/// Pages with positions outside heads and K beside V, scattered by a table: \[page\]\[K, V\]\[position\]\[head\]\[dim\].
fn engine_cache(engine: &mut Engine<'_>) -> Kv {
    let (shape, n_pages, max_pages) = (shape(), 3 * CAPACITY / PAGE + 1, CAPACITY / PAGE);
    let table: Vec<u32> = (0..3 * max_pages).map(|i| (i * 7 % n_pages) as u32).collect();
    let plane = PAGE * shape.kv_elems();
    let rows = engine.hold(&vec![bf16::NAN; n_pages * 2 * plane]);
    Kv {
        format: KvFormat::Bf16,
        k: rows.cast(),
        v: rows.offset(plane).cast(),
        k_scale: None,
        v_scale: None,
        present: Some(engine.hold(&vec![0u32; 3 * shape.n_kv_heads * PageLayout::present_words(CAPACITY)])),
        page_table: Some(engine.hold(&table)),
        layout: PageLayout {
            n_kv_heads: shape.n_kv_heads,
            head_dim: HEAD_DIM,
            n_slots: 3,
            capacity: CAPACITY,
            n_pages,
            page_size: PAGE,
            max_pages,
            page_stride: 2 * plane,
            head_stride: HEAD_DIM,
            row_stride: shape.kv_elems(),
        },
    }
}

fn spans_of(engine: &mut Engine<'_>, spans: &[Span]) -> Spans {
    let longest = spans.iter().map(|span| span.len).max().unwrap();
    let rows = spans.iter().map(|span| span.len).sum();
    Spans { records: engine.hold(&records(spans)), n_spans: spans.len(), longest, rows }
}

fn step(engine: &mut Engine<'_>, kv: Kv, spans: &[Span], qkv: &[f32], rope: &Rope) -> (WriteKv, Attend) {
    let (shape, spans) = (shape(), spans_of(engine, spans));
    let width = shape.q_elems() + 2 * shape.kv_elems();
    let qkv = engine.hold(qkv);
    let q_out = engine.hold(&vec![0f32; spans.rows * shape.q_elems()]);
    let write = WriteKv {
        shape,
        kv,
        heads: Heads::Mask { words: engine.hold(&MASK) },
        spans,
        skipped: Skipped::Hole,
        rope: Some(RopeTable { table: engine.hold(rope.table()), context: CAPACITY }),
        queries: Some(Queries { q: qkv.cast(), stride: width, out: q_out }),
        k: qkv.offset(shape.q_elems()).cast(),
        v: qkv.offset(shape.q_elems() + shape.kv_elems()).cast(),
        kv_stride: width,
        element: ElementKind::F32,
    };
    let mut attend = Attend {
        shape,
        kv,
        heads: write.heads,
        spans,
        q: q_out,
        out: engine.hold(&vec![f32::NAN; spans.rows * shape.q_elems()]).cast(),
        out_type: ElementKind::F32,
        split: Split::choose(shape.n_kv_heads, 3, CAPACITY, engine.device.multiprocessors() as usize),
        workspace: Address::NULL,
        workspace_bytes: 0,
        arrived: None,
    };
    attend.workspace_bytes = attend.workspace_bytes();
    if attend.workspace_bytes > 0 {
        attend.workspace = engine.hold(&vec![f32::NAN; attend.workspace_bytes / 4]);
    }
    (write, attend)
}

fn qkv(rows: usize, seed: u64) -> Vec<f32> {
    noise(rows * (shape().q_elems() + 2 * shape().kv_elems()), seed)
}

/// A prompt and a decode step whose context is split, on both ways.
#[test]
fn raw_calls_over_an_engines_pages_match_the_safe_calls() {
    let Some(device) = device() else { return };
    let shape = shape();
    let mut engine = Engine { device: &device, words: Vec::new() };
    let kv = engine_cache(&mut engine);
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();

    let kv_shape = KvShape { n_layers: 1, n_slots: 3, n_kv_heads: 2, head_dim: HEAD_DIM, capacity: CAPACITY };
    let mut cache = KvCache::new(&device, kv_shape, KvFormat::Bf16, KvLayout::Contiguous, true).unwrap();
    let limits = Limits { max_rows: 64, max_spans: 3, capacity: CAPACITY };
    let mut workspace = Workspace::new(&device, shape, limits).unwrap();
    let device_rope = cuda::Rope::upload(&device, &rope).unwrap();
    let mask = device.upload(&MASK).unwrap();

    let decode = SPANS.map(|span| Span { start: span.len, len: 1, ..span });
    let mut split = false;
    for (seed, spans) in [(1, SPANS), (2, decode)] {
        let rows = spans.iter().map(|span| span.len).sum();
        let host = qkv(rows, seed);
        let (write, attention) = step(&mut engine, kv, &spans, &host, &rope);
        split |= attention.workspace_bytes > 0;
        // SAFETY: the engine holds every buffer of the calls.
        unsafe {
            write.launch(&device, device.raw_stream()).unwrap();
            attention.launch(&device, device.raw_stream()).unwrap();
        }

        let on_device = upload_spans(&device, &spans);
        let heads = cuda::Heads::Mask { words: &mask };
        let call = Call { shape, layer: 0, spans: &on_device, heads };
        let projected = device.upload(&host).unwrap();
        let mut q = device.zeros::<f32>(rows * shape.q_elems()).unwrap();
        let mut out = device.zeros::<f32>(rows * shape.q_elems()).unwrap();
        let projections = Projections::fused(&projected, &shape);
        let policy = KvPolicy::Hole;
        write_kv(&device, &call, policy, Some(&device_rope), &projections, Some(&mut q), &mut cache).unwrap();
        attend(&device, &call, &q, &cache, &mut out, &mut workspace).unwrap();
        assert_eq!(bits(&engine.floats(attention.q)), bits(&device.download(&q).unwrap()));
        let got = engine.floats(attention.out.cast());
        assert_eq!(bits(&got), bits(&device.download(&out).unwrap()));
        assert!(got.iter().all(|x| x.is_finite()) && got.iter().any(|&x| x != 0.0));

        // merged by the last block, and again: the counters are left zeros
        let arrived = engine.hold(&vec![0u32; attention.counters().max(1)]);
        for _ in 0..2 {
            let out = engine.hold(&vec![f32::NAN; got.len()]).cast();
            let counted = Attend { arrived: Some(arrived), out, ..attention };
            // SAFETY: as above.
            unsafe { counted.launch(&device, device.raw_stream()).unwrap() };
            assert_eq!(bits(&engine.floats(counted.out.cast())), bits(&got));
            assert!(engine.floats(arrived.cast()).iter().all(|count| count.to_bits() == 0));
        }
    }
    assert!(split, "a decode step of 320 positions is split");
}

/// A split tells that it is there when all of its warps have left what the last of the splits merges.
#[test]
fn splits_are_merged_whole_where_warps_are_late() {
    const NAME: &str = "raw::splits_are_merged_whole_where_warps_are_late";
    with_late_warps(NAME, raw_calls_over_an_engines_pages_match_the_safe_calls);
}

/// A replayed graph moves positions on whether or not there is room: tokens past the end touch nothing, in one launch as in two.
#[test]
fn tokens_past_the_end_of_the_cache_are_not_written() {
    let Some(device) = device() else { return };
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    // the row after the end of slot 0's pages is one of slot 1's, that after slot 2's no page of the table
    let past = |slot, start, len| Span { slot, start, len };
    let spans = [past(0, CAPACITY - 1, 2), past(1, CAPACITY + 3, 1), past(2, CAPACITY, 1)];
    let run = |together: bool| {
        let mut engine = Engine { device: &device, words: Vec::new() };
        let kv = engine_cache(&mut engine);
        let (mut write, mut attend) = step(&mut engine, kv, &spans, &qkv(4, 9), &rope);
        let all = engine.hold(&[0b1111u32; 3]);
        (write.heads, attend.heads) = (Heads::Mask { words: all }, Heads::Mask { words: all });
        attend.arrived = Some(engine.hold(&vec![0u32; attend.counters()]));
        let before = bits(&engine.floats(kv.k.cast()));
        // SAFETY: the engine holds every buffer of the calls.
        unsafe {
            let stream = device.raw_stream();
            if together {
                WriteAttend { write, attend }.launch(&device, stream).unwrap();
            } else {
                write.launch(&device, stream).unwrap();
                attend.launch(&device, stream).unwrap();
            }
        }
        let (after, present) = (bits(&engine.floats(kv.k.cast())), bits(&engine.floats(kv.present.unwrap().cast())));
        let changed = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        // K and V of one position, two heads, in 16 bits
        assert_eq!(changed, 2 * 2 * HEAD_DIM / 2, "together: {together}");
        assert!(engine.floats(attend.arrived.unwrap().cast()).iter().all(|count| count.to_bits() == 0));
        (after, present, bits(&engine.floats(attend.out.cast()))[..shape().q_elems()].to_vec())
    };
    assert!(run(true) == run(false));
}

/// Three decode steps, launched and replayed: the records move on by themselves.
#[test]
fn captured_raw_calls_match_launched_ones() {
    let Some(device) = device() else { return };
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let decode = SPANS.map(|span| Span { len: 1, ..span });
    let run = |captured: bool| {
        let mut engine = Engine { device: &device, words: Vec::new() };
        let kv = engine_cache(&mut engine);
        let (write, attend) = step(&mut engine, kv, &decode, &qkv(3, 5), &rope);
        let advance = AdvanceSpans { records: attend.spans.records, n_spans: 3 };
        let launch = || {
            let stream = device.raw_stream();
            // SAFETY: the engine holds every buffer of the calls.
            unsafe {
                write.launch(&device, stream).unwrap();
                attend.launch(&device, stream).unwrap();
                advance.launch(&device, stream).unwrap();
            }
        };
        let mut out = Vec::new();
        if captured {
            write.prepare(&device).unwrap();
            attend.prepare(&device).unwrap();
            advance.prepare(&device).unwrap();
            device.stream().begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
            launch();
            let flags = InstantiateFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let graph = device.stream().end_capture(flags).unwrap().unwrap();
            for _ in 0..3 {
                graph.launch().unwrap();
                out.push(bits(&engine.floats(attend.out.cast())));
            }
        } else {
            for _ in 0..3 {
                launch();
                out.push(bits(&engine.floats(attend.out.cast())));
            }
        }
        out
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn advanced_records_match_the_spans() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, words: Vec::new() };
    let call = AdvanceSpans { records: engine.hold(&records(&SPANS)), n_spans: 3 };
    // SAFETY: the engine holds the records.
    unsafe { call.launch(&device, device.raw_stream()).unwrap() };
    let words = device.download(&engine.words[0]).unwrap();
    let mut expected = records(&SPANS);
    expected.iter_mut().for_each(|record| record.start += record.len);
    assert_eq!(words, bytemuck::cast_slice::<SpanRecord, u32>(&expected));
}

/// A change that makes a call one that must be refused, and the field that the error names.
type Spoiled<C> = (&'static str, fn(&mut C));

fn assert_refused<C: RawCall + Copy>(device: &Device, good: &C, spoiled: &[Spoiled<C>]) {
    good.check(device).unwrap();
    for (name, spoil) in spoiled {
        let mut call = *good;
        spoil(&mut call);
        let error = call.check(device).unwrap_err();
        let what = match &error {
            Error::Shape { what, .. }
            | Error::Misaligned { what, .. }
            | Error::Length { what, .. }
            | Error::Unsupported { what, .. } => *what,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(what, *name, "{error}");
        // SAFETY: nothing is launched.
        assert_eq!(unsafe { call.launch(device, device.raw_stream()) }, Err(error));
    }
}

#[test]
fn raw_attend_refuses_bad_addresses_and_sizes() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, words: Vec::new() };
    let kv = engine_cache(&mut engine);
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let decode = SPANS.map(|span| Span { start: span.len, len: 1, ..span });
    let (_, good) = step(&mut engine, kv, &decode, &qkv(3, 1), &rope);
    assert_refused(
        &device,
        &good,
        &[
            ("q", |call| call.q = Address::NULL),
            ("q", |call| call.q = call.q.offset(1)),
            ("out", |call| call.out = call.out.offset(8)),
            ("workspace", |call| call.workspace = Address::NULL),
            ("workspace", |call| call.workspace_bytes -= 4),
            ("arrived", |call| call.arrived = Some(Address::NULL)),
            ("arrived", |call| call.arrived = Some(Address::new(6))),
            ("split len", |call| call.split.len = 100),
            ("n_splits", |call| call.split.n_splits = 1),
            ("head_dim", |call| call.shape.head_dim = 264),
            ("n_kv_heads", |call| call.shape.n_kv_heads = 4),
            ("head_dim", |call| call.kv.layout.head_dim -= 8),
            ("n_kv_heads", |call| call.shape.n_kv_heads = 0),
            ("spans", |call| call.spans.records = Address::new(2)),
            ("longest", |call| call.spans.longest = 4),
            ("n_spans", |call| call.spans.n_spans = 1 << 16),
            ("head mask", |call| call.heads = Heads::Mask { words: Address::NULL }),
            ("head counts", |call| {
                call.heads = Heads::List { list: call.q.cast(), counts: Address::new(6), width: 1 };
            }),
            ("k cache", |call| call.kv.k = Address::NULL),
            ("v cache", |call| call.kv.v = call.kv.v.offset(8)),
            ("page_table", |call| call.kv.page_table = Some(Address::NULL)),
            ("page_size", |call| call.kv.layout.page_size = 24),
            ("page_size", |call| call.kv.page_table = None),
            ("max_pages", |call| call.kv.layout.max_pages -= 1),
            ("row_stride", |call| call.kv.layout.row_stride = HEAD_DIM - 8),
            ("head_stride", |call| call.kv.layout.head_stride = HEAD_DIM + 4),
            ("n_pages", |call| call.kv.layout.n_pages = 0),
            ("capacity", |call| call.kv.layout.capacity = 0),
            ("kv scale", |call| call.kv.format = KvFormat::Int8),
        ],
    );
}

#[test]
fn raw_write_and_attend_refuse_calls_that_disagree() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, words: Vec::new() };
    let kv = engine_cache(&mut engine);
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let decode = SPANS.map(|span| Span { start: span.len, len: 1, ..span });
    let (write, attend) = step(&mut engine, kv, &decode, &qkv(3, 1), &rope);
    let good = WriteAttend { write, attend };
    assert!(good.is_one());
    assert_refused(
        &device,
        &good,
        &[
            ("shape", |call| call.attend.shape.n_q_heads = 2),
            ("kv", |call| call.attend.kv.layout.capacity -= 1),
            ("heads", |call| call.attend.heads = Heads::All),
            ("spans", |call| call.write.spans.rows = 2),
            ("q", |call| call.attend.q = call.attend.q.offset(4)),
            ("q", |call| call.write.queries = None),
            ("stride", |call| call.write.kv_stride = 127),
            ("workspace", |call| call.attend.workspace = Address::NULL),
            ("v cache", |call| {
                call.write.kv.v = call.write.kv.v.offset(16);
                call.attend.kv = call.write.kv;
            }),
        ],
    );
}

#[test]
fn raw_write_refuses_bad_addresses_and_sizes() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, words: Vec::new() };
    let kv = engine_cache(&mut engine);
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let (good, _) = step(&mut engine, kv, &SPANS, &qkv(58, 1), &rope);
    assert_refused(
        &device,
        &good,
        &[
            ("k", |call| call.k = Address::NULL),
            ("v", |call| call.v = call.v.offset(2)),
            ("q", |call| call.queries = call.queries.map(|q| Queries { q: Address::NULL, ..q })),
            ("q_out", |call| call.queries = call.queries.map(|q| Queries { out: Address::new(1), ..q })),
            ("stride", |call| call.kv_stride = 127),
            ("stride", |call| call.queries = call.queries.map(|q| Queries { stride: 255, ..q })),
            ("rope", |call| call.rope = Some(RopeTable { table: Address::NULL, context: 1 })),
            ("present", |call| call.kv.present = Some(Address::NULL)),
            ("kv policy", |call| call.kv.present = None),
            ("k cache", |call| {
                call.kv.layout.n_pages = 1 << 31;
                call.kv.layout.page_stride = 1 << 48;
            }),
            ("head_stride", |call| call.kv.layout.head_stride = 0),
            ("page_stride", |call| call.kv.layout.page_stride = call.kv.layout.row_stride * (PAGE - 1)),
            ("v cache", |call| call.kv.v = call.kv.k),
            ("v cache", |call| call.kv.v = call.kv.v.offset(32)),
        ],
    );
}

/// Everything that a call reads and writes, so that an engine can check what it has.
#[test]
fn named_buffers_match_the_documented_shapes() {
    let Some(device) = device() else { return };
    let mut engine = Engine { device: &device, words: Vec::new() };
    let kv = engine_cache(&mut engine);
    let rope = Rope::new(HEAD_DIM, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let (write, _) = step(&mut engine, kv, &SPANS, &qkv(58, 1), &rope);
    let buffers = write.buffers(&device);
    let sizes: Vec<_> = buffers.iter().map(|buffer| (buffer.what, buffer.elems, buffer.access)).collect();
    let plane = PAGE * 2 * HEAD_DIM;
    let cache = (kv.layout.n_pages - 1) * 2 * plane + plane;
    assert_eq!(
        sizes,
        [
            ("k", 57 * 512 + 128, Access::Read),
            ("v", 57 * 512 + 128, Access::Read),
            ("q", 57 * 512 + 256, Access::Read),
            ("q_out", 58 * 256, Access::Write),
            ("rope", CAPACITY * HEAD_DIM, Access::Read),
            ("spans", 3, Access::Read),
            ("head mask", 3, Access::Read),
            ("k cache", cache, Access::Write),
            ("v cache", cache, Access::Write),
            ("present", 3 * 2 * 10, Access::Write),
            ("page_table", 3 * 20, Access::Read),
        ]
    );
}

#[test]
fn refused_raw_calls_launch_nothing() {
    let Some(all) = metered("raw::refused_raw_calls_launch_nothing", |_| {
        raw_attend_refuses_bad_addresses_and_sizes();
        raw_write_refuses_bad_addresses_and_sizes();
    }) else {
        return;
    };
    assert!(all.is_empty(), "{all:?}");
}
