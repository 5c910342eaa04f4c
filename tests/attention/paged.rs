//! Pages of an engine's own against the library's cache, bit for bit, and bad input.

use half::{bf16, f16};
use moray::attention::*;
use moray::{Cpu, Error, Isa};
use proptest::prelude::*;

use crate::case::{CAPACITY, Case, any_case, bits, isas, noise};

const SLOTS: usize = 3;

/// How an engine lays its cache out.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// None: slot s is page s.
    page_size: Option<usize>,
    /// Heads outside positions.
    heads_first: bool,
    /// K and V of a page beside each other in one allocation.
    together: bool,
    /// Elements behind each row that are not of the cache.
    padding: usize,
    with_holes: bool,
}

fn any_form() -> impl Strategy<Value = Form> {
    let sizes = prop::sample::select(vec![None, Some(1), Some(3), Some(16), Some(64), Some(100)]);
    (sizes, any::<bool>(), any::<bool>(), prop::sample::select(vec![0, 5]), any::<bool>()).prop_map(
        |(page_size, heads_first, together, padding, with_holes)| Form {
            page_size,
            heads_first,
            together,
            padding,
            with_holes,
        },
    )
}

/// What no row of the cache may reach.
const POISON: u8 = 0xff;

/// An engine's memory, as it was filled by writes.
struct Engine {
    layout: PageLayout,
    dtype: KvDtype,
    /// f32 words, so that every element type is aligned.
    memory: Vec<u32>,
    /// Bytes at which K and V begin; V in an allocation of its own behind K's where they are apart.
    starts: [usize; 2],
    together: bool,
    scales: Option<[Vec<f32>; 2]>,
    present: Option<Vec<u32>>,
    table: Option<Vec<u32>>,
}

impl Engine {
    fn new(form: Form, shape: AttentionShape, dtype: KvDtype) -> Engine {
        let AttentionShape { n_kv_heads, head_dim, .. } = shape;
        let page_size = form.page_size.unwrap_or(CAPACITY + 7);
        let max_pages = CAPACITY.div_ceil(page_size) + usize::from(form.padding > 0);
        let n_pages = form.page_size.map_or(SLOTS, |_| SLOTS * max_pages + 1);
        let row = head_dim + form.padding;
        let (row_stride, head_stride) = if form.heads_first { (row, row * page_size) } else { (row * n_kv_heads, row) };
        let page = row * n_kv_heads * page_size;
        let page_stride = if form.together { 2 * page } else { page };
        let layout = PageLayout {
            n_kv_heads,
            head_dim,
            n_slots: SLOTS,
            capacity: CAPACITY,
            n_pages,
            page_size,
            max_pages,
            page_stride,
            head_stride,
            row_stride,
        };
        let bytes = (2 * page * n_pages * dtype.bytes()).next_multiple_of(4);
        // pages of a sequence are anywhere: entry e of slot s is page (7 · (s · max_pages + e) + 2) mod n, 7 or 1 prime to n
        let step = if n_pages % 7 == 0 { 1 } else { 7 };
        let entries = (0..SLOTS * max_pages).map(|i| ((step * i + 2) % n_pages) as u32);
        let is_int8 = dtype == KvDtype::Int8;
        let scale = || vec![f32::NAN; n_pages * n_kv_heads * page_size];
        Engine {
            layout,
            dtype,
            memory: vec![u32::from_ne_bytes([POISON; 4]); bytes / 4],
            starts: [0, if form.together { page } else { page * n_pages }].map(|first| first * dtype.bytes()),
            together: form.together,
            scales: is_int8.then(|| [scale(), scale()]),
            present: form.with_holes.then(|| vec![0; SLOTS * n_kv_heads * PageLayout::present_words(CAPACITY)]),
            table: form.page_size.is_some().then(|| entries.collect()),
        }
    }

    fn view(&self) -> PagedKv<'_> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.memory);
        PagedKv {
            layout: self.layout,
            dtype: self.dtype,
            k: &bytes[self.starts[0]..],
            v: &bytes[self.starts[1]..],
            scales: self.scales.as_ref().map(|scales| scales.each_ref().map(|scales| &scales[..])),
            present: self.present.as_deref(),
            page_table: self.table.as_deref(),
        }
    }

    fn view_mut(&mut self) -> PagedKvMut<'_> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.memory);
        let rows = if self.together {
            KvRowsMut::Together { memory: bytes, k: self.starts[0], v: self.starts[1] }
        } else {
            let (k, v) = bytes.split_at_mut(self.starts[1]);
            KvRowsMut::Apart { k, v }
        };
        PagedKvMut {
            layout: self.layout,
            dtype: self.dtype,
            rows,
            scales: self.scales.as_mut().map(|scales| scales.each_mut().map(|scales| &mut scales[..])),
            present: self.present.as_deref_mut(),
            page_table: self.table.as_deref(),
        }
    }

    /// Where a row begins, by the definition.
    fn row(&self, slot: usize, kv_head: usize, position: usize) -> usize {
        let PageLayout { page_size, max_pages, page_stride, head_stride, row_stride, .. } = self.layout;
        let (page, row) = match &self.table {
            Some(table) => (table[slot * max_pages + position / page_size] as usize, position % page_size),
            None => (slot, position),
        };
        page * page_stride + kv_head * head_stride + row * row_stride
    }

    /// A stored row as f32, and whether it is held.
    fn read(&self, which: usize, row: KvRow) -> (Vec<f32>, bool) {
        let KvRow { slot, kv_head, position } = row;
        let bytes = &bytemuck::cast_slice::<u32, u8>(&self.memory)[self.starts[which]..];
        let first = self.row(slot, kv_head, position);
        let element = |i: usize| {
            let at = &bytes[(first + i) * self.dtype.bytes()..];
            match self.dtype {
                KvDtype::F32 => f32::from_ne_bytes([at[0], at[1], at[2], at[3]]),
                KvDtype::F16 => f16::from_ne_bytes([at[0], at[1]]).to_f32(),
                KvDtype::Bf16 => bf16::from_ne_bytes([at[0], at[1]]).to_f32(),
                _ => f32::from(at[0] as i8),
            }
        };
        let PageLayout { n_kv_heads, page_size, max_pages, capacity, head_dim, .. } = self.layout;
        let (page, of_page) = match &self.table {
            Some(table) => (table[slot * max_pages + position / page_size] as usize, position % page_size),
            None => (slot, position),
        };
        let scale = self.scales.as_ref().map_or(1.0, |s| s[which][(page * n_kv_heads + kv_head) * page_size + of_page]);
        let held = self.present.as_ref().is_none_or(|words| {
            let first = (slot * n_kv_heads + kv_head) * PageLayout::present_words(capacity);
            words[first + position / 32] >> (position % 32) & 1 == 1
        });
        ((0..head_dim).map(|i| scale * element(i)).collect(), held)
    }
}

/// The case's history and spans in an engine's memory; `case.fill` writes the same numbers into the library's cache.
fn fill(case: &Case, form: Form, cpu: &Cpu, policy: KvPolicy) -> Engine {
    let mut engine = Engine::new(form, case.shape, case.dtype);
    let before: Vec<Span> = case.spans.iter().map(|span| Span { start: 0, len: span.start, ..*span }).collect();
    let parts = [(&before, &case.history, case.seed ^ 1), (&case.spans, &case.heads, case.seed ^ 2)];
    for (spans, heads, seed) in parts {
        let call = case.call(spans, heads.as_heads());
        let (k, v) = case.rows(spans, seed);
        write_kv_paged(cpu, &call, policy, None, &k, &v, &mut engine.view_mut()).unwrap();
    }
    engine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn pages_match_the_librarys_cache_bit_for_bit(mut case in any_case(560), form in any_form()) {
        if !form.with_holes && !matches!(case.policy, KvPolicy::Zero) {
            case.policy = KvPolicy::WriteAll;
        }
        for isa in isas() {
            let cpu = Cpu::new(case.threads, isa).unwrap();
            let (cache, _) = case.fill(&cpu);
            let engine = fill(&case, form, &cpu, case.policy);
            let expected = case.attend(&cpu, &cache);
            let call = case.call(&case.spans, case.heads.as_heads());
            let (q, mut workspace) = (case.q(), case.workspace(&cpu));
            let mut out = vec![f32::NAN; q.len()];
            attend_paged(&cpu, &call, &q, &engine.view(), &mut out, &mut workspace).unwrap();
            prop_assert_eq!(bits(&out), bits(&expected), "{}", isa.name());
        }
    }

    #[test]
    fn rows_are_written_where_they_belong_and_nothing_beside(mut case in any_case(130), form in any_form()) {
        if !form.with_holes && !matches!(case.policy, KvPolicy::Zero) {
            case.policy = KvPolicy::WriteAll;
        }
        let cpu = Cpu::new(1, Isa::detect()).unwrap();
        let (cache, _) = case.fill(&cpu);
        let engine = fill(&case, form, &cpu, case.policy);
        let (d, size) = (case.shape.head_dim, case.dtype.bytes());
        let mut written = vec![false; 4 * engine.memory.len()];
        for slot in 0..SLOTS {
            for position in 0..cache.len(slot) {
                for kv_head in 0..case.shape.n_kv_heads {
                    let row = KvRow { slot, kv_head, position };
                    let (mut k, mut v) = (vec![0.0; d], vec![0.0; d]);
                    let held = cache.read_row(1, row, &mut k, &mut v).unwrap();
                    for (which, expected) in [k, v].into_iter().enumerate() {
                        let (got, is_held) = engine.read(which, row);
                        prop_assert_eq!(is_held, held);
                        if held {
                            prop_assert_eq!(bits(&got), bits(&expected));
                            let first = engine.starts[which] + engine.row(slot, kv_head, position) * size;
                            written[first..first + d * size].fill(true);
                        }
                    }
                }
            }
        }
        // what was held once and is a hole now keeps its bytes
        if matches!(case.policy, KvPolicy::WriteAll | KvPolicy::Zero) {
            let bytes: &[u8] = bytemuck::cast_slice(&engine.memory);
            prop_assert!(bytes.iter().zip(&written).all(|(&byte, &is_written)| is_written || byte == POISON));
        }
    }
}

#[test]
fn ranges_of_spans_and_heads_share_a_call_and_rope_turns_keys() {
    let (cpu, shape) = (Cpu::new(1, Isa::detect()).unwrap(), AttentionShape::new(4, 2, 24).unwrap());
    let form = Form { page_size: Some(16), heads_first: true, together: true, padding: 5, with_holes: false };
    let mut engine = Engine::new(form, shape, KvDtype::F16);
    let kv = KvShape { n_layers: 1, n_slots: SLOTS, n_kv_heads: 2, head_dim: 24, capacity: CAPACITY };
    let mut cache = KvCache::new(kv, KvDtype::F16).unwrap();
    let spans = [Span { slot: 2, start: 0, len: 70 }, Span { slot: 0, start: 0, len: 3 }];
    let call = Call { shape, layer: 0, spans: &spans, heads: Heads::Groups { list: &[0, 1, 1, 0], counts: &[2, 1] } };
    let rope = Rope::new(24, 10_000.0, &RopeScaling::Default, CAPACITY).unwrap();
    let (k, v, q) = (noise(73 * 48, 1), noise(73 * 48, 2), noise(73 * 96, 3));
    write_kv(&cpu, &call, KvPolicy::Zero, Some(&rope), &k, &v, &mut cache).unwrap();
    write_kv_paged(&cpu, &call, KvPolicy::Zero, Some(&rope), &k, &v, &mut engine.view_mut()).unwrap();
    let limits = Limits { max_rows: 73, max_spans: 2, capacity: CAPACITY };
    let mut workspace = Workspace::new(&cpu, shape, limits).unwrap();
    let (mut expected, mut out) = (vec![0.0; q.len()], vec![f32::NAN; q.len()]);
    attend(&cpu, &call, &q, &cache, &mut expected, &mut workspace).unwrap();
    for (spans, heads) in [(0..1, 0..1), (1..2, 0..2), (0..1, 1..2)] {
        attend_paged_range(&cpu, &call, spans, heads, &q, &engine.view(), &mut out, &mut workspace).unwrap();
    }
    assert_eq!(bits(&out), bits(&expected));
}

#[test]
fn layouts_and_memory_that_do_not_fit_are_rejected() {
    let (cpu, shape) = (Cpu::detect(), AttentionShape::new(4, 2, 8).unwrap());
    let form = Form { page_size: Some(16), heads_first: false, together: false, padding: 0, with_holes: true };
    let mut engine = Engine::new(form, shape, KvDtype::Int8);
    let good = (engine.layout, engine.view().k.len());
    let spans = [Span { slot: 1, start: 20, len: 2 }];
    let call = Call { shape, layer: 9, spans: &spans, heads: Heads::All };
    let mut workspace = Workspace::new(&cpu, shape, Limits { max_rows: 2, max_spans: 1, capacity: CAPACITY }).unwrap();
    let mut attend_with = |kv: PagedKv<'_>| {
        let mut out = [7.0; 64];
        let refused = attend_paged(&cpu, &call, &[1.0; 64], &kv, &mut out, &mut workspace).unwrap_err();
        assert_eq!(out, [7.0; 64], "attend_paged wrote before it refused");
        refused
    };
    let view = engine.view();
    let mut with = |change: &dyn Fn(&mut PagedKv<'_>)| {
        let mut kv = view;
        change(&mut kv);
        attend_with(kv)
    };
    let shape_of = |error: Error| match error {
        Error::Shape { what, got, .. } => (what, got),
        other => panic!("expected a shape, got {other}"),
    };
    assert_eq!(shape_of(with(&|kv| kv.layout.head_dim = 12)), ("head_dim", 12));
    assert_eq!(shape_of(with(&|kv| kv.layout.n_pages = 0)), ("n_pages", 0));
    assert_eq!(shape_of(with(&|kv| kv.layout.page_size = 0)), ("page_size", 0));
    assert_eq!(shape_of(with(&|kv| kv.layout.row_stride = 7)), ("row_stride", 7));
    assert_eq!(shape_of(with(&|kv| kv.layout.max_pages = 1)), ("max_pages", 1));
    assert_eq!(shape_of(with(&|kv| kv.page_table = None)), ("page_size", 16));
    assert_eq!(shape_of(with(&|kv| kv.layout.page_stride = usize::MAX)), ("page_stride", usize::MAX));
    assert_eq!(
        shape_of(with(&|kv| (kv.layout.head_stride, kv.layout.row_stride) = (1 << 63, 1 << 60))).0,
        "page_stride"
    );
    assert!(matches!(with(&|kv| kv.layout.head_stride = 1 << 62), Error::Length { what: "k cache", .. }));
    let elems = good.0.elems().unwrap();
    assert_eq!(
        with(&|kv| kv.k = &kv.k[..elems - 1]),
        Error::Length { what: "k cache", expected: elems, got: elems - 1 }
    );
    assert_eq!(with(&|kv| kv.v = &[]), Error::Length { what: "v cache", expected: elems, got: 0 });
    let scales = good.0.n_pages * 2 * 16;
    assert_eq!(with(&|kv| kv.scales = None), Error::Length { what: "k_scale", expected: scales, got: 0 });
    assert!(matches!(with(&|kv| kv.present = Some(&[])), Error::Length { what: "present", got: 0, .. }));
    assert!(matches!(with(&|kv| kv.page_table = Some(&[0; 4])), Error::Length { what: "page_table", got: 4, .. }));
    static ZEROS: [u32; 3 * CAPACITY] = [0; 3 * CAPACITY];
    let refused = with(&|kv| {
        (kv.dtype, kv.scales, kv.k) = (KvDtype::F16, None, &kv.k[1..]);
        (kv.layout.n_pages, kv.page_table) = (4, Some(&ZEROS[..3 * kv.layout.max_pages]));
    });
    assert!(matches!(refused, Error::Misaligned { what: "k cache", expected: 2, .. }));
    assert!(matches!(with(&|kv| kv.layout.n_slots = 1), Error::Length { .. }));

    let mut table = engine.table.clone().unwrap();
    // slot 1's second page holds positions 16..32
    table[good.0.max_pages + 1] = good.0.n_pages as u32;
    let outside = Error::Index { what: "page_table", limit: good.0.n_pages, got: good.0.n_pages };
    assert_eq!(attend_with(PagedKv { page_table: Some(&table), ..view }), outside);
    engine.table = Some(table);
    let before = engine.memory.clone();
    let write = |policy, k: usize, engine: &mut Engine| {
        write_kv_paged(&cpu, &call, policy, None, &vec![1.0; k], &[1.0; 32], &mut engine.view_mut()).unwrap_err()
    };
    assert_eq!(write(KvPolicy::WriteAll, 32, &mut engine), outside);
    engine.table.as_mut().unwrap()[good.0.max_pages + 1] = 0;
    // entries of pages that are not written are not looked at
    engine.table.as_mut().unwrap()[good.0.max_pages] = u32::MAX;
    assert_eq!(write(KvPolicy::WriteAll, 31, &mut engine), Error::Length { what: "k", expected: 32, got: 31 });
    // rows over each other can be read, as where heads share one, and not be written
    let PageLayout { page_size, head_stride, row_stride, n_kv_heads, .. } = good.0;
    let reach = (page_size - 1) * row_stride + (n_kv_heads - 1) * head_stride + good.0.head_dim;
    let over: [(&str, usize, fn(&mut PageLayout) -> &mut usize); 3] = [
        ("head_stride", 0, |layout| &mut layout.head_stride),
        ("head_stride", good.0.head_dim - 1, |layout| &mut layout.head_stride),
        ("page_stride", reach - 1, |layout| &mut layout.page_stride),
    ];
    for (what, stride, of) in over {
        *of(&mut engine.layout) = stride;
        let refused =
            write_kv_paged(&cpu, &call, KvPolicy::WriteAll, None, &[1.0; 32], &[1.0; 32], &mut engine.view_mut());
        assert_eq!(shape_of(refused.unwrap_err()), (what, stride));
        engine.layout = good.0;
    }
    engine.present = None;
    let refused = write(KvPolicy::Hole, 32, &mut engine).to_string();
    assert_eq!(refused, "kv policy: expected write-all or zero, or a cache with holes, got one that leaves holes");
    assert_eq!(engine.memory, before, "write_kv_paged wrote before it refused");
    write_kv_paged(&cpu, &call, KvPolicy::WriteAll, None, &[1.0; 32], &[1.0; 32], &mut engine.view_mut()).unwrap();
}

/// Every distance of V from K against the elements that the rows of each have.
#[test]
fn rows_of_values_over_rows_of_keys_are_rejected_where_they_share_an_element() {
    let cpu = Cpu::new(1, Isa::detect()).unwrap();
    let d = 8;
    // pages, heads, positions, and the strides of each
    let forms = [
        ([1, 1, 1], [0, 0, d]),
        ([3, 1, 1], [2 * d, 0, d]),
        ([2, 2, 2], [8 * d, d, 2 * d]),
        ([3, 2, 2], [12 * d, 3 * d, d]),
        ([2, 2, 3], [7 * d + 3, 3 * d + 2, d]),
        ([3, 2, 2], [2 * d, d, 6 * d + 1]),
        ([2, 3, 2], [d + 3, 5 * d + 2, 2 * d + 5]),
    ];
    let (mut refused, mut taken) = (0, 0);
    for ([n_pages, n_kv_heads, page_size], [page_stride, head_stride, row_stride]) in forms {
        let layout = PageLayout {
            n_kv_heads,
            head_dim: d,
            n_slots: 1,
            capacity: n_pages * page_size,
            n_pages,
            page_size,
            max_pages: n_pages,
            page_stride,
            head_stride,
            row_stride,
        };
        let elems = layout.elems().unwrap();
        let mut rows = vec![false; elems];
        for (page, head, row) in (0..n_pages)
            .flat_map(|page| (0..n_kv_heads).flat_map(move |head| (0..page_size).map(move |row| (page, head, row))))
        {
            rows[page * page_stride + head * head_stride + row * row_stride..][..d].fill(true);
        }
        let shape = AttentionShape::new(n_kv_heads, n_kv_heads, d).unwrap();
        let spans = [Span { slot: 0, start: 0, len: 1 }];
        let call = Call { shape, layer: 0, spans: &spans, heads: Heads::All };
        let (x, table) = (noise(n_kv_heads * d, 1), (0..n_pages as u32).collect::<Vec<_>>());
        for distance in 0..=elems {
            let is_over = (distance..elems).any(|i| rows[i] && rows[i - distance]);
            for (k, v) in [(0, 2 * distance), (2 * distance, 0)] {
                let mut memory = vec![0u32; (elems + distance).div_ceil(2)];
                let memory: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
                let rows = KvRowsMut::Together { memory, k, v };
                let dtype = KvDtype::F16;
                let mut kv = PagedKvMut { layout, dtype, rows, scales: None, present: None, page_table: Some(&table) };
                match write_kv_paged(&cpu, &call, KvPolicy::WriteAll, None, &x, &x, &mut kv) {
                    Ok(()) => assert!(!is_over, "{layout:?}: {distance} was taken"),
                    Err(Error::Shape { what: "v cache", got, .. }) => {
                        assert!(is_over && got == 2 * distance, "{layout:?}: {distance} was refused");
                        refused += 1;
                        continue;
                    }
                    Err(other) => panic!("expected rows over rows, got {other}"),
                }
                taken += 1;
            }
        }
    }
    assert!(refused > 100 && taken > 50, "{refused} refused, {taken} taken");
}
